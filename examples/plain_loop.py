"""Train a small GPT over bytes in a loop of your own, with one of torch's schedulers.

Run it with ``python examples/plain_loop.py``. It reads the source code of the Python standard
library; a CPU and a few seconds are enough.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

import stiefel

STEPS, BATCH, CONTEXT, WIDTH, LR = 60, 16, 64, 128, 1e-2


class ByteGPT(nn.Module):
    """Two pre-norm Transformer layers over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), False)
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Bytes `[batch, time]` to logits `[batch, time, 256]`."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        logits: Tensor = self.head(self.layers(hidden, mask=mask, is_causal=True))
        return logits


def read_text() -> Tensor:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(p.read_bytes() for p in sources)), dtype=torch.uint8)


def report(optimizer: stiefel.Optimizer) -> None:
    """What the coming step will do to the first layer: RMS 0.2 lr on matrices of any shape."""
    print(f"at lr {optimizer.param_groups[0]['lr']:.1e}:")
    for name, effect in optimizer.effective_lr().items():
        if "layers.0" in name and "weight" in name:
            print(f"  {name:41} update RMS {effect.rms:.1e}, relative {effect.relative:.1e}")


def main() -> None:
    torch.manual_seed(0)
    text, model = read_text(), ByteGPT()

    print(stiefel.plan(model, "muon"))  # which parameter gets what, and why
    optimizer = stiefel.optimizer(model, "muon", lr=LR)
    scheduler = OneCycleLR(optimizer, max_lr=LR, total_steps=STEPS, cycle_momentum=False)

    losses = []
    for step in range(STEPS):
        starts = torch.randint(len(text) - CONTEXT, (BATCH,)).tolist()
        batch = torch.stack([text[i : i + CONTEXT + 1] for i in starts]).long()
        loss = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step == STEPS // 2:
            report(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        if step % 10 == 9:
            print(f"step {step + 1:3}  loss {sum(losses[-10:]) / 10:.3f}")

    print(f"skipped steps: {optimizer.skipped_steps}")
    assert optimizer.skipped_steps == 0
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10]), "the loss should fall"


if __name__ == "__main__":
    main()
