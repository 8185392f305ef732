"""`plait translate` and its like: one text, a file of them, or line by line as they are typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.data.pairs import nothing_to_read
from plait.errors import ConfigError, InputError, PromptError
from plait.files import write_text
from plait.infer.params import BeamParams, check_batch
from plait.log import say, warn
from plait.recipes.answers_file import SKIPPED, Made, check_files, read_lines, write_answers
from plait.text.document import Document
from plait.text.sources import COMPRESSED, RECORDS

if TYPE_CHECKING:
    from plait.infer.engine import Engine

PARTIAL = ".partial.jsonl"  # beside an output of plain lines, while it is made


@dataclass(frozen=True)
class Request:
    """What is to be answered, and where to; without text and input, what is typed.

    Attributes:
        documents: the records of the input.
        output: `.jsonl`: one JSON object an answer, with how it was made; any other name: plain lines, the
            answer to line n in line n. What an interrupted run has finished is kept. None: standard output,
            plain lines.
        batch: texts at a time; changes the speed, not the answers.
    """

    text: str | None
    input: str | Path | None
    output: str | Path | None
    batch: int
    documents: list[Document] = field(default_factory=list)


@dataclass(frozen=True)
class Application:
    """How a model that is loaded answers.

    Attributes:
        name: what the terminal asks with.
        ask: one text, as it was typed, as a record.
        check: the questions that records make, refused before any is answered.
        answer: the answers to some questions of `check`, each as rows of an output file.
        show: the rows of one answer, as they are printed.
        line: a row as a plain line.
        made_with: model and settings.
        each: rows of an answer.
    """

    name: str
    ask: Callable[[str], Document]
    check: Callable[[Sequence[Document]], list[Any]]
    answer: Callable[[list[Any]], list[Made]]
    show: Callable[[Made], str]
    line: Callable[[dict[str, Any]], str]
    made_with: str
    each: int = 1


def read_request(
    text: str | None,
    input: str | Path | None,
    output: str | Path | None,
    batch: int,
    fields: Mapping[str, str | int] | None,
) -> Request:
    """Check what was asked for and read the input, before a model is loaded.

    Args:
        fields: columns of the input, such as `{"source": "body"}`.

    Raises:
        ConfigError: an impossible batch.
        InputError: a text and an input, an output without input, an input that cannot be read.
    """
    if text is not None and input is not None:
        raise InputError("give either a text or --input FILE, and not both")
    if text is not None and not text.strip():
        raise InputError("the text is empty; give at least one word")
    if output is not None and input is None:
        raise InputError("--output keeps the answers to --input FILE; name that file too")
    if fields and input is None:
        raise InputError("--field names columns of --input FILE; name that file too")
    check_batch(batch)
    check_files(input, output)
    if output is not None and Path(output).suffix != ".jsonl":
        if (kind := Path(output).suffix.lower()) in (*RECORDS, *COMPRESSED):
            raise InputError(f"{output}: answers are written as .jsonl or as plain lines, not as {kind}")
        if Path(output).exists():
            raise InputError(f"{output} is there already; name another --output, or remove it")
    documents = list(read_lines(input, fields)) if input is not None else []
    return Request(text, input, output, batch, documents)


def check_lines(request: Request, each: int) -> None:
    """Refuse several answers to each text where a line has room for one; raises ConfigError."""
    if each > 1 and request.output is not None and Path(request.output).suffix != ".jsonl":
        raise ConfigError(f"{each} answers do not fit into one line; name an --output in .jsonl")


def respond(request: Request, application: Application) -> None:
    """Answer a request.

    Raises:
        PlaitError: what the application refuses, or an output that was made from something else.
    """
    if request.input is not None:
        _file(request, application)
    elif request.text is not None:
        _print(application, request.text)
    else:
        _interactive(application)


def apply_task(
    name: str,
    model: str | Path,
    text: str | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    fields: Mapping[str, str | int] | None = None,
    truncate: bool = False,
    decoding: Mapping[str, Any] | None = None,
    batch: int = 32,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Answer one text, every record of a file, or what is typed, line by line.

    Args:
        name: of a task whose answers are searched for, such as translate.
        model: a model, step or run directory.
        input: plain lines, or records; `-` is standard input.
        output, batch: see `Request`.
        fields: columns of the input, such as `{"source": "body"}`.
        truncate: read the beginning of a text that does not fit the model's context, in place of an error.
        decoding: fields of `BeamParams` that differ from the task's own.

    Raises:
        ConfigError: an impossible setting.
        InputError: no text, one that does not fit, an output that is there already.
        ModelError: the model cannot be loaded, or is of the wrong kind.
    """
    request = read_request(text, input, output, batch, fields)
    from plait.infer.engine import Engine
    from plait.tasks.task import check, find_task, room_of

    task = find_task(name)
    params = task.decoding_with(decoding)
    check_lines(request, params.n)
    engine = Engine(model, device=device, dtype=dtype)
    if engine.labels:
        some = ", ".join(engine.labels[:3]) + ", ..." * (len(engine.labels) > 3)
        warn(f"{engine.name} learned to write {some} alone; plait classify compares them")
    room = room_of(engine, params) if truncate else None
    application = Application(
        name,
        ask=lambda text: Document("text", text),
        check=with_remedy(lambda documents: check(engine, task, documents, room=room), truncate),
        answer=lambda prompts: searched(engine, prompts, params, batch),
        show=shown,
        line=lambda row: row["completion"],
        made_with=made_with(engine, params.describe()),
        each=params.n,
    )
    respond(request, application)


