"""The errors a user can cause, each one line: the rule, the offending value, the remedy.

PlaitError                 exit code 2, no traceback on the command line
├── ConfigError            a key, value or combination in a recipe, flag or model configuration
├── InputError             a path, file, encoding or record handed to plait
│   └── PromptError        a prompt (or prompt + max_tokens) that the model's context cannot hold
├── ModelError             a model directory that is missing, corrupt, or of the wrong kind
├── MissingExtra           an optional dependency that is not installed
├── BusyError              a resource in use: a run directory, a port
└── TrainingError          a run that cannot go on: NaN, an exploding loss, no disk space
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType


class PlaitError(Exception):
    """Base of every error a user can cause and mend."""

    exit_code = 2


class ConfigError(PlaitError):
    """A key, value or combination in a recipe, flag or model configuration."""


class InputError(PlaitError):
    """A path, file, encoding or record that cannot be used."""


class PromptError(InputError):
    """A prompt that does not fit the model's context."""


class ModelError(PlaitError):
    """A model directory that is missing, corrupt, or of the wrong kind."""


class MissingExtra(PlaitError):
    """An optional dependency that is not installed."""


class BusyError(PlaitError):
    """A run directory or port that another process holds."""


class TrainingError(PlaitError):
    """A training run that cannot go on."""


@contextmanager
def about(place: str) -> Iterator[None]:
    """Let errors of what a record holds begin with its id."""
    try:
        yield
    except (InputError, ModelError) as error:
        if str(error).startswith(place):
            raise
        raise type(error)(f"{place}: {error}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `known`, or the initials of a name, or an empty string."""
    choices, initials = list(known), "".join(word[:1] for word in name.split("_"))
    close = get_close_matches(name, choices, n=1, cutoff=0.6)
    close += [one for one in choices if one == initials and len(one) > 1]
    return f"; did you mean {close[0]!r}?" if close else ""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency inside the function that uses it.

    Raises:
        MissingExtra: naming the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtra(
            f"this needs {missing}, which is not installed; run: pip install 'plait[{extra}]'"
        ) from None
