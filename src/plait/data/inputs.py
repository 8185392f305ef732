"""The documents behind a `data:` block, the same ones and on the same side of the split for all readers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait.data.config import DataConfig, MixtureEntry, Paths
from plait.data.pairs import aligned, but_with, pair_of, why_no_pair
from plait.data.split import ALL, NONE, DocumentSplit, Split, find_split
from plait.errors import InputError
from plait.files import full_disk_named
from plait.log import progress, track
from plait.text.document import Document
from plait.text.readers import read
from plait.text.sources import find_sources


@dataclass
class Intake:
    """What came in: how many documents, and what was skipped and why."""

    documents: int = 0
    truncated: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # the first of each reason

    def skip(self, where: str, reason: str) -> None:
        """Count what is left out; the signature of a reader's `on_skip`."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, where)

    def summary(self) -> str:
        """`"3 empty (first: a.jsonl#1), 1 without messages (first: ...)"`."""
        return ", ".join(
            f"{n} {reason} (first: {self.examples[reason]})" for reason, n in self.skipped.items()
        )


@dataclass(frozen=True)
class Input:
    """One source of a `data:` block, `fraction` of which is for validation."""

    name: str
    path: Paths
    fraction: float
    config: DataConfig

    @property
    def bytes(self) -> int | None:
        """Bytes on disk; None where unknown."""
        return sum(source.size for source in find_sources(self.path, _ignore)) or None

    def file_names(self) -> list[str]:
        """The files behind the source, and what else it names, such as `hf://...`."""
        return [source.name for source in find_sources(self.path, _ignore)]

    def split(self, seed: int) -> Split:
        """Decide what is held out; reads the source through unless that is all or nothing."""
        if self.fraction in (0, 1):
            return DocumentSplit(ALL if self.fraction else NONE, seed)
        how = self.config.split if self.config.kind == "text" else "document"
        with progress(f"split {self.name}: documents") as bar:

            def documents() -> Iterator[Document]:
                for document in self.read(Intake()):
                    yield document
                    bar.advance()

            return find_split(documents, self.fraction, seed, how=how, name=self.name)

    def read(self, intake: Intake, on_bytes: Callable[[int], None] | None = None) -> Iterator[Document]:
        """The documents that can be learned from; `intake` is told of the others.

        Raises:
            InputError: where there are none.
        """
        some = False
        why_not = WHY_NOT[self.config.kind]
        fields = self.config.fields or None
        for document in read(
            self.path,
            format=format_of(self.path, self.config),
            fields=fields,
            on_skip=intake.skip,
            on_bytes=on_bytes,
        ):
            intake.documents += 1
            if reason := why_not(document):
                intake.skip(document.id, reason)
            else:
                some = True
                yield document
        if not some:
            self.refuse(intake)

    def refuse(self, intake: Intake) -> None:
        """Raises InputError: nothing of this source can be learned from."""
        skipped = f"; skipped: {intake.summary()}" if intake.skipped else ""
        raise InputError(f"{self.path} holds nothing to learn from{skipped}; see data.format and data.fields")


def format_of(path: Paths, config: DataConfig) -> str:
    """How a source is read: two plain files of pairs are aligned lines, if no other format is named."""
    two = config.kind == "pairs" and config.format == "auto" and aligned(_listed(path))
    return "parallel" if two else config.format


def inputs_of(config: DataConfig) -> list[Input]:
    """The sources of a mixture, and last what `data.validation` names, if it is a path."""
    outside = config.validation if isinstance(config.validation, (str, list)) else None
    fraction = 0.0 if isinstance(config.validation, (str, list)) else config.validation
    inputs = [Input(name, entry.path, fraction, config) for name, entry in config.mixture().items()]
    return [*inputs, Input("validation", outside, 1.0, config)] if outside else inputs


def training_texts(config: DataConfig, seed: int) -> Iterator[str]:
    """The texts of what `prepare_data` will put into the training set, and nothing of what it holds out.

    Of a conversation these are the contents of its messages, of a pair both sides. Standard input is kept by
    `standard_input_kept` first, as it is read more than once.
    """
    sources = [source for source in inputs_of(config) if source.fraction < 1]
    splits = [source.split(seed) for source in sources]  # now, before whoever reads draws a progress bar
    for source, split in zip(sources, splits):
        for document, held_out in split.sides(source.read(Intake())):
            if held_out:
                continue
            if config.kind == "text":
                yield document.text
            elif config.kind == "pairs":
                yield from pair_of(document) or ()
            else:
                yield from (message["content"] for message in document.record["messages"])


def _why_no_text(document: Document) -> str | None:
    if not document.text:
        return f"without text{but_with(document)}"
    try:
        document.text.encode()
    except UnicodeEncodeError:  # a file can spell half a surrogate pair, which is no character
        return "not valid Unicode"
    return None


def _why_no_conversation(document: Document) -> str | None:
    messages = document.record.get("messages")
    if not messages:
        return f"without messages{but_with(document)}"
    spoken = any(message["role"] == "assistant" for message in messages)
    return None if spoken else "without a word of the assistant"


WHY_NOT = {"text": _why_no_text, "messages": _why_no_conversation, "pairs": why_no_pair}


def _ignore(where: str, reason: str) -> None:
    """Skips are counted in one reading of several."""


@contextmanager
def standard_input_kept(config: DataConfig, directory: Path) -> Iterator[DataConfig]:
    """The same block with what comes from standard input in files, which can be read more than once.

    They lie in `directory` until the context ends.
    """
    folder = directory / ".input"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process

    def kept(name: str, path: Paths) -> Paths:
        return _keep(path, config, folder / name) if "-" in _listed(path) else path

    try:
        mixture = {
            name: MixtureEntry(path=kept(name, entry.path), weight=entry.weight)
            for name, entry in config.mixture().items()
        }
        update: dict[str, Any] = {config.kind: mixture} if mixture != config.mixture() else {}
        if isinstance(config.validation, (str, list)):
            update["validation"] = kept("validation", config.validation)
        yield config.model_copy(update=update)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listed(path: Paths) -> list[str]:
    return [path] if isinstance(path, str) else path


def _keep(path: Paths, config: DataConfig, folder: Path) -> str:
    """Write all documents of an input in the form of a `plait prepare` directory."""
    documents = read(path, format=format_of(path, config), fields=config.fields or None)
    folder.mkdir(parents=True)
    with full_disk_named(folder), (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
        for document in track(documents, "standard input: documents"):
            file.write(json.dumps(document.to_json()) + "\n")
    (folder / "report.json").write_text("{}", encoding="utf-8")
    return str(folder)
