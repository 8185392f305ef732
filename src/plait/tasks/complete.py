"""Continuing a prompt, a conversation or a text, and filling in what lies between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plait.data.fim import before_middle, cut
from plait.data.pairs import found_in
from plait.errors import InputError, ModelError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, SamplingParams
from plait.tasks.task import Task
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer

EVALUATION_SEED = 0  # of the places where running text is cut to be scored


def prompt_of(engine: Engine, document: Document) -> list[int]:
    """The prompt's tokens: of `messages` (the assistant answers), of `prompt`, or of running text.

    Raises:
        InputError: a record with none of them.
    """
    record = document.record
    if "messages" in record:
        return engine.tokenizer.encode_chat(record["messages"], add_generation_prompt=True)[0]
    if "prompt" in record or document.text:
        return engine.encode(record.get("prompt") or document.text)
    raise InputError(
        f"{document.id} holds {found_in(document)}; a line to complete needs prompt, messages or text"
    )


def completion_prompt(engine: Engine, document: Document, *, room: int | None = None) -> list[int]:
    """The tokens to continue: of a record with `suffix` what stands before the middle, else its prompt.

    Args:
        room: tokens that a prompt may have; of a prefix and a suffix with more, those nearest to the middle
            are kept. None: refuse what does not fit.

    Raises:
        InputError: a record without text, or one that does not fit, by its id.
        ModelError: an encoder-decoder; a suffix, and a model that has not learned to fill in a middle.
    """
    if engine.encodes:
        raise ModelError(
            f"{engine.name} is an encoder-decoder, which writes a target for a source and continues no text; "
            "use a decoder, or plait translate, summarize, answer or classify"
        )
    record, tokenizer = document.record, engine.tokenizer
    try:
        if "suffix" in record:
            prefix, suffix = map(tokenizer.encode_plain, (prefix_of(document), record["suffix"]))
            if room is not None:
                prefix, suffix = nearest(prefix, suffix, room - len(middle_prompt(tokenizer, [], [])))
            prompt = middle_prompt(tokenizer, prefix, suffix)
        elif "prefix" in record:
            prompt = engine.encode(record["prefix"])
        else:
            prompt = prompt_of(engine, document)
        engine.check(prompt, SamplingParams(max_tokens=1))
    except PromptError as error:
        raise PromptError(f"{document.id}: {error}") from None
    except ModelError as error:
        raise ModelError(f"{engine.name}: {error}") from None
    return prompt


def nearest(prefix: list[int], suffix: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of a prefix and the beginning of a suffix: half of the room each, or what the other leaves."""
    after = min(len(suffix), max(room // 2, room - len(prefix)))
    before = min(len(prefix), room - after)
    return prefix[len(prefix) - before :], suffix[:after]


def middle_prompt(tokenizer: Tokenizer, prefix: list[int], suffix: list[int]) -> list[int]:
    """The tokens after which a model writes what stands between, begun as in training.

    Raises:
        ModelError: a tokenizer that cannot say so.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*start, *before_middle(prefix, suffix, tokenizer)]


def middles(documents: Iterable[Document]) -> Iterator[Document]:
    """Records with `prefix`, `suffix` and `middle`: cut from running text, others as they are."""
    for document in documents:
        parts = None if "suffix" in document.record else cut(document.text, EVALUATION_SEED)
        yield Document(document.id, "", vars(parts)) if parts and parts.middle else document


def middle_of(document: Document) -> list[str]:
    """What stands between prefix and suffix.

    Raises:
        InputError: a record without.
    """
    middle = document.record.get("middle")
    if not middle:
        raise InputError(
            f"{document.id} holds {found_in(document)}; prefix, suffix and a middle that is not empty are "
            "needed, or running text of some length"
        )
    return [middle]


def prefix_of(document: Document) -> str:
    """What stands before the middle."""
    return document.record.get("prefix") or ""


TASK = Task(
    "complete",
    BeamParams(beams=1),
    ("verbatim", "chrf"),
    prefix_of,
    middle_of,
    pairs=False,
    questions=middles,
)
