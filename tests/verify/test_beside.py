"""Replays beside the present one: what changes is the time they take, and nothing else."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polledger.core.records import Environment, Step, Unshown
from polledger.core.replay import IsolationReport, OpenedBatch, ReplayFailed, ReplayJob, ReplayOutcome
from polledger.core.report import Report
from polledger.verify import beside, replaying
from polledger.verify.beside import NOTHING, PROCESS, STATES, Room, room_for
from polledger.verify.lineage import Lineage
from polledger.verify.openings import RunOpenings
from polledger.verify.replaying import TRIED, ReplaySession
from polledger.verify.replaytask import NotOpened
from polledger.verify.request import Code
from polledger.verify.sampling import SampleRequest
from tests.verify.build import (
    CONFIG,
    ENVIRONMENT,
    OTHER_MACHINE,
    Built,
    Hooks,
    NumpyReplayer,
    Spec,
    Weights,
    custom_batch,
    example,
    make_run,
)
from tests.verify.check import check
from tests.verify.presenting import challenge_of, check_proof, prove
from tests.verify.test_replaying import Log, session

LONG = {**CONFIG, "steps": 64}
"""Eighteen intervals: two of one step, one of two, and fifteen of four. Interval n from 3 on begins at 4 (n - 2)."""

FIRST = [0, 1, 2]
"""Those are replayed in turn: two alone, and one while processes start."""

CORES = 3


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_run(tmp_path_factory.mktemp("long") / "run", Spec(config=LONG))


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many cores there are; at first three. Any work is worth a process."""
    monkeypatch.setattr(beside, "WORTH", 1e-12)
    monkeypatch.setattr(beside, "memory_limit", lambda: 1 << 50)
    found = [CORES]
    monkeypatch.setattr(beside, "usable_cores", lambda: found[0])

    def have(count: int) -> None:
        found[0] = count

    return have


def opened(built: Built, numbers: Sequence[int], log: Log, **changes: Any) -> ReplaySession:
    """A session in which ``numbers`` were opened one after the other, behind FIRST."""
    found = session(built, log, **changes)
    found.origin()
    numbers = [*FIRST, *numbers]
    found.expect(numbers)
    for number in numbers:
        found.open(number)
    found.close()
    return found


def seen_by(log: Log) -> list[list[int]]:
    """The steps that every process was asked to replay from, but for FIRST: the one in turn first."""
    first, *others = [replayer.seen for replayer in log.started]
    return [first[len(FIRST) :], *(seen for seen in others if seen)]


def passed(found: ReplaySession) -> bool:
    return all(result.exact and result.outcome == "pass" for result in found.results.values())


def returning(found: ReplaySession, number: int) -> Lineage:
    """As if the state that interval ``number`` ends with were also where 9 starts."""
    intervals = list(found.task.lineage.intervals)
    end = msgspec.structs.replace(intervals[number].end, root=intervals[9].start.root)
    intervals[number] = replace(intervals[number], end=end)
    return replace(found.task.lineage, intervals=tuple(intervals))


