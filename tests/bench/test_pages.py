"""What benchmarks put into the pages of the docs."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package
import pages

DOCS = Path(__file__).parents[2] / "docs"
START, END = pages.marks("race")
REGIONS = {
    "orthogonality.md": ("table", "routines"),
    "fidelity.md": ("results",),
    "optimizers.md": ("race", "step cpu-4x768", "step cpu-1x768", "step cpu-1x768-compiled"),
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_what_stands_between_the_marks_is_replaced(page: Path) -> None:
    page.write_text(f"before\n{START}old\n{END}after\n")
    for _ in range(2):
        pages.insert(page, "race", "new\n")
        assert page.read_text() == f"before\n{START}\nnew\n\n{END}after\n"


@pytest.mark.parametrize("text", ["", START, END + START, START * 2 + END, START + END * 2])
def test_a_page_without_marks_is_refused(page: Path, text: str) -> None:
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md must have <!-- race --> and"):
        pages.insert(page, "race", "new")
    assert page.read_text() == text


@pytest.mark.parametrize("name", REGIONS)
def test_the_pages_have_the_marks(name: str) -> None:
    text = (DOCS / name).read_text()
    assert all(text.count(mark) == 1 for region in REGIONS[name] for mark in pages.marks(region))
