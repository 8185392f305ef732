"""`plait answer`: a question alone, below a context, or over documents, with the passages that were read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigError, InputError
from plait.log import warn
from plait.recipes.answers_file import Made
from plait.recipes.apply import (
    Application,
    check_lines,
    made_with,
    read_request,
    respond,
    searched,
    shown,
)  # fmt: skip
from plait.text.document import Document

if TYPE_CHECKING:
    from plait.tasks.answer import Question
    from plait.tasks.retrieve import Index


def answer(
    model: str | Path,
    question: str | None = None,
    *,
    context: str | None = None,
    documents: Sequence[str | Path] = (),
    passages: int | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
    fields: Mapping[str, str | int] | None = None,
    truncate: bool = False,
    decoding: Mapping[str, Any] | None = None,
    batch: int = 32,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Answer one question, every question of a file, or what is typed; below it what could be read, if found.

    Args:
        model: a model, step or run directory.
        context: a text, or the file that holds it, for questions without a context of their own.
        documents: files and folders to find passages in instead.
        passages: how many of them a question is shown, if they fit the model's context; 3 unless given.
        truncate: read the beginning of a context that does not fit the model's, in place of an error.
        input, output, fields, batch: see `plait.recipes.apply.read_request` and `Request`.
        decoding: fields of `BeamParams` that differ from the task's own.

    Raises:
        ConfigError: an impossible setting.
        InputError: no question, documents without text, an output that is there already.
        MissingExtra: documents without the package that searches them.
        ModelError: the model cannot be loaded, or is of the wrong kind.
    """
    check_sources(context, documents, passages)
    request = read_request(question, input, output, batch, fields)
    text = None if context is None else text_or_file(context)
    from plait.infer.engine import Engine
    from plait.tasks import answer as task

    index = index_of(documents) if documents else None
    params = task.TASK.decoding_with(decoding)
    check_lines(request, params.n)
    engine = Engine(model, device=device, dtype=dtype)

    def check(records: Sequence[Document]) -> list[task.Question]:
        questions = [
            task.as_question(
                engine, record, params, context=text, index=index, passages=passages, truncate=truncate
            )
            for record in records
        ]
        tell_cut(questions)
        if index is not None and (bare := [one.document.id for one in questions if not one.sees]):
            warn(f"found nothing in the documents for {len(bare):,} questions (first: {bare[0]})")
        return questions

    def found(questions: list[task.Question]) -> list[Made]:
        made = searched(engine, [question.prompt for question in questions], params, batch)
        if index is None:
            return made
        cited = [{"citations": question.citations} for question in questions]
        return [[row | more for row in rows] for rows, more in zip(made, cited)]

    application = Application(
        "answer",
        ask=lambda text: Document("question", text),
        check=check,
        answer=found,
        show=_shown,
        line=lambda row: row["completion"],
        made_with=made_with(engine, f"{params.describe()}{_read(text, index, passages or task.PASSAGES)}"),
        each=params.n,
    )
    respond(request, application)


def check_sources(context: object, documents: object, passages: int | None) -> None:
    """Refuse a context beside documents, and passages of none or none of them; raises ConfigError."""
    if context is not None and documents:
        raise ConfigError("a question has either --context or --documents, not both")
    if passages is not None and not documents:
        raise ConfigError(f"passages={passages} is for --documents, and none are named; leave it out")
    if passages is not None and passages < 1:
        raise ConfigError(f"passages={passages} must be at least 1")


def tell_cut(questions: Sequence[Question]) -> None:
    """Warn of contexts that were cut to fit the model's."""
    if cut := [question.document.id for question in questions if question.cut]:
        warn(f"contexts cut to what fits the model's: {len(cut):,} (first: {cut[0]})")


def text_or_file(context: str) -> str:
    """The text itself, or what the file of this name holds.

    Raises:
        InputError: a file that cannot be read as text, a folder, or the name of a file that is not there.
    """
    from plait.text.readers import read
    from plait.text.sources import COMPRESSED, PLAIN, RECORDS

    if not context.strip():
        raise InputError("--context is empty; give a text, or the file that holds it")
    try:
        is_file, is_folder = Path(context).is_file(), Path(context).is_dir()
    except OSError:  # longer than a name may be
        is_file = is_folder = False
    named = Path(context).suffix.lower() in (*PLAIN, *RECORDS, *COMPRESSED) and not re.search(r"\s", context)
    if is_folder or (named and not is_file):
        what = "is a folder" if is_folder else "looks like a file and is not there"
        raise InputError(f"--context {context} {what}; name one file or give a text, or --documents")
    return "\n\n".join(document.body() for document in read(context)) if is_file else context


def index_of(documents: str | Path | Sequence[str | Path]) -> Index:
    """The passages of files and folders, ready to be searched.

    Raises:
        InputError: files that are missing or hold no text.
        MissingExtra: without the package that searches.
    """
    from plait.tasks.retrieve import Index
    from plait.tasks.retrieve import passages as cut
    from plait.text.readers import read

    return Index(cut(read(documents)))


def _shown(rows: Made) -> str:
    """The answer, and below it each passage that was read."""
    citations = rows[0].get("citations", ()) if rows else ()
    cited = [f"[{number}] {source}" for number, source in enumerate(citations, 1)]
    return "\n".join([shown(rows), *cited])


def _read(context: str | None, index: Index | None, passages: int) -> str:
    """What answers depend on beside the model."""
    if index is not None:
        texts = "\0".join(f"{one.source}\0{one.text}" for one in index.passages)
        return f"|passages:{passages}|documents:{_digest(texts)}"
    return "" if context is None else f"|context:{_digest(context)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
