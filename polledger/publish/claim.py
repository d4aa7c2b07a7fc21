"""Making a claim: the statement about a finished run, and the public proof beside it. PROTOCOL section 13.

Everything that is stated is computed from records under the newest head; only the names and the contact are the
claimant's own words.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET

from polledger.core.claim import (
    NOT_CLAIMED,
    Claim,
    Claimant,
    FurtherKey,
    Model,
    ModelFile,
    encode_statement,
    parse_statement,
)
from polledger.core.digest import sha256
from polledger.core.dsse import PublicKey
from polledger.core.merkle import Tree, consistency_proof, leaf_hash
from polledger.core.publicproof import ProvenRecord, PublicProof
from polledger.core.published import published_entries, published_model
from polledger.core.records import Checkpoint, Genesis, Resume, Seal, TokenRef
from polledger.core.state import Entry, state_root
from polledger.errors import MalformedError, UsageError
from polledger.files import hash_regular
from polledger.store.objects import ObjectStore
from polledger.store.tokens import TokenFolder, files_of
from polledger.timestamp.trust import REVOCATION_BYTES
from polledger.verify.binding import ReadModel, read_published
from polledger.verify.claimed import (
    RunFacts,
    bounding_anchors,
    data_of,
    environment_of,
    parents_of,
    run_facts,
    tensors_of,
    training_of,
)
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads, SealedHead, match_heads, parse_records
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.states import load_state


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run that can be claimed: whole under its newest head, and finished."""

    evidence: Evidence
    heads: Heads
    lineage: Lineage
    facts: RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the claimant adds. ``supersedes`` is SHA-256 of the payload of an earlier claim."""

    name: str
    contact: str
    model: str
    files: Sequence[Path] = ()
    supersedes: bytes | None = None


def finished_run(evidence: Evidence) -> FinishedRun:
    """The run in ``evidence``. Raises UsageError saying why it cannot be claimed."""
    heads = match_heads(evidence, parse_records(evidence))
    genesis = heads.records[0] if heads.records else None
    record = evidence.records[0] if evidence.records else None
    if not isinstance(genesis, Genesis) or record is None or heads.newest is None or not heads.whole:
        raise UsageError(
            "the run's records do not match its last seal: `polledger verify` says what is wrong"
        )
    lineage = build_lineage(genesis, heads.records)
    if lineage.final is None or not lineage.complete:
        raise UsageError(
            "the run is not finished: a claim needs its final record (seal --resume continues it)"
        )
    facts = run_facts(record, heads, lineage)
    if facts is None:
        raise UsageError(
            "the run is not finished: a claim needs its final record (seal --resume continues it)"
        )
    return FinishedRun(evidence=evidence, heads=heads, lineage=lineage, facts=facts)


def make_claim(
    run: FinishedRun, wishes: Wishes, *, key: bytes, further: Sequence[PublicKey], read: ReadModel
) -> bytes:
    """The payload to be signed by ``key``, the raw public key of genesis, and the ``further`` keys.

    Raises UsageError if another key sealed the run, a file is not its model, or a wish breaks a bound of the format;
    Unavailable if the last state cannot be read.
    """
    genesis = run.facts.genesis
    if key != genesis.key:
        raise UsageError(
            f"this key did not seal the run: its genesis names {genesis.key.hex()}, and only that key can claim it"
        )
    claim = Claim(
        v=1,
        claimant=_claimant(wishes, key, further),
        model=_model(run, wishes, read),
        training=training_of(run.facts, bounding_anchors(_matching(run.heads), run.evidence.objects)),
        data=data_of(genesis),
        task=genesis.task.hex(),
        environment=environment_of(genesis),
        parents=parents_of(genesis),
        not_claimed=list(NOT_CLAIMED),
        supersedes=UNSET if wishes.supersedes is None else wishes.supersedes.hex(),
    )
    payload = encode_statement(claim)
    try:
        parse_statement(payload)
    except MalformedError as error:
        # Structs do not check their own bounds when they are made.
        raise UsageError(str(error)) from None
    return payload


def _matching(heads: Heads) -> list[SealedHead]:
    return [item for item in heads.heads if item.matches]


def _claimant(wishes: Wishes, key: bytes, further: Sequence[PublicKey]) -> Claimant:
    listed = [FurtherKey(algorithm=one.algorithm, key=one.key.hex()) for one in further]
    return Claimant(key=key.hex(), name=wishes.name, contact=wishes.contact, further=listed or UNSET)


def _model(run: FinishedRun, wishes: Wishes, read: ReadModel) -> Model:
    final = run.facts.final
    entries = final_entries(run)
    return Model(
        name=wishes.model,
        object=final.object,
        root=final.model_root.hex(),
        tensors=tensors_of(entries),
        files=[_file(path, final.model_root, read) for path in wishes.files],
    )


def final_entries(run: FinishedRun) -> list[Entry]:
    """The entries of the published model. Raises Unavailable if its state is missing, UsageError if it is another."""
    final = run.facts.final
    state = load_state(run.evidence.objects, run.lineage.checkpoints[-1].root)
    entries = published_entries(published_model(state.flat, final.object))
    if state_root(entries) != final.model_root:
        raise UsageError(
            "final does not name the model in the run's last state: `polledger verify` says more"
        )
    return entries


def _file(path: Path, root: bytes, read: ReadModel) -> ModelFile:
    if state_root(published_entries(read_published(path, read))) != root:
        raise UsageError(f"{path} is not the model that this run ends with: nothing is claimed about it")
    return ModelFile(name=path.name, size=path.stat().st_size, sha256=hash_regular(path))


def make_proof(run: FinishedRun, tokens: Sequence[TokenRef]) -> PublicProof:
    """The public proof of the run; ``tokens`` are those over the claim's signature."""
    leaves = [leaf_hash(sha256(record)) for record in run.evidence.records[: run.heads.sealed] if record]
    tree = Tree(leaves)
    sealed = sorted(_matching(run.heads), key=lambda item: item.seal.number)
    sizes = [item.head.size for item in sealed]
    pairs = itertools.pairwise(sizes)
    return PublicProof(
        v=1,
        run=run.facts.genesis.run,
        seals=[item.seal.seal for item in sealed if isinstance(item.seal.seal, Seal)],
        consistency=[consistency_proof(leaves, first, second) for first, second in pairs],
        records=[_proven(run.evidence, tree, index) for index in _shown(run)],
        claim=list(tokens),
    )


def _shown(run: FinishedRun) -> list[int]:
    """Genesis, every resume, the first and the last checkpoint, and final."""
    records = run.heads.records
    resumes = [one.index for one in records if isinstance(one, Resume)]
    first = next(one.index for one in records if isinstance(one, Checkpoint))
    final = run.facts.final
    return sorted({0, *resumes, first, final.checkpoint, final.index})


def _proven(evidence: Evidence, tree: Tree, index: int) -> ProvenRecord:
    return ProvenRecord(record=evidence.records[index] or b"", path=tree.inclusion_proof(index))


def copy_tokens(proof: PublicProof, source: ObjectStore, target: TokenFolder) -> None:
    """Put what the heads' tokens consist of beside the claim. Raises Unavailable if any of it is missing or damaged."""
    for name in files_of(token for seal in proof.seals for token in seal.tokens):
        target.put(source.get(name, limit=REVOCATION_BYTES))
    target.sync()
