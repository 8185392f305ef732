"""A model as lm-evaluation-harness (Gao et al., github.com/EleutherAI) asks it: three methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from plait import log
from plait.config import build
from plait.errors import ConfigError, InputError, ModelError
from plait.eval.perplexity import encode_document, perplexity
from plait.infer.engine import Engine
from plait.infer.likelihood import likelihoods
from plait.infer.params import SamplingParams
from plait.infer.prompts import completion_ids

MAX_TOKENS = 256  # of an answer where a task does not say, as the harness's own models have it
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Harness(LM):
    """An engine for the harness; texts are cut on the left where they do not fit, as its own models do.

    Args:
        batch: continuations or answers computed together; changes the speed, not the result.
    """

    def __init__(self, engine: Engine, *, batch: int = 8) -> None:
        super().__init__()
        self.engine, self.batch = engine, batch

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability, and whether it is what greedy would write.

        Raises:
            InputError: a continuation longer than the model's context.
        """
        prompts: dict[tuple[int, ...], int] = {}  # choices of one question share its context, read once
        targets: list[list[list[int]]] = []
        places = []
        cut = 0
        for request in requests:
            whole, target = self._pair(*request.args)
            prompt = self._cut(whole, target)
            cut += len(prompt) < len(whole)
            row = prompts.setdefault(tuple(prompt), len(targets))
            if row == len(targets):
                targets.append([])
            places.append((row, len(targets[row])))
            targets[row].append(target)
        self._tell(cut, len(requests))
        with log.progress("contexts", len(prompts)) as bar:
            found = likelihoods(self.engine, list(prompts), targets, batch=self.batch, advance=bar.advance)
        return [found[row][number] for row, number in places]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """The log-probability of each text, in windows of the model's context, every token scored once.

        Raises:
            ModelError: an encoder-decoder, which gives no probability to a text without its source.
        """
        if self.engine.encodes:
            raise ModelError(
                f"{self.engine.name} is an encoder-decoder, which gives no probability to a text without its "
                "source; take a task of choices or of generation"
            )
        with log.progress("texts", len(requests)) as bar:
            found = []
            for request in requests:
                found.append(self._rolled(request.args[0]))
                bar.advance()
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes after each context, up to a stop text or its own end.

        Raises:
            ConfigError: generation settings that plait does not have.
        """
        answers, contexts = [""] * len(requests), list[str]()
        alike: dict[str, tuple[SamplingParams, list[int]]] = {}
        for place, request in enumerate(requests):
            context, settings = request.args  # type: ignore[misc]  (declared as any tuple)
            params = sampling(settings)
            contexts.append(context)
            alike.setdefault(params.model_dump_json(), (params, []))[1].append(place)
        cut = 0
        with log.progress("answers", len(requests)) as bar:
            for params, places in alike.values():
                room = self._room(params)
                for at in range(0, len(places), self.batch):
                    some = places[at : at + self.batch]
                    prompts = [self.engine.encode(contexts[place]) for place in some]
                    cut += sum(len(prompt) > room for prompt in prompts)
                    kept = [prompt[-room:] for prompt in prompts]
                    for place, done in zip(some, self.engine.generate(kept, params, clip=True)):
                        answers[place] = done.text
                    bar.advance(len(some))
        self._tell(cut, len(requests))
        return answers

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of a context and of what continues it: spaces between the two belong to the second."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        tokenizer = self.engine.tokenizer
        if self.engine.encodes:
            return self.engine.encode(bare), tokenizer.encode_plain(continuation)
        prompt = completion_ids(tokenizer, bare)
        rest = tokenizer.encode_prompt(bare + continuation)[len(prompt) :] if bare else []
        return prompt, rest or tokenizer.encode_plain(continuation)

    def _cut(self, prompt: list[int], target: list[int]) -> list[int]:
        """The end of a prompt that leaves room for its target."""
        context = self.engine.context
        room = context if self.engine.encodes else context - len(target) + 1
        if room < 1 or len(target) > context:
            raise InputError(
                f"a continuation has {len(target)} tokens, more than the model's context of {context}; "
                "this task needs a model with a longer context"
            )
        return prompt[-room:]

    def _rolled(self, text: str) -> float:
        engine = self.engine
        document = encode_document(engine.tokenizer, text)
        if engine.tokenizer.eos_id is not None:  # the harness measures the text, not that it ends
            document = document._replace(tokens=document.tokens[:-1])
        if len(document.tokens) < 2:
            return 0.0
        return -perplexity(engine.model, [document], stride=engine.context, batch=self.batch).nats

    def _room(self, params: SamplingParams) -> int:
        """Tokens of a prompt that leave room for an answer; half of the context where both cannot be."""
        context = self.engine.context
        if self.engine.encodes:
            return context
        return max(context - (params.max_tokens or 0), (context + 1) // 2)

    def _tell(self, cut: int, count: int) -> None:
        if cut:
            log.warn(
                f"{cut:,} of {count:,} contexts are longer than the model's {self.engine.context} tokens "
                "leave room for; their beginnings were left out"
            )


def sampling(settings: Mapping[str, Any]) -> SamplingParams:
    """The harness's generation settings as ours: greedy unless `do_sample` is set.

    Raises:
        ConfigError: a setting that plait does not have, such as beams.
    """
    given = dict(settings)
    until = given.pop("until", None) or []
    stops = [until] if isinstance(until, str) else list(until)
    most = given.pop("max_gen_toks", MAX_TOKENS)
    sample = given.pop("do_sample", given.get("temperature", 0) > 0)
    fields = {name: given.pop(name) for name in SAMPLING if name in given}
    if not sample:
        fields["temperature"] = 0.0
    if given.pop("num_beams", 1) != 1 or given:
        raise ConfigError(
            f"generation_kwargs of the task hold {', '.join(given) or 'num_beams'}; plait follows until, "
            f"max_gen_toks, do_sample, {', '.join(SAMPLING)}"
        )
    stop = tuple(text for text in stops if text)
    return build(
        SamplingParams, {**fields, "max_tokens": most, "stop": stop}, source="generation_kwargs of the task"
    )
