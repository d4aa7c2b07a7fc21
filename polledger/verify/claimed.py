"""What a claim has to say about a run: computed from authenticated records, by whoever claims and whoever checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, UnsetType

from polledger.core.claim import Anchor, ClaimedHead, ClaimedParent, Data, Tensor, Training
from polledger.core.digest import sha256
from polledger.core.records import Environment, Final, Genesis, Resume, Unshown
from polledger.core.state import Entry, TensorEntry
from polledger.errors import MalformedError, Unavailable
from polledger.store.objects import ObjectStore
from polledger.timestamp import cms
from polledger.timestamp.messages import token_of
from polledger.timestamp.token import TOKEN_BYTES
from polledger.timestamp.tstinfo import parse_tst_info
from polledger.verify.heads import Heads, SealedHead
from polledger.verify.lineage import Lineage, checkpoint_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The authenticated records that a claim is about, and the newest head over them.

    ``record`` is the bytes of ``genesis``. ``resumes`` counts the interruptions that are shown, and unless all
    records are (``whole``) there may be more.
    """

    record: bytes
    genesis: Genesis
    final: Final
    head: SealedHead
    resumes: int
    whole: bool


def run_facts(record: bytes, heads: Heads, lineage: Lineage) -> RunFacts | None:
    """What is known of a run, or of a proof that opens a sample of it; None unless it is whole and finished."""
    if lineage.final is None or not lineage.complete or heads.newest is None or not heads.whole:
        return None
    resumes, whole = 0, True
    for one in heads.records:
        resumes += isinstance(one, Resume)
        whole = whole and not isinstance(one, Unshown)
    return RunFacts(
        record=record,
        genesis=lineage.genesis,
        final=lineage.final,
        head=heads.newest,
        resumes=resumes,
        whole=whole,
    )


def training_of(facts: RunFacts, anchors: Sequence[Anchor] = ()) -> Training:
    """``training`` of a claim about the run."""
    genesis, final = facts.genesis, facts.final
    external: bytes | UnsetType = genesis.external
    return Training(
        run=genesis.run.hex(),
        genesis=sha256(facts.record).hex(),
        head=_head(facts.head),
        kind=genesis.kind,
        steps=final.steps,
        intervals=checkpoint_steps(genesis, final.steps) - 1,
        resumes=facts.resumes,
        every=genesis.every,
        warm=genesis.warm,
        seed=genesis.seed,
        bound=genesis.bound,
        origin=genesis.origin,
        external=UNSET if isinstance(external, UnsetType) else external.hex(),
        anchors=list(anchors),
    )


def _head(sealed: SealedHead) -> ClaimedHead:
    head = sealed.head
    return ClaimedHead(
        seal=sealed.seal.number, size=head.size, root=head.root.hex(), digest=head.digest().hex()
    )


def data_of(genesis: Genesis) -> Data:
    """``data`` of a claim about the run."""
    dataset = genesis.dataset
    if isinstance(dataset, UnsetType):
        return Data(disclosure="batches")
    return Data(disclosure="withheld", root=dataset.root.hex(), size=dataset.size)


def parents_of(genesis: Genesis) -> list[ClaimedParent]:
    """``parents`` of a claim about the run."""
    parent = genesis.parent
    if isinstance(parent, UnsetType):
        return []
    claim = UNSET if isinstance(parent.claim, UnsetType) else parent.claim.hex()
    return [ClaimedParent(head=parent.head.hex(), mode=parent.mode, claim=claim)]


def environment_of(genesis: Genesis) -> Environment:
    """``environment`` of a claim about the run: that of genesis."""
    return genesis.environment


def tensors_of(entries: Sequence[Entry]) -> list[Tensor]:
    """``model.tensors`` for the entries of a published model, in their order."""
    return [
        Tensor(name=entry.path, dtype=entry.dtype, shape=entry.shape, root=entry.root.hex())
        for entry in entries
        if isinstance(entry, TensorEntry)
    ]


def stated_times(sealed: SealedHead, objects: ObjectStore) -> Iterator[Anchor]:
    """What each readable token over a head states. Not checked: anything, these are the token's own words."""
    for ref in sealed.seal.seal.tokens if sealed.seal.seal else ():
        try:
            response = objects.get(ref.response, limit=TOKEN_BYTES)
            info = parse_tst_info(cms.parse_token(token_of(response)).content)
        except (MalformedError, Unavailable):
            continue
        yield Anchor(
            seal=sealed.seal.number,
            size=sealed.head.size,
            authority=ref.authority,
            time=info.gen_time.isoformat().replace("+00:00", "Z"),
            token=ref.response.hex(),
        )


def bounding_anchors(heads: Sequence[SealedHead], objects: ObjectStore) -> list[Anchor]:
    """The earliest and the latest token of each authority, by seal: what bounds the run from both ends."""
    bounds: dict[str, dict[bool, Anchor]] = {}
    for sealed in sorted(heads, key=lambda item: item.seal.number):
        for anchor in stated_times(sealed, objects):
            bound = bounds.setdefault(anchor.authority, {})
            bound.setdefault(False, anchor)
            bound[True] = anchor
    kept = {(one.seal, one.authority): one for bound in bounds.values() for one in bound.values()}
    return [kept[key] for key in sorted(kept)]


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Each plain value inside a part of a claim and its dotted path, as they stand in its JSON."""
    plain = msgspec.to_builtins(value)
    if isinstance(plain, Mapping):
        for key, item in plain.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(plain, list):
        for number, item in enumerate(plain):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, plain
