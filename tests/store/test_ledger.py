import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.encoding import encode
from polledger.core.records import Checkpoint
from polledger.errors import Unavailable, UsageError
from polledger.store.ledger import (
    RECORD_BYTES,
    LedgerCursor,
    LedgerDamage,
    LedgerScan,
    LedgerWriter,
    iter_records,
    read_ledger,
)


def record(index: int) -> bytes:
    checkpoint = Checkpoint(
        v=1, run=b"r" * 16, index=index, step=index, root=bytes(32), stored=index % 2 == 0
    )
    return encode(checkpoint)


RECORDS = [record(index) for index in range(6)]


def frame(data: bytes) -> bytes:
    return struct.pack(">II", len(data), zlib.crc32(data)) + data


def write(path: Path, records: list[bytes]) -> bytes:
    with LedgerWriter.open(path) as writer:
        first = writer.records
        assert [writer.append(item) - first for item in records] == list(range(len(records)))
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.log"


def test_frames_are_length_checksum_and_record(path: Path) -> None:
    assert write(path, RECORDS) == b"".join(map(frame, RECORDS))


def test_records_come_back_in_order(path: Path) -> None:
    write(path, RECORDS)
    scan = read_ledger(path)
    assert list(scan.records) == RECORDS
    assert scan.damage is None
    assert scan.end == path.stat().st_size
    assert list(scan.offsets) == [sum(8 + len(item) for item in RECORDS[:i]) for i in range(len(RECORDS))]
    assert list(iter_records(path)) == RECORDS


def test_an_empty_ledger_has_no_records(path: Path) -> None:
    write(path, [])
    scan = read_ledger(path)
    assert (list(scan.records), list(scan.offsets), scan.end, scan.damage) == ([], [], 0, None)


def test_reopening_continues_where_the_ledger_ends(path: Path) -> None:
    write(path, RECORDS[:4])
    with LedgerWriter.open(path) as writer:
        assert writer.records == 4
        assert writer.tell() == path.stat().st_size
        assert writer.append(RECORDS[4]) == 4
        assert writer.records == 5
        assert writer.tell() == path.stat().st_size + 8 + len(RECORDS[4])
    assert list(read_ledger(path).records) == RECORDS[:5]


def test_appended_records_are_in_the_file_after_a_sync(path: Path, synced: list[Path]) -> None:
    writer = LedgerWriter.open(path)
    synced.clear()
    for item in RECORDS:
        writer.append(item)
    assert synced == []
    writer.sync()
    assert synced == [path]
    assert list(read_ledger(path).records) == RECORDS
    writer.close()


def test_opening_syncs_the_file_and_its_name(path: Path, synced: list[Path]) -> None:
    LedgerWriter.open(path).close()
    assert synced == [path, path.parent]


@pytest.mark.parametrize("length", [0, RECORD_BYTES + 1])
def test_empty_and_oversized_records_are_refused(path: Path, length: int) -> None:
    with LedgerWriter.open(path) as writer:
        with pytest.raises(UsageError, match="1 to 1048576 bytes"):
            writer.append(bytes(length))
        assert writer.append(b"x" * RECORD_BYTES) == 0
    assert list(read_ledger(path).records) == [b"x" * RECORD_BYTES]


def holds(path: Path) -> LedgerScan:
    """The scan of ``path``; iter_records must tell the same."""
    scan = read_ledger(path)
    items = list(iter_records(path))
    assert [item if isinstance(item, bytes) else None for item in items][: len(scan.records)] == list(
        scan.records
    )
    damages = [item for item in items if isinstance(item, LedgerDamage)]
    assert damages[:1] == ([scan.damage] if scan.damage else [])
    return scan


def test_a_torn_tail_is_reported_and_cut_when_opened(path: Path) -> None:
    records = RECORDS[:2]
    whole = write(path, records)
    ends = [0, 8 + len(records[0]), len(whole)]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = sum(size >= end for end in ends[1:])
        end = ends[kept]
        scan = holds(path)
        assert list(scan.records) == records[:kept]
        assert scan.end == end
        assert scan.damage is None if size == end else scan.damage is not None
        if scan.damage is not None:
            assert (scan.damage.index, scan.damage.offset) == (kept, end)
        with LedgerWriter.open(path) as writer:
            assert (writer.records, writer.tell()) == (kept, end)
        assert path.read_bytes() == whole[:end]


