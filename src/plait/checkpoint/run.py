"""Checkpoints of a run: a model directory plus `state/`, complete or invisible."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import plait
from plait import files
from plait.checkpoint.directory import SLACK, as_dtype, read_config, stored_weights, write_model
from plait.checkpoint.resolve import (
    AVERAGE,
    CHECKPOINTS,
    STATE,
    best,
    canonical,
    newest,
    read_state,
    step_directories,
    verify,
)
from plait.checkpoint.tensors import MAX_SHARD, Source, open_tensors, stored_bytes, write_shards
from plait.errors import ModelError
from plait.nn.config import ModelConfig
from plait.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A step directory whose files were compared with their hashes: what a run needs to go on.

    Attributes:
        path: the step directory.
        step: optimizer steps done.
        state: what the caller had given, from JSON.
        versions: of plait, torch and Python when it was written.
    """

    path: Path
    step: int
    config: ModelConfig
    state: dict[str, Any]
    versions: dict[str, str]

    @property
    def has_average(self) -> bool:
        """Whether averaged weights were kept."""
        return (self.path / AVERAGE).is_dir()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values as they were trained (a tied head is not among them), in mapped files."""
        return _exact_or(self.path, "weights", self.path)

    def average(self) -> Iterator[tuple[str, Tensor]]:
        """The averaged weights, as `weights`."""
        return _exact_or(self.path, "average", self.path / AVERAGE)

    def optim(self) -> Iterator[tuple[str, str, Tensor]]:
        """Parameter name, slot and value of every optimizer tensor, in mapped files."""
        for key, value in _exact(self.path, "optim"):
            name, _, slot = key.rpartition("/")
            yield name, slot, value


def save_checkpoint(
    run_dir: str | Path,
    step: int,
    *,
    weights: Mapping[str, Source],
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    optim: Mapping[str, Mapping[str, Source]],
    state: Mapping[str, Any],
    average: Mapping[str, Source] | None = None,
    save_dtype: str = "float32",
    card: str = "",
    generation: Mapping[str, Any] | None = None,
    max_shard: int = MAX_SHARD,
) -> Path:
    """Write `checkpoints/step-NNNNNN` and point `checkpoints/last` to it. The caller holds the run's lock.

    Weights that `save_dtype` would round are kept unrounded in `state/` too, so that resuming is exact.

    Args:
        run_dir: the run directory.
        step: optimizer steps done.
        weights: under plait's names; they, too, may be fetched one by one as they are written.
        config: with `vocab` set.
        tokenizer: None leaves its files out.
        optim: optimizer tensors by parameter name.
        state: anything JSON can hold; `val_loss`, where it is known, decides which checkpoint is best.
        average: averaged weights, written as a model directory `average/` of their own.
        save_dtype, card, generation, max_shard: as in `save_model`.

    Raises:
        TrainingError: when the disk is full; earlier checkpoints are as they were.
    """
    checkpoints = Path(run_dir, CHECKPOINTS)
    files.sweep(checkpoints)
    dtype = as_dtype(save_dtype)
    exact = {"weights": weights, "average": average or {}}
    exact = {stem: tensors for stem, tensors in exact.items() if _rounds(tensors, dtype)}
    extra = {"optim": flatten(optim), **exact}
    needed = SLACK + stored_bytes(weights, dtype) + stored_bytes(average or {}, dtype)
    needed += sum(map(stored_bytes, extra.values()))
    earlier = newest(run_dir)
    note = f"; the last good checkpoint is {earlier}" if earlier else "; nothing is saved yet"
    target = checkpoints / f"step-{step:06}"
    with files.new_directory(target, needed, note) as draft:
        options: dict[str, Any] = {"save_dtype": save_dtype, "generation": generation, "max_shard": max_shard}
        (draft / STATE).parent.mkdir()
        for stem, tensors in extra.items():
            write_shards(draft / "state", stem, tensors, max_shard=max_shard)
        with _once(draft, "weights", weights) as tensors:
            write_model(draft, tensors, config, tokenizer, card=card, **options)
        if average is not None:
            (draft / AVERAGE).mkdir()
            with _once(draft, "average", average) as tensors:
                write_model(draft / AVERAGE, tensors, config, tokenizer, card=card, **options)
        _write_state(draft, step, state)
    point_last(run_dir, note)
    return target


@contextmanager
def _once(draft: Path, stem: str, tensors: Mapping[str, Source]) -> Iterator[Mapping[str, Source]]:
    """The tensors, from the file in `state/` that holds them already, as some can be fetched only once."""
    if not any((draft / "state").glob(f"{stem}*.safetensors")):
        yield tensors
        return
    with open_tensors(draft / "state", stem) as written:
        yield {name: written.view(name) for name in tensors}


def point_last(run_dir: str | Path, note: str = "") -> None:
    """Let `checkpoints/last` name the newest checkpoint, which a process killed just after saving did not."""
    path, last = newest(run_dir), Path(run_dir, CHECKPOINTS, "last")
    if path is not None and not (last.is_file() and last.read_text(encoding="utf-8") == path.name):
        files.write_text(last, path.name, note)


def _write_state(draft: Path, step: int, state: Mapping[str, Any]) -> None:
    paths = sorted(path for path in draft.rglob("*") if path.is_file())
    body = {
        "step": step,
        "val_loss": state.get("val_loss"),
        "versions": versions(),
        "files": {path.relative_to(draft).as_posix(): _entry(path) for path in paths},
        "state": dict(state),
    }
    body = json.loads(json.dumps(body))  # as it will be read: tuples are lists, keys are strings
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    (draft / STATE).write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def versions() -> dict[str, str]:
    """Versions that decide whether a resumed run can be equal to the last bit."""
    return {"plait": plait.__version__, "torch": torch.__version__, "python": platform.python_version()}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a step directory, every file checked against its hash; only safetensors and JSON are read.

    Raises:
        ModelError: naming the file that is damaged or missing, and the last good checkpoint.
    """
    path = Path(path)
    if not (path / STATE).is_file():
        raise ModelError(f"{path} is not a checkpoint of a run: it has no {STATE}")
    return _checkpoint(path, verify(path))


