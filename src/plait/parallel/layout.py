"""`Layout`: over how many ranks each kind of parallelism spreads a run. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from plait.config import Config
from plait.errors import ConfigError
from plait.nn.config import ModelConfig

# outermost first: pipeline neighbours may be far apart, tensor parallelism wants the fastest links
AXES = ("pp", "dp", "fsdp", "ep", "cp", "tp")
ROWS = ("dp", "fsdp", "ep")  # the rows of a batch are divided among the ranks along these
# the default first
Schedule = Literal["1f1b", "gpipe", "interleaved", "looped_bfs", "zero_bubble", "zbv", "dualpipev"]
V_SHAPED = ("zbv", "dualpipev")  # first and last stage on the same rank


class Layout(Config):
    """Ranks per kind of parallelism; `world` is their product.

    Rows of a batch are divided over dp · fsdp · ep. Dense parameters are copied along dp, ep and cp, cut over
    fsdp and tp; experts are cut over ep too. cp divides the tokens of a row, pp the layers.
    """

    dp: int = Field(default=1, ge=1, description="copies of the model, each with its rows")
    fsdp: int = Field(default=1, ge=1, description="ranks that share out parameters, each with its rows")
    tp: int = Field(default=1, ge=1, description="ranks that share out every matrix, and time between them")
    cp: int = Field(default=1, ge=1, description="ranks that share out the tokens of a row")
    pp: int = Field(default=1, ge=1, description="stages of layers")
    ep: int = Field(default=1, ge=1, description="ranks that share out experts, each with its rows")
    schedule: Schedule = Field(default="1f1b", description="of pp")
    stages: int = Field(default=0, ge=0, description="stages on each rank of pp; 0: what the schedule needs")
    attention: Literal["auto", "gather", "exchange"] = Field(
        default="auto", description="of cp; auto: a ring wherever the mask is plainly causal"
    )
    restarts: int = Field(default=3, ge=0, description="times to start again after a rank was lost")
    elastic: bool = Field(default=False, description="start again on fewer dp or fsdp ranks")
    timeout: float = Field(default=300.0, gt=0, description="seconds that ranks wait for one another")

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.dp * self.fsdp * self.tp * self.cp * self.pp * self.ep

    @property
    def data_ranks(self) -> int:
        """Among how many ranks the rows of a batch are divided."""
        return self.dp * self.fsdp * self.ep

    @property
    def stages_per_rank(self) -> int:
        """Pipeline stages on each rank."""
        if self.pp == 1:
            return 1
        return self.stages or (1 if self.schedule in ("gpipe", "1f1b") else 2)

    @property
    def total_stages(self) -> int:
        """Pipeline stages in all."""
        return self.pp * self.stages_per_rank

    @property
    def name(self) -> str:
        """`dp=2,tp=2`, with the schedule where there is a pipeline; `one process` for one."""
        sizes = [f"{axis}={getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        if self.pp > 1:
            sizes.append(f"schedule={self.schedule}")
        if self.attention != "auto":
            sizes.append(f"attention={self.attention}")
        return ",".join(sizes) or "one process"

    @model_validator(mode="after")
    def _check(self) -> Layout:
        wanted = {"gpipe": 1, "1f1b": 1, "zbv": 2, "dualpipev": 2}.get(self.schedule)
        if self.pp > 1 and self.stages and wanted and self.stages != wanted:
            raise ValueError(
                f"layout.schedule={self.schedule} has {wanted} stage(s) on each rank, not layout.stages="
                f"{self.stages}; leave layout.stages out, or use schedule interleaved"
            )
        return self


def parse_layout(text: str) -> list[str]:
    """`dp=2,tp=2` as overrides of a recipe: `layout.dp=2`, `layout.tp=2`."""
    return [f"layout.{part.strip()}" for part in text.split(",") if part.strip()]


def check_layout(layout: Layout, config: ModelConfig, context: int, rows: int, micro: int | None) -> None:
    """Refuse what a model or batch cannot be divided into, before any process is started.

    Args:
        context: tokens in a row.
        rows: rows of an optimizer step.
        micro: rows of a micro-batch; None where it is still to be chosen.

    Raises:
        ConfigError: with the sizes that would do.
    """
    _divides("tp", layout.tp, "model.heads", config.heads)
    if config.kv_heads % layout.tp and layout.tp % config.kv_heads:
        good = [n for n in _divisors(config.heads) if config.kv_heads % n == 0 or n % config.kv_heads == 0]
        raise ConfigError(
            f"layout.tp={layout.tp} neither divides model.kv_heads={config.kv_heads} nor is a multiple "
            f"of it; use tp from {good}"
        )
    if config.encoder_layers:
        _check_pairs(layout)
    _divides("cp", layout.cp, "half of the context", context // 2 if context % 2 == 0 else 1)
    _divides("tp", layout.tp, "the tokens of a cp rank", context // layout.cp)
    if layout.attention == "exchange":
        _divides("cp", layout.cp, "the heads of a tp rank", config.heads // layout.tp)
    _check_stages(layout, config)
    if layout.ep > 1 and not config.experts:
        raise ConfigError(f"layout.ep={layout.ep} divides experts, but model.experts=0; set it or use ep=1")
    _divides("ep", layout.ep, "model.experts", config.experts or 1)
    if rows % layout.data_ranks:
        parts = "·".join(axis for axis in ROWS if getattr(layout, axis) > 1)
        near = sorted({rows // layout.data_ranks * layout.data_ranks or layout.data_ranks,
                       -(-rows // layout.data_ranks) * layout.data_ranks})  # fmt: skip
        raise ConfigError(
            f"the {rows} rows of a batch cannot be divided among the {layout.data_ranks} ranks of {parts}; "
            f"use train.batch_size={' or '.join(map(str, near))}"
        )
    if layout.pp > 1:
        _check_microbatches(layout, rows // layout.data_ranks, micro)


def _check_pairs(layout: Layout) -> None:
    """An encoder-decoder runs whole on each data rank, its matrices cut at most."""
    for axis, what in (("cp", "context"), ("pp", "pipeline"), ("ep", "expert")):
        if getattr(layout, axis) > 1:
            raise ConfigError(
                f"layout.{axis}={getattr(layout, axis)}: an encoder-decoder has no {what} parallelism; "
                "use dp, fsdp and tp"
            )


def _check_stages(layout: Layout, config: ModelConfig) -> None:
    if layout.total_stages > config.layers:
        raise ConfigError(
            f"layout.pp={layout.pp} makes {layout.total_stages} stages of model.layers={config.layers}; "
            f"use fewer stages: pp from {_divisors(config.layers // layout.stages_per_rank)}"
        )
    if config.layers % layout.total_stages:
        good = [n for n in _divisors(config.layers) if config.layers % (n * layout.stages_per_rank) == 0]
        raise ConfigError(
            f"layout.pp={layout.pp} with {layout.stages_per_rank} stage(s) a rank does not divide "
            f"model.layers={config.layers}; use pp from {good}"
        )
    if layout.pp > 1 and config.position == "t5":
        raise ConfigError("layout.pp cannot divide a model whose layers share one t5 bias; use pp=1")


def _check_microbatches(layout: Layout, rows: int, micro: int | None) -> None:
    """A pipeline needs enough micro-batches, in the multiples that its schedule works in."""
    good = microbatch_counts(layout, rows)
    if not good:
        least, multiple = _microbatch_rule(layout)
        raise ConfigError(
            f"layout.pp={layout.pp} with schedule {layout.schedule} needs at least {least} micro-batches, a "
            f"multiple of {multiple}, but a rank has {rows} row(s) of the batch; raise train.batch_size"
        )
    if micro is not None and (rows % micro or rows // micro not in good):
        raise ConfigError(
            f"train.micro_batch={micro} makes {rows / micro:g} micro-batches of a rank's {rows} rows; "
            f"layout.pp={layout.pp} with schedule {layout.schedule} works with {good}: use micro_batch from "
            f"{sorted(rows // n for n in good)}"
        )


def microbatch_counts(layout: Layout, rows: int) -> list[int]:
    """Numbers of micro-batches that a rank's rows can make and the layout works with, ascending."""
    least, multiple = _microbatch_rule(layout)
    return [n for n in _divisors(rows) if n >= least and n % multiple == 0]


