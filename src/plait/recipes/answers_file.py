"""A file of answers, one JSON object a line, that a killed run goes on with where it stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from plait import log
from plait.data.pairs import holds_records as named_as_records
from plait.errors import InputError
from plait.text.document import Document
from plait.text.encoding import lines_of
from plait.text.sources import BLANK, EMPTY, STDIN, Skip, find_sources, piped_records
from plait.text.tables import text_of

LINE_START = b'{"id": '  # of every line that is written
SKIPPED = "skipped"  # why a line holds no answer
MADE = (
    "completion", "finish_reason", "completion_tokens", "choice", "logprobs", "score", "made_with",
    "prediction", "probabilities", "citations", SKIPPED,
)  # fmt: skip
Made = list[dict[str, Any]]


def write_answers(
    output: str | Path | None,
    documents: Sequence[Document],
    make: Callable[[int, int], list[Made]],
    *,
    each: int,
    together: int,
    made_with: str,
    what: str = "prompts",
) -> None:
    """Answer documents in order, `together` at a time, and write each batch down before the next.

    Args:
        output: JSON Lines; finished lines of an earlier run are kept. None: standard output.
        make: gives the answers of the documents from one number to another, `each` of them.
        made_with: model and settings; lines that were made with others are refused.

    Raises:
        InputError: `output` was made from other documents or with other settings.
    """
    heads = [_head(document) for document in documents]
    done = 0 if output is None else _finished(Path(output), heads, each, together, made_with)
    if done:
        log.say(f"{output} holds {done:,} of {len(heads):,} {what} already")
    with _results(output) as file, log.progress(what, len(heads), before=done) as bar:
        for at in range(done, len(heads), together):
            to = min(at + together, len(heads))
            for head, answers in zip(heads[at:to], make(at, to)):
                for number, answer in enumerate(answers):
                    choice = {"choice": number} if each > 1 else {}
                    row = head | choice | answer | {"made_with": made_with}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if output is not None:
                os.fsync(file.fileno())
            bar.update(to)


def check_files(input: str | Path | None, output: str | Path | None) -> None:
    """Refuse a directory of prompts, and answers that would stand in the place of their prompts.

    Raises:
        InputError: one of both.
    """
    if input is None or str(input) in ("-", STDIN):
        return
    if Path(input).is_dir():
        raise InputError(
            f"{input} is a directory; name one file of texts, whose line n is answered in line n"
        )
    if output is not None and Path(output).resolve() == Path(input).resolve():
        raise InputError(f"{output} holds the texts themselves; name another --output for the answers")


def read_prompts(
    input: str | Path, fields: Mapping[str, str | int] | None = None, on_skip: Skip | None = None
) -> Iterator[Document]:
    """One document a prompt: records as they are, plain text line by line.

    Args:
        fields: columns of records, as in `plait.text.readers.read`.
        on_skip: told what `read` would pass over; without it that is refused.

    Raises:
        InputError: see `plait.text.readers.read`; also a record without text, which that would skip.
    """
    from plait.text.readers import read

    records = holds_records(input)
    if fields and not records:
        raise InputError(f"{input} holds plain lines, which have no columns; leave --field out")
    return read(input, format="auto" if records else "lines", fields=fields, on_skip=on_skip or _refuse)


def read_lines(input: str | Path, fields: Mapping[str, str | int] | None = None) -> Iterator[Document]:
    """As `read_prompts`, but an empty line or record is an empty document: line n answers line n."""
    if fields or holds_records(input):
        empty: list[Document] = []

        def on_skip(where: str, reason: str) -> None:
            if reason not in (EMPTY, BLANK):
                _refuse(where, reason)
            empty.append(Document(where, ""))

        for document in read_prompts(input, fields, on_skip):
            yield from empty
            empty.clear()
            yield document
        yield from empty
        return
    for source in find_sources(input, _refuse):
        for number, line in enumerate(lines_of(text_of(source)), 1):
            yield Document(f"{source.name}#{number}", line)


def holds_records(input: str | Path) -> bool:
    """Whether a file is read as records, by its name; standard input by how it begins."""
    if str(input) in ("-", STDIN):
        return piped_records()
    return named_as_records(input)


def _refuse(where: str, reason: str) -> None:
    # answers stand in the order of the prompts: none may be passed over
    if reason != BLANK:
        raise InputError(f"{where}: {reason}; mend or remove this prompt")


@contextmanager
def _results(output: str | Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with Path(output).open("a", encoding="utf-8", newline="\n") as file:
        yield file


def _head(document: Document) -> dict[str, Any]:
    """What identifies a prompt in the output: everything its line held, our own names as `input_NAME`."""
    text = {"prompt": document.text} if document.text and "prompt" not in document.record else {}
    head = {"id": document.id} | text | document.record
    return {f"input_{key}" if key in MADE else key: value for key, value in head.items()}


def _finished(path: Path, heads: list[dict[str, Any]], n: int, together: int, made_with: str) -> int:
    """Prompts of which `path` holds all completions; what a killed run left beyond them is cut off.

    Of those that were being answered `together` none is kept: the rest of them, alone, might be rounded
    otherwise.

    Raises:
        InputError: the file was made from other prompts or with other settings.
    """
    if not path.exists():
        return 0
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    other = "; name another --output, or remove it to start again"
    rest = data[data.rfind(b"\n") + 1 :]
    if rest and not rest.startswith(LINE_START[: len(rest)]):
        raise InputError(f"{path}:{len(lines) + 1} is not a line that plait wrote{other}")
    if len(lines) > len(heads) * n:
        raise InputError(f"{path} holds {len(lines):,} lines for {len(heads) * n:,} completions{other}")
    for number, line in enumerate(lines):
        try:
            made, head = json.loads(line), heads[number // n]
            same = json.dumps([made.get(key) for key in head]) == json.dumps(list(head.values()))
        except (ValueError, AttributeError):
            raise InputError(f"{path}:{number + 1} is not a line that plait wrote{other}") from None
        if not same:
            raise InputError(f"{path}:{number + 1} is the completion of another prompt{other}")
        if made.get("made_with") != made_with:
            raise InputError(
                f"{path}:{number + 1} was made with {made.get('made_with')}, not {made_with}{other}"
            )
    done = len(lines) // n
    done -= done % together if done < len(heads) else 0
    os.truncate(path, sum(map(len, lines[: done * n])))
    return done
