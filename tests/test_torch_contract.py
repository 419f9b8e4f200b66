"""What every torch.optim.Optimizer promises, line by line."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import stiefel
from stiefel.engine.admission import present_numbers
from tests.helpers import assert_close, copies, gradients, parameters, run

SHAPES = ((6, 4), (6, 4), (8, 8))
Make = Callable[..., stiefel.Optimizer]


def mixed(params: Any, **options: Any) -> stiefel.Optimizer:
    """The first parameter under Muon, the rest under AdamW, in one optimiser."""
    first, *rest = params
    groups = [{"params": [first]}, {"params": rest, "recipe": stiefel.adamw()}]
    return stiefel.Optimizer(groups, stiefel.muon(), **options)


makes = pytest.mark.parametrize("make", [stiefel.Muon, stiefel.AdamW, mixed])


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [t.clone() for p in optimizer.state.values() for t in p.values()]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- step ------------------------------------------------------------------------------------------


@makes
def test_closure(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params, lr=0.05)
    (step,) = gradients(params, 1)
    expected = copies(params)
    run(make(expected, lr=0.05), expected, [step])

    def closure() -> float:
        assert torch.is_grad_enabled()
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        return 3.5

    assert optimizer.step(closure) == 3.5
    assert same_bits(params, expected)
    assert optimizer.step() is None


@makes
def test_step_hooks_run(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer, seen = make(params), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    run(optimizer, params, gradients(params, 1))
    assert seen == ["pre", "post"]


@makes
def test_missing_gradients_are_skipped(make: Make) -> None:
    """A parameter that misses a gradient keeps weight and state, and ends where it would alone."""
    params = parameters((6, 4), (6, 4), (6, 4))
    grads = gradients(params, 4)
    alone = copies(params)
    for i, p in enumerate(alone):
        used = [[s[i]] for t, s in enumerate(grads) if (i, t) != (1, 1)]
        recipe_of = (
            stiefel.Muon if make is stiefel.Muon or (make is mixed and i == 0) else stiefel.AdamW
        )
        run(recipe_of([p], lr=0.05), [p], used)
    optimizer = make(params, lr=0.05)
    for t, step in enumerate(grads):
        for i, (p, g) in enumerate(zip(params, step, strict=True)):
            p.grad = None if (i, t) == (1, 1) else g
        before, state = params[1].detach().clone(), copy.deepcopy(optimizer.state[params[1]])
        optimizer.step()
        if t == 1:
            assert torch.equal(params[1], before)
            assert all(torch.equal(v, state[k]) for k, v in optimizer.state[params[1]].items())
    assert_close(params, alone, 1e-12)


@makes
def test_no_gradient_at_all(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params)
    before, state = copies(params), state_of(optimizer)
    optimizer.step()
    assert same_bits(params, before) and same_bits(state_of(optimizer), state)


@makes
def test_maximize(make: Make) -> None:
    params = parameters(*SHAPES)
    grads = gradients(params)
    up, down = copies(params), copies(params)
    run(make(up, lr=0.05, maximize=True), up, grads)
    run(make(down, lr=0.05), down, [[-g for g in step] for step in grads])
    assert same_bits(up, down)


@makes
def test_accumulated_gradients(make: Make) -> None:
    params = parameters(*SHAPES)
    grads = gradients(params, 2)
    summed = copies(params)
    run(make(summed), summed, [[a + b for a, b in zip(*grads, strict=True)]])
    optimizer = make(params)
    for p, a, b in zip(params, *grads, strict=True):
        (p * a).sum().backward()
        (p * b).sum().backward()
    optimizer.step()
    assert same_bits(params, summed)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@makes
def test_zero_gradient_at_zero_lr_changes_nothing(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    before, state = copies(params), state_of(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(optimizer, params, [[torch.zeros_like(p) for p in params]])
    assert same_bits(params, before) and same_bits(state_of(optimizer), state)


@makes
def test_noncontiguous_parameters(make: Make) -> None:
    plain = parameters((6, 4), (8, 3, 3, 3))
    odd = [
        plain[0].detach().T.contiguous().T.requires_grad_(),
        plain[1].detach().to(memory_format=torch.channels_last).requires_grad_(),
    ]
    assert not odd[0].is_contiguous() and not odd[1].is_contiguous()
    grads = gradients(plain)
    run(make(plain, lr=0.05), plain, grads)
    run(make(odd, lr=0.05), odd, grads)
    assert_close(odd, plain, 1e-12)


# -- numbers and schedulers ------------------------------------------------------------------------


@makes
@pytest.mark.parametrize("shape", [(), (1,)])
def test_tensor_lr(make: Make, shape: tuple[int, ...]) -> None:
    params = parameters(*SHAPES, dtype=torch.float32)
    grads = gradients(params)
    other = copies(params)
    run(make(other, lr=0.05), other, grads)
    lr = torch.full(shape, 0.05)
    optimizer = make(params, lr=lr)
    run(optimizer, params, grads)
    assert_close(params, other, 1e-6)
    assert torch.equal(optimizer.param_groups[0]["lr"], lr)


SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda o: lr_scheduler.StepLR(o, 2),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=3),
    lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    lambda o: lr_scheduler.PolynomialLR(o, 5),
    lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.StepLR(o, 1)], [2]
    ),
    lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=6),
    lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
]


@makes
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_every_scheduler_reaches_every_group(make: Make, schedule: Callable[[Any], Any]) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params, lr=0.05)
    scheduler = schedule(optimizer)
    rates = []
    for step in gradients(params, 5):
        run(optimizer, params, [step])
        scheduler.step()
        rates.append({group["lr"] for group in optimizer.param_groups})
    assert all(len(r) == 1 for r in rates) and len(set.union(*rates)) > 1


def test_plateau_scheduler() -> None:
    params = parameters(*SHAPES)
    optimizer = mixed(params, lr=0.05)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for loss in (1.0, 2.0, 3.0):
        scheduler.step(loss)
    assert {round(g["lr"], 9) for g in optimizer.param_groups} == {0.0005}


@makes
def test_onecycle_momentum_acts(make: Make) -> None:
    """The cycled momentum reaches the mathematics: under every recipe of a mixed optimiser too."""
    params = parameters((6, 4), (6, 4))
    grads = gradients(params, 4)

    def end(low: float) -> list[Tensor]:
        own = copies(params)
        optimizer = make(own, lr=0.05)
        scheduler = lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=5, base_momentum=low)
        for step in grads:
            run(optimizer, own, [step])
            scheduler.step()
        return own

    for a, b in zip(end(0.3), end(0.8), strict=True):
        assert not torch.allclose(a, b)


@makes
def test_every_number_is_read_from_the_group_at_each_step(make: Make) -> None:
    params = parameters(*SHAPES)
    changed = {
        "momentum": 0.5,
        "betas": (0.5, 0.6),
        "weight_decay": 0.7,
        "eps": 1.0,
        "ns_steps": 2,
        "nesterov": False,
        "lr": 0.5,
    }
    grads = gradients(params, 2)
    optimizer = make(params)
    keys = [k for k in changed if k in optimizer.param_groups[0]]
    assert {"lr", "weight_decay"} < set(keys)
    for key in keys:
        plain, other = copies(params), copies(params)
        run(make(plain), plain, grads)
        optimizer = make(other)
        run(optimizer, other, grads[:1])
        optimizer.param_groups[0][key] = changed[key]
        run(optimizer, other, grads[1:])
        assert not torch.equal(plain[0], other[0]), f"{key} is not read"


def test_groups_hold_only_what_their_recipe_reads() -> None:
    muon, adamw = mixed(parameters(*SHAPES)).param_groups
    common = {"params", "lr", "weight_decay", "maximize", "recipe", "skipped_steps"}
    assert set(muon) == common | {"momentum", "nesterov", "ns_steps"}
    assert set(adamw) == common | {"betas", "eps"}


# -- groups ----------------------------------------------------------------------------------------


@makes
def test_add_param_group_before_and_after_steps(make: Make) -> None:
    params = parameters(*SHAPES)
    grads = gradients(params, 3)
    expected = copies(params)
    for i, p in enumerate(expected):
        first = 0 if i < 2 else 1
        kind = (
            stiefel.Muon
            if make is not stiefel.AdamW and (i != 1 or make is stiefel.Muon)
            else stiefel.AdamW
        )
        run(kind([p], lr=0.1 if i == 2 else 0.05), [p], [[s[i]] for s in grads[first:]])
    optimizer = make(params[:2], lr=0.05)
    run(optimizer, params[:2], [grads[0][:2]])
    options = {"params": [params[2]], "lr": 0.1}
    optimizer.add_param_group(options)
    assert options == {"params": [params[2]], "lr": 0.1}, "the caller's dict was changed"
    run(optimizer, params, grads[1:])
    assert_close(params, expected, 1e-12)


@makes
def test_named_parameters(make: Make) -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False))
    optimizer = stiefel.AdamW(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "1.weight"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["0.weight", "1.weight"]


def test_generators_are_read_once() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False))
    assert len(stiefel.Muon(model.parameters()).param_groups[0]["params"]) == 2


def test_a_parameter_given_twice_steps_once() -> None:
    params = parameters((6, 4))
    once, grads = copies(params), gradients(params)
    run(stiefel.Muon(once), once, grads)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = stiefel.Muon([*params, *params])
    run(optimizer, params, grads)
    assert same_bits(params, once)


def test_per_group_options() -> None:
    a, b = parameters((6, 4), (6, 4))
    optimizer = stiefel.Muon([{"params": [a], "lr": 0.5, "momentum": 0.1}, {"params": [b]}], lr=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.1, 0.95]


# -- mixed precision -------------------------------------------------------------------------------


@makes
def test_grad_scaler(make: Make) -> None:
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = make(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert float(scaler.scale(torch.ones(()))) == 8.0
    expected = copies(params)
    step = gradients(params, 1)[0]
    run(make(expected), expected, [step])
    for p, g in zip(params, step, strict=True):
        p.grad = g * 8.0
    scaler.step(optimizer)
    scaler.update()
    assert_close(params, expected, 1e-6)

    before, state = copies(params), state_of(optimizer)
    params[0].grad = torch.full_like(params[0], float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert same_bits(params, before) and same_bits(state_of(optimizer), state)
    assert scaler.get_scale() == 4.0


@makes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_of_16_bit_parameters_is_float32(make: Make, dtype: torch.dtype) -> None:
    params = parameters(*SHAPES, dtype=dtype)
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    assert {t.dtype for t in state_of(optimizer)} == {torch.float32}
    assert all(p.dtype == dtype for p in params)


# -- copies and checkpoints ------------------------------------------------------------------------


def roundtrip_pickle(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@makes
@pytest.mark.parametrize("duplicate", [copy.deepcopy, roundtrip_pickle])
def test_copies_go_on_alone(make: Make, duplicate: Callable[[Any], Any]) -> None:
    params = parameters(*SHAPES)
    grads = gradients(params, 4)
    optimizer = make(params)
    run(optimizer, params, grads[:2])
    twins, twin = duplicate((params, optimizer))
    before = copies(params)
    run(twin, twins, grads[2:])
    assert same_bits(params, before), "the copy moved the original"
    run(optimizer, params, grads[2:])
    assert same_bits(params, twins)
    assert repr(twin)


@makes
def test_state_dict_is_plain(make: Make) -> None:
    """Tensors and plain numbers: loads under weights_only."""
    params = parameters(*SHAPES)
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    for entry in saved["state"].values():
        for tensor in entry.values():
            assert type(tensor) is Tensor
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)["param_groups"] == saved["param_groups"]


@makes
def test_numpys_numbers_are_saved_as_pythons(make: Make) -> None:
    """As np.logspace and NumPy's schedules leave them; others do not load under weights_only."""
    params = parameters(*SHAPES)
    optimizer = make(params, lr=np.float64(1e-3))
    for group in optimizer.param_groups:
        group["weight_decay"] = np.float32(0.5)
        if "betas" in group:
            group["betas"] = (np.float64(0.5), 0.9)
    run(optimizer, params, gradients(params))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)["param_groups"]
    assert {type(group["weight_decay"]) for group in loaded} == {float}
    assert {group["lr"] for group in loaded} == {1e-3}
    assert stiefel.muon(ns_steps=np.int64(4)).live["ns_steps"].default == 4


