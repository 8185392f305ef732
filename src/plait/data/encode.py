"""Documents become tokens: special tokens at their ends, in batches, with a reason for each one skipped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from plait.data.shards import EncodedDocument
from plait.errors import InputError
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1 << 20
LONGEST_PIECE = 1 << 22  # characters given to the tokenizer at once, which needs about 50 bytes for each


@dataclass
class Intake:
    """What came in: how many documents, what was skipped and why, and the split key of each that was not."""

    documents: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # the first of each reason
    keys: array = field(default_factory=lambda: array("q"))

    def count(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on, counted."""
        for document in documents:
            self.documents += 1
            yield document

    def skip(self, where: str, reason: str) -> None:
        """Count what is left out; the signature of a reader's `on_skip`."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, where)

    def summary(self) -> str:
        """`"3 empty (a.jsonl#1, ...), 1 not a conversation (...)"`."""
        return ", ".join(
            f"{n} {reason} (first: {self.examples[reason]})" for reason, n in self.skipped.items()
        )


def encode_texts(
    documents: Iterable[tuple[Document, int]], tokenizer: Tokenizer, intake: Intake
) -> Iterator[EncodedDocument]:
    """Running text: `<|end|>`, the tokens of the text as it is, `<|end|>`; the ends a tokenizer has."""
    before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for batch in _batches(documents, intake):
        encoded = _encode([document.text for document, _, _ in batch], tokenizer)
        for (document, key, size), ids in zip(batch, encoded):
            if len(before) + len(ids) + len(after) < 2:
                intake.skip(document.id, "too short to predict anything")
                continue
            intake.keys.append(key)
            yield EncodedDocument(document.id, before + ids + after, None, size)


def _batches(
    documents: Iterable[tuple[Document, int]], intake: Intake
) -> Iterator[list[tuple[Document, int, int]]]:
    """Documents that have text, with their keys and UTF-8 bytes, as many as are worth encoding at once."""
    batch, characters = [], 0
    for document, key in documents:
        if not document.text:
            others = f", but with {', '.join(sorted(document.record))}" if document.record else ""
            intake.skip(document.id, f"without text{others}")
            continue
        try:
            size = len(document.text.encode())
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no character
            intake.skip(document.id, "not valid Unicode")
            continue
        batch.append((document, key, size))
        characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    if max(map(len, texts)) <= LONGEST_PIECE or not _cuts_cleanly(tokenizer):
        return tokenizer.encode_batch(texts)
    return [[token for ids in tokenizer.encode_batch(_slices(text)) for token in ids] for text in texts]


def _cuts_cleanly(tokenizer: Tokenizer) -> bool:
    """Whether text encoded in slices decodes to itself; some tokenizers put a space before each slice."""
    ids = tokenizer.encode_batch(["one\n", "two"])
    return tokenizer.decode(ids[0] + ids[1]) == "one\ntwo"


def _slices(text: str) -> list[str]:
    """A text in pieces that memory can hold, cut where a line begins if there is one.

    There our tokenizers cut anyway, so the tokens are those of the whole.
    """
    slices, at = [], 0
    while len(text) - at > LONGEST_PIECE:
        half, to = at + LONGEST_PIECE // 2, at + LONGEST_PIECE
        newline = text.rfind("\n", half, to)
        while newline >= 0 and text[newline + 1].isspace():
            newline = text.rfind("\n", half, newline)
        slices.append(text[at : newline + 1 or to])
        at += len(slices[-1])
    return [*slices, text[at:]]


def encode_conversations(
    documents: Iterable[tuple[Document, int]], tokenizer: Tokenizer, intake: Intake
) -> Iterator[EncodedDocument]:
    """Conversations under the tokenizer's chat template; only what the assistant says carries a loss."""
    for document, key in documents:
        messages = document.record.get("messages")
        if not messages:
            intake.skip(
                document.id, f"without messages, but with {', '.join(sorted(document.record)) or 'text'}"
            )
            continue
        try:
            ids, mask = tokenizer.encode_chat(messages)
        except InputError as error:
            raise InputError(f"{document.id}: {error}") from None
        if not any(mask[1:]):
            intake.skip(document.id, "without a word of the assistant")
            continue
        intake.keys.append(key)
        yield EncodedDocument(document.id, ids, mask, _answer_bytes(ids, mask, tokenizer))


def _answer_bytes(ids: list[int], mask: list[int], tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of what carries a loss, without the special tokens."""
    learned = [token for token, on in zip(ids, mask) if on and token not in tokenizer.special_ids]
    return sum(len(tokenizer.token_bytes(token)) for token in learned)
