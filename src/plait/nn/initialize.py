"""Initial weights as a pure function of (seed, parameter name, index), so that any part can be made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder

CHUNK = 1 << 20  # numbers made at once, so that memory stays small


@torch.no_grad()
def initialize(model: Decoder, seed: int) -> None:
    """Fill every parameter of a whole model; see `initial`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial(model.config, seed, name, parameter.shape))


def initial(
    config: ModelConfig,
    seed: int,
    name: str,
    shape: Sequence[int],
    start: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """The initial values of a parameter, or of the box of `size` that begins at `start` in it; float32.

    Matrices are normal with `init_std`; those that write into the residual stream are divided by the root
    of how many do (Radford et al. 2019, section 2.3), others multiplied by `scale_of`. Biases are 0, norm
    weights multiply by 1.
    """
    start, size = start or [0] * len(shape), size or list(shape)
    if len(shape) < 2:
        zero = "bias" in name.rpartition(".")[2] or (config.norm_offset and config.norm == "rms")
        return torch.full(tuple(size), 0.0 if zero else 1.0)
    writes = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
    std = config.init_std * (_writers(config, name) ** -0.5 if writes else scale_of(config, name))
    row = math.prod(shape[1:])
    values = normal(f"{seed}/{name}", start[0] * row, size[0] * row).view(size[0], *shape[1:])
    for dim in range(1, len(shape)):
        values = values.narrow(dim, start[dim], size[dim])
    return values * std


def scale_of(config: ModelConfig, name: str) -> float:
    """How much larger a parameter is because it holds a factor that others have in their formulas.

    T5 (Raffel et al. 2020) does not divide the products of queries and keys by `√head_dim`, and divides those
    that make logits by `√width`. Where its queries begin smaller, its embeddings larger, and both learn in
    steps of that proportion, it trains as if the factors stood where others have them.
    """
    if ".q_proj." in name and config.attn_scale:
        return config.head_dim**-0.5 / config.attn_scale
    if name in ("embed_tokens.weight" if config.tied else "lm_head.weight", "lm_head.bias"):
        return 1 / config.logit_scale
    return 1.0


def _writers(config: ModelConfig, name: str) -> int:
    """How many matrices write into the residual stream of this one's stack; cross-attention is the third."""
    if name.startswith("encoder."):
        return 2 * config.encoder_layers
    return (3 if config.encoder_layers else 2) * config.layers


def normal(stream: str, first: int, count: int) -> Tensor:
    """Standard normal numbers `first` to `first + count` of an endless stream; float32 `[count]`.

    Each pair comes from one word of Philox-4x64 (Salmon et al. 2011), which reaches any place at once, by the
    transform of Box & Muller (1958).
    """
    out = torch.empty(count)
    for at in range(0, count, CHUNK):
        some = min(CHUNK, count - at)
        word, odd = divmod(first + at, 2)
        pairs = _pairs(stream, word, (some + odd + 1) // 2)
        out[at : at + some] = pairs[odd : odd + some]
    return out


def _pairs(stream: str, first: int, count: int) -> Tensor:
    digest = hashlib.blake2b(stream.encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64))
    block, skipped = divmod(first, 4)  # Philox makes four words at a time
    words = generator.advance(block).random_raw(count + skipped)[skipped:]
    high, low = (
        (words >> np.uint64(32)).astype(np.float32),
        (words & np.uint64(0xFFFFFFFF)).astype(np.float32),
    )
    unit = 2.0**-32
    radius = torch.from_numpy(high).add_(1).mul_(unit).clamp_(max=1).log_().mul_(-2).sqrt_()
    angle = torch.from_numpy(low).mul_(2 * math.pi * unit)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1).flatten()