class TestWhatRunsBeside:
    def test_as_many_replay_at_a_time_as_there_are_cores(self, long: Built) -> None:
        together = threading.Barrier(CORES)
        log = Log(long, on_replay=lambda job: together.wait(30) if job.first_step > 4 else None)
        found = opened(long, [4, 6, 8, 10, 12, 14], log)
        assert passed(found)
        assert len(found.results) == 9
        assert not together.broken
        first, *others = seen_by(log)
        assert not first
        assert len(others) == CORES
        assert sorted(step for seen in others for step in seen) == [8, 16, 24, 32, 40, 48]
        assert log.ended == len(log.started)

    def test_every_process_gets_its_intervals_in_ascending_order(self, long: Built) -> None:
        log = Log(long)
        # NumpyReplayer itself refuses an earlier interval after a later one.
        assert passed(opened(long, [4, 6, 8, 10, 12, 14, 16], log))
        assert all(seen == sorted(seen) for seen in seen_by(log))

    def test_the_first_intervals_are_replayed_alone(self, long: Built) -> None:
        go = threading.Event()

        def wait(job: ReplayJob) -> None:
            if job.first_step == 2:
                assert go.wait(30)
            elif job.first_step > 2:
                go.set()

        found = opened(long, [4, 6, 8], Log(long, on_replay=wait))
        assert [steps for _, steps in found._alone] == [1] * TRIED
        assert found.replayed_steps == 16
        # The first pays for what the libraries set up once.
        assert found.pace() == found._alone[1][0]

    def test_what_was_replayed_beside_others_does_not_count_for_the_pace(self, long: Built) -> None:
        go = threading.Event()

        def wait(job: ReplayJob) -> None:
            if job.first_step == 16:
                assert go.wait(30)
            elif job.first_step == 4:
                go.set()

        # 3 is replayed in turn, and 6 under way before it and until then; nothing begins meanwhile.
        found = opened(long, [3, 6], Log(long, on_replay=wait))
        assert passed(found)
        assert sum(steps for _, steps in found._alone) <= 1 + 1 + 2

    def test_room_is_made_for_the_longest_interval(
        self, long: Built, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = []
        room = replaying.room_for
        monkeypatch.setattr(
            replaying, "room_for", lambda where, **sizes: given.append(sizes) or room(where, **sizes)
        )
        found = opened(long, [4, 6, 8], Log(long))
        assert passed(found)
        sizes = {(item["state_bytes"], item["batch_bytes"]) for item in given}
        # Four steps of four examples each, whatever the first intervals have.
        assert sizes == {(max(map(len, long.states.values())), 4 * 4 * len(example(long.spec, 0)))}

    def test_intervals_that_follow_each_other_are_replayed_by_one_process(self, long: Built) -> None:
        log = Log(long)
        assert passed(opened(long, [4, 5, 6, 9, 10], log))
        first, *others = seen_by(log)
        assert not first
        assert sorted(step for seen in others for step in seen) == [8, 12, 16, 28, 32]
        for stretch in ([8, 12, 16], [28, 32]):
            assert any(stretch == [step for step in seen if step in stretch] for seen in others)

    def test_no_process_has_what_another_is_asked_for(self, long: Built) -> None:
        log = Log(long)
        # 3 to 6 start from what the ones before them are asked for, the first of which is replayed in turn.
        assert passed(opened(long, [3, 4, 5, 6, 9, 10], log))
        first, *others = seen_by(log)
        assert first == [4, 8, 12, 16]
        assert others == [[28, 32]]

    @pytest.mark.parametrize("number", [4, 5, 6])
    def test_a_state_that_comes_back_later_is_not_given_either(self, long: Built, number: int) -> None:
        log = Log(long)
        found = session(long, log)
        changed = returning(found, number)
        opened(long, [4, 5, 6, 9, 12], log, lineage=changed)
        begun = [step for seen in seen_by(log)[1:] for step in seen]
        assert 40 in begun
        assert 28 not in begun

    def test_nor_one_that_was_asked_for_before_others_began(self, long: Built) -> None:
        found = session(long)
        changed = returning(found, 0)
        found = session(long, lineage=changed)
        found._beside.expect([changed.intervals[number] for number in (0, 1, 4, 9, 12)])
        found._beside.follow(changed.intervals[1], Room(count=2, held=99), pace=1.0)
        assert sorted(found._beside._under_way) == [4, 12]
        found.close()

    def test_where_an_end_may_be_the_next_stored_state_that_is_not_given(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG, keep=4))
        log = Log(built)
        # Stored are 0, 1, 2, 16, 32, 48, 64: what starts at 16 is where the replay from 2 may have to go on to.
        assert passed(opened(built, [6, 14], log))
        assert seen_by(log) == [[16], [48]]

    def test_nor_where_what_comes_before_runs_beside_itself(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG, keep=4))
        log = Log(built)
        # 10 goes from 32 to 36, which is not stored: it may have to go on to 48, where 14 starts.
        assert passed(opened(built, [10, 14], log))
        assert seen_by(log) == [[48], [32]]

    def test_states_that_are_not_stored_are_derived_beside(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG, keep=4))
        log = Log(built)
        assert passed(opened(built, [3, 4, 5, 10, 11, 12, 13], log))
        assert seen_by(log) == [[4, 8, 12], [32, 36, 40, 44]]

    @pytest.mark.parametrize("kind", ["recipe", "custom"])
    def test_in_turn_nothing_is_opened_otherwise(
        self, tmp_path: Path, kind: str, cores: Callable[[int], None]
    ) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG, kind=kind))
        asked = []
        for count in (1, CORES):
            cores(count)
            log = Opening(built)
            assert passed(opened(built, [4, 6, 7, 11], log))
            asked.append(log.started[0].asked)
        assert asked[0] == asked[1] == [*range(4), *range(8, 12), *range(16, 24), *range(36, 40)]


