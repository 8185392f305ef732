"""One sequence's tokens become text: whole characters, held back while they may still be a stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from plait.infer.params import Delta, TokenLogprob


class StreamDecoder(Protocol):
    """What turns token ids into whole characters (see the tokenizer)."""

    def push(self, token: int, /) -> str: ...

    def flush(self) -> str: ...


def find_stop(text: str, stops: Sequence[str]) -> int:
    """Where the earliest stop string begins in `text`; -1 if there is none."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the beginning of a stop string."""
    longest = min(max(map(len, stops), default=0) - 1, len(text))
    for length in range(longest, 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class Writer:
    """Collects a sequence; `push` and `finish` return the text and tokens that are certain by now.

    A token is handed out with the last of its text. Of a stop string nothing is handed out, neither its
    text nor the tokens that begin in it.
    """

    def __init__(self, decoder: StreamDecoder, stops: Sequence[str]) -> None:
        self._decoder, self._stops = decoder, stops
        self._held = ""  # decoded, not handed out
        self._decoded = 0  # characters decoded so far
        self._released = 0  # characters handed out so far
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()  # begins at, complete at, token
        self.stopped = False

    def push(self, token: TokenLogprob) -> tuple[str, list[TokenLogprob]]:
        """Add a token. `stopped` tells afterwards whether it completed a stop string."""
        begin = self._decoded
        added = self._decoder.push(token.id)
        # a token that completes no character goes with the next one
        self._waiting.append((begin, begin + max(len(added), 1), token))
        self._decoded += len(added)
        self._held += added
        at = find_stop(self._held, self._stops) if added else -1
        if at >= 0:
            self.stopped = True
            return self._cut(at)
        return self._release(len(self._held) - held_back(self._held, self._stops))

    def finish(self) -> tuple[str, list[TokenLogprob]]:
        """The rest, when the sequence ends without a stop string."""
        added = self._decoder.flush()
        self._held += added
        self._decoded += len(added)
        at = find_stop(self._held, self._stops) if added else -1
        if at >= 0:
            self.stopped = True
            return self._cut(at)
        text, tokens = self._held, [token for _, _, token in self._waiting]
        self._held, self._released = "", self._decoded
        self._waiting.clear()
        return text, tokens

    def _release(self, length: int) -> tuple[str, list[TokenLogprob]]:
        text, self._held = self._held[:length], self._held[length:]
        self._released += length
        tokens = []
        while self._waiting and self._waiting[0][1] <= self._released:
            tokens.append(self._waiting.popleft()[2])
        return text, tokens

    def _cut(self, at: int) -> tuple[str, list[TokenLogprob]]:
        end = self._released + at
        text, self._held = self._held[:at], ""
        self._released = end
        tokens = [token for begin, _, token in self._waiting if begin < end]
        self._waiting.clear()
        return text, tokens


def advance(writer: Writer, index: int, token: TokenLogprob, ends: bool, last: bool) -> Delta:
    """What a new token means for its sequence."""
    if ends:
        return Delta(index, *writer.finish(), "stop")
    text, tokens = writer.push(token)
    if writer.stopped:
        return Delta(index, text, tokens, "stop")
    if not last:
        return Delta(index, text, tokens)
    rest, others = writer.finish()
    return Delta(index, text + rest, tokens + others, "stop" if writer.stopped else "length")
