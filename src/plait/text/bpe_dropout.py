"""BPE-dropout (Provilkov et al. 2020): words cut into other pieces each time, as merges are left out."""

from __future__ import annotations

import json
import random
from itertools import groupby, pairwise

from tokenizers import Tokenizer as Backend

from plait.errors import ConfigError
from plait.text.tokenizer import Tokenizer

DRAWN = 32  # segmentations that are drawn of a word, of which each later occurrence takes one

Ids = tuple[int, ...]


class DroppingEncoder:
    """Encodes as `Tokenizer.encode_plain` does, but for merges left out at random.

    Args:
        dropout: the probability that a possible merge is left out; 0 is the tokenizer itself.
        seed: of the draws; the same texts in the same order are cut in the same way.

    Raises:
        ConfigError: a tokenizer without merges.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float, seed: int) -> None:
        definition = json.loads(tokenizer.backend.to_str())
        model = definition["model"]
        if model["type"] != "BPE" or not model["merges"]:
            raise ConfigError(
                f"data.bpe_dropout={dropout:g} leaves out merges, and this tokenizer has none; use kind: bpe"
            )
        vocab = model["vocab"]
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        # of two neighbours: how early their merge comes, and what it makes
        self._merges = {
            (vocab[first], vocab[second]): (rank, vocab[first + second])
            for rank, (first, second) in enumerate(pairs)
        }
        model["merges"], model["ignore_merges"] = [], False
        self._characters = Backend.from_str(json.dumps(definition))
        self._characters.encode_special_tokens = True
        self._dropout, self._random = dropout, random.Random(seed)
        self._drawn: dict[Ids, list[Ids]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which the spelling of a special token is text like any other."""
        found = self._characters.encode(text, add_special_tokens=False)
        words = groupby(zip(found.word_ids, found.ids), key=lambda pair: pair[0])
        return [token for _, word in words for token in self._segmented(tuple(id for _, id in word))]

    def _segmented(self, characters: Ids) -> Ids:
        drawn = self._drawn.setdefault(characters, [])
        if len(drawn) == DRAWN:
            return self._random.choice(drawn)
        drawn.append(self._draw(list(characters)))
        return drawn[-1]

    def _draw(self, pieces: list[int]) -> Ids:
        """Merge as long as a merge is left (algorithm 1 of the paper): the earliest of those not left out."""
        while len(pieces) > 1:
            possible = [
                (*self._merges[pair], at)
                for at, pair in enumerate(pairwise(pieces))
                if pair in self._merges and self._random.random() >= self._dropout
            ]
            if not possible:
                break
            _, made, at = min(possible, key=lambda merge: (merge[0], merge[2]))
            pieces[at : at + 2] = [made]
        return tuple(pieces)
