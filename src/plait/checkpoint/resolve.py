"""MODEL, as every command takes it: a model directory, a step directory, or a run directory."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from plait.errors import ModelError, did_you_mean

CHECKPOINTS, STATE, AVERAGE = "checkpoints", "state/state.json", "average"
CHOICES = ("best", "average")
DIGESTED = 1 << 20  # bytes at either end of a file of weights


def resolve(model: str | Path) -> Path:
    """The model directory that MODEL means.

    A run directory means its newest complete checkpoint, `RUN:best` the one with the lowest `val_loss`,
    `RUN:average` (or `STEP:average`) the averaged weights.

    Raises:
        ModelError: where there is no such thing, with the closest name beside it.
    """
    path, choice = split_choice(model)
    if not path.is_dir():
        if path.is_file():
            raise ModelError(f"{path} is a file; give the model directory it lies in")
        beside = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside) or "; name the directory of a run, a step or a model"
        raise ModelError(f"model {str(path)!r} does not exist{hint}")
    if (path / CHECKPOINTS).is_dir() or (path / "recipe.yaml").is_file():
        found = best(path) if choice == "best" else newest(path)
        if found is None and choice == "best" and newest(path) is not None:
            raise ModelError(f"{path}: no checkpoint has a val_loss yet; set train.eval_every")
        if found is None:
            raise ModelError(f"{path} holds no complete checkpoint yet; wait for the first train.save_every")
        path = found
    elif choice == "best":
        raise ModelError(f"{path} is not a run directory, so it has no ':best'; leave that out")
    if choice == "average":
        if not (path / AVERAGE).is_dir():
            raise ModelError(
                f"{path} holds no averaged weights; train with train.ema or train.average_last set"
            )
        path = path / AVERAGE
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is not a model or run directory: it has no config.json; {_hint(path)}")
    _refuse_pickles(path)
    return path


def split_choice(model: str | Path) -> tuple[Path, str]:
    """The path in MODEL, and what follows its colon: `best`, `average` or nothing.

    Raises:
        ModelError: for another choice.
    """
    model = str(Path(model).expanduser())
    base, colon, choice = model.rpartition(":")
    if not colon or Path(model).exists() or not Path(base).exists():
        return Path(model), ""
    if choice not in CHOICES:
        hint = did_you_mean(choice, CHOICES) or "; known: ':best', ':average'"
        raise ModelError(f"{model}: ':{choice}' is not a choice of checkpoint{hint}")
    return Path(base), choice


def named(model: str | Path, directory: Path) -> tuple[str, str]:
    """What to call MODEL, and what to call the checkpoint of it that `directory` is: `run/step-000200`."""
    name = split_choice(model)[0].resolve().name
    steps = [part for part in directory.resolve().parts if part.startswith("step-")]
    inside = [*steps[-1:], *([AVERAGE] if directory.name == AVERAGE else [])]
    return name, "/".join([name, *(part for part in inside if part != name)])


def weights_digest(directory: Path) -> str:
    """Eight hex digits that tell weights of one name apart: of the sizes and both ends of their files."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("model*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            ends = file.read(DIGESTED), (file.seek(max(size - DIGESTED, 0)), file.read(DIGESTED))[1]
        digest.update(b"%d/" % size + b"".join(ends))
    return digest.hexdigest()[:8]


def _hint(path: Path) -> str:
    inside = sorted(child.parent.name for child in path.glob("*/config.json"))
    return f"did you mean {str(path / inside[0])!r}?" if inside else "give the directory with the weights"


def _refuse_pickles(path: Path) -> None:
    if any(path.glob("model*.safetensors")):
        return
    pickled = sorted([*path.glob("pytorch_model*.bin"), *path.glob("*.pt"), *path.glob("*.pth")])
    if pickled:
        raise ModelError(
            f"{pickled[0]} is a pickle, which can run code when opened, so plait does not; convert it where "
            "you trust it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)"
        )
    raise ModelError(f"{path / 'model.safetensors'} is missing; restore it from where the model came from")


# --- checkpoints of a run ----------------------------------------------------------------------------------


def step_directories(run_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = Path(run_dir, CHECKPOINTS).glob("step-*")
    steps = [path for path in found if path.name[5:].isdigit() and (path / STATE).is_file()]
    return sorted(steps, key=step_of)


def step_of(path: Path) -> int:
    """`.../step-000500` → 500."""
    return int(path.name.removeprefix("step-"))


def newest(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint, None before the first."""
    return next(reversed(step_directories(run_dir)), None)


def best(run_dir: str | Path) -> Path | None:
    """The checkpoint with the lowest `val_loss`, the newest of equals; None where none has one."""
    scored = [(read_state(path).get("val_loss"), -step_of(path), path) for path in step_directories(run_dir)]
    known = [entry for entry in scored if isinstance(entry[0], int | float)]
    return min(known)[2] if known else None


def read_state(step_dir: Path) -> dict[str, Any]:
    """What state.json of a checkpoint holds: `step`, `val_loss`, `versions`, `files`, `state`.

    Raises:
        ModelError: where it is missing or not what was written.
    """
    path = step_dir / STATE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        digest = value.pop("sha256")
        good = digest == hashlib.sha256(canonical(value)).hexdigest()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        good, value = False, {}
    if not good:
        raise ModelError(f"{path} is damaged or missing{last_good(step_dir)}")
    return value


def canonical(value: dict[str, Any]) -> bytes:
    """One spelling of a JSON value, to be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def verify(step_dir: Path, pattern: str = "*") -> dict[str, Any]:
    """Compare files of a checkpoint with the sizes and hashes in its state.json, which is returned.

    Args:
        pattern: of their paths within the checkpoint; `*` stands for any part of a path.

    Raises:
        ModelError: naming the first file that differs, and the last good checkpoint.
    """
    state = read_state(step_dir)
    for name, recorded in state["files"].items():
        path = step_dir / name
        if not fnmatch(name, pattern):
            continue
        problem = _problem(path, recorded)
        if problem:
            raise ModelError(f"{path} is {problem}{last_good(step_dir)}")
    return state


def _problem(path: Path, recorded: dict[str, Any]) -> str:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != recorded["bytes"]:
        what = "cut short" if size < recorded["bytes"] else "changed"
        return f"{what}: {size:,} bytes of {recorded['bytes']:,}"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == recorded["sha256"]
    return "" if same else "damaged: its sha256 is not the recorded one"


def verify_weights(directory: Path) -> None:
    """Verify the weight files of a checkpoint; without a state.json there is nothing to compare with."""
    if (directory / STATE).is_file():
        verify(directory, "model*.safetensors")
    elif directory.name == AVERAGE and (directory.parent / STATE).is_file():
        verify(directory.parent, f"{AVERAGE}/model*.safetensors")


def last_good(step_dir: Path) -> str:
    """What to do instead of opening a damaged checkpoint."""
    if step_dir.parent.name != CHECKPOINTS:
        return "; restore it from where the model came from"
    others = [path for path in step_directories(step_dir.parent.parent) if path != step_dir]
    for path in reversed(others):
        state = _quiet_state(path)
        if state and not any(_problem(path / name, entry) for name, entry in state["files"].items()):
            return f"; the last good checkpoint is {path}: delete {step_dir} to go on from there"
    return "; the run has no other good checkpoint"


def _quiet_state(step_dir: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((step_dir / STATE).read_text(encoding="utf-8"))
        return value if value.pop("sha256") == hashlib.sha256(canonical(value)).hexdigest() else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
