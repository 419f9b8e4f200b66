"""Hand-made races whose results are known exactly."""

from dataclasses import replace

import pytest

from stiefel.bench.race import Race, Record
from stiefel.bench.settings import Settings, SettingsError
from stiefel.bench.standings import caveats, first_step_at, losses_by_lr, standings
from stiefel.bench.training import Point

NAN = float("nan")


def curve(*losses: float) -> tuple[Point, ...]:
    """A curve evaluated at steps 100, 200, 300, 400."""
    return tuple(Point(100 * index, loss) for index, loss in enumerate(losses, start=1))


def record(optimizer: str, lr: float, losses: tuple[float, ...], seed: int = 0) -> Record:
    muon = optimizer == "muon"
    return Record(
        optimizer=optimizer,
        lr=lr,
        seed=seed,
        curve=curve(*losses),
        seconds=60.0 if muon else 40.0,
        optimizer_seconds=15.0 if muon else 2.0,
        parameters=1000,
        state_bytes=4500 if muon else 8000,
        skipped_steps=0,
    )


def race(lrs: tuple[float, ...] = (0.1, 0.2, 0.4), seeds: tuple[int, ...] = (0,)) -> Race:
    return Race(Settings(steps=400), ("adamw", "muon"), lrs, seeds)


RECORDS = [
    record("adamw", 0.1, (4.0, 3.0, 2.5, 2.2)),
    record("adamw", 0.2, (4.0, 3.0, 2.5, 2.0)),
    record("adamw", 0.4, (4.0, 3.0, 2.5, 2.4)),
    record("muon", 0.1, (4.0, 3.0, 2.5, 2.1)),
    record("muon", 0.2, (3.0, 2.5, 1.5, 1.0)),
    record("muon", 0.4, (3.0, 2.5, 1.5, 1.2)),
]


def test_first_step_at_a_target() -> None:
    points = curve(4.0, 3.0, 2.0, 1.0)
    assert first_step_at(points, 4.5) == 100
    assert first_step_at(points, 4.0) == 100
    assert first_step_at(points, 3.0) == 200
    assert first_step_at(points, 2.25) == pytest.approx(275)
    assert first_step_at(points, 1.0) == 400
    assert first_step_at(points, 0.99) is None


def test_first_step_at_a_target_of_a_curve_that_rises_again() -> None:
    assert first_step_at(curve(4.0, 2.0, 3.0, 1.0), 2.5) == pytest.approx(175)


def test_first_step_at_a_target_of_a_broken_curve() -> None:
    assert first_step_at(curve(4.0, NAN, 2.0, NAN), 3.0) == pytest.approx(200)
    assert first_step_at(curve(NAN, NAN), 3.0) is None
    assert first_step_at(curve(2.0, 1.0), NAN) is None


def test_every_number_of_a_standing() -> None:
    adamw, muon = standings(race(), RECORDS)
    assert (adamw.optimizer, adamw.lr, adamw.losses) == ("adamw", 0.2, [2.0])
    assert (muon.optimizer, muon.lr, muon.losses) == ("muon", 0.2, [1.0])
    assert adamw.steps_to_baseline == [400]
    assert muon.steps_to_baseline == [pytest.approx(250)]
    assert adamw.seconds_per_step == pytest.approx(0.1)
    assert muon.seconds_per_step == pytest.approx(0.15)
    assert muon.seconds_to_baseline == [pytest.approx(37.5)]
    assert adamw.optimizer_share == pytest.approx(0.05)
    assert muon.optimizer_share == pytest.approx(0.25)
    assert (adamw.state_bytes, muon.state_bytes) == (8.0, 4.5)


def test_time_comes_from_the_fastest_run() -> None:
    disturbed = [
        replace(run, seconds=600.0, optimizer_seconds=500.0) if run.lr != 0.4 else run
        for run in RECORDS
    ]
    assert standings(race(), disturbed)[1].seconds_per_step == pytest.approx(0.15)
    assert standings(race(), disturbed)[1].optimizer_share == pytest.approx(0.25)


def test_the_first_optimiser_is_the_baseline() -> None:
    other = Race(Settings(steps=400), ("muon", "adamw"), (0.1, 0.2, 0.4), (0,))
    muon, adamw = standings(other, RECORDS)
    assert muon.steps_to_baseline == [400]
    assert adamw.steps_to_baseline == [None]
    assert adamw.seconds_to_baseline == [None]


