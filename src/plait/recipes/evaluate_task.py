"""`plait evaluate MODEL --task NAME`: the model answers every question of the data, and is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from plait import __version__, log
from plait.errors import InputError
from plait.eval import outputs
from plait.eval.options import Options
from plait.eval.scores import Score, describe_data
from plait.infer.engine import Engine
from plait.infer.params import BeamParams
from plait.infer.search import BATCH
from plait.recipes.answers_file import holds_records
from plait.recipes.evaluate_outputs import PLAIN
from plait.tasks.task import Task, answer, check
from plait.text.document import Document
from plait.text.readers import read

Paths = str | Path | Sequence[str | Path]


def evaluate_task(
    engine: Engine,
    task: Task,
    questions: Sequence[Document],
    *,
    metrics: Sequence[str] = (),
    options: Options = PLAIN,
    decoding: BeamParams | None = None,
    batch: int = BATCH,
) -> tuple[list[Score], list[str]]:
    """Scores of a model's best answers, and the answers.

    Where a task has groups, each metric is told of each group, and their mean as `metric (mean of groups)`.

    Raises:
        InputError: no question, or one without an answer to compare with.
    """
    if not questions:
        raise InputError(f"the data hold no question for the task {task.name}; see --format and --field")
    references = [task.references(question) for question in questions]
    decoding, prompts = decoding or task.decoding, check(engine, task, questions)
    with log.progress(f"{task.name}: answers", len(questions)) as bar:
        found = answer(engine, prompts, decoding, batch=batch, advance=bar.advance)
    hypotheses = [best[0][0] if best else "" for best in found]
    chosen = metrics or task.metrics
    scores = [
        replace(score, task=task.name)
        for score in _scores(task, questions, chosen, options, hypotheses, references)
    ]
    data = describe_data(question.id.partition("#")[0] for question in questions)
    dtype = str(engine.dtype).removeprefix("torch.")
    made = [
        replace(
            score,
            data=data,
            decoding=decoding.describe(),
            signature=f"{score.signature}|model:{engine.version}|dtype:{dtype}|plait:{__version__}",
        )
        for score in scores
    ]
    return made, hypotheses


def read_questions(
    task: Task, data: Paths, format: str, fields: Mapping[str, str | int] | None
) -> Iterator[Document]:
    """The questions of some files; two plain files are aligned lines, if no other format is named."""
    paths = [str(data)] if isinstance(data, (str, Path)) else [str(path) for path in data]
    if format == "auto":
        plain = not any(map(holds_records, paths))
        format = "parallel" if plain and len(paths) == 2 else task.format
    return task.questions(read(paths, format=format, fields=fields))


def _scores(
    task: Task,
    questions: Sequence[Document],
    metrics: Sequence[str],
    options: Options,
    hypotheses: list[str],
    references: list[list[str]],
) -> Iterator[Score]:
    def of(places: Sequence[int]) -> list[Score]:
        chosen = [references[place] for place in places]
        sets = [
            [answers[number] if number < len(answers) else None for answers in chosen]
            for number in range(max(map(len, chosen)))
        ]
        return outputs.scores(
            metrics, options, hypotheses=[hypotheses[place] for place in places], references=sets
        )

    yield from of(range(len(questions)))
    groups: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        if (group := task.group(question)) is not None:
            groups.setdefault(group, []).append(place)
    each = {group: of(places) for group, places in sorted(groups.items())}
    for group, scores in each.items():
        yield from (replace(score, metric=f"{score.metric}, {group}") for score in scores)
    for number, metric in enumerate(metrics if len(each) > 1 else ()):
        values = [scores[number].value for scores in each.values()]
        first = next(iter(each.values()))[number]
        yield replace(
            first,
            metric=f"{metric}, mean of {len(values)} groups",
            value=sum(values) / len(values),
            interval=None,
            n=len(questions),
        )
