"""The container of a proof: frames in one order, bounded, and nothing that says less or more than it should."""

import random
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.challenge import Challenge
from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.merkle import leaf_hash
from polledger.core.proof import (
    CHUNK,
    FRAME,
    FRAME_BYTES,
    ITEM,
    LEDGER_SLACK,
    MAGIC,
    RECORD,
    Kind,
    ProofHeader,
    ProofRejected,
    ledger_bound,
)
from polledger.core.records import Seal
from polledger.errors import EXIT_UNVERIFIABLE, Unavailable
from polledger.store.bundle import Contents, Opened, ledger_size, write_proof
from polledger.store.ledger import read_ledger
from polledger.store.objects import ObjectMissing, ObjectStore
from polledger.store.unpack import Proof, is_proof, read_proof
from tests.core.test_challenge import challenge
from tests.verify.presenting import Frame, frames_of, join

RECORDS = [b"record %d" % i * 20 for i in range(50)]
LEAVES = b"".join(leaf_hash(sha256(record)) for record in RECORDS)
BIG = random.Random(1).randbytes(2 * CHUNK + 5)
QUESTION = encode(challenge())
SALT = b"s" * 32


def seal(index: int) -> bytes:
    return encode(Seal(v=1, index=index, note=b"note", tokens=[]))


def contents(store: ObjectStore, **changes: Any) -> Contents:
    mode = changes.pop("mode", "full")
    compact = mode == "compact"
    header = ProofHeader(
        v=1,
        run=challenge().run,
        challenge=sha256(QUESTION),
        mode=mode,
        size=len(RECORDS) if compact else ledger_size(RECORDS),
    )
    values: dict[str, Any] = {
        "header": header,
        "challenge": QUESTION,
        "seals": [seal(0), seal(1)],
        "renewals": [],
        "records": [(3, RECORDS[3]), (7, RECORDS[7])] if compact else list(enumerate(RECORDS)),
        "leaves": LEAVES if compact else b"",
        "store": store,
        "objects": sorted(store.put(data) for data in (b"", b"small", BIG)),
        "nodes": [b"n" * 32, b"m" * 32],
        "examples": [
            Opened(number=4, salt=SALT, data=b"four"),
            Opened(number=2, salt=SALT, data=BIG),
            Opened(number=9, salt=SALT, data=b""),
        ],
        "batches": [Opened(number=0, salt=SALT, data=b""), Opened(number=1, salt=SALT, data=b"one")],
    }
    return Contents(**{**values, **changes})


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


def written(store: ObjectStore, **changes: Any) -> bytes:
    return b"".join(write_proof(contents(store, **changes)))


def read(data: bytes, tmp_path: Path) -> Proof:
    path, into = tmp_path / "p.polproof", tmp_path / "into"
    path.write_bytes(data)
    if into.exists():
        import shutil

        shutil.rmtree(into)
    into.mkdir()
    return read_proof(path, into)


def refused(data: bytes, tmp_path: Path) -> str:
    with pytest.raises(ProofRejected) as caught:
        read(data, tmp_path)
    assert caught.value.exit_code == EXIT_UNVERIFIABLE
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["full", "compact"])
def test_what_is_written_is_read(store: ObjectStore, tmp_path: Path, mode: str) -> None:
    data = written(store, mode=mode)
    proof = read(data, tmp_path)
    assert is_proof(tmp_path / "p.polproof")
    assert encode(proof.challenge) == QUESTION
    assert proof.run.seals() == [0, 1]
    assert proof.run.read_seal(1).index == 1
    for content in (b"", b"small", BIG):
        assert proof.run.objects.get(sha256(content), limit=len(BIG)) == content
    assert proof.nodes == b"n" * 32 + b"m" * 32
    assert proof.examples() == [2, 4, 9]
    for number, content in ((4, b"four"), (2, BIG), (9, b"")):
        assert proof.example(number) == Opened(number=number, salt=SALT, data=content)
    assert proof.batch(1) == Opened(number=1, salt=SALT, data=b"one")
    assert (proof.example(5), proof.batch(9), proof.batch_salt(9), proof.example_salt(9)) == (
        None,
        None,
        None,
        SALT,
    )
    if mode == "full":
        assert list(read_ledger(proof.run.ledger_path).records) == RECORDS
        assert proof.leaves == b""
    else:
        assert proof.leaves == LEAVES
        assert proof.records == {3: RECORDS[3], 7: RECORDS[7]}


def test_frames_are_short_and_come_in_order(store: ObjectStore) -> None:
    frames = frames_of(written(store))
    kinds = [kind for kind, _ in frames if kind != Kind.DATA]
    assert kinds == sorted(kinds)
    assert max(len(content) for _, content in frames) <= CHUNK + ITEM.size


