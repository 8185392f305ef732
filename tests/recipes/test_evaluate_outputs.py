"""`plait evaluate` on outputs made elsewhere, as a user sees it."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import sacrebleu

from plait.cli import main
from plait.errors import InputError
from plait.eval.outputs import METRICS, Options
from plait.recipes.evaluate_outputs import evaluate_outputs, evaluate_predictions

OURS = ["The cat sat on the mat.", "", "Nobody saw the river"]
GOLD = ["A cat sat on the mat.", "Nothing", "Nobody saw a river"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ours.txt").write_text("\n".join(OURS) + "\n", encoding="utf-8")
    Path("gold.txt").write_text("\n".join(GOLD) + "\n", encoding="utf-8")
    rows = [{"said": a, "gold": b, "all": [b, a], "n": n} for n, (a, b) in enumerate(zip(OURS, GOLD))]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    Path("both.jsonl").write_text(lines, encoding="utf-8")
    Path("both.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = "".join(f"{a}\t{b}\n" for a, b in zip(["said", "x", "y", "z"], ["gold", *GOLD]))
    Path("gold.tsv").write_text(table, encoding="utf-8")


def run(words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *words.split()])
    return int(end.value.code or 0)


def refused(words: str, capsys) -> str:
    assert run(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_scores_are_printed_kept_and_equal_to_sacrebleus(capsys):
    assert run("--hypotheses ours.txt --references gold.txt --metric bleu --metric chrf --out s.json") == 0
    shown = capsys.readouterr()
    wanted = sacrebleu.corpus_bleu(OURS, [GOLD]).score
    assert f"{wanted:.2f}" in shown.out
    assert "95 % interval" in shown.out
    assert "tok:13a" in shown.err
    kept = json.loads(Path("s.json").read_text(encoding="utf-8"))
    assert kept["model"] == "ours.txt"
    assert [row["metric"] for row in kept["results"]] == ["bleu", "chrf"]
    assert kept["results"][0]["value"] == wanted
    assert [row["path"] for row in kept["results"][0]["data"]] == ["ours.txt", "gold.txt"]


def test_every_form_of_the_same_texts_gives_the_same_score(capsys):
    forms = [
        ("ours.txt", ["gold.txt"], []),
        ("both.jsonl", ["gold.txt"], ["hypotheses=said"]),
        ("both.jsonl.gz", ["both.jsonl"], ["hypotheses=said", "references=gold"]),
        ("ours.txt", ["gold.tsv"], ["gold"]),
        ("ours.txt", ["gold.tsv"], ["references=gold"]),
    ]
    values = [evaluate_outputs(a, b, "chrf", field=fields)[0].value for a, b, fields in forms]
    assert len(set(values)) == 1
    Path("bare.tsv").write_text("".join(f"x\t{text}\n" for text in GOLD), encoding="utf-8")
    assert evaluate_outputs("ours.txt", "bare.tsv", "chrf", field="1")[0].value == values[0]


def test_several_references_come_from_files_fields_or_lists(capsys):
    forms = [(["gold.txt", "ours.txt"], []), (["both.jsonl"], ["gold", "said"]), (["both.jsonl"], ["all"])]
    scores = [evaluate_outputs("ours.txt", paths, ["bleu"], field=fields)[0] for paths, fields in forms]
    assert [score.value for score in scores] == [pytest.approx(100)] * 3
    assert all("nrefs:2" in score.signature for score in scores)


def test_every_metric_runs_alone_and_all_together(capsys):
    together = evaluate_outputs("ours.txt", "gold.txt", METRICS, compare="gold.txt", out="all.json")
    alone = [score for metric in METRICS for score in evaluate_outputs("ours.txt", "gold.txt", metric)]
    values = {score.metric: score.value for score in alone}
    assert {score.metric: score.value for score in together} == values
    tests = json.loads(Path("all.json").read_text(encoding="utf-8"))["comparisons"]
    assert {row["metric"]: row["values"][0] for row in tests} == pytest.approx(values)
    assert all(row["models"] == ["ours.txt", "gold.txt"] for row in tests)
    assert all([one["path"] for one in row["data"]] == row["models"] for row in tests)
    assert {row["signature"] for row in tests} == {"test:paired bootstrap|bs:1000|seed:12345"}
    assert next(row for row in tests if row["metric"] == "accuracy")["difference"] == -100.0


def test_squad_2_is_recognized_by_a_question_without_an_answer(capsys):
    Path("q.json").write_text(
        json.dumps([{"answers": []}, {"answers": [{"text": "Rome"}]}]), encoding="utf-8"
    )
    Path("a.txt").write_text("\nthe Rome\n", encoding="utf-8")
    (score,) = evaluate_outputs("a.txt", "q.json", "squad_f1", field="answers")
    assert score.value == 100.0
    assert "squad:2.0" in score.signature


def test_chinese_without_a_language_is_warned_of(capsys):
    Path("zh.txt").write_text("今天天气很好\n", encoding="utf-8")
    evaluate_outputs("zh.txt", "zh.txt", "rouge1")
    assert "give --lang zh or --lang ja" in capsys.readouterr().err
    (score,) = evaluate_outputs("zh.txt", "zh.txt", "rouge1", options=Options(lang="zh"))
    assert (score.value, "warning" in capsys.readouterr().err) == (100.0, False)


def test_json_is_what_the_file_holds(capsys):
    assert run("--hypotheses ours.txt --references gold.txt --metric accuracy --json") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "there is nothing to measure; give MODEL, or --hypotheses and --references"),
        ("--hypotheses ours.txt --references gold.txt", "there is no metric; name one or more with --metric"),
        ("--hypotheses ours.txt --references gold.txt --metric blue", "unknown; did you mean 'bleu'"),
        ("--hypotheses ours.txt --metric bleu", "there are no references; name their file with --references"),
        ("--references gold.txt --metric bleu", "there are no hypotheses; name their file with --hypotheses"),
        ("--hypotheses ours.txt --references short.txt --metric bleu",
         "ours.txt has 3 samples and short.txt 1; give one of each"),
        ("--hypotheses ours.txt --references gold.txt --compare short.txt --metric bleu",
         "ours.txt has 3 samples and short.txt 1"),
        ("--hypotheses ours.txt --references both.jsonl --field sais --metric bleu",
         "both.jsonl:1 has no field 'sais'; did you mean 'said'?; found: said, gold, all, n"),
        ("--hypotheses ours.txt --references both.jsonl --metric bleu",
         "both.jsonl holds records with said, gold, all, n; name a field: --field references=NAME"),
        ("--hypotheses both.jsonl --references gold.txt --field said --field gold --metric bleu",
         "both.jsonl needs one field, not said, gold; --field hypotheses=NAME"),
        ("--hypotheses ours.txt --references gold.txt --field said --metric bleu",
         "--field said is for files of records; ours.txt, gold.txt are read as lines"),
        ("--hypotheses both.jsonl --references gold.txt --field all --metric bleu",
         "both.jsonl:1: 'all' holds a list, as references may; give one text, or are --hypotheses and"),
        ("--hypotheses gold.tsv --references both.jsonl --field hypotheses=n --field references=gold "
         "--metric bleu", "gold.tsv:2 has no field 'n'; both.jsonl has it, are --hypotheses and"),
        ("--hypotheses ours.txt --hypotheses gold.txt --references gold.txt --metric bleu",
         "--hypotheses takes one file, not 2; --references takes several, are the two swapped?"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --stem", "--stem is for rouge"),
        ("--hypotheses ours.txt --references gold.txt --metric accuracy --tokenize zh", "--tokenize is for"),
        ("--hypotheses gold.txt --references ours.hyp --metric bleu",
         "gold.txt and ours.hyp look like references and hypotheses by their names; are "
         "--hypotheses and --references swapped? If not, rename one"),
        ("--hypotheses gold.txt --references made.jsonl --field completion --metric bleu",
         "made.jsonl, the references, holds answers made with model:a; are --hypotheses and"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --limit 3", "--limit is for a MODEL"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --beams 3", "--beams is for a MODEL"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --batch 9", "--batch is for a MODEL"),
        ("--hypotheses gold.tsv --references empty.csv --field hypotheses=n --field references=gold "
         "--metric bleu", "gold.tsv:2 has no field 'n'"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --task bbq", "--task and --data are for"),
        ("run --hypotheses ours.txt --references gold.txt --metric bleu", "'run' would be a MODEL"),
        ("--hypotheses . --references gold.txt --metric bleu", "name one with a sample on each line"),
        ("--hypotheses none.txt --references gold.txt --metric bleu", "'none.txt' does not exist"),
        ("--hypotheses ours.txt --references gold.txt --metric bleu --out gold.txt", "holds no scores"),
        ("--predictions both.jsonl --field said", "record 1 lacks 'ans0' of BBQ; found: said"),
        ("--predictions both.jsonl --field said --task answer", "is for --task bbq, not answer; use"),
        ("--predictions both.jsonl --task bbq", "--field names what holds the predictions of both.jsonl"),
        ("--predictions both.jsonl --task bbq --field answer", "both.jsonl:1 has no field 'answer'"),
        ("--predictions both.jsonl --task bbq --field said", "record 1 lacks 'ans0' of BBQ; found: said"),
        ("--predictions both.jsonl --task bbq --field n", "both.jsonl:1: 'n' must be text"),
        ("--predictions ours.txt --task bbq --field said", "ours.txt holds no records; give .jsonl"),
        ("--predictions both.jsonl --task bbq --field said --metric bleu", "has its metrics from --task"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(words, message, capsys):
    Path("short.txt").write_text("one\n", encoding="utf-8")
    Path("empty.csv").write_text("said,gold\n", encoding="utf-8")
    shutil.copy("ours.txt", "ours.hyp")
    made = '{"id": "a#1", "target": "b", "completion": "a", "made_with": "model:a"}\n'
    Path("made.jsonl").write_text(made * 3, encoding="utf-8")
    assert message in refused(words, capsys)


@pytest.mark.parametrize(
    ("hypotheses", "references", "told"),
    [
        ("ours.txt", "test.output.txt", "test.output.txt, the references, looks like outputs by its name;"),
        ("test.hyp", "model.hyp", "model.hyp, the references, looks like outputs by its name;"),
        ("targets.txt", "gold.de", ""),
        ("targets.txt", "test.de", "targets.txt, the hypotheses, looks like references by its name;"),
        ("refs/t.txt", "test.de", "refs/t.txt, the hypotheses, looks like references by its name;"),
        ("hyps/t.txt", "refs/t.txt", ""),
        ("out/hyp.txt", "out/ref.txt", ""),
        ("out/a.txt", "out/b.txt", ""),
        ("test.hyp-ref.txt", "test.de", ""),
    ],
)
def test_names_that_look_like_the_other_side_are_warned_of(hypotheses, references, told, capsys):
    for path in (hypotheses, references):
        Path(path).parent.mkdir(exist_ok=True)
        shutil.copy("gold.txt", path)
    assert run(f"--hypotheses {hypotheses} --references {references} --metric chrf --lang zh") == 0
    error = capsys.readouterr().err
    assert told in error if told else "swapped" not in error


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        ("ref.txt", "hypo.txt"), ("ref.txt", "candidates.txt"), ("target.txt", "translations.txt"),
        ("refs/t.txt", "hyps/t.txt"), ("test.de", "hyp.txt"), ("ref.txt", "model.txt"),
    ],
)  # fmt: skip
def test_names_of_the_other_side_are_refused(hypotheses, references, capsys):
    for path in (hypotheses, references):
        Path(path).parent.mkdir(exist_ok=True)
        shutil.copy("gold.txt", path)
    assert "swapped?" in refused(f"--hypotheses {hypotheses} --references {references} --metric chrf", capsys)


def test_a_second_system_is_looked_at_as_the_first_is(capsys):
    shutil.copy("gold.txt", "ref.txt")
    words = "--hypotheses ours.txt --references ours.txt --compare ref.txt --metric chrf"
    assert "ref.txt and ours.txt look like references and hypotheses by their names;" in refused(
        words, capsys
    )


def test_fields_of_one_file_are_refused_the_other_way_round(capsys):
    rows = '{"target": "a cat", "completion": "a cat", "made_with": "model:a"}\n'
    Path("made.jsonl").write_text(rows * 2, encoding="utf-8")
    Path("table.csv").write_text("reference,prediction\na,a\n", encoding="utf-8")
    both = "--field hypotheses={} --field references={} --metric bleu"
    words = f"--hypotheses made.jsonl --references made.jsonl {both.format('target', 'completion')}"
    assert "holds answers made with model:a; are --hypotheses and" in refused(words, capsys)
    words = f"--hypotheses table.csv --references table.csv {both.format('reference', 'prediction')}"
    assert "swapped?" in refused(words, capsys)


SQUAD = {"data": [{"paragraphs": [{"context": "Rome.", "qas": [
    {"id": "q1", "question": "Where?", "answers": [{"text": "in Rome"}]},
    {"id": "q2", "question": "Who?", "answers": [{"text": "Anna"}]},
    {"id": "q3", "question": "Why?", "answers": []},
]}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("predictions", "field"),
    [
        ({"q2": "Anna", "q3": "", "q1": "Rome", "q9": "else"}, ""),
        ([{"id": "q2", "said": "Anna"}, {"id": "q3", "said": None}, {"id": "q1", "said": "Rome"}],
         "--field hypotheses=said"),
    ],
)  # fmt: skip
def test_answers_are_matched_by_the_ids_of_questions(predictions, field, capsys):
    Path("dev.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    Path("said.json").write_text(json.dumps(predictions), encoding="utf-8")
    words = f"--hypotheses said.json --references dev.json {field} --field references=answers"
    assert run(f"{words} --metric squad_em --metric squad_f1 --json") == 0
    shown = capsys.readouterr()
    em, f1 = json.loads(shown.out)["results"]
    assert (em["value"], f1["value"]) == (pytest.approx(200 / 3), pytest.approx(100 * (2 / 3 + 2) / 3))
    told = "matched by id" if field else "said.json has 1 answers to questions that dev.json has not"
    assert told in shown.err
    assert ("no output for 1 of 3 samples" in shown.err) == bool(field)


def test_answers_by_id_need_one_to_each_question(capsys):
    Path("dev.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    Path("said.json").write_text(json.dumps({"q1": "Rome", "q2": "Anna"}), encoding="utf-8")
    words = "--hypotheses said.json --references {} --metric squad_em"
    told = refused(words.format("dev.json --field references=answers"), capsys)
    assert "said.json has no answer to 'q3' of dev.json (1 of 3 are missing)" in told
    assert "said.json holds answers by id (q1, q2), and gold.txt no `id`" in refused(
        words.format("gold.txt"), capsys
    )


def test_labels_that_a_table_holds_as_floats_are_integers(capsys):
    Path("labels.jsonl").write_text('{"a": 1.0, "b": "1"}\n{"a": 0.0, "b": 0}\n', encoding="utf-8")
    words = "--hypotheses labels.jsonl --references labels.jsonl --field hypotheses=a --field references=b"
    assert run(f"{words} --metric accuracy --json") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["value"] == 100.0


def test_one_file_may_hold_both_sides_and_a_table_no_header(capsys):
    rows = '{"target": "a cat", "completion": "a cat", "made_with": "model:a"}\n'
    Path("predictions.jsonl").write_text(rows * 2, encoding="utf-8")
    Path("table.tsv").write_text("yes\tyes\nno\tno\n", encoding="utf-8")
    both = "--field hypotheses=completion --field references=target --metric bleu"
    assert run(f"--hypotheses predictions.jsonl --references predictions.jsonl {both}") == 0
    assert run("--hypotheses table.tsv --references table.tsv --field 1 --metric accuracy") == 0
    assert "swapped" not in capsys.readouterr().err


def test_a_file_of_blank_lines_holds_empty_outputs(capsys):
    Path("blank.txt").write_text("\n" * 3, encoding="utf-8")
    assert run("--hypotheses blank.txt --references gold.txt --metric bleu --json") == 0
    (score,) = json.loads(capsys.readouterr().out)["results"]
    assert (score["value"], score["n"]) == (0.0, 3)


def test_a_record_that_cannot_be_read_is_no_gap(capsys):
    Path("half.jsonl").write_text('{"said": "\\ud83d"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"half\.jsonl:1 cannot be used: lone surrogate"):
        evaluate_outputs("half.jsonl", "gold.txt", "bleu", field="hypotheses=said")


def test_bbq_refuses_ids_that_two_categories_share_and_tells_of_missing_predictions(shared_data, capsys):
    folder = shared_data / "bbq"
    files = [folder / "data" / f"{name}.jsonl.gz" for name in ("Age", "Religion")]
    with gzip.open(files[0], "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:10]
    said = [{"example_id": row["example_id"], "pred": row["ans0"]} for row in rows]
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    with pytest.raises(InputError, match="more than once; give predictions a `category` too"):
        evaluate_predictions("said.jsonl", field="pred", data=files)
    evaluate_predictions("said.jsonl", field="pred", data=files[0])
    assert "3,670 of 3,680 records of" in capsys.readouterr().err


PUBLISHED = {  # Parrish et al. 2022, figures 3 and 5: ambiguous and disambiguated accuracy, then bias
    "Age": (54.7, 93.5, 29.8, 1.2),
    "Disability_status": (53.3, 92.8, 21.2, -1.4),
    "Nationality": (66.0, 93.7, 6.0, 1.2),
    "Religion": (65.0, 88.0, None, None),
}


@pytest.mark.parametrize("category", PUBLISHED)
def test_bbq_gives_the_published_figures(shared_data, category, capsys):
    predictions = shared_data / "bbq" / "unifiedqa-preds" / f"preds_{category}.jsonl.gz"
    field = "unifiedqa-t5-11b_pred_race"
    scores = {score.metric: score.value for score in evaluate_predictions(predictions, field=field)}
    names = ("accuracy_ambiguous", "accuracy_disambiguated", "bias_ambiguous", "bias_disambiguated")
    for name, published in zip(names, PUBLISHED[category]):
        assert published is None or round(scores[name], 1) == published
    data = shared_data / "bbq" / "data" / f"{category}.jsonl.gz"
    again = evaluate_predictions(predictions, field=field, data=data)
    assert {score.metric: score.value for score in again} == scores
    other = shared_data / "bbq" / "data" / ("Religion.jsonl.gz" if category == "Age" else "Age.jsonl.gz")
    with pytest.raises(InputError, match=f"{category} 0 is not in "):
        evaluate_predictions(predictions, field=field, data=other)


def test_dialogsum_gives_the_published_rouge(shared_data, capsys):
    folder = shared_data / "dialogsum"
    scores = evaluate_outputs(
        folder / "bart-large.test_output.txt", folder / "dialogsum.test.jsonl.gz",
        ["rouge1", "rouge2", "rougeL"], field="summary1", options=Options(stem=True),
    )  # fmt: skip
    assert [score.value for score in scores] == pytest.approx([45.95, 21.36, 38.72], abs=0.3)
