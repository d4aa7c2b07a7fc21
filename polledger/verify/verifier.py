"""Runs the numbered steps of PROTOCOL section 10 in order and gives the report.

Every step's findings are collected; later steps go on as far as they can on what is authenticated. The verdict
over them (:func:`polledger.core.report.judge`) fails closed. Opens no network connection, imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from polledger import __version__
from polledger.core.moment import utc_text
from polledger.core.opened import IntervalResult
from polledger.core.records import Environment, Genesis
from polledger.core.report import Finding, Report, counted, missing_checks
from polledger.core.reportform import HeadForm
from polledger.core.sampling import sample_seed
from polledger.core.trajectory import trajectory
from polledger.errors import Unavailable, UsageError
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
from polledger.verify.asking import seed_of
from polledger.verify.binding import step_binding, step_final
from polledger.verify.claim import accusing_nobody, claim_reader, step_claimed_run
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads, SealedHead, match_heads, parse_records, step_heads, step_parse
from polledger.verify.intervals import verify_asked, verify_intervals
from polledger.verify.isolation import isolation_findings
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.replaying import ReplaySession
from polledger.verify.replaytask import ReplayTask
from polledger.verify.request import Code, Request, Verification, Watcher
from polledger.verify.scan import Scan, ScanTask, scan, scan_ends
from polledger.verify.screening import step_screening, unscreened
from polledger.verify.sketched import no_answer, read_sketches, scan_of
from polledger.verify.stillness import StillnessTask, step_stillness
from polledger.verify.structure import Structure, step_structure
from polledger.verify.time import step_time
from polledger.verify.witness import step_witnesses


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
    run = Verification(request=request, clock=clock, watcher=watcher, find=find)
    return _verify(run, evidence, load_code)[0]


def _verify(
    run: Verification, evidence: Evidence, load_code: Callable[[Genesis], Code]
) -> tuple[Report, Heads]:
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
    run: Verification,
    evidence: Evidence,
    heads: Heads,
    newest: SealedHead,
    load_code: Callable[[Genesis], Code],
) -> None:
    """Steps 3 to 10 over the authenticated records."""
    genesis = heads.records[0]
    if not isinstance(genesis, Genesis):
        return
    _time(run, evidence, heads)
    lineage, structure = _structure(run, evidence, heads, genesis)
    if run.request.scan and lineage.intervals:
        _scan(run, evidence, lineage, structure, _sample_seed(run.request, newest))
    _bind(run, evidence, heads, lineage)
    code = _code(run, genesis, load_code)
    if not lineage.intervals:
        run.skipped = "no interval is authentic"
    session = _session(run, evidence, lineage, structure, code)
    start = _start(run, genesis) if session is not None else None
    try:
        if run.request.asked is None:
            verify_intervals(run, lineage, newest.head.digest(), session, start)
        else:
            verify_asked(run, run.request.asked, evidence, heads, lineage, session, start)
    finally:
        if session is not None:
            session.close()
            run.findings += isolation_findings(
                session.isolation, own=code.own, required=run.request.policy.require.isolation
            )
    _environment(run, genesis, session)


def _time(run: Verification, evidence: Evidence, heads: Heads) -> None:
    """Step 3."""
    request = run.request
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


def _structure(
    run: Verification, evidence: Evidence, heads: Heads, genesis: Genesis
) -> tuple[Lineage, Structure]:
    """Step 4, and the lineage that later steps look at."""
    lineage = build_lineage(genesis, heads.records)
    run.origin = describe_origin(genesis)
    structure = step_structure(
        lineage, policy=run.request.policy, whole=heads.whole, compact=evidence.compact
    )
    run.findings += structure.findings
    if evidence.compact and lineage.findings:
        # A record that is not shown passes for a step: where that does not add up, none is where it seems to be.
        lineage = replace(lineage, intervals=(), checkpoints=(), final=None)
    run.lineage = lineage
    return lineage, structure


def _bind(run: Verification, evidence: Evidence, heads: Heads, lineage: Lineage) -> None:
    """Step 10: the published model, the file and the claim."""
    request = run.request
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


def _sample_seed(request: Request, newest: SealedHead) -> bytes:
    if request.asked is not None:
        return seed_of(request.asked.challenge)
    return sample_seed(nonce=request.nonce, head=newest.head.digest(), policy=request.policy.digest())


def _scan(run: Verification, evidence: Evidence, lineage: Lineage, structure: Structure, seed: bytes) -> None:
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


def _scan_presented(run: Verification, task: ScanTask) -> Scan:
    """The ends of the run, and between them what sketches say, if there are any."""
    ends = scan_ends(task)
    if run.sketches is None:
        return ends
    return replace(
        scan_of(run.sketches, task.lineage, displacement=ends.displacement), problems=ends.problems
    )


def no_torch_files(model: Path) -> bytes:
    raise Unavailable(f"{model.name} cannot be read here: give the state_dict as .safetensors")


def _code(run: Verification, genesis: Genesis, load_code: Callable[[Genesis], Code]) -> Code:
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
    run: Verification, evidence: Evidence, lineage: Lineage, structure: Structure, code: Code
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


def _start(run: Verification, genesis: Genesis) -> Start | None:
    """What checkpoint 0 takes from elsewhere; a parent is verified for it first. None where the seed is all."""
    if genesis.origin == "external":
        return external_start(genesis, run.request.external, run.request.read_model or no_torch_files)
    if isinstance(genesis.parent, msgspec.UnsetType):
        return None
    if run.depth >= ANCESTORS:
        return too_deep()
    found = run.find(genesis.parent.head)
    return missing_parent(genesis.parent.head) if found is None else _verify_parent(run, genesis, found)


def _verify_parent(run: Verification, genesis: Genesis, found: FoundRun) -> Start:
    """Verify the run that ``genesis`` starts from as this one is, and say what it ends with."""
    run.watcher.note(f"verifying the run that this one starts from: {found.name}")
    request = replace(run.request, model=None, claim=None, asked=None, waiting=(), made={})
    above = Verification(
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


def _environment(run: Verification, genesis: Genesis, session: ReplaySession | None) -> None:
    run.environment = {"recorded": msgspec.to_builtins(genesis.environment)}
    here: Environment | None = session.environment if session is not None else None
    if session is not None and here is not None:
        run.environment["replayed"] = msgspec.to_builtins(here)
        run.environment["differences"] = session.differences(here, genesis.environment)
        run.environment["isolation"] = session.isolation


def _not_done(run: Verification, model: bool, claim: bool) -> list[Finding]:
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


def _report(run: Verification, genesis: Genesis | None, heads: Heads) -> Report:
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
