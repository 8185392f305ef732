"""OpenAI's own client drives the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.serve.app import Limits

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "plait"


def test_a_chat_streams_the_answer_that_it_gives_whole(client: openai.OpenAI):
    asked: Any = {
        "model": "tiny",
        "messages": HELLO,
        "max_tokens": 24,
        "seed": 7,
        "extra_body": {"top_k": 40},
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (8, 24)
    assert len({chunk.id for chunk in chunks}) == 1


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI):
    def texts(seed: int) -> list[str | None]:
        made = client.chat.completions.create(
            model="tiny", messages=HELLO, max_completion_tokens=16, seed=seed, n=3
        )
        assert [choice.index for choice in made.choices] == [0, 1, 2]
        return [choice.message.content for choice in made.choices]

    first = texts(1)
    assert first == texts(1) != texts(2)
    assert len(set(first)) == 3


def test_stop_ends_before_the_text(client: openai.OpenAI):
    greedy: Any = {"model": "tiny", "prompt": "hello", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(**greedy).choices[0].text
    stop = next(text[at : at + 2] for at in range(5, 30) if text[at : at + 2].isascii())
    choice = client.completions.create(**greedy, stop=["never there", stop]).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_chat_logprobs(client: openai.OpenAI, engine: Engine):
    made = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    ids, _ = engine.tokenizer.encode_chat(HELLO, add_generation_prompt=True)
    params = SamplingParams(max_tokens=5, temperature=0, logprobs=3)
    [expected] = engine.generate([ids], params)
    assert made.choices[0].logprobs is not None
    content = made.choices[0].logprobs.content
    assert content is not None
    assert expected.logprobs is not None
    for token, wanted in zip(content, expected.logprobs, strict=True):
        assert bytes(token.bytes or []) == wanted.bytes
        assert token.logprob == pytest.approx(wanted.logprob, abs=1e-5)
        assert [bytes(other.bytes or []) for other in token.top_logprobs] == [
            other[2] for other in wanted.top
        ]
        assert token.logprob == token.top_logprobs[0].logprob  # greedy takes the likeliest


def test_echo_scores_the_prompt(client: openai.OpenAI, engine: Engine):
    text = "a 水 b"
    made = client.completions.create(model="tiny", prompt=text, max_tokens=0, echo=True, logprobs=2)
    choice = made.choices[0]
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert made.usage is not None
    assert made.usage.completion_tokens == 0
    expected = engine.score([engine.tokenizer.encode_prompt(text)], top=2)[0]
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs == [pytest.approx(token.logprob, abs=1e-5) for token in expected]
    assert logprobs.tokens == ["a", " ", "bytes:\\xe6", "bytes:\\xb0", "bytes:\\xb4", " ", "b"]
    assert logprobs.text_offset == [0, 1, 2, 2, 2, 3, 4]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] is None
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs[1:])


def test_prompts_of_every_form(client: openai.OpenAI, engine: Engine):
    def texts(prompt: Any, **more: Any) -> list[str]:
        made = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0, **more)
        return [choice.text for choice in made.choices]

    [one], [two], ids = texts("one"), texts("two"), engine.tokenizer.encode("one")
    assert texts(["one", "two"], n=2, best_of=2) == [one, one, two, two]
    assert texts(ids) == texts([ids]) == [one]
    assert texts("one", echo=True) == ["one" + one]
    assert len(texts("")) == 1
    streamed = client.completions.create(
        model="tiny", prompt=["one", "two"], max_tokens=6, temperature=0, stream=True, echo=True
    )
    parts = ["", ""]
    for chunk in streamed:
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert parts == ["one" + one, "two" + two]


def test_refusals_arrive_as_the_client_s_own_errors(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="tiny", prompt="x" * 70_000)
    assert large.value.status_code == 413


def test_a_wrong_key_and_a_full_queue(start: Callable, scripted):
    scripted.pause = 0.01
    with start(scripted, Limits(queue=0), api_key="right") as server:
        with (
            openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with openai.OpenAI(base_url=server.url + "/v1", api_key="right", max_retries=0) as client:
            stream = client.completions.create(
                model="scripted", prompt="endless", max_tokens=4000, stream=True
            )
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="the server is busy"):
                client.completions.create(model="scripted", prompt="x")
            stream.close()
            assert server.idle()
            assert client.completions.create(model="scripted", prompt="x").choices[0].text
