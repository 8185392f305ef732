"""From a folder of text to a model that others open: every verb after the other, in Chinese too."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import plait as package
from plait.checkpoint.resolve import newest


@pytest.fixture(scope="module")
def poems(plait, shared_data, tmp_path_factory) -> Path:
    """A folder with the Tang poems cleaned, and a small model of them trained as the shipped recipe says."""
    folder = tmp_path_factory.mktemp("tang")
    source = shared_data / "tang-poems" / "tang.0-9999.jsonl.gz"
    plait.works("prepare", source, "--field", "text=paragraphs", "--out", "clean", cwd=folder)
    sizes = ["model.width=64", "model.layers=2", "model.heads=4", "train.epochs=null", "train.steps=150"]
    settings = ["train.batch_size=8", "train.eval_rows=64", "train.threads=1", "train.dtype=float32"]
    words = ["data.text=clean", "out=run", "seed=3", *sizes, *settings, "model.context=64"]
    plait.works("train", "tang-poems", *words, cwd=folder)
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_the_data_report_counts_what_came_and_went(poems):
    report = json.loads((poems / "clean" / "report.json").read_text(encoding="utf-8"))
    read, kept = report["read"]["documents"], report["kept"]["documents"]
    dropped = sum(reason["documents"] for reason in report["dropped"].values())
    assert read == kept + dropped
    assert kept > 9000
    assert report["languages"]["zh"] > 0.95 * kept
    reasons = [row["reason"] for row in rows_of(poems / "clean" / "dropped.jsonl")]
    assert len(reasons) == dropped
    assert all(reason["examples"] for reason in report["dropped"].values())
    assert len(rows_of(poems / "clean" / "documents.jsonl")) == kept


def test_samples_are_whole_characters_and_held_out_text_is_measured(poems):
    rows = rows_of(poems / "run" / "log.jsonl")
    samples = [sample for row in rows for sample in row.get("samples", ())]
    assert samples
    assert not any("\ufffd" in sample for sample in samples)
    last = rows[-1]
    written = "".join(sample.removeprefix(prompt) for sample, prompt in zip(last["samples"], ("春", "明月")))
    han = [character for character in written if "\u4e00" <= character <= "\u9fff"]
    assert len(han) > 0.7 * len(written.replace("\n", "")) > 20
    measured = [row["val_bits_per_byte"] for row in rows if "val_bits_per_byte" in row]
    assert measured[-1] < measured[0]
    assert measured[-1] < 3.6  # a uniform choice among these characters takes over 4 bits a byte
    page = (poems / "run" / "report.html").read_text(encoding="utf-8")
    assert samples[-1].split("\n")[0] in page
    assert "model" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_perplexity_and_score_agree_with_the_log(poems, plait):
    text = "春眠不觉晓，处处闻啼鸟。\n"
    (poems / "one.txt").write_text(text, encoding="utf-8")
    plait.works("evaluate", "run", "--data", "one.txt", "--out", "scores.json", cwd=poems)
    results = json.loads((poems / "scores.json").read_text(encoding="utf-8"))["results"]
    scored = json.loads(plait.works("score", "run", text, "--json", cwd=poems))
    by_metric = {score["metric"]: score for score in results}
    assert by_metric["bits_per_byte"]["counts"]["bytes"] == scored["bytes"] == len(text.encode())
    end = by_metric["bits_per_byte"]["value"] - scored["bits_per_byte"]
    assert end > 0  # evaluate counts the document's end too
    total = sum(token["logprob"] for token in scored["tokens"])
    assert total == pytest.approx(scored["log_probability"], abs=1e-4)


def mixed_strings(count: int) -> list[str]:
    draw = random.Random(0)
    parts = [
        "the quick fox",
        " jumps ",
        "over!",
        "春眠不觉晓，",
        "「處處」",
        "👩🏽‍🚀",
        "🎋",
        "\n",
        "  ",
        "x = 3;",
        "é",
        "\t",
    ]
    return ["".join(draw.choices(parts, k=draw.randrange(1, 9))) for _ in range(count)]


def test_transformers_opens_what_was_trained(poems):
    transformers = pytest.importorskip("transformers")
    path = newest(poems / "run")
    assert path is not None
    model, tokenizer = package.load(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    strings = mixed_strings(10_000)
    assert tokenizer.encode_batch(strings) == their_tokenizer(strings, add_special_tokens=False)["input_ids"]
    assert all(tokenizer.decode(tokenizer.encode_plain(text)) == text for text in strings[:1000])

    ids = torch.tensor([tokenizer.encode_plain("春眠不觉晓，处处闻啼鸟。夜来风雨声")])
    with torch.inference_mode():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-4
    prompt = ids[:, :8]
    greedy = theirs.generate(prompt, do_sample=False, max_new_tokens=24, eos_token_id=None)[0, 8:].tolist()
    engine = package.Engine(model, tokenizer)
    (ours,) = engine.generate(
        [prompt[0].tolist()], package.SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    )
    assert ours.tokens == greedy


def test_a_file_of_prompts_becomes_a_file_of_answers_resumably(poems, plait):
    prompts = [{"prompt": prompt} for prompt in ("春", "夏", "秋", "冬", "明月")]
    (poems / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    words = [
        "generate",
        "run",
        "--input",
        "prompts.jsonl",
        "--seed",
        "1",
        "--max-tokens",
        "8",
        "--batch",
        "1",
    ]
    plait.works(*words, "--output", "whole.jsonl", cwd=poems)
    whole = (poems / "whole.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["prompt"] for line in whole.splitlines()] == [row["prompt"] for row in prompts]
    cut = whole[: len(whole) // 2]  # as a kill leaves it, in the middle of a line
    (poems / "part.jsonl").write_text(cut, encoding="utf-8")
    plait.works(*words, "--output", "part.jsonl", cwd=poems)
    assert (poems / "part.jsonl").read_text(encoding="utf-8") == whole


def test_standard_input_is_a_minus(poems, plait):
    text = "春眠不觉晓，处处闻啼鸟。\n"
    plait.works("prepare", "-", "--out", "one", cwd=poems, stdin=text)
    assert rows_of(poems / "one" / "documents.jsonl")[0]["text"] == text.strip()
    plait.works("tokenizer", "-", "--kind", "char", "--out", "tok", cwd=poems, stdin=text)
    assert len(plait.works("tokenize", "tok", "-", cwd=poems, stdin=text).split()) >= len(text.strip())
    scored = plait.works("evaluate", "run", "--data", "-", "--json", cwd=poems, stdin=text)
    assert json.loads(scored)["results"][0]["counts"]["bytes"] == len(text.encode())
    asked = plait.works("generate", "run", "--input", "-", "--max-tokens", "3", cwd=poems, stdin="春\n秋\n")
    assert [json.loads(line)["prompt"] for line in asked.splitlines()] == ["春", "秋"]
    small = [
        "tokenizer.kind=char",
        "model.context=8",
        "train.steps=1",
        "data.validation=0",
        "train.epochs=null",
    ]
    plait.works("train", "tang-poems", "data.text=-", "out=piped", *small, cwd=poems, stdin=text * 9)
