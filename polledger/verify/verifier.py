"""Runs the numbered steps of PROTOCOL section 10 in order and gives the report.

Every step's findings are collected; later steps go on as far as they can on what is authenticated. The verdict
over them (:func:`polledger.core.report.judge`) fails closed. Opens no network connection, imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from polledger import __version__
from polledger.core.moment import utc_text
from polledger.core.opened import IntervalResult, Odds, Sample
from polledger.core.records import Environment, Genesis
from polledger.core.report import Finding, Report, counted, missing_checks
from polledger.core.reportform import (
    CodeForm,
    Comparison,
    EnvironmentForm,
    HeadForm,
    OriginForm,
    TrajectoryForm,
)
from polledger.core.sampling import sample_seed
from polledger.core.sketch import Sketches
from polledger.core.timesummary import TimeSummary, Waiting
from polledger.core.trajectory import trajectory
from polledger.errors import Unavailable, UsageError
from polledger.timestamp.trust import Trust
from polledger.verify.ancestry import (
    ANCESTORS,
    FindRun,
    FoundRun,
    Start,
    describe_origin,
    describe_parent,
    external_start,
    find_head,
    missing_parent,
    nowhere,
    parent_finding,
    parent_start,
    too_deep,
)
from polledger.verify.asking import Asked, sample_of, seed_of, step_asked, total_under
from polledger.verify.binding import ReadModel, step_binding, step_final
from polledger.verify.claim import ClaimRequest, accusing_nobody, claim_reader, step_claimed_run
from polledger.verify.clock import replay_pace
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads, SealedHead, match_heads, parse_records, step_heads, step_parse
from polledger.verify.isolation import isolation_findings
from polledger.verify.lineage import Interval, Lineage, build_lineage
from polledger.verify.opening import announcement, probe, steps_of, with_sources, within_budget
from polledger.verify.policy import Policy
from polledger.verify.replaying import ReplaySession
from polledger.verify.replaytask import ELSEWHERE, Engines, ReplayTask
from polledger.verify.sampling import SampleRequest, odds_for, step_sampling, wanted_count
from polledger.verify.scan import Scan, ScanTask, scan, scan_ends
from polledger.verify.screening import Screening, step_screening, unscreened
from polledger.verify.sketched import contradictions, no_answer, read_sketches, scan_of
from polledger.verify.stillness import StillnessTask, opened_stillness, step_stillness
from polledger.verify.structure import Structure, step_structure
from polledger.verify.time import step_time
from polledger.verify.witness import step_witnesses


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Whether and how the task's code runs. ``engines`` None: it does not, and ``finding`` says why."""

    summary: CodeForm
    engines: Engines | None
    finding: Finding | None = None
    inputs_declared: bool = True
    own: bool = False
    """polledger's own module runs, not code that the prover brought."""
    data_here: bool = True
    """Whatever a task's own ``batch`` reads is at hand: it declares no inputs, or the verifier gave them."""
    packages: tuple[str, ...] = ()
    """Distributions that the task imports and that have another version here: this makes the class another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the verifier asks. ``nonce`` is the verifier's own, ``now`` its clock.

    ``waiting`` and ``made`` are the prover's notes about time: requests in the queue, and when seals were made."""

    policy: Policy
    nonce: bytes
    now: datetime
    sample: SampleRequest = field(default_factory=SampleRequest)
    trust: Trust | None = None
    asked: Asked | None = None
    """The challenge that says what is opened; its nonce is ``nonce``. ``sample`` is not looked at then."""
    model: Path | None = None
    read_model: ReadModel | None = None
    """Reads torch files for step 10; without it only ``.safetensors`` is read."""
    claim: ClaimRequest | None = None
    """A claim about the run that is held against it in step 10."""
    replay: bool = True
    scan: bool = True
    external: Path | None = None
    """The file that the run, or the first of its parents, says that it starts from."""
    waiting: tuple[Waiting, ...] = ()
    made: Mapping[int, datetime] = field(default_factory=dict)


