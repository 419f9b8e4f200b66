"""The polar benchmarks: matrices, baselines, measures, goals, tables."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stiefel.bench.gpt import GPT
from stiefel.bench.text import Text
from stiefel.linalg import METHODS, TABLES

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package
import momentum
import orthogonality
import peers
import polar
import polar_report
import yardstick
from orthogonality import Score
from polar_report import ONE_BY_ONE, OURS, STACKED, Case, Result


def frames(m: int, n: int, *batch: int) -> tuple[Tensor, Tensor]:
    k = min(m, n)
    U, V = (torch.randn(*batch, side, k, dtype=torch.float64) for side in (m, n))
    return torch.linalg.qr(U).Q, torch.linalg.qr(V).Q.mT


# -- measures and matrices -----------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(5, 5), (4, 9), (9, 4)])
def test_measures_are_those_of_the_singular_values(m: int, n: int, tmp_path: Path) -> None:
    U, Vh = frames(m, n, 2)
    S = torch.rand(2, min(m, n), dtype=torch.float64) + 0.1
    X = U * S.unsqueeze(-2) @ Vh
    assert torch.allclose(yardstick.exact_polar(X, tmp_path).double(), U @ Vh, atol=1e-6)
    assert torch.allclose(yardstick.cosine(X, U @ Vh), S.mean(-1) / (S**2).mean(-1).sqrt())
    assert torch.allclose(yardstick.defect(X), ((S**2 - 1) ** 2).mean(-1).sqrt())


def test_what_is_not_finite_points_nowhere() -> None:
    U = torch.eye(3).repeat(3, 1, 1)
    U[1, 0, 0], U[2, 0, 0] = float("nan"), float("inf")
    assert yardstick.cosine(U, torch.eye(3).expand(3, 3, 3)).tolist() == pytest.approx([1, 0, 0])
    assert yardstick.defect(U).tolist() == [0, float("inf"), float("inf")]


def test_exact_factor_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = torch.randn(2, 4, 6)
    first = yardstick.exact_polar(X, tmp_path)
    monkeypatch.delattr(torch.linalg, "svd")
    assert torch.equal(yardstick.exact_polar(X, tmp_path), first)
    with pytest.raises(AttributeError):
        yardstick.exact_polar(X.mT, tmp_path)


@pytest.mark.parametrize(("m", "n"), [(16, 16), (16, 24), (24, 16)])
def test_spectra_are_as_described(m: int, n: int) -> None:
    S = torch.linalg.svdvals(yardstick.log_spaced(1, m, n).double())[0]
    assert torch.allclose(S.log10(), torch.linspace(0, -3, 16, dtype=torch.float64), atol=1e-3)
    S = torch.linalg.svdvals(yardstick.rank_deficient(1, m, n))[0]
    assert ((S[:4] - 1).abs() < 2e-3).all() and (S[4:] < 1.2e-3).all() and S[4] > 2e-4


# -- real momentum -------------------------------------------------------------------------------

COURSE = momentum.Course(width=64, layers=2, steps=2, rows=2, looks=(1, 2), mlp=True)


def test_updates_are_the_nesterov_averages(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first step they are (1 - mu) (1 + mu) G, with G from a model of its own."""
    monkeypatch.setattr(momentum, "CONTEXT", 16)
    found = momentum.collect(COURSE, text)
    torch.manual_seed(momentum.SEED)
    model = GPT(2, 64, 16)
    tokens = text.batch(momentum.SEED, 1, COURSE.rows, 17)
    momentum.loss(model, tokens).backward()
    G = model.blocks[1].up.weight.grad
    torch.testing.assert_close(found["step1.blocks.1.up"], 0.05 * 1.95 * G)
    assert len(found) == 2 * 2 * 6 and found["step2.blocks.0.down"].shape == (64, 256)
    again = momentum.collect(COURSE, text)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_squares_only(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momentum, "CONTEXT", 16)
    found = momentum.collect(replace(COURSE, mlp=False), text)
    assert {tuple(U.shape) for U in found.values()} == {(64, 64)}


