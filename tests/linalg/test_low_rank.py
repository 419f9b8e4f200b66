"""Sketches, truncated decompositions and the low-rank polar factor: theorems and float64 twins."""

import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.low_rank import (
    _polar_within,
    _subspace,
    gaussian,
    polar_low_rank,
    range_finder,
    truncated_svd,
)
from tests.linalg.spectra import with_values

methods = pytest.mark.parametrize("method", ["exact", "randomised"])
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
shapes = pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (3, 4, 9), (2, 3, 9, 4)]
)


def product(factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    U, S, Vh = factors
    return U @ torch.diag_embed(S) @ Vh


# Every function as a map of a stack, with its degree, for the laws they share. (Of a basis what it
# is: the projector, which hangs on no sign.)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "basis": (lambda X: (Q := range_finder(X, 1, oversampling=1)) @ Q.mT, 0),
    "exact": (lambda X: product(truncated_svd(X, 1)), 1),
    "randomised": (lambda X: product(truncated_svd(X, 1, method="randomised", oversampling=1)), 1),
    "polar": (lambda X: polar_low_rank(X, 1, oversampling=1), 0),
}
functions = pytest.mark.parametrize(
    ("function", "degree"), [pytest.param(*pair, id=name) for name, pair in FUNCTIONS.items()]
)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def of_rank(rank: int, *shape: int) -> Tensor:
    *batch, m, n = shape
    return random(*batch, m, rank, seed=1) @ random(*batch, rank, n, seed=2)


def defect(Q: Tensor) -> float:
    """How far the columns are from orthonormal."""
    Q = Q.double()
    return float((Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)).abs().max())


def textbook_polar(X: Tensor) -> Tensor:
    U, S, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    return U @ torch.diag_embed((1e-12 * S[..., :1] < S).double()) @ Vh


# The sketch


def test_gaussian_is_splitmix64_through_the_normal_quantile() -> None:
    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the published generator's first output
    for seed in (0, 1, 12345, -3):
        bits = [mix((mix(i) + seed) % 2**64) for i in range(1, 13)]
        column = [NormalDist().inv_cdf(((z >> 11) + 0.5) * 2.0**-53) for z in bits]
        expected = torch.tensor(column, dtype=torch.float64).reshape(3, 4).T
        torch.testing.assert_close(
            gaussian(4, 3, expected, seed=seed), expected, rtol=1e-12, atol=1e-12
        )


def test_gaussian_is_gaussian() -> None:
    """Kolmogorov's distance, and no correlation of columns or of seeds."""
    one = torch.empty((), dtype=torch.float64)
    sketches = torch.stack([gaussian(2000, 5, one, seed=seed) for seed in range(4)])
    flat = sketches.flatten().sort().values
    uniform = torch.special.ndtr(flat)
    distance = (uniform - (torch.arange(len(flat)) + 0.5) / len(flat)).abs().max()
    assert float(distance) * math.sqrt(len(flat)) < 2.0  # which chance exceeds once in 1500
    columns = sketches.mT.reshape(20, 2000)
    correlation = torch.corrcoef(columns) - torch.eye(20, dtype=torch.float64)
    assert float(correlation.abs().max()) * math.sqrt(2000) < 5  # standard deviations


@dtypes
def test_gaussian_is_one_everywhere(dtype: torch.dtype, device: str) -> None:
    state = torch.get_rng_state()
    like = torch.empty((), dtype=dtype, device=device)
    wide = gaussian(7, 5, torch.empty((), dtype=torch.float64))
    ours = gaussian(7, 5, like)
    assert ours.dtype == dtype and ours.device.type == device
    torch.testing.assert_close(ours.cpu(), wide.to(dtype), rtol=0, atol=torch.finfo(dtype).eps * 4)
    assert torch.equal(gaussian(7, 3, like), ours[:, :3])
    assert torch.equal(gaussian(7, 5, like, seed=torch.tensor(9.0)), gaussian(7, 5, like, seed=9))
    assert torch.equal(torch.get_rng_state(), state)


# The range