class Watcher(Protocol):
    """Who is told how a verification goes on."""

    def note(self, text: str) -> None:
        """One line about what comes next."""
        ...

    def scanned(self, done: int, total: int) -> None:
        """A stored checkpoint was read and measured: the ``done``-th of ``total``."""
        ...

    def opened(self, result: IntervalResult, done: int, total: int) -> None:
        """An interval was replayed: the ``done``-th of ``total``."""
        ...


@dataclass(slots=True, kw_only=True)
class _Run:
    """One verification in progress. ``depth``: how many runs that start from it led here, by its head ``named``."""

    request: Request
    clock: Callable[[], float]
    watcher: Watcher
    find: FindRun
    depth: int = 0
    named: bytes | None = None
    lineage: Lineage | None = None
    origin: OriginForm = field(default_factory=lambda: OriginForm())
    findings: list[Finding] = field(default_factory=list)
    time: TimeSummary = field(default_factory=TimeSummary)
    screening: Screening | None = None
    trajectory: TrajectoryForm | None = None
    sample: Sample | None = None
    odds: tuple[Odds, ...] = ()
    intervals: tuple[IntervalResult, ...] = ()
    code: CodeForm = field(default_factory=lambda: CodeForm())
    environment: EnvironmentForm = field(default_factory=lambda: EnvironmentForm())
    timing: dict[str, float] = field(default_factory=dict)
    comparison: Comparison = "none"
    screened: bool = True
    sketches: Sketches | None = None
    skipped: str = ""
    """Why steps 7 to 9 were not done, for the findings that say so."""


def verify(
    evidence: Evidence,
    request: Request,
    *,
    load_code: Callable[[Genesis], Code],
    clock: Callable[[], float],
    watcher: Watcher,
    find: FindRun = nowhere,
) -> Report:
    """Verify a run and report. ``load_code`` decides whether the task's code may run here; ``find`` looks for a parent.

    Raises UsageError for what the verifier itself got wrong (a model file that does not exist); nothing that the
    evidence contains raises.
    """
    run = _Run(request=request, clock=clock, watcher=watcher, find=find)
    return _verify(run, evidence, load_code)[0]


def _verify(run: _Run, evidence: Evidence, load_code: Callable[[Genesis], Code]) -> tuple[Report, Heads]:
    parsed = parse_records(evidence)
    heads = match_heads(evidence, parsed)
    run.findings += step_parse(evidence, parsed, heads)
    run.findings += step_heads(evidence, parsed, heads)
    # A head that only looks like the named one leads nowhere: without this, runs could name each other.
    named = run.named is None or find_head(heads, run.named) is not None
    if (
        named
        and heads.newest is not None
        and isinstance(heads.records[0] if heads.records else None, Genesis)
    ):
        _verify_records(run, evidence, heads, heads.newest, load_code)
    return _report(run, parsed.genesis, heads), heads


