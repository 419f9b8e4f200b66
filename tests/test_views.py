"""A view is there-and-back exact, and its blocks are the matrices that the layer computes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stiefel import views
from stiefel.errors import ViewError

SIZES = st.integers(1, 5)


@st.composite
def cases(draw: Any) -> tuple[views.ViewRule, tuple[int, ...]]:
    a, b, c, d = (draw(SIZES) for _ in range(4))
    flag, side = draw(st.booleans()), draw(st.sampled_from(["rows", "cols"]))
    fused = (c * (a * b + 2 * b), d) if side == "rows" else (d, c * (a * b + 2 * b))
    pair = (2 * c, d) if side == "rows" else (d, 2 * c)
    headed = (a * c, d) if side == "rows" else (d, a * c)
    per_head = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                (views.entries, (a, b, c)),
                (views.matrix, (a, b)),
                (views.transposed, (a, b)),
                (views.transposed, (a, b, c)),
                (views.stack, (a, b, c)),
                (views.stack, (a, b, c, d)),
                (views.conv(), (a, b, c, d)),
                (views.conv(a), (a * b, c, d)),
                (views.conv_transpose(), (a, b, c)),
                (views.conv_transpose(a), (a * b, c, d, 2)),
                (views.heads(a, side=side), headed),
                (views.qkv(a * b, b, per_head=per_head, interleaved=flag, stored=side), fused),
                (views.gate_up(interleaved=flag, stored=side), pair),
                (views.gate_up(interleaved=flag, stored=side), (a, *pair)),
                (views.chunks("i", "f", "g", "o"), (4 * a, b)),
            ]
        )
    )


@given(cases(), st.booleans())
def test_there_and_back(case: tuple[views.ViewRule, tuple[int, ...]], strided: bool) -> None:
    rule, shape = case
    tensor = torch.randn(shape)
    if strided:  # a view must not care how its tensor lies in memory
        tensor = torch.randn(*shape, 2)[..., 0]
    view = rule(shape)
    blocks = view.split(tensor)
    assert [tuple(b.shape) for b in blocks] == [(*b.batch, b.m, b.n) for b in view.blocks]
    assert sum(b.numel() for b in blocks) == tensor.numel()
    out = torch.full_like(tensor, float("nan"))
    assert view.join([b.clone() for b in blocks], out) is out
    assert torch.equal(out, tensor)


def test_conv_is_its_unfolded_product() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False).double()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    (blocks,) = views.conv(2)(layer.weight.shape).split(layer.weight)
    patches = F.unfold(x, 3).reshape(2, 18, 9)
    torch.testing.assert_close((blocks @ patches).reshape(1, 6, 3, 3), layer(x))


def test_conv_transpose_is_its_folded_product() -> None:
    layer = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False).double()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    (blocks,) = views.conv_transpose(2)(layer.weight.shape).split(layer.weight)
    torch.testing.assert_close((blocks @ x.reshape(2, 2, 25)).reshape(1, 6, 5, 5), layer(x))


def test_lstm_gates() -> None:
    weight = nn.LSTM(3, 5).weight_ih_l0
    blocks = views.chunks("i", "f", "g", "o")(weight.shape).split(weight)
    assert all(torch.equal(a, b) for a, b in zip(blocks, weight.chunk(4), strict=True))


def test_qkv_unequal_and_interleaved() -> None:
    fused = torch.arange(16.0).repeat_interleave(3).reshape(16, 3)  # row r holds r
    rows = {
        False: ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]),
        True: ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]),
    }
    for interleaved, expected in rows.items():
        blocks = views.qkv(4, 2, interleaved=interleaved)((16, 3)).split(fused)
        assert tuple([int(r) for r in b[:, 0]] for b in blocks) == expected
        assert [b.name for b in views.qkv(4, 2, interleaved=interleaved)((16, 3)).blocks] == list(
            "qkv"
        )


def test_column_heads() -> None:
    weight = torch.randn(6, 8)
    (blocks,) = views.heads(2, side="cols")((6, 8)).split(weight)
    assert torch.equal(blocks, torch.stack(weight.chunk(2, dim=1)))


@pytest.mark.parametrize(
    ("rule", "shape", "words"),
    [
        (views.heads(3), (8, 4), "8 does not divide into 3"),
        (views.qkv(4, 3), (40, 4), "4 does not divide into 3"),
        (views.qkv(4, 2), (30, 4), "30 does not divide into 8"),
        (views.conv(3), (8, 2, 3, 3), "8 does not divide into 3"),
        (views.matrix, (8,), r"needs 2 axes; the tensor has shape \(8,\)"),
        (views.stack, (8, 2), "needs 3 axes"),
        (views.gate_up(), (7, 2), "7 does not divide into 2"),
        (views.gate_up(), (7,), "needs 2 axes"),
        (views.heads(2), (8, 2, 2), "needs 2 axes"),
    ],
)
def test_misfit_is_named(rule: views.ViewRule, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ViewError, match=words):
        rule(shape)


def test_wrong_words_are_named() -> None:
    with pytest.raises(ViewError, match="side='left' is unknown"):
        views.heads(2, side="left")
    with pytest.raises(ViewError, match="stored='left' is unknown"):
        views.qkv(stored="left")((6, 2))
    with pytest.raises(ViewError, match=r"for shape \(4, 2\), not \(2, 4\)"):
        views.matrix((4, 2)).split(torch.ones(2, 4))
    with pytest.raises(ViewError, match="do not fit"):
        views.View("bad", (4, 2), (3, 2), (0, 1), 0, 1)
    with pytest.raises(ViewError, match="do not add up to 4"):
        views.View("bad", (4, 2), (4, 2), (0, 1), 0, 1, 0, (("a", 1), ("b", 2)))