@dtypes
@shapes
@pytest.mark.parametrize("rank", [1, 3])
def test_basis_is_orthonormal(
    shape: tuple[int, ...], dtype: torch.dtype, rank: int, device: str
) -> None:
    m, n = shape[-2:]
    rank = min(rank, m, n)
    for X in (random(*shape), of_rank(1, *shape), torch.zeros(shape)):
        Q = range_finder(X.to(dtype).to(device), rank, oversampling=2)
        assert Q.shape == (*shape[:-1], min(rank + 2, m, n))
        assert Q.dtype == dtype and Q.device.type == device
        assert defect(Q) < TOLERANCE[dtype]


@pytest.mark.parametrize("power", [0, 1, 3])
@pytest.mark.parametrize(("m", "n"), [(12, 8), (8, 12)])
def test_basis_is_that_of_the_powers(m: int, n: int, power: int) -> None:
    """The projector on ``(X X^T)^q X Omega``, on a spectrum that float64 carries to the power."""
    X = with_values(torch.linspace(1, 0.5, 8, dtype=torch.float64), m, n)
    Y = torch.linalg.matrix_power(X @ X.mT, power) @ X @ gaussian(n, 5, X, seed=4)
    Q = range_finder(X, 3, oversampling=2, power=power, seed=4)
    torch.testing.assert_close(Q @ Q.mT, Y @ torch.linalg.pinv(Y), rtol=0, atol=1e-10)


def test_small_directions_survive_the_power_steps() -> None:
    """Of the smallest one the bare power would leave 1e-84."""
    X = with_values(torch.logspace(0, -12, 8, dtype=torch.float64), 20, 30)
    Q = range_finder(X, 8, oversampling=0, power=3)
    assert float((X - Q @ (Q.mT @ X)).norm()) < 1e-14


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    rank=st.integers(1, 4),
    power=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_basis_holds_a_matrix_of_that_rank(
    m: int, n: int, rank: int, power: int, seed: int
) -> None:
    rank = min(rank, m, n)
    X = of_rank(rank, m, n)
    Q = range_finder(X, rank, oversampling=0, power=power, seed=seed)
    torch.testing.assert_close(Q @ (Q.mT @ X), X, rtol=0, atol=1e-9 * float(X.norm()))


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_mean_error_obeys_the_theorem(decay: float) -> None:
    """Theorem 10.5 of Halko, Martinsson & Tropp for no power step; each step only helps."""
    rank, extra = 4, 3
    S = torch.arange(1, 16, dtype=torch.float64) ** -decay
    X = with_values(S, 20, 15)

    def error(power: int) -> Tensor:
        errors = []
        for seed in range(40):
            Q = range_finder(X, rank, oversampling=extra, power=power, seed=seed)
            errors.append((X - Q @ (Q.mT @ X)).norm())
        return torch.stack(errors)

    bound = math.sqrt(1 + rank / (extra - 1)) * float(S[rank:].norm())
    plain = error(0)
    assert float(plain.mean() + 3 * plain.std() / math.sqrt(40)) < bound
    assert float(plain.std()) > 0 or decay == 0.0  # the seed counts
    if decay:
        assert plain.mean() > error(1).mean() > error(2).mean()


# The truncated decomposition


@methods
@dtypes
@shapes
def test_factors(method: str, dtype: torch.dtype, shape: tuple[int, ...], device: str) -> None:
    m, n = shape[-2:]
    X = random(*shape).to(dtype).to(device)
    for rank in range(min(m, n) + 1):
        U, S, Vh = truncated_svd(X, rank, method=method)
        assert U.shape == (*shape[:-1], rank) and Vh.shape == (*shape[:-2], rank, n)
        assert S.shape == (*shape[:-2], rank) and {U.dtype, S.dtype, Vh.dtype} == {dtype}
        # So few columns that ten spare ones are all of them: the randomised form is exact too.
        torch.testing.assert_close(
            S.double(),
            torch.linalg.svdvals(X.double())[..., :rank],
            rtol=TOLERANCE[dtype],
            atol=TOLERANCE[dtype],
        )
        if rank:
            assert max(defect(U), defect(Vh.mT)) < TOLERANCE[dtype]


@pytest.mark.parametrize(("m", "n"), [(6, 10), (10, 6), (8, 8)])
def test_eckart_young(m: int, n: int) -> None:
    """The error is the tail of the spectrum in both norms, and nothing of that rank does better."""
    X = random(m, n)
    S = torch.linalg.svdvals(X)
    for rank in range(1, 6):
        best = X - product(truncated_svd(X, rank))
        assert float(torch.linalg.matrix_norm(best, 2)) == pytest.approx(float(S[rank]))
        assert float(best.norm()) == pytest.approx(float(S[rank:].norm()))
        for seed in range(5):
            U, Z, Vh = truncated_svd(
                X, rank, method="randomised", oversampling=1, power=0, seed=seed
            )
            assert (X - product((U, Z, Vh))).norm() >= best.norm() * (1 - 1e-12)
            assert bool((S[:rank] * (1 + 1e-12) >= Z).all())  # interlacing


