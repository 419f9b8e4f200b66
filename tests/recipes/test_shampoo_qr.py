"""Shampoo whose eigenvectors are continued by QR, and Shampoo in 16 bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stiefel
from stiefel import Optimizer, Recipe
from stiefel.errors import RecipeError
from stiefel.linalg.roots import inv_root_in_basis
from stiefel.pieces.triangle import unpack
from stiefel.recipes import shampoo
from tests.helpers import Grads, assert_close, copies, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.shampoo import continued_power, inverse_power
from tests.reference.shampoo import shampoo as twin

qr = partial(shampoo, eigenvectors="qr")
VARIANTS: dict[str, dict[str, Any]] = {
    "qr": {"eigenvectors": "qr"},
    "bfloat16": {"precision": "bfloat16"},
    "qr in bfloat16": {"eigenvectors": "qr", "precision": "bfloat16"},
    "qr in blocks": {"eigenvectors": "qr", "block": 3},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
NEVER = 10**6


def state_after(recipe: Recipe, grads: Grads, W: Tensor) -> dict[str, Tensor]:
    """What the preconditioner of one matrix knows after these gradients."""
    params = copies([W])
    optimizer = Optimizer(params, recipe, stagger=False)
    run(optimizer, params, grads)
    state = optimizer.state[params[0]]
    return {name.removeprefix("precondition."): tensor for name, tensor in state.items()}


# -- the mathematics -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3), (4, 6), (5, 5)])
@pytest.mark.parametrize("damping", ["absolute", "relative", "trace"])
@pytest.mark.parametrize(("power", "exponent"), [(4, 0.25), (2, 0.5)])
def test_equals_twin(power: int, exponent: float, damping: str, shape: tuple[int, int]) -> None:
    (W,) = parameters(shape)
    grads = gradients([W], 9)
    theirs: dict[str, Any] = {"betas": (0.9, 0.7), "exponent": exponent, "grafting": "adam"}
    theirs |= {"damping": damping, "eps": 1e-3, "eigenvectors": "qr"}
    expected = twin(W.detach(), [s[0] for s in grads], lr=0.05, **theirs)
    recipe = qr(power=power, damping=damping, damping_eps=1e-3, shampoo_beta=0.7, refresh_every=1)
    assert_close(trajectory(recipe, [W], grads), [expected], 1e-9)


def test_the_twin_tells_qr_from_eigh() -> None:
    (W,) = parameters((5, 4))
    grads = [s[0] for s in gradients([W], 9)]
    by_qr, by_eigh = (
        twin(W.detach(), grads, lr=0.05, betas=(0.9, 0.7), eigenvectors=name)
        for name in ("qr", "eigh")
    )
    assert (by_qr - by_eigh).norm() > 1e-2 * (by_eigh - W.detach()).norm()


def test_bases_take_a_step_when_the_clock_is_up_and_roots_follow() -> None:
    (W,) = parameters((4, 3))
    grads = gradients([W], 8)
    L, Q = torch.zeros(4, 4, dtype=torch.float64), None
    for step, (grad,) in enumerate(grads, start=1):
        L = 0.5 * L + 0.5 * grad @ grad.T
        if step % 3 == 1:
            root, Q = continued_power(L / (1 - 0.5**step), Q, 0.25, 1e-6, "relative")
        found = state_after(qr(refresh_every=3, shampoo_beta=0.5), grads[:step], W)
        assert_close([found["PL"][0]], [root], 1e-9)
        assert Q is not None
        assert_close([(found["QL"][0].mT @ Q).abs()], [torch.eye(4)], 1e-9)


def falling(shape: tuple[int, int]) -> Tensor:
    """A matrix whose singular values fall by half each, so that iterations converge."""
    U, _, Vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    return (U * 0.5 ** torch.arange(U.shape[1])) @ Vh


def test_under_a_constant_gradient_the_root_becomes_that_of_eigh() -> None:
    """After another gradient, so that the first basis is none of it."""
    (W,) = parameters((5, 5))
    constant = falling((5, 5))
    grads = [[torch.randn_like(constant)], *[[constant]] * 60]
    found = state_after(qr(refresh_every=1, shampoo_beta=0.5), grads, W)
    for side, A in (("L", constant @ constant.T), ("R", constant.T @ constant)):
        assert_close([found[f"P{side}"][0]], [inverse_power(A, 0.25, 1e-6, "relative")], 1e-9)
    early = state_after(qr(refresh_every=1, shampoo_beta=0.5), grads[:3], W)
    away = inverse_power(unpack(early["L"])[0] / (1 - 0.5**3), 0.25, 1e-6, "relative")
    assert (early["PL"][0] - away).norm() > 1e-3 * away.norm()


@pytest.mark.parametrize("shape", [(7, 3), (5, 5)])
def test_until_the_second_refresh_it_is_eigh(shape: tuple[int, int]) -> None:
    (W,) = parameters(shape)
    grads = gradients([W], 5)
    ours, theirs = (trajectory(recipe(refresh_every=NEVER), [W], grads) for recipe in (qr, shampoo))
    assert_close(ours, theirs, 1e-9)


def test_of_diagonal_gradients_it_is_eigh() -> None:
    """Their eigenvectors do not turn."""
    (W,) = parameters((5, 4))
    grads = [[torch.eye(5, 4, dtype=torch.float64) * g] for (g,) in gradients([W], 9)]
    ours, theirs = (trajectory(recipe(refresh_every=2), [W], grads) for recipe in (qr, shampoo))
    assert_close(ours, theirs, 1e-9)


def test_sums_and_long_sides() -> None:
    (W,) = parameters((6, 4))
    grads = gradients([W], 6)
    theirs = {"betas": (0.9, 1.0), "grafting": "adam", "max_precond_dim": 4, "eigenvectors": "qr"}
    expected = twin(W.detach(), [s[0] for s in grads], lr=0.05, **theirs)
    ours = trajectory(qr(statistics="sum", max_dim=4, refresh_every=1), [W], grads)
    assert_close(ours, [expected], 1e-9)


# -- what every recipe must keep -------------------------------------------------------------------


@every_variant
def test_keeps_the_laws(options: dict[str, Any]) -> None:
    recipe = shampoo(refresh_every=2, **options)
    laws.batched_equals_single(recipe)
    laws.gradient_untouched(recipe)
    laws.dtype_and_shape_kept(recipe, "cpu")
    laws.works_on_meta(recipe)
    laws.deterministic(recipe)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        laws.resumes_exactly(recipe, dtype)


@every_variant
def test_compiles(options: dict[str, Any]) -> None:
    laws.compiles_once(shampoo(refresh_every=3, **options))


def test_transposes_and_ignores_scale() -> None:
    recipe = qr(graft_eps=0.0, refresh_every=1)
    laws.transpose_symmetric(recipe)
    laws.homogeneous_of_degree_zero(recipe)
    laws.orthogonally_equivariant(qr(grafting="none", refresh_every=NEVER))


@every_variant
def test_memory_is_what_is_allocated(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 9))
    by_role = {"hidden": shampoo(**options), "head": shampoo(**options)}
    told = stiefel.plan(model, by_role).memory()
    optimizer = stiefel.optimizer(model, by_role)
    held = [t for entry in optimizer.state.values() for t in entry.values()]
    assert told.total == sum(t.nbytes for t in held)


# -- state and precision ---------------------------------------------------------------------------


def test_state() -> None:
    like = torch.zeros(1, 4, 3)
    eigh = {"m", "L", "R", "PL", "PR", "faults", "graft.v"}
    assert shampoo().precondition.init(like).keys() == eigh
    state = qr(precision="bfloat16").precondition.init(like)
    assert state.keys() == eigh | {"QL", "QR"}
    assert {state[name].dtype for name in ("QL", "QR", "PL", "PR")} == {torch.bfloat16}
    assert {state[name].dtype for name in ("L", "R", "m", "graft.v")} == {torch.float32}
    assert shampoo(precision="bfloat16").precondition.init(like)["PL"].dtype == torch.bfloat16


def bytes_per_parameter(**options: Any) -> float:
    """Of the matrices in a layer of GPT-2 with separate query, key and value."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    states = [shampoo(**options).init(torch.empty(1, *s, device="meta")) for s in shapes]
    held = sum(t.nbytes for state in states for t in state.values())
    return held / sum(m * n for m, n in shapes)


