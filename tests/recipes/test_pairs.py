"""Recipes over pairs: what a step learns, resuming, samples, what others open, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from plait.checkpoint.resolve import newest
from plait.checkpoint.run import exact_weights
from plait.config import build, merge
from plait.data.loader import Loader
from plait.errors import ConfigError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.recipes.dry_run import dry_run
from plait.recipes.plan import begin
from plait.recipes.ranks import Ranks
from plait.recipes.recipe import Recipe, find_recipe, load_recipe
from plait.recipes.train import open_run, train_recipe
from plait.text.tokenizer import Tokenizer
from plait.train.objectives import objective_of

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = "零一二三四五六七八九"
PAIRS = [
    (" ".join(NUMBERS[int(digit)] for digit in str(n)), "".join(DIGITS[int(digit)] for digit in str(n)))
    for n in range(7, 250)
]
MARIAN = {
    "width": 32, "layers": 1, "encoder_layers": 2, "heads": 2, "kv_heads": 2, "ffn": 64, "context": 32,
    "qk_norm": False, "norm": "layer", "norm_eps": 1e-5, "norm_place": "post", "gated": False,
    "activation": "relu", "position": "sinusoidal", "embed_scale": 32**0.5, "qkv_bias": True,
    "out_bias": True, "mlp_bias": True,
}  # fmt: skip


@pytest.fixture
def make(tmp_path):
    (tmp_path / "a.en").write_text("".join(f"{source}\n" for source, _ in PAIRS), encoding="utf-8")
    (tmp_path / "a.zh").write_text("".join(f"{target}\n" for _, target in PAIRS), encoding="utf-8")

    def make(name: str = "run", **changes) -> Recipe:
        tiny = {
            "out": str(tmp_path / name),
            "data": {"pairs": [str(tmp_path / "a.en"), str(tmp_path / "a.zh")]},
            "tokenizer": {"kind": "char"},
            "model": {"width": 16, "layers": 1, "encoder_layers": 1, "heads": 2, "context": 32},
            "train": {
                "steps": 12, "batch_size": 12, "lr": 3e-3, "label_smoothing": 0.1, "threads": 1,
                "dtype": "float32", "compile": False, "tensorboard": False, "save_every": 4, "eval_every": 6,
            },
        }  # fmt: skip
        return build(Recipe, merge(tiny, changes))

    return make


def opened(recipe: Recipe):
    return open_run(Path(recipe.out), begin(Path(recipe.out), recipe), Ranks())


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = newest(run)
    assert path is not None
    return dict(exact_weights(path))


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_step_learns_the_same_in_micro_batches_of_any_size(make):
    stage = opened(make(train={"dtype": "float64", "z_loss": 0.01}))
    objective = objective_of(stage.recipe.train)
    found = []
    for micro_batch in (12, 6, 1):  # alone, a pair is padded by its own length only
        loader = Loader(stage.data.train, batch_size=12, micro_batch=micro_batch, seed=1)
        for _, parameter in stage.placed.named_parameters():
            parameter.grad = None
        loss = stage.placed.forward_backward(loader.batch(0), objective)
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in stage.placed.named_parameters()
            if parameter.grad is not None
        }
        found.append((float(loss.nll), float(loss.correct), float(loss.tokens), gradients))
    first = found[0]
    assert len(first[3]) == len(list(stage.placed.named_parameters()))
    for other in found[1:]:
        assert other[:3] == pytest.approx(first[:3], rel=1e-12)
        for name, gradient in first[3].items():
            torch.testing.assert_close(other[3][name], gradient, rtol=1e-10, atol=1e-13, msg=name)


def test_a_resumed_run_ends_with_the_same_weights(make, tmp_path):
    dropout = {"model": {"dropout": 0.1}}
    train_recipe(make("whole", **dropout))
    train_recipe(make("cut", **dropout, train={"stop_after": 7}))
    train_recipe(make("cut", **dropout), resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_samples_are_targets_of_sources(make, tmp_path):
    train_recipe(make(train={"samples": ["one two", "three"], "sample_tokens": 4}))
    said = log(tmp_path / "run")[-1]["samples"]
    assert [one.partition(" → ")[0] for one in said] == ["one two", "three"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "one two → " in page
    train_recipe(make("unnamed"))
    shown = [one.partition(" → ")[0] for one in log(tmp_path / "unnamed")[-1]["samples"]]
    assert len(shown) == 3
    assert set(shown) <= {source for source, _ in PAIRS}


def test_a_sample_that_is_too_long_is_refused_before_training(make, tmp_path):
    with pytest.raises(
        ConfigError, match=r"train.samples: 'x+': source \(50 tokens\) is more than the model's"
    ):
        train_recipe(make(train={"samples": ["x" * 49]}))
    assert newest(tmp_path / "run") is None


def test_transformers_opens_the_checkpoint_of_a_marian_shaped_recipe(make, tmp_path):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    path = train_recipe(make(model=MARIAN, train={"steps": 3}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path)
    assert type(model).__name__ == "MarianMTModel"
    engine = Engine(tmp_path / "run")
    assert (engine.encodes, engine.learned) == (True, "pairs")
    source = engine.encode("one two")
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    (theirs,) = model.generate(
        torch.tensor([source]), num_beams=1, max_new_tokens=5, do_sample=False, eos_token_id=None
    ).tolist()
    assert theirs == [engine.config.decoder_start, *engine.generate([source], params)[0].tokens]
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "An encoder-decoder of " in card
    assert "(2 + 1 layers, width 32," in card


T5 = {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
BART = {
    "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
FOREIGN = {"T5": (T5, "pad"), "Bart": (BART, "end")}


@pytest.mark.parametrize("family", FOREIGN)
def test_a_directory_that_transformers_made_is_tuned_on_pairs_and_stays_one(family, make, tmp_path):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    train_recipe(make("pieces", train={"steps": 1}))
    tokenizer = Tokenizer.load(tmp_path / "pieces" / "tokenizer")  # which does not close a text
    fields, start = FOREIGN[family]
    ids = {"pad": tokenizer.pad_id, "end": tokenizer.eos_id}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.vocab_size, d_model=16, pad_token_id=ids["pad"], eos_token_id=ids["end"],
        bos_token_id=ids["end"], decoder_start_token_id=ids[start], forced_eos_token_id=None, **fields,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    for stop in (10, 20, None):  # each goes on from a checkpoint of the one before
        settings = {"steps": 40, "eval_every": 20, "stop_after": stop}
        recipe = make("tuned", train=settings).model_dump(mode="json", by_alias=True)
        del recipe["tokenizer"]
        recipe["model"] = {"from": str(tmp_path / "theirs")}
        path = train_recipe(build(Recipe, recipe), resume=stop != 10)
    assert Tokenizer.load(path).closes
    first, *_, last = (row["loss"] for row in log(tmp_path / "tuned") if "loss" in row)
    assert last < 0.8 * first
    tuned = transformers.AutoModelForSeq2SeqLM.from_pretrained(path)
    assert type(tuned) is type(theirs)
    engine = Engine(tmp_path / "tuned")
    source = engine.encode("one two")
    (wanted,) = tuned.generate(
        torch.tensor([source]), num_beams=1, max_new_tokens=5, do_sample=False, eos_token_id=None
    ).tolist()
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    assert wanted == [ids[start], *engine.generate([source], params)[0].tokens]


def test_a_model_to_start_from_is_tuned_with_its_own_tokenizer(make, tmp_path):
    first = train_recipe(make())
    tuned = make("tuned", train={"steps": 3, "lr": 1e-5}).model_dump(mode="json", by_alias=True)
    del tuned["tokenizer"]
    recipe = build(Recipe, tuned | {"model": {"from": str(first), "dropout": 0.1}})
    train_recipe(recipe)
    before, after = dict(exact_weights(first)), weights(tmp_path / "tuned")
    changes = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(changes) < 1e-3
    # a directory that does not say what targets begin with: they begin with the padding
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    start = config.pop("decoder_start_token_id", None)
    (first / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = recipe.model_copy(update={"out": str(tmp_path / "unsaid")})
    train_recipe(recipe)
    assert Engine(tmp_path / "unsaid").config.decoder_start == Engine(tmp_path / "run").tokenizer.pad_id
    assert start in (None, Engine(tmp_path / "unsaid").config.decoder_start)


def test_a_decoder_wants_no_tokenizer_that_ends_texts(make, tmp_path):
    path = train_recipe(make(train={"steps": 1}))
    assert json.loads((path / "generation_config.json").read_text("utf-8"))["max_length"] == 32
    decoder = {"model": {"encoder_layers": 0, "context": 64}, "train": {"steps": 1}}
    with pytest.raises(ConfigError, match="puts the end token behind each text, as encoders read it"):
        train_recipe(make("other", tokenizer=str(path), **decoder))
    train_recipe(make("other", tokenizer=str(tmp_path / "run" / "tokenizer"), **decoder))


def test_a_decoder_learns_pairs_as_conversations(make, tmp_path):
    train_recipe(make(model={"encoder_layers": 0, "context": 64}))
    engine = Engine(tmp_path / "run")
    assert (engine.encodes, engine.learned) == (False, "pairs")


def test_a_dry_run_shows_the_first_pair_and_what_it_costs(make, tmp_path, capsys):
    dry_run(make())
    out = capsys.readouterr()
    assert "12 pairs, sides of up to 32, " in out.out
    assert "encoded pairs, sides of up to 32 tokens" in out.err
    shown = out.out[out.out.index("first of ") :].splitlines()
    assert "⟦source⟧ is read, the target learned" in shown[0]
    source, target = shown[2], shown[4]
    assert (source.removeprefix("⟦").removesuffix("<|end|>⟧"), target.removesuffix("<|end|>")) in PAIRS
    assert "<|pad|>" not in out.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"pairs": None, "text": "a.en"}}, "an encoder-decoder learns from pairs, not from "
         "data.text; give data.pairs, or set model.encoder_layers=0"),
        ({"train": {"batch_size": None, "batch_tokens": 4096}}, "train.batch_tokens counts rows of one "
         "length, and every pair has its own; set train.batch_size, the pairs of a step"),
        ({"data": {"split": "tail"}}, "data: split=tail would cut a pair in two; use split: document"),
    ],
)  # fmt: skip
def test_what_pairs_cannot_be_is_refused_before_anything_is_made(
    make, tmp_path, changes, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        train_recipe(make(**changes))
    assert message in str(caught.value)
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_the_shipped_recipe_learns_made_pairs_in_seconds(make, tmp_path):
    make()
    rows = "".join(f"{source}\t{target}\n" for source, target in PAIRS)
    (tmp_path / "pairs.tsv").write_text(rows, encoding="utf-8")
    recipe = load_recipe(
        find_recipe("tiny-seq2seq"),
        [f"out={tmp_path / 'tiny'}", f"data.pairs={tmp_path / 'pairs.tsv'}", "train.steps=30",
         "tokenizer.vocab_size=320", "train.threads=1", "train.dtype=float32",
         "train.compile=false", "train.tensorboard=false"],
    )  # fmt: skip
    path = train_recipe(recipe)
    assert json.loads((path / "config.json").read_text("utf-8"))["model_type"] == "t5"
    rows = log(tmp_path / "tiny")
    assert rows[-1]["val_loss"] < 0.75 * rows[0]["loss"]