def test_randomised_is_that_of_the_projection() -> None:
    X = random(3, 30, 40)
    Q = range_finder(X, 4, oversampling=2, power=1, seed=5)
    U, S, Vh = torch.linalg.svd(Q @ Q.mT @ X, full_matrices=False)
    expected = product((U[..., :4], S[..., :4], Vh[:, :4]))
    ours = truncated_svd(X, 4, method="randomised", oversampling=2, power=1, seed=5)
    torch.testing.assert_close(product(ours), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.S, S[..., :4], rtol=1e-12, atol=0)


def test_randomised_defaults_find_a_decaying_spectrum() -> None:
    """Half a per cent of the optimum where the spectrum falls like 1/i, far from all columns."""
    X = with_values(1 / torch.arange(1, 61, dtype=torch.float64), 80, 60)
    best = float((X - product(truncated_svd(X, 8))).norm())
    for seed in range(5):
        ours = truncated_svd(X, 8, method="randomised", seed=seed)
        assert best <= float((X - product(ours)).norm()) < 1.005 * best


# The polar factor


@shapes
@dtypes
@pytest.mark.parametrize("rank", [1, 2, 50])
def test_singular_values_are_zero_and_one(
    shape: tuple[int, ...], dtype: torch.dtype, rank: int, device: str
) -> None:
    """As many ones as the sketch has columns, of a matrix of full rank."""
    ones = min(rank + 1, *shape[-2:])
    X = random(*shape).to(dtype).to(device)
    D = polar_low_rank(X, rank, oversampling=1)
    assert D.dtype == dtype and D.shape == X.shape and D.device == X.device
    S = torch.linalg.svdvals(D.double())
    expected = (torch.arange(S.shape[-1], device=device) < ones).double().expand(S.shape)
    torch.testing.assert_close(S, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("m", "n"), [(9, 14), (14, 9), (10, 10)])
@pytest.mark.parametrize("power", [0, 2])
def test_polar_of_the_projection(m: int, n: int, power: int) -> None:
    X = random(3, m, n)
    Q = range_finder(X, 3, oversampling=2, power=power, seed=1)
    D = polar_low_rank(X, 3, power=power, seed=1)
    torch.testing.assert_close(D, textbook_polar(Q @ Q.mT @ X), rtol=0, atol=1e-10)
    inner = (X * D).sum((-2, -1))
    torch.testing.assert_close(inner, torch.linalg.matrix_norm(Q @ Q.mT @ X, "nuc"))


@pytest.mark.parametrize(("m", "n"), [(9, 14), (14, 9), (10, 10)])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_polar_of_a_matrix_of_low_rank_is_exact(m: int, n: int, rank: int) -> None:
    """Also where the basis has more columns than the matrix has directions."""
    X = of_rank(rank, 3, m, n)
    D = polar_low_rank(X, 4)
    torch.testing.assert_close(D, textbook_polar(X), rtol=0, atol=1e-10)


def test_polar_with_all_columns_is_the_polar_factor() -> None:
    X = random(2, 6, 9)
    for rank in (4, 6, 1000):
        D = polar_low_rank(X, rank)
        torch.testing.assert_close(D, textbook_polar(X), rtol=0, atol=1e-11)


def test_the_published_method_step_by_step() -> None:
    """Three steps of Nesterov momentum with a given sketch and one power step: the test vector."""
    W = torch.tensor([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.6]], dtype=torch.float64)
    gradients = [
        [[1, 2], [-1, 0.5], [0.3, -0.7]],
        [[0.2, -1], [0.8, 1.5], [-0.4, 0.1]],
        [[-0.6, 0.9], [1.1, -0.2], [0.7, 0.35]],
    ]
    sketch = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    M = torch.zeros_like(W)
    for gradient in gradients:
        G = torch.tensor(gradient, dtype=torch.float64)
        M = 0.95 * M + G
        A = (G + 0.95 * M).unsqueeze(0)
        W = W - 0.02 * _polar_within(_subspace(A, sketch, power=1), A)[0]
    expected = [
        [0.4841139804, -0.2285271290],
        [0.0866855149, 0.3702846325],
        [-0.3014658200, 0.6012233309],
    ]
    torch.testing.assert_close(W, torch.tensor(expected, dtype=W.dtype), rtol=0, atol=6e-11)


