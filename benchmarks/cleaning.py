"""Default cleaning plus near-duplicate removal against `ftfy.fix_text` alone, both over two processes.

    python benchmarks/cleaning.py [--megabytes 8] [--rounds 3] [--json FILE]

Peer: `ftfy.fix_text` on the same documents through the same pool of two workers. Ours: plait's default
cleaning in two workers and near-duplicate removal behind them. Text: this machine's Python documentation
and library sources, and Tang poems where `../shared/data` is there. The better of the rounds counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pydoc_data.topics
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import ftfy

from plait.text.clean import clean
from plait.text.dedup import dedup
from plait.text.document import Document
from plait.text.pool import ordered_map

POEMS = Path(__file__).parents[2] / "shared/data/tang-poems/tang.0-9999.jsonl.gz"
GOAL = 0.4
BATCH = 1 << 16  # characters a worker gets at once


def ftfy_batch(setup: Any, batch: list[str]) -> list[str]:
    return [ftfy.fix_text(text) for text in batch]


def clean_batch(setup: Any, batch: list[str]) -> list[str]:
    return [clean(text) for text in batch]


def corpus(limit: int) -> dict[str, list[str]]:
    """Documents by language, up to `limit` bytes each."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    english = chain(pydoc_data.topics.topics.values(), (path.read_text("utf-8") for path in sources))
    texts: dict[str, Iterator[str]] = {"english": english}
    if POEMS.is_file():
        with gzip.open(POEMS, "rt", encoding="utf-8") as file:
            texts["chinese"] = iter(["\n".join(json.loads(line)["paragraphs"]) for line in file])
    return {name: _cut(stream, limit) for name, stream in texts.items()}


def _cut(stream, limit: int) -> list[str]:
    found, size = [], 0
    for text in stream:
        found.append(text)
        size += len(text.encode())
        if size >= limit:
            break
    return found


def batches(texts: list[str]):
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def through(target: str, texts: list[str]) -> list[str]:
    return [text for batch in ordered_map(target, None, batches(texts), 2) for text in batch]


def peer(texts: list[str]) -> int:
    return len(through("cleaning:ftfy_batch", texts))


def ours(texts: list[str]) -> int:
    cleaned = (
        text for batch in ordered_map("cleaning:clean_batch", None, batches(texts), 2) for text in batch
    )
    documents = (Document(str(number), text) for number, text in enumerate(cleaned))
    return sum(duplicate is None for _, duplicate in dedup(documents))


def measure(texts: list[str], rounds: int) -> dict[str, float]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    best = {"ftfy": float("inf"), "plait": float("inf")}
    kept = 0
    for _ in range(rounds):  # in turns, so that both meet the same machine
        for name, function in (("ftfy", peer), ("plait", ours)):
            start = time.perf_counter()
            kept = function(texts)
            best[name] = min(best[name], time.perf_counter() - start)
    speeds = {name: size / seconds for name, seconds in best.items()}
    return {"megabytes": size, "documents": len(texts), "kept": kept} | {
        "ftfy_mb_s": speeds["ftfy"], "plait_mb_s": speeds["plait"], "ratio": speeds["plait"] / speeds["ftfy"],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="plait's cleaning against ftfy alone")
    parser.add_argument("--megabytes", type=float, default=8, help="of each language, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    results = {}
    for name, texts in corpus(int(options.megabytes * 1e6)).items():
        results[name] = found = measure(texts, options.rounds)
        print(
            f"{name}: {found['megabytes']:.1f} MB, {found['documents']} documents, {found['kept']} kept; "
            f"ftfy alone {found['ftfy_mb_s']:.2f} MB/s, plait {found['plait_mb_s']:.2f} MB/s, "
            f"ratio {found['ratio']:.2f} (goal: at least {GOAL})"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return 0 if all(found["ratio"] >= GOAL for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
