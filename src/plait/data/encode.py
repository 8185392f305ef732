"""Documents become tokens: special tokens at their ends, in batches, with a reason for each one skipped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from plait.data.fim import before_middle, cut
from plait.data.inputs import Intake
from plait.data.pairs import beginning, pair_of
from plait.data.shards import EncodedDocument
from plait.errors import ModelError, about
from plait.text.bpe_dropout import DroppingEncoder
from plait.text.document import Document
from plait.text.fitting import fitting
from plait.text.tokenizer import Tokenizer

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1 << 20
LONGEST_PIECE = 1 << 22  # characters given to the tokenizer at once, which needs about 50 bytes for each
TRUNCATE = "which data.truncate=true cuts"


def encode_texts(
    documents: Iterable[tuple[Document, bool]],
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    fim: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Running text: `<|end|>`, the tokens of the text as it is, `<|end|>`; the ends a tokenizer has.

    Each document comes and goes with whether it is held out.

    Args:
        fim: the share of documents that become prefix, suffix, middle; none of those held out, so that their
            loss compares.
        seed: of which and where, see `plait.data.fim.cut`.

    Raises:
        ModelError: `fim`, and a tokenizer without its tokens.
    """
    before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for batch in _batches(documents):
        cuts = [None if held_out or not fim else cut(doc.text, seed, fim) for doc, held_out in batch]
        pieces = [
            (parts.prefix, parts.suffix, parts.middle) if parts else (document.text,)
            for (document, _), parts in zip(batch, cuts)
        ]
        encoded = iter(_encode([piece for some in pieces for piece in some], tokenizer))
        for (document, held_out), parts in zip(batch, cuts):
            ids = next(encoded)
            if parts:
                ids = before_middle(ids, next(encoded), tokenizer) + next(encoded)
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
        characters += len(document.body())
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
    documents: Iterable[tuple[Document, bool]],
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    prompt_loss: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Conversations under the tokenizer's chat template; what the assistant says carries the loss.

    Args:
        prompt_loss: the share of all other tokens that carry one too; none of what is held out, so that its
            loss is of answers alone.
        seed: of which.
    """
    for document, held_out in documents:
        chat = _chat(document, document.record["messages"], tokenizer)
        if encoded := _learned(document, chat, tokenizer, intake, 0 if held_out else prompt_loss, seed):
            yield encoded, held_out


Chat = tuple[list[int], list[int]]  # ids, and 1 for each that carries the loss


def _chat(document: Document, messages: list[dict[str, str]], tokenizer: Tokenizer) -> Chat:
    with about(document.id):
        return tokenizer.encode_chat(messages)


def _learned(
    document: Document, chat: Chat, tokenizer: Tokenizer, intake: Intake, prompt_loss: float, seed: int
) -> EncodedDocument | None:
    """A conversation with its loss, also on a share of its prompts; None where nothing of it carries one."""
    ids, mask = chat
    if not any(mask[1:]):  # the template of a foreign model may change what was said
        intake.skip(document.id, "with no answer that the chat template repeats word for word")
        return None
    size = _answer_bytes(ids, mask, tokenizer)
    if prompt_loss:
        draw = random.Random(repr((seed, ids)))
        mask = [int(on or draw.random() < prompt_loss) for on in mask]
    return EncodedDocument(document.id, ids, mask, size)


def encode_pairs(
    documents: Iterable[tuple[Document, bool]],
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    context: int,
    truncate: bool = False,
    dropping: DroppingEncoder | None = None,
    spellings: int = 1,
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Pairs for an encoder-decoder: the source and its end, the target and its end; these carry the loss.

    Args:
        context: tokens either side may have; longer pairs are left out.
        truncate: cut them instead; of a question its context.
        dropping: what encodes the pairs to train on, each of them `spellings` times.
    """
    before, after = source_frame(tokenizer)
    ends = [end_of(tokenizer)]
    rooms = (context - len(before + after), context - len(before + ends))
    for batch in _batches(documents):
        pairs = [pair_of(document) or ("", "") for document, _ in batch]
        sides = _encode([side for pair in pairs for side in pair], tokenizer)
        for (document, held_out), texts, *plain in zip(batch, pairs, sides[::2], sides[1::2]):
            encode, spelled = tokenizer.encode_plain, [plain]
            if dropping and not held_out:
                encode = dropping.encode
                spelled = [[encode(text) for text in texts] for _ in range(spellings)]
            longer = any(len(source) > rooms[0] or len(target) > rooms[1] for source, target in spelled)
            if longer and not truncate:
                intake.skip(document.id, f"with a side longer than model.context={context}, {TRUNCATE}")
                continue
            intake.truncated += longer
            for source, target in spelled:
                words = texts[1] if len(target) <= rooms[1] else tokenizer.decode(target[: rooms[1]])
                read = [*before, *_upto(rooms[0], source, document, texts[0], encode), *after]
                written = [*before, *target[: rooms[1]], *ends]
                mask = [0] * len(read) + [1] * len(written)
                yield EncodedDocument(document.id, read + written, mask, len(words.encode())), held_out


