"""What decides the result of one training run, checked before anything is computed."""

import math
import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from stiefel import recipes
from stiefel.bench.gpt import HEAD_SIZE
from stiefel.errors import StiefelError


class SettingsError(StiefelError):
    """A setting has a value that no run can have."""


class Parallel(StrEnum):
    """How a run is spread over the processes of torchrun; its result is the same up to rounding."""

    DDP = "ddp"
    FSDP2 = "fsdp2"


@dataclass(frozen=True)
class Settings:
    """One optimiser, learning rate and seed; model size, budget and device.

    The learning rate is the peak of the schedule, in AdamW's unit for every optimiser. One thread
    is the default: on two idle cores two threads take 0.6 of the time, but where another program
    wants a core, ten times as long, for each waits for the other at every operation.
    """

    optimizer: str = "muon"
    lr: float = 1e-2
    seed: int = 0
    steps: int = 360
    batch: int = 8
    context: int = 128
    layers: int = 2
    width: int = 192
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "layers", "width", "threads"):
            value = getattr(self, name)
            _require(value >= 1, f"--{name} is {value}, but must be at least 1.")
        recipes.named(self.optimizer)  # refuses what is none
        _require(
            math.isfinite(self.lr) and self.lr > 0,
            f"the learning rate is {self.lr}, but must be a positive finite number, such as 0.004.",
        )
        _require(self.seed >= 0, f"the seed is {self.seed}, but must be 0 or larger.")
        _require(
            self.width % HEAD_SIZE == 0,
            f"--width is {self.width}, but must be a multiple of the head size {HEAD_SIZE}, "
            "such as 192.",
        )
        _require(
            self.device in ("cpu", "cuda"),
            f"--device is {self.device!r}, but must be cpu or cuda.",
        )
        _require(
            self.device == "cpu" or torch.cuda.is_available(),
            "--device is cuda, but torch finds no CUDA device here: use --device cpu.",
        )


def check_processes(parallel: Parallel | None) -> None:
    """See that a run is spread over processes exactly if torchrun started them."""
    started = "TORCHELASTIC_RUN_ID" in os.environ
    _require(
        started or parallel is None,
        f"--parallel is {parallel}, but there is one process: start several with torchrun "
        "--nproc-per-node 2 -m stiefel.cli train, or leave out --parallel.",
    )
    _require(
        parallel is not None or not started,
        "torchrun started this process, but without --parallel each would train alone and write "
        f"to the same folder: add --parallel {' or --parallel '.join(Parallel)}.",
    )


def make_folder(path: Path) -> Path:
    """Create the folder, and prove that files can be written there before work is spent."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise SettingsError(
            f"cannot write to the folder {path} ({error.strerror}): choose another --out."
        ) from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)


QUICK = Settings(steps=60, layers=1, width=64)
