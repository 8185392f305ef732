"""Every form of file, plain and compressed, gives the same documents; what cannot be read is refused."""

import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from plait.errors import InputError
from plait.text.document import Document
from plait.text.readers import read

DATA = Path(__file__).parents[3] / "shared/data"
ZH = "今天天气很好，我们去公园散步。"


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_plain_and_compressed_gives_the_same_texts(tmp_path, compression, put, texts):
    rows = [{"text": "one, two", "n": 1}, {"text": ZH, "n": 2}]
    table = io.StringIO()
    csv.writer(table).writerows([["text", "n"], *([row["text"], row["n"]] for row in rows)])
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    contents = {
        ".jsonl": "\n".join(json.dumps(row) for row in rows),
        ".json": json.dumps(rows),
        ".csv": table.getvalue(),
        ".tsv": "text\tn\r\none, two\t1\r\n" + ZH + "\t2\r\n",
        ".parquet": parquet.getvalue(),
    }
    for kind, content in contents.items():
        name = put(tmp_path / f"rows{kind}{compression}", content)
        documents = list(read(name))
        assert [one.text for one in documents] == ["one, two", ZH], kind
        assert [one.id for one in documents] == [f"{name}#1", f"{name}#2"]
        assert str(documents[0].record["n"]) == "1"
    for kind in (".txt", ".md", ".html"):
        assert texts(put(tmp_path / f"page{kind}{compression}", "one\ntwo")) == ["one\ntwo"]


def test_text_is_one_document_or_lines_or_paragraphs_and_never_altered(tmp_path, put, texts):
    text = " a\r\nb\u2028c \n\n\n中\t文\n"
    name = put(tmp_path / "a.txt", text)
    assert texts(name) == [text]
    assert texts(name, format="lines") == [" a", "b\u2028c ", "中\t文"]
    assert [(one.id[-1], one.text) for one in read(name, format="paragraphs")] == [
        ("1", " a\nb\u2028c "), ("2", "中\t文"),
    ]  # fmt: skip


def test_html_becomes_text(tmp_path, put, texts):
    name = put(tmp_path / "a.html", "<html><body><script>x()</script><p>One<p>二 &amp; 三</body></html>")
    assert texts(name) == ["One\n\n二 & 三"]


def test_directory_is_read_recursively_in_order_without_hidden_files(tmp_path, put):
    for name in ("b/2.txt", "a/1.md", ".hidden/x.txt", "a/.y.txt", "z.txt.gz"):
        put(tmp_path / name, Path(name).name)
    put(tmp_path / "a/image.png", "no text")
    put(tmp_path / "a/void.txt", "")
    skipped = []
    found = [one.text for one in read(tmp_path, on_skip=lambda *what: skipped.append(what))]
    assert found == ["z.txt.gz", "1.md", "2.txt"]
    assert [reason for _, reason in skipped] == ["extension .png", "empty file"]
    assert skipped[0][0].endswith("image.png")


def test_skipped_files_are_told_without_a_listener(tmp_path, capsys, put):
    put(tmp_path / "a.txt", "text")
    put(tmp_path / "b.pdf", "x")
    list(read(tmp_path))
    assert "skipped in the input: 1 × extension .pdf" in capsys.readouterr().err


def test_globs_lists_and_files_with_odd_names(tmp_path, put, texts):
    put(tmp_path / "2.py", "two")
    put(tmp_path / "1.py", "one")
    odd = put(tmp_path / "c[1].txt", "three")
    assert texts([f"{tmp_path}/*.py", odd]) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ZH, [ZH]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('\ufeff\n{"text": "a"}\n', ["a"]),
    ],
)
def test_standard_input_is_text_or_json_lines(monkeypatch, given, expected):
    stream = io.BufferedReader(io.BytesIO(given.encode()))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    documents = list(read("-"))
    assert [one.text for one in documents] == expected
    assert documents[0].id in ("-#1", "-#2")


def test_on_bytes_adds_up_to_the_size_on_disk(tmp_path, put):
    names = [put(tmp_path / name, ZH * 99) for name in ("a.txt", "b.txt.gz", "c.txt.zst")]
    total = 0

    def count(amount):
        nonlocal total
        total += amount

    list(read(names, on_bytes=count))
    assert total == sum(Path(name).stat().st_size for name in names)


