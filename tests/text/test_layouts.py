"""The named layouts of data sets: SCAN, bAbI, dialogue bAbI, Alpaca, ShareGPT, aligned files, tables."""

import json

import pytest

from plait.errors import ConfigError
from plait.text.readers import read


def test_scan(tmp_path, put, fails):
    name = put(tmp_path / "scan.txt", "IN: jump twice OUT: I_JUMP I_JUMP\n")
    assert next(read(name, format="scan")).record == {"source": "jump twice", "target": "I_JUMP I_JUMP"}
    fails(put(tmp_path / "x.txt", "jump"), "x.txt:1 is not of the form `IN: words", format="scan")


def test_babi_contexts_grow_and_restart(tmp_path, put):
    story = "1 A is here.\n2 Where is A? \there\t1\n3 B left.\n4 Who left?\tB\t3\n1 C.\n2 Q?\tx,y\t1\n"
    records = [one.record for one in read(put(tmp_path / "qa8_lists.txt", story), format="babi")]
    assert [one["context"] for one in records] == ["A is here.", "A is here.\nB left.", "C."]
    assert records[2] == {"context": "C.", "question": "Q?", "answers": ["x,y"], "task": 8}


def test_dialog_babi_puts_facts_before_the_next_user_turn(tmp_path, put):
    dialogue = "1 hi\thello\n2 book\tapi_call x\n3 r1 R_phone p1\n4 <SILENCE>\thow about r1\n\n1 yo\thello\n"
    first, second = read(put(tmp_path / "task5.txt", dialogue), format="dialog-babi")
    assert [one["content"] for one in first.record["messages"]] == [
        "hi", "hello", "book", "api_call x", "r1 R_phone p1\n<SILENCE>", "how about r1",
    ]  # fmt: skip
    assert [one["role"] for one in second.record["messages"]] == ["user", "assistant"]
    assert first.id.endswith("#1")
    assert second.id.endswith("#6")


def test_alpaca_and_sharegpt(tmp_path, put, fails):
    name = put(tmp_path / "a.json", json.dumps([{"instruction": "写诗", "output": "好"}]))
    assert next(read(name, format="alpaca")).record == {"instruction": "写诗", "output": "好"}
    fails(put(tmp_path / "b.json", '[{"output": "x"}]'), "lacks 'instruction'", format="alpaca")
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    name = put(tmp_path / "c.jsonl", json.dumps({"id": 1, "conversations": turns}))
    record = next(read(name, format="sharegpt")).record
    assert [(one["role"], one["content"]) for one in record["messages"]] == [
        ("user", "hi"), ("assistant", "hello"),
    ]  # fmt: skip
    turns[0]["from"] = "alien"
    name = put(tmp_path / "d.jsonl", json.dumps({"conversations": turns}))
    fails(name, "unknown speaker 'alien'", format="sharegpt")


def test_parallel_files_and_tsv(tmp_path, put, fails):
    left, right = put(tmp_path / "a.en", "one\n\nthree"), put(tmp_path / "a.zh", "一\n二\n三\n")
    skipped = []
    pairs = list(read([left, right], format="parallel", on_skip=lambda *what: skipped.append(what)))
    assert [tuple(one.record.values()) for one in pairs] == [("one", "一"), ("three", "三")]
    assert skipped == [(f"{left}:2", "pair with an empty side")]
    longer = put(tmp_path / "b.zh", "一\n二\n三\n四")
    fails([left, longer], r"a.en has 3 lines and .*b.zh 4; aligned files", format="parallel")
    fails(left, "takes two aligned files", format="parallel")
    name = put(tmp_path / "pairs.txt", 'He said "no.\t他说"不。\n')
    assert next(read(name, format="tsv")).record == {"source": 'He said "no.', "target": '他说"不。'}


def test_licences_beside_data_are_left_aside(tmp_path, put):
    put(tmp_path / "LICENSE.txt", "free")
    put(tmp_path / "data.txt", "IN: a OUT: B")
    assert len(list(read(tmp_path, format="scan", on_skip=lambda *what: None))) == 1


def test_unknown_format():
    with pytest.raises(ConfigError, match="format='line' is unknown; did you mean 'lines'"):
        read("x", format="line")
