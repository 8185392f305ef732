"""Attention over spread rows equals attention in one process; with local positions it does not.

Each number of ranks starts once and writes every difference it measures; the tests below read them.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from plait.nn.attention import Mask, softmax_attention
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.parallel import context
from plait.parallel.context import (
    context_core,
    exchanged_attention,
    gathered_attention,
    ring_attention,
    unzigzag,
    zigzag,
)
from plait.parallel.ring import unfit

BATCH, TIME, SIZE = 2, 32, 8
LENGTHS = ((9, 12, 5), (20, 3, 9))  # documents of each packed row; the first row ends in padding
LONG = 4096
RANKS = (2, pytest.param(4, marks=pytest.mark.long))


@dataclass(frozen=True)
class Case:
    """One attention: which rows, which scores, and whether a ring can do it."""

    heads: int = 4
    kv_heads: int = 4
    positions: bool = False
    packed: bool = False
    window: int = 0
    causal: bool = True
    bias: str = ""
    softcap: float = 0.0
    dtype: torch.dtype = torch.float64
    ring: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("ring", "auto", "gather", "exchange") if self.ring else ("auto", "gather", "exchange")

    @property
    def tolerance(self) -> float:
        return {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[self.dtype]


CASES = {
    "causal": Case(ring=True),
    "grouped": Case(kv_heads=2, ring=True),
    "one key head": Case(kv_heads=1, ring=True),
    "three key heads": Case(heads=12, kv_heads=3, ring=True),
    "float32": Case(kv_heads=2, dtype=torch.float32, ring=True),
    "bfloat16": Case(kv_heads=2, dtype=torch.bfloat16, ring=True),
    "full": Case(causal=False, kv_heads=2),
    "positions": Case(positions=True, kv_heads=2),
    "window": Case(positions=True, window=5, kv_heads=2),
    "window without positions": Case(window=5),
    "packed": Case(packed=True, kv_heads=2),
    "packed window": Case(packed=True, window=4, kv_heads=1),
    "packed full": Case(packed=True, causal=False),
    "alibi": Case(positions=True, bias="alibi", kv_heads=2),
    "alibi without positions": Case(bias="alibi"),
    "packed alibi": Case(packed=True, bias="alibi"),
    "learned bias": Case(positions=True, bias="learned", kv_heads=1),
    "softcap": Case(softcap=2.0, kv_heads=2),
    "packed softcap": Case(packed=True, softcap=2.0),
}
DECODERS = {
    "rope": {"kv_heads": 2},
    "windows": {"kv_heads": 1, "window": 6, "window_pattern": 2},
    "t5": {"position": "t5", "kv_heads": 2},
}


def rows() -> tuple[Tensor, Tensor]:
    """Positions and segments of the packed rows, `[batch, time]`."""
    positions, segments = torch.zeros(BATCH, TIME, dtype=torch.int64), torch.full((BATCH, TIME), -1)
    for row, lengths in enumerate(LENGTHS):
        at = 0
        for number, length in enumerate(lengths):
            positions[row, at : at + length] = torch.arange(length)
            segments[row, at : at + length] = number
            at += length
    return positions, segments


def bias_of(case: Case, table: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    def bias(query: Tensor, key: Tensor) -> Tensor:
        distance = (key[:, None, :] - query[:, :, None]).clamp(-TIME, 0)
        if case.bias == "learned":
            return table[-distance].permute(0, 3, 1, 2)
        return (2.0 ** -torch.arange(1, case.heads + 1))[None, :, None, None] * distance[:, None]

    return bias if case.bias else None


def whole_mask(case: Case, table: Tensor) -> Mask:
    """The mask of whole rows."""
    mask = Mask(causal=case.causal, window=case.window, bias=bias_of(case, table))
    if case.packed:
        positions, segments = rows()
        return replace(mask, positions_q=positions, segments_q=segments)
    return replace(mask, positions_q=torch.arange(TIME)[None]) if case.positions else mask


def part_of(mask: Mask, mine: Tensor) -> Mask:
    """The mask of the tokens that a rank holds."""
    positions, segments = (None if x is None else x[:, mine] for x in (mask.positions_q, mask.segments_q))
    return replace(mask, positions_q=positions, segments_q=segments)


def tensors(case: Case, seed: int = 0) -> list[Tensor]:
    """Query, key, value, the gradient of the output, and the table of a learned bias."""
    random = torch.Generator().manual_seed(seed)
    heads = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    parts = [
        torch.randn(BATCH, n, TIME, SIZE, generator=random, dtype=torch.float64).to(case.dtype) for n in heads
    ]
    return [*parts, torch.randn(TIME + 1, case.heads, generator=random, dtype=torch.float64)]


def run(core: Callable[..., Tensor], case: Case, mine: Tensor, mask: Mask | None = None) -> list[Tensor]:
    """Output and gradients (query, key, value, bias) for the tokens `mine` of each row."""
    *parts, table = tensors(case)
    *inputs, grad = (part[:, :, mine] for part in parts)
    inputs = [part.detach().clone().requires_grad_() for part in (*inputs, table)]
    if mask is None:
        mask = part_of(whole_mask(case, inputs[3]), mine)
    out = core(*inputs[:3], mask, softcap=case.softcap)
    out.backward(grad)
    grads = [torch.zeros(()) if part.grad is None else part.grad for part in inputs]
    return [out.detach(), *grads]


def apart(ours: list[Tensor], whole: list[Tensor], mine: Tensor, group: dist.ProcessGroup) -> float:
    """The largest difference on any rank; bias gradients are summed over ranks first."""
    dist.all_reduce(ours[-1], group=group)
    expected = [part[:, :, mine] for part in whole[:-1]] + whole[-1:]
    worst = torch.stack([(a.double() - b.double()).abs().max() for a, b in zip(ours, expected, strict=True)])
    largest = worst.nan_to_num(torch.inf).max()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return largest.item()


def measure(group: dist.ProcessGroup) -> dict[str, float]:
    """Every difference, by name."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    mine, everything = zigzag(TIME, ranks, rank), torch.arange(TIME)
    cores = {kind: context_core(group, kind) for kind in context.KINDS}
    found = {}
    for name, case in CASES.items():
        whole = run(softmax_attention, case, everything)
        for kind in case.kinds:
            found[f"{name}/{kind}"] = apart(run(cores[kind], case, mine), whole, mine, group)
    case, local = CASES["causal"], torch.arange(TIME // ranks)
    whole = run(softmax_attention, case, everything)
    for kind in ("gather", "exchange"):
        ours = run(cores[kind], case, mine, Mask(positions_q=local[None]))
        found[f"local positions/{kind}"] = apart(ours, whole, mine, group)
    straight = everything.chunk(ranks)[rank]
    found["contiguous parts/ring"] = apart(run(cores["ring"], case, straight), whole, straight, group)
    found |= decoders(group, cores) | shared_masks(group) | mixed_types(group, mine)
    refuse(group)
    dropped(group)
    if ranks == 4:
        found |= long_rows(group)
    return found


def decoders(group: dist.ProcessGroup, cores: dict[str, Callable[..., Tensor]]) -> dict[str, float]:
    """Hidden states and summed gradients of whole models."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    mine = zigzag(TIME, ranks, rank)
    tokens = torch.randint(0, 50, (BATCH, TIME), generator=torch.Generator().manual_seed(1))
    positions, segments = rows()
    found = {}
    for name, options in DECODERS.items():
        config = ModelConfig(vocab=50, layers=3, width=32, heads=4, context=TIME, **options)
        whole = Decoder(config).double()
        initialize(whole, 0)
        weight = torch.randn(BATCH, TIME, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        for packed in (False, True):
            where, documents = (positions, segments) if packed else (torch.arange(TIME)[None], None)
            for kind in ("auto", "exchange"):
                spread = Decoder(config).double()
                spread.load_state_dict(whole.state_dict())
                for block in spread.layers.values():
                    block.self_attn.core = cores[kind]
                out = whole.hidden(tokens, positions=where if packed else None, segments=documents)
                part = spread.hidden(
                    tokens[:, mine],
                    positions=where[:, mine],
                    segments=None if documents is None else documents[:, mine],
                )
                (out * weight).sum().backward()
                (part * weight[:, mine]).sum().backward()
                worst = (part - out[:, mine]).abs().max().detach()
                for a, b in zip(spread.parameters(), whole.parameters(), strict=True):
                    if b.grad is not None:
                        assert a.grad is not None
                        dist.all_reduce(a.grad, group=group)
                        worst = torch.maximum(worst, (a.grad - b.grad).abs().max())
                dist.all_reduce(worst, dist.ReduceOp.MAX, group=group)
                found[f"decoder {name}{' packed' if packed else ''}/{kind}"] = worst.item()
                whole.zero_grad()
    return found


def shared_masks(group: dist.ProcessGroup) -> dict[str, float]:
    """How many collectives prepare the masks of three layers, and what is left of the masks then."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    mine = zigzag(TIME, ranks, rank)
    query, key, value, *_ = (part[:, :, mine] for part in tensors(CASES["packed"])[:4])
    calls, gather = [], context.all_gather
    found = {}
    for name in ("packed", "full", "alibi"):
        mask = part_of(whole_mask(CASES[name], torch.zeros(0)), mine)
        for make in (gathered_attention, exchanged_attention):
            calls.clear()
            context.all_gather = lambda *args: calls.append(args[0].shape) or gather(*args)
            for _ in range(3):
                make(group)(query, value, key, mask)
            context.all_gather = gather
            found[f"gathers/{name}/{make.__name__}"] = sum(len(shape) == 2 for shape in calls)
        left = weakref.ref(mask)
        del mask
        gc.collect()
        found[f"left/{name}"] = float(left() is not None)
    return found


def mixed_types(group: dist.ProcessGroup, mine: Tensor) -> dict[str, float]:
    """Under autocast parts come in several types: a norm leaves float32."""
    case = CASES["bfloat16"]
    query, key, value, *_ = tensors(case)
    expected = softmax_attention(query, key, value, Mask()).float()[:, :, mine]
    found = {}
    for kind in ("ring", "gather", "exchange"):
        with torch.autocast("cpu", torch.bfloat16):
            core = context_core(group, kind)
            out = core(query[:, :, mine].float(), key[:, :, mine].float(), value[:, :, mine], Mask())
        assert out.dtype == torch.bfloat16, kind
        found[f"autocast/{kind}"] = (out.float() - expected).abs().max().item()
    return found


def refuse(group: dist.ProcessGroup) -> None:
    """What cannot be done says so, and says what can."""
    ranks = dist.get_world_size(group)
    query, key = torch.zeros(1, 3, 4, SIZE), torch.zeros(1, 1, 4, SIZE)
    with pytest.raises(
        ValueError, match=f"3 heads cannot be exchanged among {ranks} ranks.*gathered_attention"
    ):
        exchanged_attention(group)(query, key, key, Mask())
    with pytest.raises(ValueError, match=r"softcap=1\.0 and dropout=0\.0 must both be 0; use gathered"):
        ring_attention(group)(query, key, key, Mask(), softcap=1.0)
    cached = Mask(positions_q=torch.arange(4)[None], positions_k=torch.arange(4)[None])
    for core in (context_core(group), gathered_attention(group)):
        with pytest.raises(ValueError, match="cache; run with cp=1"):
            core(query, key, key, cached)
        with pytest.raises(ValueError, match=r"own 2 queries.*there are 4"):
            core(query[:, :, :2], key, key, Mask())


def dropped(group: dist.ProcessGroup) -> None:
    """Dropout, which no ring has, is done all the same: weights are dropped and the rest grows."""
    torch.manual_seed(dist.get_rank(group))
    time = 512 // dist.get_world_size(group)
    query, value = torch.zeros(4, 4, time, SIZE), torch.ones(4, 4, time, SIZE)
    for kind in context.KINDS:
        out = context_core(group, kind)(query, query, value, Mask(), dropout=0.5)
        assert (out - 1).abs().max() > 0.01, kind
        assert (out.mean() - 1).abs() < 0.05, kind


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


def long_rows(group: dist.ProcessGroup) -> dict[str, float]:
    """A long row: the same result as in one process, and no tensor near time x time."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    mine = zigzag(LONG, ranks, rank)
    random = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(1, 1, LONG, SIZE, generator=random, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    )
    whole = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    whole.sum().backward()
    parts = [part.detach()[:, :, mine].requires_grad_() for part in (query, key, value)]
    with Largest() as largest:
        out = ring_attention(group)(*parts, Mask())
        out.sum().backward()
    found = {"long/elements": float(largest.elements)}
    pairs = [(out, whole), *((a.grad, b.grad) for a, b in zip(parts, (query, key, value), strict=True))]
    found["long/ring"] = max((a - b[:, :, mine]).abs().max().item() for a, b in pairs)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Callable[[int], dict[str, float]]:
    """The differences that a number of ranks measured, which start when first asked for."""
    known: dict[int, dict[str, float]] = {}

    def of(ranks: int) -> dict[str, float]:
        if ranks not in known:
            folder = tmp_path_factory.mktemp(f"ranks{ranks}")
            command = [sys.executable, __file__, str(folder), str(ranks)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            started = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(ranks)]
            said = [process.communicate()[0] for process in started]
            failed = [text for process, text in zip(started, said, strict=True) if process.returncode]
            assert not failed, "\n".join(failed)
            known[ranks] = json.loads(Path(folder, "measured.json").read_text())
        return known[ranks]

    return of


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", CASES)
def test_equals_attention_in_one_process(measured, name, ranks):
    case = CASES[name]
    assert {kind: measured(ranks)[f"{name}/{kind}"] for kind in case.kinds} == {
        kind: pytest.approx(0, abs=case.tolerance) for kind in case.kinds
    }


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("packed", ["", " packed"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_equals_one_process(measured, name, packed, ranks):
    for kind in ("auto", "exchange"):
        assert measured(ranks)[f"decoder {name}{packed}/{kind}"] < 1e-12


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(
    "wrong", ["local positions/gather", "local positions/exchange", "contiguous parts/ring"]
)
def test_wrong_positions_are_seen(measured, wrong, ranks):
    assert measured(ranks)[wrong] > 1e-3


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("name", "gathers"), [("packed", 2), ("alibi", 1), ("full", 0)])
def test_a_mask_is_prepared_once_for_all_layers(measured, name, gathers, ranks):
    for core in ("gathered_attention", "exchanged_attention"):
        assert measured(ranks)[f"gathers/{name}/{core}"] == gathers
    assert not measured(ranks)[f"left/{name}"], "a mask outlives its pass"


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", ["ring", "gather", "exchange"])
def test_autocast(measured, kind, ranks):
    assert measured(ranks)[f"autocast/{kind}"] < 0.05


@pytest.mark.long
def test_memory_of_a_ring_grows_with_time(measured):
    found = measured(4)
    assert found["long/ring"] < 1e-12
    # keys and values of a rank; the scores of its own tokens alone would be 64 times as many
    assert found["long/elements"] == 2 * (LONG // 4) * SIZE


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_zigzag_shares_tokens_and_work(ranks):
    time = 6 * ranks
    parts = [zigzag(time, ranks, rank) for rank in range(ranks)]
    joined = torch.cat(parts)
    assert joined.sort().values.tolist() == list(range(time))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    assert len({int((part + 1).sum()) for part in parts}) == 1, "allowed pairs differ between ranks"
    assert unzigzag(joined, 0, ranks).tolist() == list(range(time))
    assert torch.equal(
        unzigzag(joined[None, :, None].expand(2, time, 3), 1, ranks)[1, :, 2], torch.arange(time)
    )


def test_zigzag_refuses_uneven_chunks():
    with pytest.raises(ValueError, match=r"12 tokens cannot be cut .* 4 ranks; .* multiple of 8"):
        zigzag(12, 4, 0)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind='rings' is none of auto, ring, gather, exchange"):
        context_core(None, "rings")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"mask": Mask(window=3)}, "the mask is more than causal attention over whole rows"),
        ({"mask": Mask(causal=False)}, "the mask is more than causal attention over whole rows"),
        ({"dropout": 0.1}, "softcap=0.0 and dropout=0.1 must both be 0"),
        ({"time": 3}, "a rank's 3 queries and 3 keys are not the same two chunks"),
        ({"device": "meta"}, "no kernel on meta for torch.float32 and head_dim 8"),
    ],
)
def test_a_ring_says_why_not(options, reason):
    part = torch.zeros(1, 2, options.pop("time", 4), SIZE, device=options.pop("device", "cpu"))
    assert unfit(part, part, options.pop("mask", Mask()), **options) == reason


if __name__ == "__main__":
    folder, ranks, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    assert group is not None
    differences = measure(group)
    if rank == 0:
        Path(folder, "measured.json").write_text(json.dumps(differences))
    dist.barrier()
    dist.destroy_process_group()
