"""What a model's generation_config.json says of how it is best asked; damaged or missing it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plait.infer.params import SamplingParams, TokenRules

RECOMMENDED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
LEARNED, LABELS = "trained_on", "trained_labels"  # our fields


def recommended(directory: Path) -> dict[str, float]:
    """How a model's generation_config.json wants tokens chosen, as fields of `SamplingParams`.

    Empty where it says nothing, or nothing that can be done.
    """
    given = _generation_config(directory)
    asked = given.get("do_sample")
    if asked is False:
        return {"temperature": 0.0}
    fields = {name: given[name] for name in RECOMMENDED if given.get(name) is not None} if asked else {}
    try:
        SamplingParams(**fields)
    except ValidationError:
        return {}
    return fields


def token_rules(directory: Path, unlearned: frozenset[int]) -> TokenRules:
    """What a model's generation_config.json says of tokens, or its config.json where that file is missing.

    Args:
        unlearned: tokens that no target holds, which a model of plait does not write, whether it says so or
            not.
    """
    given = _json(directory / "generation_config.json") or _json(directory / "config.json")
    first, last = (_ids(given.get(f"forced_{end}_token_id")) for end in ("bos", "eos"))
    words = given.get("bad_words_ids")
    words = words if isinstance(words, list) else []
    alone = [word[0] for word in words if isinstance(word, list) and len(word) == 1]
    # as in transformers, a word that is ruled out does not keep an answer from its beginning and end
    ruled_out = _ids(alone) - first - last - _ids(given.get("eos_token_id"))
    suppressed = _ids(given.get("suppress_tokens", list(unlearned) if LEARNED in given else None))
    return TokenRules(never=ruled_out | suppressed, first=next(iter(first), None), last=last)


def _ids(value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(id for id in values if type(id) is int and id >= 0)  # a bool is no id


def learned_from(directory: Path) -> str | None:
    """What a model was last trained on, text, messages or pairs; None where its directory does not say."""
    kind = _generation_config(directory).get(LEARNED)
    return kind if isinstance(kind, str) else None


def labels_from(directory: Path) -> list[str]:
    """The labels a model was last trained to give; empty where its directory names none."""
    labels = _generation_config(directory).get(LABELS)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return []
    return labels


def _generation_config(directory: Path) -> dict[str, Any]:
    return _json(directory / "generation_config.json")


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}
