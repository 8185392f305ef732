"""What the formulas say is sent, in the numbers of one step."""

from __future__ import annotations

import pytest

from plait.nn.config import ModelConfig
from plait.nn.decoder import parameter_count
from plait.nn.encoder_decoder import build
from plait.parallel.formula import expected
from plait.parallel.layout import Layout
from plait.parallel.work import Work

B, M, T, W, V, L, H, G, D = 2, 3, 32, 64, 128, 4, 8, 4, 8
LARGER = {"width": W, "layers": L, "heads": H, "kv_heads": G, "vocab": V, "context": T, "ffn": 96}
E, K = 4, 2
N = 3  # layers of an encoder
# fields of a layout, what is sent along which axis, and the table of `plait.parallel.formula` in numbers
FORMULAS = {
    "dp": ({}, ("dp", "all-reduce"), lambda p, blocks: p),
    "fsdp": ({}, ("fsdp", "all-gather"), lambda p, blocks: M * (blocks // L * (2 * L - 1) + (p - blocks))),
    "fsdp gradients": ({}, ("fsdp", "reduce-scatter"), lambda p, blocks: p),
    "tp": ({}, ("tp", "all-gather"), lambda p, blocks: M * (4 * L + 2) * B * T * W),
    "tp pairs": ({}, ("tp", "all-gather"), lambda p, blocks: M * (6 * L + 2 + 4 * N + 2) * B * T * W),
    "tp sums": ({}, ("tp", "reduce-scatter"), lambda p, blocks: M * (4 * L + 2) * B * T * W),
    "cp": ({}, ("cp", "send"), lambda p, blocks: M * L * (3 * 2 - 2) * 2 * B * T * G * D // 2),
    "cp gather": (
        {"attention": "gather"},
        ("cp", "reduce-scatter"),
        lambda p, blocks: M * L * 2 * B * T * G * D,
    ),
    "cp exchange": (
        {"attention": "exchange"},
        ("cp", "all-to-all"),
        lambda p, blocks: M * L * 4 * B * T * (H + G) * D // 2,
    ),
    "ep": ({}, ("ep", "all-to-all"), lambda p, blocks: M * L * (4 * B * T * K * W + 2 * E)),
    "pp": ({"schedule": "gpipe"}, ("pp", "send"), lambda p, blocks: M * B * T * W + V * W),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_table_of_formulas(name):
    more, key, formula_of = FORMULAS[name]
    axis = name.split()[0]
    other = {"experts": E, "experts_per_token": K} if axis == "ep" else {}
    other |= {"encoder_layers": N} if "pairs" in name else {}
    config = ModelConfig(**LARGER | other)
    model = build(config)
    whole, blocks = parameter_count(model), parameter_count(model.layers)
    found = expected(config, Layout(**{axis: 2}, **more), Work(rows=B, microbatches=M, context=T))
    sums = 40 if key == ("dp", "all-reduce") else 0  # of the loss and the norm, along the only axis too
    assert found[key].bytes == 4 * formula_of(whole, blocks) + sums


def test_one_process_sends_nothing():
    assert expected(ModelConfig(**LARGER), Layout(), Work(rows=B, microbatches=M, context=T)) == {}


def test_a_large_layout_needs_no_ranks():
    config = ModelConfig(width=512, layers=32, heads=16, kv_heads=8, vocab=128_256, context=8192)
    layout = Layout(dp=8, fsdp=8, cp=2, tp=8, pp=4, schedule="interleaved")
    found = expected(config, layout, Work(1, 16, 8192, dtype="bfloat16"), {"pp": 3})
    # sixteen micro-batches of hidden states from one stage back, in two turns, and once on
    assert found["pp", "send"].bytes == (16 * 3 * (8192 // 2 // 8) * 512 * 2) + 128_256 // 8 // 8 * 512 * 4
    assert set(found) >= {("world", "all-reduce"), ("fsdp", "all-gather"), ("dp·cp·tp", "all-reduce")}
