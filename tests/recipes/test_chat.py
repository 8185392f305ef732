"""`chat` on the terminal and through a pipe, and what it remembers."""

from __future__ import annotations

import io

import pytest

from plait.errors import ConfigError, InputError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.recipes.chat import chat
from plait.tasks.conversation import fit_history, prompt_of

GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}


def talk(monkeypatch, model, text: str, **options) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    chat(model, **({"sampling": GREEDY} | options))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The conversations the model was given, as text."""
    seen, stream = [], Engine.stream

    def recorded(self, prompts, params, **options):
        seen.append(self.tokenizer.decode(prompts[0]))
        return stream(self, prompts, params, **options)

    monkeypatch.setattr(Engine, "stream", recorded)
    return seen


def test_a_conversation_through_a_pipe_is_remembered(tiny_model, monkeypatch, asked, capsys):
    talk(monkeypatch, tiny_model, "hi\n\n你好\n", system="Be brief.")
    first, second = capsys.readouterr().out.split("\n")[:2]
    start = "<|system|>Be brief.<|end|><|user|>hi<|end|><|assistant|>"
    assert asked == [start, f"{start}{first}<|end|><|user|>你好<|end|><|assistant|>"]
    assert second


def test_commands(tiny_model, monkeypatch, asked, capsys):
    talk(monkeypatch, tiny_model, "/help\none\n/reset\n//two\n/rset\n/quit\nthree\n")
    assert asked == ["<|user|>one<|end|><|assistant|>", "<|user|>/two<|end|><|assistant|>"]
    shown = capsys.readouterr().err
    assert "/reset  forget the conversation" in shown
    assert "/rset is not a command; did you mean '/reset'?" in shown


def test_the_oldest_turns_are_forgotten_aloud(tiny_model, monkeypatch, asked, capsys):
    talk(monkeypatch, tiny_model, "a" * 60 + "\n" + "b" * 60 + "\n")
    assert asked[1] == "<|user|>" + "b" * 60 + "<|end|><|assistant|>"
    assert "the context of 96 tokens is full: the oldest turns are forgotten" in capsys.readouterr().err


def test_a_message_that_does_not_fit_leaves_the_conversation_as_it_was(
    tiny_model, monkeypatch, asked, capsys
):
    talk(monkeypatch, tiny_model, "one\n" + "x" * 200 + "\n\udcff\ntwo\n")
    assert len(asked) == 2
    assert asked[1].startswith("<|user|>one")
    shown = capsys.readouterr().err
    assert "the message takes 203 tokens, more than the 95 there is room for; shorten it" in shown
    assert "surrogate" in shown


def test_ctrl_c_stops_the_answer_and_then_the_chat(tiny_model, monkeypatch, capsys):
    lines = iter(["one", "two"])
    decode, calls = Engine.decode, []

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    def interrupted(self, tokens, cache):
        calls.append(tokens)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, tokens, cache)

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(Engine, "decode", interrupted)
    chat(tiny_model, sampling=GREEDY)
    out = capsys.readouterr().out
    assert " [stopped]\n" in out
    assert len(calls) == 2 + 3


def test_settings_are_checked_first(tiny_model):
    with pytest.raises(ConfigError, match="sampling: top_p=2 is not valid"):
        chat(tiny_model, sampling={"top_p": 2})


def test_input_that_is_no_utf8_is_an_error(tiny_model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(InputError, match="standard input is not UTF-8"):
        chat(tiny_model, sampling=GREEDY)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_history_is_trimmed_by_whole_turns():
    def size(messages) -> int:
        return sum(len(m["content"]) for m in messages)

    system = message("system", "sss")
    first = [message("user", "u" * 5), message("assistant", "a" * 5)]
    second = [message("user", "v" * 4), message("assistant", "b" * 4)]
    last = [message("user", "w" * 2)]
    whole = [system, *first, *second, *last]
    assert fit_history(whole, size, 23) == whole
    assert fit_history(whole, size, 22) == [system, *second, *last]
    assert fit_history(whole, size, 12) == [system, *last]
    assert fit_history([*first, *last], size, 5) == last
    later = [*first, system, *last]  # what is said in between stays there
    assert fit_history(later, size, 15) == later
    assert fit_history(later, size, 14) == [system, *last]
    many, sizes = [message("user", "w")] * 1000, []
    assert len(fit_history(many, lambda some: sizes.append(0) or size(some), 30)) < 1000
    assert len(sizes) < 30  # and not one for each that is forgotten
    with pytest.raises(PromptError, match="the message takes 5 tokens, more than the 4 there is room for"):
        fit_history(whole, size, 4)
    assert fit_history(whole, size, 4, most=5) == [system, *last]


def test_a_quarter_of_the_context_is_left_for_an_answer_or_a_token_beside_a_long_message(tiny_model):
    engine = Engine(tiny_model)

    def shown(most: int | None, *sizes: int) -> list[int]:
        said = [message("user", "x" * size) for size in sizes]
        return [len(one["content"]) for one in prompt_of(engine, said, SamplingParams(max_tokens=most))[0]]

    assert engine.context == 96
    around = len(prompt_of(engine, [message("user", "")], SamplingParams())[1])
    last = engine.context - 24 - around
    assert shown(None, last) == [last]
    assert shown(None, 1, last) == [last]
    assert shown(None, 10, 20, 20) == [10, 20, 20]
    assert shown(48, 10, 20, 20) == [20, 20]
    assert shown(4, 1, last) == [1, last]
    assert shown(None, 1, engine.context - 1 - around) == [engine.context - 1 - around]
    with pytest.raises(PromptError, match="takes 96 tokens, more than the 95 there is room for"):
        shown(1, engine.context - around)
