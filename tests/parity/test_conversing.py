"""Models of transformers that know no conversation are taught one: templates, ends of answers, stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.parity.test_tokenizer_hf import CHATML, auto, gpt2, llama2, llama3, qwen

from plait.config import build
from plait.errors import ModelError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.recipes.recipe import Recipe
from plait.recipes.train import train_recipe
from plait.text.conversing import conversing
from plait.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the a?"},
    {"role": "assistant", "content": "thing"},
    {"role": "user", "content": "why"},
    {"role": "assistant", "content": "the"},
]


def base(make, directory: Path, **settings) -> Tokenizer:
    """A directory without its chat template, or with other settings."""
    directory.mkdir(exist_ok=True)
    make(directory)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    file = directory / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "chat_template"}
    file.write_text(json.dumps(kept | settings), encoding="utf-8")
    return Tokenizer.load(directory)


@pytest.mark.parametrize(
    ("make", "end"), [(gpt2, "<|endoftext|>"), (llama2, "</s>"), (llama3, "<|end_of_text|>")]
)
def test_a_model_without_a_template_is_given_a_plain_one(make, end, tmp_path):
    plain = base(make, tmp_path / "base")
    with pytest.raises(ModelError, match="this model has no chat template"):
        plain.encode_chat(TALK)
    ours = conversing(plain)
    ours.save(tmp_path / "tuned")
    again, theirs = Tokenizer.load(tmp_path / "tuned"), auto(tmp_path / "tuned")
    for last in (4, 5):
        ids, mask = ours.encode_chat(TALK[:last], add_generation_prompt=last == 4)
        assert ids == again.encode_chat(TALK[:last], add_generation_prompt=last == 4)[0]
        wanted = theirs.apply_chat_template(TALK[:last], add_generation_prompt=last == 4, return_dict=False)
        assert ids == wanted
        assert (ids[0] == ours.bos_id) == (make is not gpt2)
        said = ours.decode([index for index, on in zip(ids, mask) if on])
        assert said == f"thing{end}the{end}"[: None if last == 5 else len(f"thing{end}")]
    prompt, _ = ours.encode_chat(TALK[:4], add_generation_prompt=True)
    assert ours.encode_chat(TALK)[0][: len(prompt)] == prompt


def test_what_ends_an_answer_is_learned_and_ends_a_generation_though_it_is_not_the_end_of_a_text(tmp_path):
    plain = base(qwen, tmp_path, eos_token="<|endoftext|>", chat_template=CHATML)
    ours = conversing(plain)
    for tokenizer, end in ((plain, ""), (ours, "<|im_end|>")):
        ids, mask = tokenizer.encode_chat(TALK)
        assert tokenizer.decode([index for index, on in zip(ids, mask) if on]) == f"thing{end}the{end}"
    assert [ours.token(index) for index in ours.stop_ids] == ["<|endoftext|>", "<|im_end|>"]
    known = base(qwen, tmp_path, chat_template=CHATML)
    assert conversing(known).stop_ids == known.stop_ids


def test_without_an_end_token_nothing_is_made_up(tmp_path):
    plain = base(gpt2, tmp_path, eos_token=None)
    assert conversing(plain) is plain


@pytest.mark.parametrize("kind", ["messages", "pairs"])
def test_a_base_model_learns_to_answer_and_to_stop(kind, tmp_path, capsys):
    tokenizer = base(gpt2, tmp_path / "base")
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_embd=32, n_layer=1, n_head=2, n_positions=64,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    rows = [{"source": "the a?", "target": "thing"}, {"source": "why", "target": "the"}]
    if kind == "messages":
        rows = [
            {
                "messages": [
                    {"role": "user", "content": row["source"]},
                    {"role": "assistant", "content": row["target"]},
                ]
            }
            for row in rows
        ]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows * 40), encoding="utf-8"
    )
    recipe = {
        "out": str(tmp_path / "run"), "data": {kind: str(tmp_path / "rows.jsonl"), "validation": 0},
        "model": {"from": str(tmp_path / "base"), "dropout": 0},
        "train": {
            "steps": 80, "batch_size": 8, "lr": 1e-2, "threads": 1, "compile": False, "dtype": "float32",
            "tensorboard": False, "samples": [], "save_every": 80,
        },
    }  # fmt: skip
    train_recipe(build(Recipe, recipe))
    assert "base has no chat template; conversations are written as" in capsys.readouterr().err
    engine = Engine(tmp_path / "run")
    prompt, _ = engine.tokenizer.encode_chat(
        [{"role": "user", "content": "the a?"}], add_generation_prompt=True
    )
    (done,) = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=20))
    assert (done.text, done.finish_reason) == ("thing", "stop")
