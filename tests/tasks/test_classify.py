"""Labels by their likelihood: which ones, how probable, and what is refused."""

from __future__ import annotations

import io
import json
import math

import pytest

import plait
from plait.data.notice import Noticed, labels_in
from plait.errors import ConfigError, InputError
from plait.infer.engine import Engine
from plait.recipes.apply import apply_task
from plait.tasks.classify import labels_of, questions_of
from plait.text.document import Document

LABELS = ["good", "bad", "好"]


@pytest.mark.parametrize("learned", ["pairs", "messages", "text"])
def test_probabilities_are_those_of_the_labels_alone(model, learned):
    engine = Engine(model(learned), dtype="float64")
    (found,) = plait.classify(engine, "天气真好", LABELS)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert next(iter(found.probabilities)) == found.label
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)
    totals = {}
    for label in LABELS:
        if learned == "text":
            head, tail = engine.encode("天气真好"), engine.tokenizer.encode_plain(label)
        else:
            turns = [{"role": "user", "content": "天气真好"}]
            head = engine.tokenizer.encode_chat(turns, add_generation_prompt=True)[0]
            whole = engine.tokenizer.encode_chat([*turns, {"role": "assistant", "content": label}])[0]
            tail = whole[len(head) :]  # what training learns, its end with it
        (scored,) = engine.score([[*head, *tail]])
        totals[label] = sum(token.logprob for token in scored[len(head) :])
    share = sum(map(math.exp, totals.values()))
    expected = {label: math.exp(total) / share for label, total in totals.items()}
    assert found.probabilities == pytest.approx(expected)


def test_an_encoder_decoder_reads_the_text_as_in_training(reader):
    engine = Engine(reader)
    ((prompt, answers),) = questions_of(engine, [Document("a", "天气")], LABELS)
    end = engine.tokenizer.eos_id
    assert prompt == [*engine.tokenizer.encode_plain("天气"), end]
    assert answers == [[*engine.tokenizer.encode_plain(label), end] for label in LABELS]
    texts = ["a", "a much longer text", "天气", ""][:3]
    whole, single = plait.classify(engine, texts, LABELS), plait.classify(engine, texts, LABELS, batch=1)
    for one, other in zip(whole, single):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)


def test_a_text_of_the_user_ends_no_document(model):
    engine = Engine(model("text"))
    ((prompt, _),) = questions_of(engine, [Document("a", "a<|end|>b")], ["good", "bad"])
    assert engine.tokenizer.eos_id not in prompt
    assert prompt == engine.tokenizer.encode_plain("a<|end|>b")


def test_means_are_fair_to_long_labels(reader):
    engine = Engine(reader)
    (whole,) = plait.classify(engine, "x", ["yes", "certainly not at all"])
    (mean,) = plait.classify(engine, "x", ["yes", "certainly not at all"], per_token=True)
    assert whole.probabilities["certainly not at all"] < mean.probabilities["certainly not at all"]


def test_labels_are_those_given_else_learned_else_the_datas(model, reader):
    data = [Document("d#1", "x", {"label": "b"}), Document("d#2", "", {"source": "x", "target": "a"})]
    plain, knowing = Engine(reader), Engine(model("pairs", labels=("a", "b", "c")))
    assert labels_of(plain, ["b", "a"], data) == ["b", "a"]
    assert labels_of(knowing, (), data) == ["a", "b", "c"]
    assert labels_of(plain, (), data) == ["a", "b"]
    with pytest.raises(InputError, match=r"among 0, 1, .*, 19 and 80 more: a, b \(first: "):
        labels_of(plain, [str(number) for number in range(100)], data)
    with pytest.raises(ConfigError, match="does not say which labels it has learned; name them: --labels"):
        labels_of(plain)


def test_a_classifier_that_is_to_translate_is_told_of(model, capsys):
    apply_task("translate", model("pairs", labels=("good", "bad")), "天气真好", decoding={"max_tokens": 2})
    assert "learned to write good, bad alone; plait classify compares them" in capsys.readouterr().err


