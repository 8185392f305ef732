import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plait
from plait.cli import main
from plait.cli.app import Beams
from plait.config import dump_yaml
from plait.errors import ConfigError
from plait.tasks import TASKS
from plait.tasks.task import find_task

VERBS = [
    "quickstart", "prepare", "tokenizer", "tokenize", "train", "prove", "evaluate", "score", "generate",
    "translate", "summarize", "answer", "classify", "complete", "chat", "serve", "device",
    "config show", "config list", "config copy",
]  # fmt: skip
TEXT = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog.\n" for n in range(60))


def fails(capsys, *words: str, code: int = 2) -> str:
    """Run a command that must fail with one line on standard error; that line."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert left.value.code == code
    assert "Traceback" not in captured.err
    assert lines[-1].startswith("plait: ")
    assert len([line for line in lines if line.startswith("plait: ")]) == 1
    return lines[-1].removeprefix("plait: ")


def works(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert not left.value.code


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    return run.stdout


def test_help_and_the_light_verbs_import_no_torch():
    code = """
import sys
from plait.cli import main
from plait.cli.app import Beams
for words in (["--help"], ["--version"], ["train", "--help"], ["config", "list"], ["config", "show", "tiny"]):
    try:
        main(words)
    except SystemExit as left:
        assert not left.code, (words, left.code)
heavy = {"torch", "numpy", "tokenizers", "transformers", "fastapi", "safetensors"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    assert python(code).splitlines()[-1] == "heavy: []"


def test_python_dash_m_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "plait", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == plait.__version__


@pytest.mark.parametrize("field", ["beams", "no_repeat_ngram", "max_tokens"])
def test_the_defaults_that_help_names_are_those_of_the_tasks(field):
    told = re.search(rf"{field}: .*?[Dd]efault:\s+([^.;]*)", str(Beams.__doc__), flags=re.DOTALL)
    assert told is not None
    named = dict(part.rsplit(" ", 1) for part in " ".join(told[1].split()).split(", "))
    for name in TASKS:
        assert getattr(find_task(name).decoding, field) == int(named.get(name, named["others"])), name


def test_the_overview_names_every_verb(capsys):
    works("--help")
    out = capsys.readouterr().out
    assert all(f" {verb.split()[0]} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_its_options_and_an_example(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    works(*verb.split(), "--help")
    out = capsys.readouterr().out
    usage, _, rest = out.partition("\n")
    assert usage.startswith(f"Usage: plait {verb}")
    assert rest.strip().splitlines()[0].strip().endswith((".", ":"))
    assert f" plait {verb}" in rest  # an example
    rows = [line.strip("│ ") for line in out.splitlines() if line.startswith("│")]
    described = [row for row in rows if "  " in row]
    assert len(described) >= sum(row.startswith("--") for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "missing.yaml"], "recipe 'missing.yaml' does not exist; shipped recipes:"),
        (["train", "tiny", "train.lerning=1"], "unknown key 'train.lerning'"),
        (["train", "tiny", "model.heads=7"], "model: width=64 is not divisible by heads=7; use heads from"),
        (["train", "tiny", "train.lr"], "override 'train.lr' has no value; write key=value"),
        (
            ["train", "tiny", "--layout", "tp=3"],
            "layout.tp=3 does not divide model.heads=8; use tp from [1, 2, 4, 8]",
        ),
        (["train", "tiny", "--layout", "dx=2"], "unknown key 'layout.dx'"),
        (["train"], 'Command "train" parameter RECIPE requires an argument; see --help'),
        (["trian"], 'Unknown command "trian". Did you mean "train"?'),
        (["generate", "runs/none", "x"], "runs/none"),
        (["score", "runs/none", "x"], "runs/none"),
        (["evaluate", "runs/none", "--data", "x.txt"], "'x.txt' does not exist; check the path"),
        (["serve", "runs/none"], "runs/none"),
        (["prepare", "none.txt", "--out", "clean"], "none.txt"),
        (["tokenizer", "none.txt", "--out", "tok"], "none.txt"),
        (["tokenizer", "--out", "tok"], "give text to learn from, or published merges with --merges FILE"),
        (["prepare", "none.txt", "--out", "x", "--field", "body"], "--field 'body' has no column"),
        (["tokenize", "none"], "none"),
        (["config", "show", "tinny"], "recipe 'tinny' does not exist; did you mean 'tiny'?"),
        (["config", "copy", "tinny"], "no shipped recipe is called 'tinny'; did you mean 'tiny'?"),
        (["device", "--device", "tpu"], "tpu"),
    ],
)
def test_what_users_get_wrong_is_one_line_and_exit_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def write_recipe(folder: Path, **more) -> str:
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    recipe = {
        "out": str(folder / "run"),
        "data": {"text": str(folder / "a.txt")},
        "tokenizer": {"kind": "byte"},
        "model": {"width": 16, "layers": 1, "heads": 2, "context": 16},
        "train": {"steps": 3, "batch_size": 2, "sample_tokens": 0, "tensorboard": False, "threads": 1},
    }
    path = folder / "r.yaml"
    path.write_text(dump_yaml(recipe | more), encoding="utf-8")
    return str(path)


