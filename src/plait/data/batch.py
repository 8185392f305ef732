"""Rows become tensors: inputs, targets, and the positions and segments that keep documents apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plait.data.source import Source

NO_LOSS = -100  # the target that cross-entropy ignores
PADDING = -1  # the segment of positions that hold nothing


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, each `context` long.

    Attributes:
        tokens: inputs, int64 `[batch, time]`.
        targets: the token to predict at each place, int64 `[batch, time]`; -100 where there is no loss.
        positions: int64 `[batch, time]`, from 0 at the start of each piece of a document; None: 0, 1, 2, ...
        segments: int64 `[batch, time]`, the number of the piece within its row, -1 for padding; a token
            attends within its segment only. None: each row is one sequence (padding, if any, is at its end,
            where causal attention cannot see it).
        rows: the row number within its source, for each row.
        sources: the name of the source, for each row.
        held: bool `[batch, time]`, false where a place is padding; None: no place is.
        source, source_positions: of pairs, what is read before `tokens` are written, int64 `[batch, time']`,
            and where its tokens stand, -1 where a place is padding.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None
    segments: Tensor | None
    rows: list[int]
    sources: list[str]
    read_ids: Callable[[], list[str]] = list
    held: Tensor | None = None
    source: Tensor | None = None
    source_positions: Tensor | None = None

    def document_ids(self) -> list[str]:
        """The ids of the documents in this batch, each once, in order of appearance; for messages."""
        return self.read_ids()

    def target_tokens(self) -> int:
        """How many places carry a loss."""
        return int((self.targets != NO_LOSS).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""
        return self._each(lambda x: x.to(device))

    def take(self, index: Tensor) -> Batch:
        """The places `index` of every row."""
        return self._each(lambda x: x[:, index])

    def padded(self, multiple: int) -> Batch:
        """Pairs with padding up to lengths that are multiples, where time is to be cut evenly."""
        assert self.source is not None

        def longer(x: Tensor, value: int) -> Tensor:
            return F.pad(x, (0, -x.shape[1] % multiple), value=value)

        places = self.source_positions
        if places is None:
            places = torch.arange(self.source.shape[1], device=self.source.device).expand_as(self.source)
        targets = longer(self.targets, NO_LOSS)
        return replace(
            self,
            tokens=longer(self.tokens, 0),
            targets=targets,
            held=targets != NO_LOSS,
            source=longer(self.source, 0),
            source_positions=longer(places, PADDING),
        )

    def twice(self) -> Batch:
        """Every row a second time, below all of them."""
        doubled = self._each(lambda x: torch.cat((x, x)))
        return replace(doubled, rows=2 * self.rows, sources=2 * self.sources)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        names = ("tokens", "targets", "positions", "segments", "held", "source", "source_positions")
        tensors = {name: getattr(self, name) for name in names}
        return replace(
            self, **{name: value if value is None else change(value) for name, value in tensors.items()}
        )


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step needs: this rank's micro-batches and the loss tokens of *all* ranks."""

    microbatches: list[Batch]
    target_tokens: int

    def twice(self) -> StepBatch:
        """Every row twice in its micro-batch."""
        return StepBatch([batch.twice() for batch in self.microbatches], 2 * self.target_tokens)

    def document_ids(self) -> list[str]:
        """The ids of the documents in this rank's micro-batches; for messages."""
        return list(dict.fromkeys(name for batch in self.microbatches for name in batch.document_ids()))


