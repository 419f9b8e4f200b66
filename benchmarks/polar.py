"""Time and fidelity of stiefel's polar methods beside other people's, on the same work in one run.

    python benchmarks/momentum.py     (once: collects the real matrices)
    python benchmarks/polar.py [--device cuda] [--threads 1] [--dtype float32]
                               [--methods fast faithful] [--quick] [--output FILE.json]
    python benchmarks/polar.py --report FILE.json     (into the page)

Each block of the table is one stack of matrices. The routines take turns on it and the fastest turn
of each counts: what disturbs a shared machine only ever slows, and seldom for all of the turns.

ms       fastest turn; on the CPU the thread's own CPU time, with several threads wall time
ratio    over the fastest baseline of the block, the one with the star
defect   ||U U^T - I||_F / sqrt(m), m the short side
cosine   to the exact factor (float64 SVD) of the input as given, and that of the worst matrix
FLOPs    done over 4 m^2 n, the one product X X^T X without which there is no polynomial step;
         five steps on a square do 7.5 times as much
peak     FLOPs per second over those of a square bfloat16 matmul that takes its turns with them
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from momentum import load
from pages import insert
from peers import peers
from polar_report import ONE_BY_ONE, OURS, STACKED, Case, Result, block, check, page
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from yardstick import cosine, defect, exact_polar, gaussian

from stiefel.bench.machine import describe_machine
from stiefel.linalg import METHODS, polar

SHAPES = (
    (64, 64, 64),
    (1, 256, 256),
    (1, 512, 512),
    (1, 512, 2048),
    (1, 768, 3072),
    (1, 3072, 768),
    (1, 1024, 1024),
    (12, 768, 768),
    (1, 2048, 2048),
)
KINDS = ("gaussian", "momentum")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATMUL = {"cpu": 1024, "cuda": 8192}  # a size at which matmuls are fastest
PAGE = Path(__file__).parent.parent / "docs/orthogonality.md"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Effort:
    """How long a routine is timed in one case: at most so many rounds and seconds."""

    rounds: int
    least: int
    seconds: float


CAREFUL, QUICK = Effort(rounds=41, least=5, seconds=2.0), Effort(rounds=5, least=1, seconds=0.3)


@dataclass(frozen=True)
class Routine:
    """A way to make polar factors, and its role in the table."""

    name: str
    role: str
    run: Callable[[Tensor], Any]


def routines(device: str, methods: Sequence[str]) -> list[Routine]:
    """Every baseline that can run here and ``methods`` of stiefel."""
    others = [Routine(p.name, STACKED if p.stacked else ONE_BY_ONE, p.run) for p in peers(device)]
    return others + [Routine(name, OURS, partial(polar, method=name)) for name in methods]


def inputs(case: Case, device: str) -> list[Tensor]:
    """Stacks `[b, m, n]`: one, but several of real matrices that are timed alone."""
    dtype = DTYPES[case.dtype]
    if case.kind == "gaussian":
        return [gaussian(case.b, case.m, case.n).to(device, dtype)]
    real = load(case.m, case.n, real_count(case))
    return list(real.reshape(-1, case.b, case.m, case.n).to(device, dtype))


def real_count(case: Case) -> int:
    """As many real matrices as there are in a stack; several where one is timed alone."""
    if case.b > 1:
        return case.b
    return 12 if min(case.m, case.n) <= 512 else 3  # the exact factors of larger ones take long


def measure(case: Case, found: Sequence[Routine], device: str, effort: Effort) -> list[Result]:
    """All routines in one case."""
    stacks = inputs(case, device)
    truth = torch.cat([exact_polar(X) for X in stacks])
    judged = [judge(routine, case, stacks, truth) for routine in found]
    A = torch.randn(MATMUL[device], MATMUL[device], device=device).bfloat16()
    calls = [lambda X: A @ A, *(routine.run for routine in found)]
    matmul, *times = milliseconds(calls, stacks, effort)
    peak = 2 * len(A) ** 3 / matmul * 1e3
    return [replace(r, milliseconds=t, peak=peak) for r, t in zip(judged, times, strict=True)]


def judge(routine: Routine, case: Case, stacks: Sequence[Tensor], truth: Tensor) -> Result:
    """All of a result but the times."""
    with FlopCounterMode(display=False, custom_mapping=FACTORISATIONS) as counter:
        outputs = [torch.stack(list(routine.run(X))).cpu() for X in stacks]
    U = torch.cat(outputs)
    cosines = cosine(U, truth)
    return Result(
        case,
        routine.name,
        routine.role,
        milliseconds=float("nan"),
        flops=counter.get_total_flops() / len(stacks),
        peak=float("nan"),
        defect=defect(U).mean().item(),
        cosine=cosines.mean().item(),
        worst=cosines.min().item(),
    )


# -- flops that torch's counter does not know ----------------------------------------------------


def _short_long(shape: Sequence[int]) -> tuple[int, int, int]:
    """Batch, short and long side of a stack's shape."""
    *batch, m, n = shape
    return torch.Size(batch).numel(), min(m, n), max(m, n)


