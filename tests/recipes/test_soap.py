"""SOAP and KL-SOAP: Adam in a basis, which basis, and what it costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from stiefel import Optimizer, Recipe
from stiefel.errors import HyperparameterError, RecipeError
from stiefel.piece import Now
from stiefel.pieces.triangle import unpack
from stiefel.recipes import kl_soap, soap
from tests.helpers import assert_close, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.adamw import adamw as adamw_twin
from tests.reference.klsoap import kl_soap as kl_twin
from tests.reference.soap import eigenvectors
from tests.reference.soap import soap as twin

both = pytest.mark.parametrize("recipe", [soap, kl_soap], ids=["soap", "kl_soap"])
NEVER = 10**6


def equal(recipe: Recipe, oracle: Any, shape: tuple[int, int], steps: int = 13) -> None:
    (W,) = parameters(shape)
    grads = gradients([W], steps)
    theirs = oracle(W.detach(), [s[0] for s in grads], lr=0.05)
    assert_close(trajectory(recipe, [W], grads), [theirs], 1e-9)


@pytest.mark.parametrize("shape", [(7, 3), (4, 6), (5, 5)])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_equals_twin_through_refreshes(every: int, shape: tuple[int, int]) -> None:
    equal(soap(refresh_every=every), partial(twin, precondition_frequency=every), shape)


@pytest.mark.parametrize("shape", [(7, 3), (4, 6), (5, 5)])
def test_kl_equals_twin_through_refreshes(shape: tuple[int, int]) -> None:
    options = {"betas": (0.8, 0.9), "shampoo_beta": 0.7, "eps": 1e-3, "weight_decay": 0.1}
    oracle = partial(kl_twin, precondition_frequency=3, init_factor=0.5, **options)
    equal(kl_soap(refresh_every=3, init_factor=0.5, **options), oracle, shape)


@both
@pytest.mark.parametrize("shape", [(40, 3), (3, 40)])
@pytest.mark.parametrize("every", [2, 10])
def test_no_basis_is_made_of_rounding(recipe: Any, shape: tuple[int, int], every: int) -> None:
    """While the gradients so far have a null space a refresh completes them; then it need not."""
    (W,) = parameters(shape)
    exact = gradients([W], 16)
    noise = torch.Generator().manual_seed(1)
    ulps = [[g * (1 + 2e-16 * torch.randn(shape, generator=noise).double())] for [g] in exact]
    found = [trajectory(recipe(refresh_every=every), [W], grads) for grads in (exact, ulps)]
    assert_close(found[0], found[1], 1e-9)


def test_every_number_is_the_twins() -> None:
    options = {"betas": (0.8, 0.9), "shampoo_beta": 0.7, "eps": 1e-2, "weight_decay": 0.1}
    equal(
        soap(refresh_every=2, **options), partial(twin, precondition_frequency=2, **options), (6, 4)
    )


@pytest.mark.parametrize("longest", [5, 4])
def test_a_long_side_has_no_factor(longest: int) -> None:
    recipe = soap(max_dim=longest, refresh_every=2)
    equal(recipe, partial(twin, max_precond_dim=longest, precondition_frequency=2), (6, 4))
    assert "L" not in recipe.precondition.init(torch.zeros(1, 6, 4))


def test_the_first_gradient_moves_nothing() -> None:
    params = parameters((6, 4))
    moved = trajectory(soap(weight_decay=0.5), params, gradients(params, 1))
    assert torch.equal(moved[0], params[0].detach())


def test_without_factors_it_is_adam_one_gradient_late() -> None:
    (W,) = parameters((6, 4))
    grads = gradients([W], 6)
    plain = adamw_twin(
        W.detach(), [s[0] for s in grads[1:]], lr=0.05, betas=(0.95, 0.95), eps=0, weight_decay=0
    )
    ours = trajectory(soap(max_dim=1, eps=0.0, weight_decay=0.0), [W], grads)
    assert_close(ours, [plain], 1e-12)


@both
def test_fixed_bases_are_adam_in_them(recipe: Any) -> None:
    (W,) = parameters((5, 4))
    grads = gradients([W], 6)
    first = grads[0][0]
    U, V = eigenvectors(first @ first.T), eigenvectors(first.T @ first)
    betas = (0.9, 0.95)
    inside = trajectory(
        recipe(betas=betas, max_dim=1, refresh_every=NEVER),
        [U.T @ W.detach() @ V],
        [[U.T @ s[0] @ V] for s in grads],
    )
    outside = trajectory(recipe(betas=betas, refresh_every=NEVER), [W], grads)
    assert_close(outside, [U @ inside[0] @ V.T], 1e-9)


def kl_state(grads: list[torch.Tensor], every: int) -> dict[str, torch.Tensor]:
    """What KL-SOAP with a short memory knows after these gradients."""
    params = [torch.zeros_like(grads[0]).requires_grad_()]
    optimizer = Optimizer(params, kl_soap(shampoo_beta=0.5, refresh_every=every))
    run(optimizer, params, [[grad] for grad in grads])
    state = optimizer.state[params[0]]
    return {name.removeprefix("precondition."): tensor for name, tensor in state.items()}


def test_kl_factors_agree_with_their_eigenvalues_once_the_past_is_forgotten() -> None:
    state = kl_state([torch.randn(3, 3, dtype=torch.float64)] * 200, 1)
    for side in "LR":
        Q, D = state[f"Q{side}"], state[f"D{side}"]
        assert_close([(Q * D.unsqueeze(-2)) @ Q.mT], [unpack(state[side])], 1e-9)


def test_kl_eigenvalues_have_a_floor() -> None:
    first = torch.randn(3, 20, dtype=torch.float64)
    state = kl_state([first, *[0 * first] * 30], NEVER)
    floors = [torch.full((1, 3), 10.0**-2), torch.full((1, 20), 20.0**-2)]
    assert_close([state["DL"], state["DR"]], floors, 1e-6)


def test_blocks_of_a_side_alone_are_matrices_of_their_own() -> None:
    """Where the columns have no factor, nothing joins the blocks of rows."""
    options = {"max_dim": 8, "refresh_every": 2}
    (W,) = parameters((8, 9))
    grads = gradients([W], 7)
    apart = trajectory(soap(**options), W.detach().split(4), [list(s[0].split(4)) for s in grads])
    assert_close(trajectory(soap(block=4, **options), [W], grads), [torch.cat(apart)], 1e-12)


@both
def test_blocks_transpose(recipe: Any) -> None:
    laws.transpose_symmetric(recipe(block=2, refresh_every=1))


def test_blocks_are_the_diagonal_of_the_factors() -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    state = {}
    for block in (None, 3, 4):
        piece = soap(block=block, shampoo_beta=0.5).precondition
        state[block] = piece.init(x)
        piece(x, state[block], Now({"shampoo_beta": 0.5}, 1, x, 1.0, 1.0))
    L = {block: unpack(held["L"]) for block, held in state.items()}
    R = {block: unpack(held["R"]) for block, held in state.items()}
    whole = L[None][:, 0]
    assert_close([L[3][:, 1]], [whole[:, 3:, 3:]], 1e-14)
    assert_close([L[4][:, 0]], [whole[:, :3, :3]], 1e-14)  # 4 and 2 would not be equal
    assert_close([R[4]], [0.5 * (x.mT @ x).unsqueeze(1)], 1e-14)
    assert R[3].shape == (2, 2, 2, 2)


@both
def test_bfloat16_bases_stay_near(recipe: Any) -> None:
    """Bases and products in 16 bits: a few hundredths of the way, factors in full."""
    params = parameters((32, 16), dtype=torch.float32)
    grads = gradients(params, 12)
    start = params[0].detach()
    exact, rounded = (
        trajectory(recipe(precision=p, refresh_every=4), params, grads)[0]
        for p in ("full", "bfloat16")
    )
    assert 0 < (exact - rounded).norm() < 0.06 * (exact - start).norm()
    state = recipe(precision="bfloat16").precondition.init(torch.zeros(1, 4, 3))
    assert {state[name].dtype for name in ("QL", "QR")} == {torch.bfloat16}
    assert {state[name].dtype for name in ("L", "R", "inner.m")} == {torch.float32}


FUSED, APART = [(2304, 768)], [(768, 768)] * 3


def bytes_per_parameter(qkv: list[tuple[int, int]] = APART, **options: Any) -> float:
    """Of the matrices in a layer of GPT-2 whose width is 768."""
    shapes = [*qkv, (768, 768), (3072, 768), (768, 3072)]
    states = [soap(**options).init(torch.empty(1, *s, device="meta")) for s in shapes]
    held = sum(t.nbytes for state in states for t in state.values())
    return held / sum(m * n for m, n in shapes)


def test_memory() -> None:
    assert bytes_per_parameter() == pytest.approx(29.0, abs=0.01)
    assert bytes_per_parameter(max_dim=768) == pytest.approx(13.0, abs=0.01)
    small = {"block": 768, "precision": "bfloat16"}
    assert bytes_per_parameter(**small) == pytest.approx(14.0, abs=0.01)
    assert bytes_per_parameter(FUSED, **small) == pytest.approx(13.34, abs=0.01)


@both
@every_fault
def test_survives(recipe: Any, fault: str) -> None:
    survives(recipe(refresh_every=3, weight_decay=0.1), fault)


@both
def test_a_basis_that_is_not_finite_is_not_taken(recipe: Any) -> None:
    """It is counted, and neither the bases nor Adam's squares are touched."""
    params = parameters((6, 4), (6, 4))
    optimizer = Optimizer(params, recipe(refresh_every=2), stagger=False)
    run(optimizer, params, gradients(params, 2))
    state = [optimizer.state[p] for p in params]
    state[0]["precondition.L"][:] = float("nan")
    before = [s["precondition.QL"].clone() for s in state]
    run(optimizer, params, gradients(params, 1))
    assert optimizer.faults() == {"param_groups[0][0]": 1}
    assert torch.equal(state[0]["precondition.QL"], before[0])
    assert not torch.equal(state[1]["precondition.QL"], before[1])
    assert all(p.isfinite().all() for p in params)


