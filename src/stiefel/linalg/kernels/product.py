"""The Triton program of a symmetric product: half the tiles, each stored twice.

``C = X X^T`` or, for symmetric X, ``C = b X + c X X``, which is ``b X + c X X^T``: one program.
Only this file imports Triton, and only a launch imports this file.
"""

import triton
import triton.language as tl

__all__ = ["symmetric_product"]

# (BLOCK, DEPTH, warps, stages). 128 x 128 sums of 8 warps take half an H100's registers, so two
# programs share a processor; an A100 does that with 4 warps. 64 x 64 is for small matrices, which
# have too few larger tiles to go round. Registers as ptxas reports them; times not yet measured.
_CONFIGS = (
    (128, 64, 8, 3),
    (128, 64, 8, 4),
    (128, 64, 4, 3),
    (128, 32, 4, 4),
    (64, 64, 4, 4),
    (64, 32, 4, 4),
)
_BAND = 8


@triton.jit
def _triangle_row(p: tl.tensor) -> tl.tensor:
    """Row of entry ``p`` of a lower triangle that is numbered row by row: i(i+1)/2 <= p."""
    i = ((tl.sqrt(8.0 * p + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > p, i - 1, i)  # the root is rounded
    return tl.where((i + 1) * (i + 2) // 2 <= p, i + 1, i)


@triton.jit
def _lower_tile(p: tl.tensor, side: tl.tensor, BAND: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Row and column of tile ``p`` of a lower triangle of ``side`` rows of tiles.

    Programs that run together should read the same rows of X from the L2 cache. So tiles go in
    bands of BAND rows: column by column through the band's rectangle, then its triangle.
    """
    first = _triangle_row(p) // BAND * BAND
    height = tl.minimum(BAND, side - first)
    within = p - first * (first + 1) // 2
    beyond = tl.maximum(within - height * first, 0)
    i = _triangle_row(beyond)
    j = beyond - i * (i + 1) // 2
    in_rectangle = within < height * first
    row = first + tl.where(in_rectangle, within % height, i)
    column = tl.where(in_rectangle, within // height, first + j)
    return row, column


@triton.jit
def _products_of_rows(
    X: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    x_m: tl.tensor,
    x_n: tl.tensor,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    """Tile of X X^T: rows ``i`` against rows ``j``. Rows beyond the last wrap around."""
    k = tl.arange(0, DEPTH)
    left = X + (i % m).to(tl.int64)[:, None] * x_m + k[None, :] * x_n
    right = X + (j % m).to(tl.int64)[None, :] * x_m + k[:, None] * x_n
    product = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n, DEPTH):
        inside = k < n - start
        x = tl.load(left, mask=inside[None, :], other=0.0)
        y = tl.load(right, mask=inside[:, None], other=0.0)
        product = tl.dot(x, y, product, input_precision=PRECISION)
        left += DEPTH * x_n
        right += DEPTH * x_n
    return product


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": block, "DEPTH": depth, "BAND": _BAND}, warps, stages)
        for block, depth, warps, stages in _CONFIGS
    ],
    key=["m", "n", "x_n"],
)
@triton.jit
def symmetric_product(
    X: tl.tensor,
    C: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    x_batch: tl.tensor,
    x_m: tl.tensor,
    x_n: tl.tensor,
    POLYNOMIAL: tl.constexpr,
    PER_MATRIX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
) -> None:
    """One tile of C `[batch, m, m]`, contiguous, and its mirror image.

    X `[batch, m, n]` has the strides ``x_batch, x_m, x_n``. ``b`` and ``c`` are numbers, or with
    PER_MATRIX pointers to one of each per matrix; only a POLYNOMIAL reads them. A launch has
    ``batch`` times as many programs as there are tiles on and below the diagonal.
    """
    side = tl.cdiv(m, BLOCK)
    tiles = side * (side + 1) // 2
    matrix = tl.program_id(0) // tiles
    row, column = _lower_tile(tl.program_id(0) % tiles, side, BAND)
    local = tl.arange(0, BLOCK)
    i = row * BLOCK + local
    j = column * BLOCK + local
    X += matrix.to(tl.int64) * x_batch
    C += matrix.to(tl.int64) * m * m
    result = _products_of_rows(X, i, j, m, n, x_m, x_n, PRECISION, BLOCK, DEPTH)

    # Offsets of tiles in 64 bits, as m n may pass 2^31; offsets within them in 32, for registers.
    top = (row * BLOCK).to(tl.int64)
    edge = (column * BLOCK).to(tl.int64)
    stored = (i < m)[:, None] & (j < m)[None, :]
    if POLYNOMIAL:
        if PER_MATRIX:
            b = tl.load(b + matrix)
            c = tl.load(c + matrix)
        tile = X + top * x_m + edge * x_n
        x = tl.load(tile + local[:, None] * x_m + local[None, :] * x_n, mask=stored, other=0.0)
        result = b * x.to(tl.float32) + c * result
    # A tile on the diagonal is its own image: its sums run over k in one order on both sides.
    narrow = result.to(C.dtype.element_ty)
    tl.store(C + top * m + edge + local[:, None] * m + local[None, :], narrow, mask=stored)
    tl.store(C + edge * m + top + local[:, None] + local[None, :] * m, narrow, mask=stored)
