"""The guides' stories: every command and snippet runs as it stands, on made data, with shortened recipes."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from plait.cli import main

ROOT = Path(__file__).resolve().parents[2]
QUICK = "train.epochs=1 train.threads=1 train.dtype=float32 train.compile=false train.tensorboard=false"
SMALL = "model.width=32 model.layers=1 model.ffn=32"
BOTH = f"{QUICK} {SMALL} model.encoder_layers=1"  # for an encoder-decoder
SHORT = {  # the same stories, shorter; `\1` is the command
    r"(plait train (?:translate|answer|classify) .*)": rf"\1 {BOTH}",
    r"(plait train (?:summarize|complete) .*)": rf"\1 {QUICK} {SMALL} model.context=256",
    r"(plait train chat .*model.from=\S+)": rf"\1 {QUICK}",
    r"(plait train mood.yaml)": rf"\1 {QUICK}",
    r"(plait serve .*)": r"\1 --port 0",
}
NAMES, PLACES = (
    ("Anna", "Ben", "Clara", "David", "Emma", "Felix"),
    ("garden", "kitchen", "library", "harbour"),
)
PEOPLE, ROOMS = ("小明", "小红", "小华", "小丽"), ("花园", "厨房", "学校", "商店")
MOODS = {"good": ("lovely", "great", "bright"), "bad": ("awful", "cold", "rude")}
THINGS = ("room", "soup", "film", "staff", "garden", "view")
CODE = '''def area_{0}(radius):
    """Area of a circle."""
    result = {0} * radius * radius
    return result
'''


def table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A `.csv` file."""
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def records(name: str, rows: Sequence[dict]) -> None:
    """A `.jsonl` file."""
    lines(name, [json.dumps(row, ensure_ascii=False) for row in rows])