def test_load(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run python benchmarks/momentum.py"):
        momentum.load(64, 64, 1, tmp_path / "empty")
    saved = {str(i): torch.full((64, 64 + i % 2), float(i)) for i in range(8)}
    torch.save(saved, tmp_path / "momentum-64.pt")
    found = momentum.load(64, 64, 3, tmp_path)[:, 0, 0].tolist()
    assert found == sorted(found) and set(found) <= {0, 2, 4, 6} and len(set(found)) == 3
    with pytest.raises(LookupError, match="4 real 64 x 64 matrices, 5 wanted"):
        momentum.load(64, 64, 5, tmp_path)


def test_every_shape_of_the_benchmark_is_collected() -> None:
    for b, m, n in polar.SHAPES:
        wanted = polar.real_count(Case(b, m, n, "float32", "momentum"))
        course = next(c for c in momentum.COURSES if c.width == min(m, n))
        each = 4 if m == n else 1
        assert each * course.layers * len(course.looks) >= wanted and (m == n or course.mlp)
        assert max(course.looks) <= course.steps


# -- baselines -----------------------------------------------------------------------------------


def textbook(X: Tensor, triples: list[tuple[float, float, float]], headroom: float) -> Tensor:
    U, S, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    S = S / S.norm(dim=-1, keepdim=True) / headroom
    for a, b, c in triples:
        S = a * S + b * S**3 + c * S**5
    return U * S.unsqueeze(-2) @ Vh


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12)])
def test_peers_compute_their_polynomials(shape: tuple[int, ...]) -> None:
    X = torch.randn(shape)
    jordan, express = TABLES["jordan"], TABLES["polar_express"]
    expected = {
        "Jordan": textbook(X, jordan.triples(5), 1.0),
        "torch.optim.Muon": textbook(X, jordan.triples(5), 1.0),
        "Polar Express": textbook(X, express.triples(5), express.headroom),
        "Gram NS": textbook(X, express.triples(5), express.headroom),
    }
    found = {peer.name: torch.stack(list(peer.run(X))).double() for peer in peers.peers("cpu")}
    for name, U in expected.items():
        for variant in {name, f"{name}, stacked"} & found.keys():
            # bfloat16 spreads tiny singular values; nothing but its rounding may differ.
            assert (found[variant] - U).norm() < 0.05 * U.norm(), variant


def test_gram_steps_are_the_usual_steps() -> None:
    X, triples = torch.randn(2, 7, 15), TABLES["polar_express"].triples(5)
    found = peers.gram_newton_schulz(X, triples, torch.float32)
    expected = textbook(X, triples, peers.HEADROOM).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_routines_leave_their_input_alone(dtype: torch.dtype) -> None:
    X = torch.randn(2, 8, 12).to(dtype)
    before = X.clone()
    for routine in polar.routines("cpu", METHODS):
        routine.run(X)
        assert torch.equal(X, before), routine.name


# -- measuring -----------------------------------------------------------------------------------


def test_every_method_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polar, "exact_polar", lambda X: yardstick.exact_polar(X, tmp_path))
    case, effort = Case(2, 8, 32, "bfloat16", "gaussian"), polar.Effort(2, 1, 1.0)
    found = polar.measure(case, polar.routines("cpu", METHODS), "cpu", effort)
    ours = {r.routine: r for r in found if r.role == OURS}
    assert list(ours) == list(METHODS)
    assert ours["exact"].cosine > 0.9999 > ours["jordan"].cosine >= ours["jordan"].worst > 0.5
    assert all(r.milliseconds > 0 and r.peak > 1e8 for r in found)
    text = polar_report.block(found)
    assert all(name in text for name in METHODS)
    polar.report("cpu", found)


