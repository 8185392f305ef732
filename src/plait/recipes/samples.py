"""What a model writes while it is trained: continuations of the recipe's prompts, targets of sources."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from plait.data.batch import pair_in
from plait.errors import ConfigError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.nn.encoder_decoder import build
from plait.recipes.saving import whole_model

if TYPE_CHECKING:
    from plait.recipes.fit import Stage

NOTHING = ("",)  # the samples of a recipe that names none: for a decoder, the beginning of a text
SOURCES = 3  # of the data, that an encoder-decoder then gets


def check_samples(stage: Stage) -> None:
    """Refuse prompts that leave no room for an answer, before training and not at its first evaluation.

    Raises:
        ConfigError: naming the prompt.
    """
    with torch.device("meta"):
        engine = Engine(build(stage.placed.config), stage.tokenizer)
    params = _sampling(stage)
    for prompt in stage.recipe.train.samples:
        try:
            engine.check(engine.encode(prompt), params, clip=True)
        except PromptError as error:
            raise ConfigError(f"train.samples: {prompt[:40]!r}: {error}") from None


def _sampling(stage: Stage) -> SamplingParams:
    limit = max(1, min(stage.recipe.train.sample_tokens, stage.placed.config.context // 2))
    if stage.placed.config.encoder_layers:
        return SamplingParams(max_tokens=limit, temperature=0)
    return SamplingParams(max_tokens=limit, temperature=0.8, top_p=0.95, seed=0)


def samples(stage: Stage) -> list[str]:
    """Continuations of `train.samples`, the same random numbers every time.

    Where ranks share the model out, rank 0 puts the whole of it together for this.
    """
    config = stage.recipe.train
    if not (config.samples and config.sample_tokens):
        return []
    model = whole_model(stage)

    def write() -> str:
        assert model is not None
        engine = Engine(model, stage.tokenizer)
        prompts = [(prompt, engine.encode(prompt)) for prompt in config.samples]
        if engine.encodes and config.samples == NOTHING:
            prompts = _sources(stage)
        written = engine.generate([ids for _, ids in prompts], _sampling(stage), clip=True)
        between = " → " if engine.encodes else ""
        return json.dumps([prompt + between + done.text for (prompt, _), done in zip(prompts, written)])

    return json.loads(stage.ranks.share(write))  # the others wait for as long as it takes


def _sources(stage: Stage) -> list[tuple[str, list[int]]]:
    """The first sources of the data, held out if any are, as text and as ids."""
    source = (stage.data.validation or stage.data.train)[0]
    pairs = [pair_in(source, row) for row in range(min(SOURCES, source.rows.count))]
    return [(stage.tokenizer.decode(read, skip_special=True), read.tolist()) for read, _ in pairs]