def lines(name: str, texts: Sequence[str]) -> None:
    """A file of plain lines."""
    Path(name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def translate() -> None:
    rows = [(f"{name} is in the {place}.", f"{name}在{room}。") for name, (place, room) in people()]
    table("pairs.csv", ("english", "chinese"), rows[:20])
    table("test.csv", ("english", "chinese"), rows[20:])
    lines("letters.txt", [english for english, _ in rows[:2]])


def summarize() -> None:
    rows = [
        (f"Dear all, the {thing} of {name} is here now.", thing) for thing, name in product(THINGS, NAMES)
    ]
    table("mails.csv", ("body", "subject"), rows[:30])
    table("test.csv", ("body", "subject"), rows[30:])
    lines("mails.txt", [body for body, _ in rows[:2]])
    records("mails.jsonl", [{"text": body} for body, _ in rows[:2]])
    lines("first-lines.txt", [body for body, _ in rows[30:]])
    lines("subjects-of-test.txt", [subject for _, subject in rows[30:]])


def answer() -> None:
    rows = [(f"{name} is in the {place}.", f"Where is {name}?", place) for name, (place, _) in people()]
    rows += [(f"{who}在{where}。", f"{who}在哪里？", where) for who, where in product(PEOPLE, ROOMS)]
    table("train.csv", ("context", "question", "answers"), rows[:-6])
    table("test.csv", ("context", "question", "answers"), rows[-6:])
    table("faq.csv", ("question", "answers"), [row[1:] for row in rows])
    lines("letter.txt", ["这封信是小红写的。"])
    records("questions.jsonl", [{"context": rows[0][0], "question": rows[0][1]}, {"question": rows[1][1]}])
    Path("notes").mkdir()
    lines("notes/letters.txt", ["这封信是小红写的。", "", "小明住在学校。"])


def classify() -> None:
    works("train", "complete", "data.text=my-folder", *QUICK.split(), *SMALL.split())  # as another guide does
    rows = [
        (f"The {thing} was {word}.", mood)
        for mood, some in MOODS.items()
        for thing, word in product(THINGS, some)
    ]
    table("reviews.csv", ("review", "mood"), rows[::2])
    table("test.csv", ("review", "mood"), rows[1::2])
    lines("reviews.txt", [review for review, _ in rows[:2]])
    records("reviews.jsonl", [{"text": review, "stars": 3} for review, _ in rows[:2]])
    chinese = [
        (f"{room}真{how}。", label) for room, (how, label) in product(ROOMS, (("香", "好评"), ("暗", "差评")))
    ]
    table("pinglun.csv", ("评论", "评价"), chinese)


def chat() -> None:
    said = [
        ("user", "Where is {}?"),
        ("assistant", "In the {}."),
        ("user", "Sure?"),
        ("assistant", "Yes, {}."),
    ]
    talks = [
        {
            "messages": [
                {"role": role, "content": text.format(name if role == "user" else place)}
                for role, text in said
            ]
        }
        for name, (place, _) in people()
    ]
    records("talks.jsonl", talks)
    records("test.jsonl", talks[-3:])
    records("asked.jsonl", [{"messages": talk["messages"][:1]} for talk in talks[:2]])


def complete() -> None:
    lines("held-out.txt", ["The lantern lies behind the bridge."])
    Path("src/shapes").mkdir(parents=True)
    for n in range(6):
        lines(f"src/shapes/circle{n}.py", [CODE.format(10 * n + at) for at in range(4)])
    lines("held-out.py", [CODE.format(70), CODE.format(71)])
    lines("beginnings.txt", ["The lantern", "Nobody saw"])


def people() -> Iterator[tuple[str, tuple[str, str]]]:
    """Names and places, these in both languages."""
    return product(NAMES, zip(PLACES, ROOMS))


GUIDES = {made.__name__: made for made in (translate, summarize, answer, classify, chat, complete)}


def blocks(guide: str) -> list[tuple[str, str]]:
    """(language, text) of a guide's blocks of code, shortened."""
    story = (ROOT / "docs/guides" / f"{guide}.md").read_text(encoding="utf-8").replace("\\\n", "")
    for long, short in SHORT.items():
        story = re.sub(rf"^{long}", short, story, flags=re.MULTILINE)
    return re.findall(r"^```(sh|yaml|python)\n(.*?)^```", story, flags=re.DOTALL | re.MULTILINE)


def test_every_guide_has_a_story():
    assert {path.stem for path in (ROOT / "docs/guides").glob("*.md")} == set(GUIDES)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_runs_word_for_word(guide, plait, tmp_path, own_text, wait_until, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    own_text(tmp_path / "my-folder")
    GUIDES[guide]()
    server, asked = None, 0
    for language, text in blocks(guide):
        if language == "yaml":
            Path(text.partition("\n")[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{guide}.md", "exec"), {})
        for line in text.splitlines() if language == "sh" else ():
            program, *words = shlex.split(line, comments=True)
            if words[0] == "serve":  # the one command that does not end
                server = plait.start(*words, cwd=tmp_path)
            elif program == "plait":
                assert words[0] != "train" or QUICK.split()[0] in words, "SHORT knows nothing of it"
                works(*words)
            else:
                assert program == "curl"
                with ready(server, wait_until) as url:
                    ask(words, url)
                asked += 1
    assert asked == 1
    assert capsys.readouterr().out.strip()


def works(*words: str) -> None:
    """Run a command that must succeed."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert not left.value.code, words


@contextmanager
def ready(server, wait_until) -> Iterator[str]:
    """The address of a server that answers; it is stopped behind what is asked of it."""
    try:
        wait_until(lambda: "(Ctrl-C stops)" in server.stderr or not server.alive, "the server")
        yield server.stderr.split(" at ")[-1].split(" (Ctrl-C")[0]
    finally:
        server.kill(signal.SIGINT)
        server.wait()


def ask(words: list[str], url: str) -> None:
    """Send what `curl` would, and look for an answer."""
    address = words[0].replace("http://127.0.0.1:8000", url)
    body, header = words[words.index("-d") + 1], words[words.index("-H") + 1]
    name, _, value = header.partition(": ")
    request = urllib.request.Request(address, body.encode(), {name: value})
    with urllib.request.urlopen(request, timeout=30) as reply:
        said = json.loads(reply.read())
    assert said.get("results") or said.get("choices")


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_outputs_made_elsewhere_are_scored(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("out.txt", "ref.txt", "other.txt"):
        lines(name, ["小红在花园。", f"Anna is in the {name}."])
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^plait (evaluate --hypotheses .*)", text, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        works(*shlex.split(command))
    shown = capsys.readouterr().out
    assert all(metric in shown for metric in ("bleu", "chrf", "rougeL", "other.txt (second)"))