def _svd(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    b, m, n = _short_long(shape)
    return b * (4 * m * m * n + 22 * m**3)


def _eigh(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    b, m, _ = _short_long(shape)
    return b * 9 * m**3


def _qr(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    b, m, n = _short_long(shape)
    return b * (4 * m * m * n - 4 * m**3 // 3)


def _cholesky(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    b, m, _ = _short_long(shape)
    return b * m**3 // 3


# The usual counts of the textbooks (Golub and Van Loan), vectors and Q included.
FACTORISATIONS = {
    torch.ops.aten._linalg_svd: _svd,
    torch.ops.aten._linalg_eigh: _eigh,
    torch.ops.aten.linalg_qr: _qr,
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
}


# -- time ----------------------------------------------------------------------------------------


def milliseconds(
    calls: Sequence[Callable[[Tensor], Any]], stacks: Sequence[Tensor], effort: Effort
) -> list[float]:
    """Least of each call; in every round all that still have time take their turn on one stack.

    Each round has an order of its own: what ran before leaves its heat and its cache behind.
    """
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(effort.rounds):
        X = stacks[turn % len(stacks)]
        for index in random.Random(turn).sample(range(len(calls)), len(calls)):
            if turn < effort.least or sum(times[index]) < effort.seconds * 1e3:
                times[index].append(stopwatch(partial(calls[index], X), X.device))
    return [min(spent) for spent in times]


def stopwatch(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    call()
    return (clock() - before) * 1e3


# -- command -------------------------------------------------------------------------------------


def report(device: str, results: Sequence[Result]) -> dict[str, Any]:
    """All that was measured, and where, for machines to read."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(device)
        | {"cpu capability": torch.backends.cpu.get_cpu_capability()},
        "results": [without_infinity(asdict(result)) for result in results],
        "goals": [str(verdict) for verdict in check(results)],
    }


def without_infinity(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity, the defect of a routine that diverged."""
    return {key: None if value == math.inf else value for key, value in fields.items()}


def cases(args: argparse.Namespace) -> list[Case]:
    """What the command line asks for."""
    shapes = SHAPES[:4] if args.quick else SHAPES
    dtypes = [args.dtype] if args.dtype else DTYPES
    return [Case(*shape, *rest) for shape, *rest in product(shapes, dtypes, KINDS)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=[*DTYPES], help="of the input; default: both")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--quick", action="store_true", help="few rounds, up to 512 x 2048")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="what to render")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.report:
        insert(PAGE, "routines", page(json.loads(args.report.read_text())))
        return
    torch.set_num_threads(args.threads)
    print(*(f"{key} {value}" for key, value in describe_machine(args.device).items()), sep=", ")
    found, effort = routines(args.device, args.methods), QUICK if args.quick else CAREFUL
    results: list[Result] = []
    for case in cases(args):
        results += measure(case, found, args.device, effort)
        print(f"\n{block([r for r in results if r.case == case])}", flush=True)
    print("\nGoals, set for the CPU, each with its worst case")
    print(*check(results), sep="\n")
    if args.output:
        args.output.write_text(json.dumps(report(args.device, results), indent=1))


if __name__ == "__main__":
    main()
