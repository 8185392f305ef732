"""Finding the passages of some documents that a question is about: BM25 over words and Chinese characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from plait.errors import InputError, need
from plait.eval.language import CJK
from plait.text.document import Document

PASSAGE = 400  # characters of a passage at most
SHORT = 60  # bytes: a paragraph no longer than this, such as a heading, goes with the next
BLANK_LINE = re.compile(r"\n\s*\n")
# after a full stop and a space, after a Chinese one at once, with the quotes and brackets that it closes
SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]]))\s+"
    r"|(?:(?<=[。！？；…])|(?<=[。！？…][”’」』）]))(?![。！？；…”’」』）])"
    r"|\n"
)
RUNS = re.compile(rf"[{CJK}]+|[^\s{CJK}]+")


@dataclass(frozen=True)
class Passage:
    """A piece of a document; `source` is `file#number`, counting the passages of a file from 1."""

    source: str
    text: str


def passages(documents: Iterable[Document], size: int = PASSAGE) -> list[Passage]:
    """Documents cut at the ends of paragraphs and sentences, into pieces of at most `size` characters.

    Raises:
        InputError: there is no text in them.
    """
    counts: Counter[str] = Counter()
    found = []
    for document in documents:
        file = document.id.rpartition("#")[0] or document.id
        for text in _pieces(document.body(), size):
            counts[file] += 1
            found.append(Passage(f"{file}#{counts[file]}", text))
    if not found:
        raise InputError("the documents hold no text to answer from; name others with --documents")
    return found


def _pieces(text: str, size: int) -> Iterator[str]:
    held = ""
    for paragraph in BLANK_LINE.split(text):
        between = "\n" if held else ""
        for sentence in _sentences(paragraph, size):
            if held and len(held) + len(between) + len(sentence) > size:
                yield held
                held, between = "", ""
            held += between + sentence
            between = "" if _wide(held[-1]) else " "
        if len(held.encode(errors="replace")) > SHORT:
            yield held
            held = ""
    if held:
        yield held


def _wide(character: str) -> bool:
    """Whether it is of a script that has no spaces between words, or of its punctuation."""
    return unicodedata.east_asian_width(character) in "WF"


def _sentences(paragraph: str, size: int) -> Iterator[str]:
    """Sentences without the spaces around them; one longer than `size` is cut in pieces."""
    for sentence in filter(None, (part.strip() for part in SENTENCE_END.split(paragraph) if part)):
        yield from (sentence[at : at + size] for at in range(0, len(sentence), size))


def terms(text: str) -> list[str]:
    """What a text is found by: words without case, and of Chinese and Japanese each character and pair."""
    found = []
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(part if unicodedata.category(part)[0] in "LMN" else " " for part in folded)
    for run in RUNS.findall(words):
        if re.match(rf"[{CJK}]", run):
            found += [*run, *(first + second for first, second in pairwise(run))]
        else:
            found.append(run)
    return found


class Index:
    """Passages to search (BM25, Robertson & Zaragoza 2009, in Lucene's form).

    Raises:
        MissingExtra: without `bm25s`, of the extra `retrieval`.
    """

    def __init__(self, found: list[Passage]) -> None:
        self.passages = found
        self._index = need("bm25s", "retrieval").BM25(method="lucene", backend="numpy")
        # a term that all hold keeps the index from being empty
        self._index.index([["", *terms(one.text)] for one in found], show_progress=False)

    def search(self, question: str, count: int) -> list[Passage]:
        """At most `count` passages that share a term with the question: the best first, then the earlier."""
        wanted = terms(question)
        scores = self._index.get_scores(wanted).tolist() if wanted else []
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        return [self.passages[at] for at in order[:count] if scores[at] > 0]
