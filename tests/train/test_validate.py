import math

import pytest
import torch

from plait.train.validate import Validation, validate


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.3, "experts": 4}])
def test_the_loss_does_not_depend_on_the_batch_size(make_placed, source, fields):
    placed = make_placed(**fields)
    whole = validate(placed, source, batch_size=100)
    for batch_size in (1, 2, 3, 5):
        part = validate(placed, source, batch_size=batch_size)
        assert (part.tokens, part.correct) == (whole.tokens, whole.correct)
        assert part.nll == pytest.approx(whole.nll, rel=1e-12)
    assert whole.tokens == source.target_tokens
    assert whole.text_bytes == source.text_bytes


def test_it_is_plain_nats_per_token(make_placed, source):
    placed = make_placed()
    found = validate(placed, source, batch_size=2)
    assert found.loss == pytest.approx(math.log(31), rel=0.05)
    assert found.loss == found.nll / found.tokens


def test_it_leaves_no_gradient_and_draws_no_random_number(make_placed, source):
    placed = make_placed(dropout=0.5)
    before = torch.get_rng_state()
    validate(placed, source, batch_size=4)
    assert all(parameter.grad is None for _, parameter in placed.named_parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_limit_takes_whole_batches_and_its_share_of_the_bytes(make_placed, source):
    placed = make_placed()
    whole, part = validate(placed, source, batch_size=2), validate(placed, source, batch_size=2, rows=3)
    assert 0 < part.tokens < whole.tokens
    assert part.text_bytes == pytest.approx(whole.text_bytes * part.tokens / whole.tokens)


def test_sums_of_sources_weigh_tokens_and_not_sources():
    both = Validation(10.0, 2, 5, 8.0) + Validation(2.0, 1, 1, 4.0)
    assert both.loss == 2.0
    assert both.accuracy == 0.5
    assert both.bits_per_byte == pytest.approx(12 / math.log(2) / 12)
