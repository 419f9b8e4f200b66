"""The GPU kernels: in Triton's interpreter where there is no GPU, and compiled for one anyway.

Matrices of small integers make every product and sum exact, so most comparisons are too. The
interpreter must be chosen before Triton is imported, hence one test that runs this file again.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stiefel.errors import MatrixError
from stiefel.linalg import kernels

TRITON = importlib.util.find_spec("triton") is not None
if TRITON:
    import triton
    import triton.language as tl

    from stiefel.linalg.kernels import product

    @triton.jit
    def tiles(
        rows: tl.tensor, columns: tl.tensor, start: tl.tensor, side: tl.tensor, BAND: tl.constexpr
    ) -> None:
        """Row and column of 64 tiles from ``start`` on."""
        q = tl.arange(0, 64)
        p = tl.minimum(start + q, side * (side + 1) // 2 - 1)
        row, column = product._lower_tile(p, side, BAND)
        tl.store(rows + q, row)
        tl.store(columns + q, column)


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself runs the kernels")
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
# The interpreter's tiles are 16 x 16, in bands of two rows.
SHAPES = [(1, 1), (80, 8), (2, 33, 40), (1, 16, 16)]
LARGE = [(300, 1000), (2, 1024, 256), (2048, 512)] if torch.cuda.is_available() else []


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the kernels run: in the interpreter on the CPU, or on the GPU, with one tiling."""
    if not TRITON:
        pytest.skip("Triton is not installed")
    if not (INTERPRETED or torch.cuda.is_available()):
        pytest.skip("no GPU here; test_in_the_interpreter runs this")
    tiny = triton.Config({"BLOCK": 16, "DEPTH": 32, "BAND": 2})
    config = tiny if INTERPRETED else product.symmetric_product.configs[-1]
    monkeypatch.setattr(product.symmetric_product, "configs", [config])
    if INTERPRETED:
        give_the_interpreter_bfloat16(monkeypatch)
    return "cpu" if INTERPRETED else "cuda"


def give_the_interpreter_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.7's interpreter keeps bfloat16 as its bits, and multiplies these as integers."""
    from triton.runtime import interpreter as it

    multiply = it.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = it._convert_float(x.data, tl.bfloat16, tl.float32, None)
        return it.TensorHandle(bits.view("float32"), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(it.InterpreterBuilder, "create_dot", create_dot)


def integers(*shape: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-7, 8, shape, device=device).to(dtype)


def symmetric(*shape: int, **k: Any) -> Tensor:
    A = integers(*shape, shape[-1], **k).tril()
    return A + A.tril(-1).mT


def exact_gram(X: Tensor) -> Tensor:
    return (X.double() @ X.double().mT).float()


def assert_rounded(result: Tensor, exact: Tensor) -> None:
    """``result`` is ``exact`` rounded to its dtype; the interpreter cuts bfloat16 off instead."""
    cut = INTERPRETED and result.dtype == torch.bfloat16
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=2**-7 if cut else 0, atol=0)


@needs_triton
@no_gpu
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-k", "not without"],
        check=False,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("shape", [*SHAPES, *LARGE])
def test_gram(shape: tuple[int, ...], device: str) -> None:
    X = integers(*shape, device=device)
    assert torch.equal(kernels.gram(X), exact_gram(X))


@dtypes
def test_dtypes_in_and_out(dtype: torch.dtype, device: str) -> None:
    """The sums are beyond what float16 and bfloat16 count to one by one."""
    X = integers(3, 200, device=device, dtype=dtype)
    assert torch.equal(kernels.gram(X, out_dtype=torch.float32), exact_gram(X))
    assert kernels.gram(X).dtype == dtype
    assert_rounded(kernels.gram(X), exact_gram(X))


def tiles_from(start: int, side: int, band: int, device: str) -> list[tuple[int, int]]:
    rows, columns = torch.zeros(2, 64, dtype=torch.int32, device=device)
    tiles[(1,)](rows, columns, start, side, band)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("side", [1, 2, 7, 10])
