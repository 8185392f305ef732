"""`scores.json` holds the number, how sure it is, and how to make it again."""

from __future__ import annotations

import hashlib
import json
import math

from plait.eval.scores import Score, describe_data, signature, write_scores


def test_the_file_has_the_documented_form(tmp_path):
    held_out = tmp_path / "held out.txt"
    held_out.write_bytes(b"text")
    data = describe_data([held_out, held_out, "-"])
    score = Score("perplexity", "perplexity", 12.5, (11.0, 14.0), 3, signature(context=8, rate=0.5), data)
    unknown = Score("perplexity", "bits_per_byte", math.nan, None, 1, "", [], counts={"bytes": 0})
    out = tmp_path / "deep" / "scores.json"
    write_scores(out, "模型", [score, unknown])
    assert [path.name for path in out.parent.iterdir()] == ["scores.json"]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["model"] == "模型"
    assert content["results"][0] == {
        "task": "perplexity",
        "metric": "perplexity",
        "value": 12.5,
        "interval": [11.0, 14.0],
        "n": 3,
        "signature": "context:8|rate:0.5",
        "data": [
            {"path": str(held_out), "sha256": hashlib.sha256(b"text").hexdigest()},
            {"path": "-", "sha256": None},
        ],
        "decoding": None,
        "counts": {},
    }
    assert content["results"][1]["value"] is None
