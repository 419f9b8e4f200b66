"""Shards and whole matrices. The only file that knows torch.distributed.

Sharded parameters are refused for now: a matrix recipe on a shard would silently compute something
else. Plain tensors under DistributedDataParallel need nothing: every rank holds the same gradient.
"""

import sys

from torch import Tensor

from stiefel.errors import ParameterError

__all__ = ["refuse_sharded"]


def refuse_sharded(name: str, tensor: Tensor) -> None:
    """Raise `ParameterError` if ``tensor`` is a DTensor or an FSDP1 flattened parameter.

    Looks into ``sys.modules`` because a process that never imported these classes holds none of
    them, and importing them would slow down ``import stiefel``.
    """
    dtensor = sys.modules.get("torch.distributed.tensor")
    if dtensor is not None and isinstance(tensor, dtensor.DTensor):
        raise ParameterError(
            f"parameter {name} is a DTensor with placements {tensor.placements}: sharded "
            "parameters are not supported yet; use DistributedDataParallel, or build the optimiser "
            "on the unsharded model"
        )
    flat = sys.modules.get("torch.distributed.fsdp._flat_param")
    if flat is not None and isinstance(tensor, flat.FlatParameter):
        raise ParameterError(
            f"parameter {name} is flattened by FullyShardedDataParallel and holds no matrix any "
            "more: use DistributedDataParallel"
        )
