"""A small GPT over bytes: pre-norm blocks, rotary positions, no biases, separate matrices.

Query, key, value and output are four Linear modules, so that what an optimiser sees as one
matrix is one matrix. All weights start as `torch.nn` makes them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

VOCABULARY = 256
HEAD_SIZE = 64


class GPT(nn.Module):
    """Tokens `[batch, time]` to logits `[batch, time, 256]`, for any time up to `context`."""

    def __init__(self, layers: int, width: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.rotary = Rotary(context)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of each next byte."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.rotary)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Block(nn.Module):
    """Attention, then a two-layer perceptron; each reads a normed copy and adds to the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotary: "Rotary") -> Tensor:
        """The stream after this block."""
        x = x + self.attention(self.attention_norm(x), rotary)
        mixed: Tensor = self.down(gelu(self.up(self.mlp_norm(x))))
        return x + mixed


class Attention(nn.Module):
    """Causal self-attention with heads of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotary: "Rotary") -> Tensor:
        """What each position reads from itself and those before it."""
        query, key, value = (
            project(x).unflatten(-1, (-1, HEAD_SIZE)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = _attend(rotary(query), rotary(key), value.float())
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # On a CPU the backward pass of bf16 attention takes four times as long as that of float32.
    with torch.autocast(query.device.type, enabled=query.is_cuda, dtype=torch.bfloat16):
        return scaled_dot_product_attention(query, key, value, is_causal=True)


class Rotary(nn.Module):
    """Turns each pair of a head's entries by an angle that grows with time; the result is float32.

    A pair is a complex number here. The product of two turned heads depends on how far apart they
    stand in time, not on where.
    """

    turn: Tensor

    def __init__(self, context: int) -> None:
        super().__init__()
        frequency = 10_000.0 ** -torch.arange(0, 1, 2 / HEAD_SIZE)
        angle = torch.outer(torch.arange(context), frequency)
        self.register_buffer("turn", torch.polar(torch.ones_like(angle), angle), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn `[..., time, 64]`."""
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turn[: x.shape[-2]]).flatten(-2)
