"""What this machine can do, measured in a fraction of a second and remembered per machine.

No default may assume that bfloat16 is fast, that it exists, or that a compiler is installed: emulated
bfloat16 is a hundred times slower than float32, matrix units make it ten times faster.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from plait import hardware
from plait.config import Config
from plait.errors import ConfigError, PlaitError, did_you_mean
from plait.files import write_text
from plait.log import bytes_text, duration

DTYPES = ("float32", "bfloat16", "float16", "float64")
HALF_GAIN = 1.5  # casts cost something, so a half-precision product must be at least this much faster
SMALLEST_HALF = 1_000_000  # parameters below which casting costs more than faster products save
COMPILE_AFTER = 300.0  # seconds of predicted training; compiling takes 15 to 40 of them
PATIENCE = 0.05  # seconds one trial product may take: emulation is recognized before it is waited for
TRIES = 5  # of each product: another program may have had the processor during one
BUDGET = 0.08  # seconds spent on repeating the largest product, or on reading memory


class Machine(Config):
    """One device of one machine: what it is and how fast it was measured to be."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    cores: int  # logical processors this process may use
    threads: int  # threads measured with: the physical cores among them, or OMP_NUM_THREADS
    memory: int  # bytes: of the GPU, or what the operating system or container grants
    flags: tuple[str, ...] = ()  # vector and matrix extensions of the processor
    matmul: dict[str, float]  # FLOP/s by dtype name; 0.0 where the device cannot
    read_bandwidth: float  # bytes/s
    compiler: bool  # torch.compile can work
    compiler_reason: str


class Choices(Config):
    """What to run with, and one reason for each."""

    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    threads: int
    compile: bool
    reasons: dict[str, str]  # by field name


def measure(*, remeasure: bool = False, device: str = "auto") -> Machine:
    """The machine's measured abilities: from the cache, or measured now and cached.

    Raises:
        ConfigError: `device` is unknown or absent.
    """
    kind = pick_device(device).partition(":")[0]
    key = _identity(kind)
    path = _cache_path(key)
    if not remeasure and (found := _read_cache(path)) is not None:
        works, reason = hardware.compiler(kind)  # a compiler comes and goes
        return found.model_copy(update={"compiler": works, "compiler_reason": reason})
    machine = _measure(kind, key)
    _write_cache(path, machine)
    return machine


