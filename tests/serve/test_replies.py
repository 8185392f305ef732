"""Shapes of log-probabilities: spellings, offsets, and what JSON cannot hold."""

from __future__ import annotations

import math

from plait.infer.params import Delta, TokenLogprob
from plait.serve.replies import ChatReply, Offsets, TextReply, spelling


def token(content: bytes, logprob: float | None = -1.0, *others: tuple[bytes, float]) -> TokenLogprob:
    top = [(1, part.decode("utf-8", "replace"), part, value) for part, value in others]
    return TokenLogprob(0, content.decode("utf-8", "replace"), content, logprob, top)


def test_part_of_a_character_is_spelled_in_bytes():
    assert spelling("水".encode()) == "水"
    assert spelling("水".encode()[:2]) == "bytes:\\xe6\\xb0"


def test_offsets_count_characters_also_across_split_ones():
    water = "水".encode()
    offsets = Offsets()
    assert [offsets.next(part) for part in (b"ab", water[:1], water[1:], b"c", water, b"")] == [
        0,
        2,
        2,
        3,
        4,
        5,
    ]


def test_the_chosen_token_is_always_among_the_alternatives_and_infinity_is_written_as_openai_does():
    reply = TextReply("m", logprobs=1, echo=None, prompt_tokens=3, count=1)
    reply.take(Delta(0, "a", [token(b"a", -2.0, (b"b", -0.5))], None))
    reply.take(Delta(0, "c", [token(b"c", -math.inf, (b"b", -0.1))], "length"))
    whole = reply.whole()
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["a", "c"],
        "token_logprobs": [-2.0, -9999.0],
        "top_logprobs": [{"b": -0.5, "a": -2.0}, {"b": -0.1, "c": -9999.0}],
        "text_offset": [0, 1],
    }
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_streamed_offsets_go_on_where_the_last_chunk_ended():
    reply = TextReply("m", logprobs=0, echo=["ab"], prompt_tokens=1, count=1)
    opening = list(reply.opening([[token(b"ab", None)]]))
    chunk = reply.chunk(Delta(0, "c", [token(b"c")], "stop"))
    assert opening[0]["choices"][0]["logprobs"]["token_logprobs"] == [None]
    assert opening[0]["choices"][0]["text"] == "ab"
    assert chunk is not None
    assert chunk["choices"][0]["logprobs"]["text_offset"] == [2]
    assert chunk["choices"][0]["logprobs"]["top_logprobs"] is None


def test_chunks_without_anything_to_tell_are_left_out():
    reply = ChatReply("m", logprobs=False, prompt_tokens=1, count=1)
    assert reply.chunk(Delta(0, "", [token(b"<")], None)) is None
    end = reply.chunk(Delta(0, "", [], "stop"))
    assert end is not None
    assert end["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


def test_answers_belong_to_prompts_in_order():
    reply = TextReply("m", logprobs=None, echo=["one", "two"], prompt_tokens=2, count=4)
    assert [chunk["choices"][0]["text"] for chunk in reply.opening(None)] == ["one", "one", "two", "two"]