def test_zeros_after_the_last_record_are_a_torn_tail(path: Path) -> None:
    whole = write(path, RECORDS)
    for zeros in (1, 7, 8, 16, 4096):
        path.write_bytes(whole + bytes(zeros))
        damage = holds(path).damage
        assert damage is not None
        assert damage.index == len(RECORDS)
        LedgerWriter.open(path).close()
        assert path.read_bytes() == whole


def test_one_changed_byte_anywhere_names_its_record(path: Path) -> None:
    whole = bytearray(write(path, RECORDS))
    starts = [*read_ledger(path).offsets, len(whole)]
    for position in range(len(whole)):
        index = sum(position >= start for start in starts[1:])
        for change in (0x01, 0x80):
            whole[position] ^= change
            path.write_bytes(whole)
            whole[position] ^= change
            scan = holds(path)
            assert scan.damage is not None
            assert (scan.damage.index, scan.damage.offset) == (index, starts[index])
            assert scan.damage.reason
            assert scan.records[:index] == RECORDS[:index]
            in_length = position - starts[index] < 4
            if in_length or index == len(RECORDS) - 1:
                assert len(scan.records) == index
            else:
                assert list(scan.records) == [*RECORDS[:index], None, *RECORDS[index + 1 :]]


def test_reading_goes_on_only_at_the_next_index(path: Path) -> None:
    """A changed length that ends at a later frame must not shift the records behind it."""
    data = bytearray(b"".join(map(frame, RECORDS)))
    struct.pack_into(">I", data, 0, len(RECORDS[0]) + 8 + len(RECORDS[1]))
    path.write_bytes(data)
    scan = holds(path)
    assert list(scan.records) == []
    assert scan.damage is not None
    assert scan.damage.index == 0


def test_two_damaged_records_apart_are_both_passed_over(path: Path) -> None:
    data = bytearray(write(path, RECORDS))
    starts = read_ledger(path).offsets
    for index in (1, 3):
        data[starts[index] + 20] ^= 1
    path.write_bytes(data)
    scan = holds(path)
    assert list(scan.records) == [RECORDS[0], None, RECORDS[2], None, *RECORDS[4:]]
    assert [item.index for item in iter_records(path) if isinstance(item, LedgerDamage)] == [1, 3]


def test_a_ledger_damaged_in_the_middle_is_not_appended_to(path: Path) -> None:
    data = bytearray(write(path, RECORDS))
    data[read_ledger(path).offsets[2] + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unavailable, match=r"record 2 cannot be read \(.*\): restore"):
        LedgerWriter.open(path)
    assert path.read_bytes() == data


def test_sealed_records_are_never_cut(path: Path) -> None:
    data = bytearray(write(path, RECORDS))
    # The length of record 3 reaches beyond the file: without the seal this is a torn tail.
    data[read_ledger(path).offsets[3]] = 0x7F
    path.write_bytes(data)
    with pytest.raises(Unavailable, match="record 3 cannot be read"):
        LedgerWriter.open(path, sealed=4)
    assert path.read_bytes() == data
    with LedgerWriter.open(path, sealed=3) as writer:
        assert writer.records == 3


def test_a_ledger_shorter_than_its_seals_is_not_appended_to(path: Path) -> None:
    write(path, RECORDS)
    with pytest.raises(Unavailable, match=r"record 6 cannot be read .*was sealed"):
        LedgerWriter.open(path, sealed=7)
    LedgerWriter.open(path, sealed=6).close()


def test_records_are_cut_off_at_a_given_byte(path: Path) -> None:
    whole = write(path, RECORDS)
    end = read_ledger(path).offsets[4]
    with LedgerWriter.open(path, truncate_to=end, sealed=4) as writer:
        assert (writer.records, writer.tell()) == (4, end)
    assert path.read_bytes() == whole[:end]
    LedgerWriter.open(path, truncate_to=end).close()
    assert path.read_bytes() == whole[:end]


