#!/usr/bin/env python3
"""Measures what optimisation buys a thief: synthetic batches (spoofs 2+3, 3, 4), steering (22), drift (24).

    scripts/optimised.py [--budgets 16] [--seeds 1] [--only 22+domains 3] [--steps 400]

Trains the perceptron example once, steals its last weights, and gives every spoof each budget, in gradient
computations of that training. Writes docs/evidence/optimised.json as it goes: what each spoof cost and reached, what
`polledger verify` and a verifier of the published kind said. Takes about a minute per row on one core.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from polledger import __version__
from polledger.redteam import steering, synthetic, tolerance_drift
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.spoof import Attempt, Spoof, Target
from polledger.redteam.steering import reached_by
from polledger.redteam.target import target_of
from polledger.redteam.trial import ask_reference, verify_forgery
from polledger.training.determinism import cpu_name
from polledger.training.plan import SealOptions

TASK = "polledger.examples.mlp"
EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "optimised.json"
SAMPLE = 5
"""Intervals verified per row besides the flagged and the fastest: enough to see the verdict, not to estimate odds."""

SPOOFS: tuple[Spoof, ...] = (*steering.LIMITS, *synthetic.SPOOFS, *tolerance_drift.SPOOFS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what optimisation buys a thief.")
    parser.add_argument("--budgets", type=float, nargs="+", default=[16.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=EVIDENCE)
    wanted = parser.parse_args()
    spoofs = [spoof for spoof in SPOOFS if not wanted.only or spoof.name in wanted.only]
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("POLLEDGER_HOME", str(Path(name) / "home"))
        target = honest_target(Path(name) / "honest", wanted.steps)
        found = {"honest": honest_reach(target, Path(name) / "other", wanted.seeds[0])}
        rows: list[dict[str, Any]] = []
        for number, (spoof, budget, seed) in enumerate(cases(spoofs, wanted.budgets, wanted.seeds)):
            directory = Path(name) / str(number)
            directory.mkdir()
            rows.append(row(spoof, target, Attempt(directory=directory, seed=seed, budget=budget)))
            write(wanted.out, wanted.steps, {**found, "rows": rows})
            print(json.dumps(rows[-1]), flush=True)


def cases(spoofs: list[Spoof], budgets: list[float], seeds: list[int]) -> Iterator[tuple[Spoof, float, int]]:
    """What drifts trains once, whatever the budget."""
    for spoof in spoofs:
        for budget in budgets if spoof.number != 24 else budgets[:1]:
            for seed in seeds:
                yield spoof, budget, seed


def honest_target(run: Path, steps: int) -> Target:
    """What a thief has of one honest training."""
    options = SealOptions(task=TASK, run=run, every=10, warm=4, settings=(f"steps={steps}",))
    with forging(options, thief_key(0, "owner")) as forge:
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
    return target_of(run, task=TASK)


def row(spoof: Spoof, target: Target, attempt: Attempt) -> dict[str, Any]:
    """Forge once, ask both verifiers."""
    forgery = spoof.forge(target, attempt)
    report = verify_forgery(replace(forgery, sample=SAMPLE), target)
    reference = ask_reference(forgery, target)
    return {
        "spoof": spoof.name,
        "title": spoof.title,
        "seed": attempt.seed,
        "budget": attempt.budget,
        "cost": round(forgery.gradients, 3),
        "reached": {name: round(value, 5) for name, value in forgery.reached.items()},
        "verdict": report["verdict"],
        "comparison": report["comparison"],
        "steps": sorted({f["step"] for f in report["findings"] if f["outcome"] == decisive(report)}),
        "opened": len(report["intervals"]),
        **(
            {}
            if reference is None
            else {
                "reference": reference.accepts,
                "reference_l2": round(reference.largest_error, 5),
                "reference_smallest_p": round(reference.smallest_p, 4),
                "reference_why": reference.why,
            }
        ),
    }


def decisive(report: Any) -> str:
    """The outcome of the findings that a verdict rests on."""
    return {"REFUTED": "fail", "UNVERIFIABLE": "unverifiable"}.get(report["verdict"], "")


def honest_reach(target: Target, directory: Path, seed: int) -> dict[str, float]:
    """How near an honest training under the thief's key ends: what a spoof has to be held against."""
    options = seal_options(target, Attempt(directory=directory, seed=seed))
    with forging(options, thief_key(seed, steering.KEY)) as forge:
        start = reached_by(forge, target)["distance"]
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
        reached = reached_by(forge, target)
    return {**reached, "start": start, "share": reached["distance"] / start}


def write(path: Path, steps: int, found: dict[str, Any]) -> None:
    """Everything so far, with the machine and the method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "polledger": __version__,
        },
        "method": f"scripts/optimised.py: {TASK}, {steps} steps, --sample {SAMPLE}. One gradient of one honest batch "
        "is one computation, a gradient of a gradient three; cost and budget are in honest trainings",
        **found,
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
