"""How many steps a recipe takes to the polar factor, and which."""

from __future__ import annotations

import torch

import stiefel
from tests.helpers import assert_close, copies, gradients, parameters, run


def test_a_method_with_a_table_for_small_matrices_chooses_by_itself() -> None:
    """Unless a number of steps is given, which then is one of the group's numbers."""
    params = parameters((6, 9), (12, 5))
    grads = gradients(params)
    weights = {}
    for name, options in {
        "fast": {"polar": "fast"},
        "express": {"polar": "polar_express"},
        "two steps": {"polar": "fast", "ns_steps": 2},
    }.items():
        mine = copies(params)
        optimizer = stiefel.Muon(mine, lr=0.1, **options)
        assert optimizer.param_groups[0].get("ns_steps") == {"express": 5, "two steps": 2}.get(name)
        weights[name] = run(optimizer, mine, grads)
    assert_close(weights["fast"], weights["express"], 0.0)
    assert not torch.allclose(weights["fast"][0], weights["two steps"][0], atol=1e-3)
