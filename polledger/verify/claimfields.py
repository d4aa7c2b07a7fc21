"""Every field of a claim that the run records, against what the authenticated records say. PROTOCOL section 13."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polledger.core.claim import Anchor, Claim
from polledger.core.dtypes import byte_size
from polledger.core.published import flat_model_root
from polledger.core.report import Finding, counted
from polledger.core.state import Entry, TensorEntry
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError
from polledger.store.objects import ObjectStore
from polledger.verify.claimed import (
    RunFacts,
    data_of,
    environment_of,
    leaves,
    parents_of,
    stated_times,
    tensors_of,
    training_of,
)
from polledger.verify.heads import SealedHead

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
class KnownRun:
    """What a claim is held against. ``entries``: those of the published model, None where its state is not at hand."""

    facts: RunFacts
    heads: tuple[SealedHead, ...]
    objects: ObjectStore
    entries: tuple[Entry, ...] | None


def claim_finding(
    outcome: Outcome, detail: str, *, remedy: str | None = None, name: str = "claim"
) -> Finding:
    """A finding of step 10 about a claim."""
    return Finding(step=10, name=name, outcome=outcome, detail=detail, remedy=remedy)


def compare_fields(claim: Claim, known: KnownRun, outcome: Outcome) -> Iterator[Finding]:
    """A finding for each field in which claim and run differ; ``outcome`` is that of a contradiction."""
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
    if said.size == head.size and said.root != head.root.hex():
        return _wrong("training.head.root", head.root.hex(), said.root, outcome)
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
            yield claim_finding(outcome, "the claim lists a tensor twice (model.tensors)")
    elif _flat_root(claim) != claim.model.root:
        yield claim_finding(
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
    return claim_finding("unverifiable", detail, remedy="restore it from a copy")
