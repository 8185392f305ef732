"""Beam search equals transformers' and an exhaustive search, and what cannot be is refused."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.errors import ModelError, PromptError
from plait.infer.beam import ban_repeats, beam_search, best_places
from plait.infer.params import BeamParams, Hypothesis, TokenRules

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

INF = math.inf
VOCAB, PAD, END, OTHER_END = 29, 1, 2, 3
SIZES = {
    "vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
HALVES = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 48,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}),
    "llama": (
        "LlamaForCausalLM",
        {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    ),
    "marian": ("MarianMTModel", HALVES | {"decoder_start_token_id": PAD}),
    "bart": ("BartForConditionalGeneration", HALVES | {"decoder_start_token_id": END}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
}
NO_PADDING = TokenRules(never=frozenset([PAD]))
PARAMS = {
    "greedy": BeamParams(beams=1, max_tokens=12),
    "default": BeamParams(max_tokens=12),
    "n-best": BeamParams(beams=5, n=5, max_tokens=14),
    "sums": BeamParams(beams=3, n=2, length_penalty=0.0, max_tokens=14),
    "long": BeamParams(beams=3, n=3, length_penalty=2.5, max_tokens=14),
    "early": BeamParams(beams=4, n=3, early_stopping=True, length_penalty=0.6, max_tokens=14),
    "no-bigrams": BeamParams(beams=3, n=2, no_repeat_ngram=2, max_tokens=14),
    "no-unigrams": BeamParams(beams=3, no_repeat_ngram=1, max_tokens=14),
    "no-trigrams-greedy": BeamParams(beams=1, no_repeat_ngram=3, min_tokens=3, max_tokens=14),
    "minimum": BeamParams(beams=4, n=4, min_tokens=5, max_tokens=9),
    "one": BeamParams(beams=4, n=4, max_tokens=1),
}


def random_model(family: str, seed: int) -> Any:
    """With weights large enough that it has opinions, and end tokens it sometimes likes."""
    kind, sizes = FAMILIES[family]
    architecture = getattr(transformers, kind)
    model = architecture(architecture.config_class(**SIZES | sizes)).double().eval()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.6, generator=source)
        model.get_output_embeddings().weight[[END, OTHER_END]] *= 2
    return model


def batch_of(seed: int, inputs: int = 4, longest: int = 7) -> list[list[int]]:
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (inputs,), generator=source).tolist()
    return [torch.randint(4, VOCAB, (length,), generator=source).tolist() for length in lengths]


def padded(rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, `[rows, time]`."""
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    mask = torch.tensor([gap + row if left else row + gap for gap, row in zip(fill, ones)])
    tokens = torch.tensor([gap + row if left else row + gap for gap, row in zip(fill, rows)])
    return tokens.masked_fill(mask == 0, PAD), mask


def theirs(
    model: Any, inputs: list[list[int]], params: BeamParams, ends: list[int], rules: TokenRules
) -> list[list[Any]]:
    """What transformers generates: for each input its sequences, as (tokens, finish reason, score)."""
    tokens, mask = padded(inputs, left=not model.config.is_encoder_decoder)
    fields: dict[str, Any] = {"num_beams": params.beams, "max_new_tokens": params.max_tokens}
    if params.beams > 1:
        fields |= {"length_penalty": params.length_penalty, "early_stopping": params.early_stopping}
    if params.no_repeat_ngram:
        fields["no_repeat_ngram_size"] = params.no_repeat_ngram
    if params.min_tokens:
        fields["min_new_tokens"] = params.min_tokens
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, num_return_sequences=params.n, return_dict_in_generate=True, output_scores=True,
        pad_token_id=PAD, eos_token_id=ends, suppress_tokens=sorted(rules.never) or None,
        forced_bos_token_id=rules.first, forced_eos_token_id=sorted(rules.last) or None,
        decoder_start_token_id=start, **fields,
    )  # fmt: skip
    made = model.generate(tokens, attention_mask=mask)
    skip = 1 if model.config.is_encoder_decoder else tokens.shape[1]
    scores = [None] * len(made.sequences) if params.beams == 1 else made.sequences_scores.tolist()
    found = []
    for sequence, score in zip(made.sequences[:, skip:].tolist(), scores):
        end = next((place for place, token in enumerate(sequence) if token in ends), None)
        reason = "length" if end is None else "stop"
        found.append((sequence[:end], reason, score))
    return [found[first : first + params.n] for first in range(0, len(found), params.n)]