class Asked(NumpyReplayer):
    """Notes which steps it is asked to open; ``open_step`` may change what it opens."""

    def __init__(self, *, open_step: Callable[["Asked", OpenedBatch], OpenedBatch], **options: Any) -> None:
        super().__init__(**options)
        self.open_step = open_step
        self.asked: list[int] = []

    def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
        for found in super().open_batches(steps):
            self.asked.append(found.step)
            yield self.open_step(self, found)


class Opening(Log):
    """Engines of that kind."""

    started: list[Any]
    kind = Asked

    def __init__(
        self,
        built: Built,
        open_step: Callable[[Asked, OpenedBatch], OpenedBatch] = lambda engine, found: found,
        **options: Any,
    ) -> None:
        super().__init__(built, open_step=open_step, **options)


class TestAlone:
    @pytest.mark.parametrize("taken", [{"files": False}, {"network": False}])
    def test_where_processes_are_not_kept_apart(self, long: Built, taken: dict[str, bool]) -> None:
        isolated = IsolationReport(**{"files": True, "network": True, **taken})
        log = Log(long, isolated=isolated)
        assert passed(opened(long, [4, 6, 8], log))
        assert seen_by(log) == [[8, 16, 24]]
        assert len(log.started) == 1

    def test_as_long_as_the_process_of_another_environment_has_said_nothing(self, long: Built) -> None:
        found = session(long)
        found.origin()
        assert found._kept_apart
        found._engine(msgspec.structs.replace(ENVIRONMENT, python="3.12"))
        assert not found._kept_apart
        found.close()

    def test_what_is_recorded_elsewhere_is_replayed_in_turn(self, long: Built) -> None:
        log = Log(long)
        found = session(long, log)
        other = msgspec.structs.replace(ENVIRONMENT, flags={"deterministic": True, "other": True})
        intervals = [
            replace(interval, environment=other) if interval.number >= 8 else interval
            for interval in found.task.lineage.intervals
        ]
        changed = replace(found.task.lineage, intervals=tuple(intervals))
        assert passed(opened(long, [4, 6, 8, 10, 12], log, lineage=changed))
        given = [(replayer.environment == other, step) for replayer in log.started for step in replayer.seen]
        assert sorted(given) == [(False, step) for step in (0, 1, 2, 8, 16)] + [
            (True, step) for step in (24, 32, 40)
        ]

    def test_where_bits_are_not_owed(self, long: Built) -> None:
        log = Log(long, actual=OTHER_MACHINE)
        opened(long, [4, 6, 8], log)
        assert seen_by(log)[0] == [8, 16, 24]
        # The other one replays again.
        assert len(log.started) == 2

    def test_where_bits_are_not_owed_though_they_are_equal(self, long: Built) -> None:
        log = Log(long)
        found = opened(long, [4, 6, 8], log, packages=("package numpy",))
        assert passed(found)
        assert len(log.started) == 1

    def test_until_two_were_replayed(self, long: Built) -> None:
        found = session(long)
        found.origin()
        found.expect([0, 1, 2, 4, 6])
        found.open(0)
        found.open(1)
        assert not found._beside.alive
        found.open(2)
        assert found._beside.alive
        found.close()

    def test_where_one_replay_takes_the_cores(self, long: Built, cores: Callable[[int], None]) -> None:
        cores(1)
        log = Log(long)
        opened(long, [4, 6, 8], log)
        assert seen_by(log) == [[8, 16, 24]]

    def test_where_little_is_left(self, long: Built, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(beside, "WORTH", 1e9)
        log = Log(long)
        opened(long, [4, 6, 8], log)
        assert seen_by(log) == [[8, 16, 24]]

    def test_what_a_machine_has_room_for(
        self, cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = 2 * 8 * (PROCESS + STATES * 1000 + 2 * 12)
        monkeypatch.setattr(beside, "memory_limit", lambda: memory)
        cores(16)
        two = msgspec.structs.replace(ENVIRONMENT, threads=2)

        def room(environment: Environment, *, state: int = 1000) -> Room:
            return room_for(environment, state_bytes=state, batch_bytes=12)

        assert room(two) == Room(count=8, held=memory // 4 // 1024)
        assert room(msgspec.structs.replace(two, threads=4)).count == 4
        assert room(msgspec.structs.replace(two, threads=9)) == NOTHING
        assert room(msgspec.structs.replace(two, device="Some GPU")) == NOTHING
        assert room(two, state=1001).count == 7
        assert room(two, state=PROCESS).count == 0
        cores(1024)
        monkeypatch.setattr(beside, "memory_limit", lambda: 1 << 50)
        assert room(two).count == beside.MOST

    def test_no_more_is_held_than_there_is_memory_for(self, long: Built) -> None:
        go = threading.Event()
        found = session(long, Log(long, on_replay=lambda job: go.wait(30) and None))
        running, intervals = found._beside, found.task.lineage.intervals
        room = Room(count=8, held=2)
        running.expect([intervals[number] for number in (1, 4, 6, 7, 9, 10, 11, 13)])
        # One, then two that do not fit beside it.
        running.follow(intervals[1], room, pace=1.0)
        assert sorted(running._under_way) == [4]
        assert running.take(4) is not None
        running.follow(intervals[4], room, pace=1.0)
        assert sorted(running._under_way) == [6, 7]
        running.take(6)
        running.take(7)
        # Three never fit: they are passed over.
        running.follow(intervals[7], room, pace=1.0)
        assert sorted(running._under_way) == [13]
        go.set()
        found.close()

    def test_no_more_wait_than_soon_have_a_process(self, long: Built) -> None:
        go = threading.Event()
        found = session(long, Log(long, on_replay=lambda job: go.wait(30) and None))
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 6, 8, 10, 12, 14)])
        running.follow(intervals[1], Room(count=2, held=100), pace=1.0)
        assert sorted(running._under_way) == [4, 6, 8, 10]
        go.set()
        found.close()

    def test_without_a_word_of_what_will_be_opened(self, long: Built) -> None:
        log = Log(long)
        found = session(long, log)
        found.origin()
        assert all(found.open(number).exact for number in (0, 1, 2, 4, 6))
        assert len(log.started) == 1
        found.close()