def test_stagger_spreads_refreshes() -> None:
    """Four equal matrices with a period of four: one basis turns at each step."""
    params = parameters(*[(6, 4)] * 4)
    optimizer = Optimizer(params, soap(refresh_every=4))
    run(optimizer, params, gradients(params, 1))
    turned: list[list[int]] = []
    for grads in gradients(params, 4):
        before = [optimizer.state[p]["precondition.QR"].clone() for p in params]
        run(optimizer, params, [grads])
        after = [optimizer.state[p]["precondition.QR"] for p in params]
        turned.append([i for i in range(4) if not torch.equal(before[i], after[i])])
    assert sorted(turned) == [[0], [1], [2], [3]]


@both
def test_bad_values_are_refused(recipe: Any) -> None:
    for bad in (
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"betas": None},
        {"shampoo_beta": 1.0},
        {"eps": -1.0},
        {"refresh_every": 0},
        {"max_dim": 0},
        {"block": 0},
        {"block": 2.5},
    ):
        with pytest.raises(HyperparameterError, match=next(iter(bad))):
            recipe(**bad)
    with pytest.raises(RecipeError, match="choose one of full, bfloat16"):
        recipe(precision="half")


def test_works_on_meta_after_its_first_step() -> None:
    """The laws of the meta device see the first step only."""
    for recipe in (soap(), kl_soap(block=3)):
        weight = torch.empty(2, 6, 4, device="meta")
        numbers = {name: live.default for name, live in recipe.live.items()}
        state = recipe.init(weight)
        recipe.update(torch.empty_like(weight), state, Now(numbers, 2, weight, 0.1, 0.1))
        assert all(t.is_meta for t in state.values())
