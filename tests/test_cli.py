"""The command line: what it prints, what it writes, and how it fails."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stiefel import cli
from stiefel.bench.report import Report

from .bench import conftest
from .torchrun import torchrun

folder, threads_restored = conftest.folder, conftest.threads_restored  # fixtures for here too
SIZE = ["--batch", 2, "--context", 16, "--layers", 1, "--width", 64]


def run(*arguments: object) -> int:
    """The exit code of the command line with these arguments."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_bench_from_command_to_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "first"
    assert run("bench", "--steps", 3, "--lrs", "1e-3, 3e-3", "--seeds", "0,1", *SIZE,
               "--data", folder, "--out", out) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert re.search(r"adamw .* muon ", shown, re.DOTALL)
    assert "8 runs of 3 steps, each of 2 x 16 bytes: 96 tokens per run" in shown
    assert "±" in shown
    assert "the lowest learning rate of the grid" in shown or "the highest" in shown
    assert sorted(path.name for path in out.iterdir()) == [
        "loss.png", "report.html", "results.json"
    ]  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert [(r["seed"], r["lr"], r["optimizer"]) for r in results["records"]] == [
        (seed, lr, name) for seed in (0, 1) for lr in (1e-3, 3e-3) for name in ("adamw", "muon")
    ]
    assert all(len(record["curve"]) == 3 for record in results["records"])


def test_the_reported_command_runs_the_same_race(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Report] = []
    monkeypatch.setattr(Report, "write", lambda report, _: seen.append(report))
    assert run("bench", "--quick", "--steps", 2, "--lrs", "0.00123", "--optimizers", "muon",
               "--data", folder, "--context", 16, "--out", tmp_path) == 0  # fmt: skip
    assert run(*shlex.split(seen[0].command)[1:], "--out", tmp_path) == 0
    assert seen[1].race == seen[0].race
    assert seen[0].race.shared.steps == 2
    assert seen[0].race.shared.width == 64
    losses = [[record.curve for record in report.records] for report in seen]
    assert losses[0] == losses[1]


def test_bench_keeps_earlier_reports(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("bench", "--steps", 1, "--lrs", "1e-3", *SIZE, "--data", folder) == 0
    assert [path.name[:6] for path in (tmp_path / "runs").iterdir()] == ["bench-"]


def test_train_and_resume_when_complete(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--steps", 4, *SIZE, "--data", folder, "--out", tmp_path / "run"]
    assert run(*command) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"muon at 0\.01: validation loss \d\.\d{4} nats per byte after 4 steps", first)
    assert run(*command) == 2
    assert run(*command, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == first


def test_train_under_torchrun_and_resume_on_another_number_of_processes(
    folder: Path, tmp_path: Path
) -> None:
    sizes = [*SIZE, "--steps", 3, "--checkpoint-every", 2, "--data", folder, "--out", tmp_path]
    command = ["-m", "stiefel.cli", "train", "--parallel", "fsdp2", *map(str, sizes)]
    first = torchrun(2, *command)
    assert first.count("validation loss") == 1
    assert re.search(r"muon at 0\.01: validation loss \d\.\d{4} .* after 3 steps", first)
    resumed = torchrun(1, *command, "--resume")
    # All but the seconds, of which every process has its own.
    end = [re.sub(r"[\d.]+ s of", "", text.splitlines()[-1]) for text in (first, resumed)]
    assert end[0] == end[1]


def test_train_under_torchrun_needs_to_know_how(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert run("train", *SIZE, "--data", folder, "--out", tmp_path) == 2
    assert "add --parallel ddp or --parallel fsdp2" in capsys.readouterr().err


def test_plan_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zoo.py").write_text("import torch\nmodel = torch.nn.Linear(4, 8)\n")
    monkeypatch.chdir(tmp_path)
    assert run("plan", "zoo:model") == 0
    assert "weight" in capsys.readouterr().out
    assert run("plan", "zoo:model", "--recipe", "moon") == 2
    assert run("plan", "nowhere.safetensors") == 2


BENCH, TRAIN = ["bench", "--data", "DATA"], ["train", "--data", "DATA", "--out", "OUT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BENCH, "--optimizers", "moon"], "recipe='moon' is unknown: choose one of"),
        ([*BENCH, "--optimizers", ""], "--optimizers is empty"),
        ([*BENCH, "--optimizers", "muon,muon"], "--optimizers is muon, muon"),
        ([*BENCH, "--steps", "0"], "--steps is 0, but must be at least 1"),
        ([*BENCH, "--lrs", "0.1,-0.1"], "learning rate is -0.1, but must be a positive"),
        ([*BENCH, "--lrs", "nan"], "learning rate is nan"),
        ([*BENCH, "--lrs", "1e-3,fast"], "--lrs is '1e-3,fast', but must be numbers"),
        ([*BENCH, "--lrs", ","], "--lrs is empty"),
        ([*BENCH, "--seeds", "0,0"], "--seeds is 0, 0"),
        ([*BENCH, "--seeds", "0.5"], "--seeds is '0.5'"),
        ([*BENCH, "--width", "100"], "--width is 100, but must be a multiple"),
        ([*BENCH, "--device", "tpu"], "--device is 'tpu'"),
        ([*BENCH, "--context", "100000"], "but one window needs 100001"),
        ([*BENCH, "--out", "DATA/00.txt"], "cannot write to the folder"),
        (["bench", "--data", "EMPTY"], "holds no text"),
        (["bench", "--data", "missing.txt"], "cannot read missing.txt (No such file"),
        ([*TRAIN, "--optimizer", "moon"], "recipe='moon' is unknown"),
        ([*TRAIN, "--lr", "nan"], "learning rate is nan"),
        ([*TRAIN, "--lr", "0"], "learning rate is 0.0"),
        ([*TRAIN, "--steps", "0"], "--steps is 0"),
        ([*TRAIN, "--resume"], "there is nothing to resume"),
        ([*TRAIN, "--parallel", "ddp"], "--parallel is ddp, but there is one process: start"),
        ([*TRAIN[:-1], "/proc/out"], "cannot write to the folder /proc/out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"DATA": folder, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    for name, path in places.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_option_of_the_wrong_type_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--steps", "many") == 2
    assert "Invalid value for '--steps'" in capsys.readouterr().err


def test_a_failing_race_leaves_no_traceback_and_no_bars(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stiefel.cli", "bench", "--data", str(folder), "--steps", "0"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: --steps is 0, but must be at least 1.\n"
    assert result.stdout == ""


def test_importing_stiefel_imports_no_bench_library() -> None:
    code = "import sys, stiefel; print({'typer', 'rich', 'matplotlib', 'jinja2'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['jinja2'] = None; import stiefel.cli"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert (
        result.stderr == "error: the stiefel command needs jinja2: pip install 'stiefel[bench]'\n"
    )


@pytest.mark.slow
def test_quick_takes_at_most_forty_seconds(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert run("bench", "--quick", "--out", tmp_path) == 0
    assert time.monotonic() - begin < 40
