"""People reach into optimisers: they cast models, swap parameters, edit groups, clear state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import stiefel
from tests.helpers import assert_close, copies, gradients, parameters, run
from tests.test_torch_contract import makes, mixed, same_bits


def cast(params: list[Tensor], dtype: torch.dtype) -> None:
    for p in params:
        p.grad = None
        p.data = p.data.to(dtype)


@makes
@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_model_cast_after_construction(make: Any, reload: bool, dtypes: Any) -> None:
    params = parameters((6, 4), (6, 4), (8, 8), dtype=dtypes[0])
    optimizer = make(params, lr=0.05)
    run(optimizer, params, gradients(params, 1))
    cast(params, dtypes[1])
    if reload:
        optimizer.load_state_dict(optimizer.state_dict())
    run(optimizer, params, gradients(params, 2))
    assert all(p.dtype == dtypes[1] and p.isfinite().all() for p in params)
    for state in optimizer.state.values():
        assert {t.dtype for k, t in state.items() if k != "step"} == {dtypes[1]}


def test_load_puts_state_on_the_parameters_device() -> None:
    params = parameters((6, 4))
    optimizer = stiefel.Muon(params)
    saved = optimizer.state_dict()
    optimizer.state[params[0]]["momentum.m"] = torch.empty(6, 4, device="meta")
    optimizer.load_state_dict(
        {**saved, "state": {0: {"momentum.m": torch.ones(6, 4), "step": 1.0}}}
    )
    assert optimizer.state[params[0]]["momentum.m"].device == params[0].device


def test_count_of_steps_is_exact_under_any_default_dtype() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        params = parameters((4,), dtype=torch.bfloat16)
        optimizer = stiefel.AdamW(params)
    finally:
        torch.set_default_dtype(torch.float32)
    optimizer.state[params[0]]["step"].fill_(256)
    run(optimizer, params, gradients(params, 3))
    assert optimizer.state[params[0]]["step"] == 259


@pytest.mark.parametrize("where", ["option", "loop"])
def test_a_momentum_that_is_not_for_adamw_leaves_it_alone(where: str) -> None:
    """Warming up Muon's momentum in all groups is common, and no business of AdamW's betas."""
    params = parameters((6, 4), (6, 4))
    expected, grads = copies(params), gradients(params)
    run(stiefel.AdamW(expected), expected, grads)
    option = {"momentum": 0.3} if where == "option" else {}
    optimizer = stiefel.AdamW([{"params": params, **option}])
    if where == "loop":
        optimizer.param_groups[0]["momentum"] = 0.3
    run(optimizer, params, grads)
    assert same_bits(params, expected)


def test_onecycle_writes_the_first_beta_for_all_to_see() -> None:
    params = parameters((6, 4), (6, 4))
    optimizer = mixed(params)
    lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5, max_momentum=0.77)
    run(optimizer, params, gradients(params, 1))
    assert optimizer.param_groups[1]["betas"] == (0.77, 0.999)
    assert "momentum" not in optimizer.param_groups[1]


def test_onecycle_when_the_first_recipe_has_betas() -> None:
    a, b = parameters((6, 4), (6, 4))
    groups = [{"params": [a]}, {"params": [b], "recipe": stiefel.muon()}]
    optimizer = stiefel.Optimizer(groups, stiefel.adamw())
    lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5, max_momentum=0.77)
    run(optimizer, [a, b], gradients([a, b], 1))
    assert optimizer.param_groups[0]["betas"][0] == optimizer.param_groups[1]["momentum"] == 0.77


def test_a_replaced_group_is_read() -> None:
    p, q = parameters((4, 4), (4, 4))
    optimizer = stiefel.Muon([{"params": [p]}, {"params": [q]}])
    run(optimizer, [p, q], gradients([p, q], 1))
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.0}
    before = copies([p, q])
    optimizer.step()
    assert torch.equal(p, before[0])
    assert not torch.equal(q, before[1])
    optimizer.param_groups[0]["params"].append(optimizer.param_groups[1]["params"].pop())
    before = copies([p, q])
    optimizer.step()
    assert same_bits([p, q], before)


@makes
def test_a_replaced_parameter_is_stepped(make: Any) -> None:
    """As densification does: a new tensor takes the place and the state of an old one."""
    params = parameters((4, 4), (4, 4))
    grads = gradients(params, 3)
    expected = copies(params)
    run(make(expected), expected, grads)
    optimizer = make(params)
    run(optimizer, params, grads[:1])
    fresh = nn.Parameter(params[0].detach().clone())
    optimizer.state[fresh] = optimizer.state.pop(params[0])
    optimizer.param_groups[0]["params"][0] = fresh
    run(optimizer, [fresh, params[1]], grads[1:])
    assert_close([fresh.detach(), params[1].detach()], expected, 1e-12)


def test_what_takes_the_place_of_a_parameter_is_seen_as_it_was() -> None:
    """As accelerate does: the optimiser first, then other parameters in its groups."""
    rule = stiefel.views.qkv(4, 2)
    params, grads = parameters((32, 8), (4, 4)), gradients(parameters((32, 8), (4, 4)), 3)
    expected, others = copies(params), copies(params)

    def make(given: list[Tensor]) -> stiefel.Optimizer:
        return stiefel.Optimizer([{"params": given, "views": [rule, None]}], stiefel.muon())

    plain, switched = make(expected), make(params)
    switched.param_groups[0]["params"] = list(others)
    empty = make(copies(params)).state_dict()
    assert switched.state_dict()["state"].keys() == empty["state"].keys()
    switched.load_state_dict(empty)
    run(plain, expected, grads)
    run(switched, others, grads)
    assert same_bits(others, copies(expected))
    assert switched.state.keys() == {*others}
    shorter = others[:1]
    switched.param_groups[0]["params"] = shorter
    run(switched, shorter, [grads[0][:1]])
    assert switched.state.keys() == {*shorter}


@makes
def test_state_whose_data_was_replaced(make: Any) -> None:
    params = parameters((4, 4), (4, 4), (6, 6))
    optimizer = make(params)
    run(optimizer, params, gradients(params, 1))
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.data = tensor.data.clone()
    before = [t.clone() for s in optimizer.state.values() for t in s.values()]
    run(optimizer, params, gradients(params, 1))
    after = [t for s in optimizer.state.values() for t in s.values()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def cleared(optimizer: Any) -> None:
    optimizer.state.clear()


def renewed(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict)


@makes
@pytest.mark.parametrize("forget", [cleared, renewed])
def test_cleared_state_starts_again(make: Any, forget: Callable[[Any], None]) -> None:
    params = parameters((4, 4), (4, 4), (6, 6))
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    forget(optimizer)
    expected, grads = copies(params), gradients(params)
    run(make(expected), expected, grads)
    run(optimizer, params, grads)
    assert_close(params, expected, 1e-12)


def test_groups_share_no_tensor_lr() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = stiefel.optimizer(model, "muon", lr=torch.tensor(1.0))
    lr_scheduler.LambdaLR(optimizer, [lambda t: 0.5, lambda t: 0.25])
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5, 0.25]


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("make", [stiefel.Muon, stiefel.AdamW])
def test_matrices_without_entries(make: Any, shape: tuple[int, int]) -> None:
    params = parameters(shape, (4, 4))
    optimizer = make([("empty", params[0]), ("full", params[1])])
    run(optimizer, params, gradients(params))
    assert optimizer.effective_lr()["empty"].spectral == 0.0


def test_largest_numbers_stay_finite() -> None:
    largest = torch.full((4, 4), torch.finfo(torch.float32).max)
    assert torch.equal(stiefel.linalg.polar(largest), stiefel.linalg.polar(torch.ones(4, 4)))


def test_effective_lr_of_a_gradient_in_another_dtype() -> None:
    p = nn.Parameter(torch.randn(4, 4, dtype=torch.bfloat16))
    p.grad_dtype = torch.float32
    p.grad = torch.randn(4, 4)
    assert stiefel.Muon([("p", p)], lr=1.0).effective_lr()["p"].rms > 0
