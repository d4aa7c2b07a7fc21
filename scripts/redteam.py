#!/usr/bin/env python3
"""Every spoof of the catalogue against three architectures and many thieves: how often each is found, and at what cost.

    scripts/redteam.py [--tasks mlp conv transformer] [--spoofs 9 2+1 …] [--seeds N] [--jobs 2] [--again]
    scripts/redteam.py --table              prints the tables from what was tried so far
    scripts/redteam.py --quick --out DIR    a few spoofs of each kind, one thief, smaller: that the script works

For each thief an honest run of the task is sealed and its final model stolen. What is tried is kept in
docs/evidence/redteam.json, so that a run that was cut off goes on; trials made by other code than this are said to be,
and --again makes them anew. One spoof of each way to be found is verified by the command `polledger verify` where thief
0 tries it; all else by the function that the command calls, in this process, with its replaying children kept from one
run to the next and forked from a process that has loaded torch (scripts/warm.py). Every nonce is fresh and random. The
control is an honest run that goes the same way as every forgery and has to verify.
"""

import argparse
import os
import sys

# Before torch loads: threads of a busy machine wait for each other by spinning. Both are recorded and replayed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import atexit
import concurrent.futures
import contextlib
import hashlib
import json
import math
import multiprocessing
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evidence import EVIDENCE, ROOT, machine, short, table, write_evidence, write_text
from warm import warm_children

sys.path.insert(0, str(ROOT))

from polledger.errors import PolledgerError
from polledger.redteam.catalogue import catalogue, chosen
from polledger.redteam.control import CONTROL
from polledger.redteam.forge import forging, thief_key
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.table import Line, Row, lines_of, row_of
from polledger.redteam.target import target_of
from polledger.redteam.trial import try_spoof, verify_arguments, verify_forgery
from polledger.training.plan import SealOptions
from tests.redteam.judging import Judge, Pool

NAME = "redteam"

METHOD = (
    "scripts/redteam.py: one honest run per thief and task, its model stolen; every spoof forged by the thief and "
    "verified at the sample it states, all but a few by the function that polledger verify calls; intervals of "
    "confidence are Clopper-Pearson's at 95 %"
)

QUICK = ("1", "13+2", "14+fork", "18+deep")
"""Spoofs of --quick, and of the command itself: one that each kind of check finds."""

SAVE_SECONDS = 10.0
"""How often what was tried is written down."""