def _verify_records(
    run: _Run, evidence: Evidence, heads: Heads, newest: SealedHead, load_code: Callable[[Genesis], Code]
) -> None:
    """Steps 3 to 10 over the authenticated records."""
    request, genesis = run.request, heads.records[0]
    if not isinstance(genesis, Genesis):
        return
    times = step_time(
        heads,
        evidence.objects,
        trust=request.trust,
        policy=request.policy,
        now=request.now,
        waiting=request.waiting,
        made=request.made,
        renewals=evidence.renewals,
    )
    witnessed = step_witnesses(heads, trust=request.trust, policy=request.policy, now=request.now)
    run.findings += [*times.findings, *witnessed.findings]
    run.time = replace(times.summary, witnesses=witnessed.summaries)
    lineage = run.lineage = build_lineage(genesis, heads.records)
    run.origin = describe_origin(genesis)
    structure = step_structure(lineage, policy=request.policy, whole=heads.whole, compact=evidence.compact)
    run.findings += structure.findings
    if evidence.compact and lineage.findings:
        # A record that is not shown passes for a step: where that does not add up, none is where it seems to be.
        lineage = run.lineage = replace(lineage, intervals=(), checkpoints=(), final=None)
    seed = _sample_seed(request, newest)
    if request.scan and lineage.intervals:
        _scan(run, evidence, lineage, structure, seed)
    run.findings += step_final(lineage, evidence.objects)
    if request.model is not None:
        run.findings += step_binding(
            lineage, request.model, request.read_model or no_torch_files, evidence.objects
        )
    if request.claim is not None:
        reader = claim_reader(request.claim, trust=request.trust, policy=request.policy, now=request.now)
        run.findings += step_claimed_run(
            request.claim, evidence, heads, lineage, reader=reader, model=request.model
        )
    code = _code(run, genesis, load_code)
    if not lineage.intervals:
        run.skipped = "no interval is authentic"
    session = _session(run, evidence, lineage, structure, code)
    start = _start(run, genesis) if session is not None else None
    try:
        if request.asked is None:
            _verify_intervals(run, lineage, newest.head.digest(), session, start)
        else:
            _verify_asked(run, request.asked, evidence, heads, lineage, session, start)
    finally:
        if session is not None:
            session.close()
            run.findings += isolation_findings(
                session.isolation, own=code.own, required=request.policy.require.isolation
            )
    _environment(run, genesis, session)


def _sample_seed(request: Request, newest: SealedHead) -> bytes:
    if request.asked is not None:
        return seed_of(request.asked.challenge)
    return sample_seed(nonce=request.nonce, head=newest.head.digest(), policy=request.policy.digest())


def _scan(run: _Run, evidence: Evidence, lineage: Lineage, structure: Structure, seed: bytes) -> None:
    """Steps 4 (stillness) and 5 from one reading of the stored checkpoints; ``seed``: that of the sample."""
    request = run.request
    stored = sum(checkpoint.stored for checkpoint in lineage.checkpoints)
    if evidence.presented is None:
        run.watcher.note(f"reading {counted(stored, 'stored checkpoint')}")
    started = run.clock()
    task = ScanTask(
        lineage=lineage,
        objects=evidence.objects,
        values=structure.values,
        nonce=request.nonce,
        told=run.watcher.scanned,
    )
    asked = request.asked
    if evidence.presented is not None and asked is not None and asked.challenge.answer is not msgspec.UNSET:
        run.sketches, problem = read_sketches(evidence, lineage, asked.challenge)
        if run.sketches is None:
            run.findings.append(no_answer(problem))
            return
    try:
        found = scan(task) if evidence.presented is None else _scan_presented(run, task)
    except UsageError as error:
        # Genesis does not describe every object of the states.
        for step, name in ((4, "stillness"), (5, "screening")):
            run.findings.append(Finding(step=step, name=name, outcome="unverifiable", detail=str(error)))
        return
    run.timing["scan_seconds"] = run.clock() - started
    run.findings += step_stillness(
        StillnessTask(lineage=lineage, scan=found, declared=structure.still, policy=request.policy)
    )
    if evidence.presented is not None and run.sketches is None:
        run.screened = False
        run.findings.append(unscreened())
        return
    segments = found.track.segments
    begin = lineage.intervals[segments[0].first].start.step if segments else 0
    run.trajectory = trajectory(found.track, begin=begin)
    run.screening = step_screening(found, total=len(lineage.intervals), policy=request.policy, seed=seed)


def _scan_presented(run: _Run, task: ScanTask) -> Scan:
    """The ends of the run, and between them what sketches say, if there are any."""
    ends = scan_ends(task)
    if run.sketches is None:
        return ends
    return replace(
        scan_of(run.sketches, task.lineage, displacement=ends.displacement), problems=ends.problems
    )


