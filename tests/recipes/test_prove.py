"""`plait prove`: what it prints and writes, what it refuses, and that a failing layout fails alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.cli import main
from plait.config import dump_yaml
from plait.errors import PlaitError
from plait.nn.config import ModelConfig
from plait.parallel.layout import Layout
from plait.recipes import prove as verb
from plait.recipes.proof import Problem
from plait.recipes.proof_layouts import SCHEDULES, Asked, layouts_of, named
from plait.recipes.recipe import FromModel, load_recipe, shipped_recipes
from plait.train.config import TrainConfig

RECIPE = {
    "out": "runs/small",
    "data": {"text": "input.txt"},
    "tokenizer": {"kind": "byte"},
    "model": {
        "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "context": 16, "mlp_bias": True, "dropout": 0.1,
        "norm": "layer",
    },
    "train": {"epochs": 2, "batch_size": 8, "lr": 1e-2},
}  # fmt: skip
# What ranks run instead: rank 1 fails under dp, tp adds biases twice, rank 0 dies under cp.
PLANTED = """
import os, signal, sys
from pathlib import Path
from plait.parallel import tensor
from plait.recipes import proof_rank
tensor._share_bias = lambda linear, ranks: None
run = proof_rank.run
def planted(problem, layout, mesh, watch):
    if layout.dp > 1 and mesh.rank == 1:
        raise ValueError("planted")
    if layout.cp > 1 and mesh.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(problem, layout, mesh, watch)
proof_rank.run = planted
proof_rank.main(Path(sys.argv[1]))
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(dump_yaml(RECIPE), encoding="utf-8")
    return path


