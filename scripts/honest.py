#!/usr/bin/env python3
"""Honest runs, verified as other machines would: none may be refuted, and how far they stay from spoofs is measured.

    scripts/honest.py --work DIR [--minutes 60] [--only NAME]    seals, verifies, writes docs/evidence/honest.json
    scripts/honest.py --table                                    prints the tables from that file

Every run is sealed with `polledger seal`, some with one thread, some with another instruction set, and verified again
and again with `polledger verify` under fresh samples and under policies that replay as another machine: another thread
count, another CPU capability, both. DIR keeps what was done, so that a run that was cut off goes on. With every run of
a kind a spoof is made as well (all its checkpoints interpolated, sealed anew) and replayed: the
margin of a group is the smallest error/displacement of spoofs over the largest of honest replays on other machines.
Other spoofs' figures are taken from docs/evidence/redteam.json where it gives them.
"""

import argparse
import hashlib
import json
import math
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bend import bend
from evidence import EVIDENCE, at_least, command, machine, short, table, write_evidence, write_key, write_text

from polledger.core.tolerance import lean_false_alarm

NAME = "honest"

METHOD = "polledger seal and polledger verify --json, as scripts/honest.py says"

# Threads of a busy machine wait for each other by spinning, at a hundredth of the speed. It changes no bit, and what it
# is set to is recorded and replayed like everything that could.
PATIENT = {"GOMP_SPINCOUNT": "0"}
ONE_THREAD = {**PATIENT, "OMP_NUM_THREADS": "1"}
AVX2 = {**PATIENT, "ATEN_CPU_CAPABILITY": "avx2"}

SMALL_CHARS = ("context=32", "width=48", "batch_size=16")
NARROW = ("width=8",)

EARLY = 0.25
"""Share of a run's steps that counts as early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One sealed run. ``kind`` is the architecture; ``sets`` are --set options; ``variables``: how it is recorded.

    ``sample`` intervals are drawn at each verification.
    """

    kind: str
    task: str
    steps: int
    every: int
    seed: int
    sets: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=lambda: PATIENT)
    sample: int = 6
    spoof: bool = True

    @property
    def name(self) -> str:
        return f"{self.kind}-k{self.every}".replace(" ", "-")


def run(kind: str, example: str, steps: int, every: int, seed: int, **rest: Any) -> Run:
    return Run(kind=kind, task=f"polledger.examples.{example}", steps=steps, every=every, seed=seed, **rest)


RUNS = (
    run("mlp", "mlp", 60, 1, 11),
    run("mlp", "mlp", 200, 10, 12, variables=ONE_THREAD),
    run("mlp", "mlp", 300, 25, 13, sets=("layers=2",), variables=AVX2),
    run("mlp", "mlp", 600, 100, 14),
    run("mlp RMSprop", "mlp", 200, 10, 15, sets=("optimizer=RMSprop", "lr=0.002", "schedule=linear")),
    run("transformer", "chars", 40, 1, 21, sets=SMALL_CHARS),
    run("transformer", "chars", 120, 10, 22, sets=SMALL_CHARS, variables=ONE_THREAD),
    run("transformer", "chars", 200, 25, 23, sets=SMALL_CHARS, variables=AVX2, sample=4),
    run("transformer", "chars", 300, 50, 24, sets=SMALL_CHARS, sample=2),
    run("conv BN", "digits", 100, 5, 31, sets=("width=16",)),
    run("conv BN", "digits", 200, 10, 32, sets=("width=16",), variables=ONE_THREAD),
    run("conv BN", "digits", 300, 25, 33, sets=("width=16",), variables=AVX2, sample=3),
    run("resnet BN", "resnet", 40, 1, 41, sets=NARROW),
    run("resnet BN", "resnet", 100, 5, 42, sets=NARROW, variables=ONE_THREAD),
    run("resnet BN", "resnet", 200, 10, 43, sets=NARROW, sample=4),
    run("resnet BN", "resnet", 300, 25, 44, sets=NARROW, variables=AVX2, sample=2),
    run("gan", "gan", 100, 5, 51),
    run("gan", "gan", 200, 25, 52, variables=ONE_THREAD, sample=4),
    run("transformer bf16", "chars", 60, 5, 61, sets=(*SMALL_CHARS, "precision=bf16"), spoof=False),
    run("resnet BN bf16", "resnet", 40, 2, 62, sets=(*NARROW, "precision=bf16"), spoof=False),
)

BATCH_NORM = ("conv BN", "resnet BN", "gan")
"""Kinds with batch normalisation, whose share of unverifiable intervals is printed."""

