"""Train with Lightning: stiefel.optimizer in configure_optimizers, checkpoint, and resume.

Run it with ``python examples/lightning_module.py``; it needs ``pip install lightning``.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import stiefel

STEPS, BATCH, CONTEXT, WIDTH, LR = 60, 64, 16, 128, 1e-2


class NextByte(LightningModule):
    """Predicts a byte from the sixteen before it: an embedding and a three-layer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Embedding(256, WIDTH // 4),
            nn.Flatten(),
            nn.Linear(CONTEXT * WIDTH // 4, 4 * WIDTH),
            nn.ReLU(),
            nn.Linear(4 * WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, 256),
        )
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        """The loss of a batch, as Lightning asks for it."""
        loss = cross_entropy(self.model(batch[:, :-1]), batch[:, -1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        """One optimiser for the whole model, and a schedule by step."""
        # In a Sequential no name says which Linear makes the output; one forward pass does.
        example = torch.zeros(1, CONTEXT, dtype=torch.long)
        optimizer = stiefel.optimizer(self.model, "muon", lr=LR, example=example)
        schedule = {"scheduler": CosineAnnealingLR(optimizer, STEPS), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def make_loader() -> DataLoader[Tensor]:
    """Half of the steps is one epoch: a plain loader can only resume where an epoch begins."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.tensor(list(b"".join(path.read_bytes() for path in sources[:20])))
    windows = text.unfold(0, CONTEXT + 1, 7)[: STEPS // 2 * BATCH]
    return DataLoader(windows, BATCH)  # type: ignore[arg-type]


def fit(folder: str, resume: Path | None = None) -> NextByte:
    torch.manual_seed(0)
    module = NextByte()
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS // 2, save_top_k=-1)
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, make_loader(), ckpt_path=resume)
    return module


def main() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        through = fit(folder)
        first, last = sum(through.losses[:10]) / 10, sum(through.losses[-10:]) / 10
        print(f"loss: {first:.3f} in the first ten steps, {last:.3f} in the last ten")
        assert last < 0.8 * first, "the loss should fall"

        resumed = fit(f"{folder}/again", Path(folder) / f"step={STEPS // 2}.ckpt")
        pairs = zip(through.parameters(), resumed.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), "the resumed run should end the same"
        print("resumed from half way: the same weights, bit for bit")


if __name__ == "__main__":
    main()