class Recomputed:
    """Logits of a transformers model without a cache: what a row holds is written out at every step."""

    def __init__(self, model: Any, inputs: list[list[int]]) -> None:
        self.model, self.inputs, self.two = model, inputs, model.config.is_encoder_decoder
        self.numbers = list(range(len(inputs)))
        self.rows = [[model.config.decoder_start_token_id] for _ in inputs] if self.two else inputs
        self.prefixes = self.rows
        if self.two:
            tokens, self.mask = padded(inputs, left=False)
            self.states = model.get_encoder()(tokens, attention_mask=self.mask).last_hidden_state

    def logits(self) -> Tensor:
        if self.two:
            states = transformers.modeling_outputs.BaseModelOutput(self.states[self.numbers])
            return self.model(
                encoder_outputs=states,
                attention_mask=self.mask[self.numbers],
                decoder_input_ids=torch.tensor(self.rows),
            ).logits[:, -1]
        tokens, mask = padded(self.rows, left=True)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self.model(tokens, attention_mask=mask, position_ids=positions).logits[:, -1]

    def step(self, rows: list[int], tokens: list[int]) -> Tensor:
        self.rows = [[*self.rows[row], token] for row, token in zip(rows, tokens)]
        self.numbers = [self.numbers[row] for row in rows]
        return self.logits()


@torch.inference_mode()
def ours(
    model: Any, inputs: list[list[int]], params: BeamParams, ends: list[int], rules: TokenRules
) -> list[list[Hypothesis]]:
    source = Recomputed(model, inputs)
    return beam_search(
        source.logits(), source.step, params,
        ends=ends, rooms=[40] * len(inputs), prefixes=source.prefixes, rules=rules,
    )  # fmt: skip


def assert_like_theirs(
    model: Any, inputs: list[list[int]], params: BeamParams, ends: list[int], rules: TokenRules = NO_PADDING
) -> set[str]:
    found, expected = (search(model, inputs, params, ends, rules) for search in (ours, theirs))
    for mine, other in zip(found, expected, strict=True):
        assert [one.tokens for one in mine] == [one[0] for one in other]
        if not rules.last:  # else what has no more room ends as well
            assert [one.finish_reason for one in mine] == [one[1] for one in other]
        if params.beams > 1:
            assert [one.score for one in mine] == pytest.approx([one[2] for one in other], abs=1e-5)
    return {one.finish_reason for mine in found for one in mine}


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_scores_are_those_of_transformers(family, name):
    model = random_model(family, seed=len(name))
    assert_like_theirs(model, batch_of(seed=len(family)), PARAMS[name], [END])


@pytest.mark.parametrize("family", FAMILIES)
def test_several_end_tokens_and_many_seeds_are_like_transformers(family):
    reasons = set()
    for seed in range(4):
        params = BeamParams(
            beams=2 + seed, n=2, length_penalty=0.5 * seed, no_repeat_ngram=2 + seed % 2, max_tokens=16
        )
        model = random_model(family, seed)
        reasons |= assert_like_theirs(model, batch_of(seed + 9), params, [END, OTHER_END])
    assert reasons == {"stop", "length"}  # both ways to finish were compared


RULES = {
    "none": TokenRules(),
    "first": TokenRules(first=7),
    "last": TokenRules(last=frozenset([END])),
    "all": TokenRules(never=frozenset([PAD, 5, 6]), first=7, last=frozenset([END])),
}


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("family", ["marian", "bart", "t5"])
def test_tokens_that_a_model_rules_out_or_forces_are_those_of_transformers(family, name, beams):
    params, rules, reasons = BeamParams(beams=beams, n=beams, max_tokens=4), RULES[name], set()
    for seed in range(3):
        model, inputs = random_model(family, seed), batch_of(seed)
        reasons |= assert_like_theirs(model, inputs, params, [END], rules)
        for one in itertools.chain(*ours(model, inputs, params, [END], rules)):
            assert rules.first is None or one.tokens[0] == rules.first
            assert not rules.last or len(one.tokens) < 4
    assert "length" in reasons


def markov(table: Tensor) -> Callable[[list[int], list[int]], Tensor]:
    """The step of a model whose next token depends on the last one alone, by `table` `[vocab, vocab]`."""
    return lambda rows, tokens: table[tokens]


def paths(logprobs: Tensor, end: int) -> Iterator[tuple[list[int], float]]:
    """Every sequence that `end` or the last step finishes, with the sum of its log-probabilities.

    Args:
        logprobs: `[steps, vocab, vocab]`, at each step those of the next token after each token; 0 starts.
    """
    steps, vocab, _ = logprobs.shape
    for length in range(1, steps + 1):
        for path in itertools.product(range(vocab), repeat=length):
            if end in path[:-1] or (path[-1] != end and length < steps):
                continue
            pairs = itertools.pairwise((0, *path))
            yield list(path), sum(float(logprobs[step, a, b]) for step, (a, b) in enumerate(pairs))


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_enough_beams_find_the_best_of_all_sequences(penalty):
    tables = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    every = [(total / len(path) ** penalty, path) for path, total in paths(tables.log_softmax(-1), end=2)]
    every.sort(reverse=True)
    later = iter(tables[1:])
    (found,) = beam_search(
        tables[0, [0]], lambda rows, tokens: next(later)[tokens],
        BeamParams(beams=len(every), n=10, length_penalty=penalty), ends=[2], rooms=[5], prefixes=[[]],
    )  # fmt: skip
    assert len(every) == 364
    assert [one.score for one in found] == pytest.approx([score for score, _ in every[:10]], abs=1e-12)
    assert [one.tokens for one in found] == [[t for t in path if t != 2] for _, path in every[:10]]