SHARES = ("mlp", "mlp RMSprop", "transformer")
"""Kinds of which at least 90 % have to be VERIFIED on another machine."""

REQUIRED_MARGINS = {"mlp": 1e4, "transformer": 100.0, "resnet BN": 5.0}

MACHINES = {
    "as recorded": "",
    "one thread": "threads = 1\n",
    "AVX2": 'capability = "AVX2"\n',
    "one thread, AVX2": 'threads = 1\ncapability = "AVX2"\n',
    "one thread, again": "threads = 1\n",
    "AVX2, again": 'capability = "AVX2"\n',
    "one thread, AVX2, again": 'threads = 1\ncapability = "AVX2"\n',
    "AVX2, a third time": 'capability = "AVX2"\n',
    "two threads": "threads = 2\n",
}
# Not among them: a CPU without AVX. There torch's generators round otherwise, the first state differs from the recorded
# one by 2e-7 of its norm, and step 8 says UNVERIFIABLE of every honest run.
"""The table [replay] of the policy, by the machine that it replays as."""

SPOOF = "interpolation"

FIRST = ("as recorded", "one thread", "AVX2", SPOOF)
"""What is done first, so that a run that is cut off has everything that margins need."""

SPOOF_REPLAY = '[replay]\ncapability = "DEFAULT"\n'

LOWERS = (
    "What lowers it: a smaller k (--every), checkpoints after every step for longer at the start (--warm), and "
    "verifying where the run was recorded: equal bits leave nothing to judge."
)


def verifications(item: Run) -> Iterator[str]:
    """The machines to verify ``item`` as: one thread where two recorded it, another instruction set where one did."""
    single = item.variables.get("OMP_NUM_THREADS") == "1"
    for name in MACHINES:
        if name == "as recorded" or name.startswith("one thread") == (not single):
            yield name


def policy_text(item: Run, name: str) -> str:
    """The policy of a verification; the default one but for the machine, and fewer intervals where they are long."""
    top = "" if item.sample >= 6 else "[sample]\ntop = 1\n"
    return f"{top}[replay]\n{MACHINES[name]}"


