"""Scores with their provenance, and the file that keeps them: `scores.json`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plait.errors import InputError
from plait.files import write_text

CHUNK = 1 << 20


@dataclass(frozen=True)
class Score:
    """One number and everything needed to make it again.

    Attributes:
        interval: the 95 % confidence interval, or None where it cannot be known.
        n: how many independent samples the value rests on.
        signature: every setting that changes the value, as `name:value` parts joined by `|`.
        data: `{path, sha256}` of each file; the digest is None for what is not a file.
        decoding: how answers were generated; None where nothing was.
        counts: what was counted on the way: tokens, bytes, documents.
    """

    task: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int
    signature: str
    data: list[dict[str, str | None]]
    decoding: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


def signature(**settings: Any) -> str:
    """`signature(context=8, stride=4)` → `"context:8|stride:4"`; floats with six digits."""
    return "|".join(
        f"{name}:{value:.6g}" if isinstance(value, float) else f"{name}:{value}"
        for name, value in settings.items()
    )


def describe_data(paths: Iterable[str | Path]) -> list[dict[str, str | None]]:
    """Each path once, in order, with the SHA-256 of its file."""
    return [{"path": path, "sha256": _sha256(Path(path))} for path in dict.fromkeys(map(str, paths))]


def scores_json(model: str, results: Sequence[Score]) -> str:
    """The text of `scores.json`; values that JSON has no number for become null."""
    content = {"model": model, "results": [_finite(asdict(score)) for score in results]}
    return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def check_replaceable(path: str | Path) -> None:
    """Refuse to write scores over anything but scores.

    Raises:
        InputError: something else is there.
    """
    path = Path(path)
    if not path.exists():
        return
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not (isinstance(value, dict) and {"model", "results"} <= value.keys()):
        raise InputError(f"{path} is there already and holds no scores; name another --out")


def write_scores(path: str | Path, model: str, results: Sequence[Score]) -> None:
    """Write `scores.json` atomically; its folder is made if need be. Raises as `check_replaceable` does."""
    check_replaceable(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, scores_json(model, results))


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
