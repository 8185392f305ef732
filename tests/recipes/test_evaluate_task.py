"""`plait evaluate MODEL --task NAME`: what is asked, and scores equal to those of a file of the answers."""

from __future__ import annotations

import json
import re

import pytest

from plait.errors import ConfigError, InputError, ModelError
from plait.eval.options import Options
from plait.infer.params import Hypothesis
from plait.recipes import evaluate_task
from plait.recipes.apply import apply_task
from plait.recipes.evaluate import evaluate
from plait.recipes.evaluate_outputs import evaluate_outputs

pytest.importorskip("sacrebleu")

SOURCES = ["one", "two words", "three"]
TARGETS = ["a first target here", "the second one", "and a third target here"]
BABI = "1 Ann went home.\n2 Where is Ann?\thome\t1\n3 Ann is tired.\n4 How is Ann?\ttired\t3\n"


@pytest.fixture
def two_files(tmp_path):
    paths = [tmp_path / "test.en", tmp_path / "test.de"]
    for path, lines in zip(paths, (SOURCES, TARGETS)):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return paths


@pytest.fixture
def says(monkeypatch):
    """A model that answers as told; what it was asked is kept."""
    asked: list[str] = []

    def set_to(answers: list[str]) -> list[str]:
        def answer(engine, prompts, decoding, **options):
            asked.extend(engine.tokenizer.decode(prompt, skip_special=True) for prompt in prompts)
            return [[(text, Hypothesis([], 0.0, [], "stop" if text else "length"))] for text in answers]

        monkeypatch.setattr(evaluate_task, "answer", answer)
        return asked

    return set_to


def rows(scores) -> dict[str, float]:
    return {score.metric: score.value for score in scores}


def test_the_scores_are_those_of_the_same_outputs_in_a_file(tiny_pairs, two_files, tmp_path):
    source, target = two_files
    decoding = {"beams": 2, "max_tokens": 8}
    apply_task("translate", tiny_pairs, input=source, output=tmp_path / "out.txt", decoding=decoding)
    given = {"metric": ["bleu", "chrf", "chrf++"], "options": Options(tokenize="none")}
    made = evaluate(tiny_pairs, task="translate", data=two_files, decoding=decoding, **given)
    again = evaluate_outputs([tmp_path / "out.txt"], [target], ["bleu", "chrf", "chrf++"],
                             options=Options(tokenize="none"))  # fmt: skip
    assert rows(made) == pytest.approx(rows(again))
    for score, other in zip(made, again):
        assert score.interval == pytest.approx(other.interval)
        assert score.signature.startswith(other.signature + "|model:tiny-pairs@")
        assert "|dtype:float32|plait:" in score.signature
        assert score.decoding == "beams:2|max_tokens:8"
        assert [data["path"] for data in score.data] == [str(source), str(target)]
        assert (score.task, score.n) == ("translate", 3)


def test_right_answers_score_best_and_the_language_is_used(tiny_pairs, two_files, says, tmp_path, capsys):
    asked = says(TARGETS)
    scores = evaluate(
        tiny_pairs, task="translate", data=two_files, options=Options(lang="zh"), out=tmp_path / "s.json"
    )
    assert asked == SOURCES
    assert rows(scores) == pytest.approx({"bleu": 100, "chrf": 100})
    assert "tok:zh" in scores[0].signature
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["results"][0]["task"] == "translate"


def test_answers_without_an_end_are_told(tiny_pairs, two_files, says, tmp_path, capsys):
    says(["", TARGETS[1], ""])
    evaluate(tiny_pairs, task="translate", data=two_files, metric=["accuracy"])
    assert "answers that --max-tokens or the context left unfinished: 2" in capsys.readouterr().err
    shortest = {"max_tokens": 1}
    apply_task("translate", tiny_pairs, input=two_files[0], output=tmp_path / "out", decoding=shortest)
    assert re.search(r"left unfinished: [123]\n", capsys.readouterr().err)


