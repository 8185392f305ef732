"""`generate` on the terminal, and from file to file with kills in between."""

from __future__ import annotations

import io
import json
import re

import pytest

from plait.errors import ConfigError, InputError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.recipes.generate import generate

GREEDY = {"temperature": 0, "max_tokens": 5, "ignore_eos": True}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "one", "id": "mine", "note": [1, "é"]},
        {"messages": [{"role": "user", "content": "two"}]},
        {"text": "床前"},
        {"prompt": "four"},
        {"prompt": "five"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_is_continued_on_standard_output(tiny_model, capsys):
    generate(tiny_model, "abc", sampling=GREEDY)
    expected = Engine(tiny_model).generate("abc", SamplingParams(**GREEDY))[0].text
    assert capsys.readouterr().out == expected + "\n"
    generate(tiny_model, "abc", sampling={"n": 2, "seed": 1, "max_tokens": 3, "ignore_eos": True})
    assert "--- 2 of 2 ---\n" in capsys.readouterr().out
    generate(tiny_model, "abc", sampling=GREEDY, as_json=True)
    made = json.loads(capsys.readouterr().out)
    assert (made["prompt"], made["completion"], made["finish_reason"]) == ("abc", expected, "length")


def test_without_max_tokens_the_answer_takes_what_the_context_leaves(tiny_model, capsys):
    generate(tiny_model, "a" * 90, sampling={"temperature": 0, "ignore_eos": True}, as_json=True)
    assert json.loads(capsys.readouterr().out)["completion_tokens"] == 6


def test_a_file_of_prompts_becomes_a_file_of_completions(tiny_model, prompts, tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    generate(tiny_model, input=prompts, output=out, sampling=GREEDY, batch=2)
    made = lines(out)
    engine = Engine(tiny_model)
    chat = engine.tokenizer.encode_chat([{"role": "user", "content": "two"}], add_generation_prompt=True)[0]
    expected = engine.generate(["one", chat, "床前", "four", "five"], SamplingParams(**GREEDY))
    assert [row["completion"] for row in made] == [done.text for done in expected]
    assert made[0]["id"] == "mine"
    assert made[1]["id"] == f"{prompts}#2"
    assert made[2]["prompt"] == "床前"
    (made_with,) = {row["made_with"] for row in made}
    pattern = r"model:tiny-bytes@[0-9a-f]{8}\|dtype:float32\|greedy\|max_tokens:5\|ignore_eos:True"
    assert re.fullmatch(pattern, made_with)


@pytest.mark.parametrize("n", [1, 2])
def test_a_killed_run_goes_on_where_it_was(tiny_model, prompts, tmp_path, monkeypatch, n):
    sampling = GREEDY | {"n": n, "temperature": 1, "seed": 4}
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    generate(tiny_model, input=prompts, output=whole, sampling=sampling)
    data = whole.read_bytes()
    made = []
    run = Engine.generate
    monkeypatch.setattr(
        Engine, "generate", lambda self, rows, *a, **k: made.append(len(rows)) or run(self, rows, *a, **k)
    )
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for cut in (0, 10, ends[0], ends[0] + 7, ends[2 * n - 1] + 1, ends[-2], len(data) - 1, len(data)):
        killed.write_bytes(data[:cut])
        made.clear()
        generate(tiny_model, input=prompts, output=killed, sampling=sampling, batch=3)
        assert killed.read_bytes() == data
        done = sum(end <= cut for end in ends) // n
        assert sum(made) == 5 - (
            done if done == 5 else done - done % (3 // n)
        )  # as many are written together


def test_an_output_made_otherwise_is_left_alone(tiny_model, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    generate(tiny_model, input=prompts, output=out, sampling=GREEDY)
    data = out.read_bytes()

    def refused(message: str, input=prompts, **settings) -> None:
        with pytest.raises(InputError, match=message):
            generate(tiny_model, input=input, output=out, sampling=GREEDY | settings)

    refused(
        "out.jsonl:1 was made with .*greedy.*, not .*temperature:0.5.*; name another --output",
        temperature=0.5,
    )
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_text('{"prompt": "one"}\n', encoding="utf-8")
    refused("out.jsonl holds 5 lines for 1 completions", input=shorter)
    other = tmp_path / "other.txt"
    other.write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    refused("out.jsonl:1 is the completion of another prompt", input=other)
    assert out.read_bytes() == data
    out.write_text("my notes\n", encoding="utf-8")
    refused("out.jsonl:1 is not a line that plait wrote")
    assert out.read_text(encoding="utf-8") == "my notes\n"


def test_mistakes_in_the_input_are_found_before_any_work(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "prefill", lambda *_: pytest.fail("no work before all lines are checked"))
    path = tmp_path / "in.jsonl"

    def refused(line: str, message: str, sampling=GREEDY) -> None:
        path.write_text('{"prompt": "good"}\n' + line + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=message):
            generate(tiny_model, input=path, output=tmp_path / "o", sampling=sampling)
        assert not (tmp_path / "o").exists()

    refused(
        json.dumps({"prompt": "x" * 95}), r"in.jsonl#2: prompt \(95 tokens\) \+ max_tokens \(5\) is more than"
    )
    refused(json.dumps({"prompt": "x" * 96}), "in.jsonl#2: .*shorten the prompt", {})
    refused(
        '{"source": "a", "target": "b"}',
        "in.jsonl#2.*holds source, target; .* needs prompt, messages or text",
    )
    refused('{"prompt": ', "in.jsonl:2")
    refused('{"prompt": ""}', "in.jsonl:2: empty text; mend or remove this prompt")
    with pytest.raises(InputError, match="give either a prompt or --input FILE"):
        generate(tiny_model)
    with pytest.raises(InputError, match="--output keeps the completions of --input FILE"):
        generate(tiny_model, "a", output="b")
    with pytest.raises(ConfigError, match="sampling: unknown key 'temprature'; did you mean 'temperature'"):
        generate(tiny_model, "a", sampling={"temprature": 1})
    with pytest.raises(ConfigError, match="batch=0 must be at least 1"):
        generate(tiny_model, "a", batch=0)


def test_standard_input_is_lines_or_json(tiny_model, monkeypatch, capsys):
    for given, asked in ((b"eins\nzwei\n", ["eins", "zwei"]), (b'{"prompt": "drei"}\n', ["drei"])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(given))))
        generate(tiny_model, input="-", sampling=GREEDY)
        made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["prompt"] for row in made] == asked
