"""Beam search with our own models: whatever shares the batch, against their scores and their greedy text."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from plait.infer.beam import beam_search
from plait.infer.cache import KVCache
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, Hypothesis, SamplingParams, TokenRules
from plait.infer.search import search as find
from plait.infer.search import text_of
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.text.tokenizer import Tokenizer

PROMPTS = [list(text) for text in (b"one", b"a longer prompt", b"!", b"two words", b"and the last")]


def search(
    engine: Engine, prompts: list[list[int]], params: BeamParams, ends: range | frozenset[int]
) -> list[list[Hypothesis]]:
    """Beam search with a decoder of ours and its cache."""
    cache = KVCache(len(prompts))

    def step(rows: list[int], tokens: list[int]) -> Tensor:
        cache.select(rows)
        return engine.decode(tokens, cache)

    rooms = [engine.context - len(prompt) for prompt in prompts]
    logits = engine.prefill(prompts, cache)
    return beam_search(logits, step, params, ends=ends, rooms=rooms, prefixes=prompts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "params",
    [
        BeamParams(beams=1, max_tokens=20),
        BeamParams(beams=4, n=3, max_tokens=20),
        BeamParams(beams=3, n=3, length_penalty=0.3, no_repeat_ngram=2, min_tokens=4, max_tokens=40),
        BeamParams(beams=4, n=4, early_stopping=True, max_tokens=None),
    ],
    ids=BeamParams.describe,
)
def test_what_shares_the_batch_changes_nothing(make_engine, dtype, params):
    engine = make_engine(dtype, vocab=300)
    together = search(engine, PROMPTS, params, range(12))
    lengths = {len(one.tokens) for hypotheses in together for one in hypotheses}
    assert len(lengths) > 1 or params.beams == 1
    for prompt, batched in zip(PROMPTS, together):
        (alone,) = search(engine, [prompt], params, range(12))
        for one, other in zip(alone, batched, strict=True):
            assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
            assert one.score == pytest.approx(other.score, abs=1e-12 if dtype == torch.float64 else 1e-5)


def test_log_probabilities_are_the_models_and_make_up_the_score(engine):
    params = BeamParams(beams=4, n=4, length_penalty=0.7, no_repeat_ngram=2, max_tokens=15)
    ends = frozenset([7])  # one end token only, so that it is known where a hypothesis lacks it
    for prompt, hypotheses in zip(PROMPTS, search(engine, PROMPTS, params, ends)):
        assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)
        for one in hypotheses:
            written = one.tokens + [7] * (one.finish_reason == "stop")
            expected = [token.logprob for token in engine.score([prompt + written])[0][len(prompt) :]]
            assert one.logprobs == pytest.approx(expected, abs=1e-10)
            assert one.score == pytest.approx(sum(expected) / len(expected) ** 0.7, abs=1e-10)


def test_one_beam_writes_what_the_engine_writes_greedily(make_engine):
    for seed in range(3):
        engine = make_engine(seed=seed)
        engine.rules = TokenRules()  # as below
        greedy = engine.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=25))
        stop = frozenset(engine.tokenizer.stop_ids)
        found = search(engine, PROMPTS, BeamParams(beams=1, max_tokens=25), stop)
        assert [one.tokens for (one,) in found] == [completion.tokens for completion in greedy]
        assert [one.finish_reason for (one,) in found] == [completion.finish_reason for completion in greedy]


def test_a_continuation_begins_with_the_space_that_its_first_word_has():
    tokens = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    backend = Backend(models.BPE({token: id for id, token in enumerate(tokens)}, [("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(backend.to_str(), {"bos_token": "<s>"})
    engine = Engine(Decoder(ModelConfig(vocab=len(tokens), width=16, layers=1, heads=2)), tokenizer)
    word, start = tokens.index("▁a"), 0
    written = Hypothesis([word, word], 0.0, [0.0, 0.0, 0.0], "stop")
    assert text_of(engine, written, [start, word]) == " a a"
    assert text_of(engine, written, [word, start]) == "a a"  # after the end of what came before
    assert text_of(engine, written) == "a a"


def test_an_answer_may_quote_its_prompt_and_end_as_it_does(scripted, tokenizer):
    answer = [*tokenizer.encode("the red fox"), tokenizer.eos_id]
    prompt = [*tokenizer.encode("here is the red fox"), tokenizer.eos_id]
    params = BeamParams(beams=1, no_repeat_ngram=3, max_tokens=20)
    ((best,),) = find(scripted([*answer, *answer]), [prompt], params)
    assert tokenizer.decode(best.tokens) == "the red fox"
    assert best.finish_reason == "stop"
    ((best,),) = find(scripted(tokenizer.encode("abcabcabc")), [prompt], params)
    assert tokenizer.decode(best.tokens) == "abcab"  # the trigram may not come again
