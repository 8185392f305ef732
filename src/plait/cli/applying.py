"""Verbs that put a model to use: translate, summarize, answer."""

from __future__ import annotations

from plait.cli.app import Beams, Where


def translate(
    model: str,
    text: str | None = None,
    /,
    *,
    input: str | None = None,
    output: str | None = None,
    batch: int = 32,
    beams: Beams = Beams(),
    where: Where = Where(),
) -> None:
    """Translate a text, a file (resumable), or what is typed line by line.

    For example:

        plait translate runs/en-de "a man rides a bike ."
        plait translate runs/en-de --input test.en --output test.de

    Args:
        model: A model, step or run directory.
        text: The text; without it and --input, lines are read from the terminal or a pipe.
        input: A file: plain lines, or records with source or text.
        output: Where to write; a name in .jsonl gets records with scores, any other plain lines.
        batch: Texts at a time; changes no answer.
    """
    _apply("translate", model, text, input, output, batch, beams, where)


def summarize(
    model: str,
    text: str | None = None,
    /,
    *,
    input: str | None = None,
    output: str | None = None,
    batch: int = 32,
    beams: Beams = Beams(),
    where: Where = Where(),
) -> None:
    """Summarize a text, a file of texts (resumable), or what is typed line by line.

    For example:

        plait summarize runs/mail "Hi Phillip, this is to confirm our meeting on Tuesday ..."
        plait summarize runs/mail --input mails.jsonl --output subjects.txt

    Args:
        model: A model, step or run directory.
        text: The text; without it and --input, lines are read from the terminal or a pipe.
        input: A file: plain lines, or records with source or text.
        output: Where to write; a name in .jsonl gets records with scores, any other plain lines.
        batch: Texts at a time; changes no answer.
    """
    _apply("summarize", model, text, input, output, batch, beams, where)


def _apply(
    name: str, model: str, text: str | None, input: str | None, output: str | None, batch: int,
    beams: Beams, where: Where,
) -> None:  # fmt: skip
    from plait.recipes.apply import apply_task

    apply_task(
        name, model, text, input=input, output=output, decoding=beams.given(), batch=batch, **vars(where)
    )
