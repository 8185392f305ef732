"""`Task`: an application is how a record becomes a prompt, how the answer is found, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from plait.config import build
from plait.data.pairs import found_in, source_in, target_in
from plait.errors import ConfigError, InputError, ModelError, about, did_you_mean
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, Hypothesis, SamplingParams
from plait.infer.search import BATCH, search, text_of
from plait.tasks import TASKS
from plait.tasks.conversation import converses
from plait.tasks.shorten import shortened
from plait.text.document import Document


@dataclass(frozen=True)
class Task:
    """An application.

    Attributes:
        decoding: how its answers are found, unless asked otherwise.
        metrics: names as `plait evaluate --metric` has them.
        source: what of a record the model reads.
        references: what of a record are right answers.
        format: how its files are read, unless asked otherwise.
        pairs: whether two plain files are sources and targets.
        questions: the records of a file as questions, one each.
        group: what a record's score is shown by, too; None: nothing.
    """

    name: str
    decoding: BeamParams
    metrics: tuple[str, ...]
    source: Callable[[Document], str]
    references: Callable[[Document], list[str]]
    format: str = "auto"
    pairs: bool = True
    questions: Callable[[Iterable[Document]], Iterator[Document]] = iter
    group: Callable[[Document], str | None] = lambda document: None

    def decoding_with(self, given: Mapping[str, Any] | None, source: str = "decoding") -> BeamParams:
        """Its decoding, but for the fields of `BeamParams` that are given.

        Args:
            source: what an error begins with.

        Raises:
            ConfigError: an impossible setting.
        """
        return build(BeamParams, self.decoding.but_with(given or {}), source=source)


def source_of(document: Document) -> str:
    """What a pair's target is written for, or a text as it is.

    Raises:
        InputError: a record with neither, or an empty one.
    """
    text = source_in(document) or document.text
    if not text.strip():
        raise InputError(
            f"{document.id} holds {found_in(document)}; a source or text is needed, and may not be empty; "
            "name its column with --field source=COLUMN"
        )
    return text


def target_of(document: Document) -> list[str]:
    """The one right answer of a pair.

    Raises:
        InputError: a record without one.
    """
    target = target_in(document)
    if target is None or not target.strip():
        raise InputError(
            f"{document.id} holds {found_in(document)}; a source and a target are needed to score it, and "
            "may not be empty; name the columns with --field source=COLUMN target=COLUMN"
        )
    return [target]


def refuse_unlearned(engine: Engine, task: Task) -> None:
    """Raises ModelError where a model has learned neither pairs nor conversations."""
    if not (engine.encodes or converses(engine)):
        raise ModelError(
            f"{engine.name} is a decoder that continues text; `{task.name}` needs a model trained on "
            "pairs or on conversations"
        )


def prompt_of(engine: Engine, task: Task, document: Document) -> list[int]:
    """A record as the model reads it: a source, or what a user says in a conversation."""
    if engine.encodes:
        return engine.encode(task.source(document))
    return spoken_ids(engine, document, task.source)


def spoken_ids(engine: Engine, document: Document, source: Callable[[Document], str]) -> list[int]:
    """A record as a conversation up to the assistant's turn: its messages, or its source as a user's."""
    turns = document.record.get("messages") or [{"role": "user", "content": source(document)}]
    return engine.tokenizer.encode_chat(turns, add_generation_prompt=True)[0]


def room_of(engine: Engine, decoding: BeamParams) -> int:
    """Tokens that a prompt may have, so that an answer fits beside it; half the context at least."""
    answer = 0 if engine.encodes else min(decoding.max_tokens or 1, engine.context // 2)
    return engine.context - answer


def check(
    engine: Engine, task: Task, documents: Sequence[Document], *, room: int | None = None
) -> list[list[int]]:
    """The prompts of all records, before any is answered: a mistake in the last costs no hours.

    Args:
        room: cut texts to what makes a prompt of so many tokens; None: refuse those that do not fit.

    Raises:
        ModelError: a model that has learned neither pairs nor conversations.
        InputError: a record that cannot be read, or does not fit the model's context, by its id.
    """
    refuse_unlearned(engine, task)
    if room is not None:
        documents = shortened(documents, task.source, lambda one: len(prompt_of(engine, task, one)), room)
    prompts = []
    for document in documents:
        with about(document.id):
            prompts.append(prompt_of(engine, task, document))
            engine.check(prompts[-1], SamplingParams(max_tokens=1))
    return prompts


def answer(
    engine: Engine,
    prompts: Sequence[list[int]],
    decoding: BeamParams,
    *,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[tuple[str, Hypothesis]]]:
    """The best answers to each prompt of `check`, with how they were found."""
    found = search(engine, prompts, decoding, batch=batch, advance=advance)
    return [
        [(text_of(engine, one, prompt), one) for one in hypotheses]
        for prompt, hypotheses in zip(prompts, found)
    ]


def find_task(name: str) -> Task:
    """A task by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown{did_you_mean(name, TASKS)}; use {', '.join(TASKS)}")
    return import_module(f"plait.tasks.{name.replace('-', '_')}").TASK
