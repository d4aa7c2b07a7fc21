"""Step 6 between two parties: what a challenge asks to be opened, and whether what is shown answers it. PROTOCOL 11.

Prover and verifier compute the sample in the same way, from the challenge and the records under its head. A sample is
worth something only where the verifier kept the challenge: the one that a proof brings along was the presenter's.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import UNSET

from polledger.core.challenge import Challenge
from polledger.core.encoding import from_real
from polledger.core.head import Head, open_note
from polledger.core.merkle import Frontier
from polledger.core.moment import utc_text
from polledger.core.opened import Sample
from polledger.core.records import Genesis, Unshown
from polledger.core.renewal import parse_statement
from polledger.core.report import Finding, counted
from polledger.core.sampling import draw, sample_seed, sample_size
from polledger.core.sketch import SKETCH_LIMITS
from polledger.errors import MalformedError, Unavailable
from polledger.store.run import RunDirectory
from polledger.verify.evidence import Evidence, RenewalFile, read_evidence
from polledger.verify.heads import Heads, match_heads, parse_records
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.opening import with_sources
from polledger.verify.policy import Policy
from polledger.verify.sampling import bogus_count
from polledger.verify.states import load_state

NAME = "sampling"

_OWN = "give the challenge that you made and kept with --challenge"
_RESEND = "ask the prover for the file again"
_AGAIN = "make a new challenge, and ask the prover to open the run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A challenge and what is known about it here. ``digest``: that of its file.

    ``own``: the verifier brought it, and not the proof. ``arrived``: when the proof came to be on this machine.
    """

    challenge: Challenge
    digest: bytes
    own: bool
    arrived: datetime


def seed_of(challenge: Challenge) -> bytes:
    """The seed of the sample that ``challenge`` asks for."""
    return sample_seed(nonce=challenge.nonce, head=challenge.head.digest(), policy=challenge.policy)


def newest_note(run: RunDirectory) -> tuple[bytes, int | None]:
    """The note of a run's newest seal, and how many intervals lie under it where the records tell.

    Raises Unavailable if there is no seal that can be read.
    """
    evidence = read_evidence(run)
    heads = match_heads(evidence, parse_records(evidence))
    genesis = heads.records[0] if heads.records else None
    seal = evidence.seals[-1].seal if evidence.seals else None
    if seal is None:
        raise Unavailable(f"{run.path} has no seal that can be read")
    if not isinstance(genesis, Genesis) or not heads.whole:
        return seal.note, None
    return seal.note, len(build_lineage(genesis, heads.records).intervals) or None


def total_under(lineage: Lineage, head: Head) -> int:
    """How many intervals of ``lineage`` end under ``head``: the first ones."""
    return sum(interval.end.index < head.size for interval in lineage.intervals)


def count_asked(challenge: Challenge, total: int) -> int:
    """How many of ``total`` intervals ``challenge`` has drawn; 0 where it asks for sketches alone."""
    if challenge.count is not UNSET:
        return min(challenge.count, total)
    if challenge.odds is UNSET or challenge.bogus is UNSET or not total:
        return 0
    bogus = bogus_count(from_real(challenge.bogus), total)
    return min(total, sample_size(total=total, bogus=bogus, odds=from_real(challenge.odds)))


def sample_of(asked: Asked, total: int, *, top: Sequence[int] = (), flagged: Sequence[int] = ()) -> Sample:
    """What is opened of ``total`` intervals: those drawn, first and last, and what the challenge and the caller add."""
    challenge = asked.challenge
    drawn = draw(seed_of(challenge), total=total, count=count_asked(challenge, total))
    top = _within(total, top, () if challenge.top is UNSET else challenge.top)
    flagged = _within(total, flagged, () if challenge.flagged is UNSET else challenge.flagged)
    ends = {0, total - 1} if total and challenge.asks_sample else set()
    return Sample(
        nonce=challenge.nonce,
        total=total,
        drawn=len(drawn),
        intervals=tuple(sorted({*drawn, *ends, *top, *flagged})),
        chosen=tuple(drawn),
        top=top,
        flagged=flagged,
    )


def _within(total: int, *lists: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({number for numbers in lists for number in numbers if number < total}))


def opened_for(asked: Asked, lineage: Lineage) -> tuple[int, ...]:
    """Every interval that an answer to the challenge opens, with all between the same stored checkpoints."""
    sample = sample_of(asked, total_under(lineage, asked.challenge.head))
    return with_sources(set(sample.intervals), lineage.intervals)


