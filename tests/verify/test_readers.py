"""Processes that read ahead: what is found is what one process finds, and what goes wrong with them costs only time."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from polledger.core.records import Checkpoint
from polledger.errors import Unavailable
from polledger.helper import Job, Worker
from polledger.verify import readers
from polledger.verify import scan as scanning
from polledger.verify.readers import read_with, reader_count
from polledger.verify.scan import Scan
from polledger.verify.states import LoadedState, load_state
from tests.verify.build import CONFIG, Built, Spec, make_run, pack_states
from tests.verify.test_scan import noted_reads, scanned

LONG = {**CONFIG, "steps": 48}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run of 15 stored checkpoints. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("long") / "run", Spec(config=LONG))


def read_in(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the pass have ``count`` readers, however small the run."""
    monkeypatch.setattr(scanning, "reader_count", lambda objects, roots: count)


def stored(built: Built) -> list[bytes]:
    return [item.root for item in built.records if isinstance(item, Checkpoint)]


def damage(built: Built, at: int) -> bytes:
    root = stored(built)[at]
    path = built.run.objects.path(root)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return root


def same(one: Scan, other: Scan) -> None:
    assert one.track.segments == other.track.segments
    assert (one.displacement, one.read, one.stored, one.size, one.problems) == (
        other.displacement,
        other.read,
        other.stored,
        other.size,
        other.problems,
    )
    assert one.track.places.keys() == other.track.places.keys()
    for group, places in one.track.places.items():
        np.testing.assert_array_equal(places, other.track.places[group])


@pytest.mark.parametrize("count", [1, 2, 3, 14])
def test_with_readers_the_pass_finds_what_one_process_finds(
    long: Built, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    alone = scanned(long)
    read_in(monkeypatch, count)
    told: list[tuple[int, int]] = []
    same(scanned(long, told=lambda done, total: told.append((done, total))), alone)
    assert told == [(number + 1, alone.stored) for number in range(alone.stored)]


def test_packed_states_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = make_run(tmp_path / "run", Spec(config=LONG))
    plain = scanned(built)
    pack_states(built)
    damaged = damage(built, 5)
    alone = scanned(built)
    assert damaged.hex() in alone.problems[0]
    assert plain.size > alone.size > plain.size * 13 // 15
    read_in(monkeypatch, 2)
    same(scanned(built), alone)


def test_only_the_first_state_is_read_here(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in(monkeypatch, 2)
    read = noted_reads(monkeypatch)
    scanned(long)
    assert read == stored(long)[:1]


@pytest.mark.parametrize(
    "at", [(0,), (1,), (2,), (5, 6), (5, 7, 9), (3, 4, 5, 6, 7), (13, 14), tuple(range(15))]
)
def test_damaged_states_are_named_and_reached_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, ...]
) -> None:
    built = make_run(tmp_path / "run", Spec(config=LONG))
    damaged = [damage(built, number) for number in at]
    alone = scanned(built)
    read_in(monkeypatch, 2)
    found = scanned(built)
    same(found, alone)
    assert all(root.hex() in problem for root, problem in zip(damaged, found.problems, strict=False))
    assert found.read == found.stored - len(at)


def test_a_state_is_left_alone_until_the_one_after_the_next_is_asked_for(long: Built) -> None:
    roots = stored(long)
    whole = [bytes(load_state(long.run.objects, root).data) for root in roots]
    states = read_with(2, long.run.objects, roots)
    before: LoadedState | None = None
    for number, state in enumerate(states):
        assert isinstance(state, LoadedState)
        assert bytes(state.data) == whole[number]
        assert before is None or bytes(before.data) == whole[number - 1]
        before = state
    assert before is not None


def test_what_is_read_cannot_be_written_to(long: Built) -> None:
    states = read_with(1, long.run.objects, stored(long))
    next(states)
    state = next(states)
    assert isinstance(state, LoadedState)
    assert memoryview(state.data).readonly
    states.close()


def test_a_process_that_never_begins_costs_only_time(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = scanned(long)
    read_in(monkeypatch, 2)
    monkeypatch.setattr(readers, "Job", lambda **values: Job(function="os:_exit", argument={"not": "an int"}))
    same(scanned(long), alone)


def test_a_process_that_is_killed_half_way_costs_only_time(
    long: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = scanned(long)
    read_in(monkeypatch, 2)
    begun: list[Worker] = []

    def noted(job: Job, **values: object) -> Worker:
        begun.append(Worker(job, **values))  # type: ignore[arg-type]
        return begun[-1]

    monkeypatch.setattr(readers, "Worker", noted)

    def told(done: int, total: int) -> None:
        if done == 6:
            os.kill(begun[0]._process.pid, signal.SIGKILL)
            begun[0]._process.wait()

    same(scanned(long, told=told), alone)


def test_no_process_and_no_descriptor_is_left_behind(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    begun: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def noted(*args: object, **values: object) -> subprocess.Popen[bytes]:
        begun.append(original(*args, **values))  # type: ignore[call-overload]
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    before = open_now()
    states = read_with(2, long.run.objects, stored(long))
    next(states)
    next(states)
    states.close()
    assert len(begun) == 2
    assert all(process.poll() is not None for process in begun)
    del states
    assert open_now() == before


@pytest.mark.parametrize("what", ["memfd_create", "pipe", "ftruncate"])
def test_where_the_system_has_no_room_this_process_reads(
    long: Built, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    alone = scanned(long)
    read_in(monkeypatch, 2)
    calls = []
    original = getattr(os, what)

    def second_fails(*args: object) -> object:
        calls.append(args)
        if len(calls) > 1:
            raise OSError(24, "Too many open files")
        return original(*args)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, what, second_fails)
    same(scanned(long), alone)
    assert len(calls) > 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_grew_since_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = make_run(tmp_path / "run", Spec(config=LONG))
    roots = stored(built)
    sizes = readers._sizes(built.run.objects, roots)
    monkeypatch.setattr(readers, "_sizes", lambda objects, roots: [size - 1 for size in sizes])
    found = list(read_with(1, built.run.objects, roots))
    assert isinstance(found[0], LoadedState)
    assert all(isinstance(state, Unavailable) and "damaged" in str(state) for state in found[1:])


def test_readers_only_where_they_pay_and_fit(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, roots = long.run.objects, stored(long)
    sizes = [objects.path(root).stat().st_size for root in roots]
    monkeypatch.setattr(readers, "usable_cores", lambda: 8)
    assert reader_count(objects, roots) == 0
    assert reader_count(objects, []) == 0
    monkeypatch.setattr(readers, "WORTH", sum(sizes))
    assert reader_count(objects, roots) == readers.MOST
    # One that is missing is read, and named, as any other.
    monkeypatch.setattr(readers, "WORTH", 1)
    assert reader_count(objects, [bytes(32), *roots[:2]]) == 2
    monkeypatch.setattr(readers, "usable_cores", lambda: 2)
    assert reader_count(objects, roots) == 2
    monkeypatch.setattr(readers, "usable_cores", lambda: 1)
    assert reader_count(objects, roots) == 0
    monkeypatch.setattr(readers, "usable_cores", lambda: 8)
    monkeypatch.setattr(readers, "memory_limit", lambda: 4 * max(sizes))
    assert reader_count(objects, roots) == 1
    monkeypatch.setattr(readers, "memory_limit", lambda: max(sizes))
    assert reader_count(objects, roots) == 0
    monkeypatch.setattr(readers.sys, "platform", "darwin")
    assert reader_count(objects, roots) == 0