def test_nothing_is_held_that_is_written(store: ObjectStore) -> None:
    """Examples are asked for while the file is written, and not before."""
    made: list[int] = []

    def examples() -> Any:
        for number in range(5):
            made.append(number)
            yield Opened(number=number, salt=SALT, data=b"x")

    pieces = write_proof(contents(store, examples=examples()))
    for piece in pieces:
        if piece[0] == Kind.NODES:
            assert made == []
    assert made == [0, 1, 2, 3, 4]


def test_a_missing_object_is_named_to_the_prover(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing, match="put it back at"):
        written(store, objects=[b"x" * 32])


def test_a_file_that_is_none_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    assert not is_proof(tmp_path / "x")
    assert not is_proof(tmp_path / "y")
    assert "does not begin as one" in refused(b"something else", tmp_path)
    with pytest.raises(Unavailable):
        read_proof(tmp_path / "y", tmp_path)


def small(store: ObjectStore, mode: str = "full") -> bytes:
    """A proof without its big parts."""
    return written(
        store,
        mode=mode,
        objects=sorted(store.put(data) for data in (b"a", b"b")),
        examples=[Opened(number=4, salt=SALT, data=b"four"), Opened(number=2, salt=SALT, data=b"two")],
    )


@pytest.mark.parametrize("mode", ["full", "compact"])
def test_every_cut_is_refused(store: ObjectStore, tmp_path: Path, mode: str) -> None:
    data = small(store, mode)
    for end in range(0, len(data), 7):
        assert refused(data[:end], tmp_path)
    assert refused(data[:-1], tmp_path)
    assert "bytes follow" in refused(data + b"\x00", tmp_path)


@settings(max_examples=150, deadline=None)
@given(bit=st.integers(0, 10**6), mode=st.sampled_from(["full", "compact"]))
def test_every_flipped_bit_is_refused(tmp_path_factory: pytest.TempPathFactory, bit: int, mode: str) -> None:
    directory = tmp_path_factory.mktemp("bits")
    data = bytearray(small(ObjectStore(directory / "store"), mode))
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    assert refused(bytes(data), directory)


Edit = Callable[[list[Frame]], Sequence[Frame]]


def places(frames: Sequence[Frame]) -> range:
    return range(len(frames))


@pytest.mark.parametrize("mode", ["full", "compact"])
def test_a_frame_that_is_missing_twice_there_or_out_of_place_is_refused(
    store: ObjectStore, tmp_path: Path, mode: str
) -> None:
    """Also where whoever did it computed the digest again; what is left out in silence is found in verification."""
    frames = frames_of(written(store, mode=mode))
    kinds = [Kind(kind) for kind, _ in frames]
    for at, kind in enumerate(kinds):
        doubled = join([*frames[: at + 1], *frames[at:]])
        # Two more nodes are two other nodes: the proof of the examples does not hold then.
        if kind is not Kind.NODES:
            assert refused(doubled, tmp_path), kind
        if kind in (Kind.HEADER, Kind.CHALLENGE, Kind.LEDGER, Kind.LEAVES, Kind.DATA):
            assert refused(join([*frames[:at], *frames[at + 1 :]]), tmp_path), kind
        for other in range(at + 1, len(frames)):
            swapped = list(frames)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            if kind != kinds[other] or kind in (Kind.SEAL, Kind.RECORD, Kind.OBJECT, Kind.DATA):
                if kind is Kind.DATA is kinds[other] and len(frames[at][1]) == len(frames[other][1]):
                    # Pieces of one length change places: other content, found by its digest.
                    continue
                assert refused(join(swapped), tmp_path), (kind, kinds[other])


def test_unknown_and_oversized_frames_are_refused(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store))
    for kind in (0, 14, 255):
        assert "no kind" in refused(join([*frames, (kind, b"")]), tmp_path)
    data = MAGIC + FRAME.pack(Kind.HEADER, 1 << 31)
    assert "no kind" in refused(data, tmp_path)


def test_a_frame_has_at_most_so_many_bytes(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store))
    assert read(replaced(frames, Kind.NODES, bytes(FRAME_BYTES)), tmp_path).nodes == bytes(FRAME_BYTES)
    assert "no kind" in refused(replaced(frames, Kind.NODES, bytes(FRAME_BYTES + 1)), tmp_path)


def replaced(frames: Sequence[Frame], kind: Kind, content: bytes) -> bytes:
    """The proof with the first frame of ``kind`` holding ``content``."""
    at = next(number for number, frame in enumerate(frames) if frame[0] == kind)
    return join([*frames[:at], (kind, content), *frames[at + 1 :]])


