"""Tensor and sequence parallelism: every matrix cut over ranks, and between the matrices time is.

Shoeybi et al. 2019 (Megatron-LM, section 3) with Korthikanti et al. 2022 (section 4.2): before attention and
the feed-forward each rank gathers the whole rows, works with its heads or its share of the features, and the
sum over ranks is scattered along time again. Norms, residuals and dropout see a rank's part of the time only.

Whatever is cut has its own gradient on each rank; whatever is not (norms, routers, and keys and values of
fewer heads than ranks) sees a part of the work on each rank, so that its gradient is the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.attention import Attention, Mask, Memory
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import EncoderDecoder
from plait.nn.loss import IGNORE, LossSum, wide
from plait.nn.moe import MoE
from plait.nn.stack import Stack
from plait.parallel.collectives import Group, all_gather, all_reduce, reduce_scatter
from plait.parallel.pieces import even


def cut_dimension(name: str, config: ModelConfig, ranks: int) -> int | None:
    """The dimension along which tensor parallelism cuts a parameter; None where each rank holds the whole."""
    module, _, kind = name.rpartition(".")
    leaf = kind if kind.endswith("_proj") else module.rpartition(".")[2]
    stacked = kind.endswith("_proj")  # [experts, in, out]
    if leaf in ("k_proj", "v_proj"):
        return 0 if config.kv_heads % ranks == 0 else None
    if leaf in ("q_proj", "embed_tokens", "lm_head"):
        return 0
    if leaf in ("gate_proj", "up_proj"):
        return 2 if stacked else 0
    if leaf in ("o_proj", "down_proj"):
        return 1 if kind != "bias" else None
    return None


def cut_model(model: Decoder, config: ModelConfig, group: Group) -> None:
    """Let a model (or a stage of one) whose parameters are cut already compute with the others' parts."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    _cut_stack(model, config, group)
    if isinstance(model, EncoderDecoder):
        _cut_stack(model.encoder, config, group)
        model.encode = partial(_whole_memory, model.encode, group)  # type: ignore[method-assign]
    if model.lm_head is not None:
        first, _ = even(config.vocab, ranks, rank)
        model.lm_head.register_forward_pre_hook(lambda _, args: (all_gather(args[0], 1, group),))
        model.lm_head.loss = partial(vocabulary_cross_entropy, first=first, vocab=config.vocab, group=group)


def _cut_stack(stack: Stack, config: ModelConfig, group: Group) -> None:
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    if stack.embed_tokens is not None:
        first, count = even(config.vocab, ranks, rank)
        stack.embed_tokens.forward = partial(_embed, stack.embed_tokens, first, count, group)  # type: ignore[method-assign]
    if stack.embed_positions is not None:
        stack.embed_positions.register_forward_pre_hook(lambda _, args: (_own_time(args[0], group),))
    for _, block in stack.blocks():
        for part in filter(None, (block.self_attn, block.cross_attn, block.mlp)):
            part.register_forward_pre_hook(lambda _, args: (all_gather(args[0], 1, group), *args[1:]))
            part.register_forward_hook(lambda _, args, out: reduce_scatter(out, 1, group))  # type: ignore[arg-type]
        for attention in filter(None, (block.self_attn, block.cross_attn)):
            _cut_attention(attention, config, ranks, rank)
        feed_forward = block.mlp.shared_experts if isinstance(block.mlp, MoE) else block.mlp
        if feed_forward is not None:
            _share_bias(feed_forward.down_proj, ranks)


def _whole_memory(
    encode: Callable[..., Memory], group: Group, source: Tensor, positions: Tensor | None = None
) -> Memory:
    """Gathered once for the cross-attention of all layers."""
    memory = encode(source, positions)
    return replace(memory, states=all_gather(memory.states, 1, group))


def _own_time(x: Tensor, group: Group) -> Tensor:
    part = x.shape[1] // dist.get_world_size(group)
    return x.narrow(1, dist.get_rank(group) * part, part)


def _embed(embedding: nn.Embedding, first: int, count: int, group: Group, tokens: Tensor) -> Tensor:
    """Rows of the tokens this rank holds, zeros elsewhere, summed over ranks and scattered along time."""
    local = tokens - first
    mine = (local >= 0) & (local < count)
    rows = F.embedding(local.clamp(0, count - 1), embedding.weight)
    return reduce_scatter(rows * mine[..., None], 1, group)


def _cut_attention(attention: Attention, config: ModelConfig, ranks: int, rank: int) -> None:
    _share_bias(attention.o_proj, ranks)
    heads = config.heads // ranks
    if config.kv_heads % ranks:  # each rank has the whole weight and makes the one head its queries look at
        first = rank * config.kv_heads // ranks * config.head_dim
        for linear in (attention.k_proj, attention.v_proj):
            linear.forward = partial(_rows, linear, first, config.head_dim)  # type: ignore[method-assign]
    if config.position in ("alibi", "t5"):  # cross-attention has no bias, and so nothing to choose from
        attention.core = partial(_with_own_bias, attention.core, rank * heads, heads)


def _rows(linear: nn.Linear, first: int, count: int, input: Tensor) -> Tensor:
    bias = None if linear.bias is None else linear.bias[first : first + count]
    return F.linear(input, linear.weight[first : first + count], bias)


def _with_own_bias(
    core: Callable[..., Tensor],
    first: int,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    **options: float,
) -> Tensor:
    whole = mask.bias
    if whole is None:
        return core(query, key, value, mask, **options)
    own = replace(mask, bias=lambda q, k: whole(q, k)[:, first : first + heads])
    return core(query, key, value, own, **options)


def _share_bias(linear: nn.Linear, ranks: int) -> None:
    """A bias behind a sum over ranks is added in equal shares."""
    if linear.bias is not None:
        linear.forward = lambda input: F.linear(input, linear.weight, linear.bias / ranks)


def vocabulary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    first: int,
    vocab: int,
    group: Group,
) -> LossSum:
    """`plait.nn.loss.cross_entropy` where each rank has the logits of a part of the vocabulary only.

    Three numbers a position travel instead of its logits.

    Args:
        logits: `[..., part of the vocabulary]`, beginning at token `first`.
        targets: ids `[...]`, the same on every rank.
    """
    logits, targets = wide(logits.flatten(0, -2)), targets.flatten()
    keep = targets != IGNORE
    highest = logits.detach().amax(-1)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    log_norm = all_reduce((logits - highest[:, None]).exp().sum(-1), group).log() + highest
    local = targets - first
    mine = (local >= 0) & (local < logits.shape[-1])
    picked = logits.gather(-1, local.clamp(0, logits.shape[-1] - 1)[:, None]).squeeze(-1)
    picked = all_reduce(picked * mine, group)
    total = nll = ((log_norm - picked) * keep).sum()
    if label_smoothing:
        mean = all_reduce(logits.sum(-1), group) / vocab
        uniform = ((log_norm - mean) * keep).sum()
        total = (1 - label_smoothing) * nll + label_smoothing * uniform
    if z_loss:
        total = total + z_loss * (log_norm.square() * keep).sum()
    return LossSum(total, nll.detach(), ((picked == highest) & keep).sum(), keep.sum())
