"""How much of a model its matrix recipes step, and when that is suspiciously little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from stiefel.plan.entry import Entry
from stiefel.roles import Role

__all__ = ["coverage", "entry_count", "low_coverage"]

LOW: Final = 0.5


def entry_count(entries: Iterable[Entry]) -> int:
    """How many numbers the parameters hold."""
    return sum(entry.parameter.numel() for entry in entries)


def coverage(entries: Sequence[Entry]) -> float:
    """Share of the trainable numbers that matrix recipes step; of nothing it is 0."""
    trained = [entry for entry in entries if not entry.frozen]
    total = entry_count(trained)
    return entry_count(e for e in trained if e.by_matrix) / total if total else 0.0


def low_coverage(entries: Sequence[Entry]) -> str:
    """A warning when matrix recipes step less than half of the inner parameters; else empty.

    Embedding and head do not count: in a small model they may well be the larger part.
    """
    inner = [e for e in entries if e.role not in (Role.EMBEDDING, Role.HEAD) and not e.frozen]
    share = coverage(inner)
    if share >= LOW:
        return ""
    rest = max(
        (e for e in inner if not e.by_matrix), key=lambda e: e.parameter.numel(), default=None
    )
    largest = f" (the largest other is {rest.name!r}: {rest.reason})" if rest else ""
    return (
        f"matrix recipes step only {share:.2%} of the parameters between embedding and head"
        f"{largest}: print the plan, and say what the others are with roles="
    )
