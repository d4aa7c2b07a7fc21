"""The thread behind a training: order, errors that come back, blocks that are waited for."""

import errno
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.records import Checkpoint, Step, parse_record
from polledger.core.state import FlatState, encode_state
from polledger.errors import Unavailable
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training.pipeline import BLOCKS, NICE, Pipeline
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.sealer import Sealer
from polledger.training.state import flatten_objects
from polledger.training.writing import LARGE

RUN = bytes(range(16))


def state(value: float = 0.0) -> FlatState:
    return flatten_objects({"model": torch.nn.ParameterDict({"w": torch.full((3,), float(value))})})


class TestPipeline:
    def test_work_is_done_in_order_and_drain_waits_for_it(self) -> None:
        pipeline, done = Pipeline(), []
        gate = threading.Event()
        pipeline.give(gate.wait)
        for number in range(100):
            pipeline.give(lambda number=number: done.append(number))
        assert done == []
        gate.set()
        pipeline.drain()
        assert done == list(range(100))
        pipeline.close()

    def test_an_error_comes_back_with_the_next_call_and_nothing_is_done_after_it(self) -> None:
        pipeline, done = Pipeline(), []
        gate = threading.Event()

        def fail() -> None:
            gate.wait()
            raise Unavailable("the disk is full")

        copy = pipeline.copy(state())
        pipeline.give(fail, copy)
        pipeline.give(lambda: done.append(1), None)
        gate.set()
        for call in (pipeline.drain, pipeline.check, lambda: pipeline.give(lambda: done.append(2))):
            with pytest.raises(Unavailable, match="the disk is full"):
                call()
        with pytest.raises(Unavailable, match="the disk is full"):
            pipeline.copy(state())
        pipeline.close()
        assert done == []

    def test_an_error_does_not_leave_a_block_behind_that_somebody_waits_for(self) -> None:
        pipeline = Pipeline()
        gate = threading.Event()

        def fail() -> None:
            gate.wait()
            raise Unavailable("the disk is full")

        pipeline.give(fail, pipeline.copy(state()))
        for _ in range(BLOCKS - 1):
            pipeline.give(lambda: None, pipeline.copy(state()))
        threading.Timer(0.05, gate.set).start()
        with pytest.raises(Unavailable):
            pipeline.copy(state())
        assert pipeline.waited > 0
        pipeline.close()

    def test_a_copy_waits_while_every_block_is_in_use(self) -> None:
        pipeline, gate, taken = Pipeline(), threading.Event(), threading.Event()
        roots = []

        def give(value: float) -> None:
            copy = pipeline.copy(state(value))
            pipeline.give(lambda: (gate.wait(), roots.append(encode_state(copy.state).root)), copy)

        for number in range(BLOCKS):
            give(number)
        late = threading.Thread(target=lambda: (give(7.0), taken.set()))
        late.start()
        assert not taken.wait(0.2)
        gate.set()
        late.join()
        pipeline.drain()
        assert roots == [encode_state(state(value)).root for value in (*range(BLOCKS), 7.0)]
        assert pipeline.waited > 0
        pipeline.close()

    def test_whoever_waits_takes_part_in_the_hashing(self) -> None:
        pipeline = Pipeline()
        both, met = threading.Barrier(2, timeout=60), threading.Event()
        threads, results = set(), []

        def meet(number: int) -> int:
            threads.add(threading.current_thread().name)
            if not met.is_set():
                # Passed only if two threads are in it at once.
                both.wait()
                met.set()
            return number * number

        pipeline.give(lambda: results.extend(pipeline.map(meet, range(8))))
        pipeline.drain()
        pipeline.close()
        assert results == [number * number for number in range(8)]
        assert threads == {"MainThread", "sealing"}

    def test_what_is_not_hashed_yet_is_hashed_before_the_next_copy_though_a_block_is_free(self) -> None:
        pipeline = Pipeline()
        begun, threads = threading.Event(), []

        def slow(number: int) -> None:
            threads.append(threading.current_thread().name)
            if threads[-1] == "sealing":
                begun.set()
                helped.wait(60)

        helped = threading.Event()
        pipeline.give(lambda: list(pipeline.map(slow, range(4))) and None, pipeline.copy(state()))
        assert begun.wait(60)
        copy = pipeline.copy(state(1.0))
        assert threads == ["sealing", *["MainThread"] * 3]
        helped.set()
        pipeline.give(lambda: None, copy)
        pipeline.close()

    def test_a_part_that_is_never_finished_elsewhere_is_done_again(self) -> None:
        pipeline = Pipeline()
        began, results = threading.Event(), []

        def once(number: int) -> int:
            if threading.current_thread() is threading.main_thread():
                began.set()
                raise KeyboardInterrupt
            # The other one has had its turn before this thread does anything.
            assert began.wait(60)
            return number

        pipeline.give(lambda: results.extend(pipeline.map(once, range(3))))
        with pytest.raises(KeyboardInterrupt):
            pipeline.drain()
        pipeline.close()
        assert results == [0, 1, 2]

    def test_closing_does_what_was_given_and_may_be_done_twice(self) -> None:
        before = set(threading.enumerate())
        pipeline, done = Pipeline(), []
        pipeline.give(lambda: done.append(1))
        pipeline.close()
        pipeline.close()
        assert done == [1]
        assert set(threading.enumerate()) <= before

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have no priority of their own")
    def test_the_thread_takes_what_training_leaves(self) -> None:
        found: list[int] = []

        def look() -> None:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

        before = os.getpriority(os.PRIO_PROCESS, 0)
        pipeline = Pipeline(before=look)
        pipeline.give(look)
        pipeline.drain()
        pipeline.close()
        assert found == [before, NICE]
        assert os.getpriority(os.PRIO_PROCESS, 0) == before

    def test_a_thread_that_cannot_begin_is_an_error_like_any_other(self) -> None:
        def fail() -> None:
            raise Unavailable("no more threads")

        pipeline, done = Pipeline(before=fail), []
        pipeline.give(lambda: done.append(1))
        with pytest.raises(Unavailable, match="no more threads"):
            pipeline.drain()
        pipeline.close()
        assert done == []