def test_whole_numbers_step_as_floats() -> None:
    """A compiled step takes floats as inputs, and would be compiled for every whole number."""
    optimizer = stiefel.Muon(parameters((4, 3)), lr=1)
    (group,), recipe = optimizer.param_groups, stiefel.muon()
    group["weight_decay"] = 0
    numbers = present_numbers(group, recipe)
    assert type(numbers["lr"]) is type(numbers["weight_decay"]) is float
    assert type(numbers["ns_steps"]) is int and type(numbers["nesterov"]) is bool


@makes
def test_a_loaded_dict_is_not_stepped(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    run(optimizer, params, gradients(params))
    for index, entry in saved["state"].items():
        assert all(torch.equal(v, kept["state"][index][k]) for k, v in entry.items())


@makes
def test_load_hooks_see_the_whole_state(make: Make) -> None:
    params = parameters(*SHAPES)
    optimizer = make(params)
    run(optimizer, params, gradients(params))
    saved, sizes = optimizer.state_dict(), []
    optimizer.register_load_state_dict_pre_hook(lambda o, s: sizes.append(len(s["state"])))
    optimizer.register_load_state_dict_post_hook(lambda o: sizes.append(len(o.state)))
    optimizer.load_state_dict(saved)
    assert sizes == [3, 3]


@makes
def test_state_replaced_from_outside_is_the_truth(make: Make) -> None:
    """Trainers move state with ``state[k] = v.to(device)``; the stacks must follow."""
    params = parameters((6, 4), (6, 4), (6, 4))
    optimizer = make(params)
    grads = gradients(params, 3)
    run(optimizer, params, grads[:1])
    for entry in optimizer.state.values():
        for key, value in entry.items():
            entry[key] = value.clone() if key == "step" else value * 0.5
    expected = copies(params)
    fresh = make(expected)
    fresh.load_state_dict(optimizer.state_dict())
    run(fresh, expected, grads[1:])
    run(optimizer, params, grads[1:])
    assert same_bits(params, expected)


def test_signatures_are_torchs() -> None:
    """Distributed checkpoint and trainers call by keyword."""
    for name in ("step", "load_state_dict", "state_dict", "add_param_group", "zero_grad"):
        ours = inspect.signature(getattr(stiefel.Optimizer, name))
        theirs = inspect.signature(getattr(torch.optim.AdamW, name))
        assert list(ours.parameters) == list(theirs.parameters), name


@makes
def test_distributed_checkpoint_round_trip(make: Make) -> None:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def build() -> tuple[nn.Module, stiefel.Optimizer]:
        torch.manual_seed(1)
        model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3))).double()
        return model, make(list(model.parameters()))

    for flatten in (False, True):
        model, optimizer = build()
        params = list(model.parameters())
        grads = gradients(params, 4)
        run(optimizer, params, grads[:2])
        before, state = copies(params), state_of(optimizer)
        options = StateDictOptions(flatten_optimizer_state_dict=flatten)
        saved = get_optimizer_state_dict(model, optimizer, options=options)
        assert same_bits(params, before) and same_bits(state_of(optimizer), state)

        other_model, other = build()
        other_model.load_state_dict(model.state_dict())
        set_optimizer_state_dict(other_model, other, copy.deepcopy(saved), options=options)
        others = list(other_model.parameters())
        run(optimizer, params, grads[2:])
        run(other, others, grads[2:])
        assert same_bits(params, others)


