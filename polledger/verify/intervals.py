"""Steps 6 to 9 of PROTOCOL section 10: which intervals are drawn or asked for, and what replaying them shows."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from polledger.core.opened import IntervalResult, Odds
from polledger.core.report import Finding, counted
from polledger.verify.ancestry import Start
from polledger.verify.asking import Asked, sample_of, step_asked, total_under
from polledger.verify.clock import replay_pace
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads
from polledger.verify.lineage import Interval, Lineage
from polledger.verify.opening import announcement, probe, steps_of, with_sources, within_budget
from polledger.verify.replaying import ReplaySession
from polledger.verify.replaytask import ELSEWHERE
from polledger.verify.request import Verification
from polledger.verify.sampling import odds_for, step_sampling, wanted_count
from polledger.verify.sketched import contradictions
from polledger.verify.stillness import opened_stillness


def verify_intervals(
    run: Verification, lineage: Lineage, head: bytes, session: ReplaySession | None, start: Start | None
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


def verify_asked(
    run: Verification,
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
    run: Verification,
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


def _replay(run: Verification, session: ReplaySession, opened: Sequence[int]) -> None:
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
