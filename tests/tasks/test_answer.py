"""Questions: how they are read, with contexts and documents, what does not fit, and how they are scored."""

from __future__ import annotations

import json

import pytest

import plait
from plait.data.pairs import pair_of
from plait.errors import ConfigError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import BeamParams
from plait.recipes.answer import answer as apply_answer
from plait.recipes.answer import index_of
from plait.tasks.answer import TASK, answers_of, as_question, elsewhere, metrics_for, question_of
from plait.tasks.retrieve import Index, passages
from plait.text.document import Document

DECODING = BeamParams(beams=1, max_tokens=8)
QUESTIONS = [
    {"id": "1", "question": "小明住在哪里？", "answers": [{"text": "北京", "answer_start": 4}]},
    {"id": "2", "question": "谁？", "answers": [{"text": "小刚", "answer_start": 0}]},
    {"id": "3", "question": "小刚呢？", "answers": [], "is_impossible": True},
]
PARAGRAPH = {"context": "小明住在北京。小红住在上海。", "qas": QUESTIONS}
SQUAD = {"version": "1.1", "data": [{"title": "t", "paragraphs": [PARAGRAPH]}]}
NOTES = "小明住在北京，他每天早上去公园散步，晚上在家里看书，周末和朋友一起去爬山。\n\n小红住在上海。"


def test_a_question_is_read_as_in_training():
    record = {"context": "Anna is at home.", "question": "Where?", "answers": ["home"]}
    assert question_of(Document("a", "", record)) == pair_of(Document("a", "", record))[0]
    assert question_of(Document("a", "", {"question": "Where?"})) == "Where?"
    assert question_of(Document("a", "Where?")) == "Where?"
    assert answers_of(Document("a", "", record)) == ["home"]
    assert answers_of(Document("a", "", {"question": "x", "answers": []})) == [""]
    assert answers_of(Document("a", "", {"source": "x", "target": "y"})) == ["y"]


def test_a_context_is_cut_to_what_fits_and_a_question_never(model, reader):
    for engine, room in ((Engine(reader), 128), (Engine(model("messages")), 120)):
        (short, long) = (
            as_question(engine, Document("q", "Where is Anna?"), DECODING, context=text, truncate=True)
            for text in ("Anna is here.", "Anna is here. " * 20)
        )
        assert (short.cut, long.cut) == (False, True)
        assert len(short.prompt) < len(long.prompt) == room
        assert "Where is Anna?" in engine.tokenizer.decode(long.prompt)
        own = Document("q", "", {"question": "Where?", "context": "Its own."})
        assert "Its own." in engine.tokenizer.decode(
            as_question(engine, own, DECODING, context="Another.").prompt
        )
        with pytest.raises(PromptError, match="q: "):
            as_question(engine, Document("q", "x" * 200), DECODING)
        with pytest.raises(PromptError, match=r"q: the context and the question are more than"):
            as_question(engine, Document("q", "Where is Anna?"), DECODING, context="Anna is here. " * 20)
        one = len(as_question(engine, Document("q", "x"), DECODING).prompt)
        full = Document("q", "x" * (room - one + 1))
        assert len(as_question(engine, full, DECODING).prompt) == room
        with pytest.raises(PromptError, match=r"q: the context and the question are more than"):
            as_question(engine, full, DECODING, context="Anna.")


def test_a_huge_context_is_never_tokenized_whole(reader, monkeypatch):
    engine, sizes = Engine(reader), []
    encode = engine.tokenizer.encode_plain
    monkeypatch.setattr(
        engine.tokenizer, "encode_plain", lambda text: sizes.append(len(text)) or encode(text)
    )
    question, context = Document("q", "Where is Anna?"), "Anna is here. " * 100_000
    made = as_question(engine, question, DECODING, context=context, truncate=True)
    assert (made.cut, len(made.prompt)) == (True, 128)
    assert 0 < max(sizes) < 10_000


def test_passages_are_shown_as_the_model_knows_contexts(model, reader):
    index = Index(
        passages([Document("notes.txt#1", "Anna is home.\n\n" + "Ben is out and about today. " * 3)])
    )
    question = Document("q", "Where is Anna?")
    for path, numbered in ((reader, False), (model("pairs"), False), (model("messages"), True)):
        engine = Engine(path)
        made = as_question(engine, question, DECODING, index=index, passages=1)
        text = engine.tokenizer.decode(made.prompt)
        assert made.citations == ["notes.txt#1"]
        assert ("[1] notes.txt#1\n" in text) is numbered
        assert "Anna is home." in text
    nothing = as_question(engine, Document("q", "量子?"), DECODING, index=index)
    assert (nothing.citations, nothing.cut) == ([], False)


