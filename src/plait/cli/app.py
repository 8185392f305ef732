"""The application, and options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import cleandoc
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import App, Group, Parameter

import plait
from plait.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
Override = Annotated[str, Parameter(allow_leading_hyphen=True)]  # of a recipe's key, such as train.lr=1e-3
Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]

Described = TypeVar("Described", bound=Callable[..., Any])


def flowing(described: Described) -> Described:
    """A verb or a class of options, with each option described in one line, which the terminal breaks."""
    described.__doc__ = re.sub(r"\n {8}(?=\S)", " ", cleandoc(described.__doc__ or ""))
    return described


app = App(
    name="plait",
    help="Raw text to a served language model, in parallel.\n\n"
    "First steps: plait quickstart, or with your own text plait quickstart --text FOLDER.\n\n"
    "MODEL is a model directory, a run directory (its newest checkpoint; RUN:best, RUN:average) or a step.",
    version=plait.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` says it and leaves with 130
)

app.register_install_completion_command(help="Let bash, zsh or fish complete plait's words.")


@Parameter(name="*")
@flowing
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where and how precisely a model runs.

    Args:
        device: Where the model runs.
        dtype: Number type; default as stored, on the CPU float32.
    """

    device: Device = "cpu"
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None


@Parameter(name="*", group=Group("Sampling"))
@flowing
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Args:
        max_tokens: Longest continuation.
        temperature: 0 takes the most probable token.
        top_k: Only the k most probable tokens.
        top_p: Only the most probable tokens that make up this probability.
        min_p: Only tokens at least this share as probable as the best.
        repetition_penalty: Above 1 discourages tokens that were there.
        frequency_penalty: Discourages tokens by how often they were written.
        presence_penalty: Discourages tokens that were written.
        seed: Makes sampling repeatable.
        stop: Stop before this text; may be given several times.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None

    def given(self, **more: Any) -> dict[str, Any]:
        """Only what was given."""
        return given(**asdict(self), **more)


DECODING = Parameter(name="*", group=Group("Decoding"))


@DECODING
@flowing
@dataclass(frozen=True, kw_only=True)
class Beams:
    """How an answer is searched for.

    Args:
        beams: Unfinished answers kept in the search; 1 takes the most probable token each time. Default:
            translate 5, summarize 4, others 1.
        length_penalty: Above 1 favours longer answers; default 1.
        no_repeat_ngram: No run of so many tokens twice, 0: no such rule; default: summarize 3, others 0.
        min_tokens: Shortest answer; default 0.
        max_tokens: Longest answer, in tokens; default: summarize 128, answer 64, babi 32,
            others 256.
    """

    beams: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None

    def given(self) -> dict[str, Any]:
        """Only what was given."""
        return given(**asdict(self))


@DECODING
@flowing
@dataclass(frozen=True, kw_only=True)
class Answers(Beams):
    """How answers are searched for, and how many are given.

    Args:
        n: How many answers to give, best first.
    """

    n: int | None = None


def given(**values: Any) -> dict[str, Any]:
    """Only what was given."""
    return {key: value for key, value in values.items() if value is not None}


def fields_of(words: list[str] | None) -> dict[str, str | int] | None:
    """`["text=body"]` → `{"text": "body"}`; numbers name columns of headerless tables."""
    if not words:
        return None
    pairs = [word.partition("=") for word in words]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"--field {bad[0]!r} has no column; write for example --field text=body")
    return {name: int(column) if column.isdecimal() else column for name, _, column in pairs}
