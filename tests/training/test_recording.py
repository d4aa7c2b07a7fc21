"""Records and seals: what is written when, and that it is what the gate accepts."""

import math
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from polledger.core.encoding import from_real, real
from polledger.core.records import Checkpoint, GroupValues, Resume, Step, parse_record
from polledger.core.seeds import batch_digest, salt
from polledger.core.state import PIECE, encode_state, parse_state
from polledger.errors import Unavailable, UsageError
from polledger.store import blockfile
from polledger.store.ledger import read_ledger
from polledger.store.packed import plain_size
from polledger.store.run import RunDirectory
from polledger.training.batchcopies import Batch
from polledger.training.domains import encode_domains
from polledger.training.nest import decode_nest, encode_nest
from polledger.training.pipeline import Pipeline
from polledger.training.recording import LINES, Cadence, ChangedGroups, RunRecorder, check_metric_names
from polledger.training.resume import surviving
from polledger.training.sealer import Sealer
from polledger.training.snapshot import Arena
from polledger.training.state import flatten_objects

RUN = bytes(range(16))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


class TestCadence:
    def test_checkpoints_are_warm_then_every_k_and_at_the_end(self) -> None:
        cadence = Cadence(steps=25, every=10, warm=3)
        assert [n for n in range(26) if cadence.is_checkpoint(n)] == [0, 1, 2, 3, 10, 20, 25]

    def test_kept_are_the_warm_ones_every_kth_and_the_last(self) -> None:
        cadence = Cadence(steps=95, every=10, warm=2, keep=4)
        assert [n for n in range(96) if cadence.is_checkpoint(n) and cadence.is_stored(n)] == [
            0,
            1,
            2,
            40,
            80,
            95,
        ]

    @pytest.mark.parametrize(
        ("options", "ends"),
        [
            ({"steps": 50}, (1, 2)),
            ({"steps": 50, "warm": 1}, (1, 10)),
            ({"steps": 50, "warm": 1, "every": 1}, (1, 2)),
            ({"steps": 50, "warm": 0, "every": 7}, (7, 14)),
            ({"steps": 8, "warm": 0, "every": 7}, (7, 8)),
            ({"steps": 3, "warm": 0, "every": 7}, (3,)),
            ({"steps": 1}, (1,)),
        ],
    )
    def test_intervals_that_are_replayed_at_once(
        self, options: dict[str, int], ends: tuple[int, ...]
    ) -> None:
        cadence = Cadence(**options)
        assert cadence.early_ends == ends
        assert [n for n in range(1, ends[-1] + 1) if cadence.is_checkpoint(n)] == list(ends)

    @pytest.mark.parametrize("name", ["steps", "every", "keep", "seal_every"])
    def test_zero_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="at least 1"):
            Cadence(**{"steps": 5, name: 0})


class TestChangedGroups:
    @staticmethod
    def group(**values: float | int | bool) -> GroupValues:
        encoded = {name: real(v) if isinstance(v, float) else v for name, v in values.items()}
        return GroupValues(optimizer="optimizer", index=0, values=encoded)

    def test_first_step_carries_everything_and_later_ones_what_changed(self) -> None:
        changed = ChangedGroups()
        assert changed.changes([self.group(lr=0.1, nesterov=True)]) == [self.group(lr=0.1, nesterov=True)]
        assert changed.changes([self.group(lr=0.1, nesterov=True)]) is UNSET
        assert changed.changes([self.group(lr=0.2, nesterov=True)]) == [self.group(lr=0.2)]

    def test_true_and_one_and_zero_and_minus_zero_are_different_values(self) -> None:
        changed = ChangedGroups()
        changed.changes([self.group(flag=True, x=0.0)])
        assert changed.changes([self.group(flag=1, x=0.0)]) == [self.group(flag=1)]
        assert changed.changes([self.group(flag=1, x=-0.0)]) == [self.group(x=-0.0)]

    def test_the_same_objects_are_the_same_values(self) -> None:
        changed = ChangedGroups()
        one, other, third = (
            GroupValues(optimizer="optimizer", index=min(n, 1), values={"lr": real(n)}) for n in range(3)
        )
        changed.changes([one])
        assert changed.changes([one]) is UNSET
        given = [one, other]
        assert changed.changes(given) == [other]
        # The list is the caller's.
        given[1] = third
        assert changed.changes(given) == [third]

    def test_groups_that_did_not_change_are_left_out(self) -> None:
        changed = ChangedGroups()
        one, two = self.group(lr=0.1), GroupValues(optimizer="optimizer", index=1, values={"lr": real(0.1)})
        changed.changes([one, two])
        moved = GroupValues(optimizer="optimizer", index=1, values={"lr": real(0.3)})
        assert changed.changes([one, moved]) == [moved]


