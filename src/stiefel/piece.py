"""The contract of a piece: a map of a stack of matrices, with its own named state.

A piece fills one slot of a `Recipe`. It is a frozen dataclass whose fields are data, and it maps a
stack `[b, m, n]` of gradients (or of what the previous slot made of them) to a stack of the same
shape. It knows nothing of parameters, process groups, compilation or checkpoints.

Three things make a piece:

* ``scope``: `ENTRY` when every output entry depends on the same entry of the inputs only (then
  tensors of any shape may be laid end to end, and shards suffice); `MATRIX` when it needs whole
  matrices.
* ``init(like)``: its state for a stack shaped like ``like``, every tensor with the leading
  dimension ``b``.
* ``__call__(x, state, now)``: the mathematics. It may update ``state`` in place; it never writes
  to ``x``.

Work that is not done at every step (an eigenbasis, a root) hangs on the recipe's clock: the `Live`
number ``refresh_every``. In a step in which the clock of some matrices is up, ``now.due`` holds the
slices of the stack where they lie, and a piece refreshes those, before or after its use as the
method has it. The first step is due for every matrix. Steps with something due always run eagerly,
so a refresh may look at numbers and walk a failure ladder; all other steps may be compiled.

Numbers that a user may want to schedule are not fields but `Live` numbers: the piece names them,
the engine reads their present value from the param group at each step, and the piece asks for it
with ``now(self.beta)``.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from stiefel.errors import HyperparameterError

__all__ = [
    "ENTRY",
    "FAULTS",
    "MATRIX",
    "REFRESH_EVERY",
    "Evaluated",
    "Live",
    "Now",
    "Piece",
    "Refreshed",
    "Scope",
    "State",
    "as_python",
    "bias_correction",
    "lerp",
    "lerp_",
    "lerp_square_",
    "live_numbers",
    "nested",
    "parts",
    "prefixed",
    "rows",
    "zeros",
]

State: TypeAlias = dict[str, Tensor]

# The name of the live number that is a recipe's clock: how many steps from refresh to refresh.
REFRESH_EVERY = "refresh_every"
# The name of the state `[b]` in which a piece counts the refreshes that failed.
FAULTS = "faults"


class Scope(enum.Enum):
    """How much of a tensor a piece must see at once."""

    ENTRY = "entry"
    MATRIX = "matrix"


ENTRY, MATRIX = Scope.ENTRY, Scope.MATRIX


def _is_number(x: object) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


# The range of a hyper-parameter, by name: (how an error states it, the test). A NaN fails them all.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "fraction": ("0 <= value < 1", lambda x: _is_number(x) and 0 <= x < 1),
    "betas": (
        "two values, each 0 <= value < 1",
        lambda x: (
            isinstance(x, (tuple, list))
            and len(x) == 2
            and all(_is_number(v) and 0 <= v < 1 for v in x)
        ),
    ),
    "nonnegative": ("0 <= value < inf", lambda x: _is_number(x) and 0 <= x < math.inf),
    "positive": ("0 < value < inf", lambda x: _is_number(x) and 0 < x < math.inf),
    "share": ("0 < value <= 1", lambda x: _is_number(x) and 0 < x <= 1),
    "count": (
        "a whole number >= 1",
        lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= 1,
    ),
    "flag": ("True or False", lambda x: isinstance(x, bool)),
}


def as_python(value: Any) -> Any:
    """NumPy's numbers as Python's, which alone `torch.load` lets in; anything else as it is."""
    if type(value) in (tuple, list):
        return type(value)(map(as_python, value))
    foreign = isinstance(value, numbers.Number) and hasattr(value, "item")
    return value.item() if foreign else value


@dataclass(frozen=True)
class Live:
    """A hyper-parameter by name: its default, its range, and its key in `param_groups`."""

    name: str
    default: Any
    rule: str = "nonnegative"

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", as_python(self.default))
        self.check(self.default)

    def check(self, value: Any) -> None:
        """Raise `HyperparameterError` unless ``value`` (or a one-element tensor) obeys the rule."""
        stated, holds = RULES[self.rule]
        plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not holds(plain):
            raise HyperparameterError(f"{self.name}={value!r} is out of range: give {stated}")

    def present(self, group: Mapping[str, Any]) -> Any:
        """Its value in a param group, checked; a whole number as a float where it is no count.

        A compiled step takes floats as inputs, and is compiled for whole numbers. Tensors are not
        looked at: that would wait for the device.

        Raises:
            HyperparameterError: it is out of its range, or somebody took it away.
        """
        if self.name not in group:
            raise HyperparameterError(f"{self.name} is missing in a param group: put it back")
        value = group[self.name]
        if isinstance(value, Tensor):
            return value
        self.check(value)
        stays = self.rule in ("count", "flag") or not isinstance(value, int)
        return as_python(value) if stays else float(value)

    def __repr__(self) -> str:
        """Only the name: a scheduler must not change a recipe's fingerprint."""
        return f"${self.name}"