def with_remedy(
    check: Callable[[Sequence[Document]], list[Any]], truncate: bool
) -> Callable[[Sequence[Document]], list[Any]]:
    """A check that says how a text may be cut, where one does not fit and that was not asked for."""

    def checked(documents: Sequence[Document]) -> list[Any]:
        try:
            return check(documents)
        except PromptError as error:
            raise PromptError(f"{error}, or cut what is too long with --truncate") from None

    return check if truncate else checked


def searched(engine: Engine, prompts: list[list[int]], params: BeamParams, batch: int) -> list[Made]:
    """Rows of answers that are searched for."""
    from plait.tasks.task import answer

    found = answer(engine, prompts, params, batch=batch)
    return [
        [
            {"completion": text, "finish_reason": one.finish_reason, "score": round(one.score, 6)}
            for text, one in some
        ]
        for some in found
    ]


def shown(rows: Made) -> str:
    """An answer as it is printed; several with their scores."""
    if len(rows) == 1:
        return rows[0]["completion"]
    return "\n".join(f"{row['score']:.4f}\t{row['completion']}" for row in rows)


def tell_unfinished(reasons: Iterable[str | None]) -> None:
    """Say how many answers ended for want of room, by why each of them ended."""
    count = sum(reason == "length" for reason in reasons)
    if count:
        warn(f"answers that --max-tokens or the context left unfinished: {count:,}")


def made_with(engine: Engine, settings: str) -> str:
    """What answers depend on, for each line of their file."""
    return f"model:{engine.version}|dtype:{engine.dtype}|{settings}"


def _print(application: Application, text: str) -> None:
    (rows,) = application.answer(application.check([application.ask(text)]))
    print(application.show(rows))


def _interactive(application: Application) -> None:
    """Line by line: what a person types, or what a pipe brings, whose line n line n answers."""
    typed, number = sys.stdin.isatty(), 0
    while True:
        if typed:
            print(f"{application.name}> ", end="", flush=True)
        number += 1
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8 (byte {error.start}); convert it") from None
        if not line:
            return
        text = line.rstrip("\r\n").removeprefix("\ufeff" if number == 1 else "")
        try:
            if text.strip() and typed:
                _print(application, text)
            elif not typed:
                _print_lines(application, [Document(f"standard input#{number}", text)])
        except PromptError as error:
            if not typed:
                raise
            say(str(error))  # the next line may do better


def _file(request: Request, application: Application) -> None:
    target = None if request.output is None else Path(request.output)
    if empty := [document.id for document in request.documents if nothing_to_read(document)]:
        warn(f"empty texts, which are answered emptily: {len(empty):,} (first: {empty[0]})")
    if target is None:
        _print_lines(application, request.documents, 8 * request.batch)
        return
    plain = target.suffix != ".jsonl"
    rows = target.with_name(target.name + PARTIAL) if plain else target
    write_answers(
        rows, request.documents, _answers(application, request.documents), each=application.each,
        together=8 * request.batch, made_with=application.made_with, what="texts",
    )  # fmt: skip
    if plain:
        made = [json.loads(line) for line in rows.read_text("utf-8").split("\n")[:-1]]
        if application.name != "complete":  # a text may go on for ever
            tell_unfinished(row.get("finish_reason") for row in made)
        write_text(target, "".join(_line(application, row) + "\n" for row in made))
        rows.unlink()


def _print_lines(application: Application, documents: Sequence[Document], together: int = 1) -> None:
    """The answers as plain lines, those to one document side by side."""
    make = _answers(application, documents)
    for at in range(0, len(documents), together):
        for rows in make(at, min(at + together, len(documents))):
            print("\t".join(_line(application, row) for row in rows))
        sys.stdout.flush()


def _answers(application: Application, documents: Sequence[Document]) -> Callable[[int, int], list[Made]]:
    """What answers the documents from one number to another; an empty one emptily."""
    asked = [at for at, document in enumerate(documents) if not nothing_to_read(document)]
    # now, as a mistake in the last line costs no hours then
    questions = dict(zip(asked, application.check([documents[at] for at in asked])))
    fewer: Made = [{SKIPPED: "the decoding's rules leave no more answers"}] * application.each
    nothing: Made = [{SKIPPED: "the text is empty"}] * application.each

    def make(first: int, last: int) -> list[Made]:
        here = [at for at in range(first, last) if at in questions]
        found = dict(zip(here, application.answer([questions[at] for at in here])))
        return [
            (found[at] + fewer)[: application.each] if at in found else nothing for at in range(first, last)
        ]

    return make


def _line(application: Application, row: dict[str, Any]) -> str:
    """A row as a line without line breaks; empty where there is no answer."""
    return "" if SKIPPED in row else " ".join(application.line(row).splitlines())
