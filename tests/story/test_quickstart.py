"""`plait quickstart` in miniature on a user's own text, killed in every stage, and then served."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def finished(plait, tmp_path_factory, wait_until, own_text, rows) -> Path:
    """A quickstart killed in each of its stages and finished all the same."""
    folder = tmp_path_factory.mktemp("quickstart")
    own_text(folder / "text")
    run = folder / "run"
    words = ["quickstart", "--text", folder / "text", "--out", run, "--minutes", "0.1", "--no-serve"]

    def until(reached: Callable[[], bool]) -> None:
        running = plait.start(*words)
        wait_until(lambda: reached() or not running.alive, "this stage")
        assert reached(), running.stderr
        running.kill()
        assert running.wait().code == -signal.SIGKILL

    until((run / "quickstart.json").exists)
    until((run / "tokenizer" / "tokenizer.json").exists)
    until(lambda: any(row["stage"] == "pretrain" for row in rows(run)))
    until(lambda: any(row["stage"] == "tune" for row in rows(run)))
    ended = plait(*words)
    assert ended.code == 0, ended.stderr
    assert f"continuing {run}" in ended.stderr
    return run


def test_its_log_is_one_story(finished, rows):
    logged = rows(finished)
    assert [row["step"] for row in logged] == list(range(1, len(logged) + 1))
    stages = [row["stage"] for row in logged]
    assert (
        stages == sorted(stages) == ["pretrain"] * stages.count("pretrain") + ["tune"] * stages.count("tune")
    )
    assert len(set(stages)) == 2
    tokens = [row["tokens"] for row in logged]
    assert tokens == sorted(tokens)
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_what_it_leaves_is_a_run_like_any_other(finished, plait):
    scores = json.loads((finished / "scores.json").read_text(encoding="utf-8"))
    by_metric = {score["metric"]: score for score in scores["results"]}
    assert {"bits_per_byte", "question_loss", "taught_exact_match", "held_out_exact_match"} <= set(by_metric)
    assert 0 < by_metric["bits_per_byte"]["value"] < 8
    assert by_metric["taught_exact_match"]["n"] > 10
    assert (finished / "report.html").is_file()
    assert not (finished / ".text").exists()
    assert "The" in plait.works("generate", finished, "The", "--max-tokens", "4", "--json")
    answers = [json.loads(line) for line in (finished / "answers.jsonl").read_text("utf-8").splitlines()]
    assert {answer["held_out"] for answer in answers} == {True, False}


def test_it_is_not_mixed_with_another(finished, plait, tmp_path):
    before = sorted(finished.rglob("*"))
    words = ["quickstart", "--out", finished, "--no-serve"]
    text = ["--text", finished.parent / "text"]
    assert "was begun with minutes=0.1 and cannot go on with 2.0" in plait.refuses(
        *words, *text, "--minutes", "2"
    )
    assert "was begun with text=" in plait.refuses(*words, "--minutes", "0.1")
    again = plait(*words, *text, "--minutes", "0.1")
    assert again.code == 0
    assert [path for path in before if not path.exists()] == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    message = plait.refuses("quickstart", "--out", tmp_path / "full", "--no-serve")
    assert message.endswith("holds something else (thesis.doc); give another --out or empty it")


@pytest.mark.parametrize(("module", "missing"), [("fastapi", "fastapi"), ("ftfy", "ftfy")])
def test_a_missing_package_is_told_before_anything_is_done(module, missing, tmp_path):
    code = f"import sys; sys.modules[{module!r}] = None\nfrom plait.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "quickstart", "--out", str(tmp_path / "run"), "--no-open-browser"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    needs = f"plait: this needs {missing}, which is not installed; run: pip install 'plait[quickstart]'\n"
    assert ended.stderr == needs
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def url(finished, plait, wait_until) -> Iterator[str]:
    words = ["quickstart", "--text", finished.parent / "text", "--out", finished, "--minutes", "0.1"]
    running = plait.start(*words, "--port", "0", "--no-open-browser")
    wait_until(lambda: "(Ctrl-C stops)" in running.stderr, "the server")
    yield running.stderr.split(" at ")[-1].split(" (Ctrl-C")[0]
    running.kill(signal.SIGINT)
    assert running.wait().code in (0, 130)


def test_in_the_end_it_answers(url, finished):
    def fetch(path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    assert b"<html" in fetch("/")
    (model,) = json.loads(fetch("/v1/models"))["data"]
    scores = {score["metric"] for score in model["plait"]["scores"]}
    assert "taught_exact_match" in scores  # which the page shows
    assert model["plait"]["parameters"] > 0
    assert model["plait"]["sampling"] == {"temperature": 0.0}
    question = model["plait"]["suggestions"][0]
    body = {"model": model["id"], "messages": [{"role": "user", "content": question}], "temperature": 0}
    answer = json.loads(fetch("/v1/chat/completions", body | {"max_tokens": 8}))
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert answer["usage"]["completion_tokens"] > 0


@pytest.mark.long
def test_the_default_teaches_most_names_word_for_word(tmp_path):
    """What a newcomer gets: the reference text, four minutes, at least 80 % of at least 1,000 names."""
    words = [sys.executable, "-m", "plait", "quickstart", "--no-serve", "--out", str(tmp_path / "run")]
    subprocess.run(words, check=True, timeout=1200)
    results = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))["results"]
    taught = next(score for score in results if score["metric"] == "taught_exact_match")
    assert taught["n"] >= 1000
    assert taught["value"] >= 0.8
