"""Documents become tokens: special tokens at their ends, in batches, with a reason for each one skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plait.data.inputs import Intake, pair_of
from plait.data.shards import EncodedDocument
from plait.errors import InputError, ModelError
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1 << 20
LONGEST_PIECE = 1 << 22  # characters given to the tokenizer at once, which needs about 50 bytes for each


def encode_texts(
    documents: Iterable[tuple[Document, bool]], tokenizer: Tokenizer, intake: Intake
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Running text: `<|end|>`, the tokens of the text as it is, `<|end|>`; the ends a tokenizer has.

    Each document comes and goes with whether it is held out.
    """
    before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for batch in _batches(documents):
        encoded = _encode([document.text for document, _ in batch], tokenizer)
        for (document, held_out), ids in zip(batch, encoded):
            if len(before) + len(ids) + len(after) < 2:
                intake.skip(document.id, "too short to predict anything")
                continue
            size = len(document.text.encode())
            yield EncodedDocument(document.id, before + ids + after, None, size), held_out


def _batches(documents: Iterable[tuple[Document, bool]]) -> Iterator[list[tuple[Document, bool]]]:
    """As many documents as are worth encoding at once."""
    batch, characters = [], 0
    for document, held_out in documents:
        batch.append((document, held_out))
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
    documents: Iterable[tuple[Document, bool]], tokenizer: Tokenizer, intake: Intake
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Conversations under the tokenizer's chat template; only what the assistant says carries a loss."""
    for document, held_out in documents:
        try:
            ids, mask = tokenizer.encode_chat(document.record["messages"])
        except InputError as error:
            raise InputError(f"{document.id}: {error}") from None
        if not any(mask[1:]):  # the template of a foreign model may change what was said
            intake.skip(document.id, "with no answer that the chat template repeats word for word")
            continue
        yield EncodedDocument(document.id, ids, mask, _answer_bytes(ids, mask, tokenizer)), held_out


def encode_pairs(
    documents: Iterable[tuple[Document, bool]],
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    context: int,
    truncate: bool = False,
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Pairs for an encoder-decoder: the source and its end, the target and its end; these carry the loss.

    Args:
        context: tokens either side may have; longer pairs are left out.
        truncate: cut them instead.
    """
    end = end_of(tokenizer)
    for batch in _batches(documents):
        pairs = [pair_of(document) for document, _ in batch]
        sides = _encode([side for pair in pairs if pair for side in pair], tokenizer)
        for (document, held_out), pair, source, target in zip(batch, pairs, sides[::2], sides[1::2]):
            assert pair is not None
            size = len(pair[1].encode())
            if max(len(source), len(target)) >= context:
                if not truncate:
                    intake.skip(document.id, f"with a side longer than model.context={context}")
                    continue
                intake.truncated += 1
                source, target = source[: context - 1], target[: context - 1]
                size = len(tokenizer.decode(target).encode())
            mask = [0] * (len(source) + 1) + [1] * (len(target) + 1)
            yield EncodedDocument(document.id, [*source, end, *target, end], mask, size), held_out


def end_of(tokenizer: Tokenizer) -> int:
    """The token that ends a source and a target.

    Raises:
        ModelError: when there is none.
    """
    if tokenizer.eos_id is None:
        raise ModelError("this tokenizer has no end token, which a source and a target need; name another")
    return tokenizer.eos_id


def encode_as_chats(
    documents: Iterable[tuple[Document, bool]], tokenizer: Tokenizer, intake: Intake
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Pairs for a decoder: a question of the user and the assistant's answer, which carries the loss."""

    def conversations() -> Iterator[tuple[Document, bool]]:
        for document, held_out in documents:
            source, target = pair_of(document) or ("", "")
            turns = [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
            yield Document(document.id, "", {"messages": turns}), held_out

    return encode_conversations(conversations(), tokenizer, intake)


def _answer_bytes(ids: list[int], mask: list[int], tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of what carries a loss, without the special tokens."""
    learned = [token for token, on in zip(ids, mask) if on and token not in tokenizer.special_ids]
    return sum(len(tokenizer.token_bytes(token)) for token in learned)
