"""`plait score`: how probable a model finds a text, in all and token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from plait import log
from plait.errors import ConfigError

if TYPE_CHECKING:
    from plait.eval.text import TextScore


def score(
    model: str | Path,
    text: str,
    *,
    top: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    as_json: bool = False,
) -> TextScore:
    """Print and return the log-probability of `text` as the beginning of a document.

    Args:
        model: a model, step or run directory.
        text: of any length.
        top: the most probable alternatives to show at each place.
        as_json: print one JSON object in place of a table.

    Raises:
        InputError: an empty text.
        ModelError: the model cannot be loaded.
    """
    if top < 0:
        raise ConfigError(f"--top={top} must be at least 0")

    from plait.eval.text import score_text
    from plait.infer.engine import Engine
    from plait.text.stream import visible

    engine = Engine(model, device=device, dtype=dtype)
    result = score_text(engine, text, top)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
        return result
    rows = []
    for token in result.tokens:
        row = [visible(token.bytes), "", ""]
        if token.logprob is not None:
            row[1:] = f"{token.logprob:.4f}", f"{math.exp(token.logprob):.2%}"
        if top:
            best = (f"{visible(raw)} {math.exp(value):.2%}" for _, _, raw, value in token.top)
            row.append("  ".join(best))
        rows.append(row)
    columns = ["token", "log-probability", "probability", *(["most probable"] if top else [])]
    log.table(engine.name, columns, rows, stdout=True)
    print(
        f"log-probability {result.total:.4f} nats over {len(result.logprobs)} tokens, {result.bytes} bytes; "
        f"perplexity {result.perplexity:.3f}, {result.bits_per_byte:.4f} bits per byte"
    )
    return result