def no_torch_files(model: Path) -> bytes:
    raise Unavailable(f"{model.name} cannot be read here: give the state_dict as .safetensors")


def _code(run: _Run, genesis: Genesis, load_code: Callable[[Genesis], Code]) -> Code:
    if not run.request.replay:
        run.skipped = "replay was switched off with --no-replay"
        run.code = {"kind": genesis.kind, "digest": genesis.task.hex()}
        return Code(summary=run.code, engines=None)
    code = load_code(genesis)
    run.code = code.summary
    if code.finding is not None:
        run.findings.append(code.finding)
    if code.engines is None:
        run.skipped = "the task's code did not run"
    return code


def _session(
    run: _Run, evidence: Evidence, lineage: Lineage, structure: Structure, code: Code
) -> ReplaySession | None:
    if code.engines is None or not lineage.intervals:
        return None
    return ReplaySession(
        ReplayTask(
            lineage=lineage,
            values=structure.values,
            objects=evidence.objects,
            openings=evidence.openings,
            policy=run.request.policy,
            engines=code.engines,
            inputs_declared=code.inputs_declared,
            packages=code.packages,
            own=code.own,
            seed=run.request.nonce,
            data_here=code.data_here,
            ends_read=run.request.scan and evidence.presented is None,
            compact=evidence.compact,
            clock=run.clock,
        )
    )


def _start(run: _Run, genesis: Genesis) -> Start | None:
    """What checkpoint 0 takes from elsewhere; a parent is verified for it first. None where the seed is all."""
    if genesis.origin == "external":
        return external_start(genesis, run.request.external, run.request.read_model or no_torch_files)
    if isinstance(genesis.parent, msgspec.UnsetType):
        return None
    if run.depth >= ANCESTORS:
        return too_deep()
    found = run.find(genesis.parent.head)
    return missing_parent(genesis.parent.head) if found is None else _verify_parent(run, genesis, found)


def _verify_parent(run: _Run, genesis: Genesis, found: FoundRun) -> Start:
    """Verify the run that ``genesis`` starts from as this one is, and say what it ends with."""
    run.watcher.note(f"verifying the run that this one starts from: {found.name}")
    request = replace(run.request, model=None, claim=None, asked=None, waiting=(), made={})
    above = _Run(
        request=request,
        clock=run.clock,
        watcher=_OfParent(run.watcher),
        find=found.find,
        depth=run.depth + 1,
        named=genesis.parent.head if not isinstance(genesis.parent, msgspec.UnsetType) else None,
    )
    report, heads = _verify(above, found.evidence, found.load_code)
    signed = above.lineage.genesis if above.lineage is not None else None
    run.findings.append(parent_finding(genesis, signed, report))
    run.origin |= describe_parent(report)
    return parent_start(genesis, heads, above.lineage, found.evidence.objects)


@dataclass(frozen=True, slots=True)
class _OfParent:
    """Hears how a parent's verification goes on: its notes are passed on, its progress is not this one's."""

    watcher: Watcher

    def note(self, text: str) -> None:
        self.watcher.note(f"parent: {text}")

    def scanned(self, done: int, total: int) -> None:
        pass

    def opened(self, result: IntervalResult, done: int, total: int) -> None:
        pass


def _verify_intervals(
    run: _Run, lineage: Lineage, head: bytes, session: ReplaySession | None, start: Start | None
) -> None:
    """Steps 6 to 9: origin first, then the sample in ascending order; last, whether step 5 got what it asked for."""
    request, total = run.request, len(lineage.intervals)
    count = wanted_count(request.sample, total=total, policy=request.policy) if total else 0
    probed: tuple[int, ...] = ()
    pace = 0.0
    if session is not None:
        run.watcher.note("rebuilding the first state from the committed seed")
        run.findings += session.origin(start)
        if request.sample.capped:
            probed, pace = probe(session, lineage)
    draw = partial(
        step_sampling, nonce=request.nonce, head=head, policy=request.policy, total=total, wanted=count
    )
    count = within_budget(draw, count, lineage, probed, pace=pace, policy=request.policy)
    screening = run.screening
    run.sample, odds, findings = draw(
        count=count, top=screening.top if screening else (), flagged=screening.flagged if screening else ()
    )
    run.findings += findings
    _open(run, lineage, session, {*run.sample.intervals, *probed}, odds=odds, pace=pace)


