"""From a `data:` block to encoded sources on disk, once; a resumed run opens them without the inputs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plait.data.config import DataConfig
from plait.data.encode import encode_as_chats, encode_conversations, encode_pairs, encode_texts
from plait.data.files import REMEDY, read_json, write_json
from plait.data.inputs import Input, Intake, inputs_of, standard_input_kept
from plait.data.notice import Noticed, elsewhere_text, labels_in
from plait.data.pack import Rows, write_rows
from plait.data.shards import FORMAT, EncodedDocument, Shards, write_shards
from plait.data.source import Source
from plait.errors import ConfigError
from plait.files import sweep
from plait.log import bytes_text, progress, table, warn
from plait.text.bpe_dropout import DroppingEncoder
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedData:
    """Encoded data of a run: sources to draw training rows from, and validation sets by name."""

    directory: Path
    context: int
    train: list[Source]
    validation: list[Source]
    report: dict[str, Any]

    @property
    def paired(self) -> bool:
        """Whether a row is a source and its target, for an encoder-decoder."""
        return self.train[0].shards.start_id is not None

    @property
    def labels(self) -> list[str]:
        """The targets of pairs that have few different ones; empty for other data."""
        return labels_in(self.report.get("sources", {}).values())

    def verify(self) -> None:
        """Compare every file with its checksum; raises InputError naming the one that differs."""
        for source in {source.rows.path: source for source in self.train + self.validation}.values():
            source.verify()


def prepare_data(
    config: DataConfig,
    tokenizer: Tokenizer,
    out_dir: str | Path,
    context: int,
    seed: int,
    *,
    start_id: int | None = None,
) -> EncodedData:
    """Encode, split and pack the inputs into `out_dir`, or open what is there if it was made from the same.

    "The same" means configuration, tokenizer, context, seed, and names, sizes and times of the input files.

    Args:
        start_id: what begins the targets of an encoder-decoder; None: the data are for a decoder.

    Raises:
        InputError: an input that is missing or holds nothing to learn from.
        ConfigError: less training text than one row, or a split that leaves one side empty.
        TrainingError: no disk space.
    """
    with standard_input_kept(config, Path(out_dir)) as readable:
        return _prepare(_Job(readable, tokenizer, Path(out_dir), context, seed, start_id))


def _prepare(job: _Job) -> EncodedData:
    sweep(job.out_dir)
    request, done = job.request(), job.out_dir / "data.json"
    if done.is_file() and read_json(done).get("request") == request:
        return open_data(job.out_dir, job.tokenizer)
    done.unlink(missing_ok=True)  # from here on, what is there is not what was asked for
    reports = {source.name: job.encode(source) for source in inputs_of(job.config)}
    write_json(
        job.out_dir / "report.json",
        {"context": job.context, "paired": job.start_id is not None, "sources": reports},
    )
    sets = {split: [name for name in reports if split in reports[name]] for split in ("train", "validation")}
    weights = {name: entry.weight for name, entry in job.config.mixture().items()}
    write_json(done, {"request": request, "context": job.context, "weights": weights, **sets})
    data = open_data(job.out_dir, job.tokenizer)
    show_report(data.report)
    return data


def open_data(out_dir: str | Path, tokenizer: Tokenizer | None = None) -> EncodedData:
    """Open encoded data, every file compared with its checksum; its inputs need not exist any more.

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
    data = EncodedData(out_dir, made["context"], sources("train"), sources("validation"), report)
    data.verify()
    return data


