"""Learn a tokenizer from text, by the `tokenizers` library."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from plait.config import build
from plait.errors import ConfigError, InputError
from plait.log import progress
from plait.text.stream import byte_alphabet
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import (
    FALLBACK_BYTES,
    FIM_TOKENS,
    UNKNOWN_TOKEN,
    WORD_END,
    Kind,
    Style,
    TokenizerConfig,
)
from plait.text.tokenizer_files import own_settings

MIN_FREQUENCY = 2  # a pair seen once is no regularity
CHUNK = 1 << 16  # characters handed to the library at a time, so that one long document uses all cores

_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}ーｰ"
_LETTER = rf"[\p{{L}}&&[^{_CJK}]]"
# What no token ever crosses: words keep one leading space; Chinese and Japanese stand apart from other
# scripts; punctuation is never joined to words; digits stand alone, so that places line up; line ends
# stand apart from indentation. Runs are bounded, as learning takes the square of their length.
WORD_PATTERN = "|".join(
    (
        r"(?i:['’](?:s|t|re|ve|m|ll|d)(?!\p{L}))",
        r"\p{Han}{1,32}",
        r"[\p{Hiragana}\p{Katakana}ーｰ]{1,32}",
        rf" ?{_LETTER}[[\p{{L}}\p{{M}}]&&[^{_CJK}]]{{0,63}}",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]{1,64}",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# In the `lines` style a token may span words but not lines.
LINE_PATTERN = r"[^\n]{1,512}\n?|\n"
_LINE_START = re.compile(r"(?<=\n)(?=\S)")  # a place where no pre-token continues


def train(
    texts: Iterable[str],
    *,
    kind: Kind = "bpe",
    vocab_size: int | None = None,
    style: Style = "byte-level",
    merges: int | None = None,
    fim: bool = False,
) -> Tokenizer:
    """Learn a tokenizer with plait's special tokens and chat template.

    Args:
        texts: the corpus, read once; the `words` style keeps it in memory.
        kind, vocab_size, style, merges, fim: see `TokenizerConfig`.

    Raises:
        ConfigError: for settings that do not go together, or more tokens than the texts support.
        InputError: where there is no text.
    """
    given = {"kind": kind, "vocab_size": vocab_size, "style": style, "merges": merges, "fim": fim}
    config = build(TokenizerConfig, given, source="tokenizer")
    chunks = _chunks(texts)
    first = next(chunks, None)
    if first is None:
        raise InputError("there is no text to learn a tokenizer from; give files that are not empty")
    backend = _learn(config, _counted(chain([first], chunks)))
    unknown = UNKNOWN_TOKEN if style == "words" else None
    return Tokenizer(backend.to_str(), own_settings(unknown, FIM_TOKENS if fim else ()))


def _learn(config: TokenizerConfig, chunks: Iterator[str]) -> Backend:
    if config.style == "words":
        return _words(chunks, config)
    if config.kind == "char":
        return _characters(chunks, config)
    if config.kind == "byte":
        return _bytes(config)
    return _byte_level(chunks, config)


def _byte_level(chunks: Iterator[str], config: TokenizerConfig) -> Backend:
    backend = Backend(models.BPE() if config.kind == "bpe" else models.Unigram())
    backend.pre_tokenizer = _byte_level_parts(LINE_PATTERN) if config.style == "lines" else byte_level_words()
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(chunks, byte_level_trainer(config))
    _check_size(backend.get_vocab_size(), config.vocab_size or 0)
    return backend if config.kind == "bpe" else _reproducible(backend, len(config.special))


def _reproducible(backend: Backend, first: int) -> Backend:
    """Take out of a unigram vocabulary what differs from run to run: the last digits of scores, and the
    order and scores of bytes that the text lacks (the library gives them steps above the lowest score)."""
    definition = json.loads(backend.to_str())
    vocab = definition["model"]["vocab"]
    special, learned = vocab[:first], vocab[first:]
    lowest = min(score for _, score in learned)
    alphabet = byte_alphabet()
    spare = {token for token, score in learned if token in alphabet and score < lowest + 0.03}
    settled = [(token, round(lowest if token in spare else score, 6)) for token, score in learned]
    definition["model"]["vocab"] = special + sorted(settled, key=lambda piece: (-piece[1], piece[0]))
    return Backend.from_str(json.dumps(definition))


def byte_level_words() -> pre_tokenizers.PreTokenizer:
    """Splits text as `WORD_PATTERN` says and spells each part in bytes."""
    return _byte_level_parts(WORD_PATTERN)


def _byte_level_parts(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, _byte_spelling()])


def byte_level_trainer(config: TokenizerConfig) -> trainers.Trainer:
    """The library's trainer with plait's settings for `bpe` and `unigram`."""
    shared = {
        "vocab_size": config.most,
        "special_tokens": special_tokens(config.special),
        "initial_alphabet": sorted(byte_alphabet()),
        "show_progress": sys.stderr.isatty(),
    }
    if config.kind == "bpe":
        return trainers.BpeTrainer(min_frequency=MIN_FREQUENCY, **shared)
    return trainers.UnigramTrainer(**shared)


def _byte_spelling() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def special_tokens(names: Sequence[str]) -> list[AddedToken]:
    """Special tokens, always the first ids."""
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _bytes(config: TokenizerConfig) -> Backend:
    tokens = [*config.special, *sorted(byte_alphabet(), key=byte_alphabet().__getitem__)]
    backend = Backend(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = _byte_spelling()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special_tokens(config.special))
    return backend


def _characters(chunks: Iterator[str], config: TokenizerConfig) -> Backend:
    vocab_size = config.vocab_size
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(chunk)
    spare = [f"<0x{byte:02X}>" for byte in FALLBACK_BYTES]
    always = [*config.special, *spare, *map(chr, range(128))]
    seen = sorted((c for c in counts if ord(c) >= 128), key=lambda c: (-counts[c], c))
    _check_size(len(always) + len(seen), vocab_size or 0)
    kept = sorted(seen[: vocab_size - len(always)] if vocab_size else seen)
    vocab = {token: index for index, token in enumerate(always + kept)}
    backend = Backend(models.BPE(vocab, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(special_tokens(config.special))
    return backend


def _words(chunks: Iterator[str], config: TokenizerConfig) -> Backend:
    # a spelled special token must not become a merge: its id would then stand for plain text
    texts = [chunk.replace("<|", "< |") for chunk in chunks]
    specials = special_tokens(config.special)
    base = len(specials) + _alphabet_size(texts)
    size = base + config.merges if config.merges else config.vocab_size or 0
    if size < base:
        raise ConfigError(
            f"vocab_size={size} does not hold the {base} characters of this text; use a larger one"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=specials,
        end_of_word_suffix=WORD_END,
        show_progress=sys.stderr.isatty(),
    )
    backend = words_backend({}, [])
    backend.train_from_iterator(texts, trainer)
    found = backend.get_vocab_size()
    if config.merges and found < size:
        raise ConfigError(
            f"merges={config.merges} is more than this text supports, which gives {found - base}; "
            f"use merges={found - base} or less, or more text"
        )
    _check_size(found, size)
    return backend


def words_backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Backend:
    """A BPE over words split at spaces and line ends, as subword-nmt splits them."""
    backend = Backend(models.BPE(vocab, merges, end_of_word_suffix=WORD_END, unk_token=UNKNOWN_TOKEN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[ \r\n]+"), "removed")
    backend.decoder = decoders.BPEDecoder(WORD_END)
    return backend


def _alphabet_size(texts: list[str]) -> int:
    words = {word for text in texts for word in re.split(r"[ \r\n]+", text) if word}
    inner = {character for word in words for character in word[:-1]}
    # the library counts a word's last character twice: bare, and with the mark of the end
    last = {word[-1] for word in words}
    return len(inner | last) + len(last)


def _check_size(found: int, wanted: int) -> None:
    if found < wanted:
        raise ConfigError(
            f"vocab_size={wanted} is more than this text supports, which gives {found}; "
            f"use vocab_size={found} or less, or more text"
        )


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """The texts, long ones cut at line starts, where a cut changes nothing in what is counted."""
    for text in texts:
        _check_unicode(text)
        start = 0
        while len(text) - start > CHUNK:
            cut = _LINE_START.search(text, start + CHUNK)
            if cut is None:
                break
            yield text[start : cut.start()]
            start = cut.start()
        if start < len(text):
            yield text[start:] if start else text


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(error.start - 20, 0) : error.start]
        raise InputError(
            f"a text must be valid Unicode: a lone surrogate stands after {before!r}; remove it"
        ) from None


def _counted(chunks: Iterable[str]) -> Iterator[str]:
    if sys.stderr.isatty():  # there the library draws bars of its own
        yield from chunks
        return
    with progress("tokenizer: million characters read") as bar:
        for chunk in chunks:
            yield chunk
            bar.advance(len(chunk) / 1e6)
