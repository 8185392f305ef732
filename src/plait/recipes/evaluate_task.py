"""`plait evaluate MODEL --task NAME`: the model answers every question of the data, and is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plait import __version__, log
from plait.data.notice import elsewhere_text
from plait.errors import InputError
from plait.eval import outputs
from plait.eval.options import Options
from plait.eval.scores import Score, describe_data, signature
from plait.infer.engine import Engine
from plait.infer.params import BeamParams
from plait.infer.search import BATCH
from plait.recipes.answer import tell_cut
from plait.recipes.apply import made_with, tell_unfinished, with_remedy
from plait.recipes.evaluate_outputs import PLAIN, Paths, advise
from plait.recipes.questions import read_questions
from plait.tasks import answer as qa
from plait.tasks import classify, complete
from plait.tasks.task import Task, answer, check, find_task, room_of
from plait.text.document import Document


def task_of(
    name: str,
    data: Paths,
    *,
    format: str = "auto",
    fields: Mapping[str, str | int] | None = None,
    limit: int | None = None,
    metrics: Sequence[str] = (),
    options: Options = PLAIN,
    truncate: bool = False,
    **given: Any,
) -> Callable[[Engine], list[Score]]:
    """What scores an engine on the questions of some data, which are read at once.

    Args:
        data, format, fields, limit: see `plait.recipes.questions.read_questions`.
        metrics, options, truncate: see `evaluate_task`.
        given: `decoding` (fields of `BeamParams` that differ from the task's own), `batch`, and of classify
            `labels` and `per_token`.

    Raises:
        ConfigError, InputError, MissingExtra: a task, metric, option or data that cannot be used.
    """
    task = find_task(name)
    outputs.rehearse(*scored_by(task, metrics, options))
    read = read_questions(task, data, format, fields, limit)

    def measure(engine: Engine) -> list[Score]:
        scores = _evaluate(
            task, engine, read.documents, metrics=metrics, options=options, truncate=truncate, **given
        )
        asked = {"limit": limit, "truncate": truncate, "skipped": read.skipped}
        how = signature(**{name: value for name, value in asked.items() if value})
        files = None if read.files is None else describe_data(read.files)
        return [
            replace(score, data=files or score.data, signature="|".join(filter(None, (score.signature, how))))
            for score in scores
        ]

    return measure


def _evaluate(
    task: Task,
    engine: Engine,
    questions: Sequence[Document],
    *,
    decoding: Mapping[str, Any],
    labels: Sequence[str] = (),
    per_token: bool = False,
    truncate: bool = False,
    **options: Any,
) -> list[Score]:
    """The scores of any task."""
    name = task.name
    if name == "classify":
        return evaluate_labels(
            engine, questions, labels=labels, per_token=per_token, truncate=truncate, **options
        )[0]
    beams = task.decoding_with(decoding)
    if name == "answer":
        return evaluate_answers(engine, questions, decoding=beams, truncate=truncate, **options)[0]
    if name == "complete":
        return evaluate_completions(engine, questions, decoding=beams, truncate=truncate, **options)[0]
    return evaluate_task(engine, task, questions, decoding=beams, truncate=truncate, **options)[0]


def evaluate_task(
    engine: Engine,
    task: Task,
    questions: Sequence[Document],
    *,
    metrics: Sequence[str] = (),
    options: Options = PLAIN,
    decoding: BeamParams | None = None,
    batch: int = BATCH,
    truncate: bool = False,
    prompts: list[list[int]] | None = None,
) -> tuple[list[Score], list[str]]:
    """Scores of a model's best answers, and the answers.

    Where a task has groups, each metric is told of each group, and their mean as `metric, mean of 20 groups`.

    Args:
        truncate: read the beginning of a text that does not fit the model's context, in place of an error.
        prompts: the questions as the model reads them, where that is not as `plait.tasks.task.check` says.

    Raises:
        InputError: no question, or one without an answer to compare with.
    """
    references = _references(task, questions)
    decoding = decoding or task.decoding
    if prompts is None:
        room = room_of(engine, decoding) if truncate else None
        prompts = with_remedy(lambda some: check(engine, task, some, room=room), truncate)(questions)
    with log.progress(f"{task.name}: answers", len(questions)) as bar:
        found = answer(engine, prompts, decoding, batch=batch, advance=bar.advance)
    hypotheses = [best[0][0] if best else "" for best in found]
    tell_unfinished(best[0][1].finish_reason for best in found if best)
    scores = _scores(task, questions, metrics or task.metrics, options, hypotheses, references)
    return _made(scores, task, engine, decoding.describe()), hypotheses


def scored_by(task: Task, metrics: Sequence[str], options: Options) -> tuple[Sequence[str], Options]:
    """What a task is scored by unless something else is asked for; of answers the language decides."""
    if metrics or task.name != "answer":
        return metrics or task.metrics, options
    return qa.metrics_for(options.lang), replace(options, lang=None)


def evaluate_answers(
    engine: Engine,
    questions: Sequence[Document],
    *,
    metrics: Sequence[str] = (),
    options: Options = PLAIN,
    decoding: BeamParams | None = None,
    batch: int = BATCH,
    truncate: bool = False,
) -> tuple[list[Score], list[str]]:
    """Scores of the answers to questions, by the metrics of their language; arguments as in `evaluate_task`.

    Answers that stand in no context are told.

    Raises:
        InputError: no question, or an empty one.
    """
    decoding = decoding or qa.TASK.decoding
    asked = [qa.as_question(engine, question, decoding, truncate=truncate) for question in questions]
    tell_cut(asked)
    count, first = qa.elsewhere(questions)
    if count:
        log.warn(elsewhere_text(count, first))
    metrics, options = scored_by(qa.TASK, metrics, options)
    prompts = [question.prompt for question in asked]
    return evaluate_task(
        engine, qa.TASK, questions, metrics=metrics, options=options, decoding=decoding, batch=batch,
        prompts=prompts,
    )  # fmt: skip


def evaluate_completions(
    engine: Engine,
    questions: Sequence[Document],
    *,
    decoding: BeamParams,
    truncate: bool = False,
    **options: Any,
) -> tuple[list[Score], list[str]]:
    """Scores of the middles that a model fills in, and these; `options` as in `evaluate_task`.

    Args:
        truncate: of a prefix and a suffix that do not fit, read what is nearest to the middle.

    Raises:
        InputError: see `plait.tasks.complete.completion_prompt` and `evaluate_task`.
        ModelError: a model that continues no text, or has not learned to fill in a middle.
    """
    room = room_of(engine, decoding) if truncate else None
    read = with_remedy(
        lambda some: [complete.completion_prompt(engine, one, room=room) for one in some], truncate
    )
    return evaluate_task(
        engine, complete.TASK, questions, prompts=read(questions), decoding=decoding, **options
    )


def evaluate_labels(
    engine: Engine,
    questions: Sequence[Document],
    *,
    labels: Sequence[str] = (),
    per_token: bool = False,
    truncate: bool = False,
    metrics: Sequence[str] = (),
    options: Options = PLAIN,
    batch: int = BATCH,
) -> tuple[list[Score], list[str]]:
    """Scores of the labels that a model finds most probable, and these labels.

    Args:
        labels: those to choose from; see `plait.tasks.classify.labels_of`.
        per_token: see `plait.tasks.classify.classify`.
        truncate: as in `evaluate_task`.

    Raises:
        InputError: no question, one without a label, or with one that is not among the labels.
    """
    task = classify.TASK
    references = _references(task, questions)
    names = classify.labels_of(engine, labels, questions)
    read = with_remedy(lambda some: classify.questions_of(engine, some, names, truncate=truncate), truncate)
    asked = read(questions)
    with log.progress("classify: texts", len(questions)) as bar:
        found = classify.classify(engine, asked, names, per_token=per_token, batch=batch, advance=bar.advance)
    said = [one.label for one in found]
    scores = _scores(task, questions, metrics or task.metrics, options, said, references)
    how = f"likelihood|labels:{len(names)}|compared:{'per_token' if per_token else 'whole'}"
    return _made(scores, task, engine, how), said


def _references(task: Task, questions: Sequence[Document]) -> list[list[str]]:
    if not questions:
        raise InputError(f"the data hold no question for the task {task.name}; see --format and --field")
    return [task.references(question) for question in questions]


def _made(scores: Iterable[Score], task: Task, engine: Engine, how: str) -> list[Score]:
    """Scores with all they depend on."""
    version = f"plait:{__version__}"  # that some metrics name too

    def signed(score: Score) -> str:
        metric = [part for part in score.signature.split("|") if part != version]
        return "|".join([*metric, made_with(engine, version)])

    return [replace(score, task=task.name, decoding=how, signature=signed(score)) for score in scores]


def _scores(
    task: Task,
    questions: Sequence[Document],
    metrics: Sequence[str],
    options: Options,
    hypotheses: list[str],
    references: list[list[str]],
) -> Iterator[Score]:
    metrics = outputs.expand(metrics, options)
    advise(metrics, options, [answers[0] for answers in references])

    def of(places: Sequence[int]) -> list[Score]:
        chosen = [references[place] for place in places]
        sets = [
            [answers[number] if number < len(answers) else None for answers in chosen]
            for number in range(max(map(len, chosen)))
        ]
        data = describe_data(questions[place].id.rpartition("#")[0] for place in places)
        found = outputs.scores(
            metrics, options, hypotheses=[hypotheses[place] for place in places], references=sets
        )
        return [replace(score, data=data) for score in found]

    whole = of(range(len(questions)))
    yield from whole
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
            data=whole[number].data,
        )
