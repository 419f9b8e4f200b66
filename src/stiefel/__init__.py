"""Train, fine-tune and measure neural-network weight matrices as matrices.

opt = stiefel.optimizer(model, "muon", lr=3e-4)   # one optimiser for every parameter
print(stiefel.plan(model, "muon"))                # which parameter gets what, and why
"""

from stiefel import errors, linalg, views
from stiefel.api import optimizer
from stiefel.classes import AdamW, Muon
from stiefel.engine import EffectiveStep, Optimizer
from stiefel.errors import StiefelError
from stiefel.pieces import convert_lr
from stiefel.plan import Entry, Plan, plan
from stiefel.recipe import Recipe
from stiefel.recipes import adamw, muon
from stiefel.roles import Role

__version__ = "0.1.0"

__all__ = [
    "AdamW",
    "EffectiveStep",
    "Entry",
    "Muon",
    "Optimizer",
    "Plan",
    "Recipe",
    "Role",
    "StiefelError",
    "adamw",
    "convert_lr",
    "errors",
    "linalg",
    "muon",
    "optimizer",
    "plan",
    "views",
]
