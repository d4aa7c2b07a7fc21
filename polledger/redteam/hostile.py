"""Spoof 18, the hostile file: a run whose bytes are made to break, exhaust or take over whoever reads them.

The thief signs and stamps what it likes: hostile bytes lie under heads that hold. Nothing of this proves anything; what
is tried is whether a reader crashes, hangs, fills its memory, writes outside, runs what it reads, or takes damage for
consent. Every variant begins with an honest run, and only what is named is hostile. PROTOCOL sections 3 and 15.
"""

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from polledger.core.digest import u64
from polledger.core.encoding import SOURCE_LIMITS, encode
from polledger.core.records import Checkpoint, Genesis, Step
from polledger.core.state import StateManifest, TensorEntry, state_root
from polledger.redteam.forge import thief_key
from polledger.redteam.own import own_run
from polledger.redteam.rewrite import read_records, reseal, seal_sizes
from polledger.redteam.spoof import Attempt, Forge, Forgery, Spoof, Target
from polledger.store.packed import BLOCK, MAGIC, packed
from polledger.store.run import RunDirectory
from polledger.training.sealer import encode_record
from polledger.verify.states import parse_manifest

DEEP = 5_000
"""Arrays inside each other: beyond what any recursive reader survives."""

BOMB = 1 << 30
"""Bytes that a small file would unpack to."""

SPARSE = 5 << 40
"""Bytes of a file of holes: more than the largest state that is read at all."""

PETABYTE = 1 << 50

_NEST = b"\x91" * DEEP + b"\x90"

_CLAIM = b"\xc6\xff\xff\xff\xff"
"""Header of a byte string of 4 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An honest run to be spoiled. ``marker`` must never come to be: only code inside a file would make it."""

    run: RunDirectory
    key: Ed25519PrivateKey
    marker: Path

    def records(self) -> list[bytes]:
        """Every record, encoded."""
        return [encode_record(record) for record in read_records(self.run)]

    def seal(self, records: list[bytes]) -> None:
        """Make these the ledger, under heads that hold."""
        reseal(self.run, records, sizes=seal_sizes(self.run), key=self.key)

    def state(self) -> Path:
        """The file of the last state."""
        last = [record for record in read_records(self.run) if isinstance(record, Checkpoint)][-1]
        return self.run.objects.path(last.root)


class _Payload:
    """Makes a directory wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._marker),)


Spoil = Callable[[Subject], tuple[str, ...]]
"""Spoils the run and says what the verifier adds to its command."""


def _record(change: Callable[[bytes, Subject], bytes]) -> Spoil:
    """A step record in the middle is replaced by what ``change`` makes of it, and everything sealed again."""

    def spoil(subject: Subject) -> tuple[str, ...]:
        records = subject.records()
        steps = [record.index for record in read_records(subject.run) if isinstance(record, Step)]
        middle = steps[len(steps) // 2]
        records[middle] = change(records[middle], subject)
        subject.seal(records)
        return ()

    return spoil


def _added(key: bytes, value: bytes) -> Callable[[bytes, Subject], bytes]:
    """One pair more in the record's map, which has less than 15."""
    pair = msgpack.packb(key.decode()) + value
    return lambda record, subject: bytes([record[0] + 1]) + record[1:] + pair


def _long_integer(record: bytes, subject: Subject) -> bytes:
    """The version, 1, in two bytes more than it takes."""
    at = record.index(b"\xa1v\x01")
    return record[: at + 2] + b"\xcd\x00\x01" + record[at + 3 :]


def _truncated(subject: Subject) -> tuple[str, ...]:
    path = subject.run.ledger_path
    path.write_bytes(path.read_bytes()[:-40])
    return ()


def _oversized(subject: Subject) -> tuple[str, ...]:
    """The last frame states 4 GiB."""
    data = subject.run.ledger_path.read_bytes()
    last = subject.records()[-1]
    head = 0xFFFFFFFF.to_bytes(4, "big") + zlib.crc32(last).to_bytes(4, "big")
    subject.run.ledger_path.write_bytes(data[: -len(last) - 8] + head + last)
    return ()


def _bomb(subject: Subject) -> tuple[str, ...]:
    path = subject.state()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x", "w") as member:
        for _ in range(BOMB >> 24):
            member.write(bytes(1 << 24))
    return ()


def _packed_claim(subject: Subject) -> tuple[str, ...]:
    subject.state().write_bytes(MAGIC + u64(SPARSE))
    return ()


