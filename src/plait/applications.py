"""The applications in one call each: texts in, a list of answers out, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plait.errors import ConfigError, InputError
from plait.infer.engine import Engine
from plait.infer.params import BeamParams
from plait.infer.search import BATCH
from plait.recipes.answer import check_sources, index_of
from plait.tasks import answer as qa
from plait.tasks import classify as labels_task
from plait.tasks import complete as completion
from plait.tasks import conversation
from plait.tasks.answer import Answer
from plait.tasks.classify import Classification
from plait.tasks.task import Task, check, find_task, room_of
from plait.tasks.task import answer as best
from plait.text.document import Document
from plait.text.records import to_document

Model = str | Path | Engine
Texts = str | Sequence[str]


def translate(
    model: Model, texts: Texts, *, truncate: bool = False, batch: int = BATCH, **decoding: Any
) -> list[str]:
    """The translation of each text.

    Args:
        model: a model, step or run directory, or an `Engine`, which saves loading it again.
        texts: one or several.
        truncate: read the beginning of a text that is longer than the model's context, in place of an error.
        batch: texts at a time; changes the speed, not the answers.
        decoding: fields of `BeamParams` that differ from the task's own, such as `beams=1`.

    Raises:
        ModelError, InputError, ConfigError: a model, text or field that cannot be used.
    """
    return _texts("translate", model, texts, truncate, batch, decoding)


def summarize(
    model: Model, texts: Texts, *, truncate: bool = False, batch: int = BATCH, **decoding: Any
) -> list[str]:
    """A summary of each text; arguments and errors as in `translate`."""
    return _texts("summarize", model, texts, truncate, batch, decoding)


def answer(
    model: Model,
    questions: Texts,
    *,
    context: Texts | None = None,
    documents: str | Path | Sequence[str | Path] = (),
    passages: int | None = None,
    truncate: bool = False,
    batch: int = BATCH,
    **decoding: Any,
) -> list[Answer]:
    """The answer to each question, and where documents were searched, the passages it could be read in.

    ```python
    (found,) = plait.answer("runs/qa", "Who wrote the letter?", documents="notes/")
    print(found.text, found.citations)
    ```

    Args:
        context: a text to read the answers in, or one for each question.
        documents: files and folders to find passages in instead.
        passages: how many of them a question is shown, if they fit the model's context; 3 unless given.
        truncate: read the beginning of a context that is longer than the model's, in place of an error.
        model, batch, decoding: as in `translate`.

    Raises:
        ModelError, InputError, ConfigError: a model, question or field that cannot be used.
        MissingExtra: documents, without the package that searches them.
    """
    asked = _documents(questions)
    contexts = [context] * len(asked) if context is None or isinstance(context, str) else list(context)
    if len(contexts) != len(asked):
        raise InputError(f"there are {len(asked)} questions and {len(contexts)} contexts; give one for each")
    check_sources(context, documents, passages)
    index = index_of(documents) if documents else None
    engine, params = _engine(model), _best_of(qa.TASK, decoding)
    made = [
        qa.as_question(
            engine, document, params, context=context, index=index, passages=passages, truncate=truncate
        )
        for document, context in zip(asked, contexts)
    ]
    found = best(engine, [question.prompt for question in made], params, batch=batch)
    return [
        Answer(some[0][0] if some else "", question.citations, question.cut)
        for some, question in zip(found, made)
    ]


def classify(
    model: Model,
    texts: Texts,
    labels: Sequence[str] = (),
    *,
    per_token: bool = False,
    truncate: bool = False,
    batch: int = BATCH,
) -> list[Classification]:
    """The most probable label of each text, and the probability of each label.

    Args:
        labels: those to choose from; those the model learned unless given.
        per_token: compare labels by their mean log-probability a token, which is fair to long ones.
        model, truncate, batch: as in `translate`.

    Raises:
        ModelError, InputError, ConfigError: a model, text or label that cannot be used.
    """
    engine = _engine(model)
    names = labels_task.labels_of(engine, labels)
    questions = labels_task.questions_of(engine, _documents(texts), names, truncate=truncate)
    return labels_task.classify(engine, questions, names, per_token=per_token, batch=batch)


def complete(
    model: Model, prefixes: Texts, suffixes: Texts | None = None, *, batch: int = BATCH, **decoding: Any
) -> list[str]:
    """The most probable continuation of each text, or what stands between it and its suffix.

    Args:
        suffixes: one for each prefix, for a model that has learned to fill in the middle.
        model, batch, decoding: as in `translate`.

    Raises:
        ModelError, InputError, ConfigError: a model, text or field that cannot be used.
    """
    before = [prefixes] if isinstance(prefixes, str) else list(prefixes)
    after = [suffixes] if isinstance(suffixes, str) else suffixes
    if after is not None and len(after) != len(before):
        raise InputError(f"there are {len(before)} prefixes and {len(after)} suffixes; give one for each")
    records: list[dict[str, str]] = [{"prefix": text} for text in before]
    if after is not None:
        records = [{"prefix": text, "suffix": end} for text, end in zip(before, after)]
    engine, params = _engine(model), _best_of(completion.TASK, decoding)
    prompts = [
        completion.completion_prompt(engine, Document(f"text {number}", "", record))
        for number, record in enumerate(records, 1)
    ]
    return [some[0][0] if some else "" for some in best(engine, prompts, params, batch=batch)]


def chat(
    model: Model, messages: str | Sequence[Mapping[str, str]], *, system: str | None = None, **sampling: Any
) -> str:
    """The assistant's answer to what a user says, or to the last message of a conversation.

    ```python
    talk = [{"role": "user", "content": "Hello!"}]
    talk.append({"role": "assistant", "content": plait.chat("runs/chat", talk)})
    ```

    The oldest turns of a conversation that is longer than the model's context are forgotten.

    Args:
        messages: a text, or messages with `role` and `content`, the last of them a user's.
        system: an instruction that stands before a conversation without one.
        sampling: fields of `SamplingParams`; what the model recommends, or temperature 0.7, unless given.
        model: as in `translate`.

    Raises:
        ModelError, InputError, ConfigError: a model, message or field that cannot be used.
    """
    said = {"text": messages} if isinstance(messages, str) else {"messages": list(messages)}
    record = to_document(said, "conversation", "conversation", None)
    if record is None:
        raise InputError("the message is empty; give at least one word")
    engine = _engine(model)
    params = conversation.sampling_for(engine, {**sampling, "n": 1})
    _, prompt = conversation.prompt_of(engine, conversation.messages_of(record, system), params)
    return engine.generate([prompt], params, clip=True)[0].text


def _texts(
    name: str, model: Model, texts: Texts, truncate: bool, batch: int, decoding: Mapping[str, Any]
) -> list[str]:
    engine, task = _engine(model), find_task(name)
    params = _best_of(task, decoding)
    room = room_of(engine, params) if truncate else None
    prompts = check(engine, task, _documents(texts), room=room)
    return [some[0][0] if some else "" for some in best(engine, prompts, params, batch=batch)]


def _best_of(task: Task, decoding: Mapping[str, Any]) -> BeamParams:
    params = task.decoding_with(decoding, task.name)
    if params.n > 1:
        raise ConfigError(f"n={params.n} answers are more than the best one, which is given; leave n out")
    return params


def _engine(model: Model) -> Engine:
    return model if isinstance(model, Engine) else Engine(model)


def _documents(texts: Texts) -> list[Document]:
    some = [texts] if isinstance(texts, str) else list(texts)
    return [Document(f"text {number}", text) for number, text in enumerate(some, 1)]
