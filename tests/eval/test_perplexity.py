"""Perplexity against its definition: one model call for each token, with the history promised."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import ConfigError, InputError
from plait.eval.perplexity import Encoded, encode_document, perplexity, ratio_error, windows_of

TEXTS = [
    "To be, or not to be: that is the question.",
    "床前明月光,疑是地上霜。",
    "x",
    "Hello 🙂 world, again.",
]


def one_by_one(model, tokens: list[int], context: int, stride: int) -> list[float]:
    """Nats of each token but the first, each from its own forward pass."""
    result = []
    for at in range(1, len(tokens)):
        if at <= context:
            start = 0
        else:  # the window that ends at the next stride boundary, or with the document
            end = min(context + 1 + math.ceil((at - context) / stride) * stride, len(tokens))
            start = end - 1 - context
            assert at - start >= context - stride
        with torch.no_grad():
            logits = model(torch.tensor([tokens[start:at]]))[0, -1]
        result.append(-float(logits.log_softmax(-1)[tokens[at]]))
    return result


@pytest.mark.parametrize("stride", [1, 5, 8])
@pytest.mark.parametrize(
    "fields", [{}, {"position": "learned"}, {"window": 3}], ids=["rope", "learned", "window"]
)
def test_every_token_is_scored_once_as_the_definition_says(make_engine, fields, stride):
    engine = make_engine(**fields)
    documents = [encode_document(engine.tokenizer, text) for text in TEXTS]
    result = perplexity(engine.model, documents, context=8, stride=stride, batch=3)
    expected = [nats for tokens, _ in documents for nats in one_by_one(engine.model, list(tokens), 8, stride)]
    assert result.nats == pytest.approx(math.fsum(expected), rel=1e-12)
    assert result.tokens == len(expected)
    assert result.bytes == sum(len(text.encode()) for text in TEXTS)
    assert result.nats_per_token == pytest.approx(math.fsum(expected) / len(expected))
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))
    assert result.bits_per_byte == pytest.approx(math.fsum(expected) / math.log(2) / result.bytes)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("fields", [{}, {"experts": 4}], ids=["dense", "moe"])
def test_the_batch_size_changes_nothing(make_engine, dtype, close, fields):
    engine = make_engine(dtype, **fields)
    documents = [encode_document(engine.tokenizer, text) for text in TEXTS * 2]
    alone, together = (perplexity(engine.model, documents, stride=5, batch=batch) for batch in (1, 7))
    assert together.nats == pytest.approx(alone.nats, rel=close)
    assert together.error == pytest.approx(alone.error, rel=1e-4)
    assert (together.tokens, together.windows) == (alone.tokens, alone.windows)


@given(st.integers(0, 90), st.integers(1, 20), st.data())
def test_windows_cover_each_prediction_once_with_enough_history(count, context, data):
    stride = data.draw(st.integers(1, context))
    scored = []
    for start, first, end in windows_of(count, context, stride):
        assert 0 <= start < first < end <= count
        assert end - 1 - start <= context
        assert start == 0 or first - start >= context - stride
        scored += range(first, end)
    assert scored == list(range(1, count))


def test_the_end_token_is_scored_and_adds_no_bytes(engine):
    tokens, size = encode_document(engine.tokenizer, "é<|end|>")
    assert tokens[0] == tokens[-1] == 0
    assert 0 not in tokens[1:-1]
    assert size == 9
    assert perplexity(engine.model, [Encoded(tokens, size)]).tokens == len(tokens) - 1


def test_the_error_is_over_documents_or_the_windows_of_a_single_one(engine):
    documents = [encode_document(engine.tokenizer, text) for text in TEXTS]
    many = perplexity(engine.model, documents)
    assert many.units == "documents"
    low, high = many.interval("perplexity")
    assert low < many.perplexity < high
    low, high = many.interval("bits_per_byte")
    assert (low + high) / 2 == pytest.approx(many.bits_per_byte)
    single = perplexity(engine.model, documents[:1], context=4)
    assert (single.units, single.documents) == ("windows", 1)
    assert single.error is not None
    assert single.byte_error == pytest.approx(single.error * single.tokens / single.bytes)
    tiny = perplexity(engine.model, [Encoded([0, 5], 1)])
    assert (tiny.error, tiny.interval("perplexity"), tiny.interval("bits_per_byte")) == (None, None, None)


def test_the_ratio_error_is_the_spread_of_repeated_samples():
    source = random.Random(1)

    def sample() -> tuple[list[float], list[float]]:
        sizes = [source.randint(1, 30) for _ in range(50)]
        return [size * source.gauss(2, 1) for size in sizes], [float(size) for size in sizes]

    drawn = [sample() for _ in range(400)]
    ratios = [sum(totals) / sum(sizes) for totals, sizes in drawn]
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / (len(ratios) - 1))
    stated = [ratio_error(totals, sizes) or 0.0 for totals, sizes in drawn]
    assert sum(stated) / len(stated) == pytest.approx(spread, rel=0.1)
    assert ratio_error([1.0], [1.0]) is None


def test_training_mode_comes_back_and_progress_counts_tokens(engine):
    told = []
    engine.model.train()
    try:
        result = perplexity(engine.model, [Encoded(list(range(5, 60)), 1)], batch=2, advance=told.append)
        assert engine.model.training
    finally:
        engine.model.eval()
    assert sum(told) == result.tokens == 54


def test_impossible_sizes_are_refused(engine):
    document = [Encoded([0, 5, 0], 1)]
    with pytest.raises(ConfigError, match="context=13 is not within the model's 1 to 12 positions"):
        perplexity(engine.model, document, context=13)
    with pytest.raises(ConfigError, match="stride=9 must be between 1 and the context of 8"):
        perplexity(engine.model, document, context=8, stride=9)
    with pytest.raises(ConfigError, match="batch=0 must be at least 1"):
        perplexity(engine.model, document, batch=0)
    with pytest.raises(InputError, match="there is no token to score"):
        perplexity(engine.model, [Encoded([0], 0)])
