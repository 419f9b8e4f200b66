"""What every test of the linear algebra finds."""

from collections.abc import Iterator

import pytest

from stiefel.linalg.methods import newton_schulz


@pytest.fixture(scope="module", autouse=True)
def no_matrix_is_small() -> Iterator[None]:
    """Methods treat the tests' little matrices as they treat large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newton_schulz, "ROWS", 0)
        yield