# --- what cannot be read


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"abc\x00def", r"binary file \(zero byte at offset 3\)"),
        ("a.txt", ZH.encode("utf-16-le") + "plain".encode("utf-16-le") * 9, "UTF-16LE without a byte order"),
        ("a.txt", "半".encode()[:2], r"not UTF-8: bytes e5 8d at offset 0 \(line 1\)"),
        ("a.txt", "\ufeffab".encode("utf-16-le")[:-1], "not UTF-16-LE.*damaged or truncated"),
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n\n", "a.txt is empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl:2 is not valid JSON: .*\(column"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1 must be a JSON object \{...\}, not list"),
        ("a.json", b'[\n{"text": 1}\n,]', r"a.json:3 is not valid JSON"),
        ("a.json", b"[" * 99999, "nested too deeply"),
        ("a.json", b"[]", "a.json holds no document"),
        ("a.jsonl", b'{"text": 5}', "a.jsonl:1: 'text' must be text or a list of strings, not int 5"),
        ("a.jsonl", b'{"body": "x", "n": 1}', "a.jsonl:1 has none of the fields.*found: body, n; name yours"),
        ("a.jsonl", b'{"messages": [{"role": "bot", "content": "x"}]}', "must be a list of.*it holds"),
        ("a.jsonl", b'{"answers": 5, "question": "x"}', "'answers' must be text"),
        (
            "a.json",
            b'{"data": [{"paragraphs": []}, 5]}',
            r"a.json: data\[1\] of SQuAD's layout is no object: 5",
        ),
        (
            "a.json",
            b'{"data": [{"paragraphs": [{"qas": 1}]}]}',
            "a.json: 'qas' of SQuAD's layout must be a list",
        ),
        ("a.csv", b'text,n\n"open,1\n', "a.csv:.* is not valid CSV"),
        ("a.csv", b"text,n\na,b,c\n", "a.csv:2 has 3 columns, its header 2"),
        ("a.parquet", b"PAR1 not really", "a.parquet is not a readable Parquet file"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, data, message, put, fails):
    fails(put(tmp_path / name, data), message)


def test_damaged_archives_are_named(tmp_path, texts, fails):
    whole = gzip.compress(ZH.encode() * 999)
    (tmp_path / "a.txt.gz").write_bytes(whole[:-9])
    fails(str(tmp_path / "a.txt.gz"), "a.txt.gz is corrupt or truncated")
    (tmp_path / "b.txt.gz").write_bytes(b"plain text")
    fails(str(tmp_path / "b.txt.gz"), "b.txt.gz is corrupt or truncated")
    frames = zstandard.compress(b"one\n") + zstandard.compress(b"two\n")
    (tmp_path / "c.txt.zst").write_bytes(frames)
    assert texts(str(tmp_path / "c.txt.zst")) == ["one\ntwo\n"]
    (tmp_path / "c.txt.zst").write_bytes(frames[:-3])
    fails(str(tmp_path / "c.txt.zst"), "c.txt.zst is truncated")
    (tmp_path / "d.txt.zst").write_bytes(b"plain text")
    fails(str(tmp_path / "d.txt.zst"), "d.txt.zst is corrupt")


def test_paths_that_lead_nowhere(tmp_path, put, fails):
    fails(str(tmp_path / "none.txt"), "none.txt' does not exist; check the path")
    fails(f"{tmp_path}/*.txt", "no file matches")
    fails([], "no input given")
    put(tmp_path / "d/x.pdf", "x")
    fails(tmp_path / "d", r"d' holds no file that can be read; accepted: .txt, .md, .*\.parquet, each also")


def test_file_names_must_be_text(tmp_path, fails):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x")
    fails(tmp_path, "is not UTF-8; rename the file")


# --- records


def test_fields_rename_columns_join_lists_and_number_headerless_tables(tmp_path, put, fails):
    name = put(
        tmp_path / "poems.jsonl", json.dumps({"id": "x", "paragraphs": ["床前明月光，", "疑是地上霜。"]})
    )
    (poem,) = read(name, fields={"text": "paragraphs"})
    assert poem == Document(f"{name}#1", "床前明月光，\n疑是地上霜。", {"id": "x"})
    fails(name, "has no column 'paragraph'; did you mean 'paragraphs'", fields={"text": "paragraph"})
    table = put(tmp_path / "a.csv", 'he said ""hi"",你好\n"a, b",二\n')
    pairs = [one.record for one in read(table, fields={"source": 0, "target": 1})]
    assert pairs[1] == {"source": "a, b", "target": "二"}
    fails(table, r"a.csv:1 has no column 2; found: 0, 1", fields={"source": 0, "target": 2})
    broken = put(tmp_path / "c.csv", 'text,n\n"a\nb",1\n"c\nd",1,2\n')
    fails(broken, "c.csv:4 has 3 columns, its header 2")
    fails(put(tmp_path / "a.txt", "x"), "read as text, which has none", fields={"text": "x"})
    fails(
        table,
        r"reads no field 'tgt' \(from column 1\); did you mean 'target'",
        fields={"source": 0, "tgt": 1},
    )
    fails(
        put(tmp_path / "b.csv", "en;zh\na;甲\n"), "b.csv:1 has one column, 'en;zh'; .* not ';'; save it with"
    )


def test_every_record_form_arrives_in_its_fields(tmp_path, put):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好"}]
    rows = [
        {"messages": chat},
        {"source": "a", "target": ["b", "c"]},
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"chosen": chat, "rejected": chat},
        {"instruction": "i", "input": "", "output": "o"},
        {"context": "c", "question": "q", "answers": {"text": ["x", "x"], "answer_start": [1, 1]}},
        {"context": "c", "question": "q", "answers": "x"},
    ]
    name = put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    documents = list(read(name))
    assert all(one.structured for one in documents)
    assert documents[0].record == {"messages": chat}
    assert documents[1].record == {"source": "a", "target": "b\nc"}
    assert documents[3].record["chosen"] == chat
    assert documents[4].body() == "i\n\no"
    assert documents[5].record["answers"] == documents[6].record["answers"] == ["x"]