@dataclass(frozen=True)
class _Job:
    config: DataConfig
    tokenizer: Tokenizer
    out_dir: Path
    context: int
    seed: int
    start_id: int | None = None

    def request(self) -> dict[str, Any]:
        """What the encoded data depends on, as JSON."""
        names = [name for source in inputs_of(self.config) for name in source.file_names()]
        return {
            "format": FORMAT,
            "data": self.config.model_dump(mode="json"),
            "tokenizer": self.tokenizer.fingerprint,
            "context": self.context,
            "seed": self.seed,
            "start_id": self.start_id,
            "inputs": [_stamp(name) for name in names],
        }

    def encode(self, source: Input) -> dict[str, Any]:
        """Write the store and the rows of one source; returns its report."""
        intake, noticed, held = Intake(), Noticed(), array("b")
        split = source.split(self.seed)

        def documents() -> Iterator[EncodedDocument]:
            sides = split.sides(source.read(intake, bar.advance))
            sides = noticed.watch(sides) if self.config.kind == "pairs" else sides
            for document, held_out in self._encode(sides, intake):
                held.append(held_out)
                yield document
            if not held:
                source.refuse(intake)

        with progress(f"encode {source.name} (bytes)", source.bytes) as bar:
            shards = write_shards(
                self.out_dir / source.name,
                documents(),
                vocab_size=self.tokenizer.vocab_size,
                tokenizer_hash=self.tokenizer.fingerprint,
                pad_id=self._pad_id,
                start_id=self.start_id,
            )
        report = self._pack(source, shards, np.asarray(held, bool), split.name, intake)
        return report | noticed.report()

    @property
    def _pad_id(self) -> int:
        known = (self.tokenizer.pad_id, self.tokenizer.eos_id)
        return next((token for token in known if token is not None), 0)

    def _encode(
        self, sides: Iterator[tuple[Document, bool]], intake: Intake
    ) -> Iterator[tuple[EncodedDocument, bool]]:
        dropout = self.config.bpe_dropout
        if self.start_id is not None:
            if self.config.prompt_loss:
                raise ConfigError(
                    "data.prompt_loss is for a decoder, which predicts prompts, and this model reads them "
                    "with an encoder; leave it out, or set model.encoder_layers=0"
                )
            return encode_pairs(
                sides, self.tokenizer, intake, context=self.context, truncate=self.config.truncate,
                dropping=DroppingEncoder(self.tokenizer, dropout, self.seed) if dropout else None,
                spellings=self.config.spellings,
            )  # fmt: skip
        if dropout:
            raise ConfigError(
                "data.bpe_dropout is for an encoder-decoder; leave it out, or set model.encoder_layers"
            )
        if self.config.kind == "text":
            return encode_texts(sides, self.tokenizer, intake, fim=self.config.fim, seed=self.seed)
        learned = {"prompt_loss": self.config.prompt_loss, "seed": self.seed}
        if self.config.kind == "messages":
            return encode_conversations(sides, self.tokenizer, intake, **learned)
        return encode_as_chats(
            sides, self.tokenizer, intake, context=self.context, truncate=self.config.truncate, **learned
        )

    def _pack(
        self, source: Input, shards: Shards, held: np.ndarray, split: str, intake: Intake
    ) -> dict[str, Any]:
        report: dict[str, Any] = {
            "kind": self.config.kind,
            "documents": intake.documents,
            "encoded": shards.documents,
            "skipped": dict(intake.skipped),
            "truncated": intake.truncated,
            "examples": intake.examples,
            "bytes": int(shards.text_bytes.sum()),
            "tokens": shards.tokens,
            "split": split,
        }
        for part, chosen in (("train", ~held), ("validation", held)):
            if chosen.any():
                path = shards.directory / f"{part}.rows.idx"
                numbers = np.flatnonzero(chosen)
                paired = self.start_id is not None  # a row holds both sides of one pair
                rows = write_rows(
                    path,
                    shards,
                    numbers,
                    2 * self.context if paired else self.context,
                    together=self.config.pack and not paired,
                )
                report[part] = _row_report(rows) | ({"padding_share": None} if paired else {})
        if source.fraction < 1:
            self._check_enough(source.name, report.get("train", {}).get("places", 0))
        return report

    def _check_enough(self, name: str, found: int) -> None:
        """Refuse less to train on than one row, or than one pair."""
        if self.start_id is not None and not found:
            raise ConfigError(
                f"every pair of {name!r} to train on is longer than model.context={self.context}; "
                "raise it or set data.truncate=true"
            )
        if self.start_id is None and found < self.context:
            raise ConfigError(
                f"{name!r} has {found:,} tokens to train on, fewer than model.context={self.context}; "
                f"add text or lower model.context to at most {found}"
            )


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


def _stamp(name: str) -> list[Any]:
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
            f"{made['rows']:,}", _share(made["padding_share"]),
        )
        for name, source in report["sources"].items()
        for part, made in source.items()
        if part in ("train", "validation")
    ]  # fmt: skip
    rows = "pairs, sides of up to" if report.get("paired") else "data, rows of"
    table(f"encoded {rows} {report['context']} tokens", columns, lines)
    for name, source in report["sources"].items():
        if source["truncated"]:
            warn(f"{name}: {source['truncated']:,} cut to the model's context, as data.truncate asks")
        if noticed := source.get("elsewhere"):
            warn(f"{name}: {elsewhere_text(noticed['answers'], noticed['first'])}")
        if source.get("kind") == "messages":
            torn = sum(
                source[part]["longer_than_a_row"] for part in ("train", "validation") if part in source
            )
            if torn:
                warn(f"{name}: {torn:,} conversations longer than model.context are learned in pieces")
        for reason, count in source["skipped"].items():
            warn(f"{name}: {count:,} skipped: {reason} (first: {source['examples'][reason]})")


def _share(padding: float | None) -> str:
    return "by batch" if padding is None else f"{padding:.1%}"
