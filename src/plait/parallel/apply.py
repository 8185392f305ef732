"""`apply_layout`: build this rank's parts of a model, each parameter no larger than what the rank holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import EncoderDecoder, build
from plait.nn.initialize import initial
from plait.nn.moe import MoE
from plait.parallel.context import context_core
from plait.parallel.data import like, local, share_out
from plait.parallel.expert import all_to_all_dispatch
from plait.parallel.layout import Layout
from plait.parallel.mesh import Mesh
from plait.parallel.parameters import EMBEDDING, FROZEN, Parameters
from plait.parallel.part import Part, stage_model
from plait.parallel.pieces import Sharding, cut_shape
from plait.parallel.pipeline import split_layers, stages_of
from plait.parallel.placed import Placed
from plait.parallel.sequence import ContextParts
from plait.parallel.tensor import cut_dimension, cut_model

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def apply_layout(
    config: ModelConfig,
    layout: Layout,
    device: torch.device,
    *,
    dtype: str = "float32",
    seed: int = 0,
    compiled: bool = False,
    mesh: Mesh | None = None,
) -> Placed:
    """Build the model where it runs, initialized from (seed, parameter name, index), under any layout alike.

    Stages are split from a model without memory, parameters cut by experts and tensor parallelism, exchanges
    put into the seams, blocks compiled, the rest shared out, and only then memory taken and filled.

    Args:
        dtype: float64 and float32 hold and compute in that type; bfloat16 and float16 compute in it, with
            float32 weights: under autocast, or under fsdp with parameters gathered in that type.
        mesh: the ranks; None makes them from the default process group.
    """
    mesh = mesh or Mesh(layout, device.type)
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in build(config).named_parameters()}
    shardings = {name: sharding_of(name, config, layout) for name in shapes}
    half = HALF.get(dtype)
    shared = layout.fsdp > 1
    ranges = split_layers(config, layout.total_stages)
    parts = []
    for stage in stages_of(layout, mesh.at["pp"]):
        last = stage == layout.total_stages - 1
        with torch.device("meta"):
            model = stage_model(config, ranges[stage], first=stage == 0, last=last)
        if dtype == "float64":
            model.double()
        _cut(model, shardings, mesh)
        model.tie()
        _exchange(model, config, layout, mesh)
        if compiled:
            for block in _layers(model):
                block.compile()
        part = Part(model, stage, layout.total_stages, None if shared else half)
        if shared:
            share_out(part, _layers(model), mesh.submesh("fsdp"), half=half, keep=layout.pp > 1)
        _materialize(part, device)
        parts.append(part)
    weights = torch.float64 if dtype == "float64" else torch.float32
    parameters = Parameters(parts, mesh, shapes, shardings, ranges, tied=config.tied)
    _initialize(parameters, config, seed)
    return Placed(parts, parameters, config, mesh, device, travels_as=half if shared and half else weights)


def place_model(model: Decoder) -> Placed:
    """A whole model as it is, in this process."""
    parts, mesh, config = [Part(model, 0, 1, None)], Mesh(Layout()), model.config
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    shardings = dict.fromkeys(shapes, Sharding())
    parameters = Parameters(parts, mesh, shapes, shardings, [range(config.layers)], tied=config.tied)
    weight = next(model.parameters())
    return Placed(parts, parameters, config, mesh, weight.device, travels_as=weight.dtype)


def sharding_of(name: str, config: ModelConfig, layout: Layout) -> Sharding:
    """How a layout cuts a parameter."""
    stacked = ".mlp.experts." in name
    return Sharding(
        tp=cut_dimension(name, config, layout.tp) if layout.tp > 1 else None,
        ep=0 if stacked and layout.ep > 1 else None,
        fsdp=not name.endswith(FROZEN),
    )


def _layers(model: Decoder) -> list[nn.Module]:
    """In the order in which they compute."""
    encoder = model.encoder.layers.values() if isinstance(model, EncoderDecoder) else ()
    return [*encoder, *model.layers.values()]


def _cut(model: Decoder, shardings: dict[str, Sharding], mesh: Mesh) -> None:
    """Make parameters as small as tensor and expert parallelism leave them."""
    for prefix, module in model.named_modules():
        for name, parameter in list(module.named_parameters(prefix, recurse=False)):
            # the head of a tied model is cut as the embedding that it shares or copies
            sharding = shardings.get(name) or shardings[EMBEDDING]
            size = cut_shape(parameter.shape, sharding, mesh.sizes, mesh.at)
            if size != list(parameter.shape):
                small = nn.Parameter(parameter.new_empty(size), requires_grad=parameter.requires_grad)
                setattr(module, name.rpartition(".")[2], small)


def _exchange(model: Decoder, config: ModelConfig, layout: Layout, mesh: Mesh) -> None:
    """Put what talks to other ranks into the seams of the model."""
    context, experts, tensor = mesh.group("cp"), mesh.group("ep"), mesh.group("tp")
    for _, block in model.blocks():
        if context is not None:
            block.self_attn.core = context_core(context, layout.attention)
        if isinstance(block.mlp, MoE):
            if context is not None:
                block.mlp.parts = ContextParts(context)
            if experts is not None:
                block.mlp.experts.dispatch = all_to_all_dispatch(experts, config.experts)
    if tensor is not None:
        cut_model(model, config, tensor)


@torch.no_grad()
def _materialize(part: Part, device: torch.device) -> None:
    """Give parameters and buffers memory, shared ones once."""
    made: dict[int, nn.Parameter] = {}
    for module in part.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    _with_memory(parameter, device), requires_grad=parameter.requires_grad
                )
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.zeros_like(buffer, device=device), persistent=False)


def _with_memory(parameter: Tensor, device: torch.device) -> Tensor:
    return like(parameter, torch.empty_like(local(parameter), device=device))


@torch.no_grad()
def _initialize(parameters: Parameters, config: ModelConfig, seed: int) -> None:
    for name, parameter in parameters.named:
        box = parameters.pieces[name]
        source = parameters.copies.get(name, name)
        local(parameter).copy_(initial(config, seed, source, box.shape, box.start, box.size))