class TestTrouble:
    """What is not all that the records say is replayed in turn, and nothing runs beside from then on."""

    @staticmethod
    def in_turn(log: Log) -> NumpyReplayer:
        return log.started[0]

    def spoiled(self, built: Built, change: Callable[[ReplayOutcome], ReplayOutcome], log: Log) -> None:
        """Opens intervals of which each is spoiled beside: found is what is found in turn."""
        log.kind = spoiling(change, lambda engine: engine is not self.in_turn(log))
        found = opened(built, [4, 6, 8, 10, 12], log)
        assert passed(found)
        assert found.findings == found.data.findings == []
        assert self.in_turn(log).seen[len(FIRST) :] == [8, 16, 24, 32, 40]
        assert found._beside._stopped
        assert found.checked == set(found.results)
        assert found.isolation == {"files": True, "network": True}

    def test_what_raises(self, long: Built) -> None:
        def fail(outcome: ReplayOutcome) -> ReplayOutcome:
            raise ReplayFailed("there is no room for another one")

        self.spoiled(long, fail, Log(long))

    def test_what_the_verifier_itself_cannot_hold(self, long: Built) -> None:
        def fail(outcome: ReplayOutcome) -> ReplayOutcome:
            raise MemoryError

        self.spoiled(long, fail, Log(long))

    def test_another_state(self, long: Built) -> None:
        self.spoiled(long, lambda outcome: replace(outcome, state=long.states[0]), Log(long))

    def test_another_batch(self, long: Built) -> None:
        def change(outcome: ReplayOutcome) -> ReplayOutcome:
            return replace(outcome, steps=(replace(outcome.steps[0], batch=b""), *outcome.steps[1:]))

        self.spoiled(long, change, Log(long))

    def test_other_hyperparameters(self, long: Built) -> None:
        def change(outcome: ReplayOutcome) -> ReplayOutcome:
            return replace(outcome, steps=(replace(outcome.steps[0], groups=()), *outcome.steps[1:]))

        self.spoiled(long, change, Log(long))

    def test_another_environment(self, long: Built) -> None:
        self.spoiled(long, lambda outcome: replace(outcome, environment=OTHER_MACHINE), Log(long))

    def test_other_metrics(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG))
        records = [
            msgspec.structs.replace(record, metrics={"loss": bytes(8)})
            if isinstance(record, Step)
            else record
            for record in built.records
        ]
        told = {"loss": 0.0}

        def change(outcome: ReplayOutcome) -> ReplayOutcome:
            return replace(outcome, steps=tuple(replace(step, metrics=told) for step in outcome.steps))

        # In turn they are the recorded ones, beside they are not there.
        log = Log(built)
        log.kind = spoiling(change, lambda engine: engine is self.in_turn(log))
        found = opened(replace(built, records=records), [4, 6, 8], log)
        assert passed(found)
        assert found.findings == []
        assert self.in_turn(log).seen[len(FIRST) :] == [8, 16, 24]

    @pytest.mark.parametrize("name", ["files", "network"])
    def test_a_process_that_the_system_does_not_keep_apart(self, long: Built, name: str) -> None:
        log = Log(long)

        class Open(NumpyReplayer):
            def isolation(self) -> IsolationReport:
                kept = self is log.started[0]
                return replace(IsolationReport(files=True, network=True), **{name: kept})

        log.kind = Open
        found = opened(long, [4, 6, 8], log)
        assert passed(found)
        # Nothing was given to any other; and that there was such a process is said.
        assert [replayer.seen for replayer in log.started] == [
            [0, 1, 2, 8, 16, 24],
            *([] for _ in log.started[1:]),
        ]
        assert found.isolation == {"files": True, "network": True, name: False}

    def test_data_that_are_opened_otherwise(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG, kind="custom"))
        other = Spec(config=LONG, kind="custom", labels=1)

        def change(engine: Asked, found: OpenedBatch) -> OpenedBatch:
            wrong = engine is not log.started[0]
            return replace(found, batch=custom_batch(other, found.step)) if wrong else found

        log = Opening(built, change)
        found = opened(built, [4, 6, 8], log)
        assert passed(found)
        assert found.data.findings == []
        assert log.started[0].seen == [0, 1, 2, 8, 16, 24]

    def test_data_that_differ_where_it_makes_no_difference_are_not_taken(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG))

        def change(engine: Asked, found: OpenedBatch) -> OpenedBatch:
            # The replay reads examples only.
            return replace(found, indices=()) if engine is not log.started[0] else found

        log = Opening(built, change)
        assert passed(opened(built, [4, 6, 8], log))
        assert log.started[0].seen == [0, 1, 2, 8, 16, 24]

    def test_what_differs_is_judged_by_what_was_replayed_in_turn(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG), hooks=Hooks(after_step=bent))
        log = Log(built)
        found = opened(built, [4, 6, 12, 14], log)
        assert [found.results[number].outcome for number in (4, 6, 12, 14)] == [
            "pass",
            "pass",
            "fail",
            "pass",
        ]
        first, *_, second = seen_by(log)
        # Then the rest as if nothing had run beside.
        assert first == [40, 48]
        assert second[0] == 40

    def test_what_follows_an_interval_that_differs_is_not_begun(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG), hooks=Hooks(after_step=bent))
        log = Log(built)
        opened(built, [12, 13], log)
        # 44, where 13 starts, was given to nobody who was asked for it.
        assert seen_by(log)[0] == [40, 44]
        assert set(seen_by(log)[1]) == {40}

    def test_a_start_that_is_damaged_is_the_finding_of_its_interval(self, tmp_path: Path) -> None:
        built = make_run(tmp_path / "run", Spec(config=LONG))
        log = Log(built)
        path = built.run.objects.path(session(built).task.lineage.intervals[8].start.root)
        path.write_bytes(path.read_bytes()[:-1])
        found = opened(built, [4, 6, 8, 10], log)
        outcomes = {number: result.outcome for number, result in found.results.items()}
        assert outcomes == {**dict.fromkeys((*FIRST, 4, 6, 10), "pass"), 8: "unverifiable"}
        assert [item.interval for item in found.data.findings] == [8]

    def test_what_is_not_asked_for_takes_no_place(self, long: Built) -> None:
        found = session(long)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 6, 8)])
        running.follow(intervals[1], Room(count=3, held=9), pace=1.0)
        assert sorted(running._under_way) == [4, 6, 8]
        running.follow(intervals[6], Room(count=3, held=9), pace=1.0)
        assert sorted(running._under_way) == [8]
        assert running.take(8) is not None
        assert running.take(8) is None
        found.close()

    def test_what_follows_an_interval_that_failed_is_not_waited_for(self, long: Built) -> None:
        found = session(long, Log(long, fail="replay"))
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 5)])
        running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        later = running.take(5)
        assert later is not None
        with pytest.raises(CancelledError):
            later.result(30)
        found.close()

    def test_a_stretch_ends_where_its_records_are_contradicted(self, long: Built) -> None:
        records = [
            msgspec.structs.replace(record, examples=[0, 0, 0, 0])
            if isinstance(record, Step) and record.step == 13
            else record
            for record in long.records
        ]
        found = session(replace(long, records=records))
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 5, 6)])
        running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        assert sorted(running._under_way) == [4]
        found.close()

    def test_what_cannot_be_opened_is_not_begun(self, long: Built) -> None:
        found = session(long)
        interval = found.task.lineage.intervals[4]
        assert found.data.undisputed(interval) is not None
        hidden = Unshown(
            **{name: getattr(interval.steps[0], name) for name in ("v", "run", "index", "step", "batch")}
        )
        assert found.data.undisputed(replace(interval, steps=(hidden, *interval.steps[1:]))) is None
        openings = RunOpenings(secret=None, objects=long.run.objects, problem="no secret")
        assert session(long, openings=openings).data.undisputed(interval) is None

    def test_where_no_thread_can_be_started_all_is_in_turn(
        self, long: Built, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("beside"):
                raise RuntimeError("can't start new thread")
            start(thread)

        start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", refuse)
        log = Log(long)
        assert passed(opened(long, [4, 6, 8], log))
        assert seen_by(log) == [[8, 16, 24]]

    def test_what_its_records_contradict_is_left_to_its_turn(self, long: Built) -> None:
        log = Log(long)
        records = [
            msgspec.structs.replace(record, examples=[0, 0, 0, 0])
            if isinstance(record, Step) and record.step == 18
            else record
            for record in long.records
        ]
        found = opened(replace(long, records=records), [4, 6, 8], log)
        assert found.data.findings[0].outcome == "fail"
        assert "do not follow from the seed" in found.data.findings[0].detail
        assert 16 in seen_by(log)[0]
        # Then again, alone, because the batch is another one.
        assert sorted(step for seen in seen_by(log)[1:] for step in seen) == [8, 16, 24]


def spoiling(
    change: Callable[[ReplayOutcome], ReplayOutcome], applies: Callable[[NumpyReplayer], bool]
) -> type[NumpyReplayer]:
    """Replayers some of which change what they did."""

    class Spoiling(NumpyReplayer):
        def replay(self, job: ReplayJob, **options: Any) -> ReplayOutcome:
            outcome = super().replay(job, **options)
            return change(outcome) if applies(self) else outcome

    return Spoiling


class TestCrowded:
    """What fails in turn while others run may have failed because of them."""

    def test_a_replay_is_tried_again_alone(self, long: Built) -> None:
        # 3 follows what is replayed in turn, while 6 and 8 run beside it.
        log = Log(long)
        begun, failed = threading.Event(), []

        def fail(job: ReplayJob) -> None:
            if job.first_step > 4:
                begun.set()
            elif job.first_step == 4 and not failed:
                assert begun.wait(30)
                failed.append(job)
                raise ReplayFailed("it was ended")

        log.options["on_replay"] = fail
        found = opened(long, [3, 6, 8], log)
        assert passed(found)
        assert len(failed) == 1
        assert seen_by(log)[0] == [4, 4, 16, 24]

    def test_data_are_opened_again_alone(self, long: Built) -> None:
        failed: list[int] = []

        def fail(engine: Asked, opened: OpenedBatch) -> OpenedBatch:
            if engine is log.started[0] and opened.step == 18 and not failed:
                failed.append(opened.step)
                raise ReplayFailed("it was ended")
            return opened

        log = Opening(long, fail)
        found = opened(long, [4, 6, 8], log)
        assert passed(found)
        assert found.data.findings == []
        assert failed == [18]
        # What was opened is not asked for again.
        assert log.started[0].asked[8:14] == [16, 17, 18, 18, 19, 24]

    @pytest.mark.parametrize("error", [OSError(12, "no memory"), MemoryError()])
    @pytest.mark.parametrize("crowded", ["before", "now"])
    def test_what_counts_is_what_ran_at_either_end(self, long: Built, error: Exception, crowded: str) -> None:
        log = Log(long)
        found = session(long, log)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 6)])

        def change(job: ReplayJob) -> None:
            if job.first_step or log.started[0].seen != [0]:
                return
            if crowded == "before":
                running.end()
            else:
                running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
            raise error

        log.options["on_replay"] = change
        found.origin()
        if crowded == "before":
            running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        assert found.open(0).exact
        assert log.started[0].seen == [0, 0]
        assert not running.alive
        found.close()

    def test_where_nothing_ran_beside_nothing_is_tried_again(
        self, long: Built, cores: Callable[[int], None]
    ) -> None:
        cores(1)
        log = Log(long)
        failed = []

        def fail(job: ReplayJob) -> None:
            if job.first_step == 8 and not failed:
                failed.append(job)
                raise ReplayFailed("it was ended")

        log.options["on_replay"] = fail
        found = opened(long, [4, 6], log)
        assert [found.results[number].outcome for number in (4, 6)] == ["unverifiable", "pass"]


