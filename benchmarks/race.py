"""Every method on the demo's task, each at its own best learning rate: which one should I use?

    python benchmarks/race.py [--methods "muon(); soap()"] [--seeds 3]
    python benchmarks/race.py --report

Learning rates double and halve from 0.01 until both neighbours of the best one are known, on seed
0; the best is repeated with every seed. Otherwise methods have their defaults. Each run appends a
line to `results/race/runs.jsonl`; what stands there is not run again, so a killed race goes on
where it stopped. `--report` renders the lines into `docs/optimizers.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from fidelity_lab import Lab, Log, final_loss, mend
from fidelity_report import detectable, gaps
from pages import insert

import stiefel
from stiefel import recipes
from stiefel.bench.report import spread
from stiefel.bench.settings import Settings
from stiefel.bench.text import Text, read_text

# As one would write them: the calls themselves are the names. The first is the baseline.
METHODS = (
    "muon()",
    "adamw()",
    "normuon()",
    "adamuon()",
    "muoneq()",
    "polargrad()",
    "scion()",
    "scion_by_role()",
    "symmetric()",
    "symmetry_by_role()",
    "soap()",
    'soap(precision="bfloat16", block=192, refresh_every=2)',
    "kl_soap()",
    "shampoo()",
    "four_bit_shampoo()",
    "psgd_kron()",
    "conda()",
    "galore()",
    "dion()",
    "dion2()",
    "adafactor()",
    "lion()",
    "sgd()",
    "cautious(muon())",
    "spectra(adamw())",
    'spectra(adamw(), precision="bfloat16")',
    "hyperball(muon())",
    "lookahead(muon())",
    "averaged(muon())",
    "schedule_free(muon())",
    "schedule_free()",
)
TASK = Settings()
FURTHEST = 8  # no learning rate is tried that is further from 0.01 than so many doublings

ROOT = Path(__file__).parent.parent
LOG, PAGE = ROOT / "benchmarks/results/race/runs.jsonl", ROOT / "docs/optimizers.md"


def register(methods: Iterable[str]) -> None:
    """Make each method a recipe, or a routing, that `Settings` can name."""
    for method in methods:
        made = eval(method, dict(vars(stiefel)))
        known = recipes.REGISTRY if isinstance(made, stiefel.Recipe) else recipes.ROUTINGS
        known[method] = partial(_make, method)


def _make(method: str, **more: Any) -> Any:
    """The call with further keywords: a plan asks for a recipe without weight decay."""
    start = method.removesuffix(")")
    comma = "" if start.endswith("(") else ", "
    return eval(f"{start}{comma}**more)", {**vars(stiefel), "more": more})


# -- runs ----------------------------------------------------------------------------------------


def rate(rung: int) -> float:
    """The learning rate of a rung; each doubles the one before."""
    return float(f"{0.01 * 2.0**rung:.3g}")


def search(loss: Callable[[int], float]) -> int:
    """The rung of the lowest loss, both neighbours of which are higher or out of reach."""
    losses = {0: loss(0)}
    while True:
        best = min(losses, key=lambda rung: losses[rung])
        missing = {best - 1, best + 1} - losses.keys()
        if not missing or abs(best) == FURTHEST:
            return best
        losses |= {rung: loss(rung) for rung in sorted(missing)}


def laboratory(methods: Sequence[str], log: Log, text: Text | None = None) -> Lab:
    """Where the methods run; without a text it can look up but not run."""
    return Lab("race", TASK, {method: method for method in methods}, log, text)


def compete(lab: Lab, method: str, seeds: int) -> None:
    """Tune a method on seed 0, then run it with every seed."""
    own = replace(lab.shared, optimizer=method)
    best = search(lambda rung: lab.loss(replace(own, lr=rate(rung))))
    for seed in range(seeds):
        lab.loss(replace(own, lr=rate(best), seed=seed))


# -- results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """A method at its best learning rate: final loss by seed, and bytes of state a parameter."""

    method: str
    lr: float
    losses: dict[int, float]
    state_bytes: float


def result(lab: Lab, method: str, seeds: int) -> Result | None:
    """What is known of a method; None before every seed was run."""
    own = replace(lab.shared, optimizer=method)

    def known_loss(rung: int) -> float:
        loss = lab.known_loss(replace(own, lr=rate(rung)))
        if loss is None:
            raise LookupError(method)
        return loss

    try:
        lr = rate(search(known_loss))
    except LookupError:
        return None
    records = [lab.known(replace(own, lr=lr, seed=seed)) for seed in range(seeds)]
    if None in records:
        return None
    losses = {record.seed: final_loss(record) for record in records}
    return Result(method, lr, losses, records[0].state_bytes / records[0].parameters)


def table(results: Mapping[str, Result]) -> str:
    """The methods by their mean loss, in Markdown."""
    baseline = results[METHODS[0]]
    lines = [("method", "best lr", "loss", f"to `{baseline.method}`", "state, bytes"), ("---",) * 5]
    for found in sorted(results.values(), key=lambda found: mean(found.losses.values())):
        to_baseline = gaps(found.losses, baseline.losses)
        difference = f"{mean(to_baseline):+.3f}" if any(to_baseline) else ""
        loss = spread(list(found.losses.values()), 3)
        lines.append(
            (f"`{found.method}`", f"{found.lr:g}", loss, difference, f"{found.state_bytes:.1f}")
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def noise(results: Mapping[str, Result]) -> str:
    """The sentence that says which differences mean something."""
    baseline = results[METHODS[0]]
    others = [gaps(found.losses, baseline.losses) for found in results.values()]
    finite = [sample for sample in others if any(sample)]
    return (
        f"\nDifferences below {detectable(finite):.3f} are noise: twice the standard error of a "
        "mean over the seeds, their scatter pooled over the methods.\n"
    )


def write(results: Mapping[str, Result]) -> None:
    """Put the results into the page."""
    insert(PAGE, "race", table(results) + noise(results))


# -- the command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="; ".join(METHODS), help="calls, with ; between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="render what the log knows")
    args = parser.parse_args(arguments)
    methods = [method.strip() for method in args.methods.split(";")]
    register(methods)
    mend(LOG)
    if args.report:
        lab = laboratory(methods, Log(LOG))
        found = {method: result(lab, method, args.seeds) for method in methods}
        missing = [method for method, result in found.items() if result is None]
        print("not finished:", ", ".join(missing) or "none")
        write({method: result for method, result in found.items() if result})
    else:
        lab = laboratory(methods, Log(LOG), read_text(None, TASK.context + 1))
        for method in methods:
            compete(lab, method, args.seeds)


if __name__ == "__main__":
    main()
