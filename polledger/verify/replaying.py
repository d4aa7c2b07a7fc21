"""Steps 7 to 9, running: opens intervals in ascending order, replays them, and has what differs judged.

No state reaches a child before that child has answered what comes before it: one session replays ascending, and
everything that is run again runs in a second one. What others replayed beside it (verify/beside.py) is used where it is
all that the records say. PROTOCOL section 10.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise

from polledger.core.config import decode_config
from polledger.core.environment import same_class
from polledger.core.opened import IntervalResult
from polledger.core.records import Environment
from polledger.core.replay import Replayer, ReplayJob, ReplayOutcome, Variant
from polledger.core.report import Finding
from polledger.core.state import FlatState
from polledger.errors import MalformedError, Unavailable
from polledger.verify.ancestry import Start
from polledger.verify.beside import Beside, Done, InTurn, room_for
from polledger.verify.custom import REPLAY_ERRORS, CustomBatches
from polledger.verify.data import DataChecks, OpenedInterval
from polledger.verify.hyperparameters import differing_steps
from polledger.verify.judging import Judge, Replayed
from polledger.verify.lineage import Interval, stretch_to_stored
from polledger.verify.metrics import NAME as METRICS
from polledger.verify.metrics import metrics_finding
from polledger.verify.origin import OriginTask, step_origin
from polledger.verify.prefetch import Prefetch
from polledger.verify.replaytask import ELSEWHERE, NotOpened, ReplayTask, job_of
from polledger.verify.running import Compared, Prepared, Running, agree, bytes_of, not_opened, unopened
from polledger.verify.states import LoadedState, hash_state, load_state

_SEE_DATA = "see step 7"
_RESTORE = "restore the object from a copy"

TRIED = 2
"""Intervals that are replayed alone before others run beside: what a step takes, and how large states are, is known.
Of the first alone it is not."""


@dataclass(slots=True)
class ReplaySession:
    """Replays of one verification. Close it after use; results are kept per interval."""

    task: ReplayTask
    results: dict[int, IntervalResult] = field(default_factory=dict)
    checked: set[int] = field(default_factory=set)
    """Intervals whose steps went through every check of step 7."""
    findings: list[Finding] = field(default_factory=list)
    replay_seconds: float = 0.0
    replayed_steps: int = 0
    environment: Environment | None = None
    """What the replaying child last described itself as."""
    isolation: dict[str, bool] = field(default_factory=dict)
    data: DataChecks = field(init=False)
    custom: CustomBatches = field(init=False)
    judge: Judge = field(init=False)
    _prefetch: Prefetch = field(init=False)
    _runner: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    """Waits for the replaying process, so that this thread can do what else there is to do."""
    _ahead: dict[int, Prepared | NotOpened] = field(default_factory=dict)
    """Of the next interval: what is opened already, and maybe under way."""
    _next: dict[int, Interval] = field(default_factory=dict)
    _beside: Beside = field(init=False)
    _kept_apart: bool = False
    """The process that replays in turn has said that the system keeps files and network from it."""
    _sizes: tuple[int, int] = (0, 0)
    """Bytes of the largest state that came back so far, and of the largest batch."""
    _longest: int = 0
    """Steps of the longest interval that will be opened."""
    _alone: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and steps of every replay that nothing ran beside."""
    _main: Replayer | None = None
    _check: Replayer | None = None
    _pinned: Environment | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _carry: LoadedState | None = None
    _final: FlatState | None = None
    _final_read: bool = False

    def __post_init__(self) -> None:
        task = self.task
        genesis = task.lineage.genesis
        self.data = DataChecks(
            genesis=genesis,
            openings=task.openings,
            data_here=task.data_here,
            known=task.policy.data.known,
        )
        self._prefetch = Prefetch(task.objects)
        self._beside = Beside(task, base=self.base, run=self._run, wanted=self.data.undisputed)
        self.custom = CustomBatches(
            intervals=task.lineage.intervals,
            data=self.data,
            inputs_declared=task.inputs_declared,
            again=lambda interval: self._second(interval.environment),
        )
        self.judge = Judge(
            genesis=genesis,
            policy=task.policy,
            base=self.base,
            seed=task.seed,
            clock=task.clock,
            pace=self.pace,
            final=self._last_state,
            # Only in a recipe does config decide in what it is computed: elsewhere the prover could widen the noise.
            precision_config=decode_config(genesis.config) if genesis.kind == "recipe" else {},
            own=task.own,
        )

    @property
    def base(self) -> Variant:
        """How the policy deviates from the recorded environment, normally not at all."""
        settings = self.task.policy.replay
        return Variant(threads=settings.threads, capability=settings.capability)

    def differences(self, here: Environment, recorded: Environment) -> list[str]:
        """In what this machine is of another environment class; empty where equal bits are owed."""
        return [*same_class(here, recorded), *self.task.packages]

    def pace(self) -> float:
        """Seconds a step took on average where nothing was replayed beside it; 0 before the first.

        The first replay pays for what the libraries set up once: it counts where there is no other.
        """
        counted = self._alone[1:] or self._alone
        steps = sum(steps for _, steps in counted)
        return sum(seconds for seconds, _ in counted) / steps if steps else 0.0

    def close(self) -> None:
        """End every process, also one in which a replay is under way. Idempotent."""
        for replayer in (self._main, self._check, *self._beside.replayers):
            if replayer is not None:
                taken = replayer.isolation()
                files, network = self.isolation.get("files", True), self.isolation.get("network", True)
                self.isolation = {"files": files and taken.files, "network": network and taken.network}
        self._main = self._check = None
        self._kept_apart = False
        self._beside.end()
        self._stack.close()
        self._ahead.clear()
        self._runner.shutdown()
        self._runner = ThreadPoolExecutor(max_workers=1)
        self._prefetch.close()

    def origin(self, start: Start | None = None) -> list[Finding]:
        """Step 8, in the session that then replays. ``start``: what genesis names besides the seed."""
        first = self.task.lineage.intervals[0]
        recorded = None
        try:
            recorded = load_state(self.task.objects, first.start.root) if first.start.stored else None
        except Unavailable as error:
            self._missing(first, str(error))
        task = OriginTask(
            genesis=self.task.lineage.genesis,
            first=first,
            recorded=recorded,
            base=self.base,
            differences=self.differences,
            start=start,
        )
        try:
            origin = step_origin(
                task, self._engine(first.environment), lambda: self._second(first.environment)
            )
            self._heard(origin.environment)
            return list(origin.findings)
        except REPLAY_ERRORS as error:
            detail = f"the first state cannot be rebuilt here: {error}"
            return [Finding(step=8, name="origin", outcome="unverifiable", detail=detail, remedy=ELSEWHERE)]

    def expect(self, numbers: Sequence[int]) -> None:
        """Say which intervals will be opened, in order.

        While one replays, the start of the next one is read, and others replay beside it where that pays.
        """
        order = [self.task.lineage.intervals[number] for number in numbers]
        self._next = {interval.number: then for interval, then in pairwise(order)}
        self._beside.expect(order)
        self._longest = max((len(interval.steps) for interval in order), default=0)

    def open(self, number: int) -> IntervalResult:
        """Replay interval ``number`` (once) and judge it. Numbers come in ascending order."""
        if number not in self.results:
            interval = self.task.lineage.intervals[number]
            try:
                self.results[number] = self._replay(interval)
            except (NotOpened, *REPLAY_ERRORS) as error:
                self._carry = None
                known = not_opened(error)
                self.results[number] = unopened(interval, str(known), known.remedy)
        return self.results[number]

    def _replay(self, interval: Interval) -> IntervalResult:
        prepared = self._ahead.pop(interval.number, None)
        if isinstance(prepared, NotOpened):
            raise prepared
        if prepared is None:
            prepared = Prepared(interval=interval, opened=self._checked_data(interval))
        running = prepared.running or self._launch(prepared)
        self._look_ahead(interval)
        self._go_beside(interval)
        found = self._outcome(interval, running)
        self.replay_seconds += found.seconds
        self.replayed_steps += len(interval.steps)
        sizes = len(found.item.state.data), max(map(bytes_of, found.item.job.batches))
        self._sizes = max(self._sizes[0], sizes[0]), max(self._sizes[1], sizes[1])
        return self._examine(found)

    def _outcome(self, interval: Interval, running: Running) -> Compared:
        """What the replay did, beside the records."""
        if running.beside:
            found = self._from_beside(interval, running)
            if found is not None:
                return found
            # What is judged was replayed in turn, and alone.
            self._beside.stop()
            running = replace(running, done=self._in_turn(interval, running.job), beside=False)
        done = running.done.result()
        if done.alone:
            self._alone.append((done.seconds, len(interval.steps)))
        self._heard(done.outcome.environment)
        return self._compared(interval, running, done)

    def _from_beside(self, interval: Interval, running: Running) -> Compared | None:
        """What was replayed beside others, if it is all that the records say."""
        try:
            done = running.done.result()
            if done.batches != running.job.batches or done.outcome.environment != self.environment:
                return None
            found = self._compared(interval, running, done)
        except Exception:
            return None
        clean = found.equal and not found.batches and not found.others and not self._other_metrics(found.item)
        return found if clean else None

    def _compared(self, interval: Interval, running: Running, done: Done) -> Compared:
        """``done`` beside the records. Nothing is remembered: what ran beside others may not count."""
        outcome = done.outcome
        item = Replayed(
            interval=interval,
            job=running.job,
            start=running.start,
            outcome=outcome,
            state=done.state,
            recorded=None,
            differences=tuple(self.differences(outcome.environment, interval.environment)),
        )
        batches = [
            step
            for step, other in zip(interval.steps, outcome.steps, strict=True)
            if not self.data.has_digest(step, other.batch)
        ]
        others = differing_steps(self.task.values[interval.number], interval.steps, outcome.steps)
        return Compared(item=item, batches=batches, others=list(others), seconds=done.seconds)

    def _heard(self, environment: Environment | None) -> None:
        """The process that replays in turn has described itself, or could not."""
        self.environment = environment
        if self._main is not None and environment is not None:
            taken = self._main.isolation()
            self._kept_apart = taken.files and taken.network

    def _checked_data(self, interval: Interval) -> OpenedInterval:
        """What the steps of ``interval`` consume. Raises NotOpened unless it is what the records say."""
        if not interval.shown:
            raise NotOpened("its records are not shown", "ask the prover to open them")
        if not self.data.readable():
            raise NotOpened("its data cannot be checked", _SEE_DATA)
        opened = self._open_data(interval)
        if not self.custom.check(interval, opened.batches, self._is_other_class(interval)):
            raise NotOpened("its batches are not the recorded ones", _SEE_DATA)
        return opened

    def _launch(self, prepared: Prepared) -> Running:
        """Have the interval replayed from its start on. Raises NotOpened where that is not at hand."""
        interval = prepared.interval
        start = self._start(interval)
        job = job_of(interval, start, prepared.opened.batches)
        begun = self._beside.take(interval.number)
        prepared.running = Running(
            start=start, job=job, done=begun or self._in_turn(interval, job), beside=begun is not None
        )
        return prepared.running

    def _in_turn(self, interval: Interval, job: ReplayJob) -> Future[Done]:
        return self._runner.submit(self._timed, self._engine(interval.environment), job)

    def _timed(self, engine: Replayer, job: ReplayJob) -> Done:
        began, others, alone = self.task.clock(), self._beside.begun, not self._beside.busy
        outcome, state = self._run(engine, job)
        return Done(
            batches=job.batches,
            outcome=outcome,
            state=state,
            seconds=self.task.clock() - began,
            alone=alone and others == self._beside.begun,
        )

    def _go_beside(self, interval: Interval) -> None:
        """Have later intervals replay beside this one, where the machine has room and the system keeps them apart."""
        if len(self._alone) < TRIED or not self._kept_apart or self._is_other_class(interval):
            return
        state_bytes, batch_bytes = self._sizes
        room = room_for(
            interval.environment,
            state_bytes=state_bytes,
            batch_bytes=batch_bytes * self._longest,
        )
        self._beside.follow(interval, room, pace=self.pace())

    def _look_ahead(self, interval: Interval) -> None:
        """While ``interval`` replays, read the next one's start and open its data."""
        following = self._next.get(interval.number)
        if following is None or following.number in self.results:
            return
        if following.start.stored and following.start.root != interval.end.root:
            self._prefetch.ask(following.start.root)
        # Elsewhere another session replays; and where nothing is known about this machine yet, that comes first.
        if following.environment != interval.environment or self.environment is None:
            return
        try:
            self._ahead[following.number] = Prepared(interval=following, opened=self._checked_data(following))
        except (NotOpened, *REPLAY_ERRORS) as error:
            self._ahead[following.number] = not_opened(error)

    def _go_on(self, item: Replayed) -> None:
        """``item`` passed every check of its bits: the next interval may start before the rest of it is measured.

        Not earlier: as long as something may have to run again, no process holds a later state.
        """
        following = self._next.get(item.interval.number)
        prepared = self._ahead.get(following.number) if following is not None else None
        if isinstance(prepared, Prepared):
            try:
                self._launch(prepared)
            except (NotOpened, *REPLAY_ERRORS) as error:
                self._ahead[prepared.interval.number] = not_opened(error)

    def _is_other_class(self, interval: Interval) -> bool:
        """Whether bits are not owed here, or nothing is known about that yet."""
        return self.environment is None or bool(self.differences(self.environment, interval.environment))

    def _examine(self, found: Compared) -> IntervalResult:
        """Judge what the replay did, step by step and at the end."""
        item, batches, others = found.item, found.batches, found.others
        interval = item.interval
        if not batches:
            self.checked.add(interval.number)
        if found.equal and not batches and not others:
            self._check_end(item)
            self.findings += self._other_metrics(item)
            self._carry = item.state
            self._go_on(item)
            return self.judge.equal(item)
        again = None if item.differences else self._again(item)
        confirmed = again is not None and agree(item, again)
        for step in batches[:1]:
            self.data.report_batch(
                step, interval.number, confirmed=confirmed, why=", ".join(item.differences[:4])
            )
        for other in others[:1]:
            certain = confirmed and not self.task.compact
            self.findings.append(other.finding(interval.number, confirmed=certain, remedy=ELSEWHERE))
        if batches:
            raise NotOpened("its batches are not the recorded ones", _SEE_DATA)
        self._carry = item.state if found.equal else None
        if found.equal:
            return self.judge.equal(item)
        if confirmed and not interval.end.stored:
            return self._judge_unstored(item)
        return self.judge.differing(
            self._with_recorded(item),
            confirmed=confirmed,
            again=None if again is None else again.state.flat,
            replayer=self._second(interval.environment),
        )

    def _judge_unstored(self, item: Replayed) -> IntervalResult:
        """Replay on to the next stored checkpoint and judge there: a root alone says nothing about a distance."""
        longer = stretch_to_stored(self.task.lineage.intervals, item.interval)
        second = self._second(item.interval.environment)
        if longer is None:
            return self.judge.differing(item, confirmed=True, again=None, replayer=second)
        opened = self._open_data(longer)
        job = replace(item.job, last_step=longer.end.step, batches=opened.batches)
        outcome, state = self._run(second, job)
        further = replace(item, interval=longer, job=job, outcome=outcome, state=state)
        again = self._again(further)
        agreed = again is not None and agree(further, again)
        for step, done in zip(longer.steps, outcome.steps, strict=True):
            if not (agreed and self.data.batch_matches(step, done.batch)):
                raise NotOpened(
                    f"its end was not stored, and the way on to step {longer.end.step} cannot be replayed"
                )
        return self.judge.unstored(item, self._with_recorded(further), replayer=second)

    def _start(self, interval: Interval) -> LoadedState:
        if self._carry is not None and self._carry.root == interval.start.root:
            return self._carry
        if not interval.start.stored:
            raise NotOpened(
                "its start state was not stored and could not be re-derived", "see the interval before it"
            )
        try:
            return self._prefetch.take(interval.start.root)
        except Unavailable as error:
            self._missing(interval, str(error))
            raise NotOpened(str(error), _RESTORE) from None

    def _open_data(self, interval: Interval) -> OpenedInterval:
        try:
            opened = self.data.open(interval, self._engine(interval.environment))
        except REPLAY_ERRORS as error:
            self.data.report_closed(str(error), inputs=self.task.inputs_declared)
            raise NotOpened(f"its data cannot be opened: {error}", _SEE_DATA) from None
        if not opened.authentic:
            raise NotOpened("its examples are not authenticated", _SEE_DATA)
        return opened

    def _run(self, replayer: Replayer, job: ReplayJob) -> tuple[ReplayOutcome, LoadedState]:
        try:
            outcome = replayer.replay(job, variant=self.base)
            if [step.step for step in outcome.steps] != list(range(job.first_step, job.last_step)):
                raise MalformedError("it did not report every step")
            return outcome, hash_state(outcome.state)
        except REPLAY_ERRORS as error:
            raise NotOpened(f"replay failed here: {error}") from None

    def _again(self, item: Replayed) -> Replayed | None:
        """A second replay of the same job in another process; None where it does not reach its end."""
        try:
            outcome, state = self._run(self._second(item.interval.environment), item.job)
        except (NotOpened, *REPLAY_ERRORS):
            return None
        return replace(item, outcome=outcome, state=state)

    def _check_end(self, item: Replayed) -> None:
        """A stored end state has to be there, and whole; where step 5 reads it anyway, its size is enough here."""
        end = item.interval.end
        if not end.stored:
            return
        try:
            if self.task.ends_read:
                self.task.objects.check_state_size(end.root, len(item.state.data))
            else:
                load_state(self.task.objects, end.root)
        except Unavailable as error:
            self._missing(item.interval, str(error))

    def _other_metrics(self, item: Replayed) -> list[Finding]:
        """Recorded metrics that the replay does not give are said once; a metric may be a time, so nothing follows."""
        if any(finding.name == METRICS for finding in self.findings):
            return []
        return metrics_finding(item.interval.steps, item.outcome.steps)

    def _with_recorded(self, item: Replayed) -> Replayed:
        if not item.interval.end.stored:
            return item
        try:
            return replace(item, recorded=load_state(self.task.objects, item.interval.end.root))
        except Unavailable as error:
            self._missing(item.interval, str(error))
            raise NotOpened(str(error), _RESTORE) from None

    def _missing(self, interval: Interval, detail: str) -> None:
        finding = Finding(
            step=7,
            name="inclusion",
            outcome="unverifiable",
            detail=detail,
            interval=interval.number,
            remedy=_RESTORE,
        )
        if finding not in self.data.findings:
            self.data.findings.append(finding)

    def _last_state(self) -> FlatState | None:
        if not self._final_read:
            self._final_read = True
            try:
                self._final = load_state(self.task.objects, self.task.lineage.intervals[-1].end.root).flat
            except Unavailable:
                return None
        return self._final

    def _engine(self, environment: Environment) -> Replayer:
        """The ascending session, a new one where the recorded environment changes."""
        if self._main is None or self._pinned != environment:
            self.close()
            self._pinned = environment
            engine = self._stack.enter_context(self.task.engines(environment))
            self._main = InTurn(engine, self._beside)
        return self._main

    def _second(self, environment: Environment) -> Replayer:
        """The session for everything that runs again, alone."""
        self._beside.stop()
        if self._check is None or self._pinned != environment:
            self._engine(environment)
            self._check = self._stack.enter_context(self.task.engines(environment))
        return self._check
