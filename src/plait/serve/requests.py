"""Reads the bodies of requests: known fields, their bounds, and what is refused and why.

A field of OpenAI's API that this server has no use for is accepted where it says "off" (`tools: []`)
and refused otherwise: nothing that was asked for is silently ignored.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from plait.errors import did_you_mean
from plait.infer.params import SamplingParams
from plait.serve.problems import ApiError

# Fields accepted only at these values (null always means absent).
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# Fields that only label a request: they could not change the answer, so every value is accepted.
LABELS: dict[str, type] = {
    "metadata": dict,
    "parallel_tool_calls": bool,
    "prompt_cache_key": str,
    "safety_identifier": str,
    "user": str,
}


def _stop_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(max_length=4), BeforeValidator(_stop_list)
]  # fmt: skip
Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(BaseModel):
    """`stream_options` of a streamed request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Body(BaseModel):
    """What every body has: the model that is asked."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str


class Asked(Body):
    """What both kinds of completion understand; bounds are OpenAI's, extras are named as in vLLM."""

    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(1, ge=1, le=128)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop = []
    logit_bias: dict[str, Bias] = {}
    ignore_eos: bool = False

    def shared(self) -> dict[str, Any]:
        """The fields that go to `SamplingParams` unchanged or nearly so."""
        fields = self.model_dump(include=set(SamplingParams.model_fields) - {"max_tokens", "logprobs"})
        bias = {int(token): value for token, value in self.logit_bias.items()}
        return fields | {"top_k": max(self.top_k, 0), "stop": tuple(self.stop), "logit_bias": bias}


class ChatAsked(Asked):
    """Body of `/v1/chat/completions`; `messages` are read by `inputs.read_messages`."""

    messages: list[dict[str, Any]]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


class TextAsked(Asked):
    """Body of `/v1/completions`; `prompt` is read by `inputs.read_prompts`."""

    prompt: Any
    suffix: str | None = None
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1)


class SearchAsked(Body):
    """Body of a task whose answers beam search finds; a field left out is the task's own.

    `input` is read by `inputs.read_texts`; the others are of `BeamParams`. A text that does not fit the
    model's context is refused, or with `truncate` read from its beginning.
    """

    input: Any
    truncate: bool = False
    beams: int | None = Field(None, ge=1, le=32)
    length_penalty: float | None = Field(None, ge=0, le=10)
    no_repeat_ngram: int | None = Field(None, ge=0)
    min_tokens: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=32)


class AnswersAsked(SearchAsked):
    """Body of `/v1/tasks/answer`, whose `input` are questions.

    `context` is what their answers stand in. Without it the documents of the server are searched, if it has
    any, and each question is shown up to `passages` of them. What `truncate` cuts is the context.
    """

    context: str | None = None
    passages: int | None = Field(None, ge=1, le=20)


class LabelsAsked(Body):
    """Body of `/v1/tasks/classify`; without `labels` those the model learned, without `n` all of them."""

    input: Any
    truncate: bool = False
    labels: list[str] | None = Field(None, max_length=1000)
    n: int | None = Field(None, ge=1)


Kind = TypeVar("Kind", bound=Body)


def read(kind: type[Kind], raw: dict[str, Any]) -> Kind:
    """Validate a body.

    Raises:
        ApiError: status 400 with `param`, for the first field that is unknown, wrong, or would be ignored.
    """
    given = {name: value for name, value in raw.items() if value is not None}
    for name in [name for name in given if name in NEUTRAL]:
        _check_neutral(name, given.pop(name), NEUTRAL[name])
    for name in [name for name in given if name in LABELS]:
        if not isinstance(given.pop(name), LABELS[name]):
            raise ApiError(f"{name} must be of type {LABELS[name].__name__}", param=name, code="invalid_type")
    known = [*kind.model_fields, *NEUTRAL, *LABELS]
    for name in given:
        if name not in kind.model_fields:
            hint = did_you_mean(name, known) or "; leave it out"
            raise ApiError(f"unknown field {name!r}{hint}", param=name, code="unknown_parameter")
    if not given.get("stream") and "stream_options" in given:
        raise ApiError("stream_options needs stream: true", param="stream_options", code="invalid_value")
    try:
        asked = kind.model_validate(given)
    except ValidationError as error:
        raise _explain(error) from None
    _check_pairs(asked)
    return asked


def _check_pairs(asked: Body) -> None:
    if isinstance(asked, ChatAsked):
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        both = asked.max_tokens is not None and asked.max_completion_tokens is not None
        if both and asked.max_tokens != asked.max_completion_tokens:
            raise ApiError(
                "max_tokens and max_completion_tokens mean the same and differ; give one of them",
                param="max_tokens",
                code="invalid_value",
            )
    if isinstance(asked, TextAsked):
        if asked.best_of not in (None, asked.n):
            raise ApiError(
                f"best_of={asked.best_of} is not supported; leave it out or set it to n ({asked.n})",
                param="best_of",
                code="unsupported_parameter",
            )
        if asked.suffix and asked.echo:
            message = "echo repeats a prompt before what continues it, and suffix asks for what lies between"
            raise ApiError(f"{message}; give one of them", param="suffix", code="invalid_value")
        if asked.max_tokens == 0 and not asked.echo:
            raise ApiError(
                "max_tokens: 0 needs echo: true; otherwise nothing would be returned",
                param="max_tokens",
                code="invalid_value",
            )
    for token in asked.logit_bias if isinstance(asked, Asked) else ():
        if not (token.isascii() and token.isdigit() and len(token) < 12):
            raise ApiError(
                f"logit_bias: {token!r} is not a token id", param="logit_bias", code="invalid_value"
            )


def _check_neutral(name: str, value: Any, accepted: tuple[Any, ...]) -> None:
    # `0 == False` and `1 == True` in Python, not in JSON
    if any(value == neutral and type(value) is type(neutral) for neutral in accepted):
        return
    allowed = " or ".join(json.dumps(neutral) for neutral in accepted) or "null"
    raise ApiError(
        f"{name} is not supported by this server; leave it out or set it to {allowed}",
        param=name,
        code="unsupported_parameter",
    )


def _explain(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(
        "."
    )
    if problem["type"] == "missing":
        return ApiError(f"missing field {param!r}", param=param, code="missing_required_parameter")
    if problem["type"] == "too_long":
        sizes = problem.get("ctx", {})
        message = f"{param} may hold {sizes['max_length']:,} values at most, not {sizes['actual_length']:,}"
        return ApiError(message, param=param, code="invalid_value")
    reason = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    value = json.dumps(problem["input"], ensure_ascii=False)
    shown = value if len(value) <= 60 else value[:57] + "..."
    code = "invalid_type" if problem["type"].endswith("_type") else "invalid_value"
    return ApiError(f"{param} must be {reason}, not {shown}", param=param, code=code)
