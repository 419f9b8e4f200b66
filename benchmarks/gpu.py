"""Symmetric products on a GPU against torch's general ones, and the polar factor built of them.

    make gpu

Runs the tests of `stiefel.linalg` first: times of a wrong result are worth nothing. Then each row
times ``X X^T`` or ``b A + c A A``, the kernel and torch in turn, by CUDA events, launches included.
A share is of this GPU's own peak, the best rate of a general product in the same run, and counts
the FLOPs that the result needs: a symmetric matrix has m (m + 1) / 2 numbers. A general product
computes nearly all of them twice, so it cannot pass 50 %.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from stiefel.linalg import kernels

HERE = Path(__file__).parent
SIDES = (512, 1024, 2048, 4096, 8192)
DTYPES = (torch.bfloat16, torch.float16)
ROUNDS, CALLS = 20, 10  # a round times so many calls at once
PEAK_SIDE = 8192

Shape = tuple[int, int, int]
SHAPES: list[Shape] = [(1, m, aspect * m) for aspect in (1, 4) for m in SIDES]
SHAPES += [(12, m, m) for m in (256, 512, 1024)]


@dataclass(frozen=True)
class Row:
    """Milliseconds of one product of a stack `[b, m, n]`: torch's general one and ours."""

    product: str
    dtype: str
    shape: Shape
    torch_ms: float
    ours_ms: float

    def share(self, milliseconds: float, peak: float) -> float:
        """Part of ``peak`` (FLOP/s) that a product of so many milliseconds reaches."""
        return needed_flops(self.shape) / (milliseconds * 1e-3) / peak


def needed_flops(shape: Shape) -> int:
    """FLOPs of the distinct entries of a stack of symmetric products, each a row times a row."""
    b, m, n = shape
    return b * m * (m + 1) // 2 * 2 * n


def file_stem(gpu: str) -> str:
    """``"NVIDIA H100 80GB HBM3"`` as ``"nvidia-h100-80gb-hbm3"``."""
    return "-".join(gpu.lower().replace("/", " ").split())


def table(rows: Sequence[Row], peaks: dict[str, float]) -> str:
    """The rows as a Markdown table; ``peaks`` in FLOP/s by dtype."""
    lines = [
        "| product | dtype | b, m, n | torch ms | ours ms | speed-up | torch share | our share |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        torch_share, our_share = (
            f"{row.share(t, peaks[row.dtype]):.0%}" for t in (row.torch_ms, row.ours_ms)
        )
        lines.append(
            f"| {row.product} | {row.dtype} | {', '.join(map(str, row.shape))} "
            f"| {row.torch_ms:.4f} | {row.ours_ms:.4f} | {row.torch_ms / row.ours_ms:.2f} "
            f"| {torch_share} | {our_share} |"
        )
    return "\n".join(lines)


def page(machine: dict[str, str], rows: Sequence[Row], peaks: dict[str, float]) -> str:
    """The Markdown file: on what, how, and the table."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    rates = ", ".join(f"{dtype} {rate / 1e12:.0f} TFLOP/s" for dtype, rate in peaks.items())
    return (
        f"# {machine['gpu']}\n\nBy `make gpu`: {facts}. Medians of {ROUNDS} rounds. Peak of a "
        f"general product: {rates}. Shares count needed FLOPs once.\n\n{table(rows, peaks)}\n"
    )


def medians(calls: Sequence[Callable[[], Tensor]]) -> list[float]:
    """Median milliseconds of each call; they take turns, so that a warm GPU is warm for all."""
    for call in calls:  # compiles and tunes
        call()
    return [
        statistics.median(column)
        for column in zip(*[[_timed(call) for call in calls] for _ in range(ROUNDS)], strict=True)
    ]


def _timed(call: Callable[[], Tensor]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / CALLS


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of a general product that fills the GPU."""
    X = torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=dtype)
    return 2 * PEAK_SIDE**3 / (medians([lambda: X @ X])[0] * 1e-3)


def measure(dtype: torch.dtype, shape: Shape) -> list[Row]:
    """The Gram matrix of this shape and, of its square part, the polynomial."""
    b, m, n = shape
    X = torch.randn(*((b,) if b > 1 else ()), m, n, device="cuda", dtype=dtype) / n**0.5
    gram = medians([lambda: X @ X.mT, lambda: kernels.gram(X)])
    rows = [Row("gram", _name(dtype), shape, *gram)]
    if m == n:
        A = kernels.gram(X)
        add_product = torch.addmm if b == 1 else torch.baddbmm
        polynomial = medians(
            [
                lambda: add_product(A, A, A, beta=-2.5, alpha=0.5),
                lambda: kernels.symmetric_polynomial(A, -2.5, 0.5),
            ]
        )
        rows.append(Row("polynomial", _name(dtype), shape, *polynomial))
    return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _machine() -> dict[str, str]:
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "cuda": str(torch.version.cuda),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(f"no GPU: torch {torch.__version__} sees none, and these figures are of one")
    tests = [sys.executable, "-m", "pytest", "-m", "not slow", str(HERE.parent / "tests/linalg")]
    subprocess.run(tests, check=True)
    machine = _machine()
    peaks = {_name(dtype): peak(dtype) for dtype in DTYPES}
    rows = [row for dtype in DTYPES for shape in SHAPES for row in measure(dtype, shape)]
    stem = str(HERE / "results" / file_stem(machine["gpu"]))
    figures = {"machine": machine, "peaks": peaks, "rows": [asdict(row) for row in rows]}
    Path(f"{stem}.json").write_text(json.dumps(figures, indent=1) + "\n")
    Path(f"{stem}.md").write_text(page(machine, rows, peaks))
    print(page(machine, rows, peaks))
    polar = [sys.executable, str(HERE / "polar.py"), "--device", "cuda"]
    subprocess.run([*polar, "--output", f"{stem}-polar.json"], check=True)


if __name__ == "__main__":
    main()
