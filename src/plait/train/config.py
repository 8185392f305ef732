"""`TrainConfig`: the `train:` block of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from plait.config import Config

Beta = Annotated[float, Field(ge=0, lt=1)]
DType = Literal["auto", "float64", "float32", "bfloat16", "float16"]


class TrainConfig(Config):
    """How to train. `batch_size` (rows) and `batch_tokens` count one optimizer step over all ranks.

    Exactly one of `steps`, `epochs` and `minutes` sets the length; with `minutes` the schedule follows the
    clock, so such a run is not reproducible to the bit.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    stop_after: int | None = Field(
        default=None, ge=1, description="stop (and save) at this step of the schedule"
    )
    batch_size: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    micro_batch: int | Literal["auto"] = "auto"

    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    min_lr: float = Field(default=0.1, ge=0, le=1, description="final learning rate as a share of lr")
    schedule: Literal["cosine", "linear", "inverse_sqrt", "wsd", "constant"] = "cosine"
    warmup: int | float = Field(default=0.02, ge=0, description="steps, or a share of the run below 1")
    decay: float = Field(default=0.2, gt=0, le=1, description="share of the run that wsd spends decaying")
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="decoupled under adamw and muon; a penalty, 0 by default, under adam and sgd",
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="of sgd and muon")
    nesterov: bool = True
    muon_lr: float = Field(
        default=0.02, gt=0, description="of matrices under muon; the rest uses lr with AdamW"
    )
    clip: float = Field(default=1.0, ge=0, description="largest global gradient norm; 0: none")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    z_loss: float = Field(default=0.0, ge=0)
    r_drop: float = Field(
        default=0.0,
        ge=0,
        description="weight of agreement of two passes under other dropout (Liang et al. 2021); 0: one",
    )

    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of weights; 0: none")
    average_last: int = Field(default=0, ge=0, description="average the weights of the last n checkpoints")

    dtype: DType = "auto"
    compile: bool | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    eval_every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the run")
    eval_rows: int = Field(
        default=0, ge=0, description="rows per source in evaluations during training; 0: all"
    )
    patience: int = Field(
        default=0, ge=0, description="stop after n evaluations without a better val_loss; 0: never"
    )
    samples: tuple[str, ...] = Field(default=("",), description="prompts continued at every evaluation")
    sample_tokens: int = Field(default=64, ge=0)

    save_every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the run")
    keep_last: int = Field(default=2, ge=1)
    keep_best: bool = True
    save_dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = "auto"
    tensorboard: bool | Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _no_penalty_unasked(cls, values: Any) -> Any:
        # an L2 penalty of 0.1 ruins Adam and SGD, which add it to the gradient
        penalty = isinstance(values, dict) and values.get("optimizer") in ("adam", "sgd")
        return {"weight_decay": 0.0} | values if penalty else values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        lengths = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(lengths) != 1:
            found = " and ".join(f"train.{name}" for name in lengths) or "none of them"
            remedy = f"; leave one out with train.{lengths[-1]}=null" if lengths else ""
            raise ValueError(
                f"set exactly one of train.steps, train.epochs, train.minutes; found {found}{remedy}"
            )
        if self.batch_size and self.batch_tokens:
            raise ValueError("set train.batch_size (rows) or train.batch_tokens, not both")
        if self.stop_after and self.minutes:
            raise ValueError("train.stop_after needs train.steps or train.epochs, not train.minutes")
        if self.ema and self.average_last:
            raise ValueError("set train.ema or train.average_last, not both: one average is kept")
        if isinstance(self.micro_batch, int) and self.micro_batch < 1:
            raise ValueError(f"train.micro_batch={self.micro_batch} must be at least 1, or auto")
        if isinstance(self.threads, int) and self.threads < 1:
            raise ValueError(f"train.threads={self.threads} must be at least 1, or auto")
        return self
