"""The report page: complete, escaped, small, and free of anything from the network."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plait.errors import InputError
from plait.recipes import charts
from plait.recipes.report import read_log, render, spread, write_report

VOID = {"meta", "line", "circle", "path"}


class Tags(HTMLParser):
    """Checks that tags nest, and keeps what text and attributes the page has."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.text, self.attributes, self.names = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def row(step: int, **changes) -> dict:
    values = {
        "step": step,
        "stage": "pretrain" if step < 4 else "tune",
        "tokens": 100 * step,
        "loss": 3 / step,
        "accuracy": 0.1,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 4000.0 + step,
        "peak_share": 0.6,
    }
    return values | changes


def write_run(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder


def page(run: Path) -> tuple[str, Tags]:
    text = write_report(run).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return text, tags


@pytest.fixture
def run(tmp_path):
    sampled = row(3, val_loss=1.25, val_bits_per_byte=0.9, val_by={"english": 1.0, "中文": 1.5})
    sampled["samples"] = ["<script>alert(1)</script>", "床前明月光"]
    run = write_run(tmp_path / "诗 & <run>", [row(1), row(2), sampled, row(4), row(5)])
    (run / "recipe.yaml").write_text("data: {text: 诗/*.txt}\nsecret: <b>\n", encoding="utf-8")
    (run / "data").mkdir()
    report = {"context": 64, "sources": {"a": {"bytes": 5_000_000}, "b": {"bytes": 7}}}
    (run / "data" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    scores = {"results": [{"task": "perplexity", "value": 2.5, "interval": [2.4, 2.6]}]}
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return run


def test_the_page_holds_everything_of_the_run(run):
    text, tags = page(run)
    shown = "\n".join(tags.text)
    for expected in (
        "诗 & <run>", "loss (nats per token)", "validation loss by source", "中文", "床前明月光",
        "tokens per second", "gradient norm", "learning rate", "tune", "1.250 (step 3)", "4,003",
        "5,000,000", "2.4, 2.6", "data: {text: 诗/*.txt}",
    ):  # fmt: skip
        assert expected in shown
    assert "auxiliary loss" not in shown
    assert text.count("<svg") == 8


def test_text_of_users_and_models_never_becomes_markup(run):
    text, tags = page(run)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "b" not in tags.names


def test_the_page_needs_no_network(run):
    text, tags = page(run)
    assert not [one for one in tags.attributes if one[1] in ("src", "href")]
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_long_run_stays_a_small_page(tmp_path):
    rows = [row(step, loss=2 + math.sin(step)) for step in range(1, 20_001)]
    rows[12_345]["loss"] = 50.0
    short, _ = page(write_run(tmp_path / "short", rows[:2000]))
    text, _ = page(write_run(tmp_path / "long", rows))
    assert len(text) < 1.5 * len(short) < 400_000
    assert "50.0" in text  # the spike is still drawn


def test_one_row_and_values_that_are_no_number(tmp_path):
    text, _ = page(write_run(tmp_path / "one", [row(1)]))
    assert "loss (nats per token)" in text
    run = write_run(tmp_path / "gaps", [row(1, loss=math.nan), row(2, loss=math.inf), row(3, loss=1.0)])
    text, _ = page(run)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower()


def test_a_line_cut_off_by_a_kill_is_left_out_and_damage_is_named(tmp_path):
    run = write_run(tmp_path / "cut", [row(1), row(2, samples=["a\u2028b\x85c"])])  # no ends of lines
    log = run / "log.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"step": 3, "lo', encoding="utf-8")
    assert [one["step"] for one in read_log(run)] == [1, 2]
    log.write_text('{"step": 1}\nnonsense\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl:2 is not a row of a training log: 'nonsense'"):
        read_log(run)
    log.write_text("", encoding="utf-8")
    assert read_log(run) == []
    with pytest.raises(InputError, match="holds no row yet; train at least one step"):
        write_report(run)


def test_smoothing_is_unbiased_and_keeps_gaps():
    assert charts.smooth([4.0, 4.0, 4.0], 10) == pytest.approx([4.0, 4.0, 4.0])
    smoothed = charts.smooth([1.0, math.nan, 3.0], 2)
    assert math.isnan(smoothed[1])
    assert 1.0 < smoothed[2] < 3.0


def test_thinning_keeps_ends_and_extremes():
    values = [0.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    thinned = charts.thin(charts.Series("x", range(5000), values))
    assert len(thinned.steps) <= 1.1 * charts.POINTS
    assert (thinned.steps[0], thinned.steps[-1]) == (0, 4999)
    assert {1234, 4321} < set(thinned.steps)
    assert list(thinned.steps) == sorted(thinned.steps)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 5, [1, 2, 3, 4, 5]), (-3e-4, 3e-4, [-2e-4, 0, 2e-4])],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_towering_values_get_a_logarithmic_scale_only_where_allowed():
    series = [charts.Series("norm", range(100), [1.0] * 99 + [500.0])]
    span = (0, 99)
    assert "(logarithmic)" in charts.line_chart("norm", series, span=span, may_be_log=True)
    assert "(logarithmic)" not in charts.line_chart("norm", series, span=span)
    assert charts.line_chart("empty", [], span=span) == ""


def test_any_json_is_rendered_escaped():
    assert render({"a": {"x": 1}, "b": {"x": None}}).count("<tr>") == 3
    assert render(["<i>", True]) == "<div>&lt;i&gt;</div><div>yes</div>"
    assert render([1, 2.5]) == "1, 2.5"


def test_spread_keeps_first_and_last():
    rows = [{"step": step} for step in range(100)]
    assert [one["step"] for one in spread(rows, 4)] == [0, 33, 66, 99]
    assert spread(rows[:3], 4) == rows[:3]