def test_a_ledger_is_not_cut_inside_a_record_or_below_its_seals(path: Path) -> None:
    whole = write(path, RECORDS)
    end = read_ledger(path).offsets[4]
    for byte in (end - 1, end + 1, len(whole) + 1, -1):
        with pytest.raises(UsageError, match=f"no record ends at byte {byte}"):
            LedgerWriter.open(path, truncate_to=byte)
    with pytest.raises(Unavailable, match="record 4 cannot be read"):
        LedgerWriter.open(path, truncate_to=end, sealed=5)
    assert path.read_bytes() == whole


def test_damage_behind_the_cut_does_not_matter(path: Path) -> None:
    data = bytearray(write(path, RECORDS))
    starts = read_ledger(path).offsets
    data[starts[4] + 20] ^= 1
    path.write_bytes(data)
    with LedgerWriter.open(path, truncate_to=starts[4]) as writer:
        assert writer.records == 4
    assert list(read_ledger(path).records) == RECORDS[:4]


def test_a_missing_ledger_gives_one_line(path: Path) -> None:
    with pytest.raises(Unavailable, match=r"ledger\.log is missing$"):
        read_ledger(path)
    with pytest.raises(Unavailable, match=r"ledger\.log is missing$"):
        next(iter_records(path))


def test_a_directory_link_or_pipe_in_place_of_the_ledger_is_not_read(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    with pytest.raises(Unavailable, match="not a regular file"):
        read_ledger(path)
    with pytest.raises(Unavailable, match="cannot open"):
        LedgerWriter.open(path)
    path.rmdir()
    (tmp_path / "elsewhere").write_bytes(frame(RECORDS[0]))
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="cannot read"):
        read_ledger(path)
    with pytest.raises(Unavailable, match="cannot open"):
        LedgerWriter.open(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unavailable, match="not a regular file"):
        read_ledger(path)


@given(st.binary(max_size=200), st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_any_bytes_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes, whole: int) -> None:
    path = tmp_path_factory.mktemp("any") / "ledger.log"
    path.write_bytes(b"".join(map(frame, RECORDS[:whole])) + data)
    scan = holds(path)
    assert scan.records[:whole] == RECORDS[:whole]
    assert len(scan.offsets) == len(scan.records)
    assert scan.end <= path.stat().st_size


def test_appending_keeps_no_records(path: Path) -> None:
    with LedgerWriter.open(path) as writer:
        for index in range(1000):
            writer.append(record(index))
        tracemalloc.start()
        try:
            for _ in range(20_000):
                writer.append(RECORDS[0])
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held < 4096


def test_streaming_keeps_no_records(path: Path) -> None:
    write(path, [RECORDS[0]] * 40_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in iter_records(path)) == 40_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The read buffer has 1 MiB.
    assert peak < 1 << 21 < path.stat().st_size


def test_a_cursor_reads_from_any_record_on_and_back(path: Path) -> None:
    write(path, RECORDS)
    cursor = LedgerCursor(path)
    for begin in (2, 4, 4, 1, 6, 0, 5, 9, 3):
        assert list(cursor.records(begin)) == RECORDS[begin:]


def test_a_cursor_sees_what_was_appended_since_and_reads_nothing_twice(path: Path) -> None:
    write(path, RECORDS[:3])
    cursor = LedgerCursor(path)
    assert list(cursor.records(2)) == RECORDS[2:3]
    write(path, RECORDS[3:])
    damaged = bytearray(path.read_bytes())
    damaged[10] ^= 1
    path.write_bytes(damaged)
    assert list(cursor.records(3)) == RECORDS[3:]
    with pytest.raises(Unavailable, match=r"record 0 cannot be read \(its bytes do not match"):
        list(cursor.records(1))


def test_a_cursor_does_not_read_past_what_it_is_asked_for(path: Path) -> None:
    write(path, RECORDS)
    path.write_bytes(path.read_bytes()[:-1])
    records = LedgerCursor(path).records(0)
    assert [next(records) for _ in RECORDS[:-1]] == RECORDS[:-1]
    with pytest.raises(Unavailable, match="record 5 cannot be read"):
        next(records)


def test_a_cursor_over_no_ledger_is_an_outage(path: Path) -> None:
    with pytest.raises(Unavailable, match="is missing"):
        list(LedgerCursor(path).records(0))