def test_flops_are_those_of_the_formulas() -> None:
    square, long = Case(3, 8, 8, "float32", "gaussian"), Case(1, 8, 32, "float32", "gaussian")
    for case, name, share in [
        (square, "Jordan", 30 / 4),
        (long, "Jordan", 90 / 16),
        (long, "Gram NS", (8 * 4 + 28) / 16),
        (long, "exact", (4 * 4 + 22 + 2 * 4) / 16),
    ]:
        X = torch.randn(case.b, case.m, case.n)
        routine = next(r for r in polar.routines("cpu", METHODS) if r.name == name)
        judged = polar.judge(routine, case, [X, X], torch.cat([X, X]))
        assert judged.flops / case.needed_flops == pytest.approx(share), name


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """All take turns, each on the next stack, until its rounds or its time are spent.

    The fastest turn counts.
    """
    turns: list[tuple[str, float]] = []

    def stopwatch(call, device: torch.device) -> float:
        call()
        spent = [name for name, _ in turns].count("quick")
        return 600.0 if turns[-1][0] == "slow" else (150.0, 130.0, 110.0, 140.0, 120.0)[spent - 1]

    monkeypatch.setattr(polar, "stopwatch", stopwatch)
    calls = [lambda X, name=name: turns.append((name, X.item())) for name in ("slow", "quick")]
    stacks = [torch.tensor(1.0), torch.tensor(2.0)]
    assert polar.milliseconds(calls, stacks, polar.Effort(5, 1, 1.0)) == [600.0, 110.0]
    names = [name for name, _ in turns]
    assert [sorted(names[i : i + 2]) for i in (0, 2)] == [["quick", "slow"]] * 2
    assert names[4:] == ["quick"] * 3
    assert [stack for name, stack in turns if name == "quick"] == [1, 2, 1, 2, 1]
    turns.clear()
    polar.milliseconds(calls, stacks, polar.Effort(5, 4, 1.0))
    assert [name for name, _ in turns].count("slow") == 4


def test_stopwatch_counts_this_thread() -> None:
    A = torch.randn(256, 256)
    assert 0 < polar.stopwatch(lambda: A @ A, A.device) < 1e4


# -- goals and tables ----------------------------------------------------------------------------

REAL = Case(1, 512, 2048, "float32", "momentum")


def result(routine: str, role: str, ms: float, case: Case = REAL, cosine: float = 0.9) -> Result:
    return Result(case, routine, role, ms, 1e9, 1e12, 0.1, cosine, cosine - 0.1)


def verdicts(*results: Result) -> dict[str, polar_report.Verdict]:
    return {f"{v.goal.routine}: {v.goal.words}": v for v in polar_report.check(results)}


def test_goals_take_the_best_baseline_of_the_case_and_the_worst_case() -> None:
    wide = replace(REAL, m=768, n=3072)
    found = verdicts(
        result(polar_report.JORDAN, ONE_BY_ONE, 3.0),
        result("A", STACKED, 2.0),
        result("fast", OURS, 1.1),
        result(polar_report.JORDAN, ONE_BY_ONE, 4.0, wide),
        result("fast", OURS, 2.5, wide),
    )["fast: time over the best baseline, 1:4 rectangles"]
    assert found.value == 2.5 / 4.0 and found.case == wide and not found.met
    assert str(found).startswith("MISSED") and "0.625 at [768, 3072], float32" in str(found)


def test_goals_met_missed_and_not_measured() -> None:
    square = replace(REAL, n=512)
    found = verdicts(
        *(result(polar_report.JORDAN, ONE_BY_ONE, 1.0, case, 0.95) for case in (REAL, square)),
        result("fast", OURS, 0.5, REAL, 0.951),
        result("faithful", OURS, 1.0, REAL, 0.989),
        result("faithful", OURS, 0.9, square, 0.93),
    )
    met = {name: verdict.met for name, verdict in found.items() if verdict.case}
    assert met == {
        "fast: time over the best baseline, 1:4 rectangles": True,
        "fast: time over the best baseline, anywhere": True,
        "fast: cosine less Jordan's, real": True,
        "faithful: time over the best baseline, anywhere": True,
        "faithful: cosine, real [512, 2048]": False,
        "faithful: cosine, real [512, 512]": True,
    }
    missing = found["fast: time over the best baseline, squares"]
    assert not missing.met and "not measured" in str(missing)


def test_gaussian_matrices_and_baselines_count_for_no_cosine() -> None:
    gaussian = replace(REAL, kind="gaussian")
    found = verdicts(
        result(polar_report.JORDAN, ONE_BY_ONE, 1.0, gaussian),
        result("faithful", OURS, 1.0, gaussian, 0.1),
        result("faithful", STACKED, 1.0, REAL, 0.1),
    )
    assert found["faithful: cosine, real [512, 2048]"].case is None


def test_many_small_matrices_are_held_against_loops() -> None:
    small = Case(64, 64, 64, "float32", "gaussian")
    found = verdicts(
        result("A", ONE_BY_ONE, 10.0, small),
        result("B", STACKED, 1.0, small),
        result("fast", OURS, 1.06, small),
    )
    assert found["fast: time over the best loop, 64 x [64, 64]"].value == pytest.approx(0.106)
    assert not found["fast: time over the best baseline, anywhere"].met
    assert found["fast: time over the best baseline, squares"].case is None


