"""How a Transformer knows order: RoPE and its extensions, sinusoids, ALiBi slopes, T5 relative buckets.

Learned positions are a plain embedding and live in the decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plait.nn.config import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Angular frequency of each rotated pair, `[head_dim / 2]`, and the factor on cos and sin.

    Su et al. 2021, section 3.2.2: frequency i is `theta ** (-2i / head_dim)`. The factor is 1 except for
    YaRN (Peng et al. 2023, eq. 22).
    """
    # computed on the CPU even while a model is built without memory (on meta)
    index = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device="cpu") / config.head_dim
    scaling = config.rope_scaling
    if scaling is None:
        return config.rope_theta**-index, 1.0
    if scaling.kind == "ntk":
        stretch = scaling.factor ** (config.head_dim / (config.head_dim - 2))
        return (config.rope_theta * stretch) ** -index, 1.0
    frequencies = config.rope_theta**-index
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    return _yarn(frequencies, scaling, config), 0.1 * math.log(scaling.factor) + 1.0


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    # turns over the original context decide: few turns → divide by factor, many → keep, between → blend
    turns = scaling.original_context * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0, 1)
    return frequencies * (blend + (1 - blend) / scaling.factor)


def _yarn(frequencies: Tensor, scaling: RopeScaling, config: ModelConfig) -> Tensor:
    # Peng et al. 2023, section 3.2: the ramp runs over pair indices between beta_fast and beta_slow turns
    def pair_at(turns: float) -> float:
        wavelength = scaling.original_context / (turns * 2 * math.pi)
        return config.head_dim * math.log(wavelength) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_at(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_at(scaling.beta_slow)), config.head_dim - 1)
    ramp = (torch.arange(len(frequencies), dtype=torch.float64, device="cpu") - low) / max(high - low, 0.001)
    interpolate = ramp.clamp(0, 1)
    return frequencies * (1 - interpolate) + frequencies / scaling.factor * interpolate


def rope_table(
    frequencies: Tensor, factor: float, positions: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin for `positions` `[batch, time]`: each `[batch, 1, time, head_dim]`, ready for `rotate`.

    Angles are computed in at least float32, whatever `dtype` is.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # narrowed before it is moved: not every device has float64
    angles = positions.to(wide)[:, None, :, None] * frequencies.to(wide).to(positions.device)
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim/2) of `x` `[batch, heads, time, head_dim]`; Su et al. 2021, eq. 34."""
    return _Rotation.apply(x, cos, sin)


class _Rotation(torch.autograd.Function):
    """A rotation's gradient is the rotation back: half the memory traffic of what autograd would derive."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1).to(x.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1).to(grads[0].dtype), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return out


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """`[..., time, width]`: all sines, then all cosines (Vaswani et al. 2017, section 3.5)."""
    half = (width + 1) // 2
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rates = 10_000.0 ** (-2 * torch.arange(half, device=positions.device, dtype=wide) / width)
    angles = positions.to(wide)[..., None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :width].to(dtype)


class Sinusoids(nn.Module):
    """`sinusoids` in the place of learned positions, in the type of the model."""

    like: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return sinusoids(positions, self.width, self.like.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """`[heads]` slopes of Press et al. 2022, section 3: a geometric sequence starting at 2^(-8/heads)."""

    def powers(count: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / count) for i in range(count)]

    nearest = 2 ** math.floor(math.log2(heads))
    return torch.tensor(powers(nearest) + powers(2 * nearest)[0::2][: heads - nearest], dtype=torch.float64)


def t5_buckets(distance: Tensor, buckets: int, max_distance: int, bidirectional: bool = False) -> Tensor:
    """Bucket of each relative position key - query (Raffel et al. 2020, section 2.1), same shape.

    Half of the buckets hold exact small distances, the other half grow logarithmically to `max_distance`.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = (distance.float().clamp(min=1) / exact).log() / math.log(max_distance / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)