def step_asked(
    asked: Asked, evidence: Evidence, heads: Heads, lineage: Lineage, *, policy: Policy, sample: Sample
) -> list[Finding]:
    """Step 6's findings: ``pass`` for a sample of the verifier's own, and whatever keeps the answer from counting."""
    findings = [
        *_nothing(sample),
        *_whose(asked, evidence),
        *_head(asked, evidence, heads, lineage),
        *_terms(asked, policy=policy, total=sample.total),
        *_left_out(evidence, lineage, sample),
        *_damaged(evidence, lineage),
    ]
    if not any(finding.name == NAME for finding in findings):
        findings.append(_passed(sample))
    return findings


def _passed(sample: Sample) -> Finding:
    added = len(sample.intervals) - sample.drawn
    detail = (
        f"{sample.drawn} of {counted(sample.total, 'interval')} drawn with the nonce of the verifier's challenge; "
        f"{added} added: first and last, the {len(sample.top)} that move furthest, {len(sample.flagged)} flagged"
    )
    return Finding(step=6, name=NAME, outcome="pass", detail=detail)


def _finding(
    name: str, detail: str, remedy: str = _AGAIN, *, expected: str | None = None, found: str | None = None
) -> Finding:
    return Finding(
        step=6,
        name=name,
        outcome="unverifiable",
        detail=detail,
        remedy=remedy,
        expected=expected,
        found=found,
    )


def _nothing(sample: Sample) -> Iterator[Finding]:
    if not sample.total:
        yield _finding(NAME, "no interval is authentic: there is nothing to draw from")


def _whose(asked: Asked, evidence: Evidence) -> Iterator[Finding]:
    """That the verifier made this challenge, and that what is shown answers it."""
    challenge, presented = asked.challenge, evidence.presented
    if not asked.own:
        yield _finding(NAME, "sample chosen by the presenter: the challenge came with the proof", _OWN)
    elif presented is not None and presented.digest != asked.digest:
        detail = (
            f"the proof answers another challenge ({presented.digest.hex()[:16]}…, made "
            f"{_time(presented.challenge.made)}); this one, made {_time(challenge.made)}, is unanswered"
        )
        yield _finding("challenge", detail, "ask the prover to open the run for this challenge")
    if not challenge.asks_sample:
        detail = "the challenge asks for sketches, and no sample was drawn yet"
        yield _finding(
            NAME, detail, "draw one with `polledger challenge ANSWER --challenge FILE --sample N -o FILE`"
        )
    if challenge.deadline is not UNSET and asked.arrived.timestamp() > challenge.deadline:
        detail = f"the deadline was {_time(challenge.deadline)}, and the proof came {_time(asked.arrived.timestamp())}"
        yield _finding("challenge.deadline", detail)


def _head(asked: Asked, evidence: Evidence, heads: Heads, lineage: Lineage) -> Iterator[Finding]:
    """That the challenge's head is one of this run, and which records follow it."""
    challenge, genesis = asked.challenge, lineage.genesis
    if challenge.run != genesis.run:
        yield _finding("challenge", f"the challenge is about run {challenge.run.hex()}")
        return
    try:
        head = open_note(challenge.note, key=genesis.key)
    except MalformedError as error:
        yield _finding(
            "challenge.head", f"the head in the challenge is not signed by the key in genesis: {error}"
        )
        return
    found = root_at(evidence, head.size)
    if found is None:
        detail = f"the head in the challenge covers {head.size} records, and not all of them are shown"
        yield _finding("challenge.head", detail, "ask the prover for a proof under that head or a later one")
    elif found != head.root:
        yield from _other_tree(head, found, heads)
    elif head.size > heads.sealed:
        # Without it the run would be judged by an earlier head, and what lies between them by nothing.
        detail = f"the head in the challenge covers {head.size} records, the newest that is shown only {heads.sealed}"
        yield _finding("challenge.head", detail, "ask the prover for a proof with all seals of the run")
    elif head.size < heads.sealed:
        detail = (
            f"the run went on after the challenge: {heads.sealed - head.size} records lie under later heads, and "
            "nothing of them was drawn"
        )
        yield _finding("challenge.head", detail)