def test_block_orders_and_stars() -> None:
    rows = [result("fast", OURS, 1.0), result("B", STACKED, 4.0), result("A", ONE_BY_ONE, 2.0)]
    title, head, *lines = polar_report.block(rows).splitlines()
    assert title == "[512, 2048], float32, momentum; bfloat16 matmul 1000 GFLOP/s"
    assert [line[:20].strip() for line in lines] == ["A *", "B", "stiefel fast"]
    assert len({len(line) for line in [head, *lines]}) == 1
    fields = dict(zip(head.split(), lines[-1].split()[2:], strict=True))
    # 1e9 flops in a millisecond of a 1e12 machine; the floor is 4 x 512^2 x 2048.
    assert fields == {
        "ms": "1.000", "ratio": "0.50", "defect": "0.1", "cosine": "0.9000",
        "worst": "0.8000", "FLOPs": "0.5", "peak": "100%",
    }  # fmt: skip


def test_page_of_a_saved_run() -> None:
    narrow, gaussian = replace(REAL, dtype="bfloat16"), replace(REAL, kind="gaussian")
    found = [
        *(result(polar_report.JORDAN, ONE_BY_ONE, 3.0, case) for case in (REAL, narrow, gaussian)),
        result("A", STACKED, 2.0),
        result("fast", OURS, 1.1, REAL, 0.95),
        result("fast", OURS, 1.2, narrow),
    ]
    saved = json.loads(json.dumps(polar.report("cpu", found)))
    text = polar_report.page(saved)
    assert "| 1 x 512 x 2048 | A: 1.00 / 0.900 | 1.50 / 0.900 | 0.55 / 0.950 |" in text
    assert len({line.count("|") for line in text.splitlines() if "|" in line}) == 1
    assert text.count("2048 |") == 1  # real matrices in float32 only
    assert all(f"- {verdict}\n" in text for verdict in polar_report.check(found))
    assert f"python {saved['machine']['python']}" in text


# -- the docs page -------------------------------------------------------------------------------

FOUND = {
    kind: {"dear": Score(2.0, 0.999, 0.1), "jordan": Score(1.0, cosine, 0.25)}
    for kind, cosine in (("gaussian", 0.98), ("real 1:4", 0.9), ("real square", 0.7))
}


def test_table_of_the_page() -> None:
    lines = orthogonality.table(FOUND, dict.fromkeys(FOUND, 0.0123)).splitlines()
    assert lines[2] == ("| `jordan` | 1.00 | 1.00 | 0.980 / 0.25 | 0.900 / 0.25 | 0.700 / 0.25 |")
    assert "`dear`" in lines[3] and "*0.012*" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_scores_are_relative_to_jordan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonality, "exact_polar", lambda X: yardstick.exact_polar(X, tmp_path))
    monkeypatch.setattr(orthogonality, "milliseconds", lambda calls, *_: [2.0, 6.0, 4.0])
    tried = orthogonality.methods(["exact"])
    assert list(tried) == ["jordan", "exact", "polar_express, 8 steps"]
    found = orthogonality.scores(torch.randn(2, 6, 9), tried, polar.QUICK)
    assert [score.cost for score in found.values()] == [1, 3, 2]
    assert found["exact"].cosine > 0.9999 > found["jordan"].cosine


def test_front_is_what_no_other_beats() -> None:
    found = [Score(2, 0.9, 0), Score(1, 0.8, 0), Score(3, 0.85, 0), Score(4, 1.0, 0)]
    costs, heights = orthogonality.front(found)
    assert costs == [1, 2, 4]
    assert heights == pytest.approx([0.2, 0.1, orthogonality.FLOOR])


def test_picture_has_a_panel_for_each_kind_and_every_method_in_the_legend() -> None:
    kinds = dict(zip(orthogonality.KINDS, [*FOUND.values()] * 2, strict=False))
    figure = orthogonality.draw(kinds)
    *panels, legend = figure.axes
    assert [axes.get_title() for axes in panels] == list(orthogonality.KINDS)
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ["dear", "jordan"]
