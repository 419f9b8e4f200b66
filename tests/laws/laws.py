"""What every recipe must keep, as assertions that take a recipe."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stiefel import Optimizer, Recipe, views
from stiefel.piece import Now
from tests.helpers import assert_close, copies, gradients, parameters, run, trajectory

EXACT = 1e-12  # float64, a few operations in another order


def batched_equals_single(recipe: Recipe) -> None:
    params = parameters((6, 4), (6, 4), (6, 4), (4, 6))
    grads = gradients(params)
    alone = [trajectory(recipe, [p], [[s[i]] for s in grads])[0] for i, p in enumerate(params)]
    assert_close(trajectory(recipe, params, grads), alone, EXACT)


def homogeneous_of_degree_zero(recipe: Recipe) -> None:
    """Scaling all gradients by c > 0 changes nothing, from tiny to huge."""
    params = parameters((6, 4), (4, 4))
    grads = gradients(params)
    for c in (1e-30, 1e-3, 1e30):
        scaled = [[c * g for g in step] for step in grads]
        assert_close(trajectory(recipe, params, scaled), trajectory(recipe, params, grads), 1e-9)


def orthogonally_equivariant(recipe: Recipe) -> None:
    (W,) = parameters((6, 4))
    grads = gradients([W])
    Q, _ = torch.linalg.qr(torch.randn(6, 6, dtype=W.dtype))
    R, _ = torch.linalg.qr(torch.randn(4, 4, dtype=W.dtype))
    turned = trajectory(recipe, [Q @ W.detach() @ R], [[Q @ s[0] @ R] for s in grads])
    assert_close(turned, [Q @ trajectory(recipe, [W], grads)[0] @ R], 1e-9)


def transpose_symmetric(recipe: Recipe) -> None:
    """With a scale rule that is symmetric in m and n."""
    (W,) = parameters((6, 4))
    grads = gradients([W])
    turned = trajectory(recipe, [W.detach().T], [[s[0].T] for s in grads])
    assert_close(turned, [trajectory(recipe, [W], grads)[0].T], 1e-9)


def gradient_untouched(recipe: Recipe) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        params = parameters((6, 4), (6, 4), (8, 8), dtype=dtype)  # stacked, and alone
        optimizer = Optimizer(params, recipe)
        grads = [torch.randn_like(p) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        before = [g.clone() for g in grads]
        optimizer.step()
        for p, g, old in zip(params, grads, before, strict=True):
            assert p.grad is g, "p.grad was replaced"
            assert torch.equal(g, old), "p.grad was written to"


def _one_update(
    recipe: Recipe, device: str, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    weight = torch.randn(2, 6, 4, dtype=dtype, device=device)
    state = recipe.init(weight)
    numbers = {name: live.default for name, live in recipe.live.items()}
    recipe.update(torch.randn_like(weight), state, Now(numbers, 1, weight, 0.1, 0.1))
    return weight, state


def dtype_and_shape_kept(recipe: Recipe, device: str) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 6, 4, dtype=dtype, device=device)
        numbers = {name: live.default for name, live in recipe.live.items()}
        for slot, piece in recipe.slots():
            state = piece.init(x)
            out = piece(x, state, Now(numbers, 1, x.clone(), 0.1, 0.1))
            assert (out.dtype, out.device, out.shape) == (x.dtype, x.device, x.shape), slot
            assert all(s.shape[0] == 2 and s.device == x.device for s in state.values()), slot


def works_on_meta(recipe: Recipe) -> None:
    weight, state = _one_update(recipe, "meta", torch.float32)
    assert weight.is_meta and all(s.is_meta for s in state.values())


def deterministic(recipe: Recipe) -> None:
    params = parameters((6, 4), (4, 4))
    grads = gradients(params)
    first, second = trajectory(recipe, params, grads), trajectory(recipe, params, grads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def state_names_are(recipe: Recipe, names: frozenset[str]) -> None:
    (W,) = parameters((6, 4))
    optimizer = Optimizer([W], recipe)
    assert set(optimizer.state[W]) == names
    run(optimizer, [W], gradients([W]))
    assert set(optimizer.state[W]) == names


def resumes_exactly(recipe: Recipe, dtype: torch.dtype) -> None:
    """Saved after two steps and loaded under weights_only, five steps are the same bits."""
    params = parameters((6, 4), (6, 4), (8, 8), dtype=dtype)
    grads = gradients(params, 5)
    through = copies(params)
    run(Optimizer(through, recipe), through, grads)

    optimizer = Optimizer(params, recipe)
    run(optimizer, params, grads[:2])
    buffer = io.BytesIO()
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    again = copies(saved["params"])
    resumed = Optimizer(again, recipe)
    resumed.load_state_dict(saved["optimizer"])
    run(resumed, again, grads[2:])
    assert all(torch.equal(a, b) for a, b in zip(through, again, strict=True)), "resume differs"


def equals_twin(recipe: Recipe, twin: Callable[..., Tensor], **settings: Any) -> None:
    for shape in ((6, 4), (4, 6), (5, 5)):
        (W,) = parameters(shape)
        grads = gradients([W], 4)
        theirs = twin(W.detach(), [s[0] for s in grads], lr=0.05, **settings)
        assert_close(trajectory(recipe, [W], grads), [theirs], 1e-9)


def conv_equals_linear(recipe: Recipe, view: views.ViewRule) -> None:
    (kernel,) = parameters((8, 3, 3, 3))
    grads = gradients([kernel])
    flat = trajectory(recipe, [kernel.detach().flatten(1)], [[s[0].flatten(1)] for s in grads])
    seen = trajectory(recipe, [kernel], grads, views=[view])
    assert_close([seen[0].flatten(1)], flat, EXACT)


def split_equals_separate(recipe: Recipe, view: views.ViewRule) -> None:
    """A fused query-key-value weight (4 query heads, 2 key heads) against its three matrices."""
    (fused,) = parameters((32, 8))
    grads = gradients([fused])
    rows = [16, 8, 8]
    apart = trajectory(recipe, fused.detach().split(rows), [s[0].split(rows) for s in grads])
    assert_close(trajectory(recipe, [fused], grads, views=[view]), [torch.cat(apart)], EXACT)


def equals_torch(recipe: Recipe, peer: Callable[..., torch.optim.Optimizer], bitwise: bool) -> None:
    params = parameters((6, 4), (4, 4), dtype=torch.float32)
    grads = gradients(params, 5)
    theirs = copies(params)
    run(peer(theirs, lr=0.05), theirs, grads)
    ours = trajectory(recipe, params, grads)
    if bitwise:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    else:
        assert_close(ours, theirs, 1e-6)


def compiles_once(recipe: Recipe) -> None:
    """One whole graph a plan under a changing learning rate, and the numbers of the eager step."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    params = parameters((6, 4), (6, 4), (8, 8), dtype=torch.float32)
    grads = gradients(params, 4)
    ours = copies(params)
    optimizer = Optimizer(ours, recipe, compile=True, lr=0.05)
    expected = copies(params)
    plain = Optimizer(expected, copy.deepcopy(recipe), lr=0.05)
    for index, step in enumerate(grads):
        for group in (*optimizer.param_groups, *plain.param_groups):
            group["lr"] = 0.05 / (index + 1)
        run(optimizer, ours, [step])
        run(plain, expected, [step])
    plans = len(optimizer._run.plans)  # type: ignore[union-attr]
    stats = torch._dynamo.utils.counters["stats"]
    assert not torch._dynamo.utils.counters["graph_break"], "graph break"
    assert stats["unique_graphs"] == plans, f"{stats['unique_graphs']} graphs for {plans} plans"
    assert_close(ours, expected, 3e-2 if "Orthogonalise" in recipe.fingerprint else 1e-5)
