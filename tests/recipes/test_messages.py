"""Recipes over conversations: what is learned of them does not depend on how rows hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plait.config import build
from plait.data.loader import Loader
from plait.recipes.plan import begin
from plait.recipes.ranks import Ranks
from plait.recipes.recipe import Recipe
from plait.recipes.train import open_run
from plait.train.objectives import objective_of


def test_packing_and_accumulation_change_no_gradient(tmp_path):
    talks = [
        [
            {"role": ("user", "assistant")[at % 2], "content": "你好 " * (n % 3 + at)}
            for at in range(2 * (n % 3 + 1))
        ]
        for n in range(24)
    ]
    text = "".join(json.dumps({"messages": talk}, ensure_ascii=False) + "\n" for talk in talks)
    (tmp_path / "talks.jsonl").write_text(text, encoding="utf-8")
    found, rows = [], []
    for pack, micro_batch in ((True, 1), (True, None), (False, 1), (False, 6)):
        recipe = {
            "out": str(tmp_path / f"{pack}-{micro_batch}"),
            "data": {"messages": str(tmp_path / "talks.jsonl"), "validation": 0.0, "pack": pack},
            "tokenizer": {"kind": "char"},
            "model": {"width": 16, "layers": 2, "heads": 2, "context": 128},
            "train": {
                "steps": 1, "batch_size": 24, "threads": 1, "dtype": "float64", "compile": False,
                "tensorboard": False,
            },
        }  # fmt: skip
        made = build(Recipe, recipe)
        stage = open_run(Path(made.out), begin(Path(made.out), made), Ranks())
        count = stage.loader.rows_per_epoch
        loader = Loader(stage.data.train, batch_size=count, micro_batch=micro_batch or count, seed=1)
        loss = stage.placed.forward_backward(loader.batch(0), objective_of(made.train))
        gradients = {name: parameter.grad for name, parameter in stage.placed.named_parameters()}
        found.append((float(loss.nll), float(loss.correct), float(loss.tokens), gradients))
        rows.append(count)
    assert rows[0] == rows[1] < rows[2] == rows[3] == 24
    first, *others = found
    assert first[2] == sum(
        len(said["content"]) + 1 for talk in talks for said in talk if said["role"] == "assistant"
    )
    for other in others:
        assert other[:3] == pytest.approx(first[:3], rel=1e-12)
        for name, gradient in first[3].items():
            torch.testing.assert_close(other[3][name], gradient, rtol=1e-10, atol=1e-13, msg=name)