@pytest.mark.parametrize(
    "record",
    [
        {"source": "Where is Anna?", "target": "home"},
        {"instruction": "Where is", "input": "Anna?", "output": "home"},
        {"source": "Where is Anna?", "target": "home", "question": "Who?", "context": "Ben."},
        {"question": "Where is Anna?", "answers": ["home"]},
    ],
)
def test_every_form_of_question_is_read_below_what_is_given(reader, record):
    engine, question = Engine(reader), Document("q", "", record)
    index = Index(passages([Document("notes.txt#1", "Anna is home.")]))
    for given in ({"context": "Anna is home."}, {"index": index}):
        text = engine.tokenizer.decode(as_question(engine, question, DECODING, **given).prompt)
        asked = "Where is\nAnna?" if "instruction" in record else "Where is Anna?"
        assert text.startswith(f"Anna is home.\n{asked}")


def test_as_many_passages_as_fit(reader):
    engine = Engine(reader)
    text = "\n\n".join(f"Anna number {n} is in room {n}, says the clerk." for n in range(9))
    index = Index(passages([Document("a.txt#1", text)], size=60))
    made = as_question(engine, Document("q", "Where is Anna number 7?"), DECODING, index=index, passages=9)
    assert made.citations[0] == "a.txt#8"
    assert 1 < len(made.citations) < 9
    assert len(made.prompt) <= 128
    one = Index(passages([Document("a.txt#1", "Anna is here and there and everywhere. " * 9)]))
    cut = as_question(engine, Document("q", "Where is Anna?"), DECODING, index=one)
    assert (cut.cut, cut.citations) == (True, ["a.txt#1"])
    assert len(cut.prompt) == 128