@dataclass
class Now:
    """What a piece may ask about the present step.

    Attributes:
        numbers: present value of every hyper-parameter of the group.
        step: number of this step, counted from 1.
        weight: the stack of weights `[b, m, n]`, in the precision of the computation.
        lr: learning rate of the group.
        step_size: ``lr`` times the recipe's scale for matrices of this shape.
        due: slices of the stack whose clock is up; when there are any, ``step`` is an int.
        held: set by a piece whose first gradient only fills its state: the step ends there, and
            the weight stays. Such a piece takes one from ``step`` for those that come after it.
    """

    numbers: Mapping[str, Any]
    step: Any
    weight: Tensor
    lr: Any
    step_size: Any
    due: Sequence[slice] = ()
    held: bool = False

    def __call__(self, live: Live) -> Any:
        """The present value of a hyper-parameter."""
        return self.numbers[live.name]


@runtime_checkable
class Piece(Protocol):
    """What the engine needs from a piece. Implementations are frozen dataclasses."""

    @property
    def scope(self) -> Scope:
        """How much of a tensor it must see at once."""
        ...

    def init(self, like: Tensor) -> State:
        """State for a stack shaped, typed and placed like ``like`` `[b, m, n]`."""
        ...

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Map the stack ``x`` `[b, m, n]`; may update ``state`` in place, never ``x``."""
        ...


@runtime_checkable
class Evaluated(Protocol):
    """A piece of the last slot that knows better weights than those that are trained."""

    def evaluation(self, weight: Tensor, state: State, now: Now) -> Tensor:
        """The weights `[b, m, n]` to evaluate at, ``weight`` before the first step.

        Writes to nothing; ``now.step`` is the number of steps that were made.
        """
        ...


@runtime_checkable
class Refreshed(Protocol):
    """Something in a piece that knows what a refresh costs; of others it is ``m^3 + n^3``."""

    def refresh_cost(self, m: int, n: int) -> float:
        """Of one matrix `[m, n]`, in any unit: by it refreshes are spread over their period."""
        ...


def parts(whole: object) -> Iterator[object]:
    """Everything that a piece or recipe is made of, itself first, nested, in field order."""
    yield whole
    if isinstance(whole, tuple):
        inner: Iterable[object] = whole
    elif dataclasses.is_dataclass(whole) and not isinstance(whole, type):
        inner = (getattr(whole, field.name) for field in dataclasses.fields(whole))
    else:
        inner = ()
    for part in inner:
        yield from parts(part)


def live_numbers(part: object) -> Iterator[Live]:
    """Every `Live` number among the `parts`."""
    return (each for each in parts(part) if isinstance(each, Live))


def prefixed(prefix: str, state: State) -> State:
    """The state of a nested piece under the names that its holder keeps."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def nested(prefix: str, state: State) -> State:
    """What `prefixed` put there, under the names that the nested piece knows."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)
    }


def rows(state: State, some: slice) -> State:
    """The state of some matrices of the stack, as aliases."""
    return {name: tensor[some] for name, tensor in state.items()}


def zeros(like: Tensor) -> Tensor:
    """A zero stack shaped like ``like``, contiguous whatever the strides of ``like``."""
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


def bias_correction(beta: Any, step: Any) -> Any:
    """``1 - beta^t``: what an average with ``beta`` that began at zero has added up to of weights.

    In a compiled step, whose numbers are tensors, it is an operator of its own. Inductor would put
    the power into the loop over the entries, where it takes longer than everything else (measured:
    AdamW twice as long).
    """
    if isinstance(beta, Tensor) and isinstance(step, Tensor):
        return _one_minus_power(beta, step)
    return 1 - beta**step


@torch.library.custom_op("stiefel::one_minus_power", mutates_args=())
def _one_minus_power(base: Tensor, exponent: Tensor) -> Tensor:
    return 1 - base**exponent


@_one_minus_power.register_fake
def _(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.empty_like(base)


def lerp_(mean: Tensor, x: Tensor, weight: Any) -> Tensor:
    """``mean <- (1 - weight) mean + weight x`` in place, for a weight that is a number or 0-d.

    torch's own ``lerp_`` wants a tensor weight of the same dtype and device as ``mean``; a compiled
    step passes its numbers as 0-d float64 tensors on the CPU.
    """
    if isinstance(weight, Tensor):
        return mean.mul_(1 - weight).add_(x * weight)
    return mean.lerp_(x, weight)


def lerp_square_(mean: Tensor, x: Tensor, weight: Any) -> Tensor:
    """``mean <- (1 - weight) mean + weight x^2`` in place: `lerp_` without storing the square."""
    if isinstance(weight, Tensor):
        return lerp_(mean, x * x, weight)
    return mean.mul_(1 - weight).addcmul_(x, x, value=weight)


def lerp(x: Tensor, y: Tensor, weight: Any) -> Tensor:
    """``(1 - weight) x + weight y``, for a weight that is a number or 0-d."""
    if isinstance(weight, Tensor):
        return x * (1 - weight) + y * weight
    return torch.lerp(x, y, weight)
