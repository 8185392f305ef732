"""The application over real sockets, as a client without a library sees it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

import plait
from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.serve.app import Limits
from plait.text.train_tokenizer import train

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def raw(url: str, request: bytes) -> socket.socket:
    """A connection on which a request was sent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)
    connection.sendall(request)
    return connection


def post(path: str, body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def error_of(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_health_and_models(client: httpx.Client):
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("tiny", "model", "plait")
    assert model["max_model_len"] == model["plait"]["context"] == 256
    assert model["plait"]["parameters"] > 1000
    assert client.get("/v1/models/tiny").json() == model


def test_page_files_and_safe_headers(client: httpx.Client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    assert "<style" not in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    script = client.get("/static/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    again = client.get("/static/main.js", headers={"if-none-match": script.headers["etag"]})
    assert again.status_code == 304
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/static/../app.py", 404, "not_found"),
        ("GET", "/static/..%2fapp.py", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
    ],
)
def test_what_is_not_there(client: httpx.Client, method: str, path: str, status: int, code: str):
    response = client.request(method, path)
    assert error_of(response, status)["code"] == code
    if status == 405:
        assert response.headers["allow"] == "POST"


def test_errors_of_a_request_name_the_field(client: httpx.Client):
    def refused(status: int = 400, path: str = "/v1/chat/completions", **change: object) -> dict:
        return error_of(client.post(path, json=CHAT | change), status)

    assert (
        refused(404, model="gpt-5")["message"]
        == "the model 'gpt-5' does not exist here; this server has 'tiny'"
    )
    assert refused(logit_bias={"100000": 1})["param"] == "logit_bias"
    assert refused(n=100)["message"].startswith("1 prompts times n=100 is more than 64 answers at once")
    assert refused(messages=[{"role": "user", "content": "x" * 300}])["code"] == "context_length_exceeded"
    assert "more than the model's context of 256" in refused(max_tokens=254)["message"]
    malformed = client.post("/v1/completions", content=b'{"model": ')
    assert error_of(malformed, 400)["code"] == "invalid_json"
    unknown_token = client.post("/v1/completions", json={"model": "tiny", "prompt": [5, 99999]})
    assert (
        error_of(unknown_token, 400)["message"] == "prompt: there is no token 99999 in the vocabulary of 261"
    )


def test_a_completion_fills_in_what_lies_before_a_suffix(start: Callable, client: httpx.Client, pairs):
    tokenizer = train(["x"], kind="byte", fim=True)
    decoder = Decoder(ModelConfig(vocab=tokenizer.vocab_size, width=32, layers=2, heads=4, context=64))
    initialize(decoder, 3)
    engine = Engine(decoder, tokenizer)
    body = {"model": "model", "prompt": ["def f(", "春"], "suffix": "):", "max_tokens": 6, "temperature": 0}
    with start(engine) as other, httpx.Client(base_url=other.url, timeout=30) as asks:
        made = asks.post("/v1/completions", json=body).json()
        plain = asks.post("/v1/completions", json=body | {"suffix": ""}).json()
        ids = asks.post("/v1/completions", json=body | {"prompt": tokenizer.encode_plain("def f(")}).json()
    texts = [choice["text"] for choice in made["choices"]]
    wanted = plait.complete(engine, body["prompt"], ["):", "):"], max_tokens=6)
    assert texts == wanted
    assert [choice["text"] for choice in plain["choices"]] != texts
    assert ids["choices"][0]["text"] == texts[0]
    error = error_of(client.post("/v1/completions", json=body | {"model": "tiny"}), 400)
    assert error["param"] == "suffix"
    assert "lacks <|fim_prefix|>" in error["message"]
    with start(pairs) as other, httpx.Client(base_url=other.url, timeout=30) as asks:
        error = error_of(asks.post("/v1/completions", json=body | {"model": "pairs"}), 400)
    assert (error["param"], "encoder-decoder" in error["message"]) == ("suffix", True)


def test_a_body_too_large_is_refused_while_it_is_read(server, client: httpx.Client):
    def endless() -> Iterator[bytes]:  # sent in chunks: there is no content-length to trust
        yield b'{"prompt": "'
        for _ in range(64):
            yield b"x" * 4096

    error = error_of(client.post("/v1/completions", content=endless()), 413)
    assert error["message"] == "the body is larger than this server takes (65536 bytes); shorten it"
    with raw(
        server.url, b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n"
    ) as c:
        c.sendall(b"x" * 70_000)
        assert c.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive_ends_in_a_timeout(start: Callable, engine: Engine):
    with start(engine, Limits(body_seconds=0.05)) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{"
        with raw(server.url, head) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_while_it_asks_is_no_error_of_ours(start: Callable, engine: Engine):
    with start(engine) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{"
        raw(server.url, head).close()
        line = 'plait_requests_total{route="/v1/completions",status="499"} 1.0'
        end = time.monotonic() + 10
        while line not in httpx.get(server.url + "/metrics").text:
            assert time.monotonic() < end


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_only_loopback_names_and_pages_are_answered(client: httpx.Client, headers: dict, status: int):
    assert client.get("/health", headers=headers).status_code == status


def test_the_key_guards_the_api_and_not_the_page(start: Callable, engine: Engine):
    with start(engine, api_key="schlüssel") as server, httpx.Client(base_url=server.url) as client:
        assert error_of(client.get("/v1/models"), 401)["code"] == "missing_api_key"
        for wrong in ("Bearer wrong", "Basic schl", "Bearer", "Bearer ü"):
            response = client.get("/v1/models", headers={"authorization": wrong.encode()})
            assert error_of(response, 401)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        assert client.get("/").status_code == client.get("/health").status_code == 200
        right = {"authorization": "Bearer schlüssel".encode()}
        assert client.get("/v1/models", headers=right).status_code == 200


def test_metrics_count_what_happened(start: Callable, engine: Engine):
    with start(engine) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        client.post("/v1/chat/completions", json=CHAT | {"ignore_eos": True})
        client.get("/v1/models/x/y")
        client.get("/whatever/1")
        text = client.get("/metrics").text
        for line in (
            'plait_requests_total{route="/v1/chat/completions",status="200"} 1.0',
            'plait_requests_total{route="/v1/models/{id}",status="404"} 1.0',
            'plait_requests_total{route="other",status="404"} 1.0',
            "plait_completion_tokens_total 4.0",
            "plait_prompt_tokens_total 5.0",
            "plait_time_to_first_token_seconds_count 1.0",
            "plait_cancelled_total 0.0",
            "plait_running 0.0",
            "plait_queue_length 0.0",
        ):
            assert line in text.splitlines()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_work(start: Callable, scripted, stream: bool):
    scripted.pause = 0.01
    body = {"model": "scripted", "prompt": "endless", "max_tokens": 4000, "stream": stream}
    with start(scripted) as server:
        with raw(server.url, post("/v1/completions", body)) as connection:
            if stream:
                assert b"data: " in connection.recv(4096) + connection.recv(4096)
            while not server.app.worker.running:
                time.sleep(0.005)
        assert server.idle()
        assert scripted.steps < 1000  # 4000 steps would take 40 s
        text = httpx.get(server.url + "/metrics").text
        assert "plait_cancelled_total 1.0" in text.splitlines()


def test_a_full_queue_says_when_to_come_back(start: Callable, scripted):
    scripted.pause = 0.01
    endless = {"model": "scripted", "prompt": "endless", "max_tokens": 4000, "stream": True}
    with start(scripted, Limits(queue=1)) as server:
        connections = [raw(server.url, post("/v1/completions", endless)) for _ in range(2)]
        while not (server.app.worker.running and server.app.worker.waiting):
            time.sleep(0.005)
        response = httpx.post(server.url + "/v1/completions", json=endless)
        assert error_of(response, 429)["code"] == "queue_full"
        assert 1 <= int(response.headers["retry-after"]) <= 60
        for connection in connections:
            connection.close()
        assert server.idle()


def test_stopping_the_server_ends_a_stream_with_an_error_event(start: Callable, scripted):
    scripted.pause = 0.01
    body = {"model": "scripted", "prompt": "endless", "max_tokens": 4000, "stream": True}
    lines: list[str] = []
    began = threading.Event()

    def read(url: str) -> None:
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=30) as response:
            for line in response.iter_lines():
                lines.append(line)
                began.set()

    with start(scripted) as server:
        reader = threading.Thread(target=read, args=[server.url])
        reader.start()
        assert began.wait(30)
    reader.join(30)
    events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