def test_squad_layout_gives_one_document_a_question(tmp_path, put):
    questions = [{"id": "q1", "question": "谁？", "answers": [{"text": "李白", "answer_start": 0}]}]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "李白写诗。", "qas": questions}]}]}
    (document,) = read(put(tmp_path / "squad.json", json.dumps(data)))
    record = {"title": "t", "context": "李白写诗。", "id": "q1", "question": "谁？", "answers": ["李白"]}
    assert document.record == record


def test_empty_and_broken_texts_are_skipped_and_told(tmp_path, put):
    name = put(tmp_path / "a.jsonl", '{"text": " "}\n{"text": "\\ud800"}\n\n{"text": "\\ud83d\\ude00"}\n')
    skipped = []
    assert [one.text for one in read(name, on_skip=lambda *what: skipped.append(what))] == ["😀"]
    reasons = ["empty text", "lone surrogate (half a character)", "blank line"]
    assert skipped == [(f"{name}:{line}", reason) for line, reason in enumerate(reasons, 1)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "three"}\n\n', [("2", "blank line")]),
        ("a.csv", "text,n\n\none,1\n\nthree,3\n\n", [("2", "blank line"), ("4", "blank line")]),
        ("a.tsv", "text\tn\none\t1\n\t\nthree\t3\n", [("3", "empty text")]),
        ("a.csv", "text\none\n\nthree\n", [("3", "empty text")]),
        ("a.tsv", "text\none\n\nthree\n\n", [("3", "empty text"), ("5", "empty text")]),
    ],
)
def test_places_without_a_record_are_told_so_that_others_can_count_them(tmp_path, put, name, text, told):
    path, skipped = put(tmp_path / name, text), []
    assert [one.text for one in read(path, on_skip=lambda *what: skipped.append(what))] == ["one", "three"]
    assert skipped == [(f"{path}:{line}", reason) for line, reason in told]


def test_parquet_leaves_out_images_and_tells(tmp_path):
    table = pyarrow.Table.from_pylist([{"text": "a", "image": b"\x00"}])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    skipped = []
    (document,) = read(tmp_path / "a.parquet", on_skip=lambda *what: skipped.append(what[1]))
    assert (document.record, skipped) == ({}, ["column 'image' of raw bytes"])


def test_document_survives_json():
    document = Document("a#1", "t", {"id": "own", "author": "李白"})
    assert Document.from_json(json.loads(json.dumps(document.to_json()))) == document


# --- hub


def test_local_dataset_folder(tmp_path, put, texts, fails):
    put(tmp_path / "set/train.jsonl", json.dumps({"text": ZH}))
    put(tmp_path / "set/test.jsonl", json.dumps({"text": "test"}))
    assert texts(f"hf://{tmp_path}/set") == [ZH]
    assert texts(f"hf://{tmp_path}/set@test") == ["test"]
    fails(f"hf://{tmp_path}/set@dev", "has no split 'dev'.*train, test")
    fails(f"hf://{tmp_path}/none", "does not exist")


def test_saved_dataset_folder(tmp_path, texts):
    import datasets

    datasets.Dataset.from_list([{"body": "a"}, {"body": ZH}]).save_to_disk(str(tmp_path / "saved"))
    assert texts(f"hf://{tmp_path}/saved", fields={"text": "body"}) == ["a", ZH]


def test_unreachable_hub_is_said(monkeypatch, fails):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    fails("hf://nobody/nothing", "hf://nobody/nothing cannot be read: .*name the folder: hf:///folder")


# --- the real sets


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data sets are not beside the repository")
@pytest.mark.parametrize(
    ("path", "options", "count"),
    [
        ("xquad/xquad.en.json.gz", {}, 1190),
        ("cmrc2018/cmrc2018_trial.json.gz", {}, 1002),
        ("hh-rlhf/harmless-base.first1800.jsonl.gz", {}, 1800),
        ("zh-en/tatoeba.clean.dev.tsv.gz", {"format": "tsv"}, 1174),
        ("scan/tasks_test_length.txt.gz", {"format": "scan"}, 3920),
        ("babi/en/qa1*_train.txt.gz", {"format": "babi"}, 11000),
        ("dialog-babi/dialog-babi-task1dev.txt.gz", {"format": "dialog-babi"}, 1000),
        ("cold/dev.csv.gz", {"fields": {"text": "TEXT"}}, 6431),
    ],
)
def test_real_files_give_their_published_counts(path, options, count):
    assert len(list(read(f"{DATA}/{path}", **options))) == count


def test_a_column_named_twice_is_refused_and_not_lost(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\none,two\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv:1 names the column 'text' twice; rename one of them"):
        list(read(tmp_path / "a.csv"))
