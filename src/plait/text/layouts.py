"""Readers of layouts that are nobody's but their data set's: SCAN, bAbI, dialogue bAbI, ShareGPT, pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from plait.errors import InputError
from plait.text.document import Document
from plait.text.sources import Skip

EMPTY_SIDE = "pair with an empty side"
SCAN_LINE = re.compile(r"IN: (.*?) OUT: (.*)")
SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant",
}  # fmt: skip


def scan(lines: Iterable[str], name: str) -> Iterator[Document]:
    """`IN: jump twice OUT: I_JUMP I_JUMP` as `source` and `target` (Lake & Baroni 2018)."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = SCAN_LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{name}:{number} is not of the form `IN: words OUT: ACTIONS`: {line[:60]!r}")
        yield Document(f"{name}#{number}", "", {"source": match[1], "target": match[2]})


def babi(lines: Iterable[str], name: str) -> Iterator[Document]:
    """One document a question (Weston et al. 2015): `context` is every statement of the story before it.

    Earlier questions of the same story are no part of the context. `answers` has one item, as the
    benchmark counts it: a list answer such as `milk,football` stays one string. `task` is the number in
    the file name `qa8_...`, where there is one.
    """
    task = re.search(r"qa(\d+)_", name)
    extra = {"task": int(task[1])} if task else {}
    story: list[str] = []
    for number, place, turn, rest in _numbered(lines, name):
        if turn == 1:
            story = []
        question, *answer = rest.split("\t")
        if not answer:
            story.append(question.strip())
            continue
        fields = {"context": "\n".join(story), "question": question.strip(), "answers": [answer[0].strip()]}
        if not fields["question"] or not answer[0].strip():
            raise InputError(f"{place} has an empty question or answer")
        yield Document(f"{name}#{number}", "", fields | extra)


def dialog_babi(lines: Iterable[str], name: str) -> Iterator[Document]:
    """One document a dialogue (Bordes et al. 2017), as `messages` that alternate user and assistant.

    What the knowledge base returned (lines without a tab, after an `api_call`) is what the assistant sees
    before its next turn, so these lines stand in front of the next user's utterance in one message.
    """
    task = re.search(r"task(\d+)", name)
    extra = {"task": int(task[1])} if task else {}
    first, facts, messages = 0, [], []
    for number, _place, turn, rest in _numbered(lines, name):
        if turn == 1:
            if messages:
                yield Document(f"{name}#{first}", "", {"messages": messages} | extra)
            first, facts, messages = number, [], []
        user, *answer = rest.split("\t")
        if not answer:
            facts.append(user.strip())
            continue
        messages.append({"role": "user", "content": "\n".join([*facts, user.strip()])})
        messages.append({"role": "assistant", "content": answer[0].strip()})
        facts = []
    if messages:
        yield Document(f"{name}#{first}", "", {"messages": messages} | extra)


def _numbered(lines: Iterable[str], name: str) -> Iterator[tuple[int, str, int, str]]:
    """(line, place, turn, rest) of lines that begin with a turn counting from 1 in each story."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        turn, _, rest = line.strip().partition(" ")
        if not turn.isdecimal():
            raise InputError(f"{name}:{number} does not begin with a line number: {line[:60]!r}")
        yield number, f"{name}:{number}", int(turn), rest


def alpaca(row: dict[str, Any], place: str) -> dict[str, Any]:
    """`instruction`, `input` (may be missing) and `output`, checked."""
    if missing := [name for name in ("instruction", "output") if name not in row]:
        raise InputError(f"{place} lacks {missing[0]!r} of the alpaca format; found: {', '.join(row)}")
    return row


def sharegpt(row: dict[str, Any], place: str) -> dict[str, Any]:
    """`conversations` of `{from, value}` as `messages` of `{role, content}`."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise InputError(f"{place} has no list 'conversations' (sharegpt format); found: {', '.join(row)}")
    messages = []
    for turn in turns:
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        if speaker not in SPEAKERS:
            raise InputError(f"{place} has the unknown speaker {speaker!r}; known: {', '.join(SPEAKERS)}")
        messages.append({"role": SPEAKERS[speaker], "content": turn.get("value", turn.get("content"))})
    return {key: value for key, value in row.items() if key != "conversations"} | {"messages": messages}


def parallel(
    left: Iterable[str], right: Iterable[str], names: tuple[str, str], on_skip: Skip
) -> Iterator[Document]:
    """Two files, line for line, as `source` and `target`; a pair with an empty side is skipped and told.

    Raises:
        InputError: where the files differ in length.
    """
    counts = [0, 0]
    for number, (source, target) in enumerate(zip_longest(left, right), 1):
        counts = [counts[0] + (source is not None), counts[1] + (target is not None)]
        if source is None or target is None:
            continue
        if source.strip() and target.strip():
            yield Document(f"{names[0]}#{number}", "", {"source": source, "target": target})
        else:
            on_skip(f"{names[0]}:{number}", EMPTY_SIDE)
    if counts[0] != counts[1]:
        raise InputError(
            f"{names[0]} has {counts[0]} lines and {names[1]} {counts[1]}; aligned files need the same number"
        )