@pytest.fixture
def prove(capfd, recipe) -> Callable[..., tuple[int, str, str]]:
    """`prove(words)` → exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["prove", str(recipe), *map(str, words)])
        assert isinstance(left.value.code, int)
        return left.value.code, *capfd.readouterr()

    return run


def test_layouts_are_proven_and_reported(prove, tmp_path):
    files = tmp_path / "proof.json", tmp_path / "proof.html"
    layouts = ("--layout", "dp=2", "--layout", "pp=2,schedule=gpipe")
    code, out, err = prove(*layouts, "--information", "--json", files[0], "--html", files[1])
    assert code == 0
    changed = next(line for line in err.splitlines() if line.startswith("to prove layouts: "))
    for change in ("train.dtype=float64", "compile=false", "model.dropout=0.0", "model.vocab=261", "random"):
        assert change in changed
    assert re.search(r"dp=2 +[\d.e-]+ +[\d.e-]+ +[\d.e-]+ +[\d.]+ KiB +[\d.]+ +equal\n", out)
    assert re.search(r"dp +all-reduce +(\d+) +([\d,]+) +\1 +\2 +yes\n", out)
    assert "33.3% of the schedule's time is idle" in out
    assert "tolerance: 1e-12 for the gradients of step 1" in out
    assert re.search(r"all 2 layouts train .*small.yaml as one process does \(\d+s\)\n$", out)

    made = json.loads(files[0].read_text(encoding="utf-8"))
    assert made["holds"]
    assert [one["verdict"] for one in made["layouts"]] == ["equal", "equal"]
    for one in made["layouts"]:
        assert len(one["proof"]["steps"]) == len(made["one_process"]["losses"]) == 3
        assert {"layers.0.mlp.down_proj.bias", "embed_tokens.weight"} <= set(one["proof"]["gradients"])
        assert one["information"]["float32"]["weights"] > 1e-10
        assert set(one["information"]) == {"float32", "bfloat16"}
        assert [rank["rank"] for rank in one["cost"]["ranks"]] == [0, 1]
        assert all(row["equal"] for rank in one["cost"]["ranks"] for row in rank["collectives"])
        assert all(rank["peak_bytes"] > 1e6 for rank in one["cost"]["ranks"])

    page = files[1].read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|https?://|<link", page)
    assert page.count("<circle") == 2 * 3
    assert "dp=2" in page
    assert "all-reduce" in page


@pytest.mark.long
def test_layouts_that_fail_leave_the_others_alone(prove, tmp_path, monkeypatch):
    script = tmp_path / "planted.py"
    script.write_text(PLANTED, encoding="utf-8")
    monkeypatch.setattr(verb, "PROGRAM", (sys.executable, str(script)))
    file, page = tmp_path / "proof.json", tmp_path / "proof.html"
    layouts = [word for one in ("dp=2", "tp=2", "cp=2", "fsdp=2") for word in ("--layout", one)]
    code, out, err = prove(*layouts, "--json", file, "--html", page)
    assert code == 1
    assert "Traceback" not in err
    assert "dp=2 failed on rank 1: ValueError: planted\n" in err
    assert "rank 0 was killed by SIGKILL at step" in err
    assert re.search(r"3 of 4 layouts do not train .*small.yaml as one process does", out)
    assert re.search(r"tp=2: layers\.\d\.mlp\.down_proj\.bias.*: the gradient of step 1 differs by", out)
    one = {one["name"]: one for one in json.loads(file.read_text(encoding="utf-8"))["layouts"]}
    verdicts = {name: made["verdict"] for name, made in one.items()}
    assert verdicts == {"dp=2": "FAILED", "tp=2": "DIFFERS", "cp=2": "FAILED", "fsdp=2": "equal"}
    assert "planted.py" in one["dp=2"]["traceback"]
    assert one["tp=2"]["proof"]["first"]["size"] > 1e-6
    assert "ValueError: planted" in page.read_text(encoding="utf-8")


def test_the_recipes_own_data(prove, recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "".join(f"Line {n}: the fox jumps over {n * n} dogs.\n" for n in range(60))
    Path("input.txt").write_text(text, encoding="utf-8")
    code, out, err = prove("--layout", "dp=2", "--data", "--steps", 2, "--json", "proof.json")
    assert code == 0, out + err
    assert re.search(r"\nthe layout trains .*small.yaml as one process does", out)
    assert "random weights" in err
    made = json.loads(Path("proof.json").read_text(encoding="utf-8"))
    assert made["problem"]["model"]["vocab"] == 261
    assert len(made["one_process"]["losses"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.txt", "proof.json", "small.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"name a layout \(--layout dp=2,tp=2\) or a number of ranks \(--all 4\)$"),
        (["--layout", "dp=2", "--all", "2"], r"--all 4\), not both"),
        (["--layout", "fdsp=2"], r"unknown key 'layout\.fdsp'; did you mean 'fsdp'\?"),
        (["--layout", "dp"], r"--layout 'dp': 'dp' has no size; write for example dp=2,tp=2"),
        (["--layout", "dp=two"], r"layout\.dp='two' is not valid"),
        (["--layout", "dp=1"], r"--layout 'dp=1' is one process; name axes"),
        (["--layout", "tp=3"], r"layout\.tp=3 does not divide model\.heads=4; use tp from \[1, 2, 4\]"),
        (["--layout", "pp=4"], r"layout\.pp=4 makes 4 stages of model\.layers=2; use fewer stages"),
        (["--layout", "ep=2"], r"layout\.ep=2 divides experts, but model\.experts=0"),
        (["--layout", "cp=16"], r"layout\.cp=16 does not divide half of the context=8; use cp from"),
        (["--layout", "dp=3"], r"the 8 rows .* among the 3 ranks of dp; use train\.batch_size=6 or 9"),
        (["--layout", "pp=2,schedule=zbw"], r"layout\.schedule='zbw' is not valid: .*'zbv'"),
        (["--layout", "pp=2", "--schedule", "zbw"], r"--schedule=zbw is unknown; use all or one of 1f1b"),
        (["--layout", "dp=2", "--schedule", "zbv"], r"--schedule=zbv is of a pipeline; add pp=2"),
        (["--layout", "pp=2", "--schedule", "zbv"], r"makes 4 stages of model\.layers=2"),
        (["--all", "1"], r"--all=1 leaves nothing to compare; use at least 2 ranks"),
        (["--all", "65"], r"--all means 65 ranks, each a process of some 300 MB .* use at most 64"),
        (["--layout", "dp=128", "train.batch_size=128"], r"--layout dp=128 means 128 ranks"),
        (["--all", "7"], r"no layout of 7 ranks fits this recipe; tp=7: layout\.tp=7 does not divide"),
        (["--all", "four"], r"four.*see --help"),
        (["--layout", "dp=2", "--steps", "0"], r"--steps=0 compares nothing; use at least 1"),
        (["--layout", "dp=2", "--json", "none/proof.json"], r"none/proof\.json cannot be written"),
        (["--layuot", "dp=2"], r"unknown option '--layuot'; did you mean '--layout'\?"),
        (["--layout", "dp=2", "model.layer=3"], r"unknown key 'model\.layer'; did you mean 'layers'\?"),
        (["--layout", "dp=2", "--data"], r"input\.txt.* does not exist"),
    ],
)
def test_bad_input_is_one_line(prove, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verb, "launch", lambda *args, **options: pytest.fail("ranks were started"))
    code, out, err = prove(*words)
    assert (code, out) == (2, "")
    (line,) = (line for line in err.splitlines() if line.startswith("plait: "))
    assert err.endswith(line + "\n")
    assert "Traceback" not in err
    assert re.search(message, line), line


def test_it_starts_its_own_ranks(prove, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = prove("--layout", "dp=2")
    assert code == 2
    assert "prove starts its own ranks on this machine; run it without torchrun or srun" in err


def test_a_signal_ends_it(prove, monkeypatch):
    monkeypatch.setattr(verb, "launch", lambda *args, **options: 130)
    assert prove("--layout", "dp=2")[0] == 130


def test_ranks_that_cannot_start_are_not_started_again(prove, monkeypatch):
    calls = []
    monkeypatch.setattr(verb, "launch", lambda *args, **options: calls.append(args) or 1)
    code, _, err = prove("--layout", "dp=2", "--layout", "tp=2")
    assert (code, len(calls)) == (2, 1)
    assert "the ranks could not start; what they said is above" in err


# ---- which layouts


def problem(**model) -> Problem:
    config = ModelConfig(vocab=9, **({"width": 16, "layers": 8, "heads": 4, "context": 16} | model))
    return Problem(model=config, train=TrainConfig(steps=3), context=16, rows=8)


def test_all_layouts_of_some_ranks():
    fitting, refused = layouts_of(Layout(), problem(), Asked(every=4))
    names = [layout.name for layout in fitting]
    assert {"tp=4", "dp=2,cp=2", "fsdp=4", "pp=4,schedule=1f1b"} <= set(names)
    assert not any("ep" in name for name in names)
    assert {layout.schedule for layout in fitting} == set(SCHEDULES)
    assert sum(layout.schedule != "1f1b" for layout in fitting) == len(SCHEDULES) - 1
    assert len(set(names)) == len(names)
    assert not refused


def test_what_does_not_fit_is_told_with_the_reason():
    fitting, refused = layouts_of(Layout(), problem(kv_heads=1, layers=2, experts=2), Asked(every=8))
    told = dict(refused)
    assert "does not divide model.heads=4" in told["tp=8"]
    assert "makes 8 stages" in told["pp=8,schedule=1f1b"]
    assert "does not divide model.experts=2" in told["ep=8"]
    assert "ep=2,cp=2,tp=2" in [layout.name for layout in fitting]


def test_every_schedule_that_a_layout_allows():
    asked = Asked(layouts=("pp=2", "dp=2"), schedule="all")
    layouts, _ = layouts_of(Layout(), problem(layers=2), asked)
    assert [layout.name for layout in layouts] == ["pp=2,schedule=1f1b", "pp=2,schedule=gpipe", "dp=2"]
    several, _ = layouts_of(Layout(), problem(), Asked(every=2, schedule="all"))
    assert {layout.schedule for layout in several if layout.pp > 1} == set(SCHEDULES)


def test_a_recipes_layout_is_changed_by_words():
    assert named(Layout(tp=2, attention="gather"), " dp=2, tp=4").name == "dp=2,tp=4,attention=gather"


def test_fewest_ranks_come_first_and_each_layout_once():
    layouts, _ = layouts_of(Layout(), problem(), Asked(layouts=("tp=4", "dp=2", "dp=2")))
    assert [layout.name for layout in layouts] == ["dp=2", "tp=4"]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_makes_a_problem(name, tmp_path):
    recipe = load_recipe(name)
    if isinstance(recipe.model, FromModel):  # which is not here
        with pytest.raises(PlaitError, match="does not exist"):
            verb.problem_of(recipe, Asked(every=2), tmp_path)
        return
    made = verb.problem_of(recipe, Asked(every=2), tmp_path)
    assert made.model.vocab > 0
    assert made.train.dtype == "float64"
    assert made.model.dropout == 0
    assert Problem.model_validate_json(made.model_dump_json()) == made


@pytest.mark.long
@pytest.mark.parametrize("ranks", [4, 8])
@pytest.mark.parametrize(("recipe", "least"), [("tiny", 16), ("tiny-moe", 16), ("tiny-seq2seq", 6)])
def test_all_layouts_of_the_shipped_recipes(tmp_path, recipe, least, ranks):
    file = tmp_path / "proof.json"
    command = [sys.executable, "-m", "plait", "prove", recipe, "--all", str(ranks), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(file.read_text(encoding="utf-8"))
    assert len(made["layouts"]) >= least
    assert f"all {len(made['layouts'])} layouts train {recipe} as one process does" in done.stdout
    for one in made["layouts"]:
        unequal = [row for rank in one["cost"]["ranks"] for row in rank["collectives"] if not row["equal"]]
        assert not unequal, one["name"]