def test_scan_is_right_where_every_action_is(tiny_pairs, tmp_path, says):
    path = tmp_path / "scan.txt"
    path.write_text("IN: jump twice OUT: I_JUMP I_JUMP\nIN: walk OUT: I_WALK\n", encoding="utf-8")
    asked = says(["I_JUMP I_JUMP", "I_WALK I_WALK"])
    (score,) = evaluate(tiny_pairs, task="scan", data=path)
    assert asked == ["jump twice", "walk"]
    assert (score.metric, score.value, score.n) == ("accuracy", 50.0, 2)


def test_two_files_of_a_layout_are_no_aligned_lines(tiny_pairs, tmp_path, says):
    paths = [tmp_path / "qa1_test.txt", tmp_path / "qa15_test.txt"]
    for path in paths:
        path.write_text(BABI, encoding="utf-8")
    asked = says(["home", "tired", "home", "hungry"])
    scores = rows(evaluate(tiny_pairs, task="babi", data=paths))
    assert asked[:2] == ["Ann went home.\nWhere is Ann?", "Ann went home.\nAnn is tired.\nHow is Ann?"]
    assert scores == {
        "accuracy": 75.0,
        "accuracy, task 01": 100.0,
        "accuracy, task 15": 50.0,
        "accuracy, mean of 2 groups": 75.0,
    }


def test_the_mean_of_groups_counts_each_the_same(tiny_pairs, tmp_path, says):
    paths = [tmp_path / "qa1_test.txt", tmp_path / "qa2_test.txt"]
    paths[0].write_text(BABI, encoding="utf-8")
    paths[1].write_text("".join(BABI.splitlines(keepends=True)[:2]), encoding="utf-8")
    says(["home", "tired", "nowhere"])
    made = evaluate(tiny_pairs, task="babi", data=paths)
    named = [[read["path"] for read in score.data] for score in made]
    assert named == [list(map(str, paths)), [str(paths[0])], [str(paths[1])], list(map(str, paths))]
    scores = rows(made)
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert scores["accuracy, mean of 2 groups"] == 50.0
    # a name that stands for several metrics shifts none of the others
    says(["home", "tired", "nowhere"])
    scores = rows(evaluate(tiny_pairs, task="babi", data=paths, metric=["rouge", "accuracy", "accuracy"]))
    assert scores["accuracy, mean of 2 groups"] == 50.0
    assert scores["rougeL, mean of 2 groups"] == 50.0


def test_each_response_of_a_dialogue_is_asked_for(tiny_pairs, tmp_path, says):
    path = tmp_path / "dialog-babi-task1.txt"
    path.write_text("1 hi\thello\n2 a table\tfor how many\n\n1 bye\tgoodbye\n", encoding="utf-8")
    asked = says(["hello", "for two", "goodbye"])
    (score,) = evaluate(tiny_pairs, task="dialog-babi", data=path)
    assert asked == ["hi", "hi\nhello\na table", "bye"]
    assert score.value == pytest.approx(200 / 3)


