"""A GRU with attention on a translation run's data: its tokens, batches, time and scoring.

    python benchmarks/gru_baseline.py runs/zh-en --data dev.tsv [--field source=1 target=0]

It has as many parameters as the run's Transformer (± 10 %) and trains for as many seconds as that took.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from peers.gru_attention import GRUTranslator
from torch import Tensor

from plait.checkpoint.directory import read_config
from plait.checkpoint.resolve import newest, read_state
from plait.data.batch import Batch, evaluation_batches
from plait.data.loader import Loader
from plait.data.prepare import EncodedData, open_data
from plait.eval.options import Options
from plait.eval.outputs import scores
from plait.eval.scores import describe_data, write_scores
from plait.infer.params import BeamParams
from plait.log import progress, say
from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import build
from plait.nn.loss import cross_entropy
from plait.recipes.evaluate_outputs import show_scores
from plait.recipes.questions import read_questions
from plait.recipes.recipe import Recipe
from plait.recipes.run_directory import read_recipe
from plait.tasks.translate import TASK
from plait.text.tokenizer import Tokenizer

LR, WARMUP, CLIP = 1e-3, 200, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a translation run, finished")
    parser.add_argument("--data", required=True, help="what is translated and scored")
    parser.add_argument("--field", nargs="*", default=(), help="columns, as plait evaluate takes them")
    parser.add_argument("--lang", help="language of the targets, such as zh")
    parser.add_argument("--minutes", type=float, help="in place of the run's own time")
    parser.add_argument("--out", help="write scores here, as JSON")
    options = parser.parse_args()
    recipe, path = read_recipe(options.run), newest(options.run)
    assert recipe is not None
    assert path is not None
    tokenizer, (config, _) = Tokenizer.load(path), read_config(path)
    data = open_data(options.run / "data", tokenizer)
    seconds = options.minutes * 60 if options.minutes else read_state(path)["state"]["train"]["seconds"]
    model = of_equal_size(config)
    best = fit(model, recipe, data, seconds)
    model.load_state_dict(best)
    fields = {name: int(column) for name, _, column in (word.partition("=") for word in options.field)}
    questions = read_questions(TASK, options.data, "tsv" if fields else "auto", fields or None).documents
    hypotheses = translate(model.eval(), tokenizer, config, [TASK.source(one) for one in questions])
    references = [[TASK.references(one)[0] for one in questions]]
    found = scores(TASK.metrics, Options(lang=options.lang), hypotheses=hypotheses, references=references)
    name = "GRU with attention"
    show_scores(name, found)
    if options.out:
        made = [replace(score, task=name, data=describe_data([options.data])) for score in found]
        write_scores(options.out, "baselines", made)


def of_equal_size(config: ModelConfig) -> GRUTranslator:
    """The widest one that has no more parameters than the Transformer."""
    with torch.device("meta"):
        goal = sum(parameter.numel() for parameter in build(config).parameters())

        def size(hidden: int) -> int:
            made = GRUTranslator(config.vocab, config.width, hidden, 0.0)
            return sum(parameter.numel() for parameter in made.parameters())

        hidden = max(wide for wide in range(32, 2049, 16) if size(wide) <= goal)
    say(f"{size(hidden):,} parameters, hidden {hidden}; the Transformer has {goal:,}")
    return GRUTranslator(config.vocab, config.width, hidden, config.dropout)


def fit(model: GRUTranslator, recipe: Recipe, data: EncodedData, seconds: float) -> dict[str, Tensor]:
    """Train by the clock, the rate falling to zero; the weights with the lowest loss on held-out pairs."""
    torch.manual_seed(recipe.seed)
    train = recipe.train
    assert train.batch_size is not None
    loader = Loader(
        data.train,
        batch_size=train.batch_size,
        micro_batch=train.micro_batch,
        seed=recipe.seed,  # type: ignore[arg-type]
    )
    optim = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    best, kept, step, spent, checked = float("inf"), {}, 0, 0.0, 0.0
    with progress("GRU: seconds", round(seconds)) as bar:
        while spent < seconds:
            began = time.perf_counter()
            share = min((step + 1) / WARMUP, 1.0) * (1 - spent / seconds)
            for group in optim.param_groups:
                group["lr"] = LR * share
            batch = loader.batch(step)
            for micro in batch.microbatches:
                loss = loss_of(model, micro, train.label_smoothing).total / batch.target_tokens
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optim.step()
            optim.zero_grad()
            step, spent = step + 1, spent + time.perf_counter() - began
            bar.update(min(round(spent), round(seconds)))
            if spent - checked > seconds / 20 or spent >= seconds:
                checked, loss = spent, held_out(model, data)
                if loss < best:
                    best, kept = loss, {name: value.clone() for name, value in model.state_dict().items()}
    say(f"{step:,} steps, lowest held-out loss {best:.4f}")
    return kept


def loss_of(model: GRUTranslator, batch: Batch, smoothing: float = 0.0):
    """Summed cross-entropy of a batch of pairs."""
    assert batch.source is not None
    return cross_entropy(
        model(batch.source, held_of(batch), batch.tokens), batch.targets, label_smoothing=smoothing
    )


def held_of(batch: Batch) -> Tensor:
    """Which places of the sources are no padding."""
    assert batch.source is not None
    positions = batch.source_positions
    return torch.ones_like(batch.source, dtype=torch.bool) if positions is None else positions >= 0


@torch.inference_mode()
def held_out(model: GRUTranslator, data: EncodedData) -> float:
    """Nats per token on the held-out pairs."""
    model.eval()
    sums = [loss_of(model, batch) for source in data.validation for batch in evaluation_batches(source, 64)]
    model.train()
    return float(sum(one.nll for one in sums)) / int(sum(int(one.tokens) for one in sums))


def translate(
    model: GRUTranslator, tokenizer: Tokenizer, config: ModelConfig, sources: list[str]
) -> list[str]:
    """The best of five beams."""
    assert tokenizer.eos_id is not None
    made = []
    with progress("GRU: sentences", len(sources)) as bar:
        for at in range(0, len(sources), 32):
            rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in sources[at : at + 32]]
            source = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            held = torch.zeros(source.shape, dtype=torch.bool)
            for line, row in enumerate(rows):
                source[line, : len(row)], held[line, : len(row)] = torch.tensor(row), True
            found = model.translate(
                source, held, config.decoder_start, frozenset(tokenizer.stop_ids), config.context,
                BeamParams(beams=5),
            )  # fmt: skip
            made += [tokenizer.decode(best[0].tokens, skip_special=True) for best in found]
            bar.update(len(made))
    return made


if __name__ == "__main__":
    main()
