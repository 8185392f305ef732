"""Question answering: a question alone, below a given context, or below what documents say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import PurePath

from plait.data.notice import answer_elsewhere
from plait.data.pairs import found_in, source_in, target_in
from plait.errors import InputError, PromptError, about
from plait.eval.language import primary
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, SamplingParams
from plait.tasks.retrieve import Index, Passage
from plait.tasks.task import Task, prompt_of, refuse_unlearned, room_of
from plait.text.document import Document
from plait.text.fitting import CHARACTERS, fitting

PASSAGES = 3  # of the documents, for each question


@dataclass(frozen=True)
class Answer:
    """What a model says to a question.

    Attributes:
        citations: the passages (`file#number`) it could read.
        cut: whether it could read only the beginning of its context.
    """

    text: str
    citations: list[str] = field(default_factory=list)
    cut: bool = False


@dataclass(frozen=True)
class Question:
    """A question as the model reads it.

    Attributes:
        passages: those that it is shown.
        cut: whether only the beginning of its context fits the model's own.
    """

    document: Document
    prompt: list[int]
    passages: list[Passage] = field(default_factory=list)
    cut: bool = False

    @property
    def sees(self) -> bool:
        """Whether there is something beside the question to read the answer in."""
        return bool(self.document.record.get("context"))

    @property
    def citations(self) -> list[str]:
        """Where the passages stand."""
        return [passage.source for passage in self.passages]


def question_of(document: Document) -> str:
    """The context, if there is one, and the question below it, as in training.

    Raises:
        InputError: a record without a question.
    """
    question = document.record.get("question", document.text or source_in(document))
    if not (question or "").strip():
        what = "an empty question" if question is not None else found_in(document)
        raise InputError(f"{document.id} holds {what}; a question is needed, and may have a context")
    return document.text or source_in(document) or ""


def answers_of(document: Document) -> list[str]:
    """Every right answer; an empty one where `answers` is there and empty (SQuAD 2.0).

    Raises:
        InputError: a record without answers.
    """
    target = target_in(document)
    if target is None and "answers" not in document.record:
        raise InputError(
            f"{document.id} holds {found_in(document)}; `answers` are needed to score it, and may be empty"
        )
    return document.record.get("answers") or [target or ""]


def metrics_for(lang: str | None) -> tuple[str, ...]:
    """Those of the texts' language."""
    return ("cmrc",) if primary(lang) == "zh" else TASK.metrics


def elsewhere(documents: Sequence[Document]) -> tuple[int, str]:
    """How many questions have answers, but none in their context, and the id of the first."""
    ids = [document.id for document in documents if answer_elsewhere(document)]
    return len(ids), ids[0] if ids else ""


def asked(document: Document, context: str | None = None) -> Document:
    """A record or a line as a question and nothing else, with a context unless it has one of its own."""
    below = {key: document.record[key] for key in ("context", "question") if key in document.record}
    if "question" not in below:
        below["question"] = document.text or source_in(document) or ""
    elif source_in(document) != source_in(Document("", "", below)):
        below = {"question": source_in(document) or ""}  # a pair or an instruction, as in training
    if context and not below.get("context"):
        below["context"] = context
    return Document(document.id, "", below)


def as_question(
    engine: Engine,
    document: Document,
    decoding: BeamParams,
    *,
    context: str | None = None,
    index: Index | None = None,
    passages: int | None = None,
    truncate: bool = False,
) -> Question:
    """A question with its context, or with as much of the passages that answer it as fits.

    A model that was trained to converse is shown the number and source of each passage, so that it may name
    them; one that was trained on pairs knows contexts without.

    Args:
        context: of a question that has none of its own.
        index: to find passages in, for a question that has no context.
        passages: how many of them, if they fit; PASSAGES unless given.
        truncate: read the beginning of a context that does not fit the model's, in place of an error.

    Raises:
        InputError: a question that is empty, or does not fit even without a context.
        PromptError: a context that does not fit.
        ModelError: a model that has learned neither pairs nor conversations.
    """
    refuse_unlearned(engine, TASK)
    question_of(document)
    document = asked(document, context)
    room = room_of(engine, decoding)
    size = _size(engine, document)

    def fitted(text: str) -> str:
        first = CHARACTERS * room  # of a huge context it would be long work to tokenize all
        return text[: fitting(lambda end: size(text[:end]) <= room, len(text), first)]

    if index is None or document.record.get("context"):
        whole = document.record.get("context") or ""
        held = fitted(whole)
        if held != whole and not truncate:
            _question(engine, document, "", [], cut=True)  # one that does not fit even so is told so
            raise PromptError(
                f"{document.id}: the context and the question are more than the {room} tokens that the model "
                "has for them; shorten the context, or read only its beginning with truncate"
            )
        return _question(engine, document, held, [], cut=held != whole)
    found = index.search(document.record["question"], passages or PASSAGES)
    numbered = not (engine.encodes or engine.learned == "pairs")

    def shown(some: Sequence[Passage]) -> str:
        heads = (
            f"[{number}] {PurePath(one.source).name}\n" if numbered else ""
            for number, one in zip(count(1), some)
        )
        return "\n".join(head + one.text for head, one in zip(heads, some))

    kept = found[: fitting(lambda many: size(shown(found[:many])) <= room, len(found))]
    whole = shown(kept or found[:1])
    held = fitted(whole)
    read = (kept or found[:1]) if held else []
    return _question(engine, document, held, read, cut=held != whole)


def _question(
    engine: Engine, document: Document, context: str, passages: list[Passage], *, cut: bool
) -> Question:
    document = replace(document, record=document.record | {"context": context})
    with about(document.id):
        prompt = prompt_of(engine, TASK, document)
        engine.check(prompt, SamplingParams(max_tokens=1))
    return Question(document, prompt, passages, cut)


def _size(engine: Engine, document: Document) -> Callable[[str], int]:
    """How many tokens the question takes below a context."""
    return lambda context: len(
        prompt_of(engine, TASK, replace(document, record=document.record | {"context": context}))
    )


TASK = Task("answer", BeamParams(beams=1, max_tokens=64), ("squad_em", "squad_f1"), question_of, answers_of)