def _verify_asked(
    run: _Run,
    asked: Asked,
    evidence: Evidence,
    heads: Heads,
    lineage: Lineage,
    session: ReplaySession | None,
    start: Start | None,
) -> None:
    """Steps 6 to 9 where a challenge says what is opened; screening of a run that is at hand adds to it."""
    total, screening = total_under(lineage, asked.challenge.head), run.screening
    if session is not None:
        run.watcher.note("rebuilding the first state from the committed seed")
        run.findings += session.origin(start)
    run.sample = sample_of(
        asked,
        total,
        top=screening.top if screening else (),
        flagged=screening.flagged if screening else (),
    )
    run.findings += step_asked(asked, evidence, heads, lineage, policy=run.request.policy, sample=run.sample)
    odds = tuple(odds_for(total, run.sample.drawn)) if total else ()
    _open(run, lineage, session, set(run.sample.intervals), odds=odds, pace=0.0)
    if run.sketches is not None:
        opened = with_sources(set(run.sample.intervals), lineage.intervals)
        run.findings += contradictions(run.sketches, lineage, evidence.objects, opened)


def _open(
    run: _Run,
    lineage: Lineage,
    session: ReplaySession | None,
    asked: set[int],
    *,
    odds: tuple[Odds, ...],
    pace: float,
) -> None:
    """Replay ``asked`` and what comes with it, if there is a session; then, whether step 5 got what it asked for."""
    opened: tuple[int, ...] = ()
    if session is not None and run.sample is not None:
        opened = with_sources(asked, lineage.intervals)
        run.sample, run.odds = replace(run.sample, intervals=opened), odds
        seconds = pace * steps_of(opened, lineage)
        run.watcher.note(announcement(run.sample, odds, seconds=seconds, rederived=len(opened) - len(asked)))
        _replay(run, session, opened)
    if run.screening is not None:
        run.findings += run.screening.findings(opened)


def _replay(run: _Run, session: ReplaySession, opened: Sequence[int]) -> None:
    """Steps 7 and 9 over the opened intervals."""
    began = run.clock()
    session.expect(opened)
    for done, number in enumerate(opened, start=1):
        run.watcher.opened(session.open(number), done, len(opened))
    opened_seconds = run.clock() - began
    run.intervals = tuple(session.results[number] for number in opened)
    lean = session.judge.lean_finding()
    checked = session.checked.issuperset(opened)
    steps = sum(result.last - result.first for result in run.intervals) if checked else 0
    run.findings += [*session.findings, *session.data.findings, *session.data.summary(steps=steps)]
    run.findings += replay_findings(session, run.intervals, lean)
    run.findings += opened_stillness(run.intervals, policy=run.request.policy)
    here, recorded = session.environment, session.task.lineage.genesis.environment
    same_class = here is not None and not session.differences(here, recorded)
    run.time, findings = replay_pace(run.time, session.pace(), same_class=same_class)
    run.findings += findings
    exact = all(result.exact for result in run.intervals)
    run.comparison = "bitwise" if exact else "tolerance"
    if run.request.policy.require.bitwise and not exact:
        detail = "the policy requires equal bits, and not every opened interval has them"
        run.findings.append(Finding(step=9, name="bitwise", outcome="unverifiable", detail=detail))
    run.timing.update(
        opened_seconds=opened_seconds,
        replay_seconds=session.replay_seconds,
        noise_seconds=session.judge.noise_seconds,
        noise_replays=session.judge.noise_replays,
    )


