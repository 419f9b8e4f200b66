"""In one run with torch.optim.Muon and AdamW, and the six-number vectors of the specification."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import stiefel
from tests.helpers import assert_close, copies, gradients, parameters, run

SHAPES = ((48, 32), (32, 48), (32, 32), (32, 32))
torch_muon = pytest.importorskip("torch.optim._muon")


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_muon_in_the_same_precision(
    rule: str, nesterov: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch iterates in bfloat16 whatever it is given; here both do in the parameters' dtype."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())
    module = importlib.import_module("stiefel.linalg.polar")  # stiefel.linalg.polar is the function
    monkeypatch.setattr(module, "_product_dtype", lambda method, given: given)
    params = parameters(*SHAPES, dtype=dtype)
    theirs, grads = copies(params), gradients(params, 5)
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "nesterov": nesterov}
    run(torch.optim.Muon(theirs, adjust_lr_fn=rule, **options), theirs, grads)
    run(stiefel.Muon(params, polar="jordan", scale=rule, **options), params, grads)
    # torch adds nothing to a norm above 1e-7, so only rounding is left
    assert_close(params, theirs, 1e-5 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw"])
def test_muon_in_bfloat16(rule: str) -> None:
    """As shipped, both in bfloat16. The updates differ by its rounding, a few in a hundred."""
    params = parameters(*SHAPES, dtype=torch.float32)
    start, theirs, grads = copies(params), copies(params), gradients(params, 5)
    run(torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn=rule), theirs, grads)
    run(stiefel.Muon(params, lr=0.02, polar="jordan", scale=rule), params, grads)
    moved = [p.detach() - s.detach() for p, s in zip(params, start, strict=True)]
    assert_close(moved, [p.detach() - s.detach() for p, s in zip(theirs, start, strict=True)], 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw(dtype: torch.dtype) -> None:
    params = parameters(*SHAPES, (7,), (), dtype=dtype)
    theirs, grads = copies(params), gradients(params, 20)
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "betas": (0.8, 0.95)}
    run(torch.optim.AdamW(theirs, **options), theirs, grads)
    run(stiefel.AdamW(params, **options), params, grads)
    assert_close(params, theirs, 1e-6 if dtype is torch.float32 else 1e-13)


VECTORS = {
    "jordan": (
        {"lr": 0.02, "weight_decay": 0.0, "polar": "jordan", "scale": "original"},
        [0.4673518280, -0.2322646129, 0.0999700382, 0.3625988568, -0.3098170644, 0.6074869561],
        2e-7,  # the vector's normalisation adds 1e-7 to the norm
    ),
    "exact": (
        {"lr": 0.02, "weight_decay": 0.0, "polar": "exact", "scale": "original"},
        [0.4714333735, -0.2395461727, 0.0971569189, 0.3585063635, -0.3133413576, 0.6123229759],
        1e-10,
    ),
    "moonlight": (
        {"lr": 1e-3, "weight_decay": 0.1, "polar": "jordan"},
        [0.4993883628, -0.2003962569, 0.0999695298, 0.3993511290, -0.3000488335, 0.5999258760],
        2e-10,
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_six_numbers(name: str) -> None:
    options, expected, tolerance = VECTORS[name]
    W = torch.tensor([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.6]], dtype=torch.float64)
    grads = [
        [[1, 2], [-1, 0.5], [0.3, -0.7]],
        [[0.2, -1], [0.8, 1.5], [-0.4, 0.1]],
        [[-0.6, 0.9], [1.1, -0.2], [0.7, 0.35]],
    ]
    W.requires_grad_()
    run(stiefel.Muon([W], **options), [W], [[torch.tensor(g, dtype=W.dtype)] for g in grads])
    wanted = torch.tensor(expected, dtype=torch.float64).reshape(3, 2)
    torch.testing.assert_close(W.detach(), wanted, rtol=0, atol=tolerance)
