"""Published byte-pair merges in subword-nmt's format become a tokenizer.

The format (Sennrich et al. 2016, version 0.2): a line `#version: 0.2`, which some leave out, then one merge a
line, two symbols with a space between, most frequent first; the last symbol of a word ends in `</w>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from plait.errors import InputError
from plait.text.encoding import decoded, lines_of
from plait.text.sources import read_bytes, source_of
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import SPECIAL_TOKENS, UNKNOWN_TOKEN, WORD_END
from plait.text.tokenizer_files import own_settings
from plait.text.train_tokenizer import special_tokens, words_backend

Merge = tuple[str, str]


def from_merges(file: str | Path, texts: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer that segments as subword-nmt does with these merges.

    Its vocabulary: the special tokens and `<|unk|>`, every character of the merges and of `texts` (inside a
    word, and at its end), and what each merge makes. A character in none of them becomes `<|unk|>`; `pieces`
    shows it all the same. Repeated spaces are lost.

    Args:
        file: merges, plain or as `.gz` or `.zst`.
        texts: texts whose characters the vocabulary must hold.

    Raises:
        InputError: where the file is not of this format, naming the line.
    """
    merges = read_merges(file)
    made = [first + second for first, second in merges]
    parts = chain.from_iterable(merges)
    alphabet = {character for part in parts for character in part.removesuffix(WORD_END)}
    symbols = alphabet | {character + WORD_END for character in alphabet} | _symbols_of(texts)
    tokens = [*SPECIAL_TOKENS, UNKNOWN_TOKEN, *sorted(symbols), *chain.from_iterable(merges), *made]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = words_backend(vocab, merges)
    backend.add_special_tokens(special_tokens((*SPECIAL_TOKENS, UNKNOWN_TOKEN)))
    return Tokenizer(backend.to_str(), own_settings(UNKNOWN_TOKEN))


def _symbols_of(texts: Iterable[str]) -> set[str]:
    inner: set[str] = set()
    last: set[str] = set()
    for text in texts:
        words = set(re.split(r"[ \r\n]+", text)) - {""}
        inner.update(character for word in words for character in word[:-1])
        last.update(word[-1] + WORD_END for word in words)
    return inner | last


def read_merges(file: str | Path) -> list[Merge]:
    """The merges of a file in order, each once.

    Raises:
        InputError: where the file is missing, empty, or not of this format, naming the line.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"merges file {str(path)!r} does not exist; check the path")
    lines = list(lines_of(decoded(read_bytes(source_of(path)), str(path))))
    start = 0
    if lines and lines[0].startswith("#version:"):
        start = 1
        if lines[0].split(":")[1].strip() != "0.2":
            raise InputError(f"{path}: {lines[0]!r} is not supported; plait reads merges of version 0.2")
    merges = [_merge(path, number, line) for number, line in enumerate(lines[start:], start + 1) if line]
    if not merges:
        raise InputError(f"{path} holds no merges; give a file that `subword-nmt learn-bpe` wrote")
    _check_flavour(path, merges)
    return list(dict.fromkeys(merges))


def _merge(path: Path, number: int, line: str) -> Merge:
    symbols = line.strip(" ").split(" ")
    if len(symbols) != 2 or not all(symbols):
        raise InputError(f"{path}:{number}: {line!r:.60} is not a merge; a merge is two symbols and a space")
    merged = "".join(symbols)
    if merged in (*SPECIAL_TOKENS, UNKNOWN_TOKEN):
        raise InputError(f"{path}:{number}: this merge makes the special token {merged}; remove it")
    return symbols[0], symbols[1]


def _check_flavour(path: Path, merges: list[Merge]) -> None:
    if any(WORD_END in merge for merge in merges):
        raise InputError(
            f"{path} holds merges of version 0.1 ({WORD_END} as a symbol of its own); "
            "learn them again with subword-nmt 0.2 or later"
        )
    ends = any(second.endswith(WORD_END) for _, second in merges)
    if not ends and any("Ġ" in first + second for first, second in merges):
        raise InputError(
            f"{path} holds byte-level merges, as GPT-2 has; open the tokenizer.json they came with"
        )
