"""The engine: one torch.optim.Optimizer that runs any recipe."""

from stiefel.engine.effective import EffectiveStep
from stiefel.engine.optimizer import Optimizer

__all__ = ["EffectiveStep", "Optimizer"]
