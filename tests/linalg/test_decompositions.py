"""The ladder of factorisations: who falls is caught, who stands is not touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.linalg import LinAlgError

from stiefel.errors import ConvergenceError
from stiefel.linalg import decompositions as ours

# Every factorisation by its name here and in torch.linalg, and what undoes it.
Rebuild = Callable[[tuple[Tensor, ...]], Tensor]
FACTORISATIONS: dict[str, Rebuild | None] = {
    "svd": lambda f: f[0] @ torch.diag_embed(f[1]) @ f[2],
    "eigh": lambda f: f[1] @ torch.diag_embed(f[0]) @ f[1].mT,
    "svdvals": None,
    "eigvalsh": None,
}
names = pytest.mark.parametrize("name", FACTORISATIONS)
LAST_RUNG = 3


def factors(result: object) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)  # type: ignore[arg-type]


def stack_for(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    X = torch.randn(4, 6, 6 if name.startswith("eig") else 9, dtype=dtype)
    return X + X.mT if name.startswith("eig") else X


class Stubborn:
    """torch's factorisation, refusing stacks that hold ``cursed`` and its first ``times`` trials.

    A disturbed matrix counts as cursed too: it is what it is but for a few roundings.
    """

    def __init__(self, true: Callable[..., object], cursed: Tensor, times: int) -> None:
        self.true, self.cursed, self.left = true, cursed.double(), times
        self.trials: list[Tensor] = []

    def __call__(self, X: Tensor, **options: object) -> object:
        distance = (X.double() - self.cursed).abs().amax((-2, -1))
        if X.ndim == 3 and bool((distance < 1e-4).any()):
            raise LinAlgError("the stack holds a stubborn matrix")
        if X.ndim == 2 and bool(distance < 1e-4):
            self.trials.append(X.clone())
            if self.left:
                self.left -= 1
                raise LinAlgError("a stubborn matrix")
        return self.true(X, **options)


@pytest.fixture
def curse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Tensor, int], Stubborn]:
    def put(name: str, cursed: Tensor, times: int) -> Stubborn:
        stubborn = Stubborn(getattr(torch.linalg, name), cursed, times)
        monkeypatch.setattr(torch.linalg, name, stubborn)
        return stubborn

    return put


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_failure_it_is_torch(name: str, dtype: torch.dtype, device: str) -> None:
    X = stack_for(name, dtype).to(device)
    options = {"full_matrices": False} if name == "svd" else {}
    expected = factors(getattr(torch.linalg, name)(X, **options))
    assert all(map(torch.equal, factors(getattr(ours, name)(X)), expected))


@names
@pytest.mark.parametrize("failures", range(LAST_RUNG))
def test_the_fallen_is_caught_and_the_others_stand(
    name: str, failures: int, curse: Callable[[str, Tensor, int], Stubborn]
) -> None:
    X = stack_for(name)
    healthy = factors(getattr(ours, name)(X))
    stubborn = curse(name, X[2], failures)
    caught = factors(getattr(ours, name)(X))
    others = torch.tensor([0, 1, 3])
    for ours_, expected in zip(caught, healthy, strict=True):
        assert ours_.dtype == X.dtype and ours_.shape == expected.shape
        assert torch.equal(ours_[others], expected[others])
    rebuild = FACTORISATIONS[name]
    if rebuild:
        torch.testing.assert_close(rebuild(caught)[2], X[2], rtol=0, atol=2e-5)
    else:
        torch.testing.assert_close(caught[0][2], healthy[0][2], rtol=0, atol=2e-5)
    assert len(stubborn.trials) == failures + 1


@names
def test_the_rungs(name: str, curse: Callable[[str, Tensor, int], Stubborn]) -> None:
    """As asked, in float64, disturbed by a few roundings and still symmetric; then by name."""
    X = stack_for(name)
    stubborn = curse(name, X[2], LAST_RUNG)
    with pytest.raises(
        ConvergenceError, match=rf"^{name} of a finite 6 x \d matrix failed in .*32"
    ):
        getattr(ours, name)(X)
    asked, wide, disturbed = stubborn.trials
    assert torch.equal(asked, X[2]) and torch.equal(wide, X[2].double())
    noise = disturbed - wide
    assert asked.dtype == torch.float32 and wide.dtype == disturbed.dtype == torch.float64
    size = float(noise.abs().max() / X[2].abs().max()) / torch.finfo(torch.float32).eps
    assert 1 <= size <= 8 and not noise[~torch.eye(*X.shape[1:], dtype=torch.bool)].any()


@names
def test_input_untouched(name: str, curse: Callable[[str, Tensor, int], Stubborn]) -> None:
    X = stack_for(name, torch.float64)  # whose float64 copy is the matrix itself
    before = X.clone()
    curse(name, X[0], LAST_RUNG - 1)
    getattr(ours, name)(X)
    assert torch.equal(X, before)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_significant_counts_the_rank(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    m, n = shape
    X = torch.randn(6, m, rank, dtype=dtype) @ torch.randn(6, rank, n, dtype=dtype)
    count = ours.significant(ours.svdvals(X), X.shape).sum(-1)
    assert torch.equal(count, torch.linalg.matrix_rank(X)) and bool((count == rank).all())


def test_significant_is_the_rule_of_matrix_rank() -> None:
    for factor in (0.5, 0.99, 1.01, 2.0):
        S = torch.tensor([3.0, 3.0 * factor * 9 * torch.finfo(torch.float64).eps]).double()
        for shape in [(9, 2), (2, 9)]:
            X = torch.zeros(shape, dtype=torch.float64)
            X[0, 0], X[1, 1] = S
            assert int(ours.significant(S, X.shape).sum()) == int(torch.linalg.matrix_rank(X))
