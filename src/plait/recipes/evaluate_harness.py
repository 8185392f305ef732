"""`plait evaluate --task lm_eval:NAME`: a task of lm-evaluation-harness, its own or from local files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import __version__
from plait.errors import ConfigError, InputError, PlaitError, did_you_mean, need
from plait.eval.perplexity import around
from plait.eval.scores import Score, describe_data, signature

if TYPE_CHECKING:
    from plait.infer.engine import Engine

PREFIX = "lm_eval:"
SEED = 1234  # of the draw of worked examples, the harness's own
BOOTSTRAP = 1000  # resamples for the errors of metrics that are no means
LISTED = 10  # names to list where one is unknown


def find(name: str, data: Sequence[str] = ()) -> Any:
    """The task or group `name` with its data: the harness's own, or one that a file of `data` describes.

    Args:
        data: folders with task files (and what they name); none: the tasks that the harness brings, whose
            data it downloads.

    Raises:
        MissingExtra: without the package lm-eval.
        ConfigError: an unknown task.
        InputError: a folder without task files, or data that cannot be read.
    """
    need("lm_eval", "lm-eval")
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders: list[str | Path] = [_folder(path) for path in data]
    named = ", ".join(data)
    try:
        manager = TaskManager(include_path=folders or None, include_defaults=not folders)
    except Exception as error:  # whatever a task file can hold
        raise InputError(
            f"{', '.join(map(str, folders))}: a task file cannot be read: {_line(error)}"
        ) from None
    if name not in manager.all_tasks:
        found = manager.all_tasks
        listed = ", ".join(found[:LISTED]) + (", ..." if len(found) > LISTED else "")
        where = f"the task files in {named}" if folders else "lm-eval"
        raise ConfigError(
            f"task {PREFIX}{name} is unknown{did_you_mean(name, found)}; {where} has {listed or 'none'}; "
            "--data names a folder of your own task files"
        )
    try:
        return manager.load([name])
    except Exception as error:  # a missing file, no network, a template that does not fit
        raise InputError(f"the data of {PREFIX}{name} cannot be read: {_line(error)}") from None


def harness_of(
    name: str, data: Sequence[str] = (), *, limit: int | None = None, shots: int | None = None, batch: int = 8
) -> Callable[[Engine], list[Score]]:
    """What scores an engine on the task `lm_eval:NAME`, which is loaded at once; see `evaluate_harness`.

    Raises:
        MissingExtra, ConfigError, InputError: see `find`.
    """
    tasks = find(name.removeprefix(PREFIX), data)
    return lambda engine: evaluate_harness(
        tasks, engine=engine, data=data, limit=limit, shots=shots, batch=batch
    )


def evaluate_harness(
    tasks: Any,
    *,
    engine: Engine,
    data: Sequence[str] = (),
    limit: int | None = None,
    shots: int | None = None,
    batch: int = 8,
) -> list[Score]:
    """Scores of the tasks that `find` returned; the interval is 1.96 of the harness's standard errors.

    Args:
        limit: only the first questions of each task.
        shots: worked examples before each question; None: as many as the task says.

    Raises:
        PlaitError: what the model cannot do; see `plait.eval.harness`.
        InputError: a task whose records do not fit its templates or metrics.
    """
    from lm_eval import evaluator

    from plait.eval.harness import Harness

    for task in tasks["tasks"].values():
        wanted = task.get_config("num_fewshot") if shots is None else shots
        task.set_config(key="num_fewshot", value=wanted or 0)
        task.set_fewshot_seed(seed=SEED)
    try:
        found = evaluator.evaluate(
            lm=Harness(engine, batch=batch), task_dict=tasks, limit=limit, bootstrap_iters=BOOTSTRAP,
            log_samples=False,
        )  # fmt: skip
    except PlaitError:
        raise
    except Exception as error:  # whatever a task file names may fail
        raise InputError(
            f"{PREFIX}{', '.join(tasks['tasks'])}: {type(error).__name__}: {_line(error)}"
        ) from error
    assert found is not None  # only ranks other than the first get None
    return list(_scores(found, engine, data, limit))


def _scores(found: Any, engine: Engine, data: Sequence[str], limit: int | None) -> Iterator[Score]:
    from lm_eval import __version__ as version

    files = [path for folder in data for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    described = describe_data(files)
    for task, results in found["results"].items():
        settings = signature(
            lm_eval=version,
            version=found["versions"].get(task, "none"),
            shots=found["n-shot"].get(task, "none"),
            limit=limit or "none",
            model=engine.version,
            dtype=engine.dtype,
            plait=__version__,
        )
        counts = found["n-samples"].get(task, {})
        for key, value in results.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = results.get(f"{metric}_stderr,{filtered}")
            known = isinstance(error, (int, float))
            spread = around(value, error) if known else None
            named = metric if filtered == "none" else f"{metric} ({filtered})"
            yield Score(
                task=f"{PREFIX}{task}", metric=named, value=float(value), interval=spread,
                n=counts.get("effective", 0), signature=settings, data=described,
            )  # fmt: skip


def _folder(path: str) -> str:
    if not Path(path).is_dir() or not any(Path(path).rglob("*.yaml")):
        raise InputError(f"{path} is no folder with task files (.yaml) of lm-eval; name one with --data")
    return path


def _line(error: Exception) -> str:
    """The first line of what a library says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