def test_memory() -> None:
    small = {"eigenvectors": "qr", "precision": "bfloat16"}
    found = [bytes_per_parameter(**o) for o in ({}, {"eigenvectors": "qr"}, small)]
    assert found == pytest.approx([29.0, 43.0, 29.0], abs=0.01)
    assert bytes_per_parameter(**small, block=768) == pytest.approx(17.0, abs=0.01)


@pytest.mark.parametrize("eigenvectors", ["eigh", "qr"])
def test_bfloat16_stays_near(eigenvectors: str) -> None:
    """Where the ridge is above the rounding of a factor, 2^-9 of it: what is left is that of the
    root, which enlarges by ``0.01^(-1/4)``, about three times.
    """
    params = parameters((32, 16), dtype=torch.float32)
    grads = gradients(params, 12)
    options = {"eigenvectors": eigenvectors, "refresh_every": 4, "damping_eps": 1e-2}
    exact, rounded = (
        trajectory(shampoo(precision=p, **options), params, grads)[0] for p in ("full", "bfloat16")
    )
    start = params[0].detach()
    ratio = float((exact - rounded).norm() / (exact - start).norm())
    assert 0 < ratio < 6 * 2**-9


def test_roots_are_those_of_the_bases_as_they_are_kept() -> None:
    (W,) = parameters((6, 4), dtype=torch.float32)
    found = state_after(qr(precision="bfloat16", refresh_every=1), gradients([W], 5), W)
    for side in "LR":
        A = unpack(found[side]) / (1 - 0.95**5)
        root = inv_root_in_basis(A, found[f"Q{side}"], 4, "relative", 1e-6)
        assert torch.equal(root, found[f"P{side}"])


