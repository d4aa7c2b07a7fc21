"""A claim against what is known of the run: its signatures, and every field. PROTOCOL section 13.

``fail`` only where the key that sealed the run also signed the claim, and the two contradict each other. A claim that
another key signed, or that was changed after it was signed, contradicts nothing: it is no claim of whoever trained.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from polledger.core.claim import Anchor, Claim, claim_in
from polledger.core.digest import sha256
from polledger.core.dsse import Envelope, PublicKey, parse_envelope
from polledger.core.dtypes import byte_size
from polledger.core.moment import utc_text
from polledger.core.published import flat_model_root, published_entries, published_model
from polledger.core.records import Genesis, TokenRef
from polledger.core.report import Finding, counted
from polledger.core.state import Entry, TensorEntry
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import hash_regular
from polledger.store.objects import ObjectStore
from polledger.timestamp.revocation import held_by
from polledger.timestamp.trust import Trust
from polledger.verify.claimed import (
    RunFacts,
    data_of,
    environment_of,
    leaves,
    parents_of,
    run_facts,
    stated_times,
    tensors_of,
    training_of,
)
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads, SealedHead
from polledger.verify.lineage import FINDINGS_KEPT, Lineage
from polledger.verify.policy import Policy
from polledger.verify.states import load_state
from polledger.verify.tokens import TokenReader

ASK = "ask the claimant for the claim again, and for a proof on a challenge of yours"

WORDS: Mapping[str, str] = {
    "claimant.key": "the key of the claimant",
    "data": "the data",
    "environment": "the machine and software of the training",
    "model": "the model",
    "model.root": "the fingerprint of the model",
    "model.tensors": "the tensors of the model",
    "parents": "the run that this one started from",
    "task": "the code of the training",
    "training": "the training",
    "training.genesis": "the first record of the run",
    "training.head": "the end of the run's log",
    "training.steps": "the number of training steps",
    "training.origin": "where the training started from",
    "training.anchors": "the time stamps",
}
"""What a field is about, by the longest beginning of its path."""


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
class KnownRun:
    """What a claim is held against. ``entries``: those of the published model, None where its state is not at hand."""

    facts: RunFacts
    heads: tuple[SealedHead, ...]
    objects: ObjectStore
    entries: tuple[Entry, ...] | None


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
            _finding("unverifiable", why, remedy="put proof.msgpack or the run beside it (--run)")
        )
        return findings
    if not any(finding.blocks for finding in findings):
        findings += _other_key(read, known)
    # Only what the genesis key signed can contradict what it sealed.
    outcome: Outcome = "unverifiable" if any(finding.blocks for finding in findings) else "fail"
    findings += list(_fields(read.claim, known, outcome))[:FINDINGS_KEPT]
    if not any(finding.blocks for finding in findings):
        findings.append(_finding("pass", _agreement(read, known)))
    return findings


def accusing_nobody(finding: Finding, place: str) -> Finding:
    """The finding for a proof or a run (``place``) that is not the one of the claim beside which it lies.

    Whoever can put something there can put what contradicts itself, under a key made for that.
    """
    if finding.outcome != "fail":
        return finding
    detail = f"the {place} at hand is not that of the claim, and it is contradictory: {finding.detail}"
    return replace(finding, outcome="unverifiable", detail=detail, remedy=ASK)


def _finding(outcome: Outcome, detail: str, *, remedy: str | None = None, name: str = "claim") -> Finding:
    return Finding(step=10, name=name, outcome=outcome, detail=detail, remedy=remedy)


def _signed(read: ReadClaim) -> Iterator[Finding]:
    if read.signature is None:
        yield _finding(
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
            yield _finding(
                "unverifiable", f"a second signature was not checked: {error}", name="claim.further"
            )
            continue
        except MalformedError as error:
            yield _finding("unverifiable", str(error), remedy=ASK)
            continue
        if not valid:
            detail = f"the claim says that a key of {one.algorithm} signs it as well, and that signature is not valid"
            yield _finding("unverifiable", detail, remedy=ASK)


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


def _fields(claim: Claim, known: KnownRun, outcome: Outcome) -> Iterator[Finding]:
    facts = known.facts
    if claim.training.run != facts.genesis.run.hex():
        # An honest claim beside an honest run of somebody else contradicts nothing.
        yield Finding(
            step=10,
            name="claim",
            outcome="unverifiable",
            detail="the claim is about another run than the one that is at hand",
            expected=facts.genesis.run.hex(),
            found=claim.training.run,
            remedy="give the run that the claim names",
        )
        return
    if claim.training.head != training_of(facts).head:
        yield _other_head(claim, known, outcome)
        return
    for path, expected, found in _differences(claim, facts):
        hidden = path == "training.resumes" and not facts.whole and found > expected
        yield _wrong(path, expected, found, "unverifiable" if hidden else outcome)
    yield from _tensors(claim, known, outcome)
    for number, anchor in enumerate(claim.training.anchors):
        yield from _anchor(f"training.anchors[{number}]", anchor, known, outcome)


def _other_head(claim: Claim, known: KnownRun, outcome: Outcome) -> Finding:
    """Another end: a lost seal looks the same, unless both are over as many records."""
    said, head = claim.training.head, known.facts.head.head
    forked = said.size == head.size and said.root != head.root.hex()
    finding = _wrong("training.head.root", head.root.hex(), said.root, outcome if forked else "unverifiable")
    if forked:
        return finding
    return Finding(
        step=10,
        name="claim",
        outcome="unverifiable",
        detail=f"the claim is about the run after {said.size} records, what is at hand ends with {head.size}",
        expected=head.digest().hex(),
        found=said.digest,
        remedy="give the run as it was when the claim was made",
    )


def _differences(claim: Claim, facts: RunFacts) -> Iterator[tuple[str, Any, Any]]:
    """Path, what the run says and what the claim says, of every plain value in which they differ."""
    genesis, final = facts.genesis, facts.final
    model = {"object": final.object, "root": final.model_root.hex()}
    anchors = claim.training.anchors
    pairs: list[tuple[str, Any, Any]] = [
        ("claimant", {"key": genesis.key.hex()}, {"key": claim.claimant.key}),
        ("training", training_of(facts, anchors), claim.training),
        ("model", model, {"object": claim.model.object, "root": claim.model.root}),
        ("data", data_of(genesis), claim.data),
        ("task", genesis.task.hex(), claim.task),
        ("environment", environment_of(genesis), claim.environment),
        ("parents", parents_of(genesis), claim.parents),
    ]
    for path, wanted, said in pairs:
        expected, found = dict(leaves(wanted, path)), dict(leaves(said, path))
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) != found.get(key):
                yield key, expected.get(key), found.get(key)


def _wrong(path: str, expected: Any, found: Any, outcome: Outcome) -> Finding:
    """The finding for a field that is not what the run recorded."""
    right, said = _said(expected), _said(found)
    return Finding(
        step=10,
        name="claim",
        outcome=outcome,
        detail=f"the claim is wrong about {words(path)} ({path}): it says {said}, the sealed records say {right}",
        expected=right,
        found=said,
        remedy=None if outcome == "fail" else ASK,
    )


def _said(value: Any) -> str:
    return "nothing" if value is None else str(value)[:80]


def words(path: str) -> str:
    """What the field at ``path`` is about, for people."""
    fitting = [known for known in WORDS if path == known or path.startswith((f"{known}.", f"{known}["))]
    return WORDS[max(fitting, key=len)] if fitting else "the run"


def _tensors(claim: Claim, known: KnownRun, outcome: Outcome) -> Iterator[Finding]:
    """The listed tensors: those of the last state, or at least those that give the model root."""
    listed = claim.model.tensors
    if known.entries is not None:
        wanted = {one.name: one for one in tensors_of(known.entries)}
        said = {one.name: one for one in listed}
        for name in sorted(wanted.keys() | said.keys()):
            if wanted.get(name) != said.get(name):
                yield _wrong(
                    f"model.tensors[{name}]", _tensor(wanted.get(name)), _tensor(said.get(name)), outcome
                )
        if len(said) != len(listed):
            yield _finding(outcome, "the claim lists a tensor twice (model.tensors)")
    elif _flat_root(claim) != claim.model.root:
        yield _finding(
            "unverifiable",
            "the tensors that the claim lists do not give the fingerprint of the model that it claims (model.tensors)",
            remedy="give the run: a model that consists of more than tensors needs its last state",
        )


def _tensor(tensor: Any) -> str | None:
    return None if tensor is None else f"{tensor.dtype} {tensor.shape} {tensor.root}"


def _flat_root(claim: Claim) -> str | None:
    tensors = listed_tensors(claim)
    return flat_model_root(tensors).hex() if len(tensors) == len(claim.model.tensors) else None


def listed_tensors(claim: Claim) -> list[TensorEntry]:
    """The tensors that the claim lists, as entries of a state; those of an unknown format are left out."""
    entries = []
    for one in claim.model.tensors:
        with contextlib.suppress(MalformedError):
            entries.append(
                TensorEntry(
                    v=1,
                    path=one.name,
                    dtype=one.dtype,
                    shape=list(one.shape),
                    bytes=byte_size(one.dtype, one.shape),
                    root=bytes.fromhex(one.root),
                )
            )
    return entries


def _anchor(path: str, anchor: Anchor, known: KnownRun, outcome: Outcome) -> Iterator[Finding]:
    sealed = next((item for item in known.heads if item.seal.number == anchor.seal), None)
    if sealed is None or sealed.head.size != anchor.size:
        yield _missing(path, f"seal {anchor.seal} over {counted(anchor.size, 'record')} is not at hand")
        return
    stated = {one.token: one for one in stated_times(sealed, known.objects)}
    token = stated.get(anchor.token)
    if token is None:
        yield _missing(path, f"the token of {anchor.authority!r} over seal {anchor.seal} is not at hand")
    elif token.time != anchor.time:
        yield _wrong(f"{path}.time", token.time, anchor.time, outcome)
    elif token.authority != anchor.authority:
        # The name beside a token is a label that nothing signs.
        yield _wrong(f"{path}.authority", token.authority, anchor.authority, "unverifiable")


def _missing(path: str, why: str) -> Finding:
    detail = f"a time stamp that the claim names could not be checked ({path}): {why}"
    return _finding("unverifiable", detail, remedy="restore it from a copy")


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
        return [_finding("unverifiable", detail, name="claim.files", remedy="give it with --model")]
    digest, size = hash_regular(model), model.stat().st_size
    claimed = {one.sha256: one.size for one in read.claim.model.files}
    if claimed.get(digest, size) != size:
        detail = (
            f"the claim is wrong about {files[digest]}: it says {claimed[digest]} bytes, the file has {size}"
        )
        return [_finding("unverifiable", detail, remedy=ASK)]
    if digest in files:
        return [
            _finding(
                "pass", f"{model} is the very file {files[digest]} that the claim names", name="claim.files"
            )
        ]
    detail = f"{model} is none of the files that the claim names ({', '.join(files.values())}): its bytes are others"
    return [_finding("unverifiable", detail, name="claim.files")]


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
