"""Checkpoints of several processes when something goes wrong: deaths, full disks, damage."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from stiefel.bench import checkpoint
from stiefel.bench.parallel import ParallelRun
from stiefel.bench.settings import Parallel
from stiefel.errors import CheckpointError
from tests.distributed.ranks import Ranks

from .conftest import TINY
from .test_checkpoint import assert_same
from .test_parallel import facts, text_in

SETTINGS = replace(TINY, steps=4)
LARGE = 10_000  # bytes, less than what a process writes


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    pool = Ranks()
    yield pool
    pool.close()


def before(event: str, name: str) -> None:
    """This process dies before it does such a thing to a file or folder of such a name."""

    def watch(now: str, args: tuple[Any, ...]) -> None:
        if now == event and name in str(args[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def within_a_file(size: int) -> None:
    """The kernel ends this process when it has written so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    full_disk(size)


def full_disk(size: int) -> None:
    """Writing more than so many bytes into a file is an error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# -- processes that really die ---------------------------------------------------------------------

# Who dies when, and whether the new checkpoint is whole then. A process writes its share as one
# file; the first then renames the list of all files, and deletes the checkpoint before.
DEATHS: list[tuple[list[int], Callable[[], None], bool]] = [
    ([0], partial(before, "os.mkdir", "step-"), False),
    ([0, 1], partial(before, "open", ".distcp"), False),
    ([1], partial(within_a_file, LARGE), False),
    ([0], partial(within_a_file, LARGE), False),
    ([0], partial(before, "open", ".metadata.tmp"), False),
    ([0], partial(before, "os.rename", ".metadata.tmp"), False),
    ([0], partial(before, "os.rmdir", "step-"), True),
    ([0], partial(before, "os.remove", ".distcp"), True),
]


def resumed(folder: Path, out: Path, step: int) -> tuple[ParallelRun, Path]:
    run = ParallelRun(SETTINGS, text_in(folder), Parallel.FSDP2)
    path = out / run.CHECKPOINT
    checkpoint.start(run, path, resume=step > 0)
    assert run.step == step
    return run, path


def go_on(folder: Path, out: Path, step: int, victims: list[int], death: Any) -> None:
    run, path = resumed(folder, out, step)
    next(iter(run))
    if dist.get_rank() in victims:
        death()
    run.save(path)


def finish(folder: Path, out: Path, step: int) -> None:
    run, path = resumed(folder, out, step)
    list(checkpoint.checkpointed(run, path, every=1))
    dist.barrier()  # the first rank deletes what is old
    assert [kept.name for kept in path.iterdir()] == [f"step-{SETTINGS.steps:08}"]
    unharmed, _ = resumed(folder, out / "unharmed", 0)
    list(unharmed)
    assert_same(facts(run), facts(unharmed))


@pytest.mark.parametrize("deaths", [DEATHS[2::3], pytest.param(DEATHS, marks=pytest.mark.slow)])
def test_killed_while_saving(ranks: Ranks, folder: Path, tmp_path: Path, deaths: Any) -> None:
    """A run that dies again and again ends as one that was never interrupted."""
    ranks.run(2, go_on, folder, tmp_path, 0, [], None)
    step = 1
    for victims, death, whole in deaths:
        with pytest.raises(AssertionError, match="died"):
            ranks.run(2, go_on, folder, tmp_path, step, victims, death)
        step += whole
    ranks.run(2, finish, folder, tmp_path, step)


# -- disks -----------------------------------------------------------------------------------------


def one_disk_is_full(folder: Path, out: Path) -> None:
    run, path = resumed(folder, out, 0)
    next(iter(run))
    run.save(path)
    next(iter(run))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        full_disk(LARGE)
    with pytest.raises(CheckpointError, match=r"2 was not written \(rank 1: .*File too large\)"):
        run.save(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    resumed(folder, out, 1)
    run.save(path)
    resumed(folder, out, 2)


def test_a_full_disk_on_one_machine(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    ranks.run(2, one_disk_is_full, folder, tmp_path)


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "half a list": (".metadata", lambda found: found[: len(found) // 2]),
    "no list": (".metadata", lambda found: b""),
    "half a share": ("__1_0.distcp", lambda found: found[: len(found) // 2]),
    "bits": ("__1_0.distcp", lambda found: found[:20_000] + b"\x55" + found[20_001:]),
}


def refuse_what_is_damaged(folder: Path, out: Path) -> None:
    run, path = resumed(folder, out, 0)
    run.save(path)
    for name, harm in DAMAGES.values():
        (file,) = path.rglob(name)
        whole = file.read_bytes()
        dist.barrier()
        if dist.get_rank() == 0:
            file.write_bytes(harm(whole))
        dist.barrier()
        with pytest.raises(CheckpointError, match="checkpoint is damaged"):
            run.resume(path)
        dist.barrier()
        if dist.get_rank() == 0:
            file.write_bytes(whole)
    dist.barrier()
    run.resume(path)


def test_damage_is_noticed_by_all(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    ranks.run(2, refuse_what_is_damaged, folder, tmp_path)
