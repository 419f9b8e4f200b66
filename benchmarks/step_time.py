"""Time of a whole optimiser step against torch.optim, on the same work in one run, as ratios.

    python benchmarks/step_time.py [--device cuda] [--threads 1] [--compile]

Each row is a list of parameters. The optimisers take turns and the medians are compared, so that a
noisy machine disturbs all alike. On CPU the time is the process's own CPU time per thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import stiefel

Shape = tuple[int, int]
POLAR = ("jordan", "fast", "faithful")
LAYER: list[Shape] = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
WORK: dict[str, list[Shape]] = {
    "48 x [64, 64]": [(64, 64)] * 48,
    "24 x [256, 256]": [(256, 256)] * 24,
    "12 x [384, 384]": [(384, 384)] * 12,
    "GPT-2 small, 2 layers": LAYER * 2,
    "8 x [1024, 4096]": [(1024, 4096)] * 8,
}


def parameters(shapes: list[Shape], device: str) -> list[Tensor]:
    params = [torch.randn(s, device=device, requires_grad=True) for s in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def milliseconds(step: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) * 1e3


def compare(shapes: list[Shape], device: str, rounds: int, **options: bool) -> list[float]:
    """Median milliseconds: torch.optim.Muon, ours by each of `POLAR`, torch.optim.AdamW, ours."""
    optimisers = [
        torch.optim.Muon(parameters(shapes, device)),
        *(
            stiefel.Muon(parameters(shapes, device), polar=polar, scale="original", **options)
            for polar in POLAR
        ),
        torch.optim.AdamW(parameters(shapes, device)),
        stiefel.AdamW(parameters(shapes, device), **options),
    ]
    times = [[milliseconds(o.step, device) for o in optimisers] for _ in range(rounds + 3)]
    return [statistics.median(column) for column in zip(*times[3:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread(s)"
    )
    print(
        f"torch {torch.__version__}, {name}; medians of {args.rounds}: milliseconds "
        "of torch, and ours over them"
    )
    print(f"{'parameters':<24}{'torch Muon':>12}", *(f"{p:>10}" for p in POLAR), end="")
    print(f"{'torch AdamW':>14}{'ours':>10}")
    for label, shapes in WORK.items():
        muon, *ours, adamw, own = compare(shapes, args.device, args.rounds, compile=args.compile)
        print(f"{label:<24}{muon:>12.2f}", *(f"{time / muon:>10.2f}" for time in ours), end="")
        print(f"{adamw:>14.2f}{own / adamw:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
