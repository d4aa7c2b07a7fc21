"""Writing a run anew as its prover could: other records, other states, every head signed and timestamped again.

A prover owns the key, the run secret and the embedded authority, so nothing here is a forgery of a signature:
the result is well formed, and only what it says is untrue. PROTOCOL section 15, "rewriting".
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.head import parse_note
from polledger.core.records import AnyRecord, parse_record
from polledger.core.state import EncodedState
from polledger.errors import Unavailable, UsageError
from polledger.keys import public_key
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training.sealer import Sealer, encode_record
from polledger.training.stamping import Stamping, choose_authorities


class _Named(msgspec.Struct):
    run: bytes


_NAMED = msgspec.msgpack.Decoder(_Named)

Edit = Callable[[list[AnyRecord]], Sequence[AnyRecord]]


def read_records(run: RunDirectory) -> list[AnyRecord]:
    """Every record of ``run``. Raises Unavailable if its ledger is damaged."""
    scan = read_ledger(run.ledger_path)
    if scan.damage is not None:
        raise Unavailable(f"record {scan.damage.index} of {run.ledger_path} is damaged: {scan.damage.reason}")
    return [parse_record(data) for data in scan.records if data is not None]


def rewrite_run(
    source: Path, target: Path, *, key: Ed25519PrivateKey, edit: Edit, states: Iterable[EncodedState] = ()
) -> RunDirectory:
    """Copy ``source`` to ``target`` with its records edited, re-indexed, signed with ``key`` and stamped.

    ``states`` are stored besides those that are there. Seals keep their places as far as the new ledger reaches;
    the embedded authority of this user stamps them. Raises UsageError if ``target`` exists.
    """
    original = RunDirectory.open(source)
    records = _reindexed(edit(read_records(original)), key=key)
    if target.exists():
        raise UsageError(f"{target} exists already")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("seals", "lock"))
    (target / "seals").mkdir()
    run = RunDirectory.open(target)
    with run.lock():
        for state in states:
            run.objects.put_named(state.root, tuple(state.chunks()))
        run.objects.sync()
        reseal(run, [encode_record(record) for record in records], sizes=seal_sizes(original), key=key)
    return run


def seal_sizes(run: RunDirectory) -> set[int]:
    """How many records each seal of ``run`` covers."""
    return {parse_note(run.read_seal(index).note).head.size for index in run.seals()}


def reseal(run: RunDirectory, records: Sequence[bytes], *, sizes: set[int], key: Ed25519PrivateKey) -> None:
    """Make ``records`` the ledger of ``run``, whatever they are, and sign and stamp heads over them.

    There is a head of each of ``sizes`` that the ledger reaches, and one over the whole; seals that were there are
    gone. The first record has to name the run as a genesis does.
    """
    for index in run.seals():
        run.seal_path(index).unlink()
    run.ledger_path.write_bytes(b"")
    stamping = Stamping(run, choose_authorities([]), warn=lambda text: print(text, file=sys.stderr))
    sealer = Sealer.create(run, _NAMED.decode(records[0]).run, key, stamp=stamping.stamp)
    for record in records:
        sealer.append(record)
        if sealer.size in sizes or sealer.size == len(records):
            sealer.seal()
    sealer.close()
    stamping.close()


def _reindexed(records: Sequence[AnyRecord], *, key: Ed25519PrivateKey) -> list[AnyRecord]:
    """``records`` with contiguous indices, and genesis naming ``key``. Indices inside records stay as they are."""
    numbered = [msgspec.structs.replace(record, index=index) for index, record in enumerate(records)]
    return [msgspec.structs.replace(numbered[0], key=public_key(key)), *numbered[1:]]
