"""How a benchmark puts its results into a page of the docs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["insert", "marks"]


def marks(name: str) -> tuple[str, str]:
    """The lines of a page between which a result stands."""
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def insert(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of that name, in the place of what stands there.

    Raises:
        ValueError: a page without both marks, each once and on a line of its own.
    """
    whole, (start, end) = page.read_text(), marks(name)
    before, _, rest = whole.partition(start)
    _, closed, after = rest.partition(end)
    if not closed or whole.count(start) + whole.count(end) != 2:
        raise ValueError(
            f"{page} must have {start.strip()} and {end.strip()} once each, on lines of their own "
            "and in this order"
        )
    page.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}")