class TestMetrics:
    @pytest.mark.parametrize("name", ["", "Loss", "top-1", "a" * 65, "ü", 3])
    def test_name_outside_the_rules_is_refused(self, name: object) -> None:
        with pytest.raises(UsageError, match="cannot be recorded"):
            check_metric_names([name])

    def test_too_many_are_refused(self) -> None:
        check_metric_names([f"m{n}" for n in range(256)])
        with pytest.raises(UsageError, match="at most 256"):
            check_metric_names([f"m{n}" for n in range(257)])

    def test_values_that_are_not_finite_are_recorded(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=1))
        metrics = {"loss": math.nan, "norm": math.inf}
        recorder.step(0, batch=bytes(32), metrics=metrics)
        recorder.seal()
        (step,) = [parse_record(record) for record in read_ledger(run.ledger_path).records]
        assert isinstance(step, Step)
        assert math.isnan(from_real(step.metrics["loss"]))
        assert from_real(step.metrics["norm"]) == math.inf


class TestRecorder:
    def test_step_records_pass_the_gate_and_batches_are_salted(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        same = [recorder.batch(number, encode_nest("the same batch")) for number in range(2)]
        assert len({batch.digest() for batch in same}) == 2
        for number in range(3):
            assert recorder.step(number, batch=same[0], examples=[5, 6] if number else None) == number
        recorder.seal()
        steps = [parse_record(record) for record in read_ledger(run.ledger_path).records]
        assert [step.step for step in steps if isinstance(step, Step)] == [0, 1, 2]
        assert (steps[0].examples, steps[1].examples) == (UNSET, [5, 6])

    def test_batches_are_stored_where_asked_for(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        for stored in (False, True):
            recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9), store_batches=stored)
            batch = recorder.batch(0, encode_nest("x"))
            recorder.step(0, batch=batch)
            recorder.close()
            assert run.objects.has(batch.digest()) == stored
        assert decode_nest(run.objects.read(batch.digest(), limit=99)) == "x"

    def test_steps_wait_for_their_batches_and_those_that_hold_much_memory_do_not(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        size, live = 3, np.zeros(PIECE // 2, np.uint8)
        for number in range(size):
            live[0] = number
            recorder.step(number, batch=recorder.batch(number, encode_nest(live)))
            # The first two hold a piece together: they are hashed now, the third with the seal.
            recorder.drain()
            read_ahead = len(recorder._records)
            assert read_ahead == (number + 1) % 2
        recorder.seal()
        recorder.close()
        steps = [parse_record(record) for record in read_ledger(run.ledger_path).records]
        data = [np.zeros(PIECE // 2, np.uint8) for _ in range(size)]
        for number in range(size):
            data[number][0] = number
        assert [step.batch for step in steps if isinstance(step, Step)] == [
            batch_digest(salt(run.secret(), "batch", n), encode_nest(data[n])) for n in range(size)
        ]

    def test_whoever_waits_hashes_batches_too(
        self, run: RunDirectory, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helped, digest = threading.Event(), Batch.digest

        def noted(batch: Batch) -> bytes:
            if threading.current_thread() is threading.main_thread():
                helped.set()
            # The other thread gets no further without help.
            helped.wait(10)
            return digest(batch)

        monkeypatch.setattr(Batch, "digest", noted)
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        for number in range(3):
            recorder.step(number, batch=recorder.batch(number, encode_nest(number)))
        recorder.seal()
        recorder.close()
        assert helped.is_set()

    def test_many_small_batches_are_not_waited_for_either(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=LINES + 1))
        for number in range(LINES):
            assert len(recorder._records) == number
            recorder.step(number, batch=recorder.batch(number, encode_nest(number)))
        assert recorder._records == []
        recorder.close()

    def test_seals_come_after_so_many_checkpoints_or_so_much_time(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        now = [0.0]
        cadence = Cadence(steps=99, every=1, warm=0, seal_every=3, seal_seconds=60.0)
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), cadence, clock=lambda: now[0])
        state = flatten_objects({"model": torch.nn.Linear(2, 2)})

        def seals() -> int:
            recorder.seal_if_due()
            recorder.drain()
            return len(run.seals())

        sealed = []
        for number in range(7):
            recorder.checkpoint(number, state)
            sealed.append(seals())
        assert sealed == [0, 0, 1, 1, 1, 2, 2]
        now[0] = 59.9
        assert seals() == 2
        now[0] = 60.0
        assert seals() == 3
        # Nothing new: no head.
        now[0] = 200.0
        assert seals() == 3

    def test_a_checkpoint_outlives_the_process_before_it_is_sealed(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        state = flatten_objects({"model": torch.nn.Linear(2, 2)})
        recorder.checkpoint(0, state)
        recorder.drain()
        (record,) = read_ledger(run.ledger_path).records
        assert record is not None
        assert encode_state(state).root in record
        assert run.seals() == []

    def test_stored_checkpoint_is_the_state_of_its_moment(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        model = torch.nn.Linear(3, 3)
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        root = encode_state(flatten_objects({"model": model})).root
        recorder.checkpoint(0, flatten_objects({"model": model}))
        before = model.weight.detach().clone()
        with torch.no_grad():
            model.weight.zero_()
        recorder.drain()
        flat = parse_state(run.objects.read(root, limit=1 << 20), root=root)
        (weight,) = [tensor for tensor in flat.tensors if tensor.path == "model/weight"]
        assert bytes(weight.data) == before.numpy().tobytes()

    def test_a_state_is_let_go_before_the_other_thread_has_its_turn(
        self, run: RunDirectory, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9))
        states = [flatten_objects({"model": torch.nn.Linear(3, 3)})]
        data = weakref.ref(states[0].tensors[0].data)
        real, held = Pipeline.give, []

        def give(pipeline: Pipeline, *work: Any) -> None:
            held.append(data() is not None)
            real(pipeline, *work)

        monkeypatch.setattr(Pipeline, "give", give)
        recorder.checkpoint(0, states.pop())
        assert held == [False]
        recorder.close()

    @pytest.mark.parametrize("size", [3, 300])
    def test_states_are_packed_until_all_are_stored(
        self, run: RunDirectory, key: Ed25519PrivateKey, size: int
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9, every=1, warm=0, keep=3))
        roots = []
        for step in (0, 3, 4, 5):
            model = torch.nn.Linear(size, size)
            roots.append(encode_state(flatten_objects({"model": model})).root)
            recorder.checkpoint(step, flatten_objects({"model": model}))
            if step == 3:
                recorder.store_all()
        recorder.seal()
        recorder.close()
        files = [run.objects.path(root).read_bytes() for root in roots]
        assert [plain_size(file, len(file)) is None for file in files] == [False, False, True, True]
        for root, file in zip(roots, files, strict=True):
            data = run.objects.read_state(root, limit=1 << 20)
            assert encode_state(parse_state(data, root=root)).root == root
            assert (len(file) == len(data)) == (plain_size(file, len(file)) is None)

    def test_large_states_are_written_from_where_they_were_copied_to(
        self, run: RunDirectory, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, copied = blockfile._copy, [0]

        def noted(source: memoryview, place: memoryview) -> None:
            copied[-1] += len(source)
            real(source, place)

        monkeypatch.setattr(blockfile, "_copy", noted)
        monkeypatch.setattr(blockfile, "BLOCK", 1 << 20)
        model = torch.nn.Sequential(torch.nn.Linear(600, 600), torch.nn.Linear(600, 600))
        optimizer = torch.optim.AdamW(model.parameters())
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=9, every=1, warm=0))
        whether = []
        for step in range(9):
            model(torch.randn(3, 600)).sum().backward()
            optimizer.step()
            # Takes one byte more from 100 on.
            counter = _Holder({"n": 96 + step})
            recorder.checkpoint(
                step, flatten_objects({"model": model, "optimizer": optimizer, "counter": counter})
            )
            recorder.drain()
            whether.append(copied.pop() > 0)
            copied.append(0)
        # Each of two blocks of memory knows the header of its last state.
        assert whether == [True, True, False, False, True, True, False, False, False]
        recorder.close()
        for root in _roots(run):
            data = run.objects.read(root, limit=1 << 26)
            assert encode_state(parse_state(data, root=root)).root == root

    def test_run_does_not_end_before_its_last_checkpoint(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        recorder = RunRecorder(run, Sealer.create(run, RUN, key), Cadence(steps=5))
        state = flatten_objects({"model": torch.nn.Linear(2, 2)})
        recorder.checkpoint(4, state)
        with pytest.raises(UsageError, match="checkpoint of its step 5"):
            recorder.finish("model", state)


class TestSealer:
    @staticmethod
    def record(index: int) -> bytes:
        from polledger.core.encoding import encode

        return encode(Checkpoint(v=1, run=RUN, index=index, step=index, root=bytes(32), stored=False))

    def grown(self, run: RunDirectory, key: Ed25519PrivateKey, *, sealed: int, more: int = 0) -> None:
        sealer = Sealer.create(run, RUN, key)
        for index in range(sealed):
            sealer.append(self.record(index))
        sealer.seal()
        for index in range(sealed, sealed + more):
            sealer.append(self.record(index))
        sealer.close()

    def test_reopened_run_grows_the_same_tree(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        self.grown(run, key, sealed=3, more=2)
        opened = Sealer.reopen(run, key)
        assert (len(opened.records), opened.sealer.size, opened.sealer.sealed, opened.seal) == (5, 5, 3, 0)
        opened.sealer.append(self.record(5))
        head = opened.sealer.seal()
        assert head is not None
        assert (head.size, head.previous) == (6, opened.head.digest())
        assert Sealer.reopen(run, key).sealer.size == 6

    def test_torn_tail_is_cut(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        self.grown(run, key, sealed=3, more=2)
        os.truncate(run.ledger_path, run.ledger_path.stat().st_size - 1)
        assert Sealer.reopen(run, key).sealer.size == 4

    def test_torn_sealed_record_is_refused(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        self.grown(run, key, sealed=3)
        os.truncate(run.ledger_path, run.ledger_path.stat().st_size - 1)
        with pytest.raises(Unavailable, match="restore the file from a copy"):
            Sealer.reopen(run, key)

    def test_record_exchanged_under_a_head_is_refused(
        self, run: RunDirectory, key: Ed25519PrivateKey
    ) -> None:
        self.grown(run, key, sealed=3)
        heads = run.seal_path(0).read_bytes()
        other = RunDirectory.create(run.path.parent / "other")
        sealer = Sealer.create(other, RUN, key)
        for index in (0, 2, 2):
            sealer.append(self.record(index))
        sealer.seal()
        other.seal_path(0).write_bytes(heads)
        with pytest.raises(Unavailable, match="does not match its last seal"):
            Sealer.reopen(other, key)

    def test_another_key_is_refused(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        self.grown(run, key, sealed=3)
        with pytest.raises(UsageError, match="another key"):
            Sealer.reopen(run, Ed25519PrivateKey.generate())

    def test_sealed_run_is_not_begun_again(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        self.grown(run, key, sealed=3)
        with pytest.raises(UsageError, match="holds a run already"):
            Sealer.create(run, RUN, key)

    def test_records_that_were_never_sealed_make_way(self, run: RunDirectory, key: Ed25519PrivateKey) -> None:
        sealer = Sealer.create(run, RUN, key)
        sealer.append(self.record(0))
        sealer.close()
        assert Sealer.create(run, RUN, key).size == 0
        assert run.ledger_path.stat().st_size == 0

    def test_objects_are_on_disk_before_records_and_these_before_the_seal(
        self, run: RunDirectory, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        sync = os.fdatasync

        def noted(descriptor: int) -> None:
            order.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(run.path).parts[0])
            sync(descriptor)

        sealer = Sealer.create(run, RUN, key, stamp=lambda index, head: order.append("stamp"))
        run.objects.put(b"payload")
        sealer.append(self.record(0))
        monkeypatch.setattr(os, "fdatasync", noted)
        sealer.seal()
        assert order == ["objects", "ledger.log", "seals", "stamp"]


class TestArena:
    def test_copy_is_equal_independent_and_shares_what_was_shared(self) -> None:
        shared = torch.arange(4.0)
        flat = flatten_objects(
            {"m": _Holder({"a": shared, "b": shared, "c": torch.ones(3), "d": torch.empty(0)})}
        )
        arena = Arena()
        root = encode_state(flat).root
        copy = arena.copy(flat)
        shared.zero_()
        assert encode_state(copy.state).root == root
        data = {tensor.path: tensor.data for tensor in copy.state.tensors}
        assert data["m/a"] is data["m/b"]
        assert data["m/a"] is not data["m/c"]

    def test_smaller_and_larger_states_follow_each_other(self) -> None:
        arena = Arena()
        for size in (4, 1, 9, 2):
            flat = flatten_objects({"m": _Holder({"a": torch.arange(float(size))})})
            assert encode_state(arena.copy(flat).state).root == encode_state(flat).root


def _roots(run: RunDirectory) -> list[bytes]:
    """State roots of the checkpoints of ``run``, in order."""
    records = [parse_record(record) for record in read_ledger(run.ledger_path).records if record is not None]
    return [record.root for record in records if isinstance(record, Checkpoint)]


class _Holder:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.values = values


class TestSurviving:
    def test_abandoned_records_drop_out(self) -> None:
        environment = None
        records = [Checkpoint(v=1, run=RUN, index=i, step=i, root=bytes(32), stored=True) for i in range(5)]
        resume = Resume(v=1, run=RUN, index=5, environment=environment, source=2, first=3, last=4, reason="")
        after = Checkpoint(v=1, run=RUN, index=6, step=3, root=bytes(32), stored=True)
        again = Resume(v=1, run=RUN, index=7, environment=environment, source=1, first=2, last=6, reason="")
        assert [r.index for r in surviving([*records, resume, after])] == [0, 1, 2, 5, 6]
        assert [r.index for r in surviving([*records, resume, after, again])] == [0, 1, 7]


class TestDomains:
    def test_ranges_grids_and_one_hot(self) -> None:
        found = {
            d.field: d
            for d in encode_domains(
                {"0": range(17), "x/1": (0, 1, 0.25), "y": "one_hot", "z": range(0, 9, 4)}
            )
        }
        assert (found["0"].kind, from_real(found["0"].low), from_real(found["0"].high)) == (
            "range",
            0.0,
            16.0,
        )
        assert (found["x/1"].kind, from_real(found["x/1"].step)) == ("grid", 0.25)
        assert found["y"].kind == "one_hot"
        assert (found["z"].kind, from_real(found["z"].high), from_real(found["z"].step)) == ("grid", 8.0, 4.0)

    @pytest.mark.parametrize(
        "value", ["hot", range(0), 3, (1, 0, 1), (0, 1, 0), (0, 1), (0, 1, "x"), (0, 1, True)]
    )
    def test_anything_else_is_refused_by_name(self, value: object) -> None:
        with pytest.raises(UsageError, match="domain of 'f'"):
            encode_domains({"f": value})