def test_rows_of_finished_inputs_are_dropped():
    table, seen = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), []

    def step(rows: list[int], tokens: list[int]) -> Tensor:
        seen.append((rows, len(tokens)))
        return table[tokens]

    params = BeamParams(beams=2, n=2)
    found = beam_search(table[[0, 1, 2]], step, params, ends=(), rooms=[2, 4, 1], prefixes=[[]] * 3)
    assert [[len(one.tokens) for one in hypotheses] for hypotheses in found] == [[2, 2], [4, 4], [1, 1]]
    assert [count for _, count in seen] == [4, 2, 2]
    assert seen[0][0] == [0, 0, 1, 1]  # each input has one row at first
    assert set(seen[1][0]) <= {2, 3}
    assert set(seen[2][0]) <= {0, 1}


def test_forbidden_ids_are_never_written_and_probabilities_stay_the_models():
    table = torch.tensor([[5.0, 4.0, 0.0, 9.0]]).expand(4, 4)
    params = BeamParams(beams=1)
    arguments: dict[str, Any] = {"rooms": [2], "prefixes": [[]], "ends": [700]}
    ((found,),) = beam_search(
        table[:1], markov(table), params, rules=TokenRules(never=frozenset(range(3, 9))), **arguments
    )
    assert found.tokens == [0, 0]
    assert found.logprobs == pytest.approx(table[0].log_softmax(-1)[[0, 0]].tolist())


def test_rules_that_leave_nothing_leave_no_hypothesis():
    table = torch.zeros(3, 3)
    found = beam_search(
        table[[0, 1]], markov(table), BeamParams(beams=4, n=2, no_repeat_ngram=1),
        ends=[2], rooms=[9, 2], prefixes=[[0, 2], [2]],
    )  # fmt: skip
    assert found[0] == []  # only id 1 may follow, and then nothing
    assert [one.tokens for one in found[1]] == [[0, 1], [1, 0]]
    assert beam_search(table[:0], markov(table), BeamParams(), ends=(), rooms=[], prefixes=[]) == []


def test_equal_probabilities_go_to_the_lowest_id_in_low_precision_too():
    table = torch.zeros(50, 50, dtype=torch.bfloat16)
    found = beam_search(
        table[:3], markov(table), BeamParams(beams=2, n=2), ends=[49], rooms=[2] * 3, prefixes=[[]] * 3
    )
    assert [[one.tokens for one in hypotheses] for hypotheses in found] == [[[0, 0], [0, 1]]] * 3


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_best_places_are_those_of_a_stable_sort(data):
    rows, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    count = data.draw(st.integers(1, 14))
    values = st.lists(st.sampled_from([-INF, -2.0, -1.0, -0.5]), min_size=size, max_size=size)
    scores = torch.tensor(data.draw(st.lists(values, min_size=rows, max_size=rows)))
    expected = scores.sort(dim=1, descending=True, stable=True)
    found, places = best_places(scores, count)
    assert found.tolist() == expected.values[:, :count].tolist()
    assert places.tolist() == expected.indices[:, :count].tolist()


@given(st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_rule_bans_what_would_repeat_a_run(rows, size):
    longest = max(map(len, rows))
    tokens = torch.tensor([[-1] * (longest - len(row)) + row for row in rows], dtype=torch.long)
    logprobs = torch.zeros(len(rows), 4)
    ban_repeats(logprobs, tokens.view(len(rows), longest), size)
    for row, banned in zip(rows, (logprobs == -INF).tolist()):
        runs = {tuple(row[place : place + size]) for place in range(len(row) - size + 1)}
        begun = tuple(row[len(row) - size + 1 :]) if len(row) >= size - 1 else None
        assert banned == [begun is not None and (*begun, token) in runs for token in range(4)]


@pytest.mark.parametrize("when", [0, 1])
def test_nan_is_an_error_and_no_answer(when):
    table = torch.randn(8, 8)
    damaged = table.clone()
    damaged[:, 3] = float("nan")
    with pytest.raises(ModelError, match=r"answers with NaN: .* overflow float32; try dtype float32"):
        beam_search(
            damaged[:2] if when == 0 else table[:2], markov(damaged), BeamParams(),
            ends=[0], rooms=[5, 5], prefixes=[[1], [1]],
        )  # fmt: skip


def test_an_input_without_room_is_refused():
    table = torch.zeros(3, 3)
    with pytest.raises(PromptError, match="input 1 fills the model's context"):
        beam_search(table[:2], markov(table), BeamParams(), ends=(), rooms=[2, 0], prefixes=[[], []])
