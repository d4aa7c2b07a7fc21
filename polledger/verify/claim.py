"""A claim against what is known of the run: its signatures, its fields, its files, its time. PROTOCOL section 13.

``fail`` only where the key that sealed the run also signed the claim, and the two contradict each other. A claim that
another key signed, or that was changed after it was signed, contradicts nothing: it is no claim of whoever trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from msgspec import UnsetType

from polledger.core.claim import Claim, claim_in
from polledger.core.digest import sha256
from polledger.core.dsse import Envelope, PublicKey, parse_envelope
from polledger.core.moment import utc_text
from polledger.core.published import published_entries, published_model
from polledger.core.records import Genesis, TokenRef
from polledger.core.report import Finding, counted
from polledger.core.state import Entry
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import hash_regular
from polledger.store.objects import ObjectStore
from polledger.timestamp.revocation import held_by
from polledger.timestamp.trust import Trust
from polledger.verify.claimed import RunFacts, run_facts
from polledger.verify.claimfields import ASK, KnownRun, claim_finding, compare_fields
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads
from polledger.verify.lineage import FINDINGS_KEPT, Lineage
from polledger.verify.policy import Policy
from polledger.verify.states import load_state
from polledger.verify.tokens import TokenReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadClaim:
    """A claim through the gate. ``key`` is the one that it names as the claimant's: no signature is checked yet."""

    envelope: Envelope
    claim: Claim

    @property
    def key(self) -> PublicKey:
        """The claimant's key."""
        return PublicKey(algorithm="ed25519", key=bytes.fromhex(self.claim.claimant.key))

    @property
    def signature(self) -> bytes | None:
        """The claimant's signature that holds; None if there is none."""
        return self.envelope.signature_of(self.key)

    def names(self, genesis: Genesis) -> bool:
        """Whether the claim is about the run that begins with ``genesis``, under the key that is named there."""
        return self.key.key == genesis.key and self.claim.training.run == genesis.run.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A claim to be checked. ``stamps``: the tokens over its signature, ``folder``: where they lie."""

    read: ReadClaim
    stamps: tuple[TokenRef, ...]
    folder: ObjectStore


def read_claim(data: bytes) -> ReadClaim:
    """The claim in the file ``data``. Raises MalformedError; nothing is checked."""
    envelope = parse_envelope(data)
    return ReadClaim(envelope=envelope, claim=claim_in(envelope))


def step_claim(read: ReadClaim, known: KnownRun | None, why: str = "") -> list[Finding]:
    """Step 10 for a claim. ``pass``: the genesis key signed it, and it agrees with the run in every field
    that the run records. Names, contact, model files and what is not claimed are the claimant's own words.

    ``known`` None: the run is not at hand, and ``why`` says so.
    """
    findings = [*_signed(read), *_further(read)]
    if known is None:
        findings.append(
            claim_finding("unverifiable", why, remedy="put proof.msgpack or the run beside it (--run)")
        )
        return findings
    if not any(finding.blocks for finding in findings):
        findings += _other_key(read, known)
    # Only what the genesis key signed can contradict what it sealed.
    outcome: Outcome = "unverifiable" if any(finding.blocks for finding in findings) else "fail"
    findings += list(compare_fields(read.claim, known, outcome))[:FINDINGS_KEPT]
    if not any(finding.blocks for finding in findings):
        findings.append(claim_finding("pass", _agreement(read, known)))
    return findings


def accusing_nobody(finding: Finding, place: str) -> Finding:
    """The finding for a proof or a run (``place``) that is not the one of the claim beside which it lies.

    Whoever can put something there can put what contradicts itself, under a key made for that.
    """
    if finding.outcome != "fail":
        return finding
    detail = f"the {place} at hand is not that of the claim, and it is contradictory: {finding.detail}"
    return replace(finding, outcome="unverifiable", detail=detail, remedy=ASK)


def _signed(read: ReadClaim) -> Iterator[Finding]:
    if read.signature is None:
        yield claim_finding(
            "unverifiable",
            "the claim does not carry a valid signature of the key that it names as the claimant's: it was changed "
            "after it was signed, or somebody else wrote it",
            remedy=ASK,
        )


def _further(read: ReadClaim) -> Iterator[Finding]:
    further = read.claim.claimant.further
    for one in () if isinstance(further, UnsetType) else further:
        try:
            valid = read.envelope.signature_of(one.public()) is not None
        except Unavailable as error:
            yield claim_finding(
                "unverifiable", f"a second signature was not checked: {error}", name="claim.further"
            )
            continue
        except MalformedError as error:
            yield claim_finding("unverifiable", str(error), remedy=ASK)
            continue
        if not valid:
            detail = f"the claim says that a key of {one.algorithm} signs it as well, and that signature is not valid"
            yield claim_finding("unverifiable", detail, remedy=ASK)


def _other_key(read: ReadClaim, known: KnownRun) -> Iterator[Finding]:
    genesis = known.facts.genesis
    if read.key.key != genesis.key:
        yield Finding(
            step=10,
            name="claim",
            outcome="unverifiable",
            detail=(
                "somebody else claims this run: the key that signed the claim is not the one that sealed the "
                "training, and only that one can claim it"
            ),
            expected=genesis.key.hex(),
            found=read.key.key.hex(),
            remedy="ask whoever sealed the run for their claim",
        )


def _agreement(read: ReadClaim, known: KnownRun) -> str:
    claim, training = read.claim, read.claim.training
    tensors = counted(len(claim.model.tensors), "tensor")
    compared = "" if known.entries is None else ", each compared with the state that the run ends in"
    extra = len(read.envelope.signatures) - 1
    extra -= 0 if isinstance(claim.claimant.further, UnsetType) else len(claim.claimant.further)
    unknown = (
        f"; {counted(extra, 'signature')} of keys that it does not name were not looked at"
        if extra > 0
        else ""
    )
    return (
        f"signed by the key that sealed the run, and equal to it in every field that the run records: "
        f"{training.steps} steps, {counted(len(training.anchors), 'time stamp')}, {tensors}{compared}{unknown}"
    )


def claim_reader(asked: ClaimRequest, *, trust: Trust | None, policy: Policy, now: datetime) -> TokenReader:
    """What reads the tokens over the claim."""
    return TokenReader(objects=asked.folder, trust=trust, policy=policy, now=now, pool=held_by(trust))


def step_files(read: ReadClaim, model: Path | None) -> list[Finding]:
    """Step 10 for the files that a claim names: whether ``model`` is one of them. Never required."""
    files = {one.sha256: one.name for one in read.claim.model.files}
    if not files:
        return []
    if model is None:
        names = ", ".join(files.values())
        detail = f"whether a file is one of those that the claim names was not checked: {names}"
        return [claim_finding("unverifiable", detail, name="claim.files", remedy="give it with --model")]
    digest, size = hash_regular(model), model.stat().st_size
    claimed = {one.sha256: one.size for one in read.claim.model.files}
    if claimed.get(digest, size) != size:
        detail = (
            f"the claim is wrong about {files[digest]}: it says {claimed[digest]} bytes, the file has {size}"
        )
        return [claim_finding("unverifiable", detail, remedy=ASK)]
    if digest in files:
        return [
            claim_finding(
                "pass", f"{model} is the very file {files[digest]} that the claim names", name="claim.files"
            )
        ]
    detail = f"{model} is none of the files that the claim names ({', '.join(files.values())}): its bytes are others"
    return [claim_finding("unverifiable", detail, name="claim.files")]


def step_claim_time(asked: ClaimRequest, reader: TokenReader) -> Finding:
    """When the claim was signed at the latest, by the tokens over its signature. Never required.

    ``reader`` reads in the folder of these tokens; its findings are of this one's making.
    """
    signature = asked.read.signature
    if signature is None or not asked.stamps:
        return _claim_time("unverifiable", "no time stamp over the claim itself is at hand")
    read = [reader.token("proof.msgpack", ref, sha256(signature), 0) for ref in asked.stamps]
    found = sorted((stamp for stamp in read if stamp is not None), key=lambda stamp: stamp.timestamp.gen_time)
    trusted = next((stamp for stamp in found if stamp.operator), None)
    if trusted is not None:
        when = utc_text(trusted.timestamp.gen_time)
        return _claim_time("pass", f"the claim was signed by {when}, vouched for by {trusted.operator}")
    if found:
        detail = f"the claim was signed by {utc_text(found[0].timestamp.gen_time)}, as its own tokens say"
        return _claim_time("unverifiable", detail, "give the authorities you trust with --trust")
    why = "; ".join(finding.detail for finding in reader.findings)
    return _claim_time("unverifiable", f"no time stamp over the claim can be used: {why}")


def _claim_time(outcome: Outcome, detail: str, remedy: str | None = None) -> Finding:
    return Finding(step=3, name="time.claim", outcome=outcome, detail=detail, remedy=remedy)


def step_claimed_run(
    asked: ClaimRequest,
    evidence: Evidence,
    heads: Heads,
    lineage: Lineage,
    *,
    reader: TokenReader,
    model: Path | None,
) -> list[Finding]:
    """Steps 3 and 10 for a claim beside the run itself; ``reader`` reads the tokens over the claim."""
    record = evidence.records[0] if evidence.records else None
    facts = None if record is None else run_facts(record, heads, lineage)
    known = None if facts is None else _known(facts, evidence, heads, lineage)
    why = "the run at hand is damaged or not finished, so that the claim cannot be held against it"
    return [
        *step_claim(asked.read, known, why),
        *step_files(asked.read, model),
        step_claim_time(asked, reader),
    ]


def _known(facts: RunFacts, evidence: Evidence, heads: Heads, lineage: Lineage) -> KnownRun:
    entries: tuple[Entry, ...] | None = None
    try:
        state = load_state(evidence.objects, lineage.checkpoints[-1].root)
        entries = tuple(published_entries(published_model(state.flat, facts.final.object)))
    except (Unavailable, UsageError):
        # Steps 9 and 10 (final) say so; the tensors are then held against the root.
        entries = None
    matching = tuple(item for item in heads.heads if item.matches)
    return KnownRun(facts=facts, heads=matching, objects=evidence.objects, entries=entries)
