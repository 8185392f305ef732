import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plait.errors import BusyError, ConfigError, InputError, PlaitError, TrainingError
from plait.recipes import prepare as module
from plait.recipes.prepare import PrepareConfig, prepare
from plait.text.pool import ordered_map
from plait.text.readers import read
from plait.text.report import report

POEMS = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [
        {"text": POEMS[0], "id": "own", "author": "李白"},
        {"text": POEMS[1] + "  \r\n\r\n\r\n\r\nＡＢＣ"},
        {"text": POEMS[0]},
        {"text": POEMS[1] + "\nABD"},
        {"text": "短"},
        {"text": "cafÃ© on the corner of a quiet street"},
    ]
    (folder / "poems.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (folder / "scan.pdf").write_bytes(b"x")
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_documents_dropped_and_report(corpus, tmp_path, capsys):
    out = tmp_path / "deep/out"
    result = prepare(corpus, out)
    kept, dropped = rows_of(out / "documents.jsonl"), rows_of(out / "dropped.jsonl")
    name = f"{corpus}/poems.jsonl"
    assert kept[0] == {"id": f"{name}#1", "text": POEMS[0], "record_id": "own", "author": "李白"}
    assert [row["text"] for row in kept[1:]] == [
        POEMS[1] + "\n\nABC", "café on the corner of a quiet street",
    ]  # fmt: skip
    assert [(row["reason"], row.get("of")) for row in dropped] == [
        ("exact_duplicate", f"{name}#1"), ("near_duplicate", f"{name}#2"), ("too_short", None),
    ]  # fmt: skip
    assert dropped[1]["similarity"] >= 0.8
    assert json.loads((out / "report.json").read_text("utf-8")) == json.loads(json.dumps(result))
    assert result["read"]["documents"] == 6
    assert result["kept"] == {
        "documents": 3,
        "characters": sum(len(row["text"]) for row in kept),
        "bytes": sum(len(row["text"].encode()) for row in kept),
    }
    assert result["changed"] == {"mojibake": 1, "width": 1, "control": 1, "whitespace": 1}
    assert result["languages"] == {"zh": 2, "en": 1}
    assert result["skipped"]["extension .pdf"]["count"] == 1
    assert result["dropped"]["too_short"]["examples"] == [{"id": f"{name}#5", "text": "短"}]
    shown = capsys.readouterr().err
    assert "dropped: near_duplicate" in shown


def test_the_result_is_an_input(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    documents = list(read(tmp_path / "out"))
    assert [one.to_json() for one in documents] == rows_of(tmp_path / "out/documents.jsonl")
    assert documents[0].record == {"id": "own", "author": "李白"}
    # also from above: what was dropped does not come back
    assert len(list(read(tmp_path, on_skip=lambda *what: None))) == 6 + 3
    assert report(documents)["kept"]["documents"] == 3


def test_workers_change_nothing(corpus, tmp_path):
    prepare(corpus, tmp_path / "one")
    prepare(corpus, tmp_path / "two", PrepareConfig(workers=2))
    for name in ("documents.jsonl", "dropped.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_large_inputs_use_workers(corpus, tmp_path, monkeypatch):
    seen = []

    def spy(target, setup, batches, workers):
        seen.append(workers)
        return ordered_map(target, setup, batches, 1)

    monkeypatch.setattr(module, "ordered_map", spy)
    monkeypatch.setattr(module, "cores", lambda: 3)
    prepare(corpus, tmp_path / "small")
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "SMALL", 2)
    prepare(corpus, tmp_path / "large")
    assert seen == [1, 3]


def test_settings_reach_the_steps(corpus, tmp_path):
    config = PrepareConfig(
        steps=("whitespace", "punctuation"), dedup="none", rules=module.Rules(min_chars=None)
    )
    result = prepare(corpus, tmp_path / "out", config)
    assert result["kept"]["documents"] == 6
    assert "，" not in (tmp_path / "out/documents.jsonl").read_text("utf-8")
    assert result["settings"]["steps"] == ["punctuation", "whitespace"]


def test_records_are_cleaned_field_by_field(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "ａ  b "}, {"role": "assistant", "content": "ok"}]}\n'
        '{"question": " Ｑ", "context": "x  y", "answers": ["x  y"]}\n'
    )
    prepare(tmp_path / "a.jsonl", tmp_path / "out")
    chat, question = (one.record for one in read(tmp_path / "out"))
    assert chat["messages"][0] == {"role": "user", "content": "a b"}
    assert question == {"question": " Q", "context": "x y", "answers": ["x y"]}


def test_an_existing_directory_is_refused(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(corpus, out)
    with pytest.raises(BusyError, match="exists and is not empty; choose another --out or give --overwrite"):
        prepare(corpus, out)
    before = (out / "documents.jsonl").read_bytes()
    prepare(corpus, out, PrepareConfig(overwrite=True))
    assert (out / "documents.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="was not written by plait prepare"):
        prepare(corpus, corpus.parent, PrepareConfig(overwrite=True))
    with pytest.raises(ConfigError, match="holds the input"):
        prepare(out, out, PrepareConfig(overwrite=True))


@pytest.mark.parametrize(
    ("text", "message"), [("x", r"none of the 1 documents is kept \(too_short 1\)"), ("", "a.txt is empty")]
)
def test_failure_leaves_nothing(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "a.txt", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said(corpus, tmp_path, monkeypatch):
    def full(file, row):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(TrainingError, match=r"no disk space for .*out: .* are free"):
        prepare(corpus, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_unknown_step_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'mojibake'"):
        PrepareConfig(steps=("mojibak",))


def test_workers_errors_come_back_as_ours(tmp_path, monkeypatch):
    setup = {"steps": ["nonsense"], "rules": {}}
    with pytest.raises(PlaitError, match="unknown cleaning step 'nonsense'"):
        list(ordered_map("plait.text.refine:refine_batch", setup, [[["a#1", "text", {}]]], 2))
    (tmp_path / "quitter.py").write_text("import os\ndef run(setup, batch): os._exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PlaitError, match=r"a worker process ended early \(exit 3\).*use workers=1"):
        list(ordered_map("quitter:run", None, [[], []], 2))


def test_text_modules_do_not_import_torch():
    code = "import sys, plait.recipes.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
