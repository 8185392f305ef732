"""Data parallelism: gradients summed over copies, and parameters shared out by torch's `fully_shard`.

Rajbhandari et al. 2020 (ZeRO, stage 3) for sharing out; both together are the hybrid of Zhao et al. 2023
(PyTorch FSDP, section 3.2.2). Sums stay sums: the loss was divided by the tokens of all ranks already.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from plait.parallel.collectives import Group

BUCKET = 8 << 20  # numbers that travel together


def local(tensor: Tensor) -> Tensor:
    """This rank's numbers of a tensor, whether `fully_shard` holds it or not."""
    # asked for by its method: importing DTensor takes as long as importing torch
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def like(parameter: Tensor, piece: Tensor) -> Tensor:
    """A rank's numbers as the kind of tensor the parameter is; the inverse of `local`."""
    if not hasattr(parameter, "to_local"):
        return piece
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        piece,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def share_out(
    part: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, *, half: torch.dtype | None, keep: bool
) -> None:
    """Cut the parameters of a part over `mesh`, block by block.

    Args:
        half: type that parameters are gathered and multiplied in; sums of gradients are float32. None: as
            they are.
        keep: leave parameters gathered between forward and backward, as a pipeline needs them many times.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(half, half and torch.float32, cast_forward_inputs=False)
    frozen = {parameter for parameter in part.parameters() if not parameter.requires_grad}
    modules = [*blocks, part]
    for module in modules:
        # the last block, and what lies beside the blocks, is needed again at once: it stays gathered
        again = module not in modules[-2:] and not keep
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=again, ignored_params=frozen)
    for module in part.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def sync_when(part: nn.Module, last: bool) -> None:
    """Whether the next backward pass sums gradients over ranks: only that of the last micro-batch does."""
    if hasattr(part, "set_requires_gradient_sync"):
        part.set_requires_gradient_sync(last)  # type: ignore[operator]
        part.set_is_last_backward(last)  # type: ignore[operator]


def let_go(part: nn.Module) -> None:
    """Free the parameters that an evaluation has left gathered."""
    for module in part.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # type: ignore[operator]


def sum_gradients(parameters: Iterable[nn.Parameter], group: Group) -> None:
    """Sum gradients over a group in place, in large buckets; a missing one counts as zeros."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        grad = local(parameter.grad)
        if bucket and (size + grad.numel() > BUCKET or grad.dtype != bucket[0].dtype):
            _sum_bucket(bucket, group)
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.numel()
    if bucket:
        _sum_bucket(bucket, group)


def _sum_bucket(bucket: list[Tensor], group: Group) -> None:
    flat = torch.cat([grad.flatten() for grad in bucket])
    dist.all_reduce(flat, group=group)
    at = 0
    for grad in bucket:
        grad.copy_(flat[at : at + grad.numel()].view_as(grad))
        at += grad.numel()