def trusted_checkpoint(path: Path) -> Checkpoint:
    """`load_checkpoint` of what another rank has just compared with its hashes."""
    return _checkpoint(path, read_state(path))


def _checkpoint(path: Path, body: dict[str, Any]) -> Checkpoint:
    config, _ = read_config(path)
    return Checkpoint(path, body["step"], config, body["state"], body["versions"])


def exact_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a step directory as they were trained, not rounded to `save_dtype`."""
    return load_checkpoint(path).weights()


def _exact_or(path: Path, stem: str, model: Path) -> Iterator[tuple[str, Tensor]]:
    if any((path / "state").glob(f"{stem}*.safetensors")):
        yield from _exact(path, stem)
        return
    with stored_weights(model) as (_, _, weights):
        yield from weights


def _exact(path: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    if any((path / "state").glob(f"{stem}*.safetensors")):
        with open_tensors(path / "state", stem) as files:
            for name in files.file_of:
                yield name, files.view(name)


def _rounds(tensors: Mapping[str, Source], dtype: torch.dtype) -> bool:
    return any(torch.promote_types(tensor.dtype, dtype) != dtype for tensor in tensors.values())


def flatten(optim: Mapping[str, Mapping[str, Source]]) -> dict[str, Source]:
    """`{"norm.weight": {"exp_avg": t}}` → `{"norm.weight/exp_avg": t}`."""
    return {f"{name}/{key}": tensor for name, slots in optim.items() for key, tensor in slots.items()}


def prune(
    run_dir: str | Path, keep_last: int, keep_best: bool = True, also: Iterable[Path] = ()
) -> list[Path]:
    """Delete all checkpoints but the newest `keep_last` (0: all stay), the best, and those in `also`.

    Returns:
        The deleted ones.
    """
    steps = step_directories(run_dir)
    keep = {*steps[-keep_last:], *also}
    if keep_best and keep_last and (champion := best(run_dir)):
        keep.add(champion)
    doomed = [path for path in steps if path not in keep]
    for path in doomed:
        files.remove(path)
    return doomed


def disk_use(run_dir: str | Path) -> int:
    """Bytes that a run's checkpoints take."""
    return sum(path.stat().st_size for path in Path(run_dir, CHECKPOINTS).rglob("*") if path.is_file())
