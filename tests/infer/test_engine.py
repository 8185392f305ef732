"""Generation with a cache, in batches, equals running each whole sequence again at every step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from plait.errors import ConfigError, ModelError, PromptError
from plait.infer.cache import KVCache
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams, TokenRules

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

VARIANTS = {
    "default": {},
    "multi-head": {"kv_heads": 4},
    "multi-query": {"kv_heads": 1},
    "window": {"window": 5},
    "window pattern": {"window": 4, "window_pattern": 2},
    "window alibi": {"window": 6, "position": "alibi"},
    "alibi": {"position": "alibi"},
    "t5": {"position": "t5", "t5_buckets": 8, "t5_max_distance": 16},
    "learned": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal"},
    "no positions": {"position": "none"},
    "softcap": {"attn_softcap": 3.0, "logit_softcap": 5.0},
    "softcap window": {"attn_softcap": 3.0, "window": 5},
    "moe": {"experts": 4, "experts_per_token": 2, "shared_experts": 1},
    "gpt2": {"norm": "layer", "position": "learned", "gated": False, "activation": "gelu_tanh", "kv_heads": 4,
             "qk_norm": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "gemma": {"norm_place": "sandwich", "norm_offset": True, "embed_scale": 5.6, "attn_scale": 0.2},
    "post": {"norm_place": "post", "tied": False, "head_bias": True, "logit_scale": 0.5},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 16}},
}  # fmt: skip


def recompute(engine: Engine, prompt: list[int], steps: int) -> tuple[list[int], list[float]]:
    """Greedy, without any cache: tokens and their log-probabilities."""
    ids, logprobs = list(prompt), []
    for _ in range(steps):
        with torch.no_grad():
            scores = engine.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_a_batch_of_unequal_prompts_equals_recomputing_each_alone(make_engine, fields):
    engine = make_engine(**fields)
    engine.rules = TokenRules()  # below, too, padding may be written
    prompts = [engine.encode(text) for text in ("a", "The quick brown fox", "床前明月光")]
    for prompt, done in zip(prompts, engine.generate(prompts, GREEDY.model_copy(update={"logprobs": 0}))):
        tokens, logprobs = recompute(engine, prompt, 12)
        assert done.tokens == tokens
        assert [token.logprob for token in done.logprobs] == pytest.approx(logprobs, abs=1e-9)
        assert done.finish_reason == "length"
        assert done.prompt_tokens == len(prompt)


def test_float32_batches_agree_with_single_prompts_within_rounding(make_engine):
    engine = make_engine(torch.float32)
    prompts = [[5], list(range(10, 40)), [7, 8, 9]]
    together = engine.prefill(prompts, KVCache(3))
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(
            together[row], engine.prefill([prompt], KVCache(1))[0], atol=1e-4, rtol=1e-4
        )


def test_right_padding_gives_what_left_padding_gives(engine):
    prompts = [[9, 8, 7], [11]]
    left = engine.prefill(prompts, KVCache(2))
    cache = KVCache(2, capacity=1)  # and has to grow
    with torch.inference_mode():
        hidden = engine.model.hidden(
            torch.tensor([[9, 8, 7], [11, 0, 0]]),
            positions=torch.tensor([[0, 1, 2], [0, -1, -1]]),
            cache=cache,
        )
        right = engine.model.lm_head(hidden[[0, 1], [2, 0]])
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)
    both = engine.decode([20, 21], cache)
    alone = engine.prefill([[11, 21]], KVCache(1))
    torch.testing.assert_close(both[1], alone[0], atol=1e-12, rtol=0)


def test_rows_of_a_cache_can_be_dropped_reordered_and_doubled(engine):
    cache = KVCache(3)
    engine.prefill([[5, 6], [7], [8, 9, 10]], cache)
    cache.select([2, 0, 2])
    logits = engine.decode([30, 31, 32], cache)
    for row, prompt in enumerate(([8, 9, 10, 30], [5, 6, 31], [8, 9, 10, 32])):
        torch.testing.assert_close(logits[row], engine.prefill([prompt], KVCache(1))[0], atol=1e-12, rtol=0)


def test_samples_do_not_depend_on_the_rest_of_the_batch(engine):
    params = SamplingParams(seed=7, max_tokens=10, temperature=0.9, top_p=0.95)
    prompts = [engine.encode(text) for text in ("one", "a longer prompt", "三")]
    together = engine.generate(prompts, params)
    assert [done.tokens for done in together] == [engine.generate([p], params)[0].tokens for p in prompts]
    other = engine.generate(prompts, params.model_copy(update={"seed": 8}))
    assert [done.tokens for done in together] != [done.tokens for done in other]


def test_n_completions_differ_from_each_other_and_begin_with_the_single_one(engine):
    params = SamplingParams(seed=3, max_tokens=8, n=3, ignore_eos=True)
    prompts = [[9, 10, 11], [12]]
    many = engine.generate(prompts, params)
    single = engine.generate(prompts, params.model_copy(update={"n": 1}))
    assert [many[0].tokens, many[3].tokens] == [done.tokens for done in single]
    assert len({tuple(done.tokens) for done in many}) == 6
    greedy = engine.generate(prompts, GREEDY.model_copy(update={"n": 2}))
    assert greedy[0].tokens == greedy[1].tokens


def test_without_a_seed_two_runs_differ(engine):
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    assert engine.generate("x", params)[0].tokens != engine.generate("x", params)[0].tokens


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_an_answer_fills_the_context_and_no_more(make_engine, position):
    engine = make_engine(position=position, context=16)
    params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    first, second = engine.generate([list(range(10, 20)), [10]], params)
    assert (len(first.tokens), len(second.tokens)) == (6, 15)
    assert first.finish_reason == second.finish_reason == "length"
    with pytest.raises(
        PromptError, match=r"prompt \(10 tokens\) \+ max_tokens \(7\) is more than .* context of 16"
    ):
        engine.stream([list(range(10, 20))], SamplingParams(max_tokens=7))
    with pytest.raises(PromptError, match=r"set max_tokens to at most 6$"):
        engine.check(list(range(10, 20)), SamplingParams(max_tokens=7))
    with pytest.raises(PromptError, match=r"of 16; shorten the prompt$"):
        engine.check(list(range(10, 26)), params)


def test_what_cannot_be_computed_is_refused_before_any_work(engine):
    with pytest.raises(PromptError, match="the prompt holds no tokens; it needs at least one"):
        engine.stream([[]], GREEDY)
    with pytest.raises(PromptError, match="token id 261 is not in the vocabulary of 261 ids"):
        engine.stream([[5, 261]], GREEDY)
    with pytest.raises(PromptError, match="token id -1 is not"):
        engine.score([[-1]])
    with pytest.raises(ConfigError, match="logit_bias: token id 300 is not in the vocabulary"):
        engine.check([5], SamplingParams(logit_bias={300: 1.0}))
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        Engine(engine.model)
    with pytest.raises(ConfigError, match=r"dtype='bfloat61' is not one of .*; did you mean 'bfloat16'?"):
        Engine(engine.model, engine.tokenizer, dtype="bfloat61")


def test_zero_tokens_and_zero_prompts(engine):
    (done,) = engine.generate("abc", SamplingParams(max_tokens=0))
    assert (done.text, done.tokens, done.finish_reason) == ("", [], "length")
    assert engine.generate([], GREEDY) == []


def test_an_empty_text_starts_where_documents_start(engine):
    assert engine.encode("") == [engine.tokenizer.bos_id] == [0]
    assert engine.generate("", GREEDY)[0].prompt_tokens == 1


def test_damaged_weights_are_named(make_engine):
    engine = make_engine()
    with torch.no_grad():
        next(engine.model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="the model answers with NaN: its weights are damaged"):
        engine.generate("a", GREEDY)


def test_ids_without_a_token_are_never_written(make_engine):
    wide = make_engine(vocab=300)
    bias = dict.fromkeys(range(5, 261), -100.0)
    done = wide.generate([[0]], SamplingParams(max_tokens=40, seed=1, logit_bias=bias, ignore_eos=True))[0]
    assert set(done.tokens) <= set(range(5))


def test_scores_are_log_probabilities_of_the_plain_model(engine):
    row = engine.encode("Hello 世界")
    (places,) = engine.score([row], top=3)
    with torch.no_grad():
        expected = engine.model(torch.tensor([row]))[0].log_softmax(-1)
    assert places[0].logprob is None
    assert places[0].text == "H"
    for at, place in enumerate(places[1:], 1):
        assert place.logprob == pytest.approx(float(expected[at - 1, row[at]]), abs=1e-12)
        best = expected[at - 1].topk(3)
        assert [entry[0] for entry in place.top] == best.indices.tolist()
        assert [entry[3] for entry in place.top] == pytest.approx(best.values.tolist())
    assert b"".join(place.bytes for place in places).decode() == "Hello 世界"


def test_reported_log_probabilities_ignore_temperature_and_penalties(engine):
    prompt = engine.encode("abc")
    params = SamplingParams(max_tokens=6, seed=1, temperature=2.0, presence_penalty=1.5, top_k=9, logprobs=2)
    done = engine.generate([prompt], params)[0]
    again = engine.score([prompt + done.tokens], top=2)[0][len(prompt) :]
    assert [place.logprob for place in done.logprobs] == pytest.approx([place.logprob for place in again])
    assert [[entry[0] for entry in place.top] for place in done.logprobs] == [
        [entry[0] for entry in place.top] for place in again
    ]


def test_closing_the_stream_stops_the_work(scripted):
    engine = scripted([70] * 40)
    stream = engine.stream([[9]], SamplingParams(max_tokens=40, temperature=0))
    next(stream)
    next(stream)
    stream.close()
    assert engine.steps == 2


def test_no_inference_mode_leaks_out_of_a_stream(engine):
    for _ in engine.stream([[9]], GREEDY):
        assert not torch.is_inference_mode_enabled()


def test_threads_share_an_engine(engine):
    prompts = [[9, number] for number in range(10, 18)]
    expected = [engine.generate([prompt], GREEDY)[0].tokens for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda prompt: engine.generate([prompt], GREEDY)[0].tokens, prompts)
        assert list(found) == expected
