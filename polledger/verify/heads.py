"""Steps 1 and 2: records and seals through the gate, and tree heads against the records. PROTOCOL section 10.

Only what a matching head under the genesis key covers is evidence, and only that can contradict. Everything
else (damage, a missing file, another key) is missing evidence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from polledger.core.digest import ZERO
from polledger.core.head import Head, open_note
from polledger.core.lazily import Lazy
from polledger.core.merkle import Frontier, chainpoint_node
from polledger.core.records import AnyRecord, Genesis, Step, Unshown, decode_record, parse_record
from polledger.core.report import Finding, counted
from polledger.errors import MalformedError
from polledger.verify.evidence import Evidence, SealFile

FINDINGS_KEPT = 20

RUN_BYTES = 16

RESTORE = "restore it from a copy; polledger never changes sealed files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """Every record through the gate: ``records[i]`` is None where record i is not one.

    ``problems[i]`` says why, for the first FINDINGS_KEPT of them. ``genesis`` is record 0, if it is readable;
    nothing is authenticated yet.
    """

    records: Sequence[AnyRecord | None]
    problems: dict[int, str]
    genesis: Genesis | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedHead:
    """A head whose signature by the genesis key holds. ``matches``: None where records to recompute it are missing."""

    seal: SealFile
    head: Head
    matches: bool | None
    chainpoint_matches: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What the seals establish. ``records`` are the authenticated ones: those under the largest matching head."""

    heads: tuple[SealedHead, ...]
    problems: dict[int, str]
    records: Sequence[AnyRecord]
    newest: SealedHead | None
    whole: bool
    """The newest seal is the matching one: no sealed record is left out."""

    @property
    def sealed(self) -> int:
        """How many records the largest matching head covers."""
        return 0 if self.newest is None else self.newest.head.size

    @property
    def claimed(self) -> int:
        """Largest size that a signed head claims, matching or not."""
        return max((item.head.size for item in self.heads), default=0)


def parse_records(evidence: Evidence) -> Parsed:
    """Every record of the ledger through the one gate. Findings come from :func:`step_parse`.

    Of a record that passed, one byte is kept: the object is made again from the same bytes wherever it is needed,
    because objects of all records take six times the memory of the ledger.
    """
    data = evidence.records
    passed = bytearray(len(data))
    problems: dict[int, str] = {}
    for index, record in enumerate(data):
        problem = _problem(evidence, index, record)
        passed[index] = not problem
        if problem and len(problems) < FINDINGS_KEPT:
            problems[index] = problem

    def made(index: int) -> AnyRecord | None:
        record = data[index] if passed[index] else None
        if record is None:
            return _unshown(index) if evidence.compact and passed[index] else None
        return decode_record(record)

    records = Lazy(made, range(len(data)))
    first = records[0] if records else None
    genesis = first if isinstance(first, Genesis) else None
    if first is not None and genesis is None:
        problems[0] = "not the genesis record"
    return Parsed(records=records, problems=problems, genesis=genesis)


def _problem(evidence: Evidence, index: int, record: bytes | None) -> str:
    if record is None and evidence.compact:
        return "it is not shown" if index == 0 else ""
    if record is None:
        return evidence.damage.get(index, "damaged in ledger.log")
    try:
        parse_record(record)
    except MalformedError as error:
        return f"not a record: {error}"
    return ""


def _unshown(index: int) -> Unshown:
    return Unshown(v=1, run=bytes(RUN_BYTES), index=index, step=0, batch=ZERO)


def match_heads(evidence: Evidence, parsed: Parsed) -> Heads:
    """Check every signature by the genesis key and recompute the root of every head that the records reach."""
    heads: list[tuple[SealFile, Head]] = []
    problems: dict[int, str] = {}
    for seal in evidence.seals:
        head = _open(seal, parsed.genesis)
        if isinstance(head, Head):
            heads.append((seal, head))
        else:
            problems[seal.number] = head
    roots = _roots(evidence, {head.size for _, head in heads})
    judged = tuple(_judge(seal, head, roots) for seal, head in heads)
    newest = max((item for item in judged if item.matches), key=lambda item: item.head.size, default=None)
    sealed = 0 if newest is None else newest.head.size
    gap = next((index for index in sorted(parsed.problems) if parsed.records[index] is None), sealed)
    authentic = parsed.records[: min(gap, sealed)]
    last = max((seal.number for seal in evidence.seals), default=-1)
    whole = newest is not None and newest.seal.number == last and len(authentic) == sealed
    return Heads(
        heads=judged,
        problems=problems,
        records=cast(Sequence[AnyRecord], authentic),
        newest=newest,
        whole=whole,
    )


