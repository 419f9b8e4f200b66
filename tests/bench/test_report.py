import json
import re
import struct
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from stiefel.bench.machine import describe_machine
from stiefel.bench.report import Report, reach, spread
from stiefel.bench.text import Text

from .test_standings import NAN, RECORDS, curve, race


@pytest.fixture
def report() -> Report:
    text = Text(Path("my <text>"), 3, "abcd", torch.zeros(900).byte(), torch.zeros(100).byte())
    return Report(race(), tuple(RECORDS), text, describe_machine("cpu"), elapsed=12.0)


def test_rows_hold_the_numbers(report: Report) -> None:
    assert report.rows == [
        ["adamw", "0.2", "2.0000", "400", "40.0", "5.0%", "8.00"],
        ["muon", "0.2", "1.0000", "250", "37.5", "25.0%", "4.50"],
    ]
    assert all(len(row) == len(report.columns) for row in report.rows)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.23456], "1.235"), ([1.0, 2.0, 3.0], "2.000 ± 1.000"), ([NAN], "nan")],
)
def test_spread(values: list[float], expected: str) -> None:
    assert spread(values, 3) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None], "not reached"),
        ([None, None], "not reached"),
        ([None, 5.0], "reached by 1 of 2 seeds"),
        ([5.0], "5"),
        ([4.0, 6.0], "5 ± 1"),
    ],
)
def test_reach(values: list[float | None], expected: str) -> None:
    assert reach(values, 0) == expected


def test_the_page_needs_no_other_file(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(.{0,22})', page) == ["data:image/png;base64,"]
    assert not re.search(r"<(link|script|iframe)|@import|url\(|https?:", page)
    assert "my &lt;text&gt;" in page
    assert "<text>" not in page
    for row in report.rows:
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    assert report.caveats[0] in page
    assert report.machine["processor"] in page


def test_the_picture_is_a_png_of_its_size(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    png = (tmp_path / "loss.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (2025, 690)


def test_results_are_json_without_nan(report: Report, tmp_path: Path) -> None:
    broken = [replace(run, curve=curve(4.0, NAN)) if run.lr == 0.4 else run for run in RECORDS]
    replace(report, records=tuple(broken)).write(tmp_path)

    def refuse(constant: str) -> None:
        pytest.fail(constant)

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["records"][2]["curve"][-1] == {"step": 200, "loss": None}
    assert results["records"][4]["curve"][-1] == {"step": 400, "loss": 1.0}
    assert results["standings"][1]["losses"] == [1.0]
    assert results["standings"][1]["steps_to_baseline"] == [250.0]
    assert results["race"]["lrs"] == [0.1, 0.2, 0.4]
    assert results["facts"]["torch"] == torch.__version__


def test_diverged_everywhere_still_gives_a_report(report: Report, tmp_path: Path) -> None:
    broken = tuple(replace(run, curve=curve(NAN, NAN)) for run in RECORDS)
    report = replace(report, records=broken)
    report.write(tmp_path)
    assert report.rows[1][2:4] == ["nan", "not reached"]


def test_the_terminal_shows_rows_facts_and_caveats(report: Report) -> None:
    console = Console(width=200, file=StringIO(), record=True)
    report.print(console)
    shown = console.export_text()
    for piece in (*report.rows[1], report.command, "my <text>", "One seed", "sha256 abcd"):
        assert piece in shown
