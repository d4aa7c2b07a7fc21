"""Parts of the reading pass: side by side they find what one process finds, and what no part can read is read alone."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from polledger.core.records import Checkpoint
from polledger.core.state import FlatState
from polledger.errors import UsageError
from polledger.verify import parts
from polledger.verify import scan as scanning
from polledger.verify.movement import Meter
from polledger.verify.parts import Part, bounds, job_of, join_places, measure, part_count
from polledger.verify.scan import Scan
from tests.verify.build import CONFIG, Built, Spec, make_run
from tests.verify.test_movement import OBJECTS, state, tensor
from tests.verify.test_scan import noted_reads, scanned

LONG = {**CONFIG, "steps": 48}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run of 15 stored checkpoints. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("long") / "run", Spec(config=LONG))


def read_in(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the pass have ``count`` parts, however small the run."""
    monkeypatch.setattr(scanning, "part_count", lambda objects, roots: count)


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
        np.testing.assert_allclose(places, other.track.places[group], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3])
def test_side_by_side_finds_what_one_process_finds(
    long: Built, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    alone = scanned(long)
    read_in(monkeypatch, count)
    told: list[tuple[int, int]] = []
    same(scanned(long, told=lambda done, total: told.append((done, total))), alone)
    assert told[-1] == (alone.stored, alone.stored)
    assert all(a[0] <= b[0] for a, b in pairwise(told))


def test_each_part_reads_only_its_own(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in(monkeypatch, 3)
    read = noted_reads(monkeypatch)
    scanned(long)
    roots = [item.root for item in long.records if isinstance(item, Checkpoint)]
    # Here: the first third, and the last one again, from which the whole way is measured.
    assert read == [*roots[: 1 + (len(roots) - 1) // 3], roots[-1]]


@pytest.mark.parametrize("at", [0, 5, 8, 14])
def test_a_damaged_state_in_any_part_is_named_and_reached_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    built = make_run(tmp_path / "run", Spec(config=LONG))
    damaged = [item.root for item in built.records if isinstance(item, Checkpoint)][at]
    path = built.run.objects.path(damaged)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    alone = scanned(built)
    read_in(monkeypatch, 3)
    same(scanned(built), alone)
    assert damaged.hex() in alone.problems[0]


def test_a_process_that_dies_costs_only_time(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = scanned(long)
    read_in(monkeypatch, 2)
    monkeypatch.setattr(
        scanning, "job_of", lambda part: parts.Job(function="os:_exit", argument={"not": "an int"})
    )
    same(scanned(long), alone)


def test_a_group_that_comes_or_goes_is_where_one_meter_has_it() -> None:
    rng = np.random.default_rng(5)

    def at(*paths: str) -> FlatState:
        return state(*(tensor(path, rng.standard_normal(3000)) for path in paths))

    a, b = "model/a", "model/b"
    states = [at(a), at(a), at(a, b), at(a, b), at(b), at(b), at(a, b), at(a)]
    seed = b"s" * 32
    whole = Meter(OBJECTS, seed=seed, every_group=True)
    for flat in states:
        whole.take(flat)
    for cut in range(1, len(states) - 1):
        first, second = (
            Meter(OBJECTS, seed=seed, every_group=True),
            Meter(OBJECTS, seed=seed, every_group=True),
        )
        for flat in states[: cut + 1]:
            first.take(flat)
        found = {group: [place.tolist() for place in places] for group, places in first.sketches.items()}
        others = []
        for flat in states[cut:]:
            second.take(flat)
            others.append({group: places[-1].tolist() for group, places in second.sketches.items()})
        join_places(found, others)
        assert found.keys() == whole.sketches.keys()
        for group, places in whole.sketches.items():
            np.testing.assert_allclose(found[group], places, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("length", "count"), [(2, 1), (8, 2), (15, 3), (16, 4), (1001, 4)])
def test_parts_meet_at_one_checkpoint_and_leave_none_out(length: int, count: int) -> None:
    found = bounds(length, count)
    assert (found[0][0], found[-1][1]) == (0, length)
    assert all(begin == before - 1 for (_, before), (begin, _) in pairwise(found))
    sizes = [end - begin for begin, end in found]
    assert max(sizes) - min(sizes) <= 1


def test_a_state_that_genesis_does_not_describe_is_the_callers_error_there_too(long: Built) -> None:
    roots = [item.root for item in long.records if isinstance(item, Checkpoint)][:1]
    part = Part(
        directory=str(long.run.objects.directory), objects=[], seed=b"s" * 32, roots=roots, expected=[]
    )
    with pytest.raises(UsageError):
        measure(job_of(part).argument, lambda message: None)


def test_more_processes_only_where_they_pay_and_fit(long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = long.run.objects
    roots = [item.root for item in long.records if isinstance(item, Checkpoint)]
    size = sum(objects.path(root).stat().st_size for root in roots)
    assert part_count(objects, roots) == 1
    monkeypatch.setattr(parts, "WORTH", size)
    monkeypatch.setattr(parts, "usable_cores", lambda: 8)
    assert part_count(objects, roots) == len(roots) // parts.FEWEST == 3
    monkeypatch.setattr(parts, "usable_cores", lambda: 1)
    assert part_count(objects, roots) == 1
    monkeypatch.setattr(parts, "usable_cores", lambda: 8)
    largest = max(objects.path(root).stat().st_size for root in roots)
    monkeypatch.setattr(parts, "physical_memory", lambda: 8 * largest)
    assert part_count(objects, roots) == 2
    monkeypatch.setattr(parts, "physical_memory", lambda: largest)
    assert part_count(objects, roots) == 1
    assert part_count(objects, [*roots, b"\x00" * 32]) == 1
