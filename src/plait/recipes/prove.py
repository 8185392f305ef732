"""`plait prove`: a recipe → one process → the same steps under layouts, in ranks started here → a verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import torch

from plait import hardware
from plait.data.inputs import standard_input_kept
from plait.data.prepare import prepare_data
from plait.errors import ConfigError, InputError, TrainingError
from plait.log import duration, say
from plait.nn.config import ModelConfig
from plait.parallel.launch import POLITE, launch, launched
from plait.parallel.layout import Layout
from plait.recipes.choices import batch_rows
from plait.recipes.plan import start
from plait.recipes.proof import Problem, Proof, Trace, run
from plait.recipes.proof_layouts import Asked, check, layouts_of
from plait.recipes.proof_page import write_page
from plait.recipes.proof_rank import BEGUN, FAILED, INFORMATION, JOB, RESULTS, Job, in_type, reference_file
from plait.recipes.proof_report import Outcome, Tried, print_outcome, write_json
from plait.recipes.recipe import Recipe, flatten, load_recipe
from plait.recipes.start_ranks import model_of
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import TokenizerConfig, smallest_vocab

OPEN_STEPS = 1000  # that a schedule spans where epochs or a clock would decide
PATIENCE = 60.0  # seconds that ranks wait for one another at least
PROGRAM = (sys.executable, "-m", "plait.recipes.proof_rank")


def prove(
    name: str,
    overrides: Sequence[str],
    asked: Asked,
    *,
    json_file: Path | None = None,
    page: Path | None = None,
) -> bool:
    """Prove layouts of a recipe, print what was found, and write it where asked for; whether all hold.

    Raises:
        PlaitError: bad input, before any process is started.
    """
    for path in filter(None, (json_file, page)):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InputError(f"{path} cannot be written: name a file in a directory that exists")
    outcome = prove_recipe(load_recipe(name, overrides), asked, name)
    print_outcome(outcome)
    if json_file is not None:
        write_json(outcome, json_file)
    if page is not None:
        write_page(outcome, page)
    return outcome.holds


def prove_recipe(recipe: Recipe, asked: Asked, name: str = "recipe") -> Outcome:
    """Train a recipe in this process and under each layout, and compare.

    Raises:
        PlaitError: bad input, before any process is started.
    """
    if launched():
        raise ConfigError("prove starts its own ranks on this machine; run it without torchrun or srun")
    check(asked)
    began = monotonic()
    with TemporaryDirectory(prefix="plait-prove-") as place:
        folder = Path(place)
        problem = problem_of(recipe, asked, folder)
        layouts, refused = layouts_of(recipe.layout, problem, asked)
        changed = changes(recipe, problem)
        say(f"to prove layouts: {', '.join(changed)}")
        most = max(layout.world for layout in layouts)
        threads = max(1, hardware.threads() // most)  # as many as a rank gets
        alone, seconds = _train_alone(problem, folder, asked.information, threads)
        say(f"one process: {problem.steps} steps in {duration(seconds)}; now {len(layouts)} layout(s)")
        # a deadlock ends in this time; ranks share the processors of this machine and take turns
        patience = max(PATIENCE, 10 * seconds * most)
        layouts = [layout.model_copy(update={"timeout": patience}) for layout in layouts]
        tried = _prove_all(problem, layouts, folder, asked.information)
    return Outcome(name, changed, problem, alone.losses, alone.norms, tried, refused, monotonic() - began)


# ---- what is trained


def problem_of(recipe: Recipe, asked: Asked, folder: Path) -> Problem:
    """The recipe's training in float64, without compilation and dropout, on random tokens or on its data."""
    if asked.data:
        config, context = _prepare(recipe, folder)
    else:
        config, context = model_of(recipe)
        config = config.model_copy(update={"vocab": config.vocab or _vocabulary(recipe.tokenizer)})
    train, rows = recipe.train, batch_rows(recipe, context)
    update = {
        "dtype": "float64",
        "compile": False,
        "steps": max(train.steps or OPEN_STEPS, asked.steps),
        "epochs": None,
        "minutes": None,
        "stop_after": None,
    }
    return Problem(
        model=config.model_copy(update={"dropout": 0.0, "attn_dropout": -1.0}),
        train=train.model_copy(update=update),
        context=context,
        rows=rows,
        seed=recipe.seed,
        steps=asked.steps,
        data=str(folder) if asked.data else "",
        attend_across=recipe.data.attend_across,
    )


