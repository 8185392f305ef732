"""The translator before the Transformer: a bidirectional GRU encoder and a GRU decoder with attention.

Bahdanau et al. 2015 with the input feeding of Luong et al. 2015 (section 3.3): the decoder reads the last
attention's result beside the last token. One embedding serves source, target and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.infer.beam import beam_search
from plait.infer.params import BeamParams, Hypothesis


@dataclass
class State:
    """What a decoder knows: its hidden state, the last attention's result, and the encoded source."""

    hidden: Tensor
    fed: Tensor
    keys: Tensor
    values: Tensor
    held: Tensor

    def select(self, rows: list[int]) -> State:
        return State(*(tensor[rows] for tensor in vars(self).values()))


class GRUTranslator(nn.Module):
    """Sizes: `width` of embeddings, `hidden` of the decoder, half of it for each direction of the encoder."""

    def __init__(self, vocab: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.encoder = nn.GRU(width, hidden // 2, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(hidden, hidden)
        self.cell = nn.GRUCell(width + hidden, hidden)
        self.query, self.key = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor, held: Tensor) -> State:
        """`source` ids and which of them are held, `[batch, time]`."""
        lengths = held.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embed(source)), lengths, batch_first=True, enforce_sorted=False
        )
        out, last = self.encoder(packed)
        values, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        hidden = self.bridge(torch.cat((last[0], last[1]), -1)).tanh()
        return State(hidden, torch.zeros_like(hidden), self.key(values), values, held)

    def step(self, state: State, token: Tensor) -> State:
        """Read one token `[batch]`."""
        read = torch.cat((self.dropout(self.embed(token)), state.fed), -1)
        hidden = self.cell(read, state.hidden)
        scores = self.energy((self.query(hidden)[:, None] + state.keys).tanh()).squeeze(-1)
        weights = scores.masked_fill(~state.held, float("-inf")).softmax(-1)
        found = (weights[:, None] @ state.values).squeeze(1)
        fed = self.dropout(self.combine(torch.cat((hidden, found), -1)).tanh())
        return State(hidden, fed, state.keys, state.values, state.held)

    def logits(self, fed: Tensor) -> Tensor:
        """Of the next token, from what attention gave."""
        return F.linear(self.out(fed), self.embed.weight)

    def forward(self, source: Tensor, held: Tensor, tokens: Tensor) -> Tensor:
        """Logits `[batch, time, vocab]`, each token known."""
        state, fed = self.encode(source, held), []
        for at in range(tokens.shape[1]):
            state = self.step(state, tokens[:, at])
            fed.append(state.fed)
        return self.logits(torch.stack(fed, 1))

    @torch.inference_mode()
    def translate(
        self, source: Tensor, held: Tensor, start: int, ends: frozenset[int], room: int, params: BeamParams
    ) -> list[list[Hypothesis]]:
        """Beam search, the same as the Transformer's."""
        state = self.step(self.encode(source, held), torch.full((len(source),), start))

        def step(rows: list[int], tokens: list[int]) -> Tensor:
            nonlocal state
            state = self.step(state.select(rows), torch.tensor(tokens))
            return self.logits(state.fed)

        rooms = [room] * len(source)
        return beam_search(
            self.logits(state.fed), step, params, ends=ends, rooms=rooms, prefixes=[[start]] * len(source),
            forbidden=[start],
        )  # fmt: skip
