"""`/v1/tasks`: what a model can be asked to do, and how texts travel through a task, some at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from pathlib import PurePath
from typing import Any

from plait.errors import PlaitError, PromptError, about, did_you_mean
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, Hypothesis, SamplingParams
from plait.serve.inputs import whole_characters
from plait.serve.problems import ApiError
from plait.serve.requests import AnswersAsked, LabelsAsked, SearchAsked
from plait.serve.worker import TURN, Stream
from plait.tasks import answer as qa
from plait.tasks.classify import Question, classify, fit, label_ids, labels_of, question_of
from plait.tasks.conversation import converses
from plait.tasks.retrieve import Index
from plait.tasks.shorten import shorten
from plait.tasks.task import Task, answer, check, find_task, prompt_of, room_of, source_of
from plait.text.document import Document

SERVED = ("translate", "summarize", "answer", "classify")
ROWS = 32  # sequences computed together, after which others go first

Work = Callable[[], Generator[Any, None, None]]
Result = tuple[int, list[dict[str, Any]], int]  # the text's number, its answers, the tokens written for them


class TaskReply:
    """The answers to all texts, as they are found; `notes` are what else is told of each text."""

    def __init__(self, model: str, task: str, prompts: list[list[int]], notes: list[dict[str, Any]]) -> None:
        self.model, self.task, self.notes = model, task, notes
        self.prompt_tokens = sum(map(len, prompts))
        self.completion_tokens = 0
        self.results: dict[int, list[dict[str, Any]]] = {}

    def take(self, results: list[Result]) -> None:
        """Keep the answers to some texts."""
        for number, answers, tokens in results:
            self.results[number] = answers
            self.completion_tokens += tokens

    def whole(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "object": "task",
            "model": self.model,
            "task": self.task,
            "results": [
                {"input_index": at, "answers": self.results[at]} | self.notes[at]
                for at in sorted(self.results)
            ],
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
        }


def tasks_of(engine: Engine) -> list[str]:
    """What a model is good for, by its kind and by what it was last trained on."""
    if engine.encodes:
        return [*SERVED]
    talks = converses(engine)
    return ["chat", "complete", *SERVED] if talks else ["complete", "classify"]


def check_name(name: str) -> None:
    """Refuse a task that is not served: status 404."""
    if name not in SERVED:
        message = f"there is no task {name!r}{did_you_mean(name, SERVED)}; use {', '.join(SERVED)}"
        raise ApiError(message, status=404, code="task_not_found")


def check_able(engine: Engine, name: str) -> None:
    """Refuse a task that the model has not learned: status 400."""
    able = tasks_of(engine)
    if name not in able:
        message = (
            f"{engine.name} continues text; {name} needs a model trained on pairs or on conversations; "
            f"this one can {', '.join(able)}"
        )
        raise ApiError(message, param="model", code="unsupported_task")


def body_of(name: str) -> type[SearchAsked] | type[LabelsAsked]:
    """What is asked of a task."""
    return {"classify": LabelsAsked, "answer": AnswersAsked}.get(name, SearchAsked)


def prepare(
    engine: Engine,
    name: str,
    asked: SearchAsked | LabelsAsked,
    texts: list[str],
    index: Index | None = None,
) -> tuple[TaskReply, Work]:
    """The empty reply, and the work that fills it, after everything is checked.

    Args:
        index: the documents that questions without a context are answered from.

    Raises:
        ApiError: status 400, for a text that does not fit or settings that cannot be met.
    """
    documents = [Document(f"input[{number}]", text) for number, text in enumerate(texts)]
    if isinstance(asked, LabelsAsked):
        return _classified(engine, name, asked, documents)
    return _searched(engine, find_task(name), asked, documents, index)


async def gather(stream: Stream, reply: TaskReply) -> AsyncIterator[None]:
    """Fill the reply with what the work finds."""
    async for results in stream:
        reply.take(results)
        yield


def _searched(
    engine: Engine, task: Task, asked: SearchAsked, documents: list[Document], index: Index | None
) -> tuple[TaskReply, Work]:
    params = _decoding(task.decoding, asked)
    wanted = SamplingParams(max_tokens=max(asked.max_tokens or 1, params.min_tokens))
    below = _context(asked, index) if isinstance(asked, AnswersAsked) else {}

    def size(document: Document) -> int:
        return len(prompt_of(engine, task, document))

    def prepared(document: Document) -> tuple[list[int], dict[str, Any]]:
        if isinstance(asked, AnswersAsked):
            question = qa.as_question(engine, document, params, **below)
            prompt, note = question.prompt, _read_with(question, cited=below["index"] is not None)
        else:
            read = document
            if asked.truncate:
                read = shorten(document, task.source, size, room_of(engine, params))
            (prompt,), note = check(engine, task, [read]), _cut(read is not document)
        engine.check(prompt, wanted)
        return prompt, note

    made = _each(documents, prepared)
    prompts = [prompt for prompt, _ in made]

    def some(numbers: list[int]) -> list[Result]:
        found = answer(engine, [prompts[number] for number in numbers], params)
        return [(number, *_written(hypotheses)) for number, hypotheses in zip(numbers, found)]

    reply = TaskReply(engine.name, task.name, prompts, [note for _, note in made])
    return reply, _job(prompts, max(1, ROWS // params.beams), some)


def _context(asked: AnswersAsked, index: Index | None) -> dict[str, Any]:
    """What questions are answered from: the context that came with them, else the server's documents."""
    if asked.context is not None:
        index = None
    if asked.passages and index is None:
        why = "this server has no documents" if asked.context is None else "a context is given"
        message = f"passages={asked.passages} of the documents, and {why}; leave passages out"
        raise ApiError(message, param="passages", code="invalid_value")
    context = None if asked.context is None else whole_characters(asked.context, "context")
    return {"context": context, "index": index, "passages": asked.passages, "truncate": asked.truncate}


