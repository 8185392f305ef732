"""RoPE settings of config.json ↔ `ModelConfig`: `rope_parameters` (transformers 5) and the older
`rope_theta` with `rope_scaling`, both written, either read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from plait.checkpoint.families_fields import refuse
from plait.nn.config import ModelConfig

KINDS = ("linear", "yarn", "llama3")


def scaled_theta(config: ModelConfig) -> float:
    """The base that NTK-aware scaling amounts to (bloc97 2023): `theta · factor^(d / (d - 2))`."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "ntk":
        return config.rope_theta
    return config.rope_theta * scaling.factor ** (config.head_dim / (config.head_dim - 2))


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and `rope_parameters`: each version reads the ones it knows."""
    theta, scaling = scaled_theta(config), config.rope_scaling
    if scaling is None or scaling.kind == "ntk":  # NTK scaling is nothing but a larger base
        default = {"rope_type": "default", "rope_theta": theta}
        return {"rope_theta": theta, "rope_scaling": None, "rope_parameters": default}
    settings: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        settings["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "yarn":
        settings |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    if scaling.kind == "llama3":
        bounds = {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        settings |= bounds
    return {
        "rope_theta": theta,
        "rope_scaling": settings,
        "rope_parameters": settings | {"rope_theta": theta},
    }


def read_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `rope_theta` and `rope_scaling` of a foreign configuration.

    Raises:
        ModelError: for a kind of scaling, or a detail of one, that plait does not compute.
    """
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise refuse("rope_parameters", found, "a mapping")
    if any(isinstance(value, Mapping) for value in found.values()):
        raise refuse("rope_parameters", dict(found), "one setting for all layers")
    theta = found.get("rope_theta") or values.get("rope_theta") or 10_000.0
    kind = found.get("rope_type", found.get("type", "default"))
    partial = found.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise refuse("partial_rotary_factor", partial, "1.0")
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind not in KINDS:
        raise refuse("rope_type", kind, f"default, {', '.join(KINDS)}")
    context = values.get("max_position_embeddings", 2048)
    original = found.get("original_max_position_embeddings") or context
    fields: dict[str, Any] = {
        "kind": kind,
        "original_context": original,
        "factor": found.get("factor") or context / original,
    }
    names = ("beta_fast", "beta_slow") if kind == "yarn" else ("low_freq_factor", "high_freq_factor")
    fields |= {name: found[name] for name in names if found.get(name) is not None}
    if kind == "yarn":
        _check_yarn(found, fields["factor"])
    return {"rope_theta": theta, "rope_scaling": fields}


def _check_yarn(found: Mapping[str, Any], factor: float) -> None:
    usual = 0.1 * math.log(factor) + 1.0
    given = found.get("attention_factor")
    if given is not None and not math.isclose(given, usual, rel_tol=1e-6):
        raise refuse("attention_factor", given, f"{usual:.6g} (0.1 · ln(factor) + 1)")
    for field in ("mscale", "mscale_all_dim"):
        if found.get(field):
            raise refuse(field, found[field], "YaRN without it")
    if found.get("truncate", True) is not True:
        raise refuse("truncate", found["truncate"], "True")
