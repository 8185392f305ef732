"""What kind of tokenizer to train and how large: the `tokenizer:` block of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from plait.config import Config

# always the first ids, in this order; `<|end|>` begins a document and ends a document or a turn
SPECIAL_TOKENS = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
UNKNOWN_TOKEN = "<|unk|>"  # the sixth, only in the `words` style, which cannot spell every character
FIM_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")  # the next, where `fim` asks for them
WORD_END = "</w>"
DEFAULT_VOCAB = 8192

# bytes that begin or continue a character beyond ASCII (The Unicode Standard, section 3.9, table 3-7)
FALLBACK_BYTES = tuple(byte for byte in range(0x80, 0xF5) if byte not in (0xC0, 0xC1))

Kind = Literal["bpe", "unigram", "char", "byte"]
Style = Literal["byte-level", "words", "lines"]


class TokenizerConfig(Config):
    """How to train a tokenizer.

    Attributes:
        kind: `bpe` (merges of frequent neighbours; Sennrich et al. 2016), `unigram` (pieces of a unigram
            language model; Kudo 2018), `char` (one token a character) or `byte` (one token a byte).
        vocab_size: number of tokens, special tokens included. Unless given, for `bpe` and `unigram` 8192 or
            as many as the text supports; for `char` every character of the text; for `byte` always 261, or
            264 with `fim`.
        style: `byte-level` spells any text exactly. `words` (only with `bpe`) splits at spaces and marks the
            end of a word with `</w>` as subword-nmt does: it loses repeated spaces and unknown characters.
            `lines` (only with `bpe`) spells any text exactly too, and lets a token span words, up to a whole
            line (as superwords do; Liu et al. 2025): for texts made of phrases that recur, such as commands,
            forms and templates, which become several times shorter.
        merges: number of merges, in the `words` style instead of `vocab_size`.
        merges_file: published merges in subword-nmt's format, which is the `words` style; nothing is learned.
        fim: have the special tokens by which a model learns to fill in the middle of a text (Bavarian et al.
            2022), see `data.fim`.
    """

    kind: Kind = "bpe"
    vocab_size: int | None = None
    style: Style = "byte-level"
    merges: int | None = None
    merges_file: str | None = None
    fim: bool = False

    @model_validator(mode="before")
    @classmethod
    def _style_of_merges(cls, value: Any) -> Any:
        published = isinstance(value, dict) and value.get("merges_file") is not None
        return {"style": "words"} | value if published else value

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        if self.fim and self.merges_file is not None:
            raise ValueError("fim=true adds tokens to what is learned, and merges_file is not; leave one out")
        if self.style != "byte-level" and self.kind != "bpe":
            raise ValueError(
                f"style={self.style} does not go with kind={self.kind}; use kind=bpe or style=byte-level"
            )
        if self.style == "words":
            self._check_words()
            return self
        if self.merges is not None:
            raise ValueError(f"merges={self.merges} counts the merges of style=words; use vocab_size instead")
        smallest = smallest_vocab(self.kind, self.fim)
        if self.kind == "byte" and self.vocab_size not in (None, smallest):
            raise ValueError(
                f"vocab_size={self.vocab_size} does not fit kind=byte, which always has {smallest} tokens; "
                "leave vocab_size out"
            )
        if self.vocab_size is not None and self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size={self.vocab_size} is too small for kind={self.kind}, needing {smallest} tokens "
                "to spell any text and for special tokens; use a larger one"
            )
        return self

    @property
    def most(self) -> int:
        """How many tokens are learned, where the text supports as many."""
        return self.vocab_size or DEFAULT_VOCAB

    @property
    def special(self) -> tuple[str, ...]:
        """All special tokens, in the order of their ids, which are the first."""
        unknown = (UNKNOWN_TOKEN,) if self.style == "words" else ()
        return (*SPECIAL_TOKENS, *unknown, *(FIM_TOKENS if self.fim else ()))

    def _check_words(self) -> None:
        given = [name for name in ("merges", "merges_file", "vocab_size") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(
                f"style=words needs exactly one of merges, merges_file and vocab_size, not {found}"
            )
        if self.merges is not None and self.merges < 1:
            raise ValueError(f"merges={self.merges} must be at least 1")


def smallest_vocab(kind: Kind, fim: bool = False) -> int:
    """Tokens a byte-level vocabulary cannot do without: the special ones and those that spell any byte."""
    special = len(SPECIAL_TOKENS) + (len(FIM_TOKENS) if fim else 0)
    return special + (128 + len(FALLBACK_BYTES) if kind == "char" else 256)
