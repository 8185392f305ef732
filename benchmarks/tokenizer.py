"""Tokenizer training and encoding against calling the `tokenizers` library directly, in the same run.

    python benchmarks/tokenizer.py [FILE...] [--vocab-size 8192] [--kind bpe] [--rounds 5]

Without files the text is the reference material in `pydoc_data` and the sources of the standard library.
Both sides train on the same documents with the same trainer settings and word splitting, in turn, and each
counts its best round. Target: training at 0.9 times the library's speed or better.
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from plait.text.readers import read
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import TokenizerConfig
from plait.text.train_tokenizer import byte_level_trainer, byte_level_words, train


def corpus(files: list[str], megabytes: float) -> list[str]:
    """Documents of the files, or of the standard library's sources, up to a size."""
    if files:
        texts = [document.body() for document in read(files)]
    else:
        sources = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
        texts = [
            path.read_text(encoding="utf-8", errors="replace") for path in sources if path.stat().st_size
        ]
    kept, size = [], 0
    for text in texts:
        if size >= megabytes * 1e6:
            break
        kept.append(text)
        size += len(text.encode())
    return kept


def directly(texts: list[str], config: TokenizerConfig) -> Backend:
    """What someone who uses the library alone would write."""
    backend = Backend(models.BPE() if config.kind == "bpe" else models.Unigram())
    backend.pre_tokenizer = byte_level_words()
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, byte_level_trainer(config), length=len(texts))
    return backend


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, size: int, rounds: int, peer: Callable[[], object], ours: Callable[[], object]
) -> None:
    """Print both speeds and their ratio: rounds alternate, so that both meet the same machine."""
    times = [(seconds(peer), seconds(ours)) for _ in range(rounds)]
    theirs, mine = (min(column) for column in zip(*times))
    print(f"{name}: tokenizers {size / theirs / 1e6:.2f} MB/s, plait {size / mine / 1e6:.2f} MB/s", end="")
    print(f", ratio {theirs / mine:.2f} (best of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--kind", choices=("bpe", "unigram"), default="bpe")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = TokenizerConfig(kind=options.kind, vocab_size=options.vocab_size)
    texts = corpus(options.files, options.megabytes)
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {options.kind}, {options.vocab_size} tokens")

    def ours() -> Tokenizer:
        return train(texts, kind=config.kind, vocab_size=config.vocab_size)

    compare("training", size, options.rounds, lambda: directly(texts, config), ours)
    tokenizer = ours()
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    library = tokenizer.backend

    def plain() -> object:
        return [one.ids for one in library.encode_batch(lines, add_special_tokens=False)]

    compare("encode_batch", size, options.rounds, plain, lambda: tokenizer.encode_batch(lines))


if __name__ == "__main__":
    main()