def _read_with(question: qa.Question, *, cited: bool) -> dict[str, Any]:
    """The passages that a question was shown, by file without folders, and whether its context was cut."""
    found = [{"source": PurePath(one.source).name, "text": one.text} for one in question.passages]
    return ({"citations": found} if cited else {}) | _cut(question.cut)


def _cut(cut: bool) -> dict[str, Any]:
    return {"cut": True} if cut else {}


def _written(found: list[tuple[str, Hypothesis]]) -> tuple[list[dict[str, Any]], int]:
    """Answers, and the tokens of all of them."""
    answers = [
        {"text": text, "score": round(one.score, 6), "finish_reason": one.finish_reason}
        for text, one in found
    ]
    return answers, sum(len(one.tokens) for _, one in found)


def _classified(
    engine: Engine, name: str, asked: LabelsAsked, documents: list[Document]
) -> tuple[TaskReply, Work]:
    labels = _labels(engine, asked.labels)
    ids = label_ids(engine, labels)

    def prepared(document: Document) -> tuple[Question, dict[str, Any]]:
        read = shorten(document, source_of, *fit(engine, ids)) if asked.truncate else document
        return question_of(engine, read, ids), _cut(read is not document)

    made = _each(documents, prepared)

    def some(numbers: list[int]) -> list[Result]:
        found = classify(engine, [made[number][0] for number in numbers], labels)
        return [(number, _shares(one.probabilities)[: asked.n], 0) for number, one in zip(numbers, found)]

    prompts = [prompt for (prompt, _), _ in made]
    reply = TaskReply(engine.name, name, prompts, [note for _, note in made])
    return reply, _job(prompts, max(1, ROWS // len(labels)), some)


def _job(prompts: list[list[int]], size: int, some: Callable[[list[int]], list[Result]]) -> Work:
    """Work on `size` texts at a time, those of about one length together."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))

    def work() -> Generator[Any, None, None]:
        for at in range(0, len(order), size):
            if at:
                yield TURN
            yield some(order[at : at + size])

    return work


def _each(documents: list[Document], prepare: Callable[[Document], Any]) -> list[Any]:
    """What is prepared of each text; an error names the text."""
    prepared = []
    for document in documents:
        try:
            with about(document.id):
                prepared.append(prepare(document))
        except PlaitError as error:
            code = "context_length_exceeded" if isinstance(error, PromptError) else "invalid_value"
            raise ApiError(str(error), param=document.id, code=code) from None
    return prepared


def _decoding(usual: BeamParams, asked: SearchAsked) -> BeamParams:
    """The task's own decoding with what was asked for."""
    fields = usual.but_with(asked.model_dump(include=set(BeamParams.model_fields), exclude_none=True))
    if fields["n"] > fields["beams"]:
        message = f"n={fields['n']} is more than beams={fields['beams']}; lower n or raise beams"
        raise ApiError(message, param="n", code="invalid_value")
    most = fields["max_tokens"]
    if most is not None and fields["min_tokens"] > most:
        message = f"min_tokens={fields['min_tokens']} is more than max_tokens={most}; lower it, or raise that"
        raise ApiError(message, param="min_tokens", code="invalid_value")
    return BeamParams(**fields)


def _labels(engine: Engine, given: list[str] | None) -> list[str]:
    if not (given or engine.labels):
        message = (
            f'{engine.name} does not say which labels it has learned; give them: "labels": ["good", "bad"]'
        )
        raise ApiError(message, param="labels", code="missing_required_parameter")
    try:
        return labels_of(engine, [whole_characters(label, "labels") for label in given or []])
    except PlaitError as error:
        raise ApiError(str(error), param="labels", code="invalid_value") from None


def _shares(probabilities: dict[str, float]) -> list[dict[str, Any]]:
    return [{"text": label, "score": round(share, 6)} for label, share in probabilities.items()]