def make_batch(picks: Sequence[tuple[Source, int]], *, attend_across: bool = False) -> Batch:
    """Lay out rows, each given as a source and its row number there.

    Args:
        attend_across: let the documents of a row attend to each other: positions run on, no segments.
    """
    if picks[0][0].shards.start_id is not None:
        return make_pairs(picks)
    time = picks[0][0].rows.context
    shape = (len(picks), time)
    tokens = np.empty(shape, np.int64)
    targets = np.full(shape, NO_LOSS, np.int64)
    positions = np.zeros(shape, np.int64)
    segments = np.full(shape, PADDING, np.int64)
    alone = True
    for line, (source, row) in enumerate(picks):
        tokens[line] = source.shards.pad_id
        pieces = source.rows.pieces(row)
        alone = alone and len(pieces) == 1
        at = 0
        for segment, (document, start, length) in enumerate(pieces.tolist()):
            to = at + length
            stored = source.shards.read(document, start, start + length + 1).astype(np.int64)
            mask = source.shards.read_mask(document, start + 1, start + length + 1)
            tokens[line, at:to] = stored[:-1]
            targets[line, at:to] = stored[1:] if mask is None else np.where(mask, stored[1:], NO_LOSS)
            positions[line, at:to] = np.arange(length)
            segments[line, at:to] = segment
            at = to
    plain = alone or attend_across
    held = segments != PADDING
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        positions=None if plain else torch.from_numpy(positions),
        segments=None if plain else torch.from_numpy(segments),
        rows=[row for _, row in picks],
        sources=[source.name for source, _ in picks],
        read_ids=lambda: _document_ids(picks),
        held=None if held.all() else torch.from_numpy(held),
    )


def make_pairs(picks: Sequence[tuple[Source, int]]) -> Batch:
    """Lay out pairs, one a row; a batch is as long as its longest pair needs."""
    rows = [pair_in(source, row) for source, row in picks]
    lines = len(rows)
    shards = picks[0][0].shards
    assert shards.start_id is not None
    read = np.full((lines, max(len(source) for source, _ in rows)), shards.pad_id, np.int64)
    places = np.full(read.shape, PADDING, np.int64)
    targets = np.full((lines, max(len(target) for _, target in rows)), NO_LOSS, np.int64)
    tokens = np.full(targets.shape, shards.pad_id, np.int64)
    for line, (source, target) in enumerate(rows):
        read[line, : len(source)], places[line, : len(source)] = source, np.arange(len(source))
        targets[line, : len(target)] = target
        tokens[line, : len(target)] = [shards.start_id, *target[:-1]]
    held = targets != NO_LOSS
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        positions=None,
        segments=None,
        rows=[row for _, row in picks],
        sources=[source.name for source, _ in picks],
        read_ids=lambda: _document_ids(picks),
        held=None if held.all() else torch.from_numpy(held),
        source=torch.from_numpy(read),
        source_positions=None if (places >= 0).all() else torch.from_numpy(places),
    )


def pair_in(source: Source, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of a row of pairs, int64 `[time]` each, with what ends them."""
    ((document, _, _),) = source.rows.pieces(row).tolist()
    ids, mask = source.shards.read(document), source.shards.read_mask(document)
    assert mask is not None
    first = int(mask.argmax())
    return ids[:first].astype(np.int64), ids[first:].astype(np.int64)


def _document_ids(picks: Sequence[tuple[Source, int]]) -> list[str]:
    names: dict[str, None] = {}
    for source, row in picks:
        names |= dict.fromkeys(source.shards.document_ids(source.rows.pieces(row)[:, 0]))
    return list(names)


def evaluation_batches(source: Source, batch_size: int, *, attend_across: bool = False) -> Iterator[Batch]:
    """All rows of a source, in order, each exactly once; the last batch may be smaller."""
    for number in range(-(-source.rows.count // batch_size)):
        yield evaluation_batch(source, number, batch_size, attend_across=attend_across)


def evaluation_batch(
    source: Source, number: int, batch_size: int, *, rows: int = 0, attend_across: bool = False
) -> Batch:
    """One of `evaluation_batches`, of the first `rows` rows (0: of all)."""
    last = min((number + 1) * batch_size, rows or source.rows.count, source.rows.count)
    taken = range(number * batch_size, last)
    return make_batch([(source, row) for row in taken], attend_across=attend_across)
