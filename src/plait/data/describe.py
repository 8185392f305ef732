"""A batch as a person can read it: the text of its first row, with what carries no loss in brackets."""

from __future__ import annotations

from itertools import groupby

from plait.data.batch import NO_LOSS, PADDING, Batch
from plait.text.tokenizer import Tokenizer

OPEN, CLOSE = "⟦", "⟧"


def describe_batch(batch: Batch, tokenizer: Tokenizer) -> str:
    """The first row decoded, piece by piece; text that is read but not learned stands in ⟦ ⟧."""
    if batch.source is not None:
        return _pair(batch, tokenizer)
    tokens, targets = batch.tokens[0].tolist(), batch.targets[0].tolist()
    segments = [0] * len(tokens) if batch.segments is None else batch.segments[0].tolist()
    if batch.segments is None:  # one piece or one run of text: what follows its last target is padding
        used = max((at + 1 for at, target in enumerate(targets) if target != NO_LOSS), default=len(tokens))
        segments[used:] = [PADDING] * (len(tokens) - used)
    learned = sum(target != NO_LOSS for target in targets)
    padding = segments.count(PADDING)
    lines = [
        f"first row: {len(tokens)} places, {learned} tokens learned, {padding} places of padding; "
        f"{OPEN}text in brackets{CLOSE} is read but not learned"
    ]
    for segment, places in groupby(range(len(tokens)), key=lambda place: segments[place]):
        if segment != PADDING:
            row = list(places)
            lines.append(f"--- piece {segment + 1}, {len(row)} tokens")
            lines.append(_piece([tokens[at] for at in row], [targets[at] for at in row], tokenizer))
    return "\n".join(lines)


def _pair(batch: Batch, tokenizer: Tokenizer) -> str:
    """The first pair: its source and its target, without their padding."""
    assert batch.source is not None
    read = batch.source[0]
    if batch.source_positions is not None:
        read = read[batch.source_positions[0] != PADDING]
    written = batch.targets[0][batch.targets[0] != NO_LOSS]
    rows, places = batch.targets.shape
    return "\n".join(
        (
            f"first of {rows} pairs, padded to {batch.source.shape[1]} and {places} tokens: {OPEN}source"
            f"{CLOSE} is read, the target learned",
            f"--- source, {len(read)} tokens",
            f"{OPEN}{tokenizer.decode(read.tolist())}{CLOSE}",
            f"--- target, {len(written)} tokens",
            tokenizer.decode(written.tolist()),
        )
    )


def _piece(tokens: list[int], targets: list[int], tokenizer: Tokenizer) -> str:
    """The inputs and the last target; each token is learned if it was the target one place earlier."""
    flagged = [(tokens[0], False)]
    flagged += [(token, target != NO_LOSS) for token, target in zip(tokens[1:], targets)]
    if targets[-1] != NO_LOSS:
        flagged.append((targets[-1], True))
    text = ""
    for learned, run in groupby(flagged, key=lambda pair: pair[1]):
        part = tokenizer.decode([token for token, _ in run])
        text += part if learned else f"{OPEN}{part}{CLOSE}"
    return text