def test_bad_data_is_one_line_and_leaves_no_run(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "short.txt").write_text("Hi", encoding="utf-8")
    (tmp_path / "gbk.txt").write_bytes("并行".encode("gbk") * 50)
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 4)
    for name, message in {
        "none": "none", "empty": "empty.txt", "short": "context", "gbk": "gbk.txt", "binary": "binary.txt",
    }.items():  # fmt: skip
        assert message in fails(capsys, "train", recipe, f"data.text={tmp_path}/{name}.txt")
        assert not (tmp_path / "run" / "recipe.yaml").exists()
    (tmp_path / "broken.yaml").write_text("out: x\ndata: [1\n", encoding="utf-8")
    assert "broken.yaml:3 is not valid YAML" in fails(capsys, "train", str(tmp_path / "broken.yaml"))


def test_a_path_through_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert str(tmp_path / "file") in fails(
        capsys, "config", "copy", "tiny", str(tmp_path / "file" / "x.yaml")
    )


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(ConfigError, match="does not exist"):
        main(["train", "missing.yaml", "--debug"])
    run = subprocess.run(
        [sys.executable, "-m", "plait", "config", "show", "nowhere", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in run.stderr
    assert run.returncode == 1


@pytest.mark.parametrize("words", [["train.lr=3e-4"], ["--train.lr", "3e-4"], ["--train.lr=3e-4"]])
def test_overrides_in_every_spelling(words, capsys):
    works("config", "show", "tiny", *words, "data.text=x.txt")
    line = next(line for line in capsys.readouterr().out.splitlines() if "train.lr " in line)
    assert "0.0003" in line
    assert "command line" in line


def test_interruption_is_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("plait.recipes.show.list_recipes", interrupted)
    assert fails(capsys, "config", "list", code=130) == "interrupted"


def test_config_copy_then_show_then_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    works("config", "copy", "tiny", "mine.yaml")
    works("config", "show", "mine.yaml")
    assert "mine.yaml" in capsys.readouterr().out
    words = ["--train.threads", "1", "tokenizer.vocab_size=280", "--dry-run", "model.layers=1"]
    works("train", "mine.yaml", *words)
    assert "predicted training time" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.txt", "mine.yaml"]


def test_train_prints_its_checkpoint_and_refuses_a_second_run(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    works("train", recipe, "--train.lr", "3e-3", "--resume")
    assert capsys.readouterr().out == f"{tmp_path}/run/checkpoints/step-000003\n"
    assert "holds a run already; add --resume to continue it" in fails(capsys, "train", recipe)
    refusal = fails(capsys, "train", recipe, "--resume")
    assert "train.lr was 0.003 when this run began and is 0.001 now" in refusal
    works("train", recipe, "--resume", "train.lr=3e-3")
    captured = capsys.readouterr()
    assert "is finished" in captured.err
    assert captured.out == f"{tmp_path}/run/checkpoints/step-000003\n"


def test_device_as_json(capsys):
    works("device", "--device", "cpu", "--json")
    assert json.loads(capsys.readouterr().out)["kind"] == "cpu"


def test_completion_is_installed_for_the_shell(tmp_path):
    words = [sys.executable, "-m", "plait", "--install-completion"]
    subprocess.run(
        words,
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"},
    )
    (script,) = tmp_path.rglob("completions/plait")
    known = subprocess.run(
        ["bash", "-c", f"source {script}; complete -p plait"], capture_output=True, text=True, check=True
    )
    assert "plait" in known.stdout
    assert "quickstart" in script.read_text(encoding="utf-8")