BUDGET = 1.0
"""What a spoof that optimises may spend, in honest trainings of the stolen model. scripts/optimised.py gives it 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An architecture small enough to be tried hundreds of times. ``thieves``: how many try each spoof."""

    name: str
    task: str
    settings: tuple[str, ...]
    every: int
    warm: int
    thieves: int
    text: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="mlp", task="polledger.examples.mlp", settings=("steps=80",), every=5, warm=5, thieves=20),
        Kind(
            name="conv",
            task="polledger.examples.digits",
            settings=("steps=60", "width=8"),
            every=5,
            warm=10,
            thieves=3,
        ),
        Kind(
            name="transformer",
            task="polledger.examples.chars",
            settings=("steps=60", "width=16", "layers=1", "heads=2", "context=16", "batch_size=16"),
            every=5,
            warm=10,
            thieves=3,
            text=True,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One trial: a spoof by name, an architecture and a thief."""

    spoof: str
    kind: str
    seed: int
    scratch: str
    budget: float
    quick: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        return self.spoof, self.kind, self.seed


def spoof_named(name: str) -> Spoof:
    """The entry ``name``, or the control."""
    return next(spoof for spoof in (CONTROL, *catalogue()) if spoof.name == name)


class Bench:
    """What one process keeps between trials: stolen models, and replaying children for the next run alike."""

    def __init__(self, scratch: Path) -> None:
        self.place = Path(tempfile.mkdtemp(dir=scratch))
        self.targets: dict[tuple[str, int, bool], Target] = {}
        self.pool = Pool()
        self.judge = Judge(pool=self.pool)
        stack = contextlib.ExitStack()
        stack.enter_context(warm_children())
        stack.callback(self.pool.close)
        atexit.register(stack.close)

    def target(self, kind: Kind, seed: int, *, quick: bool) -> Target:
        """The model of an honest run by owner number ``seed``."""
        key = (kind.name, seed, quick)
        if key not in self.targets:
            run = self.place / f"owner-{kind.name}-{seed}"
            inputs = {"text": str(write_text(self.place / "text.txt", size=20_000))} if kind.text else {}
            settings = (*kind.settings, "steps=40") if quick else kind.settings
            options = SealOptions(
                task=kind.task, run=run, every=kind.every, warm=kind.warm, settings=settings, inputs=inputs
            )
            with forging(options, thief_key(seed, "owner")) as forge:
                forge.begin()
                forge.train_through(0, forge.steps)
                forge.finish()
            self.targets[key] = target_of(run, task=kind.task, inputs=inputs)
        return self.targets[key]

    def verify(self, forgery: Forgery, target: Target) -> Mapping[str, Any]:
        """What `polledger verify --json` prints, without starting what an earlier verification left running."""
        words = verify_arguments(forgery, target)
        place = words.index("--sample")
        rest = replace(forgery, arguments=(*words[:place], *words[place + 2 :]))
        return self.judge(rest, **fresh_nonce(forgery)).to_json()

    def run(self, job: Job) -> dict[str, Any]:
        """Try once; plain values, ``skipped`` with the reason where the task does not lend itself to the spoof."""
        kind, spoof = KINDS[job.kind], spoof_named(job.spoof)
        target = self.target(kind, job.seed, quick=job.quick)
        directory = Path(tempfile.mkdtemp(dir=self.place))
        attempt = Attempt(directory=directory, seed=job.seed, budget=job.budget)
        verify = verify_forgery if job.seed == 0 and is_quick(job.spoof) else self.verify
        began = time.process_time()
        try:
            outcome = try_spoof(spoof, target, attempt, verify=verify)
        except PolledgerError as error:
            return {**head_of(job), "skipped": str(error)[:300]}
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        found = plain(row_of(spoof, outcome), outcome.report, directory)
        command = verify is verify_forgery
        return {**head_of(job), **found, "command": command, "seconds": round(time.process_time() - began, 1)}


def is_quick(name: str) -> bool:
    """Whether QUICK names the spoof, or it is the control."""
    return name == CONTROL.name or name in {spoof.name for spoof in chosen(QUICK)}


def fresh_nonce(forgery: Forgery) -> dict[str, bytes]:
    """A random nonce, unless the forgery says that the auditor takes over another one."""
    return {} if "--nonce" in forgery.arguments else {"nonce": secrets.token_bytes(32)}


def head_of(job: Job) -> dict[str, Any]:
    return {
        "task": KINDS[job.kind].task,
        "kind": job.kind,
        "spoof": job.spoof,
        "seed": job.seed,
        "code": code(),
    }


def plain(row: Row, report: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """What a file keeps of a trial: numbers to six digits, words only where they are not the same every time.

    ``place`` is where the trial wrote: its name says nothing elsewhere, and is left out.
    """
    bits = [item for item in report["intervals"] if item["outcome"] == "fail"]
    return {
        "verdict": row.verdict,
        "step": row.step,
        "finding": row.finding,
        "detail": row.detail.replace(f"{place}/", "")[:200],
        "cost": digits(row.cost),
        "reference": row.reference,
        "shipped": row.shipped,
        "sample": row.sample,
        "intervals": row.intervals,
        "opened": row.opened,
        "bogus": row.bogus,
        "odds": digits(row.odds),
        "flagged": row.flagged,
        "every": min((item["steps"][1] - item["steps"][0] for item in bits), default=None),
        "worst_e_u": digits(row.smallest),
        "parameters_e_u": digits(row.parameters),
        "reached": {name: digits(value) for name, value in row.reached.items()},
        "note": row.note,
    }


def digits(value: float | None) -> float | str | None:
    """``value`` to six digits; a number that JSON lacks by its name."""
    if value is None:
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def code() -> str:
    """Digest of everything that decides an outcome: polledger and this script."""
    total = hashlib.sha256()
    for path in [*sorted((ROOT / "polledger").rglob("*.py")), Path(__file__)]:
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


_bench: Bench | None = None


def work(job: Job) -> dict[str, Any]:
    """Runs in a worker process."""
    global _bench
    if _bench is None:
        os.environ["POLLEDGER_HOME"] = str(Path(job.scratch) / f"home-{os.getpid()}")
        _bench = Bench(Path(job.scratch))
    return _bench.run(job)


def read_attempts(directory: Path) -> list[dict[str, Any]]:
    """What was tried so far."""
    path = directory / f"{NAME}.json"
    if not path.exists():
        return []
    attempts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["attempts"]
    return attempts


def key_of(attempt: Mapping[str, Any]) -> tuple[str, str, int]:
    return attempt["spoof"], attempt["kind"], attempt["seed"]


def save(attempts: Iterable[Mapping[str, Any]], directory: Path) -> None:
    """Write everything down, in an order that does not depend on which trial ended first."""
    known = {spoof.name: number for number, spoof in enumerate((CONTROL, *catalogue()))}
    ordered = sorted(
        (item for item in attempts if item["spoof"] in known),
        key=lambda item: (list(KINDS).index(item["kind"]), known[item["spoof"]], item["seed"]),
    )
    spoofs = {
        spoof.name: {"title": spoof.title, "source": spoof.source, "why": spoof.why, "limit": spoof.limit}
        for spoof in (CONTROL, *catalogue())
    }
    kinds = {
        kind.name: {
            "task": kind.task,
            "settings": list(kind.settings),
            "every": kind.every,
            "warm": kind.warm,
            "thieves": kind.thieves,
        }
        for kind in KINDS.values()
    }
    value = {
        "method": METHOD,
        "machine": machine(),
        "budget": BUDGET,
        "kinds": kinds,
        "spoofs": spoofs,
        "attempts": ordered,
    }
    write_evidence(NAME, value, directory=directory)


def jobs_of(options: argparse.Namespace, scratch: Path) -> Iterator[Job]:
    """Every trial that is asked for, one thief after another, so that a run that is cut off has tried everything."""
    spoofs = [CONTROL, *_wanted(options)]
    most = max(KINDS[name].thieves for name in options.tasks)
    for seed in range(most if options.seeds is None else options.seeds):
        for name in options.tasks:
            if options.seeds is not None or seed < KINDS[name].thieves:
                for spoof in spoofs:
                    yield Job(
                        spoof=spoof.name,
                        kind=name,
                        seed=seed,
                        scratch=str(scratch),
                        budget=options.budget,
                        quick=options.quick,
                    )


def _wanted(options: argparse.Namespace) -> Sequence[Spoof]:
    if options.quick:
        return chosen(QUICK)
    return chosen(options.spoofs) if options.spoofs else catalogue()


def due(
    options: argparse.Namespace, scratch: Path, known: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> list[Job]:
    """What is asked for and not known, or with --again known from other code."""
    current = code()
    return [
        job
        for job in jobs_of(options, scratch)
        if job.key not in known or (options.again and known[job.key]["code"] != current)
    ]


def run_trials(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Try what is not known yet, writing down as it comes."""
    known = {key_of(item): item for item in read_attempts(options.out)}
    with tempfile.TemporaryDirectory(prefix="polledger-redteam-") as name:
        jobs = due(options, Path(name), known)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            waiting = {pool.submit(work, job): job for job in jobs}
            saved = time.monotonic()
            for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                job = waiting[future]
                known[job.key] = future.result()
                say(done, len(jobs), known[job.key])
                if time.monotonic() - saved > SAVE_SECONDS:
                    save(known.values(), options.out)
                    saved = time.monotonic()
    save(known.values(), options.out)
    return list(known.values())


def say(done: int, total: int, attempt: Mapping[str, Any]) -> None:
    verdict = attempt.get("verdict", f"skipped: {attempt.get('skipped')}")
    by = f" by step {attempt['step']} ({attempt['finding']})" if attempt.get("step") else ""
    print(
        f"{done}/{total} {attempt['kind']} {attempt['spoof']} thief {attempt['seed']}: {verdict}{by}",
        file=sys.stderr,
    )


def rows_of(attempts: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of what was tried, as :mod:`polledger.redteam.table` has them."""
    spoofs = {spoof.name: spoof for spoof in (CONTROL, *catalogue())}
    return [
        _row(spoofs[item["spoof"]], item)
        for item in attempts
        if "verdict" in item and item["spoof"] in spoofs
    ]


def _row(spoof: Spoof, item: Mapping[str, Any]) -> Row:
    return Row(
        spoof=spoof.name,
        number=spoof.number,
        title=spoof.title,
        source=spoof.source,
        seed=item["seed"],
        verdict=item["verdict"],
        step=item["step"],
        finding=item["finding"],
        detail=item["detail"],
        cost=item["cost"],
        reference=item["reference"],
        shipped=item["shipped"],
        why=spoof.why,
        sample=item["sample"],
        intervals=item["intervals"],
        opened=item["opened"],
        bogus=item["bogus"],
        odds=item["odds"],
        flagged=item["flagged"],
        smallest=_number(item["worst_e_u"]),
        parameters=_number(item["parameters_e_u"]),
        reached={name: float(value) for name, value in item["reached"].items()},
        note=item["note"],
        limit=spoof.limit,
    )


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)


COLUMNS = (
    "spoof",
    "what",
    "verdicts",
    "found by",
    "rate, 95 %",
    "n of N, bogus",
    "odds of the draw",
    "cost",
    "published kind accepts",
    "e/u (parameters)",
)


def table_of(lines: Iterable[Line]) -> str:
    """One line per spoof, as Markdown."""
    return table(COLUMNS, map(_cells, lines))


def _cells(line: Line) -> Sequence[str]:
    accepted = "–" if line.reference is None else f"{line.reference} ({line.shipped}) of {line.asked}"
    return (
        line.spoof,
        line.title,
        ", ".join(f"{count} {verdict}" for verdict, count in line.verdicts.items()),
        ", ".join(line.by) or "–",
        f"{line.detected / line.trials:.2f} [{line.low:.2f}, {line.high:.2f}]",
        "–" if line.intervals is None else f"{line.sample} of {line.intervals}, {line.bogus}",
        "–" if line.odds is None else f"{line.odds:.3g}",
        short(line.cost),
        accepted,
        "–" if line.smallest is None else f"{line.smallest:.2g} ({short(line.parameters)})",
    )


def print_tables(attempts: Sequence[Mapping[str, Any]]) -> None:
    """A table per architecture, what could not be tried, and what verified without being a stated limit."""
    for kind in KINDS.values():
        own = [item for item in attempts if item["kind"] == kind.name]
        lines = lines_of(rows_of(own))
        if lines:
            print(f"## {kind.name}: {kind.task} {' '.join(kind.settings)}\n\n{table_of(lines)}\n")
            wrong = [line.spoof for line in lines if line.succeeded and line.spoof != CONTROL.name]
            print(f"VERIFIED without being a stated limit: {', '.join(wrong) or 'none'}\n")
        for name, reason in sorted({(item["spoof"], item["skipped"]) for item in own if "skipped" in item}):
            print(f"not tried: {name}: {reason}\n")
    stale = sum(item["code"] != code() for item in attempts)
    if stale:
        print(
            f"{stale} of {len(attempts)} trials were made by other code than this: --again makes them anew\n"
        )


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--spoofs", nargs="+", default=[], metavar="NUMBER")
    parser.add_argument("--seeds", type=int, help="thieves; default: 20 for the mlp, 3 for the others")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="honest trainings that optimising may cost"
    )
    parser.add_argument("--again", action="store_true", help="try again what other code was tried on")
    parser.add_argument("--out", type=Path, default=EVIDENCE, metavar="DIR")
    parser.add_argument("--table", action="store_true", help="only print")
    parser.add_argument("--quick", action="store_true", help="a few spoofs, one thief, the smallest task")
    options = parser.parse_args(words)
    if options.quick:
        options.tasks, options.seeds, options.jobs = ["mlp"], 1, 1
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    attempts = read_attempts(options.out) if options.table else run_trials(options)
    print_tables(attempts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
