"""The demo's task with every recipe: 200 steps at the default learning rate, and no divergence."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from stiefel.bench.settings import Settings
from stiefel.bench.text import read_text
from stiefel.bench.training import Run
from stiefel.recipes import REGISTRY, ROUTINGS

STEPS = 200
# A model at rest has a loss of ln 256 = 5.5; even plain SGD has learned something by then.
LEARNED = 4.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REGISTRY, *ROUTINGS])
def test_trains(name: str) -> None:
    settings = replace(Settings(optimizer=name, lr=1e-3, steps=STEPS), layers=1, width=128)
    run = Run(settings, read_text(None, settings.context + 1))
    losses = [event.training_loss for event in run]
    assert max(losses[20:]) < losses[0] + 0.5  # it never went up and away
    # An average over a thousand steps lags behind the weights that learn.
    reached = mean(losses[-20:]) if name == "averaged" else run.curve[-1].loss
    assert reached < LEARNED and run.optimizer.skipped_steps == 0
    assert run.curve[-1].loss < run.curve[0].loss
    assert run.optimizer.faults() == {}
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