def test_each_response_of_a_conversation_is_asked_for(tiny_pairs, tmp_path, says):
    said = [("system", "be kind"), ("assistant", "hi"), ("user", "一"), ("assistant", "二"), ("user", "三")]
    talk = {"messages": [{"role": role, "content": text} for role, text in said]}
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(talk) + "\n", encoding="utf-8")
    asked = says(["二"])
    scores = evaluate(tiny_pairs, task="chat", data=path)
    assert asked == ["be kind\nhi\n一"]  # a greeting is no response
    assert rows(scores) == {"accuracy": 100.0, "chrf": 100.0}
    path.write_text(json.dumps({"messages": talk["messages"][:3]}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="the data hold no question for the task chat"):
        evaluate(tiny_pairs, task="chat", data=path)


def test_only_the_first_are_asked(tiny_pairs, two_files, says):
    says(TARGETS[:2])
    scores = evaluate(tiny_pairs, task="translate", data=two_files, limit=2)
    assert (scores[0].n, scores[0].value) == (2, pytest.approx(100))
    assert scores[0].signature.endswith("|limit:2")


def test_records_with_an_empty_cell_are_counted_and_left_out(tiny_pairs, says, tmp_path, capsys):
    table = tmp_path / "test.csv"
    table.write_text("source,target\none,eins\n,zwei\nthree,  \nfour,vier\n", encoding="utf-8")
    asked = says(["eins", "vier"])
    scores = evaluate(tiny_pairs, task="translate", data=table, metric=["accuracy"])
    assert (asked, scores[0].n, scores[0].value) == (["one", "four"], 2, 100)
    told = capsys.readouterr().err.replace("\n", " ")
    assert "2 skipped that cannot be scored; the first:" in told
    assert "test.csv#2 holds source, target; a source or text is needed, and may not be empty" in told
    says(["eins"])
    first, *_ = evaluate(tiny_pairs, task="translate", data=table, metric=["accuracy"], limit=1)
    assert first.n == 1
    says(["eins", "vier"])
    first, *_ = evaluate(tiny_pairs, task="translate", data=table, metric=["accuracy"], limit=2)
    assert first.signature.endswith("|limit:2|skipped:2")
    for name, lines in (("s.txt", "one\ntwo\nfour\n"), ("t.txt", "eins\n\nvier\n")):
        (tmp_path / name).write_text(lines, encoding="utf-8")
    says(["eins", "vier"])
    files = [tmp_path / "s.txt", tmp_path / "t.txt"]
    first, *_ = evaluate(tiny_pairs, task="translate", data=files, metric=["accuracy"])
    assert (first.n, first.signature.endswith("|skipped:1")) == (2, True)
    assert "skipped in the input: 1 × pair with an empty side" in capsys.readouterr().err
    table.write_text("source,target\n,zwei\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test\.csv#1 holds source, target; a source or text is needed"):
        evaluate(tiny_pairs, task="translate", data=table)


def test_what_cannot_be_measured_is_refused(tiny_pairs, tiny_model, two_files, tmp_path):
    def refused(error, message, model=tiny_pairs, **given) -> None:
        with pytest.raises(error, match=message):
            evaluate(model, **{"data": two_files, "task": "translate"} | given)

    refused(ConfigError, "task 'translation' is unknown; did you mean 'translate'", task="translation")
    refused(ModelError, "tiny-pairs is an encoder-decoder, which gives no probability", task="perplexity")
    refused(ConfigError, "perplexity is one measure", tiny_model, task="perplexity", metric=["bleu"])
    refused(ConfigError, "perplexity is one measure", tiny_model, task="perplexity", decoding={"beams": 2})
    refused(ConfigError, "--context and --stride are for perplexity", context=8)
    refused(ConfigError, "batch=0 must be at least 1", batch=0)
    refused(InputError, "fields rename columns, and format=parallel has none", fields={"source": "en"})
    refused(InputError, "fields rename columns, and format=scan has none", task="scan", fields={"target": 1})
    refused(ConfigError, "n=3 answers are more than the one that is scored", decoding={"n": 3})
    # before a model is so much as looked for
    refused(ConfigError, "bbq scores predictions made elsewhere; give --predictions", "nowhere", task="bbq")
    refused(ConfigError, "--stem is for rouge", "nowhere", task="answer", options=Options(stem=True))
    refused(ConfigError, "metric 'blue' is unknown; did you mean 'bleu'", "nowhere", metric=["blue"])
    lowercase = Options(lowercase=True)
    refused(ConfigError, "--lowercase is for bleu and chrf", "nowhere", metric=["rouge"], options=lowercase)
    text = tmp_path / "a.txt"
    text.write_text("running text\n", encoding="utf-8")
    refused(InputError, "a.txt#1 holds text; a source and a target are needed to score it", data=text)
    short = tmp_path / "short.de"
    short.write_text("eins\n", encoding="utf-8")
    refused(InputError, "test.en has 3 lines and .*short.de 1; aligned files", data=[two_files[0], short])
    refused(InputError, "aligned files need the same number", data=[two_files[0], short], limit=1)
    long = tmp_path / "long.en"
    long.write_text("a\n" + "x" * 50 + "\nb\n", encoding="utf-8")
    refused(InputError, r"long.en#2: source \(51 tokens\) is more than", data=[long, two_files[1]])