def pick_device(name: str = "auto") -> str:
    """The torch device for `auto | cpu | cuda | cuda:N | mps`; auto prefers a GPU.

    Raises:
        ConfigError: the name is unknown, or torch sees no such device here.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        hint = did_you_mean(kind, ("auto", "cpu", "cuda", "mps"))
        raise ConfigError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N, mps{hint}")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if kind == "cuda" and not cuda:
        build = "this torch is a CPU build" if torch.version.cuda is None else "no GPU or driver was found"
        raise ConfigError(f"device={name!r} is not available: {build}; use cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device={name!r} does not exist: this machine has {count} GPU(s)")
    if kind == "mps" and not mps:
        raise ConfigError("device='mps' is not available: it needs an Apple GPU; use cpu")
    return name


def choose(
    machine: Machine,
    *,
    dtype: str = "auto",
    parameters: int | None = None,
    predicted_seconds: float | None = None,
    compile: bool | str = "auto",
) -> Choices:
    """Dtype, threads and compilation by rule from what was measured; a value other than auto is kept.

    Args:
        parameters: of the model to train.
        predicted_seconds: how long training is expected to take without compilation.

    Raises:
        ConfigError: an unknown value, a dtype this device cannot compute, or compile without a compiler.
    """
    chosen, why_dtype = _choose_dtype(machine, dtype, parameters)
    compiled, why_compile = _choose_compile(machine, compile, predicted_seconds)
    if os.environ.get("OMP_NUM_THREADS"):
        why_threads = "OMP_NUM_THREADS is set"
    else:
        why_threads = f"one for each physical core among the {machine.cores} available processors"
    reasons = {"dtype": why_dtype, "threads": why_threads, "compile": why_compile}
    return Choices(dtype=chosen, threads=machine.threads, compile=compiled, reasons=reasons)  # type: ignore[arg-type]


def peak(machine: Machine, dtype: str) -> float:
    """Measured matrix-product speed in FLOP/s.

    Raises:
        ConfigError: the device cannot compute in `dtype`.
    """
    rate = machine.matmul.get(dtype, 0.0)
    if rate <= 0:
        can = [name for name, value in machine.matmul.items() if value > 0]
        raise ConfigError(f"dtype={dtype!r} does not work on {machine.kind}; use {', '.join(can)}")
    return rate


def describe(machine: Machine) -> list[tuple[str, str]]:
    """Rows for `plait device`: what was measured, what would be chosen, and why."""
    flags = ", ".join(machine.flags) or "no matrix or vector extensions known to plait"
    rows = [
        ("device", f"{machine.kind}: {machine.name}"),
        ("processors", f"{machine.cores} available ({flags})"),
        ("memory", f"{bytes_text(machine.memory)}, read at {machine.read_bandwidth / 1e9:.1f} GB/s"),
    ]
    for name in sorted(machine.matmul, key=lambda name: -machine.matmul[name]):
        rate = machine.matmul[name]
        rows.append((f"{name} products", f"{rate / 1e12:.3f} TFLOP/s" if rate else "not possible"))
    choices = choose(machine)
    rows += [
        ("chosen dtype", f"{choices.dtype}: {choices.reasons['dtype']}"),
        ("chosen threads", f"{choices.threads}: {choices.reasons['threads']}"),
        ("chosen compile", f"{'yes' if choices.compile else 'no'}: {choices.reasons['compile']}"),
    ]
    rows.append(("compiler", machine.compiler_reason))
    return rows


def _choose_dtype(machine: Machine, dtype: str, parameters: int | None) -> tuple[str, str]:
    if dtype not in ("auto", *DTYPES):
        hint = did_you_mean(dtype, DTYPES)
        raise ConfigError(f"dtype={dtype!r} is not one of auto, {', '.join(DTYPES)}{hint}")
    ratio = machine.matmul.get("bfloat16", 0.0) / peak(machine, "float32")
    speed = f"bfloat16 products run at {ratio:.2g} times the speed of float32 here"
    if dtype != "auto":
        peak(machine, dtype)  # refuses what the device cannot do
        return dtype, f"asked for; {speed}" if dtype == "bfloat16" else "asked for"
    if ratio < HALF_GAIN:
        return "float32", f"{speed}; at least {HALF_GAIN} is worth the casts"
    if parameters is not None and parameters < SMALLEST_HALF:
        return "float32", f"a model of fewer than {SMALLEST_HALF:,} parameters gains nothing from bfloat16"
    return "bfloat16", f"{speed} (mixed precision: weights stay float32)"


def _choose_compile(machine: Machine, asked: bool | str, seconds: float | None) -> tuple[bool, str]:
    if asked not in (True, False, "auto"):
        raise ConfigError(f"compile={asked!r} is not one of auto, true, false")
    if asked is True and not machine.compiler:
        raise ConfigError(
            f"compile=true cannot work: {machine.compiler_reason}; install one, or set compile=false"
        )
    if asked != "auto":
        return bool(asked), "asked for"
    if not machine.compiler:
        return False, machine.compiler_reason
    if seconds is None:
        return False, f"only for training predicted to take more than {duration(COMPILE_AFTER)}"
    long = seconds > COMPILE_AFTER
    relation = "more" if long else "not more"
    return long, f"{duration(seconds)} predicted, {relation} than {duration(COMPILE_AFTER)}"


def _identity(kind: str) -> dict[str, Any]:
    """Everything a measurement depends on; its hash names the cache file."""
    name = hardware.processor()
    if kind == "cuda":
        import torch

        name = f"{torch.cuda.get_device_name(0)} on {name}"
    return {
        "kind": kind,
        "name": name,
        "flags": hardware.flags(),
        "cores": len(hardware.processors()),
        "threads": hardware.threads(),
        "torch": version("torch"),
        "format": 1,
    }


def _measure(kind: str, key: Mapping[str, Any]) -> Machine:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(key["threads"])
    try:
        matmul = {name: _matmul_rate(kind, name) for name in DTYPES}
        bandwidth = _read_bandwidth(kind)
    finally:
        torch.set_num_threads(before)
    works, reason = hardware.compiler(kind)
    memory = torch.cuda.get_device_properties(0).total_memory if kind == "cuda" else hardware.memory()
    return Machine(
        kind=kind,  # type: ignore[arg-type]
        name=key["name"],
        cores=key["cores"],
        threads=key["threads"],
        memory=memory,
        flags=tuple(key["flags"]),
        matmul=matmul,
        read_bandwidth=bandwidth,
        compiler=works,
        compiler_reason=reason,
    )


def _matmul_rate(kind: str, dtype_name: str) -> float:
    """FLOP/s of a square product that fits a processor's cache (or fills a GPU); 0.0 if impossible."""
    import torch

    width, rungs = (8192, (16, 512, 8192)) if kind == "cuda" else (768, (4, 64, 768))
    try:
        left, right = (torch.randn(width, width).to(kind, getattr(torch, dtype_name)) for _ in range(2))
        out = torch.empty_like(left)  # reused: fresh memory would time the operating system's page faults

        def product(rows: int) -> None:
            torch.mm(left[:rows], right, out=out[:rows])
            _wait(kind)

        return product_rate(product, 2.0 * width * width, rungs)
    except (RuntimeError, TypeError):  # what torch raises for a dtype that the device lacks
        return 0.0


def product_rate(
    product: Callable[[int], None],
    flop_per_row: float,
    rungs: tuple[int, ...],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Best FLOP/s of `product(rows)` over growing `rows`.

    A size whose duration, predicted from the size before, exceeds PATIENCE is not tried: what is that
    slow is emulated, and the smaller product has shown it.
    """
    best = 0.0
    for rows in rungs:
        if best and rows * flop_per_row / best > PATIENCE:
            break
        product(rows)  # the first call of a shape also builds the kernel
        until = clock() + (BUDGET if rows == rungs[-1] else 0.0)
        for tries in count(1):
            start = clock()
            product(rows)
            end = clock()
            best = max(best, rows * flop_per_row / max(end - start, 1e-9))
            if end >= until and tries >= TRIES:
                break
    return best


def _read_bandwidth(kind: str) -> float:
    """Bytes/s of a sum over a buffer larger than any cache."""
    import torch

    count = (2**30 if kind == "cuda" else 2**27) // 4
    buffer = torch.ones(count, device=kind)
    best, until = 0.0, time.perf_counter() + BUDGET
    while True:
        start = time.perf_counter()
        buffer.sum()
        _wait(kind)
        end = time.perf_counter()
        best = max(best, 4 * count / (end - start))
        if end >= until:
            return best


def _wait(kind: str) -> None:
    import torch

    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()


def _cache_path(key: Mapping[str, Any]) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return Path(root) / "plait" / f"device-{digest}.json"


def _read_cache(path: Path) -> Machine | None:
    """What was measured before; None when absent, unreadable or damaged: then it is measured again."""
    try:
        return Machine.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _write_cache(path: Path, machine: Machine) -> None:
    """Atomically, so that runs starting together never read half a file; without a cache all still works."""
    with suppress(OSError, PlaitError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, machine.model_dump_json(indent=2))
