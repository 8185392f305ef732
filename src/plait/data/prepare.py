"""From a `data:` block to encoded sources on disk, once; a resumed run opens them without the inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plait.data.config import DataConfig, Paths
from plait.data.encode import Intake, encode_conversations, encode_texts
from plait.data.files import REMEDY, read_json, write_json
from plait.data.pack import Rows, write_rows
from plait.data.shards import FORMAT, EncodedDocument, Shards, write_shards
from plait.data.source import Source
from plait.data.split import HELD_OUT, choose_split, hold_out, split_tail, with_keys
from plait.errors import ConfigError, InputError
from plait.log import bytes_text, progress, table, warn
from plait.text.document import Document
from plait.text.readers import read
from plait.text.sources import Skip, find_sources
from plait.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedData:
    """Encoded data of a run: sources to draw training rows from, and validation sets by name."""

    directory: Path
    context: int
    train: list[Source]
    validation: list[Source]
    report: dict[str, Any]

    def verify(self) -> None:
        """Compare every file with its checksum; raises InputError naming the one that differs."""
        for source in {source.rows.path: source for source in self.train + self.validation}.values():
            source.verify()


def prepare_data(
    config: DataConfig, tokenizer: Tokenizer, out_dir: str | Path, context: int, seed: int
) -> EncodedData:
    """Encode, split and pack the inputs into `out_dir`, or open what is there if it was made from the same.

    "The same" means configuration, tokenizer, context, seed, and names, sizes and times of the input files.

    Raises:
        InputError: an input that is missing or holds nothing to learn from.
        ConfigError: less training text than one row, or a split that leaves one side empty.
        TrainingError: no disk space.
    """
    job = _Job(config, tokenizer, Path(out_dir), context, seed)
    request, done = job.request(), job.out_dir / "data.json"
    if done.is_file() and read_json(done).get("request") == request:
        return open_data(job.out_dir, tokenizer)
    done.unlink(missing_ok=True)  # from here on, what is there is not what was asked for
    mixture = config.mixture()
    outside = config.validation if isinstance(config.validation, str) else None
    reports = {
        name: job.encode(name, entry.path, 0.0 if outside else float(config.validation))
        for name, entry in mixture.items()
    }
    if outside:
        reports["validation"] = job.encode("validation", outside, 1.0)
    write_json(job.out_dir / "report.json", {"context": context, "sources": reports})
    sets = {split: [name for name in reports if split in reports[name]] for split in ("train", "validation")}
    weights = {name: entry.weight for name, entry in mixture.items()}
    write_json(done, {"request": request, "context": context, "weights": weights, **sets})
    data = open_data(job.out_dir, tokenizer)
    show_report(data.report)
    return data


def open_data(out_dir: str | Path, tokenizer: Tokenizer | None = None) -> EncodedData:
    """Open encoded data; the inputs it was made from need not exist any more.

    Raises:
        InputError: when a file is missing, truncated or damaged.
        ConfigError: when another tokenizer encoded it.
    """
    out_dir = Path(out_dir)
    made = read_json(out_dir / "data.json")
    weights = made["weights"]
    stores = {name: Shards(out_dir / name) for name in {*made["train"], *made["validation"]}}
    for name, shards in stores.items():
        if tokenizer is not None and shards.tokenizer_hash != tokenizer.fingerprint:
            raise ConfigError(f"{out_dir / name} was encoded with another tokenizer; {REMEDY}")

    def sources(split: str) -> list[Source]:
        return [
            Source(name, stores[name], Rows(out_dir / name / f"{split}.rows.idx"), weights.get(name, 1.0))
            for name in made[split]
        ]

    report = read_json(out_dir / "report.json")
    return EncodedData(out_dir, made["context"], sources("train"), sources("validation"), report)


@dataclass(frozen=True)
class _Job:
    config: DataConfig
    tokenizer: Tokenizer
    out_dir: Path
    context: int
    seed: int

    def request(self) -> dict[str, Any]:
        """What the encoded data depends on, as JSON."""
        paths: list[Paths] = [entry.path for entry in self.config.mixture().values()]
        if isinstance(self.config.validation, str):
            paths.append(self.config.validation)
        inputs = [source.name for path in paths for source in find_sources(path, _ignore)]
        return {
            "format": FORMAT,
            "data": self.config.model_dump(mode="json"),
            "tokenizer": self.tokenizer.fingerprint,
            "context": self.context,
            "seed": self.seed,
            "inputs": [_stamp(name) for name in inputs],
        }

    def encode(self, name: str, path: Paths, fraction: float) -> dict[str, Any]:
        """Write the store and the rows of one source, `fraction` of it for validation; returns its report."""
        intake, split, folder = Intake(), "document", self.out_dir / name
        read_all = _reader(self.config, path)
        if 0 < fraction < 1:
            split = choose_split(self.config.split, self.config.kind, read_all)
        keep = 0
        if split == "tail":
            keep = int(sum(len(document.text) for document in read_all()) * (1 - fraction))
        encode = encode_texts if self.config.kind == "text" else encode_conversations
        with progress(f"encode {name} (bytes)", _total_bytes(path)) as bar:
            stream = intake.count(read_all(intake.skip, bar.advance))
            keyed = split_tail(stream, keep) if split == "tail" else with_keys(stream, self.seed)
            documents = encode(keyed, self.tokenizer, intake)
            shards = write_shards(
                folder,
                _some(documents, path, intake),
                vocab_size=self.tokenizer.vocab_size,
                tokenizer_hash=self.tokenizer.fingerprint,
                pad_id=self.tokenizer.pad_id or self.tokenizer.eos_id or 0,
            )
        keys = np.asarray(intake.keys, np.int64)
        held = keys == HELD_OUT if split == "tail" else hold_out(keys, fraction, name)
        return self._pack(name, shards, held, split, intake)

    def _pack(
        self, name: str, shards: Shards, held: np.ndarray, split: str, intake: Intake
    ) -> dict[str, Any]:
        report: dict[str, Any] = {
            "documents": intake.documents,
            "encoded": shards.documents,
            "skipped": dict(intake.skipped),
            "examples": intake.examples,
            "bytes": int(shards.text_bytes.sum()),
            "tokens": shards.tokens,
            "split": split,
        }
        for part, chosen in (("train", ~held), ("validation", held)):
            if chosen.any():
                path = shards.directory / f"{part}.rows.idx"
                numbers = np.flatnonzero(chosen)
                rows = write_rows(path, shards, numbers, self.context, together=self.config.pack)
                report[part] = _row_report(rows)
        found = report.get("train", {}).get("places", self.context)
        if found < self.context:
            raise ConfigError(
                f"{name!r} has {found:,} tokens to train on, fewer than model.context={self.context}; "
                f"add text or lower model.context to at most {found}"
            )
        return report


def _row_report(rows: Rows) -> dict[str, Any]:
    return {
        "documents": rows.documents,
        "bytes": rows.text_bytes,
        "places": rows.places,
        "targets": rows.target_tokens,
        "bytes_per_token": round(rows.text_bytes / max(1, rows.target_tokens), 4),
        "rows": rows.count,
        "longer_than_a_row": rows.cut,
        "padding_share": round(1 - rows.places / (rows.count * rows.context), 6) if rows.count else 0.0,
    }


def _reader(config: DataConfig, path: Paths) -> Callable[..., Iterator[Document]]:
    """A function that reads the documents from the start, any number of times."""

    def once(on_skip: Skip = _ignore, on_bytes: Callable[[int], None] | None = None) -> Iterator[Document]:
        fields = config.fields or None
        return read(path, format=config.format, fields=fields, on_skip=on_skip, on_bytes=on_bytes)

    if "-" not in ([path] if isinstance(path, str) else path):
        return once
    kept = list(once())  # standard input can be read but once
    return lambda *_: iter(kept)


def _ignore(where: str, reason: str) -> None:
    """Skips are counted in one reading of several."""


def _total_bytes(path: Paths) -> int | None:
    return sum(source.size for source in find_sources(path, _ignore)) or None


def _some(documents: Iterator[EncodedDocument], path: Paths, intake: Intake) -> Iterator[EncodedDocument]:
    yield from documents
    if not intake.keys:
        skipped = f"; skipped: {intake.summary()}" if intake.skipped else ""
        raise InputError(f"{path} holds nothing to learn from{skipped}; see data.format and data.fields")


def _stamp(name: str) -> list[Any]:
    if name == "-":
        return [name, time.time_ns()]  # standard input is never the same twice
    if name.startswith("hf://"):
        return [name]
    stat = Path(name).stat()
    return [str(Path(name).absolute()), stat.st_size, stat.st_mtime_ns]


def show_report(report: dict[str, Any]) -> None:
    """Print what was encoded, and what was left out and why."""
    columns = ("data", "for", "documents", "bytes", "tokens", "rows", "padding")
    lines = [
        (
            name, part, f"{made['documents']:,}", bytes_text(made["bytes"]), f"{made['places']:,}",
            f"{made['rows']:,}", f"{made['padding_share']:.1%}",
        )
        for name, source in report["sources"].items()
        for part, made in source.items()
        if part in ("train", "validation")
    ]  # fmt: skip
    table(f"encoded data, rows of {report['context']} tokens", columns, lines)
    for name, source in report["sources"].items():
        for reason, count in source["skipped"].items():
            warn(f"{name}: {count:,} skipped: {reason} (first: {source['examples'][reason]})")
