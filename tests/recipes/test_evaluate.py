"""`evaluate` and `score` on files, as a user sees them."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch

from plait.checkpoint.directory import load
from plait.errors import ConfigError, InputError
from plait.recipes.evaluate import evaluate
from plait.recipes.score import score


@pytest.fixture
def held_out(tmp_path):
    path = tmp_path / "held-out.jsonl"
    rows = [
        "To be or not to be. " * 10,
        "春眠不觉晓,处处闻啼鸟。",
        "a",
    ]  # 200, 34 and 1 bytes, one byte a token
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scores_are_printed_kept_and_say_how_they_were_made(tiny_model, held_out, tmp_path, capsys):
    out = tmp_path / "scores.json"
    scores = evaluate(tiny_model, data=held_out, out=out, stride=20)
    shown = capsys.readouterr()
    assert "bits_per_byte" in shown.out
    assert "3 documents" in shown.out
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["model"] == str(tiny_model)
    by_metric = {entry["metric"]: entry for entry in content["results"]}
    assert set(by_metric) == {"perplexity", "bits_per_byte", "nats_per_token"}
    entry = by_metric["perplexity"]
    assert entry["value"] == pytest.approx(math.exp(by_metric["nats_per_token"]["value"]))
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
    assert (entry["n"], entry["counts"]) == (3, {"documents": 3, "tokens": 238, "bytes": 235})
    digest = hashlib.sha256(held_out.read_bytes()).hexdigest()
    assert entry["data"] == [{"path": str(held_out), "sha256": digest}]
    assert "context:96|stride:20|limit:none|ends:scored|interval:95% over documents|" in entry["signature"]
    again = evaluate(tiny_model, data=[held_out], stride=20, batch=1)
    assert [a.value for a in again] == pytest.approx([s.value for s in scores], rel=1e-6)


def test_json_output_and_limit(tiny_model, held_out, capsys):
    evaluate(tiny_model, task=["perplexity"], data=held_out, limit=1, as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["results"][0]["counts"]["documents"] == 1
    assert "limit:1|" in content["results"][0]["signature"]
    assert "over windows" in content["results"][0]["signature"]


def test_bad_requests_are_one_line(tiny_model, held_out, tmp_path):
    with pytest.raises(ConfigError, match="task 'perplexty' is unknown; did you mean 'perplexity'"):
        evaluate(tiny_model, task="perplexty", data=held_out)
    with pytest.raises(InputError, match="nothing to score; name files that the model"):
        evaluate(tiny_model)
    with pytest.raises(ConfigError, match="limit=0 must be at least 1 document"):
        evaluate(tiny_model, data=held_out, limit=0)
    with pytest.raises(ConfigError, match="stride=97 must be between 1 and the context of 96"):
        evaluate(tiny_model, data=held_out, stride=97)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"source": "a", "target": "b"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="holds source, target; perplexity needs running text"):
        evaluate(tiny_model, data=pairs)


def test_a_score_shows_every_token_and_the_whole(tiny_model, capsys):
    text = "a [/b]\n春"
    result = score(tiny_model, text, top=1)
    out = capsys.readouterr().out
    for part in (
        "tiny-bytes",
        "▁",
        "[",
        "\\n",
        "<0xE6>",
        "most probable",
        f"{result.total:.4f} nats over 10 tokens",
    ):
        assert part in out
    model, tokenizer = load(tiny_model)
    row = torch.tensor([[0, *tokenizer.encode_plain(text)]])
    with torch.no_grad():
        logprobs = model(row)[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None])
    assert result.total == pytest.approx(float(logprobs.sum()), rel=1e-5)
    score(tiny_model, text, as_json=True)
    assert json.loads(capsys.readouterr().out)["log_probability"] == pytest.approx(result.total)