def test_tiles_cover_the_triangle_band_by_band(side: int, device: str) -> None:
    for band in (1, 3, 8):
        found = tiles_from(0, side, band, device)[: side * (side + 1) // 2]
        assert sorted(found) == [(i, j) for i in range(side) for j in range(i + 1)]
        bands = [i // band for i, _ in found]
        assert bands == sorted(bands)
        left = [(i // band, j) for i, j in found if j < i // band * band]
        assert left == sorted(left)  # left of the diagonal, column by column


def test_tiles_where_roots_round(device: str) -> None:
    """float32's root of 8p + 1 reaches the next row too early from row 4608 on."""
    for i in (4607, 4608, 20_000, 30_000):
        start = i * (i + 1) // 2 - 32
        expected = [(i - 1, i - 32 + k) for k in range(32)] + [(i, k) for k in range(32)]
        assert tiles_from(start, 40_000, 1, device) == expected


def test_strides_are_free(device: str) -> None:
    Y = integers(2, 30, 20, device=device)
    views = [Y.mT, Y[:, ::2, 5:], Y.permute(1, 2, 0)[:3], Y[:1].expand(2, 30, 20)]
    for X in views:
        assert torch.equal(kernels.gram(X), exact_gram(X))


@dtypes
@pytest.mark.parametrize("shape", [(33,), (2, 18)])
def test_symmetric_polynomial(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    A = symmetric(*shape, device=device, dtype=dtype)
    for b, c in [(-2.5, 0.25), (0.5, 1.0)]:
        result = kernels.symmetric_polynomial(A, b, c)
        assert result.dtype == dtype
        assert_rounded(result, b * A.double() + c * A.double() @ A.double())


@pytest.mark.parametrize("b_shape", [None, (), (1,), (3, 1, 1)])
@pytest.mark.parametrize("c_shape", [None, (3,)])
def test_coefficients_of_each_matrix(
    b_shape: tuple[int, ...] | None, c_shape: tuple[int, ...] | None, device: str
) -> None:
    A = symmetric(3, 20, device=device)
    b, c = (
        0.5 if shape is None else torch.arange(1.0, 1 + math.prod(shape), device=device).view(shape)
        for shape in (b_shape, c_shape)
    )
    B, C = (torch.as_tensor(v, device=device).double().reshape(-1, 1, 1) for v in (b, c))
    expected = B * A.double() + C * A.double() @ A.double()
    assert torch.equal(kernels.symmetric_polynomial(A, b, c).double(), expected)


def test_symmetric_to_the_last_bit(device: str) -> None:
    """Off the diagonal tiles a copy; on them the order of a sum must not depend on the side."""
    G = kernels.gram(torch.randn(2, 40, 70, device=device))
    P = kernels.symmetric_polynomial(G, 0.3, -0.7)
    block = 16 if INTERPRETED else 1  # numpy's order of summation is its own affair
    tile = torch.arange(40, device=device) // block
    copied = (tile[:, None] != tile) | (not INTERPRETED)
    for C in (G, P):
        assert torch.equal(C[:, copied], C.mT[:, copied])


def test_nan_stays_at_home(device: str) -> None:
    X = integers(3, 20, 30, device=device)
    X[1, 19, 29] = float("nan")
    C = kernels.gram(X)
    assert torch.equal(C[::2], exact_gram(X[::2])) and C[1].isnan().sum() == 2 * 20 - 1


def test_empty(device: str) -> None:
    for shape in [(0, 4, 4), (2, 0, 4)]:
        assert kernels.gram(torch.empty(shape, device=device)).numel() == 0
    assert torch.equal(
        kernels.gram(torch.empty(2, 3, 0, device=device)), torch.zeros(2, 3, 3, device=device)
    )


@pytest.mark.parametrize(("setting", "expected"), [("highest", "ieee"), ("high", "tf32")])
def test_tf32_where_torch_uses_it(
    setting: str, expected: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Launch:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **options: seen.append(options["PRECISION"])

    seen: list[str] = []
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(product, "symmetric_product", Launch())
    torch.set_float32_matmul_precision(setting)
    kernels.gram(torch.ones(2, 2, device=device))
    torch.set_float32_matmul_precision(before)
    assert seen == [expected]


def test_compiles_in_one_graph(device: str) -> None:
    def step(X: Tensor, b: Tensor) -> Tensor:
        return kernels.symmetric_polynomial(kernels.gram(X), b, 0.25) + 1

    X, b = integers(2, 20, 30, device=device), torch.tensor([0.5, 2.0], device=device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X, b.view(2, 1, 1)), step(X, b))


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_tiling_and_the_choice_among_them(dtype: torch.dtype) -> None:
    X = integers(2, 1024, 512, device="cuda", dtype=dtype)
    configs = product.symmetric_product.configs
    for chosen in [*([config] for config in configs), configs]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(product.symmetric_product, "configs", chosen)
            try:
                assert torch.equal(kernels.gram(X), exact_gram(X).to(dtype)), chosen
            except triton.runtime.errors.OutOfResources:
                assert len(chosen) == 1  # too large for this GPU: the choice leaves it out
    assert kernels.available(X) and not kernels.available(X.requires_grad_())


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_becomes_tensor_core_code(
    capability: int, instruction: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiled for an A100 and an H100 without one: tensor cores, and 16 bytes at a time."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, config = product.symmetric_product.fn, product.symmetric_product.configs[0]
    types = {"X": "*bf16", "C": "*bf16", "b": "fp32", "c": "fp32"}
    constants = {"x_n": 1, "POLYNOMIAL": True, "PER_MATRIX": False, "PRECISION": "ieee"}
    constants |= config.kwargs
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (position,): [["tt.divisibility", 16]]
        for position, name in enumerate(signature)
        if name not in constants and name not in ("b", "c")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    ptx = triton.compile(source, GPUTarget("cuda", capability, 32), options).asm["ptx"]
    assert instruction in ptx
    assert "cp.async.cg" in ptx and "st.global.v4" in ptx and "st.global.b16" not in ptx


def test_shapes_without_triton() -> None:
    """What a compiled plan asks of fake tensors, and a model on meta tensors."""
    X = torch.empty(2, 5, 7, device="meta", dtype=torch.bfloat16)
    assert kernels.gram(X, out_dtype=torch.float32).dtype == torch.float32
    with FakeTensorMode():
        A = kernels.gram(torch.empty(5, 7, device="cuda", dtype=torch.bfloat16))
        b = torch.empty(1, device="cuda")
        result = kernels.symmetric_polynomial(A, b, 2.0)
    assert result.shape == (5, 5) and result.dtype == torch.bfloat16
    assert result.device.type == "cuda"


def test_refusals_name_the_rule() -> None:
    with pytest.raises(MatrixError, match=r"X has shape \(4,\).*\[b, m, n\]"):
        kernels.gram(torch.ones(4))
    with pytest.raises(MatrixError, match=r"X has dtype torch.float64.*bfloat16"):
        kernels.gram(torch.ones(4, 4, dtype=torch.float64))
    with pytest.raises(MatrixError, match=r"X requires a gradient.*no_grad"):
        kernels.gram(torch.ones(4, 4, requires_grad=True))
    with pytest.raises(MatrixError, match=r"A has shape \(2, 4, 5\).*square"):
        kernels.symmetric_polynomial(torch.ones(2, 4, 5), 1.0, 1.0)
    with pytest.raises(MatrixError, match=r"b holds 3 numbers for 2 matrices"):
        kernels.symmetric_polynomial(torch.ones(2, 4, 4), torch.ones(3), 1.0)


def test_chosen_only_where_it_can_and_should() -> None:
    assert not kernels.available(torch.ones(4096, 4096))
    assert kernels.pays(4096, 16384, torch.bfloat16)
    assert not kernels.pays(1024, 16384, torch.bfloat16)
    assert not kernels.pays(4096, 4096, torch.float32)
    assert not kernels.pays(4097, 4096, torch.bfloat16)


# --- benchmarks/gpu.py, as far as it can be known without a GPU ---


@pytest.fixture(scope="module")
def gpu() -> Any:
    path = Path(__file__).parents[2] / "benchmarks/gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_needed_flops_count_distinct_entries_once(gpu: Any) -> None:
    """Two of X's three rows, four long: 6 distinct entries of 4 products and 4 sums, 5 times."""
    assert gpu.needed_flops((5, 3, 4)) == 5 * 6 * (4 + 4)


def test_table_of_a_general_product_at_peak(gpu: Any) -> None:
    """A general product at peak shows half of it; a symmetric one in half the time all of it."""
    row = gpu.Row("gram", "bfloat16", (1, 1000, 1000), torch_ms=2.0, ours_ms=1.0)
    peak = 2 * 1000**3 / 2e-3
    page = gpu.page({"gpu": "NVIDIA H100", "torch": "2.13"}, [row], {"bfloat16": peak})
    assert "| gram | bfloat16 | 1, 1000, 1000 | 2.0000 | 1.0000 | 2.00 | 50% | 100% |" in page
    assert page.startswith("# NVIDIA H100\n") and "torch 2.13" in page and "1 TFLOP/s" in page


def test_file_of_a_gpu(gpu: Any) -> None:
    assert gpu.file_stem("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@no_gpu
def test_without_a_gpu_it_says_so(gpu: Any) -> None:
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()
