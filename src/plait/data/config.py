"""`DataConfig`: the `data:` block of a recipe. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from plait.config import Config

Paths = str | list[str]
KINDS: tuple[Literal["text", "messages", "pairs"], ...] = ("text", "messages", "pairs")
_NAME = re.compile(r"\w[\w.-]*")


class MixtureEntry(Config):
    """One named source of a mixture.

    Rows are drawn from the sources in proportion to their weights, which need not sum to 1.
    """

    path: Paths
    weight: float = Field(default=1.0, gt=0)


def _kind(value: Any) -> str:
    return "{mixture}" if isinstance(value, dict) else "[list]" if isinstance(value, list) else "(path)"


# The tags choose the one branch that was meant, so an error speaks of that branch only.
Inputs = Annotated[
    Annotated[str, Tag("(path)")]
    | Annotated[list[str], Tag("[list]")]
    | Annotated[dict[str, MixtureEntry], Tag("{mixture}")],
    Discriminator(_kind),
]


class DataConfig(Config):
    """Where the training data is, how it is split, and how it is laid out in rows.

    Exactly one of `text` (running text), `messages` (conversations; loss on the assistant's words) and
    `pairs` (a source and the target to write for it) is given: a path, glob or directory, a list of them, or
    a mapping of names to `{path, weight}` for a mixture; `pairs: [SOURCE, TARGET]` are two aligned files.
    `validation` is the share held out (0: none), a path, or two aligned files. `split`: `document` holds out
    whole documents chosen by a hash of their content, `tail` the last characters; `auto` is `tail` for
    running text in fewer than 20 documents. `fim` is the share of the training documents of running text
    that are learned as prefix, suffix, middle (Bavarian et al. 2022); they should fit in a row. With
    `bpe_dropout` each pair of an encoder-decoder is stored `spellings` times, cut into other pieces each time
    as that share of the tokenizer's merges is left out (Provilkov et al. 2020): `train.epochs` passes over
    all of them. With `prompt_loss` a decoder also learns that share of the tokens of prompts, and with them
    what prompts are made of, which answers may depend on.
    """

    text: Inputs | None = None
    messages: Inputs | None = None
    pairs: Inputs | None = None
    format: str = "auto"
    fields: dict[str, str | int] = Field(default_factory=dict)
    validation: float | Paths = 0.1
    split: Literal["auto", "document", "tail"] = "auto"
    pack: bool = Field(default=True, description="false: one document a row, padded")
    attend_across: bool = Field(default=False, description="attention across the documents of a row")
    fim: float = Field(
        default=0.0, ge=0, le=1, description="share of texts learned as prefix, suffix, middle"
    )
    bpe_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of merges left out in training")
    spellings: int = Field(default=10, ge=1, description="times a pair is stored, with bpe_dropout")
    prompt_loss: float = Field(
        default=0.0, ge=0, le=1, description="share of the tokens of prompts learned too, by a decoder"
    )
    truncate: bool = Field(default=False, description="cut pairs that are longer than the model's context")

    @field_validator("text", "messages", "pairs")
    @classmethod
    def _check_inputs(cls, value: Any) -> Any:
        if value is not None and not value:
            raise ValueError("is empty; give a path, a list of paths, or name: {path, weight}")
        for name in value if isinstance(value, dict) else ():
            if not _NAME.fullmatch(name):
                raise ValueError(f"the source name {name!r} may hold letters, digits, '_', '-' and '.' only")
        return value

    @field_validator("validation")
    @classmethod
    def _check_validation(cls, value: float | Paths) -> float | Paths:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError(f"validation={value:g} must be at least 0 and below 1, or a path")
        return value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        given = [key for key in KINDS if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"the data needs exactly one of text, messages and pairs, found {found}")
        if self.text is None and self.fim:
            raise ValueError(f"fim={self.fim:g} cuts running text, and {given[0]} is none; leave it out")
        if self.text is None and self.split == "tail":
            whole = "conversation" if self.messages is not None else "pair"
            raise ValueError(f"split=tail would cut a {whole} in two; use split: document")
        if self.truncate and self.pairs is None:
            raise ValueError(f"truncate is for pairs, and the data are {self.kind}; leave it out")
        if self.bpe_dropout and self.pairs is None:
            raise ValueError(f"bpe_dropout is for pairs, and the data are {self.kind}; leave it out")
        if self.prompt_loss and self.text is not None:
            raise ValueError(f"prompt_loss={self.prompt_loss:g}: running text has no prompts; leave it out")
        if not isinstance(self.validation, float) and "validation" in self.mixture():
            raise ValueError("'validation' names the path data.validation; rename the source of that name")
        return self

    @property
    def kind(self) -> Literal["text", "messages", "pairs"]:
        """Which of the input keys is given."""
        return next(key for key in KINDS if getattr(self, key) is not None)

    def mixture(self) -> dict[str, MixtureEntry]:
        """The sources by name; a single unnamed one is called by its key."""
        value = getattr(self, self.kind)
        return dict(value) if isinstance(value, dict) else {self.kind: MixtureEntry(path=value)}