# -- torch's own suite -----------------------------------------------------------------------------


def test_torchs_own_error_inputs() -> None:
    """The malformed parameter lists that torch's suite feeds to every optimiser."""
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    for case in common.get_error_inputs_for_all_optims("cpu", torch.float32):
        given = case.optimizer_error_input
        if case.error_on is not common.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            continue
        warns = issubclass(case.error_type, Warning)
        with pytest.warns(case.error_type) if warns else pytest.raises(case.error_type):
            stiefel.AdamW(given.params, **given.kwargs)


def test_torchs_own_adamw_configurations() -> None:
    """Every keyword set that torch tests its AdamW with, as far as it means something here."""
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    tried = 0
    for case in common.optim_inputs_func_adamw("cpu", torch.float32):
        if set(case.kwargs) - {"lr", "betas", "eps", "weight_decay", "maximize"}:
            continue  # amsgrad, capturable, foreach, ...: torch's switches
        params = parameters(*SHAPES, dtype=torch.float32)
        theirs, grads = copies(params), gradients(params)
        run(torch.optim.AdamW(theirs, **case.kwargs), theirs, grads)
        run(stiefel.AdamW(params, **case.kwargs), params, grads)
        assert_close(params, theirs, 1e-6)
        tried += 1
    assert tried >= 4
