"""Ranks, and what lies on them. The only file that knows torch.distributed.

A `Team` is a set of ranks that share parameters: those of a DTensor's mesh or of a process group.
It moves bytes, adds numbers up and tells everybody what went wrong. The functions translate between
DTensors and plain tensors; they look into ``sys.modules`` because a process that never imported
DTensors holds none, and importing them would slow down ``import stiefel``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.dlpack import from_dlpack

from stiefel.engine.distributed.layout import Cut, Layout
from stiefel.errors import DistributedError, ParameterError

__all__ = [
    "ProcessGroup",
    "Team",
    "dealt",
    "globally",
    "is_astray",
    "is_sharded",
    "layout_of",
    "lies",
    "like",
    "local",
    "part_of",
    "refuse_absent",
    "refuse_flattened",
    "settled",
    "team_of",
    "unwrapped",
    "whole",
]

ProcessGroup = dist.ProcessGroup

# How long a rank waits for the others to make the same call: time enough to compile a kernel.
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Team:
    """The ranks of a mesh or of a process group.

    Attributes:
        ranks: their global ranks; everything else counts by the place in this list.
        device: where their tensors live.
    """

    ranks: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def me(self) -> int:
        """The place of this rank."""
        return self.ranks.index(dist.get_rank())

    @property
    def group(self) -> dist.ProcessGroup:
        """Made once for these ranks, so that a team is plain data and can be copied and pickled."""
        return _group(dist.group.WORLD, self.ranks)

    def wire(
        self, arriving: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> Callable[[], object]:
        """See `stiefel.engine.distributed.routes.Wire`."""
        work = dist.all_to_all_single(
            arriving, sent, sizes_in, sizes_out, group=self.group, async_op=True
        )
        assert work is not None  # as it would be outside the group
        return partial(work.wait)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum over all ranks of every number."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, number: float) -> float:
        """The maximum over all ranks."""
        return self._reduced([number], dist.ReduceOp.MAX)[0]

    def _reduced(self, numbers: Sequence[float], how: Any) -> list[float]:
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(values, how, group=self.group)
        return [float(value) for value in values.cpu()]

    def everyone(self, thing: Any) -> list[Any]:
        """What every rank has to say."""
        found: list[Any] = [None] * len(self)
        dist.all_gather_object(found, thing, group=self.group)
        return found

    def meet(self, call: str) -> None:
        """Wait for all ranks to make the same call.

        Raises:
            DistributedError: they did not within `PATIENCE`.
        """
        work = dist.all_reduce(torch.zeros(1, device=self.device), group=self.group, async_op=True)
        try:
            assert work is not None
            work.wait(PATIENCE)
        except RuntimeError as error:
            raise DistributedError(
                f"{call} was not called on every rank of {list(self.ranks)} within {PATIENCE}: "
                "they share parameters, so build the same model and call the same on all of them"
            ) from error


@cache
def _group(world: dist.ProcessGroup, ranks: tuple[int, ...]) -> dist.ProcessGroup:
    """A process group of these ranks; the world's own where that is what they are."""
    if ranks == tuple(range(world.size())):
        return world
    made: dist.ProcessGroup = dist.new_group(list(ranks), use_local_synchronization=True)
    return made


def globally(group: dist.ProcessGroup | None) -> tuple[int, ...]:
    """The global ranks of a group; none of None. Unlike a group they can be copied and pickled.

    Raises:
        ParameterError: no group, or one without this rank.
    """
    if group is None:
        return ()
    if not isinstance(group, dist.ProcessGroup):
        raise ParameterError(
            f"process_group={group!r} is no process group of this rank: give None, or the group "
            "of the ranks that hold the same parameters, such as torch.distributed.group.WORLD"
        )
    return tuple(dist.get_process_group_ranks(group))


def team_of(parameter: Tensor, replicas: tuple[int, ...]) -> Team | None:
    """Who shares a parameter: the ranks of its mesh; for a plain tensor those of ``replicas``.

    None where nobody does: a tensor that DistributedDataParallel was told to leave alone, and one
    on a mesh of others, which `refuse_absent` refuses.
    """
    ranks = () if getattr(parameter, "_ddp_ignored", False) else replicas
    if is_sharded(parameter):
        ranks = tuple(parameter.device_mesh.mesh.flatten().tolist())
    return Team(ranks, local(parameter).device) if ranks and dist.get_rank() in ranks else None


# -- DTensors --------------------------------------------------------------------------------------


def is_sharded(tensor: Any) -> TypeGuard[Any]:
    """Whether it is a DTensor (also a replicated one)."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def lies(parameter: Tensor) -> str:
    """Shape, dtype and placements in words."""
    placements = f" as {parameter.placements}" if is_sharded(parameter) else ""
    return f"{list(parameter.shape)} {parameter.dtype}{placements}"


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, or all of a plain tensor, as a detached alias."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: Tensor = tensor.to_local().detach()
    return part


def like(parameter: Tensor, part: Tensor) -> Tensor:
    """``part`` as this rank's part of a DTensor that lies as ``parameter`` does."""
    if not is_sharded(parameter):
        return part
    if part.storage_offset():  # torch cannot copy a DTensor that begins inside its storage
        part = from_dlpack(part)
    return _assembled(part, parameter.device_mesh, parameter.placements, parameter.shape)


def _assembled(
    part: Tensor, mesh: DeviceMesh, placements: Sequence[Any], shape: Sequence[int]
) -> Tensor:
    """The DTensor of ``shape``, contiguous as a whole, of which ``part`` is this rank's."""
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    whole_shape = torch.Size(shape)
    stride = torch.empty(whole_shape, device="meta").stride()
    return DTensor.from_local(part, mesh, placements, shape=whole_shape, stride=stride)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a DTensor (all its ranks must ask for it); a plain tensor itself."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()
    return full


