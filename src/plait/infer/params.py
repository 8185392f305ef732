"""How to continue a prompt, and what comes back: plain types that import no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from plait.config import Config
from plait.errors import ConfigError

GREEDY_BELOW = 1e-5  # temperatures this small mean "always the most probable token"

FinishReason = Literal["stop", "length"]
Bias = Annotated[float, Field(ge=-100, le=100)]


def check_batch(batch: int) -> None:
    """Raise ConfigError unless something is computed at a time."""
    if batch < 1:
        raise ConfigError(f"batch={batch} must be at least 1")


class SamplingParams(Config):
    """How tokens are chosen and when to stop. Ranges and meanings are OpenAI's, the extras are vLLM's.

    The order of work on the logits of one step: `logit_bias`, then the penalties, then `temperature`, then
    what is left out by `min_p`, `top_k` and `top_p`, in this order.

    Attributes:
        max_tokens: tokens to generate at most; None: to the end of the model's context.
        temperature: divides the logits; 0 is greedy: the most probable token, the lowest id among equals.
        top_k: sample among the k most probable tokens only; 0: all.
        top_p: sample among the fewest tokens that together have this probability (Holtzman et al. 2020).
        min_p: leave out tokens with less than this share of the best one's probability (Nguyen et al. 2024).
        repetition_penalty: positive logits of every token in prompt or output are divided by it, negative
            ones multiplied (Keskar et al. 2019, section 4.1).
        frequency_penalty: taken off a token's logit for each time it was generated.
        presence_penalty: taken off a token's logit once it was generated.
        seed: makes sampling repeatable; a sequence's choices depend on it and on the number of the
            completion (of `n`) alone, never on what else is in the batch.
        stop: texts that end a completion; they are not part of it.
        logprobs: report the log-probability of each chosen token and of this many alternatives.
        n: completions for each prompt.
        ignore_eos: go on after the model's end token.
        logit_bias: added to the logits of token ids.
    """

    max_tokens: int | None = Field(default=256, ge=0)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = Field(default=None, ge=0)
    n: int = Field(default=1, ge=1)
    ignore_eos: bool = False
    logit_bias: dict[int, Bias] = Field(default_factory=dict)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("a stop string must not be empty: it would end every answer at once")
        return value

    @property
    def greedy(self) -> bool:
        """The most probable token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalized(self) -> bool:
        """What was written before changes the logits."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    def describe(self) -> str:
        """Every setting that differs from its default, for a score's or an output's provenance."""
        changed = {
            name: value
            for name, value in self.model_dump().items()
            if value != type(self).model_fields[name].get_default(call_default_factory=True)
            and name != "temperature"
        }
        head = "greedy" if self.greedy else f"temperature:{self.temperature:g}"
        return "|".join([head, *(f"{name}:{value}" for name, value in changed.items())])


class BeamParams(Config):
    """How beam search looks for the most probable continuations of a prompt.

    Attributes:
        beams: unfinished sequences kept for each prompt; 1 is greedy.
        length_penalty: finished sequences compete by the sum of their log-probabilities over
            length**length_penalty, the end token counted in both, as transformers and Marian do; 0 compares
            the plain sums, which prefer short answers. The softer ((5 + length) / 6)**alpha is Wu et al.'s
            (2016, section 7).
        no_repeat_ngram: no run of this many tokens occurs twice in an output (Paulus et al. 2018, section
            2.5), which may well quote its prompt; 0: no such rule.
        min_tokens: tokens to generate before an end token may follow.
        max_tokens: tokens to generate at most; None: to the end of the model's context.
        n: sequences to return for each prompt, best first.
        early_stopping: stop once `beams` sequences are finished; else only when the best unfinished one could
            not beat the worst of them if it ended where it is.
    """

    beams: int = Field(default=4, ge=1, le=1000)
    length_penalty: float = Field(default=1.0, ge=0, le=10)
    no_repeat_ngram: int = Field(default=0, ge=0)
    min_tokens: int = Field(default=0, ge=0)
    max_tokens: int | None = Field(default=256, ge=1)
    n: int = Field(default=1, ge=1)
    early_stopping: bool = False

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.n > self.beams:
            raise ValueError(
                f"n={self.n} is more than beams={self.beams}; use n={self.beams} or beams={self.n}"
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}; lower the first or "
                "raise the second"
            )
        return self

    def but_with(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its fields but for those given; `n` alone raises the beams to as many."""
        n = given.get("n")
        beams = max(self.beams, n) if isinstance(n, int) else self.beams  # what is no number, `build` refuses
        return self.model_dump() | {"beams": beams} | dict(given)

    def describe(self) -> str:
        """The number of beams and every setting that differs from its default."""
        changed = self.model_dump(exclude_defaults=True, exclude={"beams"})
        return "|".join([f"beams:{self.beams}", *(f"{name}:{value}" for name, value in changed.items())])


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Tokens that a model must or must not write, as its generation_config.json has it.

    Attributes:
        never: ids that are not written: `suppress_tokens`, and those of `bad_words_ids` that stand alone.
        first: the first token of every answer, such as the target language of mBART: `forced_bos_token_id`.
        last: ids of which one is the last token of beam search where there is no room for more:
            `forced_eos_token_id`.
    """

    never: frozenset[int] = frozenset()
    first: int | None = None
    last: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One sequence that beam search finished.

    Attributes:
        tokens: what was generated, without prompt, start token and end token.
        score: sum(logprobs) / len(logprobs)**length_penalty.
        logprobs: of each of `tokens`, and of the end token where there is one: what the model itself gives
            (softmax of its logits, before tokens are ruled out); 0 where `TokenRules` leave no choice.
        finish_reason: "stop" at an end token, "length" where there was no room for more, also where an end
            token is forced there.
    """

    tokens: list[int]
    score: float
    logprobs: list[float]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how probable the model found it.

    Attributes:
        text: `bytes` as text, with U+FFFD where a token holds only part of a character.
        logprob: natural logarithm of the probability that the model itself gives (softmax of its logits,
            before penalties, bias, temperature and truncation, as OpenAI reports it); None where it was not
            asked for, or where nothing stands before the token.
        top: the most probable tokens at this place, best first: `(id, text, bytes, logprob)`.
    """

    id: int
    text: str
    bytes: bytes
    logprob: float | None = None
    top: list[tuple[int, str, bytes, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one sequence.

    Attributes:
        index: `prompt * n + completion`.
        text: new text, whole characters only; empty while it could still become a stop string.
        tokens: the tokens of that text (the end token and the tokens of a stop string are never among them).
        finish_reason: set once, in the last delta of a sequence: "stop" at an end token or stop string,
            "length" at `max_tokens` or the end of the context.
    """

    index: int
    text: str
    tokens: list[TokenLogprob]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished sequence: what its deltas add up to. `logprobs` is None where they were not asked for."""

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    prompt_tokens: int
