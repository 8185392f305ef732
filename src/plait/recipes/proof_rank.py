"""A rank that `plait prove` has started: it trains under each layout of a job in turn and compares.

`python -m plait.recipes.proof_rank FOLDER`, where `FOLDER/job.json` says what to do.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from plait.config import Config
from plait.files import write_text
from plait.log import progress
from plait.parallel.health import claim_error, is_communication_error
from plait.parallel.launch import USER_ERROR
from plait.parallel.layout import Layout
from plait.parallel.mesh import Mesh
from plait.recipes.proof import Problem, Trace, compare, run
from plait.recipes.ranks import Ranks, join
from plait.recipes.step_cost import StepCost

JOB, BEGUN, RESULTS, FAILED = "job.json", "begun", "results.jsonl", "failed"
INFORMATION = ("float32", "bfloat16")  # what rounding does there, which proves nothing


class Job(Config):
    """What the ranks of one start do.

    Attributes:
        layouts: all of as many ranks.
        done, total: layouts before these, and all, for the progress shown.
        information: compare in `INFORMATION` too.
    """

    problem: Problem
    layouts: tuple[Layout, ...]
    done: int = 0
    total: int = 1
    information: bool = False


def reference_file(folder: Path, dtype: str) -> Path:
    """Where the training of one process lies."""
    return folder / f"reference-{dtype}.safetensors"


def main(folder: Path) -> None:
    """Prove every layout of the job; rank 0 writes a line of results after each."""
    job = Job.model_validate_json((folder / JOB).read_text(encoding="utf-8"))
    world, timeout = job.layouts[0].world, job.layouts[0].timeout
    reference = Trace.load(reference_file(folder, "float64"))
    bars = progress(f"{world} ranks", job.total, before=job.done)
    with join(Layout(dp=world, timeout=timeout)) as ranks, bars as bar:
        (folder / BEGUN).touch()
        for number, layout in enumerate(job.layouts, 1):
            ranks.at(number, layout.name)
            with _told(folder, ranks):
                result = _prove(job, layout, reference, folder)
            if ranks.leads:
                with (folder / RESULTS).open("a", encoding="utf-8") as file:
                    print(json.dumps(result), file=file)
            bar.advance(1, layout.name)


def _prove(job: Job, layout: Layout, reference: Trace, folder: Path) -> dict[str, Any]:
    start, problem = monotonic(), job.problem
    mesh = Mesh(layout)
    cost = StepCost(problem.model, problem.train, problem.context, mesh, problem.steps)
    placed, trace = run(problem, layout, mesh, cost.watch)
    result: dict[str, Any] = {"layout": layout.model_dump(), "cost": cost.of_all_ranks()}
    result["proof"] = compare(placed, trace, reference).as_json()
    result["seconds"] = monotonic() - start
    for dtype in INFORMATION if job.information else ():
        alone = Trace.load(reference_file(folder, dtype))
        rounded = compare(*run(in_type(job.problem, dtype), layout, mesh), alone)
        worst = max(step.weights_apart for step in rounded.steps)
        apart = {"gradients": rounded.gradient, "weights": worst}
        result.setdefault("information", {})[dtype] = apart
    mesh.close()
    gc.collect()  # hooks and modules hold one another: without this, models of many layouts pile up
    return result


def in_type(problem: Problem, dtype: str) -> Problem:
    """The same training in another number type."""
    return problem.model_copy(update={"train": problem.train.model_copy(update={"dtype": dtype})})


@contextmanager
def _told(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Leave on file what went wrong here, and end this rank: the others would wait for it."""
    try:
        yield
    except Exception as error:
        lost = is_communication_error(error)
        text = re.sub(r"^\[[^\]]*\] ", "", str(error))  # gloo's own source file and line
        what = f"{'the ranks lost each other' if lost else type(error).__name__}: {text}"
        where = "".join(traceback.format_exception(error))
        story = {"error": what, "traceback": where, "lost": lost}
        write_text(folder / f"{FAILED}.{ranks.rank}", json.dumps(story))
        if lost:  # another rank knows why
            raise
        assert ranks.store is not None
        claim_error(ranks.store, ranks.rank)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
