"""The page in a headless Chromium: type, stream, stop, switch language, look into a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train


@pytest.fixture
def url(start: Callable, scripted) -> Iterator[str]:
    with start(scripted) as server:
        yield server.url


def ask(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_a_chat_streams_markdown_and_shows_probabilities(url: str, open_page: Callable):
    page = open_page(url)
    ask(page, "What are plaits? <img src=x onerror=alert(1)>")
    page.get_by_text("tokens ·").wait_for()
    assert page.locator(".bubble").inner_text().endswith("<img src=x onerror=alert(1)>")
    assert page.locator(".prose strong").inner_text() == "woven"
    assert page.locator(".prose code").inner_text() == "three"
    assert page.locator(".prose li").all_inner_texts() == ["一", "二"]
    assert "finished by itself" in page.locator("#chat .meta").inner_text()

    page.get_by_role("switch", name="Token probabilities").check()
    tokens = page.locator("#chat .token")
    assert "".join(tokens.all_text_contents()) == "Plaits are **woven** from `three` strands.\n\n- 一\n- 二\n"
    tokens.nth(1).hover()
    tip = page.get_by_role("tooltip")
    assert "probability 100%" in tip.inner_text()
    assert tip.locator("li").count() == 5
    tokens.nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert tip.locator("strong").inner_text() == "i"
    page.keyboard.press("Escape")
    assert tip.count() == 0

    page.get_by_role("button", name="Again").click()
    page.get_by_role("button", name="Again").wait_for()
    assert page.locator(".turn.model").count() == 1
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("heading", name="Ask scripted something").wait_for()


def test_escape_stops_and_the_engine_is_free_again(start: Callable, scripted, open_page: Callable):
    scripted.pause = 0.01
    with start(scripted) as server:
        page = open_page(server.url)
        ask(page, "an endless answer")
        page.locator(".prose", has_text="endless ...").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("stopped by you").wait_for()
        assert server.idle()
        assert scripted.steps < 2000

        page.locator(".bubble").hover()
        page.get_by_role("button", name="Edit").click()
        page.locator(".editor textarea").fill("a short one")
        page.keyboard.press("Enter")
        page.get_by_text("finished by itself").wait_for()
        assert page.locator(".bubble").all_inner_texts() == ["a short one"]


def test_the_oldest_turn_is_forgotten_where_it_leaves_too_little_room_for_an_answer(
    start: Callable, scripted, open_page: Callable
):
    scripted.context = 300  # the second question and all before it take 280
    with start(scripted) as server:
        page = open_page(server.url)
        ask(page, "a" * 150)
        page.get_by_text("finished by itself").wait_for()
        assert not page.locator(".forgotten").count()
        ask(page, "b" * 60)
        page.get_by_text("Messages above no longer fit into the model's context of 300 tokens").wait_for()
        page.get_by_text("finished by itself").nth(1).wait_for()
        assert page.locator(".turn.model").count() == 2
        assert page.locator(".turn.unsent").count() == 2
        assert not page.get_by_text("cut at the length limit").count()


def test_language_theme_and_settings_are_switched_and_remembered(url: str, open_page: Callable):
    page = open_page(url, locale="zh-CN")
    page.get_by_role("heading", name="向 scripted 提问").wait_for()
    page.get_by_role("button", name="Switch to English").click()
    page.get_by_role("heading", name="Ask scripted something").wait_for()
    page.get_by_label("Longest answer").fill("6")
    page.get_by_role("button", name="Switch between dark and light").click()
    page.reload()
    page.get_by_role("heading", name="Ask scripted something").wait_for()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("html").get_attribute("lang") == "en"
    ask(page, "short")
    page.get_by_text("cut at the length limit").wait_for()
    assert page.locator(".prose").inner_text() == "Plaits"
    page.get_by_role("button", name="Back to defaults").click()
    assert page.get_by_label("Longest answer").input_value() == ""


def test_a_continuation_can_branch_at_a_token_on_a_phone(url: str, open_page: Callable):
    page = open_page(url, width=360)
    page.get_by_role("tab", name="Complete").click()
    page.get_by_label("Beginning of a text").fill("Once")
    page.keyboard.press("Control+Enter")
    page.get_by_text("finished by itself").wait_for()
    page.locator("#complete .token").nth(6).click()
    choices = page.get_by_role("dialog").get_by_role("button")
    assert choices.count() == 4
    picked = choices.first.locator(".name").inner_text()
    choices.first.click()
    page.locator("#complete .picked", has_text="Plaits").wait_for()
    assert page.locator("#complete .picked").inner_text().startswith("Plaits" + picked.replace("␣", " "))
    page.get_by_text("finished by itself").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Model and settings").click()
    page.get_by_text("Parameters", exact=True).wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


def test_a_model_that_fills_in_middles_is_given_what_follows(start: Callable, open_page: Callable):
    tokenizer = train(["x"], kind="byte", fim=True)
    model = Decoder(ModelConfig(vocab=tokenizer.vocab_size, width=32, layers=2, heads=4, context=256))
    initialize(model, 0)
    with start(Engine(model, tokenizer)) as server:
        page = open_page(server.url)
        page.get_by_role("tab", name="Complete").click()
        page.get_by_label("What follows, if the model is to fill").fill("The end.")
        page.get_by_label("Beginning of a text").fill("Once")
        with page.expect_request("**/v1/completions") as asked:
            page.keyboard.press("Control+Enter")
        assert (asked.value.post_data_json["prompt"], asked.value.post_data_json["suffix"]) == (
            "Once",
            "The end.",
        )
        page.get_by_text("tokens ·").wait_for()
        shown = page.locator("#complete .output").inner_text()
        assert shown.startswith("Once")
        assert shown.endswith("The end.")


def test_the_key_is_asked_for_and_errors_are_told_in_words(start: Callable, engine, open_page: Callable):
    with start(engine, api_key="right") as server:
        page = open_page(server.url)
        for key in ("wrong", "right"):
            page.get_by_role("textbox", name="API key").fill(key)
            page.keyboard.press("Enter")
            if key == "wrong":
                page.get_by_text("That key was not accepted.").wait_for()
        page.get_by_role("heading", name="Ask tiny something").wait_for()
        ask(page, "x" * 300)
        page.get_by_text("must fit into 256 tokens").wait_for()


def test_what_the_model_recommends_is_set_and_sent_until_changed(
    start: Callable, scripted, open_page: Callable
):
    scripted.recommended = {"temperature": 0.25}
    sent = []
    with start(scripted) as server:
        page = open_page(server.url)
        page.on("request", lambda asked: asked.method == "POST" and sent.append(asked.post_data_json))
        field = page.get_by_label("Temperature")
        assert field.input_value() == "0.25"
        ask(page, "short")
        page.get_by_text("tokens ·").wait_for()
        field.fill("1")
        page.get_by_role("button", name="Again").click()
        page.get_by_text("tokens ·").wait_for()
        page.get_by_role("button", name="Back to defaults").click()
        assert field.input_value() == "0.25"
    assert [body["temperature"] for body in sent] == [0.25, 1]