class TestEnding:
    def test_what_is_under_way_is_ended(self, long: Built) -> None:
        begun, ended = threading.Event(), threading.Event()

        def hang(job: ReplayJob) -> None:
            if job.first_step > 4:
                begun.set()
                # As a process that is killed: its replay fails.
                assert ended.wait(30)
                raise ReplayFailed("the process ended")

        class Slow(Log):
            def __call__(self, environment: Environment) -> Any:
                return _Noted(super().__call__(environment), ended)

        found = session(long, Slow(long, on_replay=hang))
        found.origin()
        found.expect([0, 1, 4, 6, 8, 10, 12, 14, 16])
        found.open(0)
        found.open(1)
        intervals = found.task.lineage.intervals
        found._go_beside(intervals[1])
        assert begun.wait(30)
        # Three run, and others wait for a process: one that was taken, and one that was not.
        queued, left = found._beside.take(10), found._beside._under_way[12]
        assert queued is not None
        found.close()
        assert queued.cancelled()
        assert left.cancelled()
        found.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("beside")]
        assert not found._beside.alive

    def test_what_cannot_be_removed_keeps_nothing_alive(self, long: Built) -> None:
        class Full(Log):
            def __call__(self, environment: Environment) -> Any:
                return _Kept(super().__call__(environment))

        found = session(long, Full(long))
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4)])
        running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        begun = running.take(4)
        assert begun is not None
        begun.result(30)
        running.stop()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("beside")]
        assert not running.alive

    def test_no_process_is_started_while_they_are_ended(self, long: Built) -> None:
        log = Log(long)
        found = session(long, log)
        found._beside._ended = True
        with pytest.raises(NotOpened, match="was ended"):
            found._beside._start(found.task.lineage.intervals[4])
        assert not log.started
        found.close()

    def test_with_one_at_a_time_nothing_begins(self, long: Built) -> None:
        found = session(long)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4)])
        running.follow(intervals[1], Room(count=1, held=9), pace=1.0)
        assert not running._under_way
        found.close()

    def test_processes_that_are_there_take_what_is_not_worth_a_start(
        self, long: Built, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beside, "WORTH", 10.0)
        found = session(long)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4, 6, 8, 10, 12, 14)])
        running.follow(intervals[1], Room(count=2, held=99), pace=19.9 / 24)
        assert not running.alive
        running.follow(intervals[1], Room(count=2, held=2), pace=20.0 / 24)
        assert sorted(running._under_way) == [4, 6]
        running.follow(intervals[6], Room(count=2, held=2), pace=0.1)
        assert sorted(running._under_way) == [8, 10]
        found.close()

    def test_what_was_stopped_begins_no_more(self, long: Built) -> None:
        found = session(long)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4)])
        running.stop()
        running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        assert not running.alive
        found.close()

    def test_what_was_ended_may_begin_again(self, long: Built) -> None:
        found = session(long)
        running, intervals = found._beside, found.task.lineage.intervals
        running.expect([intervals[number] for number in (1, 4)])
        running.end()
        running.follow(intervals[1], Room(count=2, held=9), pace=1.0)
        assert running.alive
        begun = running.take(4)
        assert begun is not None
        assert begun.result().state.root == intervals[4].end.root
        found.close()


