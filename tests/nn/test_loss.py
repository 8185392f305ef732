import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.nn.loss import IGNORE, LossSum, cross_entropy, kl_divergence


def logits_and_targets(rows: int = 3, time: int = 5, vocab: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(rows, time, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (rows, time), generator=generator)
    targets[0, :3] = targets[-1, 4] = IGNORE
    return logits, targets


def test_it_is_the_summed_negative_log_likelihood():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets)
    picked = [
        -logits[r, t].softmax(-1)[targets[r, t]].log()
        for r in range(3)
        for t in range(5)
        if targets[r, t] >= 0
    ]
    torch.testing.assert_close(loss.total, torch.stack(picked).sum())
    assert int(loss.tokens) == len(picked) == 11
    assert loss.nll == loss.total


def test_accuracy_counts_the_most_probable_token_where_there_is_a_target():
    logits, targets = logits_and_targets()
    logits[1] = F.one_hot(targets[1], 11) * 100.0
    logits[0, 3:] = F.one_hot(targets[0, 3:], 11) * -100.0
    logits[2] = -100.0 * F.one_hot(targets[2].clamp(min=0), 11)
    assert int(cross_entropy(logits, targets).correct) == 5


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_agrees_with_torch_and_leaves_the_reported_loss_plain(smoothing):
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets, label_smoothing=smoothing)
    theirs = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.total, theirs)
    torch.testing.assert_close(loss.nll, cross_entropy(logits, targets).nll)


def test_z_loss_adds_the_square_of_the_log_normalizer():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets, z_loss=0.01)
    squares = (logits.exp().sum(-1).log() ** 2)[targets != IGNORE].sum()
    torch.testing.assert_close(loss.total, loss.nll + 0.01 * squares)


def test_narrow_logits_are_summed_in_float32():
    logits, targets = logits_and_targets()
    narrow = logits.bfloat16()
    loss = cross_entropy(narrow, targets, z_loss=0.01)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.nll, cross_entropy(narrow.float(), targets).nll)
    divergence = kl_divergence(narrow, narrow.flip(-1), targets)
    torch.testing.assert_close(divergence, kl_divergence(narrow.float(), narrow.float().flip(-1), targets))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from([0.0, 0.2]))
def test_sums_do_not_depend_on_how_rows_are_batched(sizes, smoothing):
    logits, targets = logits_and_targets(sum(sizes))
    whole = cross_entropy(logits, targets, label_smoothing=smoothing, z_loss=0.01)
    parts = LossSum(torch.zeros(()), torch.zeros(()), torch.zeros(()), 0)
    for some_logits, some_targets in zip(logits.split(sizes), targets.split(sizes)):
        parts += cross_entropy(some_logits, some_targets, label_smoothing=smoothing, z_loss=0.01)
    for name in ("total", "nll", "correct", "tokens"):
        assert float(getattr(parts, name)) == pytest.approx(float(getattr(whole, name)), rel=1e-12)


def test_positions_without_target_have_no_gradient():
    logits, targets = logits_and_targets()
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
        leaf = logits.clone().requires_grad_()
        cross_entropy(leaf, targets, **options).total.backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.abs().sum(-1) == 0, targets == IGNORE)


def test_a_batch_without_targets_is_zero_and_not_nan():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, torch.full_like(targets, IGNORE))
    assert (float(loss.total), int(loss.correct), int(loss.tokens)) == (0, 0, 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_divergence_agrees_with_torch(temperature):
    logits, targets = logits_and_targets()
    teacher = logits.flip(-1)
    keep = targets != IGNORE
    expected = temperature**2 * F.kl_div(
        (logits[keep] / temperature).log_softmax(-1),
        (teacher[keep] / temperature).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    torch.testing.assert_close(kl_divergence(logits, teacher, targets, temperature=temperature), expected)
    assert kl_divergence(teacher, teacher, targets).item() == pytest.approx(0)