def test_one_question_a_file_and_what_is_typed(reader, works, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text(NOTES, "utf-8")
    shown = works("answer", reader, "小明住在哪里？", "--documents", notes, "--max-tokens", 4)
    assert shown.splitlines()[-1].startswith("[")
    assert f"[1] {notes / 'a.txt'}#1" in shown
    (tmp_path / "context.txt").write_text("小明住在北京。", "utf-8")
    asked = (
        "answer",
        reader,
        "小明住在哪里？",
        "--max-tokens",
        4,
        "--beams",
        2,
        "--n",
        2,
    )  # shows the scores
    by_file = works(*asked, "--context", tmp_path / "context.txt")
    assert by_file == works(*asked, "--context", "小明住在北京。") != works(*asked)
    source, out = tmp_path / "q.txt", tmp_path / "a.jsonl"
    source.write_text("小明住在哪里？\nwho?\n", "utf-8")
    words = ("answer", reader, "--input", source, "--output", out, "--documents", notes, "--max-tokens", 4)
    works(*words)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert rows[0]["citations"] == [f"{notes / 'a.txt'}#1"]
    assert rows[1]["citations"] == []
    whole = out.read_text("utf-8")
    out.write_text(whole.splitlines(keepends=True)[0], "utf-8")
    works(*words)
    assert out.read_text("utf-8") == whole
    (found,) = plait.answer(reader, "小明住在哪里？", documents=notes, max_tokens=4)
    assert (found.text, found.citations) == (rows[0]["completion"], rows[0]["citations"])


def test_a_model_that_converses_is_told_the_files_of_passages_and_no_folders(model):
    index = Index(passages([Document("secret/folder/a.txt#1", NOTES)]))
    engine = Engine(model("messages"))
    made = as_question(engine, Document("q", "小明住在哪里？"), DECODING, index=index)
    assert made.citations == ["secret/folder/a.txt#1"]
    prompt = engine.tokenizer.decode(made.prompt)
    assert "[1] a.txt#1\n" in prompt
    assert "secret" not in prompt
    with pytest.raises(ConfigError, match="passages=0 must be at least 1"):
        plait.answer(engine, "who?", documents="secret", passages=0)


def test_what_a_question_is_read_beside_is_no_guess(reader, refuses, tmp_path, capsys):
    asked = ("answer", reader, "who?", "--max-tokens", 2)
    assert "nothere.txt looks like a file and is not there" in refuses(*asked, "--context", "nothere.txt")
    assert "is a folder; name one file or give a text" in refuses(*asked, "--context", tmp_path)
    assert "--context is empty; give a text" in refuses(*asked, "--context", " ")
    (tmp_path / "notes.txt").write_text(NOTES, "utf-8")
    index = index_of(tmp_path / "notes.txt")
    own = Document("q", "", {"question": "小明住在哪里？", "context": "小明住在上海。"})
    made = as_question(Engine(reader), own, DECODING, index=index)
    assert (made.document.record["context"], made.citations, made.sees) == ("小明住在上海。", [], True)
    apply_answer(reader, "xyzzy?", documents=[tmp_path / "notes.txt"], decoding={"max_tokens": 2})
    told = capsys.readouterr().err.replace("\n", " ")
    assert "found nothing in the documents for 1 questions (first: question)" in told


def test_answers_over_other_documents_are_not_mixed(reader, works, refuses, tmp_path):
    source, out = tmp_path / "q.txt", tmp_path / "a.jsonl"
    source.write_text("小明住在哪里？\nwho?\n", "utf-8")
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(NOTES, "utf-8")
    words = ("answer", reader, "--input", source, "--output", out, "--max-tokens", 4, "--documents")
    works(*words, tmp_path / "one.txt")
    assert "name another --output" in refuses(*words, tmp_path / "two.txt")


def test_squad_and_cmrc_files_are_scored_and_lost_answers_told(reader, works, tmp_path):
    data, out = tmp_path / "xquad.json", tmp_path / "scores.json"
    data.write_text(json.dumps(SQUAD), "utf-8")
    evaluate = ["evaluate", reader, "--task", "answer", "--data", data, "--max-tokens", 3, "--out", out]
    works(*evaluate)
    scores = {row["metric"]: row for row in json.loads(out.read_text("utf-8"))["results"]}
    assert set(scores) == {"squad_em", "squad_f1"}
    assert scores["squad_em"]["n"] == 3
    works(*evaluate, "--lang", "zh", "--limit", 2)
    scores = json.loads(out.read_text("utf-8"))["results"]
    assert [row["metric"] for row in scores] == ["cmrc_em", "cmrc_f1"]
    records = [{"context": "c", "question": "?", "answers": [answer]} for answer in "cdd"]
    documents = [Document(f"x#{number}", "", record) for number, record in enumerate(records)]
    assert elsewhere(documents) == (2, "x#1")
    assert metrics_for("zh-Hans") == ("cmrc",)
    assert metrics_for(None) == TASK.metrics


def test_answers_that_stand_in_no_context_are_told_once(reader, tmp_path, capsys):
    from plait.recipes.evaluate import evaluate

    data = tmp_path / "xquad.json"
    data.write_text(json.dumps(SQUAD), "utf-8")
    evaluate(reader, task="answer", data=data, decoding={"max_tokens": 2})
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("1 answers not found in their context") == 1
    assert "xquad.json#2)" in shown.replace(" ", "")


def test_bad_input_is_one_line(model, reader, refuses, tmp_path):
    assert "the text is empty" in refuses("answer", reader, "  ")
    (tmp_path / "q.jsonl").write_text('{"question": " ", "context": "c"}\n', "utf-8")
    message = refuses("answer", reader, "--input", tmp_path / "q.jsonl")
    assert "q.jsonl#1 holds an empty question; a question is needed" in message
    (tmp_path / "a.csv").write_text("context,question,answer\nc,who?,Ann\n", "utf-8")
    message = refuses("evaluate", reader, "--task", "answer", "--data", tmp_path / "a.csv")
    assert "a.csv#1 holds answer, context, question; `answers` are needed to score it" in message
    assert "'nowhere' does not exist" in refuses("answer", reader, "x?", "--documents", "nowhere")
    (tmp_path / "folder").mkdir()
    message = refuses("answer", reader, "x?", "--documents", tmp_path / "folder")
    assert str(tmp_path / "folder") in message
    both = ("answer", reader, "x?", "--context", "c", "--documents", tmp_path)
    assert "either --context or --documents, not both" in refuses(*both)
    assert "passages=2 is for --documents, and none" in refuses("answer", reader, "x?", "--passages", 2)
    assert "is a decoder that continues text; `answer` needs a model trained on pairs" in refuses(
        "answer", model("text"), "x?"
    )
