"""Checkpoints of a run: written whole or not at all, and read with suspicion."""

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stiefel.bench.settings import Settings
from stiefel.bench.text import Text
from stiefel.bench.training import Event, Run
from stiefel.errors import CheckpointError

# What torch.load, or a look at its result, raises for a file that is not what it should be.
_DAMAGE = (
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


def start(settings: Settings, text: Text, path: Path, *, resume: bool) -> Run:
    """A run that continues the checkpoint at `path`, or a new one where there is none."""
    if not resume and path.exists():
        raise CheckpointError(
            f"{path} belongs to an earlier run: pass --resume to continue that run, "
            "or choose another --out."
        )
    run = Run(settings, text)
    if resume:
        _continue(run, path)
    return run


def checkpointed(run: Run, path: Path, every: int) -> Iterator[Event]:
    """Go on with `run`, saving it after each `every` steps and at its end."""
    for event in run:
        if event.step % every == 0 or event.step == run.settings.steps:
            save(path, {"identity": run.identity(), "state": run.state_dict()})
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
        raise CheckpointError(
            f"{path} does not exist, so there is nothing to resume: leave out --resume to start "
            "a new run, or give the --out of the run to continue."
        )
    with path.open("rb") as file, suppress(*_DAMAGE):
        # torch.load does not compare the checksums that it stores; a flipped bit would pass.
        if zipfile.ZipFile(file).testzip() is None:
            file.seek(0)
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            if content.keys() == {"identity", "state"}:
                return content
    raise CheckpointError(
        f"{path} is damaged or no checkpoint of stiefel: delete it and start the run again, "
        "or restore a copy."
    )


def _continue(run: Run, path: Path) -> None:
    content = load(path)
    wanted, found = run.identity(), content["identity"]
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
    run.load_state_dict(content["state"])
