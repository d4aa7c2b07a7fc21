"""Steps 1 to 3 over a public proof: what anyone can check about a run without any of its payloads.

Heads are chained by consistency proofs instead of records, and the records that are shown by their inclusion in the
newest head. What is not shown is not checked: a public proof alone is never VERIFIED.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from polledger.core.digest import ZERO, sha256
from polledger.core.head import Head, open_note
from polledger.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from polledger.core.publicproof import ProvenRecord, PublicProof
from polledger.core.records import AnyRecord, Final, Genesis, Resume, parse_record
from polledger.core.report import Finding, counted
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError
from polledger.verify.claimed import RunFacts
from polledger.verify.evidence import SealFile
from polledger.verify.heads import Heads, SealedHead

REMEDY = "ask the claimant for the proof again"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRun:
    """What a public proof establishes. ``facts`` None: not enough of it holds.

    ``genesis`` is the record under whose key the heads were read: whose it is, only the claim's signature shows.
    """

    heads: Heads
    facts: RunFacts | None
    findings: tuple[Finding, ...]
    genesis: Genesis | None = None


NOTHING = PublicRun(
    heads=Heads(heads=(), problems={}, records=(), newest=None, whole=False), facts=None, findings=()
)
"""No public proof is at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A record of the proof through the gate."""

    proven: ProvenRecord
    record: AnyRecord


def check_public_proof(proof: PublicProof) -> PublicRun:
    """Steps 1 and 2. ``pass`` of ``heads``: every head is signed by the genesis key, chained, and a beginning of the
    next one; every record that is shown is in the newest.
    """
    records, findings = _records(proof)
    first = records.get(0)
    if first is None or not isinstance(first.record, Genesis):
        findings.append(_parse("unverifiable", "the proof does not show the first record of the run", REMEDY))
        return replace(NOTHING, findings=tuple(findings))
    heads, problems = _heads(proof, first.record)
    findings += [_head(problem) for problem in problems]
    if len(heads) == len(proof.seals):
        findings += [*_chain(proof, heads), *_inclusion(records.values(), heads[-1])]
    sound = not any(finding.blocks for finding in findings)
    if sound:
        findings += _passed(proof, heads[-1])
    sealed = tuple(_sealed(proof, number, head, sound) for number, head in enumerate(heads))
    newest = sealed[-1] if sound else None
    return PublicRun(
        heads=Heads(heads=sealed, problems={}, records=(), newest=newest, whole=sound),
        facts=None if newest is None else _facts(first.proven.record, records, newest),
        findings=tuple(findings),
        genesis=first.record,
    )


def _parse(outcome: Outcome, detail: str, remedy: str | None = None) -> Finding:
    return Finding(step=1, name="parse", outcome=outcome, detail=detail, remedy=remedy)


def _head(detail: str, outcome: Outcome = "unverifiable") -> Finding:
    remedy = REMEDY if outcome == "unverifiable" else None
    return Finding(step=2, name="heads", outcome=outcome, detail=detail, remedy=remedy)


def _records(proof: PublicProof) -> tuple[dict[int, _Shown], list[Finding]]:
    """The records that are shown by the index that each states; nothing is authenticated yet."""
    records: dict[int, _Shown] = {}
    findings = []
    for number, shown in enumerate(proof.records):
        try:
            record = parse_record(shown.record)
        except MalformedError as error:
            findings.append(_parse("unverifiable", f"record {number} of the proof is none: {error}", REMEDY))
            continue
        if record.index in records or record.run != proof.run:
            detail = f"record {record.index} is shown twice or is of another run"
            findings.append(_parse("unverifiable", detail, REMEDY))
        records[record.index] = _Shown(proven=shown, record=record)
    return records, findings


def _heads(proof: PublicProof, genesis: Genesis) -> tuple[list[Head], list[str]]:
    heads, problems = [], []
    for seal in proof.seals:
        try:
            head = open_note(seal.note, key=genesis.key)
        except MalformedError as error:
            problems.append(f"seal {seal.index}: {error}")
            continue
        if head.run != genesis.run:
            problems.append(f"seal {seal.index}: its head belongs to another run")
            continue
        heads.append(head)
    return heads, problems


def _chain(proof: PublicProof, heads: Sequence[Head]) -> Iterator[Finding]:
    """Each head against the next: two over as many records with different roots are signed contradictions."""
    if heads[0].previous != ZERO or proof.seals[0].index != 0:
        yield _head("the proof does not begin with the first head of the run")
    if len(heads) == 1:
        yield _head("there is one head alone: nothing shows that the log grew while the training went on")
    for (first, second), path, seal in zip(
        itertools.pairwise(heads), proof.consistency, proof.seals[1:], strict=True
    ):
        if first.size == second.size and first.root != second.root:
            yield _head(f"equivocation: two heads sign different trees of {first.size} records", "fail")
        elif second.previous != first.digest():
            yield _head(f"seal {seal.index}: the head before it is another one or missing")
        elif second.size <= first.size:
            yield _head(f"seal {seal.index}: the log does not grow", "fail")
        elif not verify_consistency(
            size1=first.size, root1=first.root, size2=second.size, root2=second.root, proof=path
        ):
            yield _head(f"seal {seal.index}: nothing shows that it continues the log of the seal before it")


def _inclusion(records: Iterable[_Shown], newest: Head) -> Iterator[Finding]:
    for shown in records:
        index, leaf = shown.record.index, leaf_hash(sha256(shown.proven.record))
        if not verify_inclusion(
            leaf_hash=leaf, index=index, size=newest.size, proof=shown.proven.path, root=newest.root
        ):
            yield _head(f"record {index} of the proof is not in the sealed log: it was changed or invented")


def _passed(proof: PublicProof, newest: Head) -> Iterator[Finding]:
    shown = f"{len(proof.records)} of {counted(newest.size, 'record')}"
    yield _parse("pass", f"{counted(len(proof.seals), 'seal')} and {shown} are shown, and well-formed")
    detail = f"{counted(len(proof.seals), 'signed head')} of the genesis key, each a continuation of the one before it"
    yield _head(detail, "pass")


def _sealed(proof: PublicProof, number: int, head: Head, sound: bool) -> SealedHead:
    seal = proof.seals[number]
    file = SealFile(number=seal.index, seal=seal)
    return SealedHead(seal=file, head=head, matches=sound, chainpoint_matches=False)


def _facts(record: bytes, records: Mapping[int, _Shown], newest: SealedHead) -> RunFacts | None:
    """What is known of the run; None unless its first and its last record are shown, and the last is ``final``."""
    shown = {index: one.record for index, one in records.items()}
    genesis, final = shown[0], shown.get(newest.head.size - 1)
    if not isinstance(genesis, Genesis) or not isinstance(final, Final):
        return None
    return RunFacts(
        record=record,
        genesis=genesis,
        final=final,
        head=newest,
        resumes=sum(isinstance(one, Resume) for one in shown.values()),
        whole=len(shown) == newest.head.size,
    )
