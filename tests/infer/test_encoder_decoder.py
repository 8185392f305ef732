"""An engine on an encoder-decoder: prompts are sources, and what it writes are targets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from plait.checkpoint.directory import save  # noqa: E402
from plait.errors import ModelError, PromptError  # noqa: E402
from plait.infer.engine import Engine  # noqa: E402
from plait.infer.params import BeamParams, Hypothesis, SamplingParams  # noqa: E402
from plait.infer.search import search, text_of  # noqa: E402
from plait.nn.config import ModelConfig  # noqa: E402
from plait.nn.encoder_decoder import EncoderDecoder, build  # noqa: E402
from plait.nn.initialize import initialize  # noqa: E402
from plait.text.tokenizer import Tokenizer  # noqa: E402

MARIAN = {
    "width": 32, "layers": 2, "encoder_layers": 2, "heads": 4, "kv_heads": 4, "ffn": 48, "context": 48,
    "qk_norm": False, "norm": "layer", "norm_eps": 1e-5, "norm_place": "post", "gated": False,
    "activation": "relu", "position": "sinusoidal", "embed_scale": 32**0.5, "qkv_bias": True,
    "out_bias": True, "mlp_bias": True, "init_std": 0.3,
}  # fmt: skip
SOURCES = ["one", "", "a longer source of words", "!", "two words", "床前明月光"]


@pytest.fixture(scope="session")
def make(tokenizer: Tokenizer) -> Callable[..., Engine]:
    def make(seed: int = 0, dtype: torch.dtype = torch.float64, **fields) -> Engine:
        start = {"vocab": tokenizer.vocab_size, "decoder_start": tokenizer.pad_id}
        model = build(ModelConfig(**MARIAN | start | fields)).to(dtype)
        initialize(model, seed)
        never = [token for token in tokenizer.special_ids if token != tokenizer.eos_id]
        with torch.no_grad():  # it ends now and then, and never writes what no text holds
            model.embed_tokens.weight[tokenizer.eos_id] *= 1.5
            model.embed_tokens.weight[never] *= 0
        return Engine(model, tokenizer)

    return make


def ids(engine: Engine) -> list[list[int]]:
    return [engine.encode(source) for source in SOURCES]


def recomputed(engine: Engine, source: list[int], steps: int) -> list[int]:
    """Greedy, without cache or padding."""
    assert isinstance(engine.model, EncoderDecoder)
    written = [engine.config.decoder_start]
    for _ in range(steps):
        with torch.no_grad():
            logits = engine.model(torch.tensor([written]), source=torch.tensor([source]))
        written.append(int(logits[0, -1].argmax()))
    return written[1:]


@pytest.mark.parametrize("fields", [{}, {"position": "rope", "norm_place": "pre"}, {"position": "learned"}])
def test_a_batch_of_unequal_sources_equals_recomputing_each_alone(make, fields):
    engine = make(**fields)
    written = engine.generate(ids(engine), SamplingParams(temperature=0, max_tokens=10, ignore_eos=True))
    assert [done.tokens for done in written] == [recomputed(engine, source, 10) for source in ids(engine)]
    assert {done.finish_reason for done in written} == {"length"}


def test_one_beam_writes_what_is_written_greedily(make):
    reasons = set()
    for seed in range(4):
        engine = make(seed)
        greedy = engine.generate(SOURCES, SamplingParams(temperature=0, max_tokens=20))
        found = [best for (best,) in search(engine, ids(engine), BeamParams(beams=1, max_tokens=20))]
        assert [one.tokens for one in found] == [done.tokens for done in greedy]
        assert [text_of(engine, one) for one in found] == [done.text for done in greedy]
        assert [one.finish_reason for one in found] == [done.finish_reason for done in greedy]
        reasons |= {one.finish_reason for one in found}
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("beams", [1, 4])
def test_transformers_writes_the_same_from_the_saved_directory(make, tmp_path, beams):
    engine = make(3, torch.float32)
    save(engine.model, engine.tokenizer, tmp_path / "model")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = search(Engine(tmp_path / "model"), ids(engine), BeamParams(beams=beams, max_tokens=20), batch=3)
    assert type(model).__name__ == "MarianMTModel"
    for source, (best,) in zip(ids(engine), ours):
        (theirs,) = model.generate(
            torch.tensor([source]), num_beams=beams, max_new_tokens=20, do_sample=False, early_stopping=False
        ).tolist()
        assert tokenizer.decode(theirs, skip_special_tokens=True) == text_of(engine, best)
        ends = [engine.tokenizer.eos_id] if best.finish_reason == "stop" else []
        assert theirs == [engine.config.decoder_start, *best.tokens, *ends]


HALVES = {
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 48,
}  # fmt: skip
T5 = {"d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(
    ("family", "fields", "generation"),
    [
        ("T5", T5, {}),
        ("Bart", HALVES, {"forced_bos_token_id": 40, "num_beams": 1}),  # and by default a forced end
        ("MBart", HALVES, {"forced_bos_token_id": 50, "bad_words_ids": [[60], [61, 62]]}),
    ],
)
def test_a_directory_of_transformers_is_searched_as_it_says(
    family, fields, generation, beams, tokenizer, tmp_path
):
    names = {"eos": tokenizer.eos_id, "pad": tokenizer.pad_id, "decoder_start": tokenizer.pad_id}
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.vocab_size, d_model=16, bos_token_id=0, init_std=0.5, **fields,
        **{f"{name}_token_id": id for name, id in names.items()},
    )  # fmt: skip
    if family == "Bart":
        config.forced_eos_token_id = tokenizer.eos_id
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).double().eval()
    model.generation_config.update(**generation)
    model.save_pretrained(tmp_path)
    tokenizer.ending.save(tmp_path)
    engine = Engine(tmp_path)
    found = search(engine, ids(engine), BeamParams(beams=beams, max_tokens=7))
    for source, (best,) in zip(ids(engine), found):
        (theirs,) = model.generate(
            torch.tensor([source]), num_beams=beams, max_new_tokens=7, do_sample=False, early_stopping=False
        ).tolist()
        written = theirs[1:]
        if tokenizer.eos_id in written:
            written = written[: written.index(tokenizer.eos_id)]
        assert best.tokens == written
        if beams == 1:  # but for the forced end, which only beam search heeds
            (done,) = engine.generate([source], SamplingParams(temperature=0, max_tokens=7))
            assert done.tokens[:6] == written[:6]


def test_a_model_stored_in_bfloat16_is_computed_in_float32_on_the_cpu(make, tmp_path):
    save(make(1, torch.bfloat16).model, make().tokenizer, tmp_path / "model")
    assert Engine(tmp_path / "model").dtype == "float32"
    assert Engine(tmp_path / "model", dtype="bfloat16").dtype == "bfloat16"
    save(make(1).model, make().tokenizer, tmp_path / "wide")
    assert Engine(tmp_path / "wide").dtype == "float64"


def test_the_start_of_targets_may_stand_in_the_generation_configuration_alone(make, tmp_path):
    engine = make(1)
    save(engine.model, engine.tokenizer, tmp_path / "model")
    place = tmp_path / "model" / "config.json"
    values = json.loads(place.read_text(encoding="utf-8"))
    start = values.pop("decoder_start_token_id")
    place.write_text(json.dumps(values), encoding="utf-8")
    other = tmp_path / "model" / "generation_config.json"
    said = json.loads(other.read_text(encoding="utf-8"))
    other.write_text(json.dumps(said | {"decoder_start_token_id": start}), encoding="utf-8")
    assert Engine(tmp_path / "model").config.decoder_start == start
    other.write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(ModelError, match="nothing says what a target begins with"):
        Engine(tmp_path / "model")


def test_answers_do_not_depend_on_what_shares_the_batch(make):
    engine, params = make(1), BeamParams(beams=3, n=2, no_repeat_ngram=2, max_tokens=15)

    def found(batch: int) -> list[list[Hypothesis]]:
        return search(engine, ids(engine), params, batch=batch)

    alone = found(1)
    for batch in (2, 4, 6):
        for one, other in zip(alone, found(batch), strict=True):
            assert [each.tokens for each in one] == [each.tokens for each in other]
            assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-12)


def test_a_source_ends_as_in_training_and_may_be_empty(make, tokenizer):
    engine = make()
    assert engine.encodes
    assert engine.encode("") == [tokenizer.eos_id]
    assert engine.encode("ab") == [*tokenizer.encode("ab"), tokenizer.eos_id]
    assert engine.encode("<|end|>").count(tokenizer.eos_id) == 1  # spelled by a user it is text
    (done,) = engine.generate("", SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
    assert (len(done.tokens), done.prompt_tokens) == (3, 1)


def test_source_and_target_have_the_context_each(make):
    engine = make()
    full = engine.encode("x" * 47)
    assert len(full) == engine.context == 48
    (done,) = engine.generate([full], SamplingParams(temperature=0, max_tokens=48, ignore_eos=True))
    assert (len(done.tokens), done.finish_reason) == (48, "length")
    (done,) = engine.generate([full], SamplingParams(temperature=0, ignore_eos=True))
    assert len(done.tokens) == 48  # the default of max_tokens is clipped
    long = engine.encode("x" * 48)
    message = r"source \(49 tokens\) is more than the model's context of 48; shorten it"
    with pytest.raises(PromptError, match=message):
        engine.generate([long], SamplingParams(max_tokens=1))
    with pytest.raises(PromptError, match=message):
        search(engine, [long], BeamParams())
    with pytest.raises(PromptError, match="max_tokens=49 is more than the model's context of 48; lower it"):
        engine.generate([full], SamplingParams(max_tokens=49))
    assert (
        len(engine.generate([full], SamplingParams(max_tokens=49, ignore_eos=True), clip=True)[0].tokens)
        == 48
    )


def test_several_samples_of_a_source_do_not_depend_on_the_batch(make):
    engine = make()
    params = SamplingParams(n=3, seed=5, max_tokens=8, ignore_eos=True)
    together = engine.generate(SOURCES[:3], params)
    alone = [done for source in SOURCES[:3] for done in engine.generate(source, params)]
    assert [done.tokens for done in together] == [done.tokens for done in alone]
    assert len({tuple(done.tokens) for done in together[:3]}) > 1


def test_a_stop_string_ends_a_target(make):
    engine = make()
    letters = dict.fromkeys(engine.tokenizer.encode("abcdefgh"), 50.0)
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logit_bias=letters)
    (whole,) = engine.generate("two words", greedy)
    stop = whole.text[3:5]
    (cut,) = engine.generate("two words", greedy.model_copy(update={"stop": (stop,)}))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


def test_log_probabilities_are_those_of_the_target_given_the_source(make):
    engine = make()
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=2)
    (done,) = engine.generate("two words", params)
    source = torch.tensor([engine.encode("two words")])
    with torch.no_grad():
        logits = engine.model(torch.tensor([[engine.config.decoder_start, *done.tokens]]), source=source)
    expected = logits[0].log_softmax(-1)[range(6), done.tokens]
    assert [token.logprob for token in done.logprobs] == pytest.approx(expected.tolist(), abs=1e-10)
    (best,) = search(engine, [engine.encode("two words")], BeamParams(beams=1, max_tokens=6))[0]
    assert best.logprobs[: len(best.tokens)] == pytest.approx(
        expected[: len(best.tokens)].tolist(), abs=1e-10
    )


def test_a_text_without_its_source_has_no_probability(make):
    with pytest.raises(ModelError, match="gives no probability to a text without its source"):
        make().score([[1, 2]])


def test_a_model_that_does_not_say_how_targets_begin_is_refused(make):
    with pytest.raises(
        ModelError, match=r"nothing says what a target begins with; set decoder_start_token_id"
    ):
        make(decoder_start=-1)