def _open(seal: SealFile, genesis: Genesis | None) -> Head | str:
    if seal.seal is None:
        return seal.problem
    if genesis is None:
        return "its signature cannot be checked without the genesis record"
    try:
        head = open_note(seal.seal.note, key=genesis.key)
    except MalformedError as error:
        return str(error)
    return head if head.run == genesis.run else "its head belongs to another run"


def _roots(evidence: Evidence, sizes: set[int]) -> dict[int, tuple[bytes, bytes]]:
    """RFC 9162 and chainpoint root at each of ``sizes``, as far as leaves are there without a gap."""
    roots: dict[int, tuple[bytes, bytes]] = {}
    tree, chainpoint = Frontier(), Frontier(chainpoint_node)
    last = min(max(sizes, default=0), len(evidence.records))
    for size, leaf in enumerate(map(evidence.leaf, range(last)), start=1):
        if leaf is None:
            break
        tree.append(leaf)
        chainpoint.append(leaf)
        if size in sizes:
            roots[size] = (tree.root(), chainpoint.root())
    return roots


def _judge(seal: SealFile, head: Head, roots: dict[int, tuple[bytes, bytes]]) -> SealedHead:
    if head.size not in roots:
        return SealedHead(seal=seal, head=head, matches=None, chainpoint_matches=False)
    root, chainpoint = roots[head.size]
    return SealedHead(
        seal=seal, head=head, matches=root == head.root, chainpoint_matches=chainpoint == head.chainpoint
    )


def step_parse(evidence: Evidence, parsed: Parsed, heads: Heads) -> list[Finding]:
    """Step 1. ``pass``: every sealed record and every seal manifest is readable, numbered and of this run."""
    findings = [*_record_findings(evidence, parsed, heads), *_seal_file_findings(evidence)]
    tail = len(evidence.records) - heads.claimed
    if heads.claimed and tail >= 0 and evidence.torn:
        findings.append(_parse("unverifiable", f"after the last head, {evidence.torn}", name="unsealed"))
    if heads.claimed and tail > 0:
        detail = f"{tail} records after the last head are not sealed and not evidence"
        findings.append(_parse("unverifiable", detail, record=heads.claimed, name="unsealed"))
    if not any(finding.blocks for finding in findings):
        seals = counted(len(evidence.seals), "seal")
        detail = f"{counted(heads.claimed, 'record')} and {seals} are well-formed"
        findings.append(_parse("pass", detail))
    return findings


def _parse(outcome: str, detail: str, *, record: int | None = None, name: str = "parse") -> Finding:
    remedy = RESTORE if outcome == "unverifiable" and name == "parse" else None
    return Finding(step=1, name=name, outcome=outcome, detail=detail, record=record, remedy=remedy)  # type: ignore[arg-type]


def _record_findings(evidence: Evidence, parsed: Parsed, heads: Heads) -> list[Finding]:
    if not parsed.records:
        return [_parse("unverifiable", evidence.torn or "ledger.log holds no record", record=0)]
    findings = []
    for index, why in sorted(parsed.problems.items()):
        # Beyond every head nothing is evidence, except that without any head the whole ledger is meant.
        if index < heads.claimed or not heads.claimed:
            findings.append(_parse("unverifiable", why, record=index))
    findings += _misplaced(parsed, heads)
    if heads.claimed > len(parsed.records):
        first = len(parsed.records)
        why = f": {evidence.torn}" if evidence.torn else ""
        detail = f"records {first} to {heads.claimed - 1} are sealed but missing from ledger.log{why}"
        findings.append(_parse("unverifiable", detail, record=first))
    return findings[:FINDINGS_KEPT]


def _misplaced(parsed: Parsed, heads: Heads) -> Iterator[Finding]:
    genesis = parsed.genesis
    for index, record in enumerate(parsed.records):
        if record is None or genesis is None or isinstance(record, Unshown):
            continue
        if record.index == index and record.run == genesis.run:
            continue
        what = "it belongs to another run" if record.run != genesis.run else f"it is numbered {record.index}"
        outcome = "fail" if index < heads.sealed else "unverifiable"
        if index < max(heads.claimed, heads.sealed):
            yield _parse(outcome, what, record=index)


def _seal_file_findings(evidence: Evidence) -> Iterator[Finding]:
    for seal in evidence.seals:
        if seal.seal is None:
            yield _parse("unverifiable", f"{seal.name}: {seal.problem}")


