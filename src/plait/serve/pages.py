"""The page's files, read once from the package, and what the page tells about the model."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from plait.data.fim import fills_middles
from plait.log import warn

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
MAX_NOTE = 1 << 20  # bytes of a scores or suggestions file that are worth reading


class PageFile(NamedTuple):
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """All files of the page by name; a request can reach these and nothing else."""
    files = {}
    for entry in resources.files("plait.serve").joinpath("static").iterdir():
        kind = TYPES.get(Path(entry.name).suffix)
        if kind is not None:
            content = entry.read_bytes()
            files[entry.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return files


def model_facts(engine: Any, directories: list[Path]) -> dict[str, Any]:
    """What `/v1/models` tells beyond OpenAI's fields: size, context, kind, sampling, scores, example prompts.

    `directories`: where `scores.json` and `suggestions.json` may lie; the first that has one counts.
    """
    scores = read_note(directories, "scores.json")
    suggestions = read_note(directories, "suggestions.json")
    results = scores.get("results") if isinstance(scores, dict) else None
    return {
        "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
        "vocabulary": engine.tokenizer.vocab_size,
        "context": engine.context,
        "chat": bool(engine.tokenizer.chat_template),
        "encodes": engine.encodes,
        "labels": engine.labels,
        "middle": fills_middles(engine.tokenizer),
        "sampling": engine.recommended,
        "scores": [result for result in results or [] if isinstance(result, dict)],
        "suggestions": suggestions if isinstance(suggestions, list | dict) else [],
    }


def read_note(directories: list[Path], name: str) -> Any:
    """A JSON file from the first directory that has it; None, with a warning, where it cannot be read."""
    for path in (directory / name for directory in directories):
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > MAX_NOTE:
                raise ValueError(f"larger than {MAX_NOTE} bytes")
            value = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")  # can it be sent?
            return value
        except (OSError, ValueError) as error:
            warn(f"{path} is left out of the page: {error}")
            return None
    return None