# What they share


@functions
def test_batched_equals_one_at_a_time(
    function: Callable[[Tensor], Tensor], degree: int, device: str
) -> None:
    X = random(5, 8, 12).to(device)
    single = torch.stack([function(matrix) for matrix in X])
    torch.testing.assert_close(function(X), single, rtol=0, atol=1e-11)


@functions
@pytest.mark.parametrize("exponent", [-90, -60, 60, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_homogeneous(
    function: Callable[[Tensor], Tensor], degree: int, exponent: int, dtype: torch.dtype
) -> None:
    X = random(3, 4, 6).to(dtype)
    exponent = 8 * exponent if dtype is torch.float64 else exponent
    assert torch.equal(function(X * 2.0**exponent), function(X) * 2.0 ** (degree * exponent))


@functions
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_at_home_and_zero_is_no_nan(
    function: Callable[[Tensor], Tensor], degree: int, bad: float, device: str
) -> None:
    X = random(3, 8, 5).float().to(device)
    X[0] = 0
    alone = function(X)
    assert bool(alone.isfinite().all())
    X[1, 3, 3] = bad
    poisoned = function(X)
    assert bool(poisoned[1].isnan().all()) and torch.equal(poisoned[::2], alone[::2])


@functions
def test_strides_and_input(function: Callable[[Tensor], Tensor], degree: int) -> None:
    X = random(2, 10, 6).mT
    before = X.clone()
    torch.testing.assert_close(function(X), function(X.contiguous()), rtol=0, atol=1e-11)
    assert torch.equal(X, before)


@functions
@pytest.mark.parametrize("scale", [1e-42, 1e30])
def test_extreme_float32(function: Callable[[Tensor], Tensor], degree: int, scale: float) -> None:
    X = (random(4, 6) * scale).float()
    expected = function(X.double())
    size = scale**degree
    torch.testing.assert_close(
        function(X).double() / size, expected / size, rtol=0, atol=1e-5 + 1e-45 / scale * degree
    )


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    X = torch.empty(shape)
    rank = min(shape[-2:])
    assert polar_low_rank(X, 3).shape == shape
    assert range_finder(X, rank).shape == (*shape[:-1], rank)
    for method in ("exact", "randomised"):
        assert product(truncated_svd(X, rank, method=method)).shape == shape


def test_seed_may_be_a_tensor_in_a_compiled_graph() -> None:
    """A step number as the engine hands it to a compiled step: no break, no new graph."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def step(X: Tensor, seed: Tensor) -> Tensor:
        return polar_low_rank(X, 2, seed=seed)

    compiled = torch.compile(step, fullgraph=True, backend=count)
    X = random(2, 6, 9)
    results = [compiled(X, torch.tensor(float(seed))) for seed in range(3)]
    assert len(graphs) == 1
    for seed, result in enumerate(results):
        assert torch.equal(result, polar_low_rank(X, 2, seed=seed))
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: range_finder(X, 4), "rank=4: give a whole number of at least 0 and at most 3"),
        (lambda X: range_finder(X, -1), "rank=-1: .*at least 0 and at most 3"),
        (lambda X: truncated_svd(X, 4), "rank=4: .*at most 3, the smaller side"),
        (lambda X: truncated_svd(X, 1.5), "rank=1.5: give a whole number"),
        (lambda X: truncated_svd(X, 2, method="fast"), "'fast' is unknown.*exact, randomised"),
        (lambda X: range_finder(X, 2, oversampling=-1), "oversampling=-1: .*at least 0$"),
        (lambda X: polar_low_rank(X, 2, power=-1), "power=-1: .*at least 0$"),
        (lambda X: polar_low_rank(X, 0), "rank=0: .*at least 1$"),
        (lambda X: polar_low_rank(X[0, 0], 1), "a matrix has two dimensions"),
        (lambda X: range_finder(X.long(), 1), "dtype torch.int64"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        call(torch.ones(2, 3, 4))