def step_heads(evidence: Evidence, parsed: Parsed, heads: Heads) -> list[Finding]:
    """Step 2. ``pass``: all heads are signed by the genesis key, chained, growing, and equal to the records."""
    findings = [
        *_signature_findings(evidence, heads),
        *_root_findings(heads),
        *_chain_findings(heads),
        *_early_genesis(heads),
    ]
    if not findings and heads.newest is not None and heads.whole:
        signed = counted(len(heads.heads), "signed head")
        detail = f"{signed} of the genesis key over {counted(heads.sealed, 'record')}"
        return [Finding(step=2, name="heads", outcome="pass", detail=detail)]
    if not findings:
        findings = [_unverifiable("no head covers the records", "seal the run")]
    return findings[:FINDINGS_KEPT]


def _unverifiable(detail: str, remedy: str = RESTORE, *, record: int | None = None) -> Finding:
    return Finding(step=2, name="heads", outcome="unverifiable", detail=detail, remedy=remedy, record=record)


def _fail(
    detail: str, *, record: int | None = None, expected: str | None = None, found: str | None = None
) -> Finding:
    return Finding(
        step=2, name="heads", outcome="fail", detail=detail, record=record, expected=expected, found=found
    )


def _signature_findings(evidence: Evidence, heads: Heads) -> Iterator[Finding]:
    if not evidence.seals:
        yield _unverifiable("there is no seal", "restore the folder seals/")
    for seal in evidence.seals:
        if seal.number in heads.problems and seal.seal is not None:
            yield _unverifiable(f"{seal.name}: {heads.problems[seal.number]}")
    known = {seal.number for seal in evidence.seals}
    # A file name can state any number: as many gaps as findings are kept lie among the first numbers.
    for number in range(min(max(known, default=-1), len(known) + FINDINGS_KEPT)):
        if number not in known:
            yield _unverifiable(f"seal {number} is missing from seals/")


def _root_findings(heads: Heads) -> Iterator[Finding]:
    by_size: dict[int, SealedHead] = {}
    for item in heads.heads:
        size, name = item.head.size, item.seal.name
        twin = by_size.setdefault(size, item)
        if twin.head.root != item.head.root:
            yield _fail(
                f"equivocation: {twin.seal.name} and {name} sign different trees of {size} records",
                expected=twin.head.root.hex(),
                found=item.head.root.hex(),
            )
        if item.matches and not item.chainpoint_matches:
            yield _fail(f"{name}: the chainpoint line is not the tree's", found=item.head.chainpoint.hex())
        if item.matches is False and size < heads.sealed:
            yield _fail(
                f"equivocation: {name} is inconsistent with the later head over {heads.sealed} records",
                found=item.head.root.hex(),
            )
        elif item.matches is False:
            detail = f"{name}: the records do not give the signed root; one of {heads.sealed} to {size - 1} was changed"
            yield _unverifiable(detail, "restore ledger.log from a copy", record=heads.sealed)
        elif item.matches is None:
            detail = f"{name}: not all of the {size} records it covers are readable"
            yield _unverifiable(detail, "restore ledger.log from a copy")


def _chain_findings(heads: Heads) -> Iterator[Finding]:
    by_number = {item.seal.number: item for item in heads.heads}
    for number, item in sorted(by_number.items()):
        before = by_number.get(number - 1)
        if before is None and number > 0:
            # The seal before it is already reported as missing or unreadable.
            continue
        expected = ZERO if before is None else before.head.digest()
        if item.head.previous != expected:
            yield _unverifiable(f"{item.seal.name}: the head before it is another one or missing")
        elif before is not None and item.head.size <= before.head.size:
            yield _fail(
                f"{item.seal.name}: the tree does not grow",
                expected=f"more than {before.head.size} records",
                found=str(item.head.size),
            )


def _early_genesis(heads: Heads) -> Iterator[Finding]:
    first = next((item for item in heads.heads if item.seal.number == 0), None)
    # The number of a seal is not signed: only the head without a previous one is the first.
    if first is None or not first.matches or first.head.previous != ZERO:
        return
    step = next((record for record in heads.records[: first.head.size] if isinstance(record, Step)), None)
    if isinstance(step, Unshown):
        remedy = "ask the prover for a proof that is not compact"
        yield _unverifiable("a record under the first head is not shown", remedy, record=step.index)
    elif step is not None:
        yield _fail("genesis was not sealed before step 0", record=step.index)
