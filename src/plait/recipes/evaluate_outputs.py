"""`plait evaluate --hypotheses`, `plait evaluate --predictions`: scores of outputs made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from plait import log
from plait.errors import ConfigError, InputError
from plait.eval import by_id, outputs, samples
from plait.eval.bootstrap import RESAMPLES, SEED, Paired, paired
from plait.eval.language import primary
from plait.eval.options import Options
from plait.eval.scores import Score, check_replaceable, describe_data, scores_json, signature
from plait.eval.sides import check_sides
from plait.eval.summary import looks_cjk, looks_foreign
from plait.eval.translation import tokenization
from plait.files import write_text

Paths = str | Path | Sequence[str | Path]
PLAIN = Options()


def evaluate_outputs(
    hypotheses: Paths,
    references: Paths,
    metric: str | Sequence[str],
    *,
    compare: str | Path | None = None,
    field: str | Sequence[str] = (),
    options: Options = PLAIN,
    out: str | Path | None = None,
    as_json: bool = False,
) -> list[Score]:
    """Score outputs that lie in a file against references, sample by sample.

    Args:
        hypotheses: one file of outputs: plain lines, or JSON Lines, JSON, CSV, TSV, Parquet; also .gz, .zst.
        references: one file or several, one reference set each; a record may hold a list of references.
        metric: names of `plait.eval.outputs.METRICS`.
        compare: outputs of a second system, compared by a paired bootstrap test.
        field: where files hold records, the field of the text. `NAME` is for all of them, `hypotheses=NAME`
            or `references=NAME` for one side; several fields of the references are several sets.
        out: write the scores here, as `scores.json`; the test of `compare` stands under `comparisons`.
        as_json: print that file's content in place of a table.

    Raises:
        ConfigError: an unknown metric, or an option that no metric has.
        InputError: files that do not fit together or cannot be read.
        MissingExtra: a metric whose package is not installed.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    outputs.expand(metrics, options)
    ours, theirs = _one(listed(hypotheses), listed(references)), listed(references)
    if out is not None:
        check_replaceable(out)
    ours_in, theirs_in = _fields(listed(field), [ours, *theirs])
    texts = _outputs(ours, ours_in, theirs, theirs_in)
    sets = samples.read_references(theirs, theirs_in, ours, len(texts))
    advise(metrics, options, [text for text in sets[0] if text])
    data = describe_data([ours, *theirs])
    made = outputs.scores(metrics, options, hypotheses=texts, references=sets)
    scores = [replace(score, data=data) for score in made]
    tests: dict[str, Paired] = {}
    if compare is not None:
        second = _outputs(str(compare), ours_in, theirs, theirs_in)
        samples.check_length(str(compare), len(second), ours, len(texts))
        one = outputs.statistics(metrics, options, hypotheses=texts, references=sets)
        other = outputs.statistics(metrics, options, hypotheses=second, references=sets)
        tests = {name: paired(one[name].at, other[name].at, len(texts)) for name in one}
    _publish([ours] if compare is None else [ours, str(compare)], scores, tests, out, as_json)
    return scores


def evaluate_predictions(
    predictions: str | Path,
    *,
    task: str | Sequence[str] = "bbq",
    field: str | Sequence[str],
    data: Paths = (),
    out: str | Path | None = None,
    as_json: bool = False,
) -> list[Score]:
    """Score predictions that lie beside the records of a benchmark.

    Args:
        predictions: a file of records, each with its prediction.
        task: `bbq`, also if left out; see `plait.eval.bbq`.
        field: the field that holds the prediction.
        data: the benchmark's own files, which `predictions` then refers to by `example_id` (and `category`).
        out, as_json: as in `evaluate_outputs`.

    Raises:
        ConfigError: another task.
        InputError: files that do not fit together or cannot be read.
    """
    from plait.eval.bbq import bbq

    if listed(task) not in (["bbq"], []):
        raise ConfigError(f"--predictions is for --task bbq, not {' '.join(listed(task))}; use --task bbq")
    names, path, files = listed(field), str(predictions), listed(data)
    if len(names) != 1:
        raise InputError(f"--field names what holds the predictions of {path}; give it once")
    if out is not None:
        check_replaceable(out)
    rows = list(samples.read_records(path))
    said = [samples.cell(row, names[0], place) for _, place, row in rows]
    if wrong := [place for (_, place, _), text in zip(rows, said) if not isinstance(text, str)]:
        raise InputError(f"{wrong[0]}: {names[0]!r} must be text")
    used = describe_data([path, *files])
    scores = [replace(score, data=used) for score in bbq(records=_records(rows, files), predictions=said)]
    _publish([path], scores, {}, out, as_json)
    return scores


def listed(values: Paths) -> list[str]:
    """One path or several, as a list of texts."""
    return [str(values)] if isinstance(values, (str, Path)) else [str(value) for value in values]


def _outputs(path: str, fields: list[str], references: list[str], references_in: list[str]) -> list[str]:
    """What a system has put out, in the order of the references where both have ids."""
    check_sides(path, fields, references, references_in)
    if not fields and (answers := by_id.answers_by_id(path)):
        return by_id.in_order(answers, path, references[0])
    texts = samples.read_hypotheses(path, fields, references)
    return by_id.aligned(texts, path, fields, references[0], references_in)


