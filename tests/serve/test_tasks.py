"""Tasks over real sockets: what they answer, what they refuse, and that they let others go first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from plait.infer.engine import Engine
from plait.infer.params import BeamParams, SamplingParams
from plait.infer.search import search, text_of
from plait.serve.app import Limits
from plait.serve.tasks import SERVED, tasks_of
from plait.tasks import TASKS
from plait.tasks.retrieve import Index, passages
from plait.text.document import Document

TEXTS = ["a red bike", "two", "two dogs run", "一只狗"]


@pytest.fixture(scope="module")
def url(start: Callable, pairs: Engine) -> Iterator[str]:
    with start(pairs, Limits(body_bytes=1 << 16, texts=100)) as server:
        yield server.url


def ask(url: str, task: str, **fields: Any) -> httpx.Response:
    content = json.dumps({"model": "pairs", **fields})  # ASCII, which can spell half a surrogate pair
    return httpx.post(f"{url}/v1/tasks/{task}", content=content, timeout=60)


def refused(response: httpx.Response, status: int = 400) -> dict[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_what_is_served_is_a_task_and_the_model_says_which_it_can(url: str, pairs: Engine, engine: Engine):
    assert set(SERVED) <= set(TASKS)
    [model] = httpx.get(url + "/v1/models").json()["data"]
    assert model["tasks"] == ["translate", "summarize", "answer", "classify"]
    assert (model["plait"]["encodes"], model["plait"]["labels"]) == (True, [])
    assert tasks_of(engine) == ["chat", "complete", *SERVED]


@pytest.mark.parametrize(
    ("learned", "able"),
    [
        ("text", ["complete", "classify"]),
        ("pairs", ["chat", "complete", *SERVED]),
        ("messages", ["chat", "complete", *SERVED]),
    ],
)
def test_what_a_decoder_can_follows_from_what_it_learned(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, learned: str, able: list[str]
):
    monkeypatch.setattr(engine, "learned", learned)
    assert tasks_of(engine) == able


def test_texts_are_answered_as_beam_search_answers_them(url: str, pairs: Engine):
    settings = {"beams": 3, "n": 2, "max_tokens": 12, "length_penalty": 0.5}
    body = ask(url, "translate", input=TEXTS, **settings).json()
    found = search(pairs, [pairs.encode(text) for text in TEXTS], BeamParams(**settings))
    assert [result["input_index"] for result in body["results"]] == [0, 1, 2, 3]
    for result, hypotheses in zip(body["results"], found, strict=True):
        for got, wanted in zip(result["answers"], hypotheses, strict=True):
            assert got["text"] == text_of(pairs, wanted)
            assert got["score"] == pytest.approx(wanted.score, abs=1e-5)
            assert got["finish_reason"] == wanted.finish_reason
    assert (body["object"], body["model"], body["task"]) == ("task", "pairs", "translate")
    read = sum(len(pairs.encode(text)) for text in TEXTS)
    written = sum(len(one.tokens) for hypotheses in found for one in hypotheses)
    assert body["usage"] == {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written
    }  # fmt: skip


@pytest.mark.parametrize("task", ["translate", "summarize", "answer"])
def test_each_task_has_its_own_decoding_and_one_text_may_stand_alone(url: str, pairs: Engine, task: str):
    usual = {
        "translate": BeamParams(beams=5),
        "summarize": BeamParams(no_repeat_ngram=3),
        "answer": BeamParams(beams=1),
    }
    [result] = ask(url, task, input="a dog", max_tokens=10).json()["results"]
    [[wanted]] = search(pairs, [pairs.encode("a dog")], usual[task].model_copy(update={"max_tokens": 10}))
    assert [answer["text"] for answer in result["answers"]] == [text_of(pairs, wanted)]


def test_a_question_is_answered_below_its_context(url: str):
    [together] = ask(url, "answer", input="Anna is in.\nWhere is Anna?", max_tokens=5).json()["results"]
    [apart] = ask(url, "answer", input="Where is Anna?", context="Anna is in.", max_tokens=5).json()[
        "results"
    ]
    assert apart == together
    long = {"input": "Where?", "context": "Anna is in. " * 9, "max_tokens": 5}
    error = ask(url, "answer", **long).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input[0]")
    [long] = ask(url, "answer", **long, truncate=True).json()["results"]
    assert long["cut"] is True
    assert "citations" not in long


@pytest.mark.parametrize("task", ["translate", "summarize", "classify"])
def test_a_text_that_is_too_long_is_cut_only_when_asked(url: str, pairs: Engine, task: str):
    more: dict[str, Any] = {"labels": ["good", "bad"]} if task == "classify" else {"max_tokens": 5}
    text = "the very same words " * 9
    asked = {"input": ["short", text], **more}
    error = ask(url, task, **asked).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input[1]")
    short, long = ask(url, task, **asked, truncate=True).json()["results"]
    assert (short.get("cut"), long["cut"]) == (None, True)
    most = max(end for end in range(len(text)) if len(pairs.encode(text[:end])) <= pairs.context)
    [wanted] = ask(url, task, input=text[:most], **more).json()["results"]
    assert long["answers"] == wanted["answers"]
    assert "cut" not in wanted


def test_many_labels_may_be_compared_and_too_many_are_counted(url: str):
    labels = [f"label {number}" for number in range(1001)]
    [result] = ask(url, "classify", input="a dog", labels=labels[:150]).json()["results"]
    assert {answer["text"] for answer in result["answers"]} == set(labels[:150])
    error = ask(url, "classify", input="a dog", labels=labels).json()["error"]
    assert error["message"] == "labels may hold 1,000 values at most, not 1,001"


def test_documents_of_the_server_are_searched_and_cited(start: Callable, pairs: Engine):
    texts = {
        "home/notes/a.txt#1": "Anna is in.\n\nBen is out today, and the bike with him.",
        "b.txt#1": "狗在家。",
    }
    index = Index(passages([Document(name, text) for name, text in texts.items()], size=45))
    with start(pairs, index=index) as server:
        [model] = httpx.get(server.url + "/v1/models").json()["data"]
        assert model["plait"]["passages"] == len(index.passages) == 3
        asked = {"input": ["Is Ben out?", "狗?", "zzz"], "max_tokens": 5}
        ben, dog, nothing = ask(server.url, "answer", **asked, passages=1).json()["results"]
        assert ben["citations"] == [{"source": "a.txt#2", "text": "Ben is out today, and the bike with him."}]
        assert dog["citations"] == [{"source": "b.txt#1", "text": "狗在家。"}]
        assert nothing["citations"] == []
        below = "Ben is out today, and the bike with him."
        [told] = ask(server.url, "answer", input="Is Ben out?", context=below, max_tokens=5).json()["results"]
        assert told["answers"] == [pytest.approx(answer, abs=1e-5) for answer in ben["answers"]]
        assert "citations" not in told
        error = refused(ask(server.url, "answer", input="a", context="b", passages=2))
        assert error["message"] == "passages=2 of the documents, and a context is given; leave passages out"


def test_more_answers_than_the_usual_beams_raise_the_beams(url: str):
    [result] = ask(url, "answer", input="x", n=3, max_tokens=5).json()["results"]
    assert len(result["answers"]) == 3


def test_labels_come_with_their_probabilities(url: str):
    body = ask(url, "classify", input=["a", "b"], labels=["good", "bad", "好"]).json()
    for result in body["results"]:
        scores = [answer["score"] for answer in result["answers"]]
        assert {answer["text"] for answer in result["answers"]} == {"good", "bad", "好"}
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert scores == sorted(scores, reverse=True)
    [best] = ask(url, "classify", input="a", labels=["good", "bad", "好"], n=1).json()["results"]
    assert best["answers"] == body["results"][0]["answers"][:1]
    assert body["usage"]["completion_tokens"] == 0


def test_labels_that_were_learned_need_not_be_named(url: str, pairs: Engine, monkeypatch: pytest.MonkeyPatch):
    assert refused(ask(url, "classify", input="a"))["param"] == "labels"
    monkeypatch.setattr(pairs, "labels", ["ham", "spam"])
    [result] = ask(url, "classify", input="a").json()["results"]
    assert {answer["text"] for answer in result["answers"]} == {"ham", "spam"}


@pytest.mark.parametrize(
    ("task", "fields", "param", "message"),
    [
        ("translate", {}, "input", "missing field 'input'"),
        ("translate", {"input": 3}, "input", "input must be a string or a list of strings, at least one"),
        ("translate", {"input": []}, "input", "input must be a string or a list of strings, at least one"),
        ("translate", {"input": ["a", " "]}, "input[1]", "input[1] is empty; write at least one word"),
        ("translate", {"input": ["a"] * 101}, "input", "input holds 101 texts, more than 100 at once"),
        (
            "translate",
            {"input": ["a", "b" * 70]},
            "input[1]",
            "input[1]: source (71 tokens) is more than the",
        ),
        ("translate", {"input": "a", "max_tokens": 65}, "input[0]", "max_tokens=65 is more than the model's"),
        ("translate", {"input": "a", "beam": 3}, "beam", "unknown field 'beam'; did you mean 'beams'?"),
        ("translate", {"input": "a", "labels": ["b", "c"]}, "labels", "unknown field 'labels'; leave it out"),
        ("translate", {"input": "a", "beams": 33}, "beams", "beams must be less than or equal to 32, not 33"),
        ("translate", {"input": "a", "n": 3, "beams": 2}, "n", "n=3 is more than beams=2; lower n or raise"),
        ("translate", {"input": "a", "min_tokens": 9, "max_tokens": 8}, "min_tokens", "min_tokens=9 is more"),
        ("translate", {"input": "a", "context": "b"}, "context", "unknown field 'context'"),
        ("answer", {"input": "a", "passages": 2}, "passages", "this server has no documents; leave passages"),
        ("answer", {"input": "a", "context": "\ud800"}, "context", "half of a surrogate pair"),
        ("classify", {"input": "a", "beams": 2}, "beams", "unknown field 'beams'"),
        ("classify", {"input": "a", "labels": ["b"]}, "labels", "labels must be two or more different words"),
        ("classify", {"input": "a" * 70, "labels": ["b", "c"]}, "input[0]", "the text takes 71 tokens"),
        ("classify", {"input": "a", "labels": ["\ud800", "b"]}, "labels", "half of a surrogate pair"),
    ],
)
def test_refusals_name_the_field(url: str, task: str, fields: dict, param: str, message: str):
    error = refused(ask(url, task, **fields))
    assert message in error["message"]
    assert error["param"] == param
    if param.startswith("input[") and "empty" not in message:
        assert error["code"] == "context_length_exceeded"


def test_what_is_not_there(url: str):
    error = refused(ask(url, "translte", input="a"), 404)
    assert error["message"] == (
        "there is no task 'translte'; did you mean 'translate'?; use translate, summarize, answer, classify"
    )
    assert refused(ask(url, "translate", input="a", model="x"), 404)["code"] == "model_not_found"
    assert refused(httpx.get(url + "/v1/tasks/translate"), 405)["code"] == "method_not_allowed"
    assert refused(ask(url, "translate", input="x" * 70_000), 413)["code"] == "body_too_large"
    ask(url, "summarize", input="a", max_tokens=1)
    metrics = httpx.get(url + "/metrics").text
    assert 'plait_requests_total{route="/v1/tasks/{task}",status="404"} 2.0' in metrics


def test_a_key_guards_the_tasks(start: Callable, pairs: Engine):
    with start(pairs, api_key="right") as server:
        assert refused(ask(server.url, "translate", input="a"), 401)["code"] == "missing_api_key"


def test_a_model_of_running_text_refuses_what_it_has_not_learned(
    start: Callable, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "learned", "text")
    with start(engine) as server:
        error = refused(ask(server.url, "translate", model="tiny", input="a"))
        assert (error["param"], error["code"]) == ("model", "unsupported_task")
        assert error["message"] == (
            "tiny continues text; translate needs a model trained on pairs or on conversations; "
            "this one can complete, classify"
        )
        fields = {"model": "tiny", "input": "a", "labels": ["b", "cc"]}
        assert len(ask(server.url, "classify", **fields).json()["results"][0]["answers"]) == 2


def test_a_decoder_that_talks_answers_too(start: Callable, engine: Engine):
    with start(engine) as server:
        [result] = ask(server.url, "answer", model="tiny", input="1 + 1?", max_tokens=4).json()["results"]
    ids, _ = engine.tokenizer.encode_chat([{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True)
    [[wanted]] = search(engine, [ids], BeamParams(beams=1, max_tokens=4))
    assert result["answers"][0]["text"] == text_of(engine, wanted)


def test_a_short_request_need_not_wait_for_all_of_a_long_one(start: Callable, translating):
    translating.pause = 0.01
    ended: list[str] = []

    def run(name: str, texts: list[str], url: str) -> None:
        body = {"model": "en-de", "input": texts, "beams": 16}  # two texts a turn
        assert httpx.post(url + "/v1/tasks/translate", json=body, timeout=60).status_code == 200
        ended.append(name)

    with start(translating) as server:
        long = threading.Thread(target=run, args=["long", ["two dogs"] * 30, server.url])
        long.start()
        while not server.app.worker.running:
            time.sleep(0.005)
        run("short", ["two dogs"], server.url)
        fields = {"model": "en-de", "prompt": "two dogs", "temperature": 0}
        made = httpx.post(server.url + "/v1/completions", json=fields, timeout=60).json()
        assert made["choices"][0]["text"] == "zwei Hunde"
        ended.append("completion")
        long.join(60)
    assert ended == ["short", "completion", "long"]


def test_a_client_that_leaves_ends_its_task_after_a_turn(start: Callable, translating):
    translating.pause = 0.01
    body = {"model": "en-de", "input": ["two dogs"] * 200, "beams": 16}
    with start(translating) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + "/v1/tasks/translate", json=body, timeout=0.3)
        assert server.idle()
        assert translating.steps < 300  # all of it would take over 1000
        assert "plait_cancelled_total 1.0" in httpx.get(server.url + "/metrics").text


def test_a_full_queue_is_told(start: Callable, translating):
    translating.pause = 0.02
    body = {"model": "en-de", "input": ["two dogs"] * 6, "beams": 32}
    with start(translating, Limits(queue=0)) as server:
        long = threading.Thread(
            target=httpx.post, args=[server.url + "/v1/tasks/translate"], kwargs={"json": body, "timeout": 60}
        )
        long.start()
        while not server.app.worker.running:
            time.sleep(0.005)
        error = refused(ask(server.url, "translate", model="en-de", input="a"), 429)
        assert error["code"] == "queue_full"
        long.join(60)


def test_openai_s_client_completes_and_chats_with_an_encoder_decoder(url: str, pairs: Engine):
    params = SamplingParams(temperature=0, max_tokens=8)
    [wanted] = pairs.generate("a red bike", params)
    asked: Any = {"model": "pairs", "temperature": 0, "max_tokens": 8}
    user: Any = {"role": "user", "content": "a red bike"}
    with openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        made = client.completions.create(prompt="a red bike", **asked)
        assert made.choices[0].text == wanted.text
        assert made.usage is not None
        assert made.usage.prompt_tokens == len(pairs.encode("a red bike"))
        chat = client.chat.completions.create(messages=[user], **asked)
        assert chat.choices[0].message.content == wanted.text
        stream = client.chat.completions.create(messages=[user], stream=True, **asked)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == wanted.text
        system: Any = {"role": "system", "content": "be kind"}
        for messages in ([system, user], [user, {"role": "assistant", "content": "x"}, user]):
            with pytest.raises(openai.BadRequestError, match="an encoder-decoder, which reads one") as error:
                client.chat.completions.create(messages=messages, **asked)
            assert error.value.param == "messages"
        with pytest.raises(openai.BadRequestError, match="gives its source no probability") as error:
            client.completions.create(prompt="a", echo=True, logprobs=1, **asked)
        assert error.value.param == "echo"