def _other_tree(head: Head, found: bytes, heads: Heads) -> Iterator[Finding]:
    """The records do not give a root that the genesis key signed: with a later matching head that is two stories."""
    if head.size <= heads.sealed:
        detail = f"the head in the challenge and the heads shown sign different trees of {head.size} records"
        yield Finding(
            step=2,
            name="heads",
            outcome="fail",
            detail=f"equivocation: {detail}",
            expected=head.root.hex(),
            found=found.hex(),
        )
        return
    detail = f"the records do not give the root of the head in the challenge, over {head.size} records"
    yield _finding("challenge.head", detail, "ask the prover for a proof under that head")


def has_head(evidence: Evidence, challenge: Challenge, *, key: bytes) -> bool:
    """Whether the head in ``challenge`` is signed by ``key`` and that of these records."""
    try:
        head = open_note(challenge.note, key=key)
    except MalformedError:
        return False
    return root_at(evidence, head.size) == head.root


def root_at(evidence: Evidence, size: int) -> bytes | None:
    """Root of the first ``size`` records; None where one of them is not there."""
    if size > len(evidence.records):
        return None
    tree = Frontier()
    for index in range(size):
        leaf = evidence.leaf(index)
        if leaf is None:
            return None
        tree.append(leaf)
    return tree.root()


def _terms(asked: Asked, *, policy: Policy, total: int) -> Iterator[Finding]:
    challenge = asked.challenge
    if challenge.policy != policy.digest():
        detail = "the challenge was made under another policy"
        yield _finding(
            "challenge.policy",
            detail,
            "give the policy that the challenge was made with (--policy)",
            expected=challenge.policy.hex(),
            found=policy.digest().hex(),
        )
    if challenge.intervals is not UNSET and challenge.intervals != total:
        detail = "the challenge was drawn from another number of intervals"
        yield _finding("challenge.intervals", detail, expected=str(challenge.intervals), found=str(total))
    beyond = sorted(number for number in challenge.added if number >= total)
    if beyond:
        yield _finding(
            "challenge.intervals", f"the challenge asks for interval {beyond[0]}, and there are {total}"
        )


def _left_out(evidence: Evidence, lineage: Lineage, sample: Sample) -> Iterator[Finding]:
    """Intervals that were asked for and that a proof does not open; at most one finding."""
    if evidence.presented is None:
        return
    missing = {}
    for number in with_sources(set(sample.intervals), lineage.intervals):
        interval = lineage.intervals[number]
        lacking = [
            end for end in (interval.start, interval.end) if end.stored and not evidence.objects.has(end.root)
        ]
        unshown = [step for step in interval.steps if isinstance(step, Unshown)]
        steps = [step for step in interval.steps if evidence.openings.salt("batch", step.step) is None]
        if unshown:
            missing[number] = f"record {unshown[0].index} is not in it"
        elif lacking:
            missing[number] = f"the state after step {lacking[0].step} is not in it"
        elif steps:
            missing[number] = f"the salt of step {steps[0].step} is not in it"
    if missing:
        first = min(missing)
        detail = (
            f"the proof leaves out {counted(len(missing), 'interval')} that the challenge asks for, interval {first} "
            f"among them: {missing[first]}"
        )
        yield _finding("challenge.left_out", detail, "ask the prover to open all of the sample")


def _damaged(evidence: Evidence, lineage: Lineage) -> Iterator[Finding]:
    """Objects of a proof that are not what their names say, whether or not anything asks for them; at most one finding.

    A state that a replay gives is not read again there, and nobody should be handed a proof that holds another.
    """
    presented = evidence.presented
    if presented is None:
        return
    states = {checkpoint.root for checkpoint in lineage.checkpoints}
    lists = {root for item in evidence.renewals for root in _lists(item)}
    for name in presented.objects:
        try:
            if name in states:
                load_state(evidence.objects, name)
            elif name not in lists:
                evidence.objects.get(name, limit=SKETCH_LIMITS.size)
        except Unavailable as error:
            yield Finding(step=1, name="parse", outcome="unverifiable", detail=str(error), remedy=_RESEND)
            return


def _lists(item: RenewalFile) -> Iterator[bytes]:
    """The name of the list of a renewal, which is read and checked where the renewal is."""
    with contextlib.suppress(MalformedError):
        if item.renewal is not None:
            yield parse_statement(item.renewal.statement).root


def _time(seconds: float) -> str:
    return utc_text(datetime.fromtimestamp(int(seconds), UTC))
