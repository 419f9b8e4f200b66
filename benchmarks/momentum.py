"""Real momentum matrices: what Muon hands to the polar factor while a small GPT learns.

    python benchmarks/momentum.py [--folder benchmarks/.cache]

Trains byte-level GPTs of several widths on the sources of the Python standard library and saves the
Nesterov updates (1 - mu) G + mu M of their hidden matrices early, midway and late. Their spectra
have heavy tails: the median singular value is 1e-4 to 1e-2 of the norm, where that of a gaussian
matrix of width 512 is 4e-2. One seed, so that the same machine saves the same bits. About 6 minutes
on one thread, and 480 MB.
"""

from __future__ import annotations

import argparse
import functools
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import stiefel
from stiefel.bench.gpt import GPT
from stiefel.bench.text import Text, read_text
from stiefel.bench.training import learning_rate_scale

FOLDER = Path(__file__).parent / ".cache"
CONTEXT, SEED, LEARNING_RATE = 128, 0, 1e-2


@dataclass(frozen=True)
class Course:
    """One training run, and the steps (counted from 1) whose updates are saved.

    Args:
        rows: windows of 128 bytes in a batch.
        mlp: save the rectangles of the MLP, too.
    """

    width: int
    layers: int
    steps: int
    rows: int
    looks: tuple[int, ...]
    mlp: bool = False

    @property
    def file(self) -> str:
        """Where its matrices are saved."""
        return f"momentum-{self.width}.pt"


# Wide models learn for fewer steps, for one of width 2048 costs as much as 30 of width 256. Their
# matrices are therefore young, and harder than those of width 512, which are the reference.
COURSES = (
    Course(width=64, layers=6, steps=80, rows=16, looks=(10, 40, 75)),
    Course(width=256, layers=2, steps=80, rows=16, looks=(10, 40, 75)),
    Course(width=512, layers=4, steps=110, rows=16, looks=(15, 55, 105), mlp=True),
    Course(width=768, layers=1, steps=48, rows=24, looks=(16, 32, 46), mlp=True),
    Course(width=1024, layers=1, steps=36, rows=24, looks=(12, 24, 34)),
    Course(width=2048, layers=1, steps=16, rows=16, looks=(8, 12, 15)),
)


def collect(course: Course, text: Text) -> dict[str, Tensor]:
    """Train, and return the updates as ``{"step60.blocks.0.up": [m, n], ...}`` in float32."""
    torch.manual_seed(SEED)
    model = GPT(course.layers, course.width, CONTEXT)
    optimizer = stiefel.optimizer(model, stiefel.muon(polar="polar_express"), lr=LEARNING_RATE)
    found: dict[str, Tensor] = {}
    for step in range(1, course.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_scale(step - 1, course.steps)
        optimizer.zero_grad()
        tokens = text.batch(SEED, step, course.rows, CONTEXT + 1)
        loss(model, tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in course.looks:
            found |= {f"step{step}.{name}": U for name, U in updates(model, optimizer).items()}
    return {name: U for name, U in found.items() if course.mlp or U.shape[0] == U.shape[1]}


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Nats per byte of windows `[rows, time]`."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens[:, :-1])
    return cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def updates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The Nesterov updates of the step just taken, of all matrices in the blocks."""
    names = {p: name for name, p in model.named_parameters() if name.startswith("blocks")}
    return {
        names[p].removesuffix(".weight"): p.grad.lerp(
            optimizer.state[p]["momentum.m"], group["momentum"]
        )
        for group in optimizer.param_groups
        for p in group["params"]
        if p in names and p.ndim == 2
    }


def load(m: int, n: int, count: int, folder: Path = FOLDER) -> Tensor:
    """``count`` of the saved updates of shape `[m, n]`, drawn with a fixed seed, early to late.

    Raises:
        FileNotFoundError: nothing has been collected yet.
        LookupError: fewer matrices of this shape than wanted.
    """
    course = next((c for c in COURSES if c.width == min(m, n)), None)
    found = [U for U in saved(folder / course.file) if U.shape == (m, n)] if course else []
    if len(found) < count:
        raise LookupError(f"{len(found)} real {m} x {n} matrices, {count} wanted: change COURSES")
    chosen = sorted(random.Random(SEED).sample(range(len(found)), count))
    return torch.stack([found[i] for i in chosen])


@functools.cache
def saved(file: Path) -> list[Tensor]:
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: run python benchmarks/momentum.py first")
    return list(torch.load(file).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    text = read_text(None, CONTEXT + 1)
    for course in COURSES:
        start = time.process_time()
        matrices = collect(course, text)
        torch.save(matrices, args.folder / course.file)
        seconds = time.process_time() - start
        print(f"width {course.width:>4}: {len(matrices):>3} matrices, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
