"""The reading pass: every stored checkpoint once, in order, rehashed; what is gone is named."""

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from polledger.core.records import Checkpoint, Genesis
from polledger.core.state import FlatState, SkeletonEntry, TensorData, encode_state, parse_state
from polledger.store.objects import ObjectStore
from polledger.store.packed import plain_size
from polledger.verify.compare import compare_states
from polledger.verify.lineage import build_lineage
from polledger.verify.policy import Policy
from polledger.verify.scan import Scan, ScanTask, scan, sketch_seed
from polledger.verify.states import read_states
from polledger.verify.structure import step_structure
from tests.verify.build import CONFIG, OBJECTS, Built, Spec, make_run, pack_states

NONCE = b"n" * 32


def scanned(built: Built, *, nonce: bytes = NONCE, told: Any = lambda done, total: None) -> Scan:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    lineage = build_lineage(genesis, built.records)
    values = step_structure(lineage, policy=Policy(), whole=True).values
    return scan(ScanTask(lineage=lineage, objects=built.run.objects, values=values, nonce=nonce, told=told))


def noted_reads(
    monkeypatch: pytest.MonkeyPatch, method: Literal["read", "read_state"] = "read_state"
) -> list[bytes]:
    """The names of what is read through ``method`` of a store in this process from now on, in order."""
    read: list[bytes] = []
    original = getattr(ObjectStore, method)

    def counting(self: ObjectStore, name: bytes, **values: Any) -> memoryview:
        read.append(name)
        return original(self, name, **values)

    monkeypatch.setattr(ObjectStore, method, counting)
    return read


def checkpoint(built: Built, step: int) -> Checkpoint:
    return next(item for item in built.records if isinstance(item, Checkpoint) and item.step == step)


def test_every_segment_is_measured_as_the_comparison_measures_it(honest: Built) -> None:
    found = scanned(honest)
    assert [(s.first, s.last, s.steps) for s in found.track.segments] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 2, 2),
        (3, 3, 4),
        (4, 4, 4),
    ]
    before, after = (parse_state(honest.states[step], root=checkpoint(honest, step).root) for step in (4, 8))
    exact = compare_states(replayed=after, recorded=after, start=before, objects=OBJECTS)
    for measure in exact.measures:
        if measure.name != "optimizer/scalars":
            assert found.track.segments[3].moved[measure.name] == pytest.approx(measure.u, rel=1e-5)
    assert len(found.track.places["model/parameters"]) == 6


def test_checkpoints_that_were_not_stored_are_bridged(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    found = scanned(built)
    assert [(s.first, s.last, s.steps) for s in found.track.segments] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 4, 10),
        (5, 7, 12),
    ]
    assert (found.read, found.stored, found.problems) == (5, 5, ())


def test_each_stored_state_is_read_once_and_progress_is_told(
    honest: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = noted_reads(monkeypatch)
    told: list[tuple[int, int]] = []
    found = scanned(honest, told=lambda done, total: told.append((done, total)))
    assert read == [item.root for item in honest.records if isinstance(item, Checkpoint)]
    assert told == [(i, 6) for i in range(1, 7)]
    assert found.size == sum(honest.run.objects.path(root).stat().st_size for root in read)


def test_packed_states_are_the_same_states(honest: Built, tmp_path: Path) -> None:
    built = make_run(tmp_path / "run")
    pack_states(built)
    paths = [built.run.objects.path(item.root) for item in built.records if isinstance(item, Checkpoint)]
    assert all(plain_size(path.read_bytes(), path.stat().st_size) is not None for path in paths)
    found, expected = scanned(built), scanned(honest)
    assert found.track.segments == expected.track.segments
    assert (found.read, found.size, found.problems) == (expected.read, expected.size, ())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("step", [0, 1, 8, 12])
@pytest.mark.parametrize("how", ["missing", "last byte", "cut", "another state"])
def test_a_state_that_is_missing_or_damaged_is_named_and_bridged(
    tmp_path: Path, step: int, how: str, packed: bool
) -> None:
    built = make_run(tmp_path / "run")
    if packed:
        pack_states(built)
    damaged = checkpoint(built, step).root
    path = built.run.objects.path(damaged)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    contents = {
        "last byte": bytes(data),
        "cut": bytes(data[:-10]),
        "another state": built.run.objects.path(checkpoint(built, 4).root).read_bytes(),
    }
    path.unlink()
    if how != "missing":
        path.write_bytes(contents[how])
    found = scanned(built)
    (problem,) = found.problems
    assert damaged.hex() in problem
    assert (found.read, found.stored) == (5, 6)
    assert sum(len(segment.intervals) for segment in found.track.segments) == (5 if 0 < step < 12 else 4)


def test_measures_do_not_depend_on_what_lay_in_the_recycled_memory(tmp_path: Path) -> None:
    """Damage changes which block a state is read into; what is measured afterwards stays what it was."""
    built = make_run(tmp_path / "run", Spec(config={**CONFIG, "steps": 40}))
    whole = scanned(built)
    built.run.objects.path(checkpoint(built, 12).root).unlink()
    built.run.objects.path(checkpoint(built, 16).root).unlink()
    holed = scanned(built)
    by_first = {segment.first: segment for segment in whole.track.segments}
    kept = [segment for segment in holed.track.segments if len(segment.intervals) == 1]
    assert len(kept) == len(whole.track.segments) - 3
    assert all(segment.moved == by_first[segment.first].moved for segment in kept)
    assert holed.track.places["model/parameters"][-1] == pytest.approx(
        whole.track.places["model/parameters"][-1], rel=1e-3
    )


def test_sketches_are_those_of_the_nonce(honest: Built) -> None:
    one, again, other = scanned(honest), scanned(honest), scanned(honest, nonce=b"m" * 32)
    assert one.track.places == again.track.places
    assert one.track.places != other.track.places
    assert sketch_seed(NONCE) != sketch_seed(b"m" * 32)


def test_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    roots = []
    for number in range(12):
        data = memoryview(np.full(1 << 18, number, dtype="<f4").tobytes())
        tensor = TensorData(path="x", dtype="float32", shape=(1 << 18,), data=data)
        encoded = encode_state(
            FlatState(skeletons=[SkeletonEntry(v=1, path="x", structure=["tensor", "x"])], tensors=[tensor])
        )
        store.put_named(encoded.root, list(encoded.chunks()))
        roots.append(encoded.root)
    tracemalloc.start()
    found = [bytes(state.flat.tensors[0].data[:4]) for state in read_states(store, roots)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [np.float32(number).tobytes() for number in range(12)]
    # Four states of a MiB each, and what hashing one takes.
    assert peak < 5.5 * (1 << 20)


def test_the_whole_way_is_that_of_the_published_parameters(honest: Built) -> None:
    first, last = (parse_state(honest.states[step], root=checkpoint(honest, step).root) for step in (0, 12))

    def parameters(flat: Any) -> Any:
        parts = {
            t.path: np.frombuffer(t.data, "<f4") for t in flat.tensors if t.path in ("model/b", "model/w")
        }
        return np.concatenate([parts["model/b"], parts["model/w"]]).astype(float)

    a, b = parameters(first), parameters(last)
    assert scanned(honest).displacement == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-6)