def _upto(
    room: int, ids: list[int], document: Document, text: str, encode: Callable[[str], list[int]]
) -> list[int]:
    """The ids of a source, cut to `room` of them."""
    if len(ids) <= room or not beginning(document, text, 0):
        return ids[:room]
    end = fitting(lambda end: len(encode(beginning(document, text, end))) <= room, len(text))
    while len(ids := encode(beginning(document, text, end))) > room and end:
        end -= 1  # with merges left out at random it may be longer than it was
    return ids[:room]


def source_frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What stands before and after the tokens of a source: what the tokenizer puts there, and an end.

    Raises:
        ModelError: see `end_of`.
    """
    end, (before, after) = end_of(tokenizer), tokenizer.around
    return before, after if end in after else [*after, end]


def end_of(tokenizer: Tokenizer) -> int:
    """The token that ends a source and a target.

    Raises:
        ModelError: when there is none.
    """
    if tokenizer.eos_id is None:
        raise ModelError("this tokenizer has no end token, which a source and a target need; name another")
    return tokenizer.eos_id


def encode_as_chats(
    documents: Iterable[tuple[Document, bool]],
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    context: int,
    truncate: bool = False,
    prompt_loss: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[EncodedDocument, bool]]:
    """Pairs for a decoder: a question of the user and the assistant's answer, which carries the loss.

    Args:
        context: tokens that a pair may have; longer ones are left out.
        truncate: cut the end of their source instead; of a question that of its context.
        prompt_loss, seed: see `encode_conversations`.
    """
    for document, held_out in documents:
        chat = _fitting_chat(document, tokenizer, intake, context, truncate)
        if chat is None:
            continue
        if encoded := _learned(document, chat, tokenizer, intake, 0 if held_out else prompt_loss, seed):
            yield encoded, held_out


def _fitting_chat(
    document: Document, tokenizer: Tokenizer, intake: Intake, context: int, truncate: bool
) -> Chat | None:
    source, target = pair_of(document) or ("", "")

    def upto(end: int) -> Chat:
        return _chat(document, _turns(beginning(document, source, end), target), tokenizer)

    def fits(chat: Chat) -> bool:
        return len(chat[0]) - 1 <= context  # the last token is predicted only

    if fits(chat := upto(len(source))):
        return chat
    can_be_cut = fits(upto(0))
    if not (truncate and can_be_cut):
        intake.skip(document.id, f"longer than model.context={context}" + f", {TRUNCATE}" * can_be_cut)
        return None
    intake.truncated += 1
    return upto(fitting(lambda end: fits(upto(end)), len(source)))


def _turns(source: str, target: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": source}, {"role": "assistant", "content": target}]


def _answer_bytes(ids: list[int], mask: list[int], tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of what carries a loss, without the special tokens."""
    learned = [token for token, on in zip(ids, mask) if on and token not in tokenizer.special_ids]
    return sum(len(tokenizer.token_bytes(token)) for token in learned)