def test_seeds_share_the_learning_rate_that_is_best_on_average() -> None:
    records = [
        record("adamw", 0.1, (4.0, 3.0, 2.5, 2.0), seed=0),
        record("adamw", 0.1, (4.0, 3.0, 2.5, 2.0), seed=1),
        record("adamw", 0.2, (4.0, 3.0, 2.5, 1.8), seed=0),
        record("adamw", 0.2, (4.0, 3.0, 2.5, 2.4), seed=1),
        record("muon", 0.1, (3.0, 2.5, 1.5, 1.0), seed=0),
        record("muon", 0.1, (3.0, 2.5, 2.2, 2.1), seed=1),
        record("muon", 0.2, (3.0, 2.5, 2.2, 2.2), seed=0),
        record("muon", 0.2, (3.0, 2.5, 2.2, 2.2), seed=1),
    ]
    both = race(lrs=(0.1, 0.2), seeds=(0, 1))
    assert losses_by_lr(both, records, "adamw") == {0.1: 2.0, 0.2: pytest.approx(2.1)}
    adamw, muon = standings(both, records)
    assert (adamw.lr, adamw.losses) == (0.1, [2.0, 2.0])
    assert muon.losses == [1.0, 2.1]
    assert muon.steps_to_baseline == [pytest.approx(250), None]
    assert muon.seconds_to_baseline == [pytest.approx(37.5), None]


def test_a_diverged_learning_rate_is_never_the_best() -> None:
    records = [
        replace(run, curve=curve(4.0, NAN, NAN, NAN)) if run.lr == 0.1 else run for run in RECORDS
    ]
    assert [standing.lr for standing in standings(race(), records)] == [0.2, 0.2]
    everywhere = [replace(run, curve=curve(NAN)) for run in RECORDS]
    assert "adamw diverged at every learning rate of the grid." in caveats(race(), everywhere)


def test_caveats_name_edges_and_single_seeds() -> None:
    assert list(caveats(race(), RECORDS)) == [
        "One seed: the difference has no error bar. Give --seeds 0,1,2 for one."
    ]
    narrow = [run for run in RECORDS if run.lr != 0.1]
    assert [line.split(":")[0] for line in caveats(race(lrs=(0.4, 0.2)), narrow)] == [
        "adamw is best at 0.2, the lowest learning rate of the grid",
        "muon is best at 0.2, the lowest learning rate of the grid",
        "One seed",
    ]
    low = [run for run in RECORDS if run.lr != 0.4]
    assert "the highest learning rate" in next(caveats(race(lrs=(0.1, 0.2)), low))
    single = [run for run in RECORDS if run.lr == 0.2]
    assert "adamw was not tuned: the grid has one learning rate." in caveats(
        race(lrs=(0.2,)), single
    )


def test_caveats_count_skipped_steps() -> None:
    records = [*RECORDS[:-1], replace(RECORDS[-1], skipped_steps=3)]
    assert "muon at 0.4 (seed 0) skipped 3 steps whose gradients were not finite." in caveats(
        race(), records
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": ()}, "--lrs is empty"),
        ({"seeds": (0, 0)}, "--seeds is 0, 0, but must name at least one value, and none twice"),
        ({"optimizers": ("muon", "muon")}, "--optimizers is muon, muon"),
        ({"lrs": (0.1, -0.1)}, "learning rate is -0.1"),
        ({"optimizers": ("muon", "moon")}, "recipe='moon' is unknown"),
    ],
)
def test_impossible_races(change: dict[str, tuple], message: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        replace(race(), **change)


def test_runs_of_a_race_differ_in_optimiser_lr_and_seed_alone() -> None:
    runs = list(race(seeds=(0, 1)).runs())
    assert [(run.seed, run.lr, run.optimizer) for run in runs[:3]] == [
        (0, 0.1, "adamw"), (0, 0.1, "muon"), (0, 0.2, "adamw")
    ]  # fmt: skip
    assert len(runs) == len(set(runs)) == 12
    assert {replace(run, optimizer="muon", lr=0.1, seed=0) for run in runs} == {
        replace(Settings(steps=400), lr=0.1)
    }
