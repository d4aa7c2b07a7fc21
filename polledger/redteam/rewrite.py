"""Writing a run anew as its prover could: other records, other states, every head signed and timestamped again.

A prover owns the key, the run secret and the embedded authority, so nothing here is a forgery of a signature:
the result is well formed, and only what it says is untrue. PROTOCOL section 15, "rewriting".
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.digest import ZERO, sha256
from polledger.core.encoding import encode
from polledger.core.head import Head, parse_note, sign_head
from polledger.core.merkle import Frontier, chainpoint_node, leaf_hash
from polledger.core.records import AnyRecord, Seal, TokenRef, parse_record
from polledger.core.state import EncodedState
from polledger.store.ledger import LedgerWriter, read_ledger
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request

Edit = Callable[[list[AnyRecord]], list[AnyRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """What a prover signs and stamps with, and the time it claims."""

    key: Ed25519PrivateKey
    authority: EmbeddedAuthority
    now: datetime


def read_records(run: RunDirectory) -> list[AnyRecord]:
    """Every record of an undamaged run."""
    return [parse_record(data) for data in read_ledger(run.ledger_path).records if data is not None]


def rewrite_run(
    source: Path, target: Path, *, prover: Prover, edit: Edit, states: Iterable[EncodedState] = ()
) -> RunDirectory:
    """Copy ``source`` to ``target`` with its records edited, re-indexed and re-sealed by ``prover``.

    ``states`` are stored besides those that are there. Seals keep their places as far as the new ledger reaches.
    """
    run = RunDirectory.open(source)
    sizes = [parse_note(run.read_seal(index).note).head.size for index in run.seals()]
    before = read_records(run)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("ledger.log", "seals", "lock"))
    shutil.copyfile(run.ledger_path, target / "ledger.log")
    copy = RunDirectory.open(target)
    for state in states:
        copy.objects.put_named(state.root, tuple(state.chunks()))
    copy.ledger_path.write_bytes(b"")
    records = reindexed(edit(before), key=prover.key)
    with LedgerWriter.open(copy.ledger_path) as ledger:
        for record in records:
            ledger.append(encode(record))
        ledger.sync()
    sealed = sorted({min(size, len(records)) for size in sizes[:-1]} | {len(records)})
    _seal(copy, records, sealed, prover)
    return copy


def reindexed(records: Sequence[AnyRecord], *, key: Ed25519PrivateKey) -> list[AnyRecord]:
    """``records`` with contiguous indices, and genesis naming ``key``. Indices inside records stay as they are."""
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    numbered = [msgspec.structs.replace(record, index=index) for index, record in enumerate(records)]
    return [msgspec.structs.replace(numbered[0], key=public), *numbered[1:]]


def _seal(run: RunDirectory, records: Sequence[AnyRecord], sizes: Sequence[int], prover: Prover) -> None:
    tree, chainpoint = Frontier(), Frontier(chainpoint_node)
    previous, done = ZERO, 0
    for index, size in enumerate(sizes):
        for record in records[done:size]:
            leaf = leaf_hash(sha256(encode(record)))
            tree.append(leaf)
            chainpoint.append(leaf)
        done = size
        head = Head(
            run=records[0].run, size=size, root=tree.root(), chainpoint=chainpoint.root(), previous=previous
        )
        previous = head.digest()
        note = sign_head(head, prover.key)
        run.write_seal(Seal(v=1, index=index, note=note, tokens=[_stamp(run, previous, prover)]))


def _stamp(run: RunDirectory, digest: bytes, prover: Prover) -> TokenRef:
    request = make_request(digest, nonce=int.from_bytes(digest[:7], "big"))
    response = prover.authority.respond(request, now=prover.now)
    certificates = (prover.authority.leaf, prover.authority.root)
    return TokenRef(
        authority="embedded",
        request=run.objects.put(request),
        response=run.objects.put(response),
        chain=[run.objects.put(entry.public_bytes(serialization.Encoding.DER)) for entry in certificates],
    )
