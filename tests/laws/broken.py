"""Pieces that each break one law, to show that the law can fail."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.piece import ENTRY, MATRIX, Live, Now, Scope, State, zeros

HIDDEN: dict[int, Tensor] = {}


@dataclass(frozen=True)
class Broken:
    scope: ClassVar[Scope] = MATRIX

    def init(self, like: Tensor) -> State:
        return {}


class MixesTheStack(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x / x.norm()


class Saturates(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x.tanh()


class NormalisesRows(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)


class TakesSigns(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x.sign()


class WritesToItsInput(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x.mul_(2)


class Narrows(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x.half()


class ReadsANumber(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x / float(x.norm())


class RollsDice(Broken):
    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x * torch.rand_like(x)


class RenamesItsState(Broken):
    def init(self, like: Tensor) -> State:
        return {f"m{time.perf_counter_ns()}": zeros(like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x


class HidesItsState(Broken):
    """Remembers outside the state, under the address of the weight."""

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        key = now.weight.data_ptr()
        HIDDEN[key] = HIDDEN.get(key, torch.zeros_like(x)) + x
        return HIDDEN[key]


@dataclass(frozen=True)
class BranchesOnANumber:
    """Decides in Python by a number that a scheduler may change."""

    beta: Live
    scope: ClassVar[Scope] = ENTRY

    def init(self, like: Tensor) -> State:
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        return x * 2 if now.lr > 0.03 else x
