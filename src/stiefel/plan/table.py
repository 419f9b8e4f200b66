"""A plan in print: repeated layers in one line, in the width of the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import TypeAlias

from stiefel.plan.entry import Entry

__all__ = ["render", "shortened"]

Row: TypeAlias = tuple[str, ...]

TITLES: Row = ("parameter", "shape", "role", "recipe", "view", "reason")
GAP = "  "
INDENT = 4
NARROWEST_REASON = 16
# A part of a name that is a layer's number.
NUMBER = r"(?:(?<=\.)|^)\d+(?=\.|$)"


def render(entries: Sequence[Entry], width: int) -> str:
    """The table of ``entries``, ``width`` columns wide."""
    rows = [TITLES, *(_row(name, first) for name, first in _collapsed(entries))]
    names, *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = width - sum(widths) - len(GAP) * len(widths)
    margin = max(INDENT, min(names + len(GAP), room - NARROWEST_REASON))
    widths.append(max(room - margin, NARROWEST_REASON))
    return "\n".join(line for row in rows for line in _lines(row, margin, widths))


def shortened(entries: Iterable[Entry]) -> str:
    """The names of ``entries``, repeated layers in one."""
    return ", ".join(name for name, _ in _collapsed(entries))


# -- repeated layers -------------------------------------------------------------------------------


def _collapsed(entries: Iterable[Entry]) -> Iterator[tuple[str, Entry]]:
    """Name and first member of every set of entries that differ in layer numbers alone."""
    alike: dict[Row, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(_row(re.sub(NUMBER, "*", entry.name), entry), []).append(entry)
    for members in alike.values():
        count = f"  x{len(members)}" if len(members) > 1 else ""
        yield _layers(members) + count, members[0]


def _layers(members: Sequence[Entry]) -> str:
    """The common name with all numbers: ``h.{0..11}.mlp.weight``."""
    numbers = [re.findall(NUMBER, entry.name) for entry in members]
    spans = iter([_span(set(map(int, column))) for column in zip(*numbers, strict=True)])
    return re.sub(NUMBER, lambda _: next(spans), members[0].name)


def _span(numbers: set[int]) -> str:
    """``3``, ``{0..11}``, or ``{0,2,5}`` where numbers are missing."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    dense = len(numbers) == high - low + 1 and len(numbers) > 2
    return f"{{{low}..{high}}}" if dense else f"{{{','.join(map(str, sorted(numbers)))}}}"


# -- lines -----------------------------------------------------------------------------------------


def _row(name: str, entry: Entry) -> Row:
    return (
        name,
        "x".join(map(str, entry.shape)),
        entry.role,
        "frozen" if entry.frozen else entry.recipe.name,
        entry.view.name if entry.view else "-",
        entry.reason,
    )


def _lines(row: Row, margin: int, widths: Sequence[int]) -> Iterator[str]:
    """One line; one more for a name wider than the margin, and more for a long reason."""
    name, *cells, reason = row
    if len(name) + len(GAP) > margin:
        yield name
        name = ""
    first, *more = wrap(reason, widths[-1], break_on_hyphens=False)
    padded = (cell.ljust(width) for cell, width in zip([*cells, first], widths, strict=True))
    yield name.ljust(margin) + GAP.join(padded).rstrip()
    before = margin + sum(widths[:-1]) + len(GAP) * len(cells)
    yield from (" " * before + line for line in more)
