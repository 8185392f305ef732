"""From what was asked to what the engine takes: token ids within the context, and sampling parameters."""

from __future__ import annotations

from plait.errors import ConfigError, ModelError, PlaitError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.serve.problems import ApiError
from plait.serve.requests import Asked, TextAsked
from plait.tasks.complete import middle_prompt


def sampling(asked: Asked, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    """The engine's parameters. `max_tokens`: None for the rest of the context."""
    return SamplingParams(**asked.shared(), max_tokens=max_tokens, logprobs=logprobs)


def encode_chat(engine: Engine, messages: list[dict[str, str]]) -> list[int]:
    """Ids of a chat, ready for the assistant's turn; of an encoder-decoder, of its source.

    Raises:
        ApiError: where the model has no chat template, its template refuses the messages, or they are more
            than one source.
    """
    if engine.encodes:
        if [message["role"] for message in messages] != ["user"]:
            message = (
                "this model is an encoder-decoder, which reads one source and writes its target: send one "
                "message of the user, without a system message"
            )
            raise ApiError(message, param="messages", code="unsupported_parameter")
        return engine.encode(messages[0]["content"])
    if not engine.tokenizer.chat_template:
        message = "this model has no chat template; use /v1/completions"
        raise ApiError(message, param="messages", code="unsupported_parameter")
    try:
        return engine.tokenizer.encode_chat(messages, add_generation_prompt=True)[0]
    except PlaitError as error:
        raise ApiError(str(error), param="messages", code="invalid_value") from None


def encode_prompts(
    engine: Engine, given: list[str | list[int]], suffix: str | None = None
) -> list[list[int]]:
    """Ids of each prompt; an empty text starts where documents start.

    Args:
        suffix: what stands behind each answer, for a model that has learned to fill in the middle.

    Raises:
        ApiError: for ids outside the vocabulary, an empty text where nothing begins a document, or a suffix
            that the model cannot read.
    """
    size = engine.tokenizer.vocab_size
    for item in given:
        wrong = next((token for token in item if isinstance(token, int) and not 0 <= token < size), None)
        if wrong is not None:
            message = f"prompt: there is no token {wrong} in the vocabulary of {size}"
            raise ApiError(message, param="prompt", code="invalid_value")
    if suffix and engine.encodes:
        message = "this model is an encoder-decoder, which fills in no middle; leave out suffix"
        raise ApiError(message, param="suffix", code="unsupported_parameter")
    try:
        if suffix:
            plain = engine.tokenizer.encode_plain
            before = (plain(item) if isinstance(item, str) else item for item in given)
            return [middle_prompt(engine.tokenizer, prefix, plain(suffix)) for prefix in before]
        return [engine.encode(item) if isinstance(item, str) else item for item in given]
    except ModelError as error:
        raise ApiError(str(error), param="suffix", code="unsupported_parameter") from None
    except PromptError as error:
        raise ApiError(str(error), param="prompt", code="invalid_value") from None


def check_echo(engine: Engine, asked: TextAsked) -> None:
    """Refuse probabilities of what an encoder-decoder reads: it has none."""
    if engine.encodes and asked.echo and asked.logprobs is not None:
        message = (
            "this model is an encoder-decoder, which gives its source no probability; leave out echo or "
            "logprobs"
        )
        raise ApiError(message, param="echo", code="unsupported_parameter")


def check_prompts(
    engine: Engine, prompts: list[list[int]], params: SamplingParams, *, most: int, param: str
) -> None:
    """Refuse what does not fit the context, or asks for more than `most` answers at once.

    `param`: the field to name.
    """
    if len(prompts) * params.n > most:
        message = (
            f"{len(prompts)} prompts times n={params.n} is more than {most} answers at once; ask for fewer"
        )
        raise ApiError(message, param="n" if params.n > 1 else param, code="invalid_value")
    for ids in prompts:
        try:
            engine.check(ids, params)
        except PromptError as error:
            raise ApiError(str(error), param=param, code="context_length_exceeded") from None
        except ConfigError as error:
            raise ApiError(str(error), param="logit_bias", code="invalid_value") from None