def _microbatch_rule(layout: Layout) -> tuple[int, int]:
    """The fewest micro-batches of a schedule, and what their number must be a multiple of."""
    if layout.pp == 1:
        return 1, 1
    if layout.schedule in ("gpipe", "1f1b"):
        return layout.pp, 1
    if layout.schedule == "zbv":
        return 1, 1
    return (2 * layout.pp, 1) if layout.schedule == "dualpipev" else (layout.pp, layout.pp)


def every_layout(ranks: int, *, experts: bool) -> Iterator[Layout]:
    """All ways to write `ranks` as a product of the axes, in a fixed order; ep only with experts."""
    axes = [axis for axis in AXES if experts or axis != "ep"]

    def fill(left: int, rest: list[str]) -> Iterator[dict[str, int]]:
        if not rest:
            if left == 1:
                yield {}
            return
        for size in _divisors(left):
            for others in fill(left // size, rest[1:]):
                yield {rest[0]: size, **others}

    for sizes in fill(ranks, axes):
        yield Layout(**sizes)  # type: ignore[arg-type]


def _divides(axis: str, size: int, what: str, whole: int) -> None:
    if whole % size:
        raise ConfigError(
            f"layout.{axis}={size} does not divide {what}={whole}; use {axis} from {_divisors(whole)}"
        )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
