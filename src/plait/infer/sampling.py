"""From logits to the next tokens of a batch: bias, penalties, temperature, truncation, and the draw."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from plait.infer.params import SamplingParams, TokenRules


def penalize(logits: Tensor, in_prompt: Tensor, counts: Tensor, params: SamplingParams) -> Tensor:
    """Repetition, frequency and presence penalties.

    Args:
        logits: `[batch, vocab]`.
        in_prompt: bool `[batch, vocab]`, the tokens of the prompt.
        counts: `[batch, vocab]`, how often each token was generated.
    """
    if params.repetition_penalty != 1:
        seen = in_prompt | (counts > 0)
        scaled = torch.where(
            logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty
        )
        logits = torch.where(seen, scaled, logits)
    logits = logits - params.frequency_penalty * counts
    return logits - params.presence_penalty * (counts > 0).to(logits.dtype)


def truncate(logits: Tensor, params: SamplingParams) -> Tensor:
    """`-inf` for what min-p, top-k and top-p leave out; `[batch, vocab]`, at least one token stays.

    Tokens as probable as the last one that top-k keeps stay as well, so the result never depends on ids.
    """
    if params.min_p > 0:
        least = logits.amax(-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < least, -math.inf)
    if 0 < params.top_k < logits.shape[-1]:
        least = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if params.top_p < 1:
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.double().softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill((before >= params.top_p) & (before > 0), -math.inf)
        logits = torch.empty_like(logits).scatter_(-1, ids, ordered)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Ids `[batch]` sampled from softmax(`logits` `[batch, vocab]`) by inverting the cumulative sum.

    One number a row, so that a row's choice cannot depend on the others; ids of probability 0 are never
    chosen.

    Args:
        uniform: float64 `[batch]` in [0, 1).
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    # rounding must not carry the target up to the total, which only the last id that counts reaches
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)


class Sampler:
    """What choosing needs to remember of each sequence of a batch: its tokens and its random numbers.

    Args:
        prompts: token ids of each sequence's prompt.
        numbers: of each sequence, the number of its completion among those of its prompt.
        vocab: ids from here on have no token and are never chosen.
        rules: tokens that are never chosen, and the one that is first.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        vocab: int,
        device: torch.device | str = "cpu",
        rules: TokenRules | None = None,
    ) -> None:
        self.params, self.vocab = params, vocab
        seed = params.seed
        self._random = [random.Random(None if seed is None else f"{seed}/{number}") for number in numbers]
        self._counts = self._in_prompt = torch.empty(0)
        if params.penalized:
            self._counts = torch.zeros(len(prompts), vocab, device=device)
            self._in_prompt = torch.zeros(len(prompts), vocab, dtype=torch.bool, device=device)
            for row, prompt in enumerate(prompts):
                known = [token for token in set(prompt) if token < vocab]
                self._in_prompt[row, known] = True
        rules = rules or TokenRules()
        never = [id for id in rules.never if id < vocab]
        self._never = torch.tensor(never, dtype=torch.long, device=device)
        first = [] if rules.first is None else [rules.first]
        self._first = torch.tensor(first, dtype=torch.long, device=device)  # until it is chosen
        self._biased = torch.tensor(list(params.logit_bias), dtype=torch.long, device=device)
        self._bias = torch.tensor(list(params.logit_bias.values()), device=device)

    def choose(self, logits: Tensor) -> list[int]:
        """The next token of each sequence from `logits` `[batch, vocab or more]`."""
        logits = logits[:, : self.vocab]
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if len(self._first):
            logits = torch.full_like(logits, -math.inf).index_fill(1, self._first, 0)
            self._first = self._first[:0]
        elif len(self._never):
            logits = logits.index_fill(1, self._never, -math.inf)
        if len(self._biased):
            logits = logits.index_add(1, self._biased, self._bias.to(logits.dtype).expand(len(logits), -1))
        if self.params.penalized:
            logits = penalize(logits, self._in_prompt, self._counts.to(logits.dtype), self.params)
        if self.params.greedy:
            chosen = logits.argmax(-1)
        else:
            # relative to the best, so that a small temperature cannot overflow
            logits = (logits - logits.amax(-1, keepdim=True)) / self.params.temperature
            uniform = [source.random() for source in self._random]
            # on the CPU in float64, which not every device has
            chosen = draw(truncate(logits.cpu(), self.params), torch.tensor(uniform, dtype=torch.float64))
        ids = chosen.tolist()
        if self.params.penalized:
            self._counts[range(len(ids)), ids] += 1
        return ids

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these sequences, in this order."""
        self._random = [self._random[row] for row in rows]
        if self.params.penalized:
            self._counts, self._in_prompt = self._counts[rows], self._in_prompt[rows]