@dataclass(slots=True)
class Work:
    """The directory that keeps sealed runs and what verifying them gave."""

    place: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        for made in ("runs", "policies"):
            (self.place / made).mkdir(exist_ok=True)
        if self.log.exists():
            self.rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        if not self.text.exists():
            write_text(self.text)
        if not self.key.exists():
            write_key(self.key, "polledger/scripts/honest.py")

    @property
    def log(self) -> Path:
        return self.place / "results.jsonl"

    @property
    def text(self) -> Path:
        return self.place / "text"

    @property
    def key(self) -> Path:
        return self.place / "key.pem"

    def has(self, item: Run, name: str) -> bool:
        return any((row["run"], row["machine"]) == (item.name, name) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def command(self, *words: str, variables: Mapping[str, str] = PATIENT) -> dict[str, Any]:
        return command(words, home=self.place / "home", variables=variables)

    def inputs(self, item: Run) -> list[str]:
        return ["--input", f"text={self.text}"] if item.task.endswith("chars") else []

    def sealed(self, item: Run) -> Path:
        """The run directory of ``item``, sealed now if it is not there yet."""
        path = self.place / "runs" / item.name
        if not (path / "sealed").exists():
            # What a cut-off left behind.
            shutil.rmtree(path, ignore_errors=True)
            words = ["seal", item.task, "--run", str(path), "--key", str(self.key), *self.inputs(item)]
            words += ["--steps", str(item.steps), "--every", str(item.every), "--seed", str(item.seed)]
            words += ["--warm", str(min(10, item.steps)), "--tsa", "embedded"]
            words += [word for setting in item.sets for word in ("--set", setting)]
            self.command(*words, variables=item.variables)
            (path / "sealed").touch()
        return path

    def verify(self, item: Run, name: str) -> dict[str, Any]:
        """One verification of ``item`` as the machine ``name``."""
        policy = (
            self.place
            / "policies"
            / f"{hashlib.sha256(policy_text(item, name).encode()).hexdigest()[:16]}.toml"
        )
        policy.write_text(policy_text(item, name))
        nonce = hashlib.sha256(f"{item.name}/{name}".encode()).hexdigest()[:32]
        path = self.sealed(item)
        began = time.perf_counter()
        report = self.command(
            "verify", str(path), "--sample", str(item.sample), "--nonce", nonce, "--policy", str(policy),
            *self.inputs(item),
        )  # fmt: skip
        return {
            "run": item.name,
            "machine": name,
            "nonce": nonce,
            "seconds": round(time.perf_counter() - began, 1),
            **summary(report),
        }

    def spoofed(self, item: Run) -> dict[str, Any]:
        """Interpolate every checkpoint of ``item``, seal that anew, and replay it with one thread and no AVX."""
        target = self.place / "runs" / f"{item.name}-{SPOOF}"
        if not target.exists():
            bend(self.sealed(item), target, self.key, share=0.0)
        policy = self.place / "policies" / "spoof.toml"
        # Only errors and displacements are asked for: noise changes neither, and a spoof needs no second replay.
        policy.write_text("[comparison]\nnoise_seconds = 0\n" + SPOOF_REPLAY)
        report = self.command(
            "verify", str(target), "--sample", str(item.sample), "--policy", str(policy), *self.inputs(item)
        )
        return {"run": item.name, "machine": SPOOF, **summary(report)}


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a report."""
    drift = [finding for finding in report["findings"] if finding["name"] == "drift"]
    bad = report["first_bad"]
    return {
        "verdict": report["verdict"],
        "comparison": report["comparison"],
        "why": f"{bad['step']} {bad['name']}: {bad['detail']}" if bad else "",
        "drift": drift[0]["outcome"] if drift else "",
        "timing": report["timing"],
        "intervals": [
            {
                "steps": item["steps"],
                "outcome": item["outcome"],
                "exact": item["exact"],
                "why": item["why"],
                "groups": {name: _ratios(group) for name, group in item["groups"].items()},
                "d_ref": max(
                    (found.get("d_ref_normalised", 0.0) for found in item["distances"].values()), default=0.0
                ),
            }
            for item in report["intervals"]
        ],
    }


def _ratios(group: Mapping[str, Any]) -> list[float | None]:
    """e/u and ν/u; None where there is none (u = 0, or ν not measured)."""
    e, u, nu = (float(group[name]) if name in group else math.nan for name in ("e", "u", "nu"))
    return [_share(e, u), _share(nu, u)]


def _share(value: float, u: float) -> float | None:
    if value == 0:
        return 0.0
    return value / u if u and math.isfinite(value / u) else None


# What the results say.


def by_name(name: str) -> Run:
    return next(item for item in RUNS if item.name == name)


def honest(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["machine"] != SPOOF]


def elsewhere(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in honest(rows) if row["machine"] != "as recorded"]


def phase(item: Run, interval: Mapping[str, Any]) -> str:
    return "early" if interval["steps"][0] < EARLY * item.steps else "late"


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How verifications ended, by kind of run, on the recorded machine and on others."""
    found: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for row in honest(rows):
        found[by_name(row["run"]).kind, row["machine"] != "as recorded"].append(row["verdict"])
    return [
        {
            "kind": kind,
            "elsewhere": other,
            "verifications": len(ends),
            **{end: ends.count(end) for end in ("VERIFIED", "UNVERIFIABLE", "REFUTED")},
        }
        for (kind, other), ends in sorted(found.items())
    ]


def unverifiable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Share of the intervals replayed on another machine that stay unverifiable, by kind, k and phase."""
    found: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for row in elsewhere(rows):
        item = by_name(row["run"])
        for interval in row["intervals"]:
            first, last = interval["steps"]
            found[item.kind, last - first, phase(item, interval)].append(interval["outcome"])
    return [
        {
            "kind": kind,
            "k": k,
            "phase": when,
            "intervals": len(ends),
            "unverifiable": ends.count("unverifiable"),
            "failed": ends.count("fail"),
        }
        for (kind, k, when), ends in sorted(found.items())
    ]


def largest_errors(rows: Iterable[Mapping[str, Any]], pick: Any) -> dict[tuple[str, str, int, str], float]:
    """``pick`` (max or min) of e/u by kind, group, k and phase; groups of equal bits count 0."""
    found: dict[tuple[str, str, int, str], float] = {}
    for row in rows:
        item = by_name(row["run"])
        for interval in row["intervals"]:
            first, last = interval["steps"]
            for group, (error, _) in interval["groups"].items():
                if error is not None:
                    key = (item.kind, group, last - first, phase(item, interval))
                    found[key] = pick(found.get(key, error), error)
    return found


def margins(
    rows: Sequence[Mapping[str, Any]], others: Mapping[tuple[str, int], float]
) -> list[dict[str, Any]]:
    """Smallest spoof over largest honest e/u, by kind, group, k and phase.

    A group that a spoof gets right by itself (such as a step counter) gives none. ``others``: the smallest e/u of other
    spoofs by kind and k, of any group; it counts for the parameters.
    """
    error = largest_errors(elsewhere(rows), max)
    spoof = largest_errors((row for row in rows if row["machine"] == SPOOF), min)
    result = []
    for key, smallest in sorted(spoof.items()):
        kind, group, k, when = key
        if group.endswith("/parameters"):
            smallest = min(smallest, others.get((kind, k), smallest))
        if key in error and smallest >= SPOOF_FLOOR:
            largest = error[key]
            result.append(
                {
                    "kind": kind,
                    "group": group,
                    "k": k,
                    "phase": when,
                    "honest": largest,
                    "spoof": smallest,
                    "margin": smallest / largest if largest else None,
                }
            )
    return result


SPOOF_FLOOR = 0.05
"""e/u below which a spoof got a group right: the group has no part in telling it."""


def worst_margins(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Smallest margin over groups and phases, by kind and k; a group without any honest error has no margin."""
    worst: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in found:
        key = (row["kind"], row["k"])
        if row["margin"] is not None and row["margin"] < worst.get(key, {"margin": math.inf})["margin"]:
            worst[key] = row
    return [dict(row) for _, row in sorted(worst.items())]


def recommended(kind: str, worst: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Largest k at which every margin up to it suffices, and the first at which one does not."""
    need = REQUIRED_MARGINS[kind]
    kept = None
    for row in sorted((row for row in worst if row["kind"] == kind), key=lambda row: row["k"]):
        if row["margin"] < need:
            return kept, row["k"]
        kept = row["k"]
    return kept, None


def lean_simulated(trials: int = 200_000) -> dict[str, float]:
    """How often residuals of the replicas' own law fail the directed-residual test: 3 times the largest of 5."""
    generator = random.Random(7)

    def normal() -> float:
        return generator.gauss(0, 1)

    def heavy() -> float:
        # Student's t with 3 degrees of freedom: far heavier tails than sums of roundings have.
        return generator.gauss(0, 1) / math.sqrt(sum(generator.gauss(0, 1) ** 2 for _ in range(3)) / 3)

    rates = {"computed": lean_false_alarm(margin=3.0, replicas=5)}
    for name, draw in (("normal", normal), ("student t, 3", heavy)):
        alarms = sum(draw() > 3 * max(abs(draw()) for _ in range(5)) for _ in range(trials))
        rates[name] = alarms / trials
    return rates


SYNTHETIC = {1, 2, 3, 4, 5, 6, 9, 27}
"""Spoofs of the red team whose intervals were not trained. The others plant, swap or choose their error, and are found
by other checks than the size of an error."""

KINDS = {
    "polledger.examples.mlp": "mlp",
    "polledger.examples.chars": "transformer",
    "polledger.examples.digits": "conv BN",
    "polledger.examples.resnet": "resnet BN",
}


def redteam_ratios(directory: Path = EVIDENCE) -> dict[tuple[str, int], float]:
    """Smallest parameter e/u of synthetic intervals by (kind, k), from redteam.json; empty where there is none."""
    path = directory / "redteam.json"
    if not path.exists():
        return {}
    found: dict[tuple[str, int], float] = {}
    for row in json.loads(path.read_text())["attempts"]:
        kind, ratio = KINDS.get(row["task"]), row.get("parameters_e_u")
        number = int(row["spoof"].partition("+")[0])
        if kind is not None and ratio is not None and number in SYNTHETIC:
            key = (kind, int(row["every"]))
            found[key] = min(found.get(key, math.inf), float(ratio))
    return found


def evaluate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that is printed, from the rows of verifications."""
    found = margins(rows, redteam_ratios())
    off = elsewhere(rows)
    share = {
        kind: sum(row["verdict"] == "VERIFIED" for row in own) / len(own)
        for kind in SHARES
        if (own := [row for row in off if by_name(row["run"]).kind == kind])
    }
    worst = worst_margins(found)
    return {
        "honest_verifications": len(honest(rows)),
        "refuted": [row for row in honest(rows) if row["verdict"] == "REFUTED"],
        "verified_share": share,
        "verdicts": verdicts(rows),
        "unverifiable": unverifiable(rows),
        "margins": found,
        "worst_margins": worst,
        "recommended": {kind: recommended(kind, worst) for kind in REQUIRED_MARGINS},
        "drift": {
            "tests": sum(row["drift"] != "" for row in off),
            "alarms": sum(row["drift"] == "unverifiable" for row in off),
            "rates": lean_simulated(),
        },
        "whys": sorted(
            {f"{row['run']}: {row['why']}" for row in honest(rows) if row["verdict"] != "VERIFIED"}
        ),
    }


def print_tables(value: Mapping[str, Any]) -> None:
    print(f"{value['honest_verifications']} honest verifications, {len(value['refuted'])} REFUTED.\n")
    columns = ("kind", "machine", "verifications", "VERIFIED", "UNVERIFIABLE", "REFUTED")
    print(
        table(
            columns,
            [
                (
                    row["kind"],
                    "another" if row["elsewhere"] else "as recorded",
                    row["verifications"],
                    row["VERIFIED"],
                    row["UNVERIFIABLE"],
                    row["REFUTED"],
                )
                for row in value["verdicts"]
            ],
        )
    )
    print("\nUnverifiable intervals on another machine, nets with batch normalisation:\n")
    rows = [row for row in value["unverifiable"] if row["kind"].removesuffix(" bf16") in BATCH_NORM]
    print(
        table(
            ("kind", "k", "phase", "intervals", "unverifiable"),
            [(*(row[name] for name in ("kind", "k", "phase", "intervals")), _percent(row)) for row in rows],
        )
    )
    print("\n" + LOWERS)
    print("\nSmallest margin (spoof over honest error/displacement) by kind and k:\n")
    print(
        table(
            ("kind", "k", "group", "phase", "largest honest e/u", "smallest spoof e/u", "margin"),
            [
                (
                    *(row[name] for name in ("kind", "k", "group", "phase")),
                    *(short(row[name]) for name in ("honest", "spoof")),
                    at_least(row["margin"]),
                )
                for row in value["worst_margins"]
            ],
        )
    )
    print()
    for kind, (kept, falls) in value["recommended"].items():
        limit = f"falls below at k = {falls}" if falls else "holds for every k measured"
        print(f"- {kind}: a margin of {REQUIRED_MARGINS[kind]:g} holds up to k = {kept}; it {limit}.")
    drift = value["drift"]
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in drift["rates"].items())
    print(
        f"- directed-residual test: {drift['alarms']} alarms in {drift['tests']} honest tests; rates: {rates}."
    )


def _percent(row: Mapping[str, Any]) -> str:
    return f"{row['unverifiable']} ({row['unverifiable'] / row['intervals']:.0%})"


def measure(work: Work, *, only: str, seconds: float) -> None:
    """Do what is not done yet, for about ``seconds``: broad first, so that a cut leaves no kind out."""
    end = time.monotonic() + seconds
    chosen = [item for item in RUNS if only in item.name]
    for name in (*FIRST, *(name for name in MACHINES if name not in FIRST)):
        for item in chosen:
            wanted = item.spoof if name == SPOOF else name in verifications(item)
            if not wanted or work.has(item, name):
                continue
            if time.monotonic() > end:
                return
            row = work.spoofed(item) if name == SPOOF else work.verify(item, name)
            work.add(row)
            print(f"{row['run']} {name}: {row['verdict']} {row['why']}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Verify honest runs as other machines would.")
    parser.add_argument("--work", type=Path, help="directory that keeps runs and results")
    parser.add_argument("--minutes", type=float, default=120.0, help="begin nothing new after that")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument(
        "--table", action="store_true", help="print the tables from docs/evidence/honest.json"
    )
    wanted = parser.parse_args()
    path = EVIDENCE / f"{NAME}.json"
    if wanted.work is not None:
        work = Work(wanted.work)
        measure(work, only=wanted.only, seconds=60 * wanted.minutes)
        write_evidence(
            NAME, {"machine": machine(), "method": __doc__, **evaluate(work.rows), "rows": compact(work.rows)}
        )
    elif not wanted.table:
        parser.error("give --work DIR or --table")
    print_tables(json.loads(path.read_text()))


def compact(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each verification: enough to draw its sample again and to see how it ended.

    Spoofs were not verified for a verdict, so none is kept.
    """
    of_spoofs = ("run", "machine")
    of_runs = (*of_spoofs, "nonce", "verdict", "comparison", "why", "drift")
    return [
        {
            **{key: row[key] for key in (of_spoofs if row["machine"] == SPOOF else of_runs)},
            "intervals": [
                [*item["steps"], item["outcome"], max(_errors(item), default=0.0)]
                for item in row["intervals"]
            ],
        }
        for row in rows
    ]


def _errors(interval: Mapping[str, Any]) -> list[float]:
    return [error for error, _ in interval["groups"].values() if error is not None]


if __name__ == "__main__":
    main()
