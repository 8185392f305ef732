"""A short honest GPT-2 trainer: the peer for training speed. Shares no code with plait.

GPT-2 blocks (LayerNorm, GELU, learned positions, fused attention), AdamW fused, gradient clipping:
the public configuration of the best-known minimal GPT trainer for characters of Shakespeare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab: int = 65
    context: int = 256
    layers: int = 6
    heads: int = 6
    width: int = 384
    dropout: float = 0.2


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.ln1, self.ln2 = nn.LayerNorm(s.width, bias=False), nn.LayerNorm(s.width, bias=False)
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.proj = nn.Linear(s.width, s.width, bias=False)
        self.up = nn.Linear(s.width, 4 * s.width, bias=False)
        self.down = nn.Linear(4 * s.width, s.width, bias=False)
        self.drop = nn.Dropout(s.dropout)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            z.view(b, t, self.s.heads, -1).transpose(1, 2) for z in self.qkv(self.ln1(x)).split(c, dim=2)
        )
        rate = self.s.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        x = x + self.drop(self.proj(y.transpose(1, 2).reshape(b, t, c)))
        return x + self.drop(self.down(F.gelu(self.up(self.ln2(x)))))


class GPT(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(s.vocab, s.width), nn.Embedding(s.context, s.width)
        self.drop = nn.Dropout(s.dropout)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width, bias=False)
        self.head = nn.Linear(s.width, s.vocab, bias=False)
        self.head.weight = self.tokens.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                deep = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.layers) if deep else 0.02)

    def forward(self, x, y):
        h = self.drop(self.tokens(x) + self.positions.weight[: x.shape[1]])
        for layer in self.layers:
            h = layer(h)
        logits = self.head(self.norm(h))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


class Trainer:
    """`step(x, y) -> loss`: forward, backward, clip at 1.0, AdamW with the published settings."""

    def __init__(self, shape: Shape, *, compiled: bool, bf16: bool, steps: int = 5000, seed: int = 1337):
        torch.manual_seed(seed)
        self.model = GPT(shape)
        decay = [p for p in self.model.parameters() if p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optim = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
        self.run = torch.compile(self.model) if compiled else self.model
        self.bf16, self.count, self.steps = bf16, 0, steps

    def rate(self) -> float:
        if self.count < 100:
            return 1e-3 * (self.count + 1) / 101
        return 1e-4 + 0.5 * (1 + math.cos(math.pi * (self.count - 100) / (self.steps - 100))) * 9e-4

    def step(self, x, y) -> float:
        for group in self.optim.param_groups:
            group["lr"] = self.rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.run(x, y)
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optim.step()
        self.count += 1
        return loss.item()