def _one(hypotheses: list[str], references: list[str]) -> str:
    for side, files in (("hypotheses", hypotheses), ("references", references)):
        if not files:
            raise InputError(f"there are no {side}; name their file with --{side}")
    if len(hypotheses) > 1:
        swapped = " are the two swapped?" if len(references) == 1 else " a second system goes to --compare"
        raise InputError(
            f"--hypotheses takes one file, not {len(hypotheses)}; --references takes several,{swapped}"
        )
    return hypotheses[0]


def _fields(words: list[str], files: list[str]) -> tuple[list[str], list[str]]:
    """`["a", "references=b"]` → `(["a"], ["b"])`: the fields of the hypotheses and of the references."""
    if words and not any(map(samples.has_records, files)):
        read = f"{', '.join(files)} {'is' if len(files) == 1 else 'are'} read as lines"
        raise InputError(f"--field {words[0]} is for files of records; {read}, so leave it out")
    bare = [word for word in words if not word.startswith(("hypotheses=", "references="))]
    ours = [word.partition("=")[2] for word in words if word.startswith("hypotheses=")]
    theirs = [word.partition("=")[2] for word in words if word.startswith("references=")]
    return ours or bare, theirs or bare


def _records(rows: list, files: list[str]) -> list[dict]:
    """The records themselves, or those of the benchmark's own files with the same id."""
    if not files:
        return [row for _, _, row in rows]
    keys = ("category", "example_id") if all("category" in row for _, _, row in rows) else ("example_id",)
    known = {}
    for file in files:
        for _, place, row in samples.read_records(file):
            named = tuple(str(samples.cell(row, key, place)) for key in keys)
            if named in known:
                raise InputError(
                    f"{place}: {' '.join(named)} stands in {', '.join(files)} more than once; "
                    + ("name each file once" if len(keys) > 1 else "give predictions a `category` too")
                )
            known[named] = row
    found = []
    for _, place, row in rows:
        wanted = tuple(str(samples.cell(row, key, place)) for key in keys)
        if wanted not in known:
            raise InputError(f"{place}: {' '.join(wanted)} is not in {', '.join(files)}")
        found.append(known[wanted])
    if without := len(known) - len({id(row) for row in found}):
        log.warn(f"{without:,} of {len(known):,} records of {', '.join(files)} have no prediction")
    return found


def advise(metrics: Sequence[str], options: Options, references: Sequence[str]) -> None:
    """Say what would make scores of this language comparable, where an option is missing."""
    rouge = any(metric.startswith("rouge") for metric in metrics)
    told = options.lang or options.tokenize
    if (rouge or "bleu" in metrics) and not told and looks_cjk(references):
        log.warn("the references look Chinese or Japanese; give --lang zh or --lang ja to tokenize them so")
    elif rouge and not told and looks_foreign(references):
        log.warn(
            "ROUGE sees only letters from a to z; give the language of the references, such as --lang ko"
        )
    if any(metric.startswith("squad") for metric in metrics) and looks_cjk(references):
        log.warn("SQuAD's scores count words between spaces; for Chinese give --metric cmrc")
    japanese = "bleu" in metrics and not options.tokenize and primary(options.lang) == "ja"
    if japanese and tokenization("ja") == "char":
        log.warn("BLEU counts characters, as MeCab is not installed; run: pip install 'sacrebleu[ja]'")


def _publish(
    names: list[str], scores: list[Score], tests: dict[str, Paired], out: str | Path | None, as_json: bool
) -> None:
    text = scores_json(names[0], scores)
    if tests:
        how = {
            "data": describe_data(names),
            "signature": signature(test="paired bootstrap", bs=RESAMPLES, seed=SEED),
        }
        rows = [{"metric": metric, "models": names, **asdict(test), **how} for metric, test in tests.items()]
        content = json.loads(text) | {"comparisons": rows}
        text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    if out is not None:
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
        log.say(f"wrote {out}")
    if as_json:
        print(text, end="")
    else:
        _show(names, scores, tests)


def _show(names: list[str], scores: list[Score], tests: dict[str, Paired]) -> None:
    show_scores(Path(names[0]).name, scores)
    if tests:
        columns = ("metric", "first", "second", "difference", "95 % interval", "p")
        tested = []
        for metric, test in tests.items():
            values = (*(f"{value:.2f}" for value in test.values), f"{test.difference:+.2f}")
            tested.append((metric, *values, _spread(test.difference_interval), f"{test.p_value:.3f}"))
        title = f"{Path(names[0]).name} (first) and {Path(names[1]).name} (second)"
        log.table(title, columns, tested, stdout=True)


def show_scores(title: str, scores: list[Score], *, digits: int = 2) -> None:
    """Print scores as a table, and what they depend on."""
    rows = [
        (score.metric, f"{score.value:.{digits}f}", _spread(score.interval, digits), f"{score.n:,}")
        for score in scores
    ]
    log.table(title, ("metric", "value", "95 % interval", "samples"), rows, stdout=True)
    made = {"|".join(filter(None, (score.signature, score.decoding))): score for score in reversed(scores)}
    for how, score in made.items():
        log.say(f"{score.metric}: {how}")


def _spread(interval: tuple[float, float] | None, digits: int = 2) -> str:
    return "unknown" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)