def _packed_bomb(subject: Subject) -> tuple[str, ...]:
    """Whole, every block as it has to be, and a thousandth of what it unpacks to."""
    zeros = memoryview(bytes(BLOCK))
    with subject.state().open("wb") as file:
        for piece in packed(BOMB, ((1, zeros) for _ in range(BOMB // BLOCK))):
            file.write(piece)
    return ()


def _holes(subject: Subject) -> tuple[str, ...]:
    os.truncate(subject.state(), SPARSE)
    return ()


def _pipe(subject: Subject) -> tuple[str, ...]:
    subject.state().unlink()
    os.mkfifo(subject.state())
    return ()


def _link(subject: Subject) -> tuple[str, ...]:
    subject.state().unlink()
    subject.state().symlink_to("/dev/zero")
    return ()


def _pickled_state(subject: Subject) -> tuple[str, ...]:
    subject.state().write_bytes(pickle.dumps(_Payload(subject.marker)))
    return ()


def _pickled_model(subject: Subject) -> tuple[str, ...]:
    model = subject.run.path.parent / "model.pt"
    model.write_bytes(pickle.dumps(_Payload(subject.marker)))
    return ("--model", str(model))


def _traversal(subject: Subject) -> tuple[str, ...]:
    """The task's manifest has its file lie outside the directory that it is written to."""
    genesis = read_records(subject.run)[0]
    if not isinstance(genesis, Genesis):
        raise TypeError("the first record of a run is its genesis")
    manifest = msgpack.unpackb(subject.run.objects.get(genesis.task, limit=SOURCE_LIMITS.size))
    manifest["files"] = manifest["files"][:1]
    manifest["files"][0]["path"] = manifest["entry"] = f"../../{subject.marker.name}/task.py"
    task = subject.run.objects.put(encode(manifest))
    subject.seal([encode_record(structs.replace(genesis, task=task)), *subject.records()[1:]])
    return ()


def _petabyte(subject: Subject) -> tuple[str, ...]:
    """The last state's manifest, under a root that is recorded, claims a tensor of a petabyte."""
    entries = [
        structs.replace(entry, shape=[PETABYTE // 4], bytes=PETABYTE)
        if isinstance(entry, TensorEntry) and entry.bytes > 4
        else entry
        for entry in parse_manifest(subject.state().read_bytes())
    ]
    manifest = encode(StateManifest(v=1, entries=entries))
    root = state_root(entries)
    subject.run.objects.put_named(root, [u64(len(manifest)), manifest, bytes(1 << 16)])
    records = read_records(subject.run)
    last = [record for record in records if isinstance(record, Checkpoint)][-1]
    claimed = [structs.replace(item, root=root) if item is last else item for item in records]
    subject.seal([encode_record(record) for record in claimed])
    return ()


def _seal_number(subject: Subject) -> tuple[str, ...]:
    last = subject.run.seal_path(subject.run.seals()[-1])
    subject.run.seal_path(999_999_999_999).write_bytes(last.read_bytes())
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to be hostile, in a line."""

    title: str
    spoil: Spoil


KINDS = {
    "deep": Kind(title=f"{DEEP} arrays inside each other in a record", spoil=_record(_added(b"z", _NEST))),
    "claim": Kind(title="a record that claims 4 GiB", spoil=_record(_added(b"z", _CLAIM))),
    "form": Kind(title="an integer in more bytes than it takes", spoil=_record(_long_integer)),
    "duplicate": Kind(title="a key twice in a record", spoil=_record(_added(b"v", b"\x02"))),
    "trailing": Kind(title="bytes behind a record", spoil=_record(lambda record, _: record + b"\x00")),
    "pickled-record": Kind(
        title="a pickle in place of a record",
        spoil=_record(lambda _, subject: pickle.dumps(_Payload(subject.marker))),
    ),
    "truncated": Kind(title="a ledger that was cut short", spoil=_truncated),
    "oversized": Kind(title="a frame that states 4 GiB", spoil=_oversized),
    "bomb": Kind(title="a zip of 1 GiB of zeros in place of a state", spoil=_bomb),
    "packed-claim": Kind(title="a packed state that states 5 TiB", spoil=_packed_claim),
    "packed-bomb": Kind(title="1 GiB of zeros in place of a state, packed", spoil=_packed_bomb),
    "holes": Kind(title="5 TiB of holes behind a state", spoil=_holes),
    "pipe": Kind(title="a pipe in place of a state", spoil=_pipe),
    "link": Kind(title="a link to an endless device in place of a state", spoil=_link),
    "pickled-state": Kind(title="a pickle in place of a state", spoil=_pickled_state),
    "pickled-model": Kind(title="a pickle as the published model", spoil=_pickled_model),
    "petabyte": Kind(title="a recorded state that claims a petabyte", spoil=_petabyte),
    "traversal": Kind(title="a source file outside its directory", spoil=_traversal),
    "seal-number": Kind(title="a seal numbered a trillion", spoil=_seal_number),
}


def spoil(target: Target, attempt: Attempt, kind: Kind) -> Forgery:
    """An honest run of the thief's own, made hostile."""
    subject = Subject(
        run=own_run(target, attempt), key=thief_key(attempt.seed), marker=attempt.directory / "owned"
    )
    return Forgery(
        run=subject.run.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        arguments=kind.spoil(subject),
        note="hostile bytes under heads that hold",
    )


def _forge(kind: Kind) -> Forge:
    return lambda target, attempt: spoil(target, attempt, kind)


SPOOFS = tuple(
    Spoof(
        number=18,
        variant=name,
        title=kind.title,
        source="parser",
        forge=_forge(kind),
        reference=False,
        why="it unpickles what the prover sends: there is nothing to pass",
    )
    for name, kind in KINDS.items()
)
