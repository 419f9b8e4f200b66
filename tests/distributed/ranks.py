"""Several ranks in one test: a pool of processes that is started once and runs many cases.

A case is a function of a module, called on every rank within a fresh gloo group. An assertion that
fails on one rank fails the test with that rank's traceback; ranks that wait for it are killed, as
are ranks that hang, and the next case gets new ones.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

MOST = 4
PATIENCE = 120.0  # seconds for one case
GRACE = 2.0  # seconds for the other ranks to report what they make of a failure

Case = Callable[..., object]


def _serve(connection: Connection) -> None:
    """A rank's life: run cases until the connection closes."""
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_report(*connection.recv()))


def _report(rank: int, world: int, store: str, case: Case, args: tuple[Any, ...]) -> str:
    """Empty, or the traceback."""
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world
        )
        torch.manual_seed(0)
        case(*args)
        dist.barrier()
    except BaseException:
        return traceback.format_exc()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return ""


class Ranks:
    """A pool of `MOST` processes; `run` uses the first few of them."""

    def __init__(self) -> None:
        self._context = mp.get_context("forkserver")
        # torch imports the second by itself, slowly, at the first step of a sharded model.
        self._context.set_forkserver_preload(["tests.distributed.preload", "torch._dynamo"])
        self._folder = tempfile.TemporaryDirectory()
        self._count = 0
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def run(self, world: int, case: Case, *args: Any, patience: float = PATIENCE) -> None:
        """Run ``case(*args)`` on ``world`` ranks.

        Raises:
            AssertionError: with the traceback of every rank that failed or the names of those that
                hang.
        """
        if not self._processes:
            self._start()
        self._count += 1
        store = f"{self._folder.name}/{self._count}"
        for rank, connection in enumerate(self._connections[:world]):
            connection.send((rank, world, store, case, args))
        failures = self._collect(world, patience)
        if failures:
            self.close()
            raise AssertionError("\n".join(failures))

    def _start(self) -> None:
        for _ in range(MOST):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _collect(self, world: int, patience: float) -> list[str]:
        waiting = {self._connections[rank]: rank for rank in range(world)}
        failures: list[str] = []
        deadline = time.monotonic() + patience
        while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
            for connection in ready:
                rank = waiting.pop(connection)  # type: ignore[call-overload]
                if report := self._received(connection):
                    failures.append(f"-- rank {rank} of {world} --\n{report}")
                    deadline = min(deadline, time.monotonic() + GRACE)
        if waiting:
            failures.append(f"no answer from ranks {sorted(waiting.values())} of {world}")
        return failures

    def _received(self, connection: Any) -> str:
        try:
            return str(connection.recv())
        except EOFError:
            return "died"

    def close(self) -> None:
        """Kill every process."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []
