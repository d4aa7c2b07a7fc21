"""Sealing a training: prepare or continue a run, train it step by step, finish it. PROTOCOL sections 2, 4 and 14."""

import contextlib
import functools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from polledger.core.encoding import SOURCE_LIMITS
from polledger.core.records import Final
from polledger.core.source import parse_source
from polledger.errors import MalformedError, PolledgerError, Unavailable
from polledger.keys import load_or_create_key
from polledger.store.run import RunDirectory
from polledger.training.firstinterval import WAIT_SECONDS
from polledger.training.location import describe_error, resolve_task
from polledger.training.plan import Plan, SealOptions, SealResult, Setting, TaskFailed, Watcher
from polledger.training.resume import check_options, continue_run, finished, reopen
from polledger.training.source import uncommitted_modules
from polledger.training.stamping import Stamping, choose_authorities
from polledger.training.startup import begin_run, remembered_authorities, remembered_witnesses
from polledger.training.stop import StopRequest
from polledger.training.witnessing import choose_witnesses

MODEL = "model"
"""Name of the object that is published: PROTOCOL section 9."""


def seal(options: SealOptions, watcher: Watcher) -> SealResult:
    """Train the task of ``options`` and seal the run; with ``resume`` continue one that was interrupted.

    Returns also when the user stopped it (``interrupted``); every whole step is sealed then. Raises
    UsageError for options or a task that make no sense, Unavailable when a disk or a lock is in the way.
    """
    location = resolve_task(options.task)
    key = load_or_create_key(options.key)
    with _opened(options) as run:
        authorities = choose_authorities(options.authorities or remembered_authorities(run))
        witnesses = choose_witnesses(options.witnesses or remembered_witnesses(run))
        stamping = Stamping(run, authorities, witnesses=witnesses, warn=watcher.warn)
        setting = Setting(
            options=options, run=run, location=location, key=key, stamping=stamping, watcher=watcher
        )
        try:
            result = _seal(setting)
        finally:
            waiting = stamping.close()
    unwitnessed = stamping.unwitnessed()
    return replace(result, waiting=len(waiting), pending=waiting, unwitnessed=unwitnessed)


def _seal(setting: Setting) -> SealResult:
    if not setting.run.seals():
        if setting.options.resume:
            setting.watcher.warn(
                "nothing was sealed here before: the run begins anew, with the options given now"
            )
        plan = begin_run(setting)
    else:
        found = reopen(setting)
        check_options(setting.options, found.genesis)
        if found.final is not None:
            return finished(setting, found)
        plan = continue_run(setting, found)
    with contextlib.closing(plan):
        return Training(plan, setting).run()


@contextlib.contextmanager
def _opened(options: SealOptions) -> Iterator[RunDirectory]:
    """The run directory, made if need be and locked; a new one is removed again if nothing came to be sealed in it."""
    path = options.run
    is_new = not path.exists()
    resumed = options.resume and (path / "ledger.log").exists()
    run = RunDirectory.open(path) if resumed else RunDirectory.create(path)
    # Whoever does not get the lock removes nothing: two processes may have begun at once.
    with run.lock():
        try:
            yield run
        finally:
            if is_new and not run.seals():
                shutil.rmtree(path, ignore_errors=True)


class Training:
    """Runs the steps of a plan and records them."""

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self._plan = plan
        self._setting = setting
        self._done = plan.start
        self._metrics: dict[str, float] = {}
        self._warned = False
        self._modules = frozenset(sys.modules)

    def run(self) -> SealResult:
        """Train to the end, or until the user asks to stop; seal what was done in either case.

        Raises TaskFailed when the task's code does, with every step before sealed.
        """
        plan = self._plan
        started = time.monotonic()
        final: Final | None = None
        with StopRequest() as stop:
            try:
                self._train(stop, plan.genesis.steps)
                if self._done == plan.genesis.steps == self._verdict_due:
                    self._judge_first_interval()
            except TaskFailed:
                plan.recorder.seal()
                raise
            if self._done == plan.genesis.steps:
                final = plan.recorder.finish(MODEL, plan.runner.flatten())
            else:
                plan.recorder.seal()
        self._look_for_late_imports()
        return self._result(final, seconds=time.monotonic() - started)

    def try_out(self, steps: int) -> None:
        """Train the first ``steps`` steps only, after which the first intervals are recorded and not yet judged.

        Raises TaskFailed when the task's code does, KeyboardInterrupt when the user asks to stop.
        """
        with StopRequest() as stop:
            self._train(stop, steps)
            self._plan.recorder.drain()
        if stop.requested:
            raise KeyboardInterrupt
        self._look_for_late_imports()

    @property
    def _verdict_due(self) -> int:
        """The step before which the first intervals are judged."""
        cadence = self._plan.recorder.cadence
        return min(self._plan.genesis.steps, max(cadence.early_ends[-1], cadence.warm))

    def _train(self, stop: StopRequest, total: int) -> None:
        recorder = self._plan.recorder
        first, verdict_due = self._plan.first, self._verdict_due
        for number in range(self._plan.start, total):
            if stop.requested:
                return
            if number == verdict_due:
                self._judge_first_interval()
            self._step(number)
            self._done = number + 1
            if recorder.cadence.is_checkpoint(self._done):
                told = None if first is None else functools.partial(first.note_checkpoint, self._done)
                recorder.checkpoint(self._done, self._plan.runner.live(), told=told)
                self._look_for_strays()
            recorder.seal_if_due()
            self._setting.watcher.step(self._done, total, self._metrics)

    def _step(self, number: int) -> None:
        from polledger.training.nest import encode_nest

        runner, recorder = self._plan.runner, self._plan.recorder
        try:
            batch = self._plan.batches.batch(number)
            consumed = recorder.batch(number, encode_nest(batch))
            runner.prepare(number)
            groups = runner.hyperparameters()
            self._metrics = runner.step(number, batch)
        except (PolledgerError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            reason = describe_error(error, self._setting.location.root)
            raise TaskFailed(f"step {number} failed: {reason}") from error
        recorder.step(number, batch=consumed, groups=groups, metrics=self._metrics)
        if self._plan.first is not None and number < recorder.cadence.early_ends[-1]:
            self._plan.first.note_step(number, runner.batch_indices(number), consumed)

    def _look_for_strays(self) -> None:
        """Warn once of what a replay will lack."""
        found = None if self._warned else self._plan.runner.stray()
        if found is not None:
            self._warned = True
            self._setting.watcher.warn(found)

    def _look_for_late_imports(self) -> None:
        """Warn of code that was first loaded on the way: it is not committed, and no replay has it."""
        run, watcher = self._setting.run, self._setting.watcher
        try:
            source = parse_source(run.objects.get(self._plan.genesis.task, limit=SOURCE_LIMITS.size))
        except (Unavailable, MalformedError):
            # Verification says so; a warning that cannot be made does not undo a sealed run.
            return
        late = uncommitted_modules(source, self._setting.location, before=self._modules)
        if late:
            watcher.warn(
                f"{late[0]} was first imported by a step and is not committed: import it with the task"
            )

    def _judge_first_interval(self) -> None:
        first = self._plan.first
        if first is None:
            return
        # The states that are replayed have to be there.
        self._plan.recorder.drain()
        finding = first.finding(wait=WAIT_SECONDS)
        if finding is not None or first.skipped is not None:
            # What may not replay cannot be derived again either.
            self._plan.recorder.store_all()
        if finding is None and first.skipped is not None:
            self._setting.watcher.warn(f"{first.skipped}. Every checkpoint is stored from now on")
        elif finding is not None:
            self._setting.watcher.warn(
                f"{finding}. No verification can succeed where this happens: make the step depend on state, batch "
                "and step number alone. Every checkpoint is stored from now on"
            )

    def _result(self, final: Final | None, *, seconds: float) -> SealResult:
        plan = self._plan
        return SealResult(
            run=self._setting.run.path,
            run_id=plan.genesis.run,
            kind=plan.genesis.kind,
            steps=self._done,
            total=plan.genesis.steps,
            trained=self._done - plan.start,
            model_root=None if final is None else final.model_root,
            metrics=self._metrics,
            interrupted=final is None,
            waiting=0,
            blocked=plan.recorder.waited,
            seconds=seconds,
            inputs=plan.inputs,
        )
