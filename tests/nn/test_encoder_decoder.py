"""A source is read whole, padding aside; a target is written looking at it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plait.infer.cache import KVCache
from plait.nn.attention import Attention, Memory, softmax_attention
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import EncoderDecoder, build
from plait.nn.initialize import initialize

POSITIONS = ["rope", "learned", "sinusoidal", "alibi", "t5", "none"]
PLACES = ["pre", "post", "sandwich"]
TINY = {
    "vocab": 31, "width": 16, "layers": 2, "encoder_layers": 3, "heads": 4, "context": 24, "init_std": 0.3,
    "t5_buckets": 6, "t5_max_distance": 9,
}  # fmt: skip


def make(seed: int = 0, **fields) -> EncoderDecoder:
    model = build(ModelConfig(**(TINY | fields)))
    assert isinstance(model, EncoderDecoder)
    initialize(model, seed)
    return model.double().eval()


def ids(*lengths: int) -> list[Tensor]:
    return [torch.arange(length).mul(7).add(3 * row).remainder(29) + 1 for row, length in enumerate(lengths)]


def padded(rows: list[Tensor], filler: int = 0) -> tuple[Tensor, Tensor]:
    """The rows side by side, and their positions."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)
    steps = torch.arange(tokens.shape[1]).expand(tokens.shape)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    return tokens, torch.where(lengths > steps, steps, -1)


SOURCES, TARGETS = ids(9, 4, 6), torch.stack(ids(7, 7, 7))


@pytest.mark.parametrize("position", POSITIONS)
def test_padding_of_the_source_changes_nothing(position):
    model = make(position=position)
    alone = [
        model(target[None], source=source[None]) for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    for filler in (0, 17):
        together = model(TARGETS, memory=model.encode(*padded(SOURCES, filler)))
        torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("position", POSITIONS)
def test_one_token_at_a_time_equals_the_whole_row(position):
    model = make(position=position)
    memory = model.encode(*padded(SOURCES))
    whole = model.hidden(TARGETS, memory=memory)
    cache = KVCache(3, capacity=2)
    cache.memory = memory
    steps = [
        model.hidden(
            TARGETS[:, n : n + 1], positions=cache.next_positions(), cache=cache, memory=cache.memory
        )
        for n in range(TARGETS.shape[1])
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_a_cache_that_is_reordered_goes_on_with_the_rows_chosen():
    model = make(position="t5")
    memory = model.encode(*padded(SOURCES))
    cache = KVCache(3)
    cache.memory = memory
    first = torch.arange(4).expand(3, -1)
    model.hidden(TARGETS[:, :4], positions=first, cache=cache, memory=cache.memory)
    rows = [2, 0, 2]
    cache.select(rows)
    following = torch.full((3, 1), 4)
    step = model.hidden(TARGETS[rows, 4:5], positions=following, cache=cache, memory=cache.memory)
    whole = model.hidden(TARGETS[rows, :5], memory=memory.select(torch.tensor(rows)))
    torch.testing.assert_close(step, whole[:, 4:])


@pytest.mark.parametrize("attn_scale", [0.0, 1.0])
def test_cross_attention_is_the_plain_formula(attn_scale):
    config = ModelConfig(**TINY, qk_norm=False, kv_heads=4, attn_scale=attn_scale)
    attention = Attention(config, 0).double()
    x, (_, positions) = torch.randn(3, 5, 16).double(), padded(SOURCES)
    states = torch.randn(3, 9, 16).double()
    memory = Memory(states, positions)
    out = attention(x, memory.mask, memory=memory)
    for row, length in enumerate(map(len, SOURCES)):
        seen = states[row, :length]
        heads = []
        for head in range(4):
            at = slice(4 * head, 4 * head + 4)
            query = x[row] @ attention.q_proj.weight[at].T
            key, value = seen @ attention.k_proj.weight[at].T, seen @ attention.v_proj.weight[at].T
            heads.append((query @ key.T * (attn_scale or 4**-0.5)).softmax(-1) @ value)
        torch.testing.assert_close(out[row], torch.cat(heads, -1) @ attention.o_proj.weight.T)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_fast_path_equals_the_formula(position):
    model, plain = make(position=position), make(position=position)
    for module in plain.modules():
        if isinstance(module, Attention):
            module.core = softmax_attention
    source = padded(SOURCES)
    expected = plain(TARGETS, memory=plain.encode(*source))
    torch.testing.assert_close(model(TARGETS, memory=model.encode(*source)), expected)


def test_the_encoder_looks_both_ways_and_the_decoder_back():
    model = make()
    source, target = SOURCES[0][None], TARGETS[:1]
    before = model.encode(source).states
    source = source.clone()
    source[:, -1] = 30
    assert (model.encode(source).states != before).any(-1).all()
    logits = model(target, source=source)
    target = target.clone()
    target[:, 4:] = 30
    torch.testing.assert_close(model(target, source=source)[:, :4], logits[:, :4])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_form_trains_and_uses_every_parameter(position, place):
    model = make(position=position, norm_place=place, embed_norm=True, head_bias=True).train()

    def loss() -> Tensor:
        logits = model(TARGETS[:, :-1], memory=model.encode(*padded(SOURCES)))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), TARGETS[:, 1:].flatten())

    before = loss()
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert loss() < before


def test_dropout_is_of_training_alone():
    model = make(dropout=0.3)
    source = padded(SOURCES)
    steady = model(TARGETS, memory=model.encode(*source))
    assert torch.equal(model(TARGETS, memory=model.encode(*source)), steady)
    dropped = model.train()(TARGETS, memory=model.encode(*source))
    dropped.sum().backward()
    assert not torch.equal(dropped, steady)


@pytest.mark.parametrize(
    ("fields", "separate"),
    [
        ({}, set()),
        ({"tied": False}, {"lm_head.weight"}),
        ({"shared_embeddings": False}, {"encoder.embed_tokens.weight"}),
        (
            {"tied": False, "shared_embeddings": False},
            {"lm_head.weight", "encoder.embed_tokens.weight"},
        ),
    ],
)
def test_shared_weights_are_one_parameter(fields, separate):
    model = make(**fields)
    names = dict(model.named_parameters())
    assert {"lm_head.weight", "encoder.embed_tokens.weight"} & names.keys() == separate
    assert "embed_tokens.weight" in names


def test_the_decoders_parameters_are_named_as_in_a_decoder_alone():
    config = ModelConfig(**TINY, position="t5")
    alone = Decoder(config.model_copy(update={"encoder_layers": 0}))
    names = {name for name, _ in build(config).named_parameters()}
    assert {name for name, _ in alone.named_parameters()} <= names
    beside = names - {name for name, _ in alone.named_parameters()}
    assert all(name.startswith("encoder.") or ".cross_attn" in name for name in beside)


@pytest.mark.parametrize("field", ["experts", "window"])
def test_what_an_encoder_decoder_has_not_is_refused(field):
    with pytest.raises(ValueError, match=f"an encoder-decoder has no {field}; set {field}=0"):
        ModelConfig(**TINY, **{field: 4})
