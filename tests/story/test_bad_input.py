"""What users do wrong: each ends in one line that says what, where and how to mend it; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

SENTENCES = "".join(
    f"Line {n} of an ordinary text says {n * n * 7919:x} in plain words.\n" for n in range(400)
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with every kind of file that cannot be used."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"plain so far\n\x00\x01\x02\x03")
    (tmp_path / "gbk.txt").write_bytes("春眠不觉晓，处处闻啼鸟。\n".encode("gb18030") * 20)
    (tmp_path / "short.txt").write_text("Twelve chars", encoding="utf-8")
    (tmp_path / "plain.txt").write_text(SENTENCES, encoding="utf-8")
    (tmp_path / "broken.jsonl").write_text('{"text": "good"}\n{"text": "cut o', encoding="utf-8")
    (tmp_path / "columns.csv").write_text("titel,body\na,b\n", encoding="utf-8")
    return tmp_path


TEXTS = {
    "nowhere.txt": "'nowhere.txt' does not exist; check the path",
    "empty.txt": "empty.txt is empty; give a file with text in it",
    "blank.txt": "blank.txt is empty; give a file with text in it",
    "binary.txt": "binary.txt is a binary file (zero byte at offset 13), not text; give text files only",
    "gbk.txt": "gbk.txt is not UTF-8: bytes b4 ba c3 df at offset 0 (line 1); it looks like GB18030; "
    "convert it: iconv -f GB18030 -t UTF-8 FILE > NEW",
    "broken.jsonl": "broken.jsonl:2 is not valid JSON",
    "columns.csv": "columns.csv:2 has none of the fields plait reads",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_cannot_be_read(name, files, plait):
    before = sorted(files.iterdir())
    commands = [
        ["prepare", name, "--out", "clean"],
        ["tokenizer", name, "--vocab-size", "300", "--out", "tok"],
        ["train", "tiny", f"data.text={name}", "out=run"],
        ["quickstart", "--text", name, "--out", "quick", "--no-serve", "--minutes", "0.01"],
    ]
    for words in commands:
        message = plait.refuses(*words, cwd=files)
        assert TEXTS[name] in message, words
        # a run directory may stay behind, but nothing in it that would be taken for a result
        made = {path.name for path in files.iterdir()} - {path.name for path in before}
        assert made <= {"run", "quick"}
        assert not list(files.glob("run/checkpoints")) + list(files.glob("quick/text"))


def test_a_corpus_shorter_than_the_context(files, plait):
    words = ["train", "tiny", "data.text=short.txt", "data.validation=0", "tokenizer.kind=byte", "out=run"]
    message = plait.refuses(*words, "tokenizer.vocab_size=null", cwd=files)
    assert "13 tokens to train on, fewer than model.context=64; add text or lower model.context" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.widht=32", "unknown key 'model.widht'; did you mean 'width'?"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'?"),
        ("model.heads=5", "width=64 is not divisible by heads=5; use heads from [1, 2, 4, 8, 16]"),
        ("model.kv_heads=3", "heads=8 is not divisible by kv_heads=3; use kv_heads from [1, 2, 4, 8]"),
        ("model.layers=none", "model.layers='none' is not valid"),
        ("tokenizer.vocab_size=9000", "vocab_size=9000 is more than this text supports, which gives"),
        ("tokenizer=nowhere", "nowhere"),
        ("train.device=cuda:9", "train.device='cuda:9' is not valid"),
        ("layout.tp=3", "layout.tp=3 does not divide model.heads=8"),
    ],
)
def test_settings_that_cannot_be(change, message, files, plait):
    assert message in plait.refuses("train", "tiny", "data.text=plain.txt", "out=run", change, cwd=files)


def test_rows_that_do_not_divide(files, plait):
    words = ["train", "tiny", "data.text=plain.txt", "out=run", "tokenizer.vocab_size=300"]
    assert "micro_batch=5 does not divide the 16 rows" in plait.refuses(
        *words, "train.micro_batch=5", cwd=files
    )


def test_a_vocabulary_larger_than_the_text_supports(files, plait):
    message = plait.refuses("tokenizer", "plain.txt", "--vocab-size", "5000", "--out", "tok", cwd=files)
    assert message.startswith("vocab_size=5000 is more than this text supports, which gives ")
    possible = int(message.split("which gives ")[1].split(";")[0])
    plait.works("tokenizer", "plain.txt", "--vocab-size", possible, "--out", "tok", cwd=files)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[-5:]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damaged_shards_are_named_and_can_be_made_again(how, plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    plait.works("train", path, "train.stop_after=6")
    before = rows(run)
    damage(run / "data" / "text" / "tokens-00000.bin", how)
    message = plait.refuses("train", path, "--resume")
    assert f"{run}/data/text/tokens-00000.bin is {'truncated' if how == 'cut' else 'damaged'}" in message
    assert message.endswith("delete the data directory to have it encoded again")
    shutil.rmtree(run / "data")
    plait.works("train", path, "--resume", "train.stop_after=8")
    assert rows(run)[:6] == before
    assert len(rows(run)) == 8
    (tmp_path / "input.txt").write_text(SENTENCES, encoding="utf-8")
    shutil.rmtree(run / "data")
    changed = plait.refuses("train", path, "--resume")
    assert "the encoded data of text is not the data this run was trained on" in changed


@pytest.mark.parametrize("how", ["cut", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "state/optim.safetensors", "state/state.json"])
def test_a_damaged_checkpoint_is_named_with_the_last_good_one(how, name, plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    plait.works("train", path, "train.stop_after=8")
    damage(run / "checkpoints" / "step-000008" / name, how)
    good = f"the last good checkpoint is {run}/checkpoints/step-000004: delete {run}/checkpoints/step-000008"
    message = plait.refuses("train", path, "--resume")
    assert f"{run}/checkpoints/step-000008/{name} is " in message
    assert good in message
    if name == "model.safetensors":
        assert good in plait.refuses("generate", run, "Line ")
    shutil.rmtree(run / "checkpoints" / "step-000008")
    plait.works("train", path, "--resume", "train.stop_after=8")
    assert [row["step"] for row in rows(run)] == list(range(1, 9))


def test_a_full_disk_loses_nothing(plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    plait.works("train", path, "train.stop_after=4")
    size = (run / "checkpoints" / "step-000004" / "state" / "optim.safetensors").stat().st_size
    message = plait.refuses("train", path, "--resume", max_file=size - 1)
    assert message.startswith(f"no disk space for {run}/checkpoints/step-000008: ")
    assert message.endswith(f"the last good checkpoint is {run}/checkpoints/step-000004")
    plait.works("train", path, "--resume", "train.stop_after=8")
    assert [row["step"] for row in rows(run)] == list(range(1, 9))
    full = plait.refuses("prepare", "input.txt", "--out", "clean", cwd=tmp_path, max_file=1000)
    assert full.startswith("no disk space for clean: ")
    assert not (tmp_path / "clean").exists()


@pytest.fixture
def model(plait, recipe, tmp_path) -> Path:
    plait.works("train", recipe(train={"steps": 2}))
    return tmp_path / "run"


def test_a_prompt_longer_than_the_context(plait, model, tmp_path):
    long = "Line 1: the quick brown fox"
    refused = plait.refuses("generate", model, long)
    assert (
        refused
        == "prompt (27 tokens) + max_tokens (1) is more than the model's context of 16; shorten the prompt"
    )
    remedy = plait.refuses("generate", model, "Line", "--max-tokens", "20")
    assert "set max_tokens to at most 12" in remedy
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("Line", long)), encoding="utf-8"
    )
    out = tmp_path / "answers.jsonl"
    listed = plait.refuses("generate", model, "--input", tmp_path / "prompts.jsonl", "--output", out)
    assert listed.startswith(f"{tmp_path}/prompts.jsonl#2: prompt (27 tokens)")
    assert not out.exists()  # all prompts are looked at before the first is answered
    assert "continues text and has learned no conversation" in plait.refuses("chat", model)


def test_models_that_are_none(plait, model, tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for words, message in (
        ([tmp_path / "rum"], f"model '{tmp_path}/rum' does not exist; did you mean 'run'?"),
        ([tmp_path / "input.txt"], "input.txt is a file; give the model directory it lies in"),
        ([tmp_path / "pickled"], "pytorch_model.bin is a pickle, which can run code when opened"),
        ([f"{model}:newest"], "':newest' is not a choice of checkpoint"),
        ([f"{model}:average"], "holds no averaged weights; train with train.ema or train.average_last"),
    ):
        assert message in plait.refuses("generate", *words, "Line")


def test_a_port_in_use(plait, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        remedy = (
            f"port {port} on 127.0.0.1 is in use; choose another with --port, or --port 0 for any free one"
        )
        assert plait.refuses("serve", model, "--port", port) == remedy
        begun = plait.refuses("quickstart", "--port", port, "--out", "quick")
        assert begun == remedy
    assert not (plait.folder / "quick").exists()


def test_where_nothing_may_be_written(plait, files):
    target = "/proc/plait-cannot-write-here"
    for words in (
        ["prepare", "plain.txt", "--out", target],
        ["tokenizer", "plain.txt", "--vocab-size", "300", "--out", target],
        ["train", "tiny", "data.text=plain.txt", f"out={target}"],
        ["config", "copy", "tiny", f"{target}/tiny.yaml"],
    ):
        message = plait.refuses(*words, cwd=files)
        assert target in message
        assert os.strerror(errno.ENOENT).lower() in message


def test_nobody_s_folder_is_taken_for_a_run(plait, files):
    (files / "data").mkdir()
    (files / "data" / "text").write_text("mine", encoding="utf-8")
    words = ["train", "tiny", "data.text=plain.txt", "tokenizer.vocab_size=300", "train.steps=1"]
    message = plait.refuses(*words, "out=.", cwd=files)
    assert message.startswith(". holds something else (")
    assert message.endswith("); set `out` to a new directory")
    plait.works("prepare", "plain.txt", "--max-repetition", "1", "--out", "run/raw", cwd=files)
    assert "run holds something else (raw)" in plait.refuses(*words, "out=run", cwd=files)
    (files / "run" / ".lock").touch()  # as an attempt that was killed leaves it
    inside = plait.refuses(*words[:2], "data.text=run/raw", *words[3:], "out=run", cwd=files)
    assert inside.endswith("lies in out=run; set `out` to another directory")
    assert (files / "data" / "text").read_text(encoding="utf-8") == "mine"
    assert (files / "run" / "raw" / "documents.jsonl").is_file()


def test_nothing_but_results_is_written_over(plait, model, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Line"}\n', encoding="utf-8")
    precious = tmp_path / "precious.json"
    precious.write_text('{"my": "precious"}', encoding="utf-8")
    words = ["generate", model, "--input", tmp_path / "prompts.jsonl", "--max-tokens", "2"]
    assert "precious.json:1 is not a line that plait wrote" in plait.refuses(*words, "--output", precious)
    scoring = ["evaluate", model, "--data", tmp_path / "input.txt", "--out"]
    assert "holds no scores; name another --out" in plait.refuses(*scoring, precious)
    assert "holds no scores; name another --out" in plait.refuses(*scoring, tmp_path / "input.txt")
    assert precious.read_text(encoding="utf-8") == '{"my": "precious"}'
    plait.works(*scoring, tmp_path / "scores.json")
    plait.works(*scoring, tmp_path / "scores.json")


def test_answers_of_two_checkpoints_are_not_mixed(plait, recipe, tmp_path):
    path, run = recipe(train={"steps": 8}), tmp_path / "run"
    plait.works("train", path, "train.stop_after=4")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Line"}\n', encoding="utf-8")
    words = ["generate", run, "--input", tmp_path / "prompts.jsonl", "--output", tmp_path / "answers.jsonl"]
    plait.works(*words)
    plait.works(*words)
    plait.works("train", path, "--resume")
    assert "was made with model:run/step-000004@" in plait.refuses(*words)


def test_a_sample_that_does_not_fit_is_told_at_once(plait, recipe, rows, tmp_path):
    message = plait.refuses("train", recipe(train={"samples": ["Line 1: the quick brown fox"]}))
    assert message.startswith("train.samples: 'Line 1: the quick brown fox': prompt (27 tokens)")
    assert rows(tmp_path / "run") == []


def test_a_first_step_that_failed_can_be_mended(plait, recipe, rows, tmp_path):
    path = recipe(train={"steps": 3})
    plait.refuses("train", path, "train.lr=1e30", "train.clip=0", "train.save_every=9", "train.warmup=0")
    again = plait("train", path, "--resume")
    assert "as no step was saved, the run begins anew" in again.stderr
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3]


def test_a_run_without_a_checkpoint_is_called_one(plait, recipe, rows, tmp_path, wait_until):
    running = plait.start("train", recipe(train={"save_every": 30}))
    wait_until(lambda: rows(tmp_path / "run"), "the first step")
    running.kill()
    running.wait()
    assert "holds no complete checkpoint yet" in plait.refuses("generate", tmp_path / "run", "Line")


def test_a_wrong_path_does_not_claim_the_directory(plait, files):
    words = ["quickstart", "--out", "quick", "--no-serve", "--minutes", "0.001", "--text"]
    assert "'nothere' does not exist" in plait.refuses(*words, "nothere", cwd=files)
    assert "too few to teach a chat; give more text" in plait.refuses(*words, "short.txt", cwd=files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart", "my-folder"], "unexpected 'my-folder'; did you mean --text my-folder?"),
        (["evaluate", "m", "x.txt"], "unexpected 'x.txt'; did you mean --data x.txt?"),
        (["generate", "m", "- item"], "a text that begins with '-' goes to the end, after --"),
        (["train", "tiny", "--resum"], "unknown option '--resum'; did you mean '--resume'?"),
        (["train", "tiny", "train.lr=.inf"], "train.lr=inf is not valid: input should be a finite number"),
        (["train", "tiny", "train.betas=[2,3]"], "is not valid: input should be less than 1"),
        (["quickstart", "--minutes", "nan"], "minutes=nan must be more than 0, and finite"),
        (["serve", "m", "--queue", "-1"], "--queue=-1 must be at least 0"),
        (["score", "m", "x", "--top", "-1"], "--top=-1 must be at least 0"),
        (
            ["prepare", "plain.txt", "--out", "o", "--languages", "zh, english"],
            "'english' is not a language code",
        ),
        (["tokenizer", "--merges", "m", "--kind", "char", "--out", "o"], "--merges brings its own sizes"),
    ],
)
def test_words_that_are_out_of_place(words, message, plait, files):
    assert message in plait.refuses(*words, cwd=files)


def test_a_full_standard_output_is_said(plait):
    assert plait.refuses("config", "list", stdout=Path("/dev/full")).startswith(
        "standard output: no space left"
    )


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_device_is_one_that_is_there(device, plait, model):
    answer = plait("generate", model, "Line", "--device", device, "--max-tokens", "2")
    if answer.code:
        assert answer.refusal.startswith("device='cuda' is not available: ")