class TestRecorder:
    @pytest.fixture
    def run(self, tmp_path: Path) -> RunDirectory:
        return RunDirectory.create(tmp_path / "run")

    def test_records_are_in_the_order_of_the_calls(self, run: RunDirectory) -> None:
        recorder = self.recorder(run)
        for number in range(20):
            if number % 5 == 0:
                recorder.checkpoint(number, state(number))
            assert recorder.step(number, batch=bytes(32)) == number + number // 5 + 1
        recorder.seal()
        recorder.close()
        records = [parse_record(record) for record in read_ledger(run.ledger_path).records]
        assert [record.index for record in records] == list(range(24))
        assert [record.step for record in records if isinstance(record, Step)] == list(range(20))
        found = {record.step: record.root for record in records if isinstance(record, Checkpoint)}
        assert found == {number: encode_state(state(number)).root for number in range(0, 20, 5)}

    def test_what_was_recorded_and_not_sealed_is_written_when_it_is_closed(self, run: RunDirectory) -> None:
        recorder = self.recorder(run)
        recorder.checkpoint(0, state())
        recorder.step(0, batch=bytes(32))
        recorder.close()
        assert len(read_ledger(run.ledger_path).records) == 2

    def test_a_disk_that_fails_stops_training_at_the_next_step_and_leaves_a_run_that_goes_on(
        self, run: RunDirectory
    ) -> None:
        key = Ed25519PrivateKey.generate()
        recorder = self.recorder(run, key)
        recorder.checkpoint(0, state())
        recorder.seal()
        objects = run.objects.directory
        objects.rename(run.path / "away")
        objects.write_bytes(b"in the way")
        recorder.step(0, batch=bytes(32))
        recorder.checkpoint(1, state(1.0))
        with pytest.raises(Unavailable, match="objects"):
            recorder.drain()
        with pytest.raises(Unavailable, match="objects"):
            recorder.step(1, batch=bytes(32))
        with pytest.raises(Unavailable, match="objects"):
            recorder.seal()
        recorder.close()
        objects.unlink()
        (run.path / "away").rename(objects)
        opened = Sealer.reopen(run, key)
        assert opened.sealer.sealed == 1
        assert [type(parse_record(record)) for record in opened.records] == [Checkpoint, Step]
        opened.sealer.close()

    def test_a_large_state_is_written_while_it_is_hashed_and_the_same(self, run: RunDirectory) -> None:
        large = flatten_objects({
            "model": torch.nn.ParameterDict({
                "a": torch.arange(200_000.0), "b": torch.zeros(300_000), "c": torch.zeros(300_000), "d": torch.ones(3)
            })
        })  # fmt: skip
        recorder = self.recorder(run)
        recorder.checkpoint(0, large)
        recorder.close()
        encoded = encode_state(large)
        assert encoded.size > LARGE
        # Equal tensors lie there once.
        assert encoded.size < 2.5e6
        assert bytes(run.objects.read(encoded.root, limit=1 << 30)) == b"".join(encoded.chunks())

    def test_a_disk_that_is_full_while_a_large_state_is_written_is_said_to_be(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int, view: memoryview, position: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        recorder = self.recorder(run)
        monkeypatch.setattr(os, "pwrite", full)
        recorder.checkpoint(0, flatten_objects({"model": torch.nn.Linear(1000, 3000)}))
        with pytest.raises(Unavailable, match="No space left"):
            recorder.drain()
        recorder.close()
        assert len(read_ledger(run.ledger_path).records) == 0
        assert list(run.objects.directory.iterdir()) == []

    def test_one_write_that_fails_in_the_middle_is_not_forgotten(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writes behind it succeed, and so does the end of the file."""
        write, calls = os.pwrite, []

        def once(descriptor: int, view: memoryview, position: int) -> int:
            calls.append(position)
            if len(calls) == 1:
                raise OSError(errno.EIO, "Input/output error")
            return write(descriptor, view, position)

        recorder = self.recorder(run)
        monkeypatch.setattr(os, "pwrite", once)
        recorder.checkpoint(0, flatten_objects({"model": torch.nn.Linear(1000, 3000)}))
        with pytest.raises(Unavailable, match="Input/output error"):
            recorder.drain()
        recorder.close()
        assert len(read_ledger(run.ledger_path).records) == 0
        assert list(run.objects.directory.iterdir()) == []

    @staticmethod
    def recorder(run: RunDirectory, key: Ed25519PrivateKey | None = None) -> RunRecorder:
        cadence = Cadence(steps=10_000, every=1, warm=0)
        return RunRecorder(run, Sealer.create(run, RUN, key or Ed25519PrivateKey.generate()), cadence)
