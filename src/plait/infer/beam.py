"""Beam search over a batch, independent of the model: `beam_search` asks for logits one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plait.errors import PromptError
from plait.infer.logprobs import log_softmax, refuse_nan
from plait.infer.params import BeamParams, Hypothesis, TokenRules

NO_RULES = TokenRules()
NOTHING = -1  # fills up shorter prefixes on the left; no token's id


class _Beams(NamedTuple):
    """Sequences that are being written: `width` for each input, best first.

    Attributes:
        totals: `[inputs, width]`, sums of log-probabilities; `-inf` for a sequence that must not go on.
        tokens: `[inputs, width, time]`, the prefix (where a rule looks at it) and what was generated.
        logprobs: `[inputs, width, made]`, of the generated ones.
    """

    totals: Tensor
    tokens: Tensor
    logprobs: Tensor

    def select(self, places: Tensor) -> _Beams:
        """Of each input the beams at `places` `[inputs, new width]`; one named twice is copied."""
        index = places[:, :, None]
        return _Beams(
            self.totals.gather(1, places),
            self.tokens.take_along_dim(index, dim=1),
            self.logprobs.take_along_dim(index, dim=1),
        )

    def keep(self, inputs: list[int]) -> _Beams:
        """Only these inputs, in this order."""
        return _Beams(self.totals[inputs], self.tokens[inputs], self.logprobs[inputs])


@torch.inference_mode()
def beam_search(
    logits: Tensor,
    step: Callable[[list[int], list[int]], Tensor],
    params: BeamParams,
    *,
    ends: Collection[int],
    rooms: Sequence[int],
    prefixes: Sequence[Sequence[int]],
    rules: TokenRules = NO_RULES,
) -> list[list[Hypothesis]]:
    """The most probable continuations of each input (Graves 2012; Wu et al. 2016, section 7).

    Each step extends every unfinished sequence ("beam") of an input by every token. Of all these candidates
    the best `beams` count: those among them that end are finished, and the best `beams` that do not end go
    on. Finished ones compete by their score, see `BeamParams.length_penalty`. An input's result depends on
    its own logits alone, and of equal candidates the better beam's wins, then the lowest id, so a batch of
    any size gives the same.

    Args:
        logits: `[inputs, vocab]`, of the first new token of each input.
        step: called with `rows` and `tokens`, both `[new rows]`: row `i` of the batch becomes what row
            `rows[i]` of the last batch was (which is also how caches must be reordered), followed by
            `tokens[i]`. Returns the next logits `[new rows, vocab]`. The rows of a finished input are left
            out, so the batch shrinks.
        ends: ids that end a sequence; those outside the vocabulary are ignored, here and in `rules`.
        rooms: of each input, the most new tokens that fit, at least 1.
        prefixes: of each input, what `no_repeat_ngram` looks at before the new tokens: the prompt of a
            decoder, the start token of an encoder-decoder.
        rules: what is never generated, such as a padded head's ids, and what is first or last.

    Returns:
        For each input its best `params.n` hypotheses, best first: fewer, perhaps none, only where the rules
        leave no more than that.

    Raises:
        ModelError: the model answers with NaN.
        PromptError: an input without room.
    """
    full = next((number for number, room in enumerate(rooms) if room < 1), None)
    if full is not None:
        raise PromptError(f"input {full} fills the model's context: there is no room for a new token")
    limits = [room if params.max_tokens is None else min(room, params.max_tokens) for room in rooms]
    ending, banned, closing = (_ids(ids, logits) for ids in (ends, rules.never, rules.last))
    opening = _ids([] if rules.first is None else [rules.first], logits)
    finished: list[list[Hypothesis]] = [[] for _ in rooms]
    alive, made = list(range(len(rooms))), 0
    beams = _start(prefixes if params.no_repeat_ngram else [()] * len(rooms), logits)
    while alive:
        logprobs = _log_probabilities(logits)
        last = [made + 1 >= limits[number] for number in alive]
        if made < params.min_tokens:
            logprobs.index_fill_(1, ending, -math.inf)
        if params.no_repeat_ngram:
            ban_repeats(logprobs, beams.tokens.flatten(0, 1), params.no_repeat_ngram)
        if len(opening) and not made:
            _force(logprobs, opening, [True] * len(logprobs))
        if len(closing) and any(last):
            _force(logprobs, closing, [full for full in last for _ in range(beams.totals.shape[1])])
        logprobs.index_fill_(1, banned, -math.inf)
        # at most len(ending) candidates of a beam end, so among this many at least `beams` go on
        parents, candidates = _extend(beams, logprobs, (1 + len(ending)) * params.beams)
        made += 1
        ended = torch.isin(candidates.tokens[:, :, -1], ending)
        _finish(
            [finished[number] for number in alive], candidates, ended, last, params, forced=len(closing) > 0
        )

        going = candidates.totals.masked_fill(ended, -math.inf)
        order = going.sort(dim=1, descending=True, stable=True).indices[:, : params.beams]
        best = going.amax(1).tolist()
        keep = [
            row
            for row, number in enumerate(alive)
            if not last[row] and _can_improve(finished[number], best[row], made, params)
        ]
        alive = [alive[row] for row in keep]
        if alive:
            rows = parents.gather(1, order)[keep]
            beams = candidates._replace(totals=going).select(order).keep(keep)
            logits = step(rows.flatten().tolist(), beams.tokens[:, :, -1].flatten().tolist())
    return [hypotheses[: params.n] for hypotheses in finished]


def _force(logprobs: Tensor, ids: Tensor, rows: list[bool]) -> None:
    """Leave nothing but `ids` to `rows`, in place; they cost nothing: a sum stays as it was."""
    chosen = torch.tensor(rows, device=logprobs.device)[:, None]
    logprobs.masked_fill_(chosen, -math.inf)
    logprobs[:, ids] = logprobs[:, ids].masked_fill(chosen, 0.0)


def ban_repeats(logprobs: Tensor, tokens: Tensor, size: int) -> None:
    """Set to `-inf`, in place, what would complete a run of `size` tokens that occurred before.

    The rule of Paulus et al. (2018, section 2.5), who forbid trigrams.

    Args:
        logprobs: `[rows, vocab]`, of the next token.
        tokens: `[rows, time]`, all tokens so far, after -1 in shorter rows.
    """
    runs = tokens.shape[1] - size + 1
    if runs < 1:
        return
    followers = tokens[:, size - 1 :]
    matches = (followers >= 0) & (followers < logprobs.shape[1])
    for place in range(size - 1):  # the run's beginning against the last size - 1 tokens
        matches &= tokens[:, place : place + runs] == tokens[:, runs + place, None]
    row, run = matches.nonzero(as_tuple=True)
    logprobs[row, followers[row, run]] = -math.inf


def _ids(ids: Collection[int], logits: Tensor) -> Tensor:
    """`[ids]`: those in the vocabulary of `logits`, beside it."""
    known = sorted(id for id in set(ids) if 0 <= id < logits.shape[-1])
    return torch.tensor(known, dtype=torch.long, device=logits.device)


def _start(prefixes: Sequence[Sequence[int]], logits: Tensor) -> _Beams:
    """One beam an input, with nothing generated."""
    longest = max(map(len, prefixes), default=0)
    rows = [[NOTHING] * (longest - len(prefix)) + list(prefix) for prefix in prefixes]
    tokens = torch.tensor(rows, dtype=torch.long, device=logits.device).view(len(rows), 1, longest)
    logprobs = logits.new_zeros(len(rows), 1, 0, dtype=torch.promote_types(logits.dtype, torch.float32))
    return _Beams(logprobs.sum(2), tokens, logprobs)


def _log_probabilities(logits: Tensor) -> Tensor:
    """`[rows, vocab]`, a new tensor."""
    logprobs = log_softmax(logits)
    refuse_nan(logprobs[:, 0], logits.dtype)  # one NaN (or +inf) among the logits makes its whole row NaN
    return logprobs


def _extend(beams: _Beams, logprobs: Tensor, count: int) -> tuple[Tensor, _Beams]:
    """The best `count` continuations of each input by one token.

    Args:
        logprobs: `[inputs * width, vocab]`, of the next token of each beam.

    Returns:
        rows: `[inputs, count]`, which row of `logprobs` each continues.
        candidates: the continuations.
    """
    inputs, vocab = len(beams.totals), logprobs.shape[1]
    totals = (beams.totals.view(-1, 1) + logprobs).view(inputs, -1)
    best, places = best_places(totals, count)
    parents, tokens = places // vocab, places % vocab
    parent = beams.select(parents)
    chosen = logprobs.view(inputs, -1).gather(1, places)
    first = torch.arange(0, len(logprobs), beams.totals.shape[1], device=places.device)
    return first[:, None] + parents, _Beams(
        best,
        torch.cat((parent.tokens, tokens[:, :, None]), dim=2),
        torch.cat((parent.logprobs, chosen[:, :, None]), dim=2),
    )


def best_places(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest `count` of each row of `scores` `[rows, places]`, largest first, the first among equals.

    Returns:
        values, places: `[rows, count]`, or as many as there are.
    """
    rows, size = scores.shape
    count = min(count, size)
    values, places = scores.topk(min(count + 1, size), dim=1)
    least, tied = values[:, count - 1, None], values[:, count:] == values[:, count - 1, None]
    values, places = values[:, :count], places[:, :count]
    if bool(tied.any()):  # topk takes any of those that equal the last one, and bfloat16 logits often do
        row, place = (scores == least).nonzero(as_tuple=True)  # the first ones first
        first = torch.searchsorted(row, torch.arange(rows, device=row.device))
        rank = torch.arange(len(row), device=row.device) - first[row]
        slot = (values > least).sum(1)[row] + rank
        fits = slot < count
        places[row[fits], slot[fits]] = place[fits]
    places = places.sort(dim=1).values
    values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def _finish(
    finished: Sequence[list[Hypothesis]],
    candidates: _Beams,
    ended: Tensor,
    last: Sequence[bool],
    params: BeamParams,
    *,
    forced: bool,
) -> None:
    """Add to each input's `finished`, best first, what its best candidates finish, and keep the best `beams`.

    Args:
        ended: bool `[inputs, candidates]`: the newest token is an end token.
        last: of each input, whether there is no room for another token.
        forced: where there is no room for more, an end token is forced: no sign that all is said.
    """
    made = candidates.logprobs.shape[2]
    stops = ended[:, : params.beams].tolist()
    totals = candidates.totals[:, : params.beams].tolist()
    for row, hypotheses in enumerate(finished):
        for place, (stop, total) in enumerate(zip(stops[row], totals[row])):
            if not (stop or last[row]) or total == -math.inf:
                continue
            score = total / made**params.length_penalty
            if len(hypotheses) == params.beams and score <= hypotheses[-1].score:
                continue
            tokens = candidates.tokens[row, place, -made:].tolist()
            hypotheses.append(
                Hypothesis(
                    tokens=tokens[:-1] if stop else tokens,
                    score=score,
                    logprobs=candidates.logprobs[row, place].tolist(),
                    finish_reason="stop" if stop and not (forced and last[row]) else "length",
                )
            )
            hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
            del hypotheses[params.beams :]


def _can_improve(finished: Sequence[Hypothesis], best: float, made: int, params: BeamParams) -> bool:
    """Whether going on from an unfinished sequence with the sum `best` could change an input's result."""
    if best == -math.inf:
        return False
    if len(finished) < params.beams:
        return True
    return not params.early_stopping and best / made**params.length_penalty > finished[-1].score
