from dataclasses import replace

import pytest
import torch

from stiefel.bench.settings import Settings, SettingsError, make_folder
from stiefel.bench.text import Text
from stiefel.bench.training import EVALUATIONS, Event, Run, learning_rate_scale

from .conftest import TINY


def weights(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def finish(run: Run) -> list[Event]:
    return list(run)


@pytest.mark.parametrize(
    ("step", "scale"),
    [(0, 0.2), (3, 0.8), (4, 1.0), (59, 1.0), (60, 1.0), (61, 0.975), (80, 0.5), (99, 0.025)],
)
def test_schedule_of_a_hundred_steps(step: int, scale: float) -> None:
    assert learning_rate_scale(step, steps=100) == pytest.approx(scale)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_schedule_peaks_and_ends_near_zero(steps: int) -> None:
    scales = [learning_rate_scale(step, steps) for step in range(steps)]
    assert max(scales) == 1
    assert all(scale > 0 for scale in scales)
    assert learning_rate_scale(steps, steps) == 0


def test_each_step_uses_the_scheduled_learning_rate(text: Text) -> None:
    run = Run(replace(TINY, steps=20), text)
    used = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append({group["lr"] for group in optimizer.param_groups})
    )
    finish(run)
    assert used == [{TINY.lr * learning_rate_scale(step, 20)} for step in range(20)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_settings_give_the_same_bits(text: Text, optimizer: str) -> None:
    settings = replace(TINY, optimizer=optimizer)
    first, second = Run(settings, text), Run(settings, text)
    assert finish(first) == finish(second)
    assert torch.equal(weights(first), weights(second))
    other = Run(replace(settings, seed=1), text)
    finish(other)
    assert not torch.equal(weights(first), weights(other))


def test_both_optimisers_start_from_the_same_weights(text: Text) -> None:
    adamw, muon = (Run(replace(TINY, optimizer=name), text) for name in ("adamw", "muon"))
    assert torch.equal(weights(adamw), weights(muon))
    start = weights(adamw).clone()
    finish(adamw)
    finish(muon)
    assert not torch.equal(weights(adamw), start)
    assert not torch.equal(weights(adamw), weights(muon))


def test_training_learns(text: Text) -> None:
    run = Run(replace(TINY, steps=40), text)
    events = finish(run)
    assert run.curve[-1].loss < run.curve[0].loss - 1
    assert events[-1].training_loss < events[0].training_loss - 1
    assert events[-1].validation_loss == run.curve[-1].loss


@pytest.mark.parametrize("steps", [1, 4, 15, 100])
def test_evaluations_are_spread_and_include_the_end(text: Text, steps: int) -> None:
    run = Run(replace(TINY, steps=steps, context=4, batch=1), text)
    run._validate = lambda: 0.0
    finish(run)
    evaluated = [point.step for point in run.curve]
    assert evaluated[-1] == steps
    assert len(evaluated) == min(EVALUATIONS, steps)
    gaps = {after - before for before, after in zip([0, *evaluated], evaluated, strict=False)}
    assert max(gaps) - min(gaps) <= 1


def test_validation_weighs_every_byte_alike(text: Text) -> None:
    run = Run(replace(TINY, batch=5), text)
    run._loss = lambda tokens: torch.tensor(float(len(tokens)))
    assert run._validate() == pytest.approx((12 * 5 * 5 + 4 * 4) / 64)


def test_validation_is_of_the_weights_to_evaluate_at(text: Text) -> None:
    run = Run(replace(TINY, optimizer="schedule_free"), text)
    finish(run)
    before = weights(run)
    with run.optimizer.evaluating():
        assert not torch.equal(weights(run), before)
        tokens = torch.cat(run._held_out)
        loss = run._loss(tokens).item()
    assert run.curve[-1].loss == pytest.approx(loss, rel=1e-3)
    assert run.curve[-1].loss != pytest.approx(run._loss(tokens).item(), rel=1e-3)


def test_validation_reads_held_out_windows(text: Text) -> None:
    run = Run(TINY, text)
    seen = []
    run._loss = lambda tokens: (seen.append(tokens), torch.tensor(0.0))[1]
    run._validate()
    assert torch.equal(torch.cat(seen), text.held_out_windows(64, TINY.context + 1))


def test_each_step_reads_its_own_batch(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = Text.batch, []
    monkeypatch.setattr(
        Text, "batch", lambda text, *what: (calls.append(what), read(text, *what))[1]
    )
    finish(Run(replace(TINY, seed=5), text))
    assert calls == [(5, step, TINY.batch, TINY.context + 1) for step in range(TINY.steps)]


def test_no_gradient_is_left_for_the_next_step(text: Text) -> None:
    run = Run(TINY, text)
    finish(run)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_the_clock_counts_training_only(text: Text) -> None:
    ticks = iter(range(1000))
    run = Run(TINY, text, clock=lambda: float(next(ticks)))
    finish(run)
    assert run.seconds == 2 * TINY.steps
    assert run.optimizer_seconds == TINY.steps


def test_state_bytes_of_adamw_are_two_float32_per_weight(text: Text) -> None:
    run = Run(replace(TINY, optimizer="adamw"), text)
    finish(run)
    assert run.state_bytes / run.parameters == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps is 0"),
        ({"batch": -1}, "--batch is -1"),
        ({"threads": 0}, "--threads is 0"),
        ({"lr": 0.0}, "learning rate is 0.0"),
        ({"lr": -1e-3}, "learning rate is -0.001"),
        ({"lr": float("nan")}, "learning rate is nan"),
        ({"lr": float("inf")}, "learning rate is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"width": 100}, "--width is 100, but must be a multiple of the head size 64"),
        ({"device": "tpu"}, "--device is 'tpu', but must be cpu or cuda"),
    ],
)
def test_impossible_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(**change)


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot write to the folder .*file/out"):
        make_folder(tmp_path / "file" / "out")
    assert make_folder(tmp_path / "new" / "out").is_dir()
