"""Bodies of requests: bounds, neutral and unknown fields, and that nothing but ApiError is ever raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.serve.inputs import parse_json, read_messages, read_prompts
from plait.serve.problems import ApiError, response
from plait.serve.requests import LABELS, NEUTRAL, Asked, ChatAsked, TextAsked, read

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}


def refusal(kind: type[Asked], body: dict) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(kind, body)
    assert caught.value.status == 400
    return caught.value


def test_everything_that_is_understood_reaches_the_sampling_parameters():
    body = CHAT | {
        "n": 2,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": -2,
        "frequency_penalty": 2.0,
        "repetition_penalty": 1.5,
        "seed": -1,
        "stop": "end",
        "logit_bias": {"7": -100},
        "ignore_eos": True,
    }
    assert read(ChatAsked, body).shared() == {
        "n": 2,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.1,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "repetition_penalty": 1.5,
        "seed": -1,
        "stop": ("end",),
        "logit_bias": {7: -100.0},
        "ignore_eos": True,
    }


@pytest.mark.parametrize(("kind", "base"), [(ChatAsked, CHAT), (TextAsked, TEXT)])
def test_neutral_fields_are_accepted_and_others_name_themselves(kind: type[Asked], base: dict):
    neutral = {name: values[0] if values else None for name, values in NEUTRAL.items()}
    labels = {"metadata": {"a": "b"}, "parallel_tool_calls": True, "user": "someone"}
    assert read(kind, base | neutral | labels) == read(kind, base)
    for name in NEUTRAL:
        error = refusal(kind, base | {name: "something else"})
        assert (error.param, error.code) == (name, "unsupported_parameter")
        assert "leave it out" in error.message
    for name, wanted in LABELS.items():
        assert refusal(kind, base | {name: 5.5}).message == f"{name} must be of type {wanted.__name__}"


def test_null_means_absent():
    every = dict.fromkeys([*ChatAsked.model_fields, *NEUTRAL, *LABELS])
    assert read(ChatAsked, every | CHAT) == read(ChatAsked, CHAT)


@pytest.mark.parametrize(
    ("kind", "change", "param", "message"),
    [
        (ChatAsked, {"temprature": 1}, "temprature", "'temprature'; did you mean 'temperature'?"),
        (ChatAsked, {"prompt": "x"}, "prompt", "unknown field 'prompt'; leave it out"),
        (ChatAsked, {"temperature": 3}, "temperature", "temperature must be less than or equal to 2, not 3"),
        (ChatAsked, {"temperature": "1"}, "temperature", 'temperature must be a valid number, not "1"'),
        (ChatAsked, {"n": True}, "n", "n must be a valid integer, not true"),
        (ChatAsked, {"store": 0}, "store", "leave it out or set it to false"),
        (ChatAsked, {"stop": ["a"] * 5}, "stop", "stop may hold 4 values at most, not 5"),
        (ChatAsked, {"stop": ["a", ""]}, "stop[1]", "stop[1] must be"),
        (ChatAsked, {"stop": ["\ud800"]}, "stop[0]", "stop[0] must be a valid string"),
        (ChatAsked, {"seed": 2**63}, "seed", "seed must be less than"),
        (ChatAsked, {"logit_bias": {"x": 1}}, "logit_bias", "logit_bias: 'x' is not a token id"),
        (ChatAsked, {"logit_bias": {"9" * 5000: 1}}, "logit_bias", "is not a token id"),
        (ChatAsked, {"logit_bias": {"1": 101}}, "logit_bias.1", "less than or equal to 100"),
        (ChatAsked, {"top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs: true"),
        (ChatAsked, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "mean the same and differ"),
        (ChatAsked, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1, not 0"),
        (ChatAsked, {"stream_options": {}}, "stream_options", "stream_options needs stream: true"),
        (
            ChatAsked,
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "not true",
        ),
        (TextAsked, {"best_of": 2}, "best_of", "best_of=2 is not supported; leave it out or set it to n (1)"),
        (TextAsked, {"max_tokens": 0}, "max_tokens", "max_tokens: 0 needs echo: true"),
        (TextAsked, {"logprobs": True}, "logprobs", "logprobs must be a valid integer, not true"),
        (TextAsked, {"suffix": "x", "echo": True}, "suffix", "give one of them"),
        (TextAsked, {"suffix": 5}, "suffix", "suffix must be"),
        (TextAsked, {"model": None}, "model", "missing field 'model'"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(kind: type[Asked], change: dict, param: str, message: str):
    error = refusal(kind, (CHAT if kind is ChatAsked else TEXT) | change)
    assert error.param == param
    assert message in error.message


def test_messages_become_roles_and_plain_text():
    given = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}],
        },
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "name": None},
    ]
    assert read_messages(given) == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "name": "Ann"}, "messages[0].name"),
        ({"role": "user", "content": "\udc00"}, "messages[0].content"),
    ],
)
def test_a_wrong_message_is_named(message: dict, param: str):
    with pytest.raises(ApiError) as caught:
        read_messages([message])
    assert caught.value.param == param


def test_the_four_forms_of_a_prompt():
    assert read_prompts("a") == ["a"]
    assert read_prompts(["a", ""]) == ["a", ""]
    assert read_prompts([1, 2]) == [[1, 2]]
    assert read_prompts([[1], [2, 3]]) == [[1], [2, 3]]
    for wrong in ([], [[]], [1, "a"], [True], 5, {"a": 1}, ["a", [1]], [1.0]):
        with pytest.raises(ApiError, match="prompt must be a string"):
            read_prompts(wrong)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON: .* \\(line 1, column 2\\)"),
        (b"\xff{}", "the body is not UTF-8 \\(byte 0\\)"),
        (b"[]", "must be a JSON object, not a list"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_bodies_that_are_not_json(body: bytes, message: str):
    with pytest.raises(ApiError, match=message) as caught:
        parse_json(body)
    assert caught.value.code == "invalid_json"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*TextAsked.model_fields, *ChatAsked.model_fields, *NEUTRAL, *LABELS])


def problem_of(kind: type[Asked], body: dict) -> ApiError | None:
    try:
        asked = read(kind, body)
        asked.shared()
        if isinstance(asked, ChatAsked):
            read_messages(asked.messages)
        if isinstance(asked, TextAsked):
            read_prompts(asked.prompt)
    except ApiError as error:
        return error
    return None


@settings(max_examples=60)
@given(st.sampled_from([ChatAsked, TextAsked]), st.dictionaries(names, values, max_size=5))
def test_any_body_is_read_or_refused_in_words(kind: type[Asked], body: dict):
    error = problem_of(kind, (CHAT if kind is ChatAsked else TEXT) | body)
    if error is not None:
        assert error.status == 400
        assert error.param
        assert response(error).body  # it can be written, whatever the client sent
