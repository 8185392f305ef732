"""`plait tokenizer`: learn a tokenizer from files. `plait tokenize`: show what it makes of a text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plait.errors import InputError
from plait.files import new_directory, write_text
from plait.log import say, table
from plait.text.encoding import decoded, lines_of
from plait.text.fertility import Fertility, Sample, by_language, fertility
from plait.text.merges import from_merges
from plait.text.readers import read
from plait.text.sources import find_sources, read_bytes
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import TokenizerConfig
from plait.text.tokenizer_files import DEFINITION
from plait.text.train_tokenizer import train

REPORT = "tokenizer_report.json"


def train_tokenizer(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    config: TokenizerConfig | None = None,
    *,
    merges: str | Path | None = None,
    fields: dict[str, Any] | None = None,
    format: str = "auto",
) -> Tokenizer:
    """Learn a tokenizer, or take published merges, and write it to `out` with a report.

    Args:
        inputs: files, directories, globs, `-` or `hf://` names; with `merges` there may be none.
        out: a directory that is empty or not there yet; it appears when it is whole.
        config: kind and size; the default is a byte-level BPE of 8192 tokens.
        merges: a file in subword-nmt's format to use instead of learning.
        fields, format: as in `plait.text.readers.read`.

    Raises:
        ConfigError: a vocabulary larger than the text supports.
        InputError: unreadable or empty input, merges of another format, or an `out` in use.
    """
    directory = Path(out)
    if (directory / DEFINITION).exists():
        raise InputError(f"{str(directory)!r} already holds a tokenizer; give another --out or delete it")
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--out {str(directory)!r} is a file; give a directory")
    if directory.exists() and (others := next(directory.iterdir(), None)):
        raise InputError(f"{str(directory)!r} holds something else ({others.name}); give another --out")
    sample = Sample()
    texts: Iterator[str] = iter(())
    if inputs or merges is None:
        documents = read(inputs, format=format, fields=fields)
        texts = sample.tee(text for document in documents for text in document.strings() if text)
    if merges is None:
        settings = config or TokenizerConfig()
        tokenizer = train(texts, **settings.model_dump(exclude={"merges_file"}))
    else:
        settings = TokenizerConfig(style="words", merges=1)
        tokenizer = from_merges(merges, texts)
    rows = fertility(tokenizer, by_language(sample.texts))
    kind = settings.kind if settings.style == "byte-level" else f"{settings.kind} ({settings.style})"
    report = json.dumps(_report(tokenizer, kind, rows), ensure_ascii=False, indent=2) + "\n"
    with new_directory(directory) as draft:
        tokenizer.save(draft)
        write_text(draft / REPORT, report)
    _show(rows)
    say(f"{directory}: a {kind} tokenizer of {tokenizer.vocab_size:,} tokens")
    return tokenizer


def _report(tokenizer: Tokenizer, kind: str, rows: list[Fertility]) -> dict[str, Any]:
    return {
        "kind": kind,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.fingerprint,
        "fertility": [
            {
                "language": row.language,
                "sampled_texts": row.texts,
                "bytes": row.bytes,
                "tokens": row.tokens,
                "bytes_per_token": round(row.bytes_per_token, 4),
            }
            for row in rows
        ],
    }


def _show(rows: list[Fertility]) -> None:
    if rows:
        cells = [(r.language, f"{r.bytes:,}", f"{r.tokens:,}", f"{r.bytes_per_token:.2f}") for r in rows]
        table("Fertility on a sample of the text", ["script", "bytes", "tokens", "bytes per token"], cells)


def tokenize(directory: str | Path, file: str | Path | None = None, *, pieces: bool = False) -> None:
    """Print each line of a file (or standard input) as ids, or as pieces, with spaces between.

    Raises:
        InputError: unreadable input.
        ModelError: no tokenizer in `directory`.
    """
    tokenizer = Tokenizer.load(directory)
    for line in lines_of(decoded(_input(file), str(file or "standard input"))):
        shown = tokenizer.pieces(line) if pieces else map(str, tokenizer.encode(line))
        print(" ".join(shown))


def _input(file: str | Path | None) -> Iterator[bytes]:
    if file is None or str(file) == "-":
        yield from sys.stdin.buffer  # a line at a time, so that a person or a pipe gets answers at once
        return
    for source in find_sources(file, lambda where, reason: None):
        yield from read_bytes(source)
