"""Verbs on text: prepare, tokenizer, tokenize."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from plait.cli.app import Words, fields_of, given
from plait.errors import ConfigError
from plait.log import say


def prepare(
    inputs: Annotated[list[str], Parameter(name="INPUT", consume_multiple=True)],
    /,
    *,
    out: str,
    format: str = "auto",
    field: Words = None,
    steps: str | None = None,
    languages: str | None = None,
    min_chars: int | None = None,
    max_chars: int | None = None,
    max_symbols: float | None = None,
    max_repetition: float | None = None,
    dedup: Literal["near", "exact", "none"] = "near",
    similarity: float = 0.8,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Clean, filter and deduplicate text into documents and a report.

    The directory of --out then serves as data.text of a recipe.

    For example:

        plait prepare books/ --out clean
        plait prepare posts.jsonl --field text=body --languages zh,en --out clean
        plait prepare page.html --steps html,mojibake,unicode_nfkc,whitespace --out clean

    Args:
        inputs: Files, folders, globs, "-" for standard input, or hf://owner/name.
        out: Directory to write documents.jsonl, dropped.jsonl and report.json to.
        format: auto (by extension), document, lines, paragraphs, scan, babi, dialog-babi, alpaca,
            sharegpt, parallel or tsv.
        field: Rename a column: text=body; a number for a headerless table.
        steps: Cleaning steps, comma separated, of html, mojibake, unicode_nfc, unicode_nfkc, control, width,
            urls, emails, punctuation, special, whitespace; default
            mojibake,unicode_nfc,control,width,whitespace.
        languages: Keep only these, comma separated codes such as zh,en.
        min_chars: Drop shorter documents; default 5.
        max_chars: Drop longer documents.
        max_symbols: Largest share of symbols; default 0.4.
        max_repetition: Largest share of repeated text; default 0.6.
        dedup: Which duplicates to remove.
        similarity: From which on near duplicates count as the same.
        workers: Processes; default one a core.
        overwrite: Replace an earlier result of prepare.
    """
    from plait.config import build
    from plait.recipes.prepare import PrepareConfig
    from plait.recipes.prepare import prepare as run

    rules = given(
        min_chars=min_chars,
        max_chars=max_chars,
        max_symbols=max_symbols,
        max_repetition=max_repetition,
        languages=languages and languages.split(","),
    )
    settings = given(
        steps=steps and [step.strip() for step in steps.split(",")], fields=fields_of(field), workers=workers
    )
    settings |= {"format": format, "dedup": dedup, "similarity": similarity, "overwrite": overwrite}
    run(inputs, out, build(PrepareConfig, settings | {"rules": rules}, source="prepare"))
    say(f"wrote {out}; train on it with data.text={out}")


def tokenizer(
    inputs: Annotated[list[str] | None, Parameter(name="INPUT", consume_multiple=True)] = None,
    /,
    *,
    out: str,
    vocab_size: int | None = None,
    kind: Literal["bpe", "unigram", "char", "byte"] | None = None,
    style: Literal["byte-level", "words", "lines"] | None = None,
    num_merges: int | None = None,
    merges: str | None = None,
    fim: bool = False,
    format: str = "auto",
    field: Words = None,
) -> None:
    """Learn a tokenizer from text, or import published merges.

    For example:

        plait tokenizer clean --vocab-size 8192 --out tok
        plait tokenizer --merges bpe.codes --out tok

    Args:
        inputs: Files, folders, globs, "-" for standard input, or a directory written by prepare.
        out: Directory for the tokenizer; serves as the key tokenizer of a recipe.
        vocab_size: Number of tokens, special tokens included; default 8192 where kind leaves a choice.
        kind: What the tokens are; default bpe.
        style: Default byte-level; "words" splits at spaces and marks word ends, as subword-nmt does;
            "lines" lets a token span words, for texts whose phrases recur.
        num_merges: Merges to learn in the style "words".
        merges: A merges file in subword-nmt's format to use instead of learning.
        fim: Have the special tokens with which a model learns to fill in a middle (data.fim).
        format: How to read the inputs.
        field: Rename a column: text=body.
    """
    from plait.config import build
    from plait.recipes.tokenizer import train_tokenizer
    from plait.text.tokenizer_config import TokenizerConfig

    if not inputs and merges is None:
        raise ConfigError("give text to learn from, or published merges with --merges FILE")
    settings = None
    chosen = given(kind=kind, vocab_size=vocab_size, style=style, merges=num_merges, fim=fim or None)
    if merges is not None and chosen:
        raise ConfigError(f"--merges brings its own sizes and style; leave out {', '.join(chosen)}")
    if merges is None:
        settings = build(TokenizerConfig, chosen, source="tokenizer")
    train_tokenizer(inputs or [], out, settings, merges=merges, fields=fields_of(field), format=format)


def tokenize(directory: str, file: str | None = None, /, *, pieces: bool = False) -> None:
    """Print the token ids (or pieces) of each line of a file or of standard input.

    For example:

        plait tokenize tok input.txt
        echo 并行 | plait tokenize tok --pieces

    Args:
        directory: A tokenizer or model directory.
        file: Text; standard input without it.
        pieces: Print pieces instead of ids, in the style of "@@ " for a tokenizer of words.
    """
    from plait.recipes.tokenizer import tokenize as run

    run(directory, file, pieces=pieces)
