from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stiefel.bench.settings import Settings
from stiefel.bench.text import Text, read_text

TINY = Settings(lr=3e-3, steps=6, batch=2, context=16, layers=1, width=64)


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty short files, each with text of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:02}.txt").write_text(f"file {index:02} says {index * index}.\n" * 40)
    return folder


@pytest.fixture
def text(folder: Path) -> Text:
    return read_text(folder, TINY.context + 1)
