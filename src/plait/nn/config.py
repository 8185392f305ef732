"""`ModelConfig`: every choice of a Transformer as a field, none as a subclass. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from plait.config import Config


class RopeScaling(Config):
    """Stretching RoPE beyond its trained context.

    linear: positions divided by `factor` (Chen et al. 2023). ntk: base raised (bloc97 2023).
    yarn: per-frequency interpolation (Peng et al. 2023). llama3: the Llama 3.1 ramp.
    """

    kind: Literal["linear", "ntk", "yarn", "llama3"]
    factor: float = Field(gt=0)
    original_context: int = Field(gt=0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


def _zero(value: object) -> bool:
    try:
        return float(value) == 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False  # nothing, or what validation will refuse


class ModelConfig(Config):
    """A decoder or an encoder-decoder by its fields; defaults are a small modern decoder.

    `kv_heads`, `head_dim` and `ffn` are derived when left out: `kv_heads` = the largest divisor of
    `heads` that is at most `heads/2`, `head_dim` = width / heads, `ffn` = 8/3 · width (4 · width without
    gating) rounded up to a multiple of 32. `init_std: 0` beside `embed_scale: 0` (Vaswani et al. 2017,
    section 3.4), or beside `logit_scale: 0` and `tied` (T5), has embeddings begin with numbers of about 1.
    """

    width: int = Field(default=256, ge=1)
    layers: int = Field(default=4, ge=1)
    encoder_layers: int = Field(default=0, ge=0, description="0: a decoder alone; else an encoder-decoder")
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=0, ge=0)
    head_dim: int = Field(default=0, ge=0)
    ffn: int = Field(default=0, ge=0)
    vocab: int = Field(default=0, ge=0, description="0: the tokenizer's size")
    context: int = Field(default=256, ge=1)

    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["pre", "post", "sandwich"] = "pre"
    norm_offset: bool = Field(default=False, description="multiply by 1 + weight (Gemma)")
    norm_eps: float = Field(default=1e-6, gt=0)
    norm_bias: bool = True  # of LayerNorm only
    qk_norm: bool = True

    position: Literal["rope", "learned", "sinusoidal", "alibi", "t5", "none"] = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    t5_buckets: int = Field(default=32, ge=2)
    t5_max_distance: int = Field(default=128, ge=2)

    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"] = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tied: bool = Field(default=True, description="embedding and head share their weights")
    shared_embeddings: bool = Field(default=True, description="source and target share their embedding")
    embed_norm: bool = Field(default=False, description="a norm behind the embedding (BART)")
    decoder_start: int = Field(
        default=-1, ge=-1, description="what a target begins with; -1: the tokenizer's padding token"
    )
    embed_scale: float = Field(default=1.0, description="0: sqrt(width)")
    attn_scale: float = Field(default=0.0, ge=0, description="0: 1/sqrt(head_dim)")
    logit_scale: float = Field(default=1.0, gt=0, description="0: 1/sqrt(width)")
    logit_softcap: float = Field(default=0.0, ge=0)
    attn_softcap: float = Field(default=0.0, ge=0)
    window: int = Field(default=0, ge=0, description="sliding-window width; 0: full attention")
    window_pattern: int = Field(
        default=1, ge=1, description="every n-th layer attends in full; 1: all use `window`"
    )

    experts: int = Field(default=0, ge=0)
    experts_per_token: int = Field(default=2, ge=1)
    shared_experts: int = Field(default=0, ge=0)
    expert_ffn: int = Field(default=0, ge=0, description="0: ffn")
    norm_topk: bool = True
    balance_loss: float = Field(default=0.01, ge=0)
    balance_bias: float = Field(
        default=0.0, ge=0, description="a step's change of the bias on the choice of experts; 0: no bias"
    )
    capacity_factor: float = Field(
        default=0.0, ge=0, description="an expert's room in training, in even shares; 0: drops nothing"
    )

    dropout: float = Field(default=0.0, ge=0, lt=1)
    attn_dropout: float = Field(default=-1.0, ge=-1, lt=1, description="-1: as dropout")
    init_std: float = Field(default=0.02, gt=0, description="0: 1/sqrt(width)")

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: dict) -> dict:
        values = dict(values)

        def number(key: str) -> int:
            """The value as validation will read it; -1 where it will refuse it."""
            value = values.get(key, cls.model_fields[key].default)
            try:
                whole = int(value)
            except (TypeError, ValueError, OverflowError):
                return -1
            return whole if isinstance(value, str) or whole == value else -1

        width, heads = number("width"), number("heads")
        if width < 1 or heads < 1:
            return values
        if number("head_dim") == 0:
            if width % heads:
                good = [n for n in range(1, width + 1) if width % n == 0 and n <= 4 * heads]
                raise ValueError(
                    f"width={width} is not divisible by heads={heads}; use heads from {good} or set head_dim"
                )
            values["head_dim"] = width // heads
        if number("kv_heads") == 0:
            values["kv_heads"] = max((n for n in range(1, heads // 2 + 1) if heads % n == 0), default=heads)
        if number("ffn") == 0:
            gated = values.get("gated", cls.model_fields["gated"].default)
            values["ffn"] = -(-(width * 8 // 3 if gated else width * 4) // 32) * 32
        for name, power in (("embed_scale", 0.5), ("logit_scale", -0.5), ("init_std", -0.5)):
            if _zero(values.get(name)):
                values[name] = width**power
        return values

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            good = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise ValueError(
                f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}; use kv_heads from {good}"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(f"rope rotates pairs, so head_dim={self.head_dim} must be even; set head_dim")
        if self.rope_scaling and self.rope_scaling.kind == "ntk" and self.head_dim < 4:
            raise ValueError(
                f"ntk scaling needs head_dim of at least 4, not {self.head_dim}; use linear or yarn"
            )
        if self.position == "t5" and self.t5_max_distance <= self.t5_buckets // 2:
            raise ValueError(
                f"t5_max_distance={self.t5_max_distance} must be more than "
                f"t5_buckets/2={self.t5_buckets // 2}; raise it or lower t5_buckets"
            )
        if self.encoder_layers and (self.experts or self.window):
            refused = "experts" if self.experts else "window"
            raise ValueError(f"an encoder-decoder has no {refused}; set {refused}=0 or encoder_layers=0")
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token} is more than experts={self.experts}; lower it"
            )
        return self

    @property
    def start_id(self) -> int | None:
        """What a target begins with; None: a decoder alone has none."""
        return max(self.decoder_start, 0) if self.encoder_layers else None

    def window_of(self, layer: int) -> int:
        """Sliding-window width of a layer; 0 where it attends in full."""
        full = self.window_pattern > 1 and (layer + 1) % self.window_pattern == 0
        return 0 if full else self.window