class _Noted:
    """An engine whose end is noted."""

    def __init__(self, inner: Any, ended: threading.Event) -> None:
        self.inner, self.ended = inner, ended

    def __enter__(self) -> NumpyReplayer:
        found: NumpyReplayer = self.inner.__enter__()
        return found

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.inner.__exit__(*error)


class _Kept(_Noted):
    """An engine whose directory cannot be removed."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, threading.Event())

    def __exit__(self, *error: object) -> None:
        raise OSError(39, "Directory not empty")


def bent(step: int, state: Weights) -> None:
    """A step that nothing explains, in an interval in the middle."""
    if step == 41:
        state.w[0, 0] += 1


FAR = {**CONFIG, "steps": 240}
"""Sixty-two intervals."""

SAME: dict[str, Any] = {
    "honest": {},
    "stored every fourth": {"spec": {"keep": 4}},
    "custom": {"spec": {"kind": "custom"}},
    "bent": {"hooks": Hooks(after_step=bent)},
    "bent, stored every fourth": {"spec": {"keep": 4}, "hooks": Hooks(after_step=bent)},
    "other examples": {
        "hooks": Hooks(indices=lambda step, indices: [*indices[:-1], 19] if step > 40 else indices)
    },
    "another machine": {"options": {"actual": OTHER_MACHINE}, "alone": True},
    "no replay": {"options": {"fail": "replay"}, "alone": True},
    "no data": {"options": {"fail": "open"}, "alone": True},
    "nonsense": {"options": {"fail": "nonsense"}, "alone": True},
    "steps are missing": {"options": {"fail": "short"}, "alone": True},
    "other values": {"options": {"wrong_values": True}, "alone": True},
    "other data": {"options": {"data": Spec(config=FAR, labels=1)}, "alone": True},
    "damaged": {"damaged": 30},
    "no secret": {"forgotten": True, "alone": True},
}


def without_times(report: Report) -> dict[str, Any]:
    """All of a report but how long it took."""
    value = report.to_json()
    value.pop("timing")
    value["time"].pop("pace", None)
    return value


@pytest.mark.parametrize("case", list(SAME))
def test_a_report_is_the_same(tmp_path: Path, cores: Callable[[int], None], case: str) -> None:
    value = SAME[case]
    built = make_run(tmp_path / "run", Spec(config=FAR, **value.get("spec", {})), hooks=value.get("hooks"))
    if "damaged" in value:
        path = built.run.objects.path(session(built).task.lineage.intervals[value["damaged"]].start.root)
        path.write_bytes(path.read_bytes()[:-1])
    if "forgotten" in value:
        (built.run.path / "private" / "secret").unlink()
    reports = []
    for count in (1, 4):
        cores(count)
        log = Log(built, **value.get("options", {}))
        ticks = iter(range(1_000_000))
        report = check(
            built,
            code=lambda genesis, log=log: Code(summary={}, engines=log, inputs_declared=False),
            clock=lambda ticks=ticks: float(next(ticks)),
            sample=SampleRequest(count=12),
        )
        reports.append(without_times(report))
        # In turn there is one, and one for what runs again; beside there is one more at least, and one that opens data.
        assert (len(log.started) > 2) == (count > 1 and not value.get("alone"))
    assert reports[0] == reports[1]


def test_a_proof_gets_the_same_report(tmp_path: Path, cores: Callable[[int], None]) -> None:
    built = make_run(tmp_path / "run", Spec(config=FAR))
    challenge = challenge_of(built, count=10)
    path = prove(built, challenge, tmp_path / "proof")
    reports = []
    for count in (1, 4):
        cores(count)
        log = Log(built)
        code = Code(summary={}, engines=log, inputs_declared=False)
        report = check_proof(built, path, challenge, code=lambda genesis, code=code: code)
        reports.append(without_times(report))
        assert (len(log.started) > 2) == (count > 1)
    assert reports[0] == reports[1]
