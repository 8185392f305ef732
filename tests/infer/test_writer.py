"""Streams show whole characters only, never a part of a stop string, and add up to the completion."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from plait.infer.params import SamplingParams, TokenLogprob
from plait.infer.writer import Writer, find_stop, held_back

END = 0


def ids(text: str | bytes) -> list[int]:
    return [5 + byte for byte in (text.encode() if isinstance(text, str) else text)]


def written(engine, stop=(), max_tokens=200, **fields):
    params = SamplingParams(temperature=0, max_tokens=max_tokens, stop=stop, **fields)
    deltas = [delta for step in engine.stream([[9]], params) for delta in step]
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    return deltas


def make(engine_of, text: str | bytes, stop=(), max_tokens=None):
    script = [*ids(text), END]
    engine = engine_of(script)
    engine.context = 10_000
    return written(engine, stop, max_tokens or len(script))


def test_the_end_token_is_not_part_of_the_answer(scripted):
    deltas = make(scripted, "hi")
    assert [delta.text for delta in deltas] == ["h", "i", ""]
    assert deltas[-1].finish_reason == "stop"
    assert [token.id for delta in deltas for token in delta.tokens] == ids("hi")


def test_the_end_token_can_be_ignored(scripted):
    deltas = written(scripted([*ids("a"), END, *ids("b")]), max_tokens=3, ignore_eos=True)
    assert "".join(delta.text for delta in deltas) == "ab"
    assert [token.id for delta in deltas for token in delta.tokens] == [*ids("a"), END, *ids("b")]
    assert deltas[-1].finish_reason == "length"


def test_a_stop_string_over_several_tokens_is_never_shown(scripted):
    deltas = make(scripted, "one\n\nUser: two", stop=("\n\nUser:",))
    assert "".join(delta.text for delta in deltas) == "one"
    assert all("\n" not in delta.text for delta in deltas)
    assert [token.id for delta in deltas for token in delta.tokens] == ids("one")
    assert deltas[-1].finish_reason == "stop"


def test_what_was_held_back_is_shown_when_it_is_no_stop_string(scripted):
    deltas = make(scripted, "a\n\nUse it", stop=("\n\nUser:",))
    assert "".join(delta.text for delta in deltas) == "a\n\nUse it"
    assert "\n\nUse " in [delta.text for delta in deltas]
    for delta in deltas:
        assert b"".join(token.bytes for token in delta.tokens).decode() == delta.text


def test_what_was_held_back_is_shown_when_the_answer_ends(scripted):
    for deltas, reason in (
        (make(scripted, "ab<", stop=("<end>",)), "stop"),
        (make(scripted, "ab<", stop=("<end>",), max_tokens=3), "length"),
    ):
        assert "".join(delta.text for delta in deltas) == "ab<"
        assert [token.id for delta in deltas for token in delta.tokens] == ids("ab<")
        assert deltas[-1].finish_reason == reason


def test_a_stop_string_completed_by_the_last_token_allowed_counts_as_stop(scripted):
    deltas = make(scripted, "ab.", stop=(".",), max_tokens=3)
    assert ("".join(delta.text for delta in deltas), deltas[-1].finish_reason) == ("ab", "stop")


def test_the_earliest_stop_string_wins(scripted):
    assert "".join(delta.text for delta in make(scripted, "x--y==", stop=("==", "--"))) == "x"


def test_characters_of_several_tokens_come_whole(scripted):
    deltas = make(scripted, "春🙂")
    assert [delta.text for delta in deltas] == ["春", "🙂", ""]
    assert [len(delta.tokens) for delta in deltas] == [3, 4, 0]
    assert "".join(delta.text for delta in make(scripted, "春眠。不觉", stop=("。",))) == "春眠"


def test_bytes_that_are_no_character_become_a_replacement_mark(scripted):
    deltas = make(scripted, b"a\xe6\x98")
    assert "".join(delta.text for delta in deltas) == "a\ufffd"
    assert [token.id for delta in deltas for token in delta.tokens] == ids(b"a\xe6\x98")
    assert "".join(delta.text for delta in make(scripted, b"a\xe6b")) == "a\ufffdb"


def test_a_token_that_reaches_into_a_stop_string_stays_with_the_text_before_it():
    class Pieces:
        def push(self, token: int) -> str:
            return {1: "yes. E", 2: "ND"}[token]

        def flush(self) -> str:
            return ""

    writer = Writer(Pieces(), ["END"])
    first, second = (TokenLogprob(number, "", b"") for number in (1, 2))
    assert writer.push(first) == ("yes. ", [])
    assert writer.push(second) == ("", [first])
    assert writer.stopped


@settings(max_examples=120, deadline=None)
@given(st.text("ab🙂", max_size=12), st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3))
def test_streaming_equals_cutting_the_whole_text(scripted_text, stops):
    class Bytes:
        def __init__(self) -> None:
            self.data = b""

        def push(self, token: int) -> str:
            self.data += bytes([token])
            try:
                text = self.data.decode()
            except UnicodeDecodeError:
                return ""
            self.data = b""
            return text

        def flush(self) -> str:
            return ""

    writer, text, tokens = Writer(Bytes(), stops), "", []
    expected, stopped = scripted_text, False
    for size in range(len(scripted_text) + 1):  # character by character: the first stop to be complete wins
        at = find_stop(scripted_text[:size], stops)
        if at >= 0:
            expected, stopped = scripted_text[:at], True
            break
    for byte in scripted_text.encode():
        added, new = writer.push(TokenLogprob(byte, "", bytes([byte])))
        text, tokens = text + added, tokens + new
        assert expected.startswith(text)
        if writer.stopped:
            break
    else:
        added, new = writer.finish()
        text, tokens = text + added, tokens + new
    assert (text, writer.stopped) == (expected, stopped)
    assert b"".join(token.bytes for token in tokens).decode() == text


def test_held_back_is_the_longest_possible_beginning():
    assert held_back("xab", ["abc", "b!"]) == 2
    assert held_back("abc", ["abc"]) == 0
    assert held_back("", ["abc"]) == 0
    assert held_back("abab", ["ababc"]) == 4
    assert held_back("x", []) == 0
