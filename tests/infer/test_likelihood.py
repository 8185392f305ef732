"""Likelihoods of given answers: the same as `Engine.score`, as transformers' loss, and in every batch."""

from __future__ import annotations

import random

import pytest
import torch

from plait.errors import ModelError, PromptError
from plait.infer.engine import Engine
from plait.infer.likelihood import Likelihood, likelihoods
from plait.infer.params import SamplingParams
from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import EncoderDecoder
from plait.nn.initialize import initialize

LENGTHS = [(5, (1, 3, 2)), (1, (1, 1)), (9, (4,)), (5, (2, 6)), (12, (1, 2, 3, 4)), (2, (7, 1))]


def rows(vocab: int, seed: int = 0) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts of unequal lengths, each with targets of unequal number and length."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(5, vocab) for _ in range(count)]

    return [ids(size) for size, _ in LENGTHS], [[ids(size) for size in sizes] for _, sizes in LENGTHS]


@pytest.fixture(scope="module")
def seq2seq(tokenizer) -> Engine:
    shape = {"width": 32, "layers": 2, "encoder_layers": 2, "heads": 4, "context": 24, "init_std": 0.3}
    config = ModelConfig(**shape, vocab=tokenizer.vocab_size, decoder_start=1)
    model = EncoderDecoder(config).to(torch.float64)
    initialize(model, 0)
    return Engine(model, tokenizer)


def flat(found: list[list[Likelihood]]) -> list[float]:
    return [one.logprob for some in found for one in some]


def test_a_decoders_likelihood_is_what_score_gives_token_by_token(engine):
    prompts, targets = rows(engine.vocab)
    found = likelihoods(engine, prompts, targets)
    assert [len(some) for some in found] == [len(sizes) for _, sizes in LENGTHS]
    wanted = []
    for prompt, some in zip(prompts, targets):
        for target in some:
            (scored,) = engine.score([[*prompt, *target]])
            wanted.append(sum(token.logprob for token in scored[len(prompt) :]))
    assert flat(found) == pytest.approx(wanted, abs=1e-9)


def test_an_encoder_decoders_likelihood_is_its_forward_pass(seq2seq):
    prompts, targets = rows(seq2seq.vocab)
    found = flat(likelihoods(seq2seq, prompts, targets))
    wanted = []
    with torch.no_grad():
        for prompt, some in zip(prompts, targets):
            for target in some:
                tokens = torch.tensor([[seq2seq.config.decoder_start, *target[:-1]]])
                logits = seq2seq.model(tokens, source=torch.tensor([prompt]))[0]
                wanted.append(float(logits.log_softmax(-1).gather(-1, torch.tensor(target)[:, None]).sum()))
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("kind", ["engine", "seq2seq"])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_no_batch_size_changes_it(kind, batch, request):
    engine = request.getfixturevalue(kind)
    prompts, targets = rows(engine.vocab)
    done = []
    found = likelihoods(engine, prompts, targets, batch=batch, advance=done.append)
    assert flat(found) == pytest.approx(flat(likelihoods(engine, prompts, targets)), abs=1e-9)
    assert sum(done) == len(prompts)


@pytest.mark.parametrize("kind", ["engine", "seq2seq"])
def test_greedy_is_told_of_what_the_model_itself_would_write(kind, request):
    engine = request.getfixturevalue(kind)
    prompts, _ = rows(engine.vocab)
    written = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    targets = []
    for one in written:
        other = [*one.tokens[:-1], (one.tokens[-1] + 1) % engine.vocab]
        targets.append([one.tokens, one.tokens[:1], other, [other[-1]], [other[-1], *one.tokens[1:]]])
    found = [[one.greedy for one in some] for some in likelihoods(engine, prompts, targets)]
    assert [some[:3] for some in found] == [[True, True, False]] * len(prompts)
    assert (
        [some[4] for some in found]
        == [some[3] for some in found]
        == [target[3] == target[1] for target in targets]
    )


def test_it_is_the_loss_of_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BartConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=32, init_std=0.3, pad_token_id=1, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    other = transformers.BartForConditionalGeneration(config).eval()
    other.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    engine = Engine(tmp_path)
    prompts, targets = rows(engine.vocab, seed=1)
    wanted = []
    for prompt, some in zip(prompts, targets):
        for target in some:
            labels = torch.tensor([target])
            with torch.no_grad():
                loss = other(input_ids=torch.tensor([prompt]), labels=labels).loss
            wanted.append(-float(loss) * len(target))
    assert flat(likelihoods(engine, prompts, targets)) == pytest.approx(wanted, rel=1e-4)


def test_what_cannot_be_computed_is_refused(engine, seq2seq, make_engine):
    for prompt, targets in ([], [[6]]), ([5], []), ([5], [[]]):
        with pytest.raises(PromptError, match="need at least one token"):
            likelihoods(engine, [prompt], [targets])
    full = engine.context
    likelihoods(engine, [[5] * (full - 1)], [[[6, 7]]])  # the last token is not read
    with pytest.raises(PromptError, match=r"takes 47 tokens and its longest answer 3, more .* context of 48"):
        likelihoods(engine, [[5] * (full - 1)], [[[6], [6, 7, 8]]])
    with pytest.raises(PromptError, match="25 tokens"):
        likelihoods(seq2seq, [[5] * 25], [[[6]]])
    damaged = make_engine()
    damaged.model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="answers with NaN"):
        likelihoods(damaged, [[5]], [[[6]]])
