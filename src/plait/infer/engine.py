"""The engine: prompts in, tokens and text out, a batch at a time. The first version: correct and simple."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plait.device import DTYPES, pick_device
from plait.errors import ConfigError, ModelError, did_you_mean
from plait.infer.cache import KVCache
from plait.infer.generation_config import labels_from, learned_from, recommended, token_rules
from plait.infer.logprobs import head, log_probabilities, refuse_nan, row_logprobs
from plait.infer.params import (
    Completion,
    Delta,
    SamplingParams,
    TokenLogprob,
    TokenRules,
)
from plait.infer.prompts import check_bias, check_ids, check_room, completion_ids, side_by_side, source_ids
from plait.infer.sampling import Sampler
from plait.infer.writer import StreamDecoder, Writer, advance
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from plait.text.tokenizer import Tokenizer

PROMPT_TAIL = 8  # tokens before an answer that decide how its first token is spelled


class Engine:
    """A model ready to write. Holds no state of a request, so several threads may use it at once.

    Args:
        model: a path (model directory, step directory, run directory, `RUN:best`, `RUN:average`), or a
            `Decoder`, which is put into evaluation mode and otherwise used as it is.
        tokenizer: needed with a `Decoder` only.
        device: where to run; None: the CPU for a path, where it lies for a `Decoder`.
        dtype: `float32`, `bfloat16`, ...; None: as stored, but of a path on the CPU at least `float32`, so
            that an answer does not depend on what is computed beside it.

    Attributes:
        name: the last part of the path; "model" for a `Decoder`.
        version: the name with the checkpoint of a run that was opened, and a digest of its weights.
        context: positions the model has: prompt and answer share them; of an encoder-decoder each has them.
        dtype: of its weights, such as `float32`.
        encodes: whether the model is an encoder-decoder: a prompt is a source, what it writes a target.
        recommended: how the model's directory wants tokens chosen, as fields of `SamplingParams`; only what
            talks to people goes by it.
        learned: what it was last trained on, text, messages or pairs; None where that is not known.
        labels: the labels it was last trained to give; empty where there are none.
        rules: what its directory says of tokens that it must or must not write.
    """

    def __init__(
        self,
        model: str | Path | Decoder,
        tokenizer: Tokenizer | None = None,
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.name = self.version = "model"
        self.recommended: dict[str, float] = {}
        self.learned: str | None = None
        self.labels: list[str] = []
        directory: Path | None = None
        if not isinstance(model, Decoder):
            from plait.checkpoint.directory import load
            from plait.checkpoint.resolve import named, resolve, weights_digest

            directory = resolve(model)
            decoder, loaded = load(directory)
            self.recommended, self.learned = recommended(directory), learned_from(directory)
            self.labels = labels_from(directory)
            self.name, version = named(model, directory)
            self.version = f"{version}@{weights_digest(directory)}"
            tokenizer = tokenizer or loaded
            device = device or "cpu"
        else:
            decoder = model
        if tokenizer is None:
            raise ConfigError("an Engine on a Decoder needs its tokenizer: Engine(decoder, tokenizer)")
        never = tokenizer.unlearned(decoder.config.decoder_start)
        self.rules = TokenRules(never) if directory is None else token_rules(directory, never)
        where = None if device is None else pick_device(device)
        if dtype is None and directory is not None and where == "cpu":
            dtype = torch.promote_types(next(decoder.parameters()).dtype, torch.float32)
        self.model = decoder.to(device=where, dtype=_dtype(dtype)).eval()
        self.tokenizer = tokenizer
        self.config = decoder.config
        self.context = decoder.config.context
        first = next(decoder.parameters())
        self.device, self.dtype = first.device, str(first.dtype).removeprefix("torch.")
        self.encodes = isinstance(decoder, EncoderDecoder)
        if self.encodes and decoder.config.decoder_start < 0:
            raise ModelError(
                "nothing says what a target begins with; set decoder_start_token_id in config.json"
            )
        # a head may be padded beyond the tokenizer: only ids that both know are generated
        self.vocab = min(decoder.config.vocab, tokenizer.vocab_size)

    def encode(self, text: str) -> list[int]:
        """A completion prompt, or the source that an encoder-decoder reads; either may be empty.

        Raises:
            PromptError: an empty text, and a tokenizer without any token that begins one.
        """
        return (source_ids if self.encodes else completion_ids)(self.tokenizer, text)

    def check(self, prompt: Sequence[int], params: SamplingParams, *, clip: bool = False) -> None:
        """Refuse what cannot be computed.

        Args:
            clip: `max_tokens` may be more than there is room for; the answer then ends with the context.

        Raises:
            PromptError: an empty prompt, an id outside the vocabulary, or prompt + max_tokens > context.
            ConfigError: `logit_bias` names such an id.
        """
        check_ids(prompt, self.config.vocab)
        check_bias(params, self.vocab)
        wanted = 1 if params.max_tokens is None else params.max_tokens
        wanted = min(wanted, 1) if clip else wanted
        check_room(len(prompt), wanted, self.context, encodes=self.encodes)

    def stream(
        self, prompts: list[list[int]], params: SamplingParams, *, clip: bool = False
    ) -> Generator[list[Delta], None, None]:
        """Write `len(prompts) * n` sequences together, one list of deltas (perhaps empty) a step.

        Sequences are numbered `prompt * n + completion`. Closing the iterator cancels the work.

        Raises:
            PromptError, ConfigError: see `check`; raised by the call itself, before any work.
        """
        for prompt in prompts:
            self.check(prompt, params, clip=clip)
        return self._stream(prompts, params)

    def generate(
        self,
        prompts: str | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        clip: bool = False,
    ) -> list[Completion]:
        """Complete all prompts as one batch; `n` completions of the first, then of the second, ...

        Args:
            clip: see `check`; the default of `max_tokens` is clipped without asking.

        Raises:
            PromptError, ConfigError: see `check`.
        """
        params = params or SamplingParams()
        clip = clip or "max_tokens" not in params.model_fields_set
        texts = [prompts] if isinstance(prompts, str) else prompts
        rows = [self.encode(prompt) if isinstance(prompt, str) else prompt for prompt in texts]
        count = len(rows) * params.n
        text, tokens = [""] * count, [list[TokenLogprob]() for _ in range(count)]
        reasons = dict.fromkeys(range(count), "length")
        for deltas in self.stream(rows, params, clip=clip):
            for delta in deltas:
                text[delta.index] += delta.text
                tokens[delta.index] += delta.tokens
                reasons[delta.index] = delta.finish_reason or reasons[delta.index]
        return [
            Completion(
                text=text[index],
                tokens=[token.id for token in tokens[index]],
                finish_reason=reasons[index],  # type: ignore[arg-type]
                logprobs=None if params.logprobs is None else tokens[index],
                prompt_tokens=len(rows[index // params.n]),
            )
            for index in range(count)
        ]

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read prompts of any lengths into an empty cache; logits `[batch, vocab]` of what follows each."""
        tokens, positions = (each.to(self.device) for each in side_by_side(prompts))
        if self.encodes:
            assert isinstance(self.model, EncoderDecoder)
            cache.memory = self.model.encode(tokens, positions)
            return self.decode([self.config.decoder_start] * len(prompts), cache)
        return self._last_logits(tokens, positions, cache)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Add one token to each row; logits `[batch, vocab]` of the next."""
        column = torch.tensor(tokens, dtype=torch.long, device=self.device)[:, None]
        return self._last_logits(column, cache.next_positions(), cache)

    @torch.inference_mode()
    def score(self, rows: list[list[int]], top: int = 0) -> list[list[TokenLogprob]]:
        """The log-probability of every token given those before it; None for the first of a row.

        Args:
            rows: token ids, at most `context` each.
            top: how many of the most probable tokens to report at each place.

        Raises:
            PromptError: a row that is empty, has an unknown id, or is longer than the context.
        """
        if self.encodes:
            raise ModelError("an encoder-decoder gives no probability to a text without its source")
        nothing = SamplingParams(max_tokens=0)
        for row in rows:
            self.check(row, nothing)
        result = []
        for row in rows:
            places = row_logprobs(self.model, torch.tensor(row, device=self.device), top, self.vocab)
            result.append(
                [self.token(*parts) for parts in zip(row, [None, *places.chosen], [(), *places.top])]
            )
        return result

    def token(self, id: int, logprob: float | None = None, top: Any = ()) -> TokenLogprob:
        """A token with its bytes; `top` are pairs (id, log-probability)."""
        raw = self.tokenizer.token_bytes(id)
        alternatives = []
        for other, value in top:
            spelled = self.tokenizer.token_bytes(other)
            alternatives.append((other, spelled.decode("utf-8", "replace"), spelled, value))
        return TokenLogprob(id, raw.decode("utf-8", "replace"), raw, logprob, alternatives)

    def _stream(self, prompts: list[list[int]], params: SamplingParams) -> Generator[list[Delta], None, None]:
        each = [prompt for prompt in prompts for _ in range(params.n)]
        most = self.context if params.max_tokens is None else params.max_tokens
        taken = [0 if self.encodes else len(prompt) for prompt in each]
        rooms = [min(most, self.context - count) for count in taken]
        if not any(rooms):  # `check` leaves room for one token where any is wanted
            yield [Delta(index, "", [], "length") for index in range(len(each))]
            return
        stop_ids = frozenset(() if params.ignore_eos else self.tokenizer.stop_ids)
        before = [[self.config.decoder_start]] * len(each) if self.encodes else each
        writers = [Writer(self.decoder_after(written), params.stop) for written in before]
        cache = KVCache(len(prompts), capacity=max(map(len, prompts)) + 64, device=self.device)
        logits = self.prefill(prompts, cache)
        if params.n > 1:
            rows = [index // params.n for index in range(len(each))]
            cache.select(rows)
            logits = logits[rows]
        numbers = [index % params.n for index in range(len(each))]
        # what a decoder continues is begun already
        rules = self.rules if self.encodes else replace(self.rules, first=None)
        sampler = Sampler(params, before, numbers, self.vocab, self.device, rules)
        alive, made = list(range(len(each))), 0
        while True:
            chosen, reports = self._choose(logits, sampler, params)
            made += 1
            deltas = [
                advance(writers[index], index, report, id in stop_ids, made >= rooms[index])
                for index, id, report in zip(alive, chosen, reports)
            ]
            yield [delta for delta in deltas if delta.text or delta.tokens or delta.finish_reason]
            going = [row for row, delta in enumerate(deltas) if delta.finish_reason is None]
            if not going:
                return
            if len(going) < len(alive):
                alive, chosen = [alive[row] for row in going], [chosen[row] for row in going]
                cache.select(going)
                sampler.select(going)
            logits = self.decode(chosen, cache)

    @torch.inference_mode()
    def _choose(
        self, logits: Tensor, sampler: Sampler, params: SamplingParams
    ) -> tuple[list[int], list[TokenLogprob]]:
        refuse_nan(logits, self.dtype)
        chosen = sampler.choose(logits)
        if params.logprobs is None:
            return chosen, [self.token(id) for id in chosen]
        places = log_probabilities(logits, torch.tensor(chosen), params.logprobs, self.vocab)
        return chosen, [self.token(*parts) for parts in zip(chosen, places.chosen, places.top)]

    def decoder_after(self, prompt: Sequence[int]) -> StreamDecoder:
        """What turns the tokens after a prompt into text: whether a leading space counts depends on it."""
        decoder = self.tokenizer.decoder(skip_special=True)
        for token in prompt[-PROMPT_TAIL:]:
            decoder.push(token)
        return decoder

    def _last_logits(self, tokens: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        hidden = self.model.hidden(tokens, positions=positions, cache=cache, memory=cache.memory)[:, -1]
        return head(self.model, hidden)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")
    return getattr(torch, dtype)
