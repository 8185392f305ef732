"""From what a user names (files, directories, globs, stdin) to streams of bytes, decompressed on the way."""

from __future__ import annotations

import codecs
import glob
import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from plait.errors import InputError, need

PLAIN = (".txt", ".md", ".html", ".htm")
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".zst")
ACCEPTED = ", ".join((*PLAIN, *RECORDS)) + ", each also .gz or .zst"
CHUNK = 1 << 20
STDIN = "/dev/stdin"  # how the command line spells `-`, which would look like an option

Skip = Callable[[str, str], None]  # (where, reason)
EMPTY, BLANK = "empty text", "blank line"  # why a record, or the place of one, is passed over


@dataclass(frozen=True, slots=True)
class Source:
    """One input: a file, `-` for standard input, or `hf://...`."""

    name: str
    kind: str  # the extension without compression, `.jsonl`
    compression: str = ""
    listed: bool = False  # found in a directory, not named by the user
    prepared: bool = False  # the documents of a `plait prepare` directory

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where unknown."""
        return 0 if self.name == "-" or self.name.startswith("hf://") else Path(self.name).stat().st_size


def piped_records() -> bool:
    """Whether standard input holds JSON Lines: a pipe has no extension, so its first character decides."""
    begin: bytes = sys.stdin.buffer.peek(1)  # type: ignore[attr-defined]
    return begin.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"


def find_sources(inputs: str | Path | Sequence[str | Path], on_skip: Skip) -> list[Source]:
    """The inputs as files, in the order given; directories and globs sorted. Skipped files are told.

    Raises:
        InputError: a path that does not exist, a glob without matches, a directory with nothing readable.
    """
    named = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if not named:
        raise InputError("no input given; name a file, a directory, a glob or - for standard input")
    return [source for one in named for source in _expand(str(one), on_skip)]


def _expand(name: str, on_skip: Skip) -> list[Source]:
    if name in ("-", STDIN) or name.startswith("hf://"):
        return [Source("-" if name == STDIN else name, "")]
    path = Path(name).expanduser()
    if path.is_dir():
        return _directory(path, on_skip)
    if path.exists():
        return [source_of(path)]
    if any(mark in name for mark in "*?["):
        found = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]
        if files := [one for one in found if one.is_file()]:
            return [source_of(one) for one in files]
        raise InputError(f"no file matches {name!r}")
    raise InputError(f"{name!r} does not exist; check the path")


def source_of(path: Path) -> Source:
    """How a file's name says it is to be read."""
    if any("\udc80" <= letter <= "\udcff" for letter in str(path)):  # how Python holds undecodable bytes
        raise InputError(f"the file name {str(path)!r} is not UTF-8; rename the file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return Source(str(path), suffixes[-1] if suffixes else "", compression)


def is_prepared(directory: Path) -> bool:
    """Whether `plait prepare` wrote this directory."""
    return (directory / "documents.jsonl").is_file() and (directory / "report.json").is_file()


def _directory(root: Path, on_skip: Skip) -> list[Source]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if is_prepared(Path(folder)):
            found.append(Source(str(Path(folder) / "documents.jsonl"), ".jsonl", prepared=True))
            folders.clear()
            continue
        for file in sorted(one for one in files if not one.startswith(".")):
            source = replace(source_of(Path(folder) / file), listed=True)
            if source.kind not in PLAIN + RECORDS:
                on_skip(source.name, f"extension {source.kind or '(none)'}")
            elif not source.size:
                on_skip(source.name, "empty file")
            else:
                found.append(source)
    if not found:
        raise InputError(f"{str(root)!r} holds no file that can be read; accepted: {ACCEPTED}")
    return found


def leave_aside(sources: list[Source], on_skip: Skip) -> list[Source]:
    """Without the licences, notes and other plain text that lie about in a directory of data sets."""
    kept = []
    for source in sources:
        stem = Path(source.name).name.split(".")[0].upper()
        if source.listed and stem in ("LICENSE", "LICENCE", "COPYING", "NOTICE", "README"):
            on_skip(source.name, "licence or readme beside data")
        else:
            kept.append(source)
    return kept


def read_bytes(source: Source, on_bytes: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The decompressed content in pieces; `on_bytes` is told the bytes taken from the disk.

    Raises:
        InputError: the file cannot be opened, or is corrupt or truncated.
    """
    try:
        with nullcontext(sys.stdin.buffer) if source.name == "-" else Path(source.name).open("rb") as file:
            taken = 0
            for chunk in _decompress(source, file):
                if on_bytes is not None and source.name != "-":
                    on_bytes(file.tell() - taken)
                    taken = file.tell()
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{source.name} is corrupt or truncated ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror or error}") from None


def _decompress(source: Source, file) -> Iterator[bytes]:
    if source.compression == ".zst":
        yield from _unzstd(source.name, file)
        return
    stream = gzip.GzipFile(fileobj=file) if source.compression else file
    while chunk := stream.read(CHUNK):
        yield chunk


def _unzstd(name: str, file) -> Iterator[bytes]:
    """Frame by frame, as the library's own stream reader ends silently where a file is cut off."""
    zstandard = need("zstandard", "text")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    fresh = True
    try:
        while data := file.read(CHUNK):
            while data:
                fresh = False
                if piece := decoder.decompress(data):
                    yield piece
                data = decoder.unused_data
                if decoder.eof:
                    decoder, fresh = zstandard.ZstdDecompressor().decompressobj(), True
    except zstandard.ZstdError as error:
        raise InputError(f"{name} is corrupt ({error}); fetch it again") from None
    if not fresh:
        raise InputError(f"{name} is truncated (it ends inside a zstandard frame); fetch it again")
