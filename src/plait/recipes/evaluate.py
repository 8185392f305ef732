"""`plait evaluate`: scores of a model on data it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plait import log
from plait.errors import ConfigError, InputError, did_you_mean
from plait.eval.options import Options
from plait.eval.scores import Score, check_replaceable, scores_json, write_scores
from plait.infer.params import check_batch
from plait.recipes.evaluate_harness import PREFIX, harness_of
from plait.recipes.evaluate_outputs import PLAIN, listed, show_scores
from plait.recipes.evaluate_perplexity import perplexity_of, show_perplexity
from plait.tasks import TASKS

PERPLEXITY = "perplexity"


def evaluate(
    model: str | Path,
    *,
    task: str | Sequence[str] = "perplexity",
    data: str | Path | Sequence[str | Path] = (),
    limit: int | None = None,
    out: str | Path | None = None,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 8,
    format: str = "auto",
    fields: Mapping[str, str | int] | None = None,
    metric: Sequence[str] = (),
    options: Options = PLAIN,
    labels: Sequence[str] = (),
    per_token: bool = False,
    truncate: bool = False,
    shots: int | None = None,
    decoding: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    as_json: bool = False,
) -> list[Score]:
    """Score a model; the scores are printed, returned, and written to `out` as `scores.json`.

    Args:
        model: a model, step or run directory.
        task: what to measure: perplexity, one of `plait.tasks.TASKS`, or `lm_eval:NAME`, a task of
            lm-evaluation-harness.
        data: files, directories or globs of what it has not seen, read as `plait.text.readers.read` does; two
            plain files for a task are aligned lines, sources and targets. For `lm_eval:NAME`, folders of task
            files; none: the harness's own.
        limit: only the first documents.
        context, stride: window and step over long documents; None: the model's context, and half of it.
        batch: windows or questions computed together; changes the speed, not the result.
        format, fields: how to read the data, as in `plait.text.readers.read`.
        metric, options: of a task, where they are not its own; see `plait.eval.outputs`.
        labels, per_token: of the task classify; see `plait.recipes.evaluate_task.evaluate_labels`.
        truncate: of a task, read the beginning of a text that does not fit the model's context.
        shots: of `lm_eval:NAME`, worked examples before each question; None: as many as the task says.
        decoding: fields of `BeamParams` that differ from the task's own.
        as_json: print the content of `scores.json` in place of a table.

    Returns:
        `plait.eval.scores.Score` objects.

    Raises:
        ConfigError: an unknown task, or sizes that cannot be.
        InputError: data that is missing, unreadable or without text.
        ModelError: the model cannot be loaded.
    """
    names = [task] if isinstance(task, str) else list(task)
    measures = bool(metric or decoding or options != PLAIN)
    _check(
        names, measures, decodes=bool(decoding), windows=bool(context or stride),
        labelled=bool(labels or per_token), shots=shots is not None, truncate=truncate,
        read=bool(fields) or format != "auto",
    )  # fmt: skip
    (name,) = names
    harness = name.startswith(PREFIX)
    if not data and not harness:
        raise InputError("there is nothing to score; name files that the model has not seen with --data")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} must be at least 1 document")
    check_batch(batch)
    if decoding and "n" in decoding:
        raise ConfigError(f"n={decoding['n']} answers are more than the one that is scored; leave n out")
    if out is not None:
        check_replaceable(out)
    # each reads the data, before the model is loaded: they are wrong more often
    if name == PERPLEXITY:
        measure = perplexity_of(
            data, format=format, fields=fields, limit=limit, context=context, stride=stride, batch=batch
        )
    elif harness:
        measure = harness_of(name, listed(data), limit=limit, shots=shots, batch=batch)
    else:
        from plait.recipes.evaluate_task import task_of

        measure = task_of(
            name, data, format=format, fields=fields, limit=limit, metrics=metric, options=options,
            truncate=truncate, decoding=decoding or {}, batch=batch, labels=labels, per_token=per_token,
        )  # fmt: skip

    from plait.infer.engine import Engine

    engine = Engine(model, device=device, dtype=dtype)
    scores = measure(engine)
    if out is not None:
        write_scores(out, str(model), scores)
        log.say(f"wrote {out}")
    if as_json:
        print(scores_json(str(model), scores), end="")
    elif name == PERPLEXITY:
        show_perplexity(engine.name, scores)
    else:
        show_scores(engine.name, scores, digits=4 if harness else 2)  # the harness counts from 0 to 1
    return scores


def _check(
    names: list[str],
    measures: bool,
    *,
    decodes: bool,
    windows: bool,
    labelled: bool,
    shots: bool,
    truncate: bool,
    read: bool,
) -> None:
    """Refuse an unknown task, and what would be ignored by the one that is asked for; raises ConfigError."""
    known = (PERPLEXITY, *TASKS)
    harness = [name for name in names if name.startswith(PREFIX)]
    if "bbq" in names:
        raise ConfigError("bbq scores predictions made elsewhere; give --predictions FILE in place of MODEL")
    for name in names:
        if name not in (*known, *harness):
            raise ConfigError(
                f"task {name!r} is unknown{did_you_mean(name, known)}; use {', '.join(known)} or {PREFIX}NAME"
            )
    if len(names) > 1:
        raise ConfigError(f"tasks read different data; measure {' and '.join(names)} one after the other")
    if not names:
        raise ConfigError(f"no task is named; use {', '.join(known)} or {PREFIX}NAME")
    if shots and not harness:
        raise ConfigError(f"--shots is for --task {PREFIX}NAME, not {names[0]}")
    if truncate and (harness or names == [PERPLEXITY]):
        raise ConfigError(
            f"--truncate is for tasks that read a text whole, such as summarize and classify, not {names[0]}"
        )
    if harness and (measures or read):
        raise ConfigError(
            "a task of lm-eval says itself how data are read, decoded and measured; leave --metric, "
            f"--format, --field, beams and the like out with {names[0]}"
        )
    if names == [PERPLEXITY] and measures:
        raise ConfigError("perplexity is one measure and decodes nothing; metrics and beams are for a --task")
    if names != [PERPLEXITY] and windows:
        raise ConfigError("--context and --stride are for perplexity; leave them out with a --task")
    if names == ["classify"] and decodes:
        raise ConfigError("classify compares labels and searches nothing; leave beams and the like out")
    if names != ["classify"] and labelled:
        raise ConfigError(f"--labels and --per-token are for --task classify, not {names[0]}")
