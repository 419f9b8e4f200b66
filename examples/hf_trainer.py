"""Train a GPT-2 with the Trainer of transformers, and resume it from a checkpoint.

Run it with ``python examples/hf_trainer.py``; it needs ``pip install transformers accelerate``.

The model is small, random and made from a config; nothing is downloaded. GPT-2 stores its linear
maps inputs first and its q, k and v in one tensor, and its head is the token table: the plan that
is printed shows how each is taken.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

import stiefel

STEPS, BATCH, CONTEXT, LR = 20, 8, 64, 1e-2


def read_windows() -> Any:
    """A data set is whatever has a length and an item for each index."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.tensor(list(b"".join(path.read_bytes() for path in sources[:20])))
    windows = text.unfold(0, CONTEXT, CONTEXT)[: STEPS * BATCH]
    return [{"input_ids": window, "labels": window} for window in windows]


def make_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def make_trainer(model: GPT2LMHeadModel, folder: str) -> Trainer:
    optimizer = stiefel.optimizer(model, "muon", lr=LR)
    scheduler = get_cosine_schedule_with_warmup(optimizer, STEPS // 5, STEPS)
    arguments = TrainingArguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        save_steps=STEPS // 2,
        logging_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    windows = read_windows()
    return Trainer(model, arguments, train_dataset=windows, optimizers=(optimizer, scheduler))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        through = make_model()
        print(stiefel.plan(through, "muon"))
        trainer = make_trainer(through, folder)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < 0.8 * losses[0], "the loss should fall"

        resumed = make_model()
        checkpoint = f"{folder}/checkpoint-{STEPS // 2}"
        make_trainer(resumed, folder).train(resume_from_checkpoint=checkpoint)
    pairs = zip(through.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the resumed run should end the same"
    print("resumed from half way: the same weights, bit for bit")


if __name__ == "__main__":
    main()
