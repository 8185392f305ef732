"""The tabs of tasks in a headless Chromium: one text, many lines, labels, errors in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plait.infer.engine import Engine
from plait.tasks.retrieve import Index, passages
from plait.text.document import Document


@pytest.fixture
def url(start: Callable, translating) -> Iterator[str]:
    with start(translating) as server:
        yield server.url


def write(page: Any, label: str, text: str) -> None:
    page.get_by_label(label, exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def test_one_text_has_its_answers_with_scores_and_can_be_copied(url: str, open_page: Callable):
    page = open_page(url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("heading", name="Translate a text").wait_for()
    page.get_by_label("Answers").fill("2")
    write(page, "Text to translate", "two dogs")
    answers = page.locator("#translate .answers li")
    answers.nth(1).wait_for()
    assert answers.locator(".answer").all_inner_texts() == ["zwei Hunde", "zwei Hund"]
    assert answers.locator(".score").first.inner_text() == "score 0.00"
    page.get_by_role("button", name="Copy this answer").first.click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "zwei Hunde"
    assert page.locator("#announce").inner_text() == "Texts done: 1"
    page.reload()
    assert page.get_by_label("Answers").input_value() == "2"


def test_lines_become_a_table_with_errors_in_their_places(url: str, open_page: Callable):
    page = open_page(url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    lines = ["two dogs", "", "x" * 70, *["a red bike"] * 8, "good morning"]
    write(page, "Text to translate", "\n".join(lines))
    page.get_by_text("早上好").wait_for()
    cells = page.locator("#translate tbody td")
    assert cells.count() == 11
    assert cells.nth(0).locator(".answer").inner_text() == "zwei Hunde"
    assert cells.nth(1).inner_text() == "Too long: this model reads at most 64 tokens. Shorten it."
    assert cells.nth(9).locator(".answer").inner_text() == "ein rotes Fahrrad"
    page.get_by_role("button", name="Copy all").click()
    page.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert (copied[0], copied[-1]) == ("two dogs\tzwei Hunde", "good morning\t早上好")

    page.get_by_label("Each line is a text of its own").uncheck()
    write(page, "Text to translate", "two\ndogs")
    page.locator("#translate .answer", has_text="dogs").wait_for()
    assert page.locator("#translate .answer").all_inner_texts() == ["two\ndogs"]
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#translate .found").is_hidden()


def test_a_setting_that_cannot_be_met_is_told_below_the_text(url: str, open_page: Callable):
    page = open_page(url)
    page.get_by_label("Beams").fill("99")
    write(page, "Text to translate", "two dogs")
    page.get_by_text("beams must be less than or equal to 32, not 99").wait_for()
    assert page.locator("#translate .found").is_hidden()


def test_escape_stops_and_keeps_what_was_answered(start: Callable, translating, open_page: Callable):
    translating.pause = 0.02
    with start(translating) as server:
        page = open_page(server.url)
        write(page, "Text to translate", "\n".join(["two dogs"] * 64))
        page.locator("#translate .answer").first.wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("stopped by you").last.wait_for()
        assert page.locator("#translate .answer").count() < 64
        assert page.get_by_role("button", name="Translate", exact=True).is_visible()
        assert server.idle()


def test_a_summary_is_of_the_whole_text_and_an_answer_of_a_question_below_its_context(
    start: Callable, translating, open_page: Callable
):
    translating.TARGETS = translating.TARGETS | {
        "one\ntwo": "12",
        "The bike is red.\nWhat is red?": "the bike",
    }
    with start(translating) as server:
        page = open_page(server.url)
        page.get_by_role("tab", name="Summarize").click()
        write(page, "Text to summarize", "one\ntwo")
        page.locator("#summarize .answer", has_text="12").wait_for()
        page.get_by_role("tab", name="Answer").click()
        page.get_by_label("What the answer stands in, if anything").fill("The bike is red.")
        write(page, "Question", "What is red?")
        page.locator("#answer .answer", has_text="the bike").wait_for()
    index = Index(passages([Document("notes/bikes.txt#1", "The bike is red.")]))
    with start(translating, index=index) as server:
        page = open_page(server.url)
        page.get_by_role("tab", name="Answer").click()
        page.get_by_label("What the answer stands in; left empty, the documents of this").wait_for()
        write(page, "Question", "What is red?")
        page.locator("#answer .answer", has_text="the bike").wait_for()
        page.get_by_text("bikes.txt#1").click()
        page.locator("#answer .cited p", has_text="The bike is red.").wait_for()
        page.get_by_label("What the answer stands in").fill("The bike is blue. " * 9)
        write(page, "Question", "What?")
        page.get_by_text("Only the beginning of the context was read").wait_for()
        page.get_by_role("tab", name="Summarize").click()
        write(page, "Text to summarize", "One word after another. " * 9)
        page.get_by_text("Only the beginning of the text was read").wait_for()
        page.get_by_role("tab", name="Translate").click()
        write(page, "Text to translate", "One word after another. " * 9)
        page.get_by_text("Too long: this model reads at most").wait_for()


def test_the_tab_is_remembered_of_each_model(start: Callable, url: str, pairs: Engine, open_page: Callable):
    page = open_page(url)
    page.get_by_role("tab", name="Summarize").click()
    page.reload()
    page.get_by_role("heading", name="Summarize a text").wait_for()
    stored = page.evaluate("({...localStorage})")
    with start(pairs) as server:
        page = open_page(server.url)
        page.get_by_role("heading", name="Translate a text").wait_for()
        page.evaluate("stored => Object.assign(localStorage, stored)", stored)  # as if it had the address
        page.reload()
        page.get_by_role("heading", name="Translate a text").wait_for()


def test_labels_are_named_or_learned(
    start: Callable, pairs: Engine, open_page: Callable, monkeypatch: pytest.MonkeyPatch
):
    with start(pairs) as server:
        page = open_page(server.url)
        page.get_by_role("tab", name="Classify").click()
        write(page, "Text to classify", "win a prize")
        page.get_by_text("This model does not say which labels it has learned.").wait_for()
        page.get_by_label("Labels").fill("好，坏, so so")
        page.keyboard.press("Enter")
        page.locator("#classify .answers li").nth(2).wait_for()
        assert set(page.locator("#classify .answer").all_inner_texts()) == {"好", "坏", "so so"}
        assert all("%" in share for share in page.locator("#classify .score").all_inner_texts())
        page.reload()
        assert page.get_by_label("Labels").input_value() == "好，坏, so so"
        stored = page.evaluate("({...localStorage})")
    monkeypatch.setattr(pairs, "labels", ["ham, sure", "spam"])
    with start(pairs) as server:
        page = open_page(server.url)
        # as if it had the other's address: what is remembered of that one's labels is not of this one's
        page.evaluate("stored => Object.assign(localStorage, stored)", stored)
        page.reload()
        assert page.get_by_label("Labels").input_value() == ""
        assert page.get_by_label("Labels").get_attribute("placeholder") == "ham, sure, spam"
        write(page, "Text to classify", "win")
        page.locator("#classify .answers li").nth(1).wait_for()
        assert set(page.locator("#classify .answer").all_inner_texts()) == {"ham, sure", "spam"}
        page.get_by_label("Answers").fill("1")
        write(page, "Text to classify", "win\na prize")
        page.locator("#classify tbody li").nth(1).wait_for()
        assert page.locator("#classify tbody li").count() == 2


def test_what_a_model_cannot_do_is_disabled_and_says_why(
    start: Callable, engine: Engine, url: str, open_page: Callable, monkeypatch: pytest.MonkeyPatch
):
    page = open_page(url)
    chat = page.get_by_role("tab", name="Chat")
    chat.wait_for()
    assert chat.is_disabled()
    assert chat.get_attribute("title") == (
        "This model reads one text and writes another; it does not hold a conversation."
    )
    assert page.get_by_text("Sampling", exact=True).is_hidden()
    page.get_by_role("tab", name="Translate").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "tab-complete"
    assert page.locator("#announce").inner_text().endswith("it does not continue texts.")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Translate"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Summarize a text").wait_for()

    monkeypatch.setattr(engine, "learned", "text")
    with start(engine) as server:
        page = open_page(server.url)
        page.get_by_role("heading", name="Begin a text, the model goes on").wait_for()
        enabled = page.locator("[role=tab]:not([aria-disabled])")
        assert enabled.all_inner_texts() == ["Complete", "Classify"]
        assert page.get_by_text("Sampling", exact=True).is_visible()


def test_the_tabs_speak_chinese_on_a_phone(url: str, open_page: Callable):
    page = open_page(url, width=360, locale="zh-CN")
    write(page, "要翻译的文字", "good morning\n" + "x" * 70)
    page.get_by_text("太长了：这个模型最多读 64 个词元").wait_for()
    assert page.locator("#translate .answer").inner_text() == "早上好"
    assert page.locator("#translate .score").inner_text() == "得分 0.00"
    assert page.get_by_role("tab", name="对话").get_attribute("title").startswith("这个模型读一段文字")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
