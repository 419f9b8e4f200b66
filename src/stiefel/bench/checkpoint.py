"""Checkpoints of a run: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stiefel.errors import CheckpointError

if TYPE_CHECKING:
    from stiefel.bench.training import Event, Run

# What torch.load, or a look at its result, raises for a file that is not what it should be.
DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def start(run: Run, path: Path, *, resume: bool) -> None:
    """Let a new run continue the checkpoint at `path`, or see that there is none to overwrite."""
    if resume:
        run.resume(path)
    elif path.exists():
        raise CheckpointError(
            f"{path} belongs to an earlier run: pass --resume to continue that run, "
            "or choose another --out."
        )


def checkpointed(run: Run, path: Path, every: int) -> Iterator[Event]:
    """Go on with `run`, saving it after each `every` steps and at its end."""
    for event in run:
        if event.step % every == 0 or event.step == run.settings.steps:
            run.save(path)
        yield event


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint such that a crash at any moment leaves the old one or the new one.

    The new file is complete on the disk before it takes the old one's name, and taking a name is
    one indivisible act of the file system as long as both are in the same folder.
    """
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; torch executes no code from it (`weights_only`)."""
    if not path.is_file():
        raise missing(path)
    with suppress(*DAMAGE):
        if is_intact(path):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if content.keys() == {"identity", "state"}:
                return content
    raise damaged(path)


def is_intact(path: Path, start: int = 0, length: int = -1) -> bool:
    """Whether the checksums hold in what torch.save wrote into (a part of) a file.

    torch.load does not compare them; a flipped bit would pass.
    """
    with suppress(*DAMAGE), path.open("rb") as file:
        file.seek(start)
        return zipfile.ZipFile(BytesIO(file.read(length))).testzip() is None
    return False


def missing(path: Path) -> CheckpointError:
    """There is no checkpoint."""
    return CheckpointError(
        f"{path} does not exist, so there is nothing to resume: leave out --resume to start "
        "a new run, or give the --out of the run to continue."
    )


def damaged(path: Path) -> CheckpointError:
    """There is something else."""
    return CheckpointError(
        f"{path} is damaged or no checkpoint of stiefel: delete it and start the run again, "
        "or restore a copy."
    )


def unwritten(path: Path, reasons: Mapping[int, BaseException]) -> CheckpointError:
    """Some processes could not write their share, for a reason each."""
    said = "; ".join(f"rank {rank}: {error}" for rank, error in reasons.items())
    return CheckpointError(
        f"{path} was not written ({said}): mend that, and go on from the checkpoint before it with "
        "--resume."
    )


def refuse_another(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `CheckpointError` unless a checkpoint is of the run that is to be continued."""
    differences = [
        f"{name} {found.get(name)!r} (not {value!r})"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differences:
        raise CheckpointError(
            f"{path} was written with {', '.join(differences)}: resume with those settings, "
            "or choose another --out."
        )
