"""Products that know symmetry and layout: the same numbers, in blocks and in either layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stiefel.linalg import polar, products, schatten_norm, soft_clip, spectral_norm, stable_rank
from stiefel.linalg.methods import newton_schulz
from stiefel.linalg.products import (
    accumulate,
    add_product,
    left_product,
    matmul,
    quadratic,
    symmetric_product,
)
from stiefel.linalg.tolerance import measured_defect

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "wide": lambda X: X,
    "tall": lambda X: X.mT.contiguous().mT,
    "every other": lambda X: X.repeat_interleave(2, -1)[..., ::2],
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)
batches = pytest.mark.parametrize("batch", [(), (3,)])


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of tests are small."""
    monkeypatch.setattr(products, "LEAF", 4)
    monkeypatch.setattr(products, "blocks_pay", lambda m, n, dtype, device: m >= 8)


@layouts
@batches
@pytest.mark.parametrize("m", [1, 4, 8, 9, 21])
def test_symmetric(layout: str, batch: tuple[int, ...], m: int, blocks: None) -> None:
    """In blocks too: the whole of it, and symmetric to the last bit."""
    X = LAYOUTS[layout](torch.randn(*batch, m, 12, dtype=torch.float64))
    A = symmetric_product(X)
    torch.testing.assert_close(A, torch.einsum("...ik,...jk->...ij", X, X), rtol=0, atol=1e-12)
    assert m < 8 or torch.equal(A, A.mT)


@pytest.mark.parametrize("c", [0.0, -0.7])
@batches
def test_quadratic(batch: tuple[int, ...], c: float, blocks: None) -> None:
    for m in (3, 10):
        A = symmetric_product(torch.randn(*batch, m, 12, dtype=torch.float64))
        expected = 0.3 * A + c * torch.einsum("...ik,...kj->...ij", A, A)
        torch.testing.assert_close(quadratic(A, 0.3, c), expected, rtol=0, atol=1e-11)


@layouts
@batches
def test_a_product_lies_as_its_argument(layout: str, batch: tuple[int, ...]) -> None:
    X = LAYOUTS[layout](torch.randn(*batch, 6, 10, dtype=torch.float64))
    A, B = torch.randn(*batch, 6, 6).double(), torch.randn(*batch, 6, 10).double()
    for ours, expected in (
        (left_product(A, X), A @ X),
        (add_product(X, A, B, beta=-2.0, alpha=0.5), 0.5 * (A @ B) - 2 * X),
    ):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
        assert ours.is_contiguous() if layout != "tall" else ours.mT.is_contiguous()


USERS: dict[str, Callable[[Tensor], object]] = {
    "spectral_norm": spectral_norm,
    "stable_rank": stable_rank,
    "schatten_norm": lambda X: schatten_norm(X, 4),
    "soft_clip": lambda X: soft_clip(X, 1.0, steps=1),
    "defect": measured_defect,
    "row balance": newton_schulz._row_balanced,
    **{name: lambda X, name=name: polar(X, method=name) for name in ("eigh", "qdwh")},
}


@pytest.mark.parametrize("name", USERS)
def test_a_gram_matrix_costs_what_a_symmetric_product_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everywhere: in blocks there are fewer products to be counted."""
    X = torch.randn(1, 16, 40)

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            USERS[name](X)
        return int(counter.get_total_flops())

    plain = flops()
    monkeypatch.setattr(products, "LEAF", 4)
    monkeypatch.setattr(products, "blocks_pay", lambda m, n, dtype, device: m >= 8)
    assert flops() < plain


@pytest.mark.parametrize("batch", [(), (1,), (1, 1), (2, 3), (0,)])
def test_matmul(batch: tuple[int, ...]) -> None:
    A, B = torch.randn(*batch, 4, 5), torch.randn(*batch, 6, 5).mT
    torch.testing.assert_close(matmul(A, B), torch.einsum("...ij,...jk->...ik", A, B))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (7, 12), (64, 256), (64, 250), (96, 160), (256, 256)])
def test_the_only_one_of_a_stack_has_the_bits_of_a_stack(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    X = torch.randn(2, *shape).to(dtype)
    A = torch.randn(2, shape[0], shape[0]).to(dtype)
    for product in (symmetric_product, lambda X: left_product(A[: len(X)], X)):
        assert torch.equal(product(X)[:1], product(X[:1]))
    assert torch.equal(add_product(A, A, A)[:1], add_product(A[:1], A[:1], A[:1]))


def test_a_large_matrix_is_multiplied_as_such_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    A = torch.randn(1, 512, 512).bfloat16()
    expected = torch.baddbmm(A, A, A)
    assert torch.equal(matmul(A, A), torch.bmm(A, A))
    monkeypatch.delattr(torch, "baddbmm")
    torch.testing.assert_close(add_product(A, A, A), expected)


def test_whole_tiles_have_the_same_bits_alone() -> None:
    """So that the only one of a stack may go without its batch dimension."""
    for m, k, n in itertools.product((32, 96, 160, 256), (32, 64, 224), (32, 128, 288)):
        A, B, C = (torch.randn(3, *shape).bfloat16() for shape in ((m, k), (n, k), (m, n)))
        assert torch.equal(
            torch.bmm(A, B.mT), torch.stack([a @ b.mT for a, b in zip(A, B, strict=True)])
        )
        added = [torch.addmm(c, a, b.mT, beta=-1.0) for a, b, c in zip(A, B, C, strict=True)]
        assert torch.equal(torch.baddbmm(C, A, B.mT, beta=-1.0), torch.stack(added))


@pytest.mark.parametrize("method", ["jordan", "fast"])
def test_in_a_graph_a_product_is_one_node(method: str, blocks: None) -> None:
    """Inductor takes minutes over blocks, and they run slower than what they save."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    X = torch.randn(1, 16, 40)
    torch.compile(lambda X: polar(X, method=method), backend=backend, fullgraph=True)(X)
    (graph,) = graphs
    assert not [node for node in graph.graph.nodes if "setitem" in node.name]


@layouts
@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_accumulate_is_a_sum_in_place(
    layout: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    X, A, B = (
        LAYOUTS[layout](torch.randn(*batch, *shape)).to(dtype)
        for shape in ((32, 64), (32, 96), (96, 64))
    )
    expected, before = add_product(X, A, B), X.data_ptr()
    result = accumulate(X, A, B)
    assert result.data_ptr() == X.data_ptr() == before
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_accumulate_leaves_what_a_gradient_needs() -> None:
    X, A, B = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda X, A, B: accumulate(X.sin(), A, B) ** 2, (X, A, B))