def replay_findings(
    session: ReplaySession, results: Sequence[IntervalResult], lean: Finding | None
) -> list[Finding]:
    """Step 9's findings: one per interval that did not pass, or one ``pass`` when all did and nothing leans."""
    findings = [lean] if lean is not None else []
    for result in results:
        if result.outcome != "pass":
            findings.append(_interval_finding(session.task.lineage.intervals[result.interval], result))
    if (
        results
        and all(result.outcome == "pass" for result in results)
        and not any(f.blocks for f in findings)
    ):
        exact = sum(result.exact for result in results)
        detail = f"{counted(len(results), 'interval')} replayed, {exact} of them bit for bit"
        findings.append(Finding(step=9, name="replay", outcome="pass", detail=detail))
    return findings


def _interval_finding(interval: Interval, result: IntervalResult) -> Finding:
    failed = result.outcome == "fail"
    return Finding(
        step=9,
        name="replay",
        outcome=result.outcome,
        detail=f"steps {result.first} to {result.last}: {result.why}",
        interval=result.interval,
        record=interval.end.index,
        expected=result.reached.hex() if failed and result.reached is not None else None,
        found=interval.end.root.hex() if failed else None,
        remedy=None if failed else result.remedy or ELSEWHERE,
    )


def _environment(run: _Run, genesis: Genesis, session: ReplaySession | None) -> None:
    run.environment = {"recorded": msgspec.to_builtins(genesis.environment)}
    here: Environment | None = session.environment if session is not None else None
    if session is not None and here is not None:
        run.environment["replayed"] = msgspec.to_builtins(here)
        run.environment["differences"] = session.differences(here, genesis.environment)
        run.environment["isolation"] = session.isolation


def _not_done(run: _Run, model: bool, claim: bool) -> list[Finding]:
    """A finding for every required check that no step spoke about, so that the report says what is missing."""
    spoken = {(finding.step, finding.name) for finding in run.findings}
    findings = []
    for step, name in missing_checks(run.findings, model=model, screened=run.screened, claim=claim):
        if (step, name) not in spoken:
            why = run.skipped
            if name in ("stillness", "screening") and not run.request.scan:
                why = "stored checkpoints were not looked at (--no-scan)"
            detail = f"not checked{f': {why}' if why else ''}"
            findings.append(Finding(step=step, name=name, outcome="unverifiable", detail=detail))
    return findings


def _report(run: _Run, genesis: Genesis | None, heads: Heads) -> Report:
    model = run.request.model is not None
    asked = run.request.claim
    claim = asked is not None
    findings = sorted([*run.findings, *_not_done(run, model, claim)], key=lambda finding: finding.step)
    if asked is not None and genesis is not None and not asked.read.names(genesis):
        findings = [accusing_nobody(finding, "run") for finding in findings]
    return Report(
        run=genesis.run.hex() if genesis else None,
        head=head_form(heads),
        findings=tuple(findings),
        intervals=run.intervals,
        screening=run.screening.summary(tuple(item.interval for item in run.intervals))
        if run.screening
        else None,
        trajectory=run.trajectory,
        sample=run.sample,
        odds=run.odds,
        time=run.time,
        code=run.code,
        comparison=run.comparison,
        rules=run.request.policy.comparison.rules,
        environment=run.environment,
        policy=run.request.policy.digest().hex(),
        model=model,
        claim=claim,
        origin=run.origin,
        screened=run.screened,
        timing=run.timing,
        at=utc_text(run.request.now.replace(microsecond=0)),
        version=__version__,
    )


def head_form(heads: Heads) -> HeadForm | None:
    """The newest head for the report; None without one."""
    if heads.newest is None:
        return None
    head = heads.newest.head
    return {
        "seal": heads.newest.seal.number,
        "size": head.size,
        "root": head.root.hex(),
        "digest": head.digest().hex(),
    }
