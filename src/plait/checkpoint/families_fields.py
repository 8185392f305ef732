"""Fields of a foreign config.json: read, or refused where plait has no word for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plait.errors import ModelError
from plait.nn.config import ModelConfig

# the first name is written, all are read
ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "relu": ("relu",),
    "relu2": ("relu2",),
}


@dataclass(frozen=True)
class Family:
    """A Hugging Face family: the fields of its config.json from those of `ModelConfig`, and back.

    Attributes:
        architecture: the class in `transformers`.
        in_weights: fields that its config.json does not say; whether there is such a tensor does.
    """

    architecture: str
    write: Callable[[ModelConfig], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    in_weights: frozenset[str] = frozenset()


def refuse(field: str, value: object, can: str) -> ModelError:
    """The error for a foreign setting that `ModelConfig` has no words for."""
    return ModelError(f"config.json: {field}={value!r} is not something plait can express; it can do {can}")


def expect(values: Mapping[str, Any], field: str, *allowed: object) -> None:
    """Refuse a field that is there with another value than those allowed."""
    if field in values and values[field] not in allowed:
        raise refuse(field, values[field], " or ".join(map(repr, allowed)))


def require(values: Mapping[str, Any], *fields: str) -> None:
    """Refuse a configuration without one of these sizes."""
    missing = [field for field in fields if not isinstance(values.get(field), int)]
    if missing:
        raise ModelError(f"config.json has no {missing[0]}; restore the file the weights came with")


def activation(values: Mapping[str, Any], field: str, default: str) -> str:
    """Our name of an activation."""
    name = values.get(field, default)
    for ours, theirs in ACTIVATIONS.items():
        if name in theirs:
            return ours
    raise refuse(field, name, ", ".join(theirs[0] for theirs in ACTIVATIONS.values()))


def attention_dropout(config: ModelConfig) -> float:
    """The rate at which attention weights are dropped."""
    return config.dropout if config.attn_dropout < 0 else config.attn_dropout