def test_a_ledger_that_unpacks_to_more_than_it_states_is_not_unpacked(
    store: ObjectStore, tmp_path: Path
) -> None:
    frames = frames_of(small(store))
    bomb = zlib.compress(bytes(1 << 24), 9)
    assert len(bomb) < CHUNK
    assert "more than" in refused(replaced(frames, Kind.LEDGER, bomb), tmp_path)
    header = ProofHeader(v=1, run=challenge().run, challenge=sha256(QUESTION), mode="full", size=1 << 40)
    bombed = frames_of(replaced(frames, Kind.HEADER, encode(header)))
    assert "packs so well" in refused(replaced(bombed, Kind.LEDGER, bomb), tmp_path)
    assert not (tmp_path / "into" / "ledger.log").exists()


def test_a_ledger_states_no_more_than_it_can_unpack_to(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store))

    def stating(size: int) -> bytes:
        header = ProofHeader(v=1, run=challenge().run, challenge=sha256(QUESTION), mode="full", size=size)
        return replaced(frames, Kind.HEADER, encode(header))

    bound = ledger_bound(len(stating(LEDGER_SLACK)))
    assert len(stating(bound + 1)) == len(stating(LEDGER_SLACK))
    assert "not as long as stated" in refused(stating(bound), tmp_path)
    assert "packs so well" in refused(stating(bound + 1), tmp_path)


def test_a_ledger_may_be_as_regular_as_one_record_is_large(store: ObjectStore, tmp_path: Path) -> None:
    records = [bytes(1 << 20)]
    header = ProofHeader(
        v=1, run=challenge().run, challenge=sha256(QUESTION), mode="full", size=ledger_size(records)
    )
    assert ledger_size(records) < LEDGER_SLACK
    data = written(store, header=header, records=list(enumerate(records)))
    assert list(read_ledger(read(data, tmp_path).run.ledger_path).records) == records


def test_a_ledger_is_unpacked_piece_by_piece(store: ObjectStore, tmp_path: Path) -> None:
    """Any length comes out whole, and no frame unpacks into more memory than a few frames take."""
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, LEDGER_SLACK):
        header = ProofHeader(v=1, run=challenge().run, challenge=sha256(QUESTION), mode="full", size=size)
        frames = frames_of(replaced(frames_of(small(store)), Kind.HEADER, encode(header)))
        data = replaced(frames, Kind.LEDGER, zlib.compress(bytes(size), 9))
        tracemalloc.start()
        try:
            assert read(data, tmp_path).run.ledger_path.stat().st_size == size
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 * LEDGER_SLACK // 2


@pytest.mark.parametrize("stream", [b"nonsense", zlib.compress(b"short"), b"\x78\x9c"])
def test_a_ledger_that_is_none_is_refused(store: ObjectStore, tmp_path: Path, stream: bytes) -> None:
    assert refused(replaced(frames_of(small(store)), Kind.LEDGER, stream), tmp_path)


def test_a_record_has_its_leaf_hash(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store, "compact"))
    for index, data in ((3, b"another"), (4, RECORDS[3]), (50, RECORDS[3]), (2**63, RECORDS[3])):
        content = RECORD.pack(index) + data
        assert "leaf hash" in refused(replaced(frames, Kind.RECORD, content), tmp_path)
    assert "no index" in refused(replaced(frames, Kind.RECORD, b"1234567"), tmp_path)


def small_without_objects(frames: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame[0] < Kind.OBJECT]


def test_an_object_states_its_length(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store))
    for size in (0, 2, 2**62):
        content = ITEM.pack(0, b"x" * 32, size) + b"a"
        assert refused(replaced(frames, Kind.OBJECT, content), tmp_path)
    assert "too short" in refused(replaced(frames, Kind.OBJECT, b"a"), tmp_path)
    numbered = ITEM.pack(1, sha256(b"a"), 1) + b"a"
    assert "not in order" in refused(
        join([*small_without_objects(frames), (Kind.OBJECT, numbered)]), tmp_path
    )


def test_the_header_names_the_challenge(store: ObjectStore, tmp_path: Path) -> None:
    frames = frames_of(small(store))
    other: Challenge = msgspec.structs.replace(challenge(), count=4)
    assert "not the one" in refused(replaced(frames, Kind.CHALLENGE, encode(other)), tmp_path)
    header = ProofHeader(
        v=1, run=b"z" * 16, challenge=sha256(QUESTION), mode="full", size=ledger_size(RECORDS)
    )
    assert "not the one" in refused(replaced(frames, Kind.HEADER, encode(header)), tmp_path)
    assert "cannot be read" in refused(replaced(frames, Kind.SEAL, b"\x80"), tmp_path)


@pytest.mark.parametrize("mode", ["full", "compact"])
def test_mode_and_ledger_go_together(store: ObjectStore, tmp_path: Path, mode: str) -> None:
    frames = frames_of(small(store, mode))
    wrong = ProofHeader(
        v=1,
        run=challenge().run,
        challenge=sha256(QUESTION),
        mode="compact" if mode == "full" else "full",
        size=50,
    )
    assert refused(replaced(frames, Kind.HEADER, encode(wrong)), tmp_path)