def _prepare(recipe: Recipe, folder: Path) -> tuple[ModelConfig, int]:
    """Tokenizer and encoded data of a recipe, made in `folder`."""
    _, context = model_of(recipe)
    with standard_input_kept(recipe.data, folder) as data:
        tokenizer, config = start(folder, recipe.model_copy(update={"data": data}))
        (folder / "tokenizer").mkdir(exist_ok=True)
        tokenizer.save(folder / "tokenizer")
        prepare_data(data, tokenizer, folder / "data", context, recipe.seed, start_id=config.start_id)
    return config, context


def _vocabulary(tokenizer: TokenizerConfig | str) -> int:
    """Tokens of a recipe's tokenizer; where its text decides, as many as it has at least."""
    if isinstance(tokenizer, str):
        return Tokenizer.load(tokenizer).vocab_size
    sized = tokenizer.style != "words" and tokenizer.kind in ("bpe", "unigram")
    if sized or tokenizer.vocab_size:
        return tokenizer.most
    return smallest_vocab(tokenizer.kind, tokenizer.fim) + (tokenizer.merges or 0)


def changes(recipe: Recipe, problem: Problem) -> list[str]:
    """What of a recipe is otherwise in its proof, as overrides."""
    before, after = (
        flatten({"train": train.model_dump(mode="json"), "model": model})
        for train, model in (
            (recipe.train, model_of(recipe)[0].model_dump(mode="json")),
            (problem.train, problem.model.model_dump(mode="json")),
        )
    )
    found = [f"{key}={json.dumps(value)}" for key, value in after.items() if before.get(key) != value]
    return [*(word.replace('"', "") for word in found), "random weights" if problem.data else "random tokens"]


def _train_alone(problem: Problem, folder: Path, information: bool, threads: int) -> tuple[Trace, float]:
    """Train in this process and leave its traces on file; the float64 one and its seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        began = monotonic()
        _, trace = run(problem, Layout())
        seconds = monotonic() - began
        trace.save(reference_file(folder, "float64"))
        for dtype in INFORMATION if information else ():
            run(in_type(problem, dtype), Layout())[1].save(reference_file(folder, dtype))
    finally:
        torch.set_num_threads(before)
    return trace, seconds


# ---- the ranks


def _prove_all(problem: Problem, layouts: list[Layout], folder: Path, information: bool) -> list[Tried]:
    """Start the ranks of each number once, and again for the layouts after one that failed."""
    tried: list[Tried] = []
    while left := layouts[len(tried) :]:
        together = [layout for layout in left if layout.world == left[0].world]
        job = Job(
            problem=problem, layouts=tuple(together), done=len(tried), total=len(layouts),
            information=information,
        )  # fmt: skip
        (folder / JOB).write_text(job.model_dump_json(), encoding="utf-8")
        (folder / RESULTS).write_text("", encoding="utf-8")
        status = launch([str(folder)], left[0].world, restarts=0, program=PROGRAM)
        if status in POLITE:
            raise SystemExit(status)
        if not (folder / BEGUN).exists():
            raise TrainingError("the ranks could not start; what they said is above")
        made = [json.loads(line) for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()]
        tried += [_proven(layout, result) for layout, result in zip(together, made)]
        if len(made) < len(together):
            tried.append(_failed(together[len(made)], folder))
    return tried


def _proven(layout: Layout, result: dict[str, Any]) -> Tried:
    proof = Proof.from_json(result["proof"])
    return Tried(
        layout, proof, seconds=result["seconds"], cost=result["cost"],
        information=result.get("information", {}),
    )  # fmt: skip


def _failed(layout: Layout, folder: Path) -> Tried:
    """What ended the ranks of a layout: what one of them raised, rather than who missed it."""
    stories = []
    for path in sorted(folder.glob(f"{FAILED}.*")):
        stories.append(json.loads(path.read_text(encoding="utf-8")) | {"rank": path.suffix[1:]})
        path.unlink()
    if not stories:
        return Tried(layout, None, error="its ranks ended without a word")
    story = min(stories, key=lambda story: story["lost"])
    say(f"{layout.name} failed on rank {story['rank']}: {story['error']}")
    return Tried(layout, None, error=story["error"], traceback=story["traceback"])
