"""One run on several processes, which torchrun started. Only this file knows torch.distributed."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from stiefel.bench.checkpoint import (
    DAMAGE,
    damaged,
    is_intact,
    missing,
    refuse_another,
    unwritten,
)
from stiefel.bench.gpt import GPT
from stiefel.bench.settings import Parallel, Settings, SettingsError
from stiefel.bench.text import Text
from stiefel.bench.training import Run


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Inside, the processes of torchrun are one group, and only the first has a standard output.

    Raises:
        SettingsError: more processes than GPUs.
    """
    if device == "cuda":
        _take_gpu(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere if dist.get_rank() else sys.stdout),
    ):
        yield
    # Not after an error: the others may be waiting for this process, until torchrun ends them.
    dist.destroy_process_group()


def _take_gpu(index: int) -> None:
    if index >= torch.cuda.device_count():
        raise SettingsError(
            f"--device is cuda, but this machine has {torch.cuda.device_count()} GPUs for "
            f"{os.environ['LOCAL_WORLD_SIZE']} processes: start one process for each GPU."
        )
    torch.cuda.set_device(index)


class ParallelRun(Run):
    """A run whose batches, and with FSDP2 weights, are spread over all processes.

    Each reads its share of the windows that a single process would read, so the steps are those of
    a single process but for rounding. A checkpoint is a folder in torch's distributed format; any
    number of processes can go on from it, by the same way of spreading or by the other.
    """

    CHECKPOINT: ClassVar[str] = "checkpoint"

    def __init__(self, settings: Settings, text: Text, parallel: Parallel) -> None:
        self._parallel = parallel
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        if settings.batch % self._size:
            raise SettingsError(
                f"--batch is {settings.batch}, but must be a multiple of the number of processes "
                f"{self._size}, among which it is shared."
            )
        super().__init__(settings, text)

    def save(self, path: Path) -> None:
        """Write a folder into the folder `path`; the one before goes when this is complete.

        Raises:
            CheckpointError: a process could not write its share; the one before is still there.
        """
        new = path / f"step-{self.step:08}"
        content = {"identity": self.identity(), "state": self}
        try:
            state_dict_saver.save(content, checkpoint_id=new)
        except CheckpointException as error:
            reasons = {rank: reason for rank, (reason, _) in error.failures.items()}
            raise unwritten(new, reasons) from error
        if self._rank == 0:
            for old in set(path.iterdir()) - {new}:
                shutil.rmtree(old)

    def resume(self, path: Path) -> None:
        """Stand where the run stood that was saved to `path`; see `Run.resume`."""
        if not path.exists():
            raise missing(path)
        complete = sorted(path.glob("*/.metadata"))  # written when all else is on the disk
        if not complete or not self._is_intact(complete[-1].parent):
            raise damaged(path)
        self._load(path, complete[-1].parent)

    def _is_intact(self, folder: Path) -> bool:
        """Whether all checksums in a folder hold; each process compares its share of them."""
        entries: list[Any] = []
        with suppress(*DAMAGE):
            entries += FileSystemReader(folder).read_metadata().storage_data.values()
        mine = entries[self._rank :: self._size]
        hold = sum(is_intact(folder / e.relative_path, e.offset, e.length) for e in mine)
        total = torch.tensor(float(hold), device=self.settings.device)
        dist.all_reduce(total)
        return 0 < len(entries) == total.item()

    def _load(self, path: Path, folder: Path) -> None:
        found = {"identity": self.identity()}
        try:
            state_dict_loader.load(found, checkpoint_id=folder)
            refuse_another(path, self.identity(), found["identity"])
            state_dict_loader.load({"state": self}, checkpoint_id=folder)
        except CheckpointException as error:
            raise damaged(path) from error

    def _spread(self, model: GPT) -> nn.Module:
        if self._parallel is Parallel.DDP:
            return DistributedDataParallel(model)
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        return model

    def _batch(self) -> Tensor:
        return super()._batch().chunk(self._size)[self._rank]

    def _mean(self, loss: Tensor) -> Tensor:
        total = loss.detach() / self._size
        dist.all_reduce(total)
        return total

    def _get_states(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return get_state_dict(self.model, self.optimizer)

    def _set_states(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        set_state_dict(
            self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer
        )
