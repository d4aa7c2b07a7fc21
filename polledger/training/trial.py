"""What ``polledger doctor`` finds out: a task's first steps are trained and replayed, and nothing is kept."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from polledger.core.replay import IsolationReport
from polledger.store.run import RunDirectory
from polledger.training.location import resolve_task
from polledger.training.plan import Plan, SealOptions, Setting, Watcher
from polledger.training.recording import Cadence
from polledger.training.rehearsal import Rehearsal, run_rehearsal
from polledger.training.session import Training
from polledger.training.stamping import Stamping
from polledger.training.startup import draft_run, open_plan, request_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How the first ``steps`` steps went.

    ``cadence``: of a run with these options. ``code_files`` and ``code_bytes``: what it would commit, and how many
    ``examples``; None where it can commit none. ``step_seconds``: of one step; None where there was but one. ``found``:
    what a replay in fresh processes gave otherwise, ``skipped``: why nothing is known of that; both None where every
    bit is the same, and ``isolation`` is what was kept from those processes.
    """

    rehearsal: Rehearsal
    cadence: Cadence
    code_files: int
    code_bytes: int
    examples: int | None
    steps: int
    step_seconds: float | None
    found: str | None
    skipped: str | None
    isolation: IsolationReport | None


def try_task(options: SealOptions, watcher: Watcher) -> Trial:
    """Train the first two intervals of a task in the new directory ``options.run`` and replay them.

    They have ``every`` steps each, so that whatever takes more than one step to show has some. The data set is not
    hashed, and nobody is asked for a timestamp. Raises as :func:`polledger.training.session.seal`, and
    KeyboardInterrupt when the user asks to stop.
    """
    run = RunDirectory.create(options.run)
    with run.lock(), contextlib.closing(Stamping(run, (), warn=watcher.warn)) as stamping:
        clock = _Clock(watcher)
        setting = Setting(
            options=options,
            run=run,
            location=resolve_task(options.task),
            key=Ed25519PrivateKey.generate(),
            stamping=stamping,
            watcher=clock,
        )
        watcher.phase("rehearsing one step in a fresh process")
        rehearsal = run_rehearsal(request_of(setting))
        draft = draft_run(setting, rehearsal)
        # Nobody reads what is stored.
        sparse = replace(draft, cadence=replace(draft.cadence, warm=0, keep=draft.cadence.steps))
        with contextlib.closing(open_plan(sparse, lambda _: UNSET)) as plan:
            steps = sparse.cadence.early_ends[-1]
            Training(plan, setting).try_out(steps)
            watcher.phase(f"replaying {steps} steps in fresh processes")
            found, skipped, isolation = _judged(plan)
        return Trial(
            rehearsal=rehearsal,
            cadence=draft.cadence,
            code_files=len(draft.contents),
            code_bytes=sum(map(len, draft.contents.values())),
            examples=None if draft.runner.makes_batches else rehearsal.examples,
            steps=steps,
            step_seconds=clock.step_seconds(),
            found=found,
            skipped=skipped,
            isolation=isolation,
        )


def _judged(plan: Plan) -> tuple[str | None, str | None, IsolationReport | None]:
    """What differs in a replay, else why none was made, else what was kept from it."""
    if plan.first is None:
        raise RuntimeError("a new run has first intervals")
    found = plan.first.finding()
    equal = found is None and plan.first.skipped is None
    return found, plan.first.skipped, plan.first.isolation() if equal else None


class _Clock:
    """Notes when steps end, and tells who watches all the same."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._ends: list[float] = []

    def phase(self, text: str) -> None:
        self._watcher.phase(text)

    def progress(self, done: int, total: int) -> None:
        self._watcher.progress(done, total)

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self._ends.append(time.monotonic())
        self._watcher.step(done, total, metrics)

    def warn(self, text: str) -> None:
        self._watcher.warn(text)

    def step_seconds(self) -> float | None:
        """Seconds of one step, the first one left out: it is slower than any other."""
        count = len(self._ends) - 1
        return (self._ends[-1] - self._ends[0]) / count if count > 0 else None