# -- faults ----------------------------------------------------------------------------------------


@every_fault
@every_variant
def test_survives(options: dict[str, Any], fault: str) -> None:
    survives(shampoo(refresh_every=3, weight_decay=0.1, **options), fault)


@every_fault
def test_sums_survive(fault: str) -> None:
    survives(qr(statistics="sum", precision="bfloat16", refresh_every=3), fault)


@pytest.mark.parametrize("broken", ["L", "QL"])
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_what_is_not_finite_is_not_taken(precision: str, broken: str) -> None:
    """Neither root nor basis; it counts once, and other matrices of the stack go on."""
    params = parameters((6, 4), (6, 4), dtype=torch.float32)
    optimizer = Optimizer(params, qr(precision=precision, refresh_every=2), stagger=False)
    run(optimizer, params, gradients(params, 2))
    state = [optimizer.state[p] for p in params]
    state[0][f"precondition.{broken}"][:] = float("nan")
    names = [f"precondition.{name}" for name in ("PL", "QL", "PR", "QR")]
    before = [{name: s[name].clone() for name in names} for s in state]
    run(optimizer, params, gradients(params, 1))
    assert optimizer.faults() == {"param_groups[0][0]": 1}
    for name in names:
        same = [
            torch.allclose(s[name], b[name], rtol=0, atol=0, equal_nan=True)
            for s, b in zip(state, before, strict=True)
        ]
        assert same == [name.endswith("L"), False], name
    assert all(p.isfinite().all() for p in params)


def test_bad_values_are_refused() -> None:
    with pytest.raises(RecipeError, match="choose one of eigh, qr"):
        shampoo(eigenvectors="svd")
    with pytest.raises(RecipeError, match="choose one of full, bfloat16"):
        shampoo(precision="half")
    with pytest.raises(RecipeError, match=r"damping='pseudo' with eigenvectors='qr': .* take"):
        qr(damping="pseudo")