def is_astray(parameter: Tensor) -> bool:
    """Whether the gradient does not lie as its parameter does."""
    grad: Any = parameter.grad
    return is_sharded(grad) and bool(grad.placements != getattr(parameter, "placements", None))


def settled(parameter: Tensor, grad: Any) -> Tensor:
    """This rank's part of a gradient that lies as its parameter does.

    Sequence parallelism leaves gradients of replicated parameters as partial sums; those are added
    up here, as any operation of torch on the two would do.
    """
    if not is_sharded(grad):
        plain: Tensor = grad
        return plain
    if is_astray(parameter):
        placements: Any = parameter.placements  # type: ignore[attr-defined]
        grad = grad.redistribute(placements=placements)
    return local(grad)


def layout_of(name: str, parameter: Tensor, team: Team) -> Layout:
    """Where the entries of a parameter lie.

    Raises:
        ParameterError: a placement that is no shard or replica, a local tensor of another shape
            than its placements say, or a mesh whose ranks do not ascend.
    """
    shape, ranks = tuple(parameter.shape), list(team.ranks)
    if ranks != sorted(ranks):
        raise ParameterError(
            f"parameter {name} lies on a mesh of ranks {ranks}: build the mesh with its ranks in "
            "ascending order"
        )
    if not is_sharded(parameter):
        return Layout(shape, (len(team),), (None,))
    cuts = tuple(_cut(name, parameter, placement) for placement in parameter.placements)
    layout = Layout(shape, tuple(parameter.device_mesh.shape), cuts)
    found, expected = tuple(local(parameter).shape), layout.local_shape(team.me)
    if found != expected:
        raise ParameterError(
            f"parameter {name} has placements {parameter.placements}, by which rank {team.me} of "
            f"its mesh holds {list(expected)}, but it holds {list(found)}: make the sharded "
            "dimension a multiple of the mesh's size"
        )
    return layout


def part_of(parameter: Tensor, saved: Tensor) -> Tensor:
    """What a tensor that lies as ``parameter`` holds here of a saved one of its shape."""
    alike: Any = parameter
    if not is_sharded(parameter):
        return whole(saved).detach()
    if is_sharded(saved) and (saved.device_mesh, saved.placements) == (
        alike.device_mesh,
        alike.placements,
    ):
        return local(saved)
    full, team = whole(saved), team_of(parameter, ())
    assert team is not None
    layout = layout_of("", parameter, team)
    part = full.new_empty(layout.local_shape(team.me))
    for patch in layout.patches(team.me):
        patch.local.of(part).copy_(patch.whole.of(full))
    return part


def _cut(name: str, parameter: Any, placement: Any) -> Cut | None:
    if placement.is_replicate():
        return None
    kind = type(placement).__name__
    if kind not in ("Shard", "_StridedShard"):
        raise ParameterError(
            f"parameter {name} has placements {parameter.placements}: {placement} is not "
            "supported; redistribute it to Shard or Replicate before the optimiser is made"
        )
    axis = placement.dim % parameter.ndim
    return Cut(axis, placement.split_factor if kind == "_StridedShard" else 1)


def dealt(part: Tensor, shape: tuple[int, ...], cut: Cut | None, team: Team) -> Tensor:
    """This rank's part of a tensor of ``shape`` as a DTensor, cut over its team or a replica."""
    from torch.distributed.tensor import Replicate, Shard  # noqa: PLC0415

    placement = Replicate() if cut is None else Shard(cut.axis)
    return _assembled(part, _mesh(team.group, team.device.type), [placement], shape)


@cache
def _mesh(group: dist.ProcessGroup, device: str) -> DeviceMesh:
    return DeviceMesh.from_group(group, device)


# -- modules --------------------------------------------------------------------


def unwrapped(model: nn.Module) -> tuple[nn.Module, ProcessGroup | None]:
    """The module inside DistributedDataParallel, and its ranks; any other module as it is.

    Raises:
        ParameterError: FullyShardedDataParallel somewhere in it.
    """
    for found in model.modules() if isinstance(model, nn.Module) else ():
        if type(found).__name__ == "FullyShardedDataParallel":
            raise ParameterError(
                "FullyShardedDataParallel flattens parameters, which then hold no matrix any more: "
                "shard the model with torch.distributed.fsdp.fully_shard"
            )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module, model.process_group
    return model, None


def refuse_absent(name: str, parameter: Tensor) -> None:
    """Raise `ParameterError` for a DTensor on a mesh that this rank is no part of."""
    if is_sharded(parameter) and team_of(parameter, ()) is None:
        raise ParameterError(
            f"parameter {name} lies on a mesh of ranks {parameter.device_mesh.mesh.tolist()}, and "
            f"this is rank {dist.get_rank()}: give every rank's optimiser what that rank holds"
        )


def refuse_flattened(name: str, tensor: Tensor) -> None:
    """Raise `ParameterError` for a parameter that FSDP1 or DeepSpeed's ZeRO-3 has flattened."""
    flat = sys.modules.get("torch.distributed.fsdp._flat_param")
    if flat is not None and isinstance(tensor, flat.FlatParameter):
        raise ParameterError(
            f"parameter {name} is flattened by FullyShardedDataParallel and holds no matrix any "
            "more: use torch.distributed.fsdp.fully_shard, or DistributedDataParallel"
        )
    if hasattr(tensor, "ds_id"):
        raise ParameterError(
            f"parameter {name} is flattened by DeepSpeed's ZeRO-3 and holds no matrix any more: "
            "use torch.distributed.fsdp.fully_shard, or DistributedDataParallel"
        )
