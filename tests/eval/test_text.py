"""The log-probability of a text, short or longer than the context."""

from __future__ import annotations

import math

import pytest
import torch

from plait.errors import InputError
from plait.eval.text import score_text


def test_a_text_is_scored_from_the_begin_token_on(engine):
    result = score_text(engine, "a春", top=2)
    row = [0, *engine.tokenizer.encode_plain("a春")]
    with torch.no_grad():
        table = engine.model(torch.tensor([row]))[0].log_softmax(-1)
    expected = [float(table[at - 1, row[at]]) for at in range(1, len(row))]
    assert [token.logprob for token in result.tokens] == pytest.approx(expected)
    assert result.total == pytest.approx(sum(expected))
    assert result.perplexity == pytest.approx(math.exp(-sum(expected) / 4))
    assert result.bits_per_byte == pytest.approx(-sum(expected) / 4 / math.log(2))
    content = result.to_json()
    assert content["log_probability"] == result.total
    assert [token["bytes"] for token in content["tokens"]] == [[97], [0xE6], [0x98], [0xA5]]
    assert len(content["tokens"][0]["top"]) == 2


def test_a_text_longer_than_the_context_is_scored_with_half_of_it_as_history(engine):
    text = "abcdefghijklmnopqrstuvwxyz" * 2
    long, short = score_text(engine, text), score_text(engine, text[:11])
    assert b"".join(token.bytes for token in long.tokens).decode() == text
    assert len(long.logprobs) == 52
    assert long.logprobs[:11] == pytest.approx(short.logprobs)


def test_a_special_token_spelled_in_a_text_is_ordinary_text(engine):
    assert [token.text for token in score_text(engine, "<|end|>").tokens] == list("<|end|>")


def test_an_empty_text_is_refused(engine):
    with pytest.raises(InputError, match="there is no text to score"):
        score_text(engine, "")