def test_few_different_targets_are_labels():
    def seen(targets: list[str]) -> dict:
        noticed = Noticed()
        documents = [Document(str(n), "", {"source": "x", "target": t}) for n, t in enumerate(targets)]
        assert len(list(noticed.watch((document, False) for document in documents))) == len(targets)
        return noticed.report()

    assert seen(["b", "a", "b"]) == {"labels": ["a", "b"]}
    assert seen(["a", "b"]) == {}  # no target comes twice: these are answers
    assert seen([str(n) for n in range(21)] * 4) == {}
    assert len(seen([str(n) for n in range(1000)] * 5)["labels"]) == 1000
    assert seen([str(n) for n in range(1001)] * 5) == {}
    many = [str(n) for n in range(1000)]
    assert labels_in([{"labels": many}, {"labels": ["0", "1"]}]) == sorted(many)
    assert labels_in([{"labels": many}, {"labels": ["x", "y"]}]) == []
    assert labels_in([{"labels": many}, {}]) == labels_in([]) == []


def test_one_text_and_a_file_that_goes_on_where_it_stopped(reader, works, tmp_path):
    shown = works("classify", reader, "天气真好", "--labels", *LABELS).splitlines()
    assert [line.split("\t")[0] for line in shown] != []
    assert sum(float(line.split("\t")[1]) for line in shown) == pytest.approx(1, abs=1e-3)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"text": "a", "label": "good"}, {"source": "好的", "n": 2}, {"text": "c", "score": 0.5}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("classify", reader, "--labels", *LABELS, "--input", source, "--output")
    works(*words, out)
    made = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["prediction"] in LABELS for row in made] == [True] * 3
    # the records are kept as they were, a column that has our name under another
    assert (made[0]["label"], made[1]["n"], made[2]["input_score"]) == ("good", 2, 0.5)
    whole = out.read_text(encoding="utf-8")
    out.write_text(whole.splitlines(keepends=True)[0], encoding="utf-8")
    works(*words, out)
    assert out.read_text(encoding="utf-8") == whole
    works(*words, tmp_path / "labels.txt")
    lines = (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [row["prediction"] for row in made]


def test_lines_of_a_pipe_are_classified_line_by_line(reader, works, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\n天气\n"))
    shown = works("classify", reader, "--labels", "good", "bad").split("\n")
    assert [line in ("good", "bad") for line in shown] == [True, False, True, False]


def test_accuracy_and_macro_f1_with_their_settings(reader, works, tmp_path):
    data, out = tmp_path / "test.csv", tmp_path / "scores.json"
    data.write_text("review,mood\nfine day,good\nrain,bad\n坏天气,bad\n", encoding="utf-8")
    words = ["evaluate", reader, "--task", "classify", "--data", data, "--out", out]
    works(*words, "--field", "source=review", "--field", "target=mood")
    scores = {row["metric"]: row for row in json.loads(out.read_text(encoding="utf-8"))["results"]}
    assert set(scores) == {"accuracy", "macro_f1"}
    assert scores["accuracy"]["n"] == 3
    assert scores["accuracy"]["decoding"] == "likelihood|labels:2|compared:whole"


def test_bad_input_is_one_line(model, reader, refuses, tmp_path):
    data = tmp_path / "test.jsonl"
    rows = [("a", "good"), ("b", "sad"), ("c", "mad"), ("d", "sad")]
    data.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows), "utf-8")
    evaluate = ("evaluate", reader, "--task", "classify", "--data", data)
    message = refuses(*evaluate, "--labels", "good", "bad")
    assert "labels that are not among good, bad: mad, sad (first: " in message
    assert message.endswith("test.jsonl#3); name all of them with --labels, or correct the data")
    assert "has no column 'mood'; found: source, target" in refuses(*evaluate, "--field", "target=mood")
    (tmp_path / "plain.jsonl").write_text('{"text": "a"}\n', "utf-8")
    assert "holds text; a text and its label are needed, neither empty: --field source=TEXT" in refuses(
        *evaluate[:-1], tmp_path / "plain.jsonl"
    )
    with pytest.raises(ConfigError, match="labels='ab' is one text; give a list of labels"):
        plait.classify(reader, "x", "ab")
    assert "labels must be two or more different words, not 'a'" in refuses(
        "classify", reader, "x", "--labels", "a"
    )
    assert "name them: --labels good bad" in refuses("classify", reader, "x")
    assert "the text is empty" in refuses("classify", reader, " ", "--labels", "a", "b")
    assert "takes 201 tokens and its longest answer 2, more than the model's context of 128" in refuses(
        "classify", reader, "x" * 200, "--labels", "a", "b"
    )
    assert "classify compares labels and searches nothing" in refuses(*evaluate, "--beams", 4)
    assert "--labels and --per-token are for --task classify, not answer" in refuses(
        "evaluate", reader, "--task", "answer", "--data", data, "--per-token"
    )
