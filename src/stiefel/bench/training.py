"""One training run: a model, an optimiser and the step they stand at."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

import stiefel
from stiefel.bench import checkpoint
from stiefel.bench.gpt import GPT
from stiefel.bench.settings import Settings
from stiefel.bench.text import Text

EVALUATIONS = 15
_HELD_OUT_WINDOWS = 64
_WARM_UP = 0.05
_DECAY = 0.4


def learning_rate_scale(step: int, steps: int) -> float:
    """The learning rate of a step (from 0) as a share of its peak: warm-up, plateau, decay.

    It rises over the first 5 % of the run, stays, and falls linearly towards zero over the last
    40 %. Most of the progress shows in the decay, so compare runs only at its end.
    """
    rise = (step + 1) / max(1.0, _WARM_UP * steps)
    fall = (steps - step) / max(1.0, _DECAY * steps)
    return min(1.0, rise, fall)


@dataclass(frozen=True)
class Point:
    """A point of the validation curve."""

    step: int
    loss: float


@dataclass(frozen=True)
class Event:
    """What happened in one step; losses in nats per byte."""

    step: int
    training_loss: float
    validation_loss: float


class Run:
    """Trains from `settings` on `text`: iterate to go on from where it stands to the end.

    The weights come from the seed and the data from (seed, step), so that on one machine's CPU the
    same settings give the same bits, whether or not the run was interrupted. Seconds are those of
    `clock`: `time.process_time` counts what the run itself computes, not what it waits for.
    """

    CHECKPOINT: ClassVar[str] = "checkpoint.pt"  # what `save` writes into the folder of a run

    def __init__(
        self, settings: Settings, text: Text, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.settings, self.text, self._clock = settings, text, clock
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        model = GPT(settings.layers, settings.width, settings.context)
        self.model = self._spread(model.to(settings.device))
        self.optimizer = stiefel.optimizer(self.model, settings.optimizer, lr=settings.lr)
        self.schedule = LambdaLR(
            self.optimizer, lambda step: learning_rate_scale(step, settings.steps)
        )
        windows = text.held_out_windows(_HELD_OUT_WINDOWS, settings.context + 1)
        self._held_out = torch.split(windows.to(settings.device), settings.batch)
        self.step = 0
        self.seconds = 0.0
        self.optimizer_seconds = 0.0
        self.curve: list[Point] = []

    def __iter__(self) -> Iterator[Event]:
        while self.step < self.settings.steps:
            training_loss = self._train()
            if self._is_evaluation_due():
                self.curve.append(Point(self.step, self._validate()))
            latest = self.curve[-1].loss if self.curve else float("nan")
            yield Event(self.step, training_loss, latest)

    @property
    def parameters(self) -> int:
        """The number of parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def state_bytes(self) -> int:
        """The bytes that the optimiser keeps for all parameters together."""
        values = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(value.nbytes for value in values if isinstance(value, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit: numbers and tensors only."""
        model, optimizer = self._get_states()
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "progress": (self.step, self.seconds, self.optimizer_seconds),
            "curve": [astuple(point) for point in self.curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the run stood that wrote `state`."""
        self._set_states(state["model"], state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds, self.optimizer_seconds = state["progress"]
        self.curve = [Point(*values) for values in state["curve"]]

    def identity(self) -> dict[str, Any]:
        """What two runs must have in common for one to continue the other."""
        return {**asdict(self.settings), "text": self.text.digest}

    def save(self, path: Path) -> None:
        """Write all that `resume` needs; a crash at any moment leaves the last one or this one."""
        checkpoint.save(path, {"identity": self.identity(), "state": self.state_dict()})

    def resume(self, path: Path) -> None:
        """Stand where the run stood that was saved to `path`.

        Raises:
            CheckpointError: nothing is there, or what is there is damaged or of another run.
        """
        content = checkpoint.load(path)
        checkpoint.refuse_another(path, self.identity(), content["identity"])
        self.load_state_dict(content["state"])

    def _train(self) -> float:
        start = self._now()
        loss = self._loss(self._batch().to(self.settings.device))
        loss.backward()  # type: ignore[no-untyped-call]
        before = self._now()
        self.optimizer.step()
        end = self._now()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1
        self.seconds += end - start
        self.optimizer_seconds += end - before
        return self._mean(loss).item()

    def _loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            logits = self.model(tokens[:, :-1])
        return cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def _is_evaluation_due(self) -> bool:
        done, total = self.step * EVALUATIONS, self.settings.steps
        return done // total != (done - EVALUATIONS) // total

    @torch.no_grad()
    def _validate(self) -> float:
        with self.optimizer.evaluating():
            losses = torch.stack([self._loss(tokens) for tokens in self._held_out])
        sizes = losses.new_tensor([len(tokens) for tokens in self._held_out])
        return (losses @ sizes / sizes.sum()).item()

    def _now(self) -> float:
        if self.settings.device == "cuda":
            torch.cuda.synchronize()
        return self._clock()

    # -- what a run on several processes does otherwise --------------------------------------------

    def _spread(self, model: GPT) -> nn.Module:
        return model

    def _batch(self) -> Tensor:
        settings = self.settings
        return self.text.batch(settings.seed, self.step, settings.batch, settings.context + 1)

    def _mean(self, loss: Tensor) -> Tensor:
        return loss

    def _get_states(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.model.state_dict(), self.optimizer.state_dict()

    def _set_states(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
