"""The replay session: order, fresh processes, budgets, tolerance judging."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.opened import IntervalResult
from polledger.core.records import Environment, Genesis, StateObject
from polledger.core.replay import ReplayJob
from polledger.core.report import Report
from polledger.core.sampling import draw, sample_seed
from polledger.errors import EnvironmentMismatch
from polledger.verify.evidence import read_evidence
from polledger.verify.judging import Judge
from polledger.verify.lineage import build_lineage
from polledger.verify.opening import with_sources
from polledger.verify.openings import RunOpenings
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.replaying import ReplaySession
from polledger.verify.replaytask import ReplayTask
from polledger.verify.sampling import SampleRequest
from polledger.verify.states import hash_state
from polledger.verify.structure import step_structure
from polledger.verify.verifier import verify
from tests.verify.build import (
    CONFIG,
    OTHER_MACHINE,
    Built,
    Hooks,
    NumpyReplayer,
    Spec,
    Weights,
    make_run,
    unflatten,
)
from tests.verify.check import Silent, blocking, check, named, request

ELSEWHERE = msgspec.structs.replace(OTHER_MACHINE, device="Some GPU")


class Log:
    """Engines that remember who was started and what each was given."""

    kind: type[NumpyReplayer] = NumpyReplayer

    def __init__(self, built: Built, **options: Any) -> None:
        self.built, self.options = built, options
        self.started: list[NumpyReplayer] = []
        self.ended = 0

    @contextmanager
    def __call__(self, environment: Environment) -> Iterator[NumpyReplayer]:
        replayer = self.kind(spec=self.built.spec, environment=environment, **self.options)
        self.started.append(replayer)
        yield replayer
        self.ended += 1


def session(built: Built, engines: Any = None, policy: Policy | None = None, **changes: Any) -> ReplaySession:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    lineage = build_lineage(genesis, built.records)
    values: dict[str, Any] = {
        "lineage": lineage,
        "values": step_structure(lineage, policy=Policy(), whole=True).values,
        "objects": built.run.objects,
        "openings": RunOpenings(secret=built.run.secret(), objects=built.run.objects),
        "policy": policy or Policy(),
        "engines": engines or Log(built),
        "inputs_declared": False,
        "packages": (),
        "own": True,
        "data_here": True,
        "ends_read": True,
        "compact": False,
        "seed": b"s" * 32,
        "clock": time.monotonic,
    }
    return ReplaySession(ReplayTask(**{**values, **changes}))


def test_equal_bits_need_one_engine(honest: Built) -> None:
    log = Log(honest)
    found = session(honest, log)
    assert found.origin()[0].outcome == "pass"
    results = [found.open(number) for number in range(5)]
    assert all(result.exact and result.outcome == "pass" for result in results)
    assert len(log.started) == 1
    assert log.started[0].seen == [0, 1, 2, 4, 8]
    found.close()
    assert log.ended == 1
    assert found.checked == set(range(5))


def test_what_differs_is_replayed_again_in_a_second_engine_in_ascending_order(honest: Built) -> None:
    # NumpyReplayer itself refuses an earlier interval after a later one.
    log = Log(honest, actual=OTHER_MACHINE)
    found = session(honest, log)
    results = [found.open(number) for number in (0, 2, 4)]
    assert [result.outcome for result in results] == ["pass"] * 3
    assert len(log.started) == 2
    first, second = log.started
    assert first.seen == [0, 2, 8]
    # Off class nothing is confirmed: four perturbed replays and one variant each.
    assert second.seen == [0] * 5 + [2] * 5 + [8] * 5


def test_an_interval_is_replayed_once(honest: Built) -> None:
    log = Log(honest)
    found = session(honest, log)
    assert found.open(1) is found.open(1)
    assert log.started[0].seen == [1]


def test_a_changed_environment_starts_fresh_engines(honest: Built) -> None:
    log = Log(honest)
    found = session(honest, log)
    intervals = list(found.task.lineage.intervals)
    intervals[3] = replace(intervals[3], environment=OTHER_MACHINE)
    changed = replace(found.task.lineage, intervals=tuple(intervals))
    found = session(honest, log, lineage=changed)
    for number in range(5):
        found.open(number)
    assert [replayer.environment.threads for replayer in log.started] == [1, 2, 2, 1]
    assert found.results[4].exact
    found.close()
    assert log.ended == len(log.started)


def test_a_package_of_another_version_is_another_class(tmp_path: Path) -> None:
    def bend(step: int, state: Weights) -> None:
        if step == 9:
            state.w = (state.w + np.float32(1e-6)).astype(np.float32)

    built = make_run(tmp_path / "run", hooks=Hooks(after_step=bend))
    number = next(item.number for item in session(built).task.lineage.intervals if item.end.step > 9)
    assert session(built).open(number).outcome == "fail"
    elsewhere = session(built, packages=("package pillow",)).open(number)
    assert elsewhere.outcome != "fail"
    assert "differs in package pillow" in elsewhere.why


def with_another_mask(directory: Path) -> Built:
    """A run in which step 9 took a way of its own, as dropout does on hardware that draws other numbers."""

    def bend(step: int, state: Weights) -> None:
        if step == 9:
            state.w = (state.w + np.float32(1)).astype(np.float32)

    return make_run(directory / "run", hooks=Hooks(after_step=bend))


@pytest.mark.parametrize(
    ("drew", "own", "machine", "outcome", "replays"),
    [
        (False, True, ELSEWHERE, "fail", 5),
        (True, True, OTHER_MACHINE, "fail", 5),
        (True, True, ELSEWHERE, "unverifiable", 0),
        (False, False, ELSEWHERE, "unverifiable", 0),
        (False, False, OTHER_MACHINE, "fail", 10),
    ],
    ids=["no draws", "the same numbers", "others", "generators that show nowhere", "of the same numbers"],
)
def test_other_random_numbers_refute_nobody(
    tmp_path: Path, drew: bool, own: bool, machine: Environment, outcome: str, replays: int
) -> None:
    built = with_another_mask(tmp_path)
    found = session(built, Log(built, actual=machine, drew=drew), own=own)
    number = next(item.number for item in found.task.lineage.intervals if item.end.step > 9)
    result = found.open(number)
    assert result.outcome == outcome
    assert found.judge.noise_replays == replays
    assert ("this machine draws others" in result.why) == (outcome == "unverifiable")


def bent(directory: Path, size: float, *, kind: str = "recipe", slots: bool = True) -> tuple[Built, int]:
    """A run whose weights go ``size`` further at step 9; the interval that holds it. ``slots``: it keeps momentum."""

    def bend(step: int, state: Weights) -> None:
        if step == 9:
            state.w = (state.w + np.float32(size)).astype(np.float32)

        if step >= 9 and not slots:
            state.momentum = None

    built = make_run(directory / f"run-{kind}-{size}", Spec(kind=kind), hooks=Hooks(after_step=bend))
    intervals = session(built).task.lineage.intervals
    return built, next(item.number for item in intervals if item.end.step > 9)


@pytest.mark.parametrize("kind", ["recipe", "custom"])
def test_elsewhere_a_failure_of_code_that_may_round_coarsely_needs_a_coarse_floor(
    tmp_path: Path, kind: str
) -> None:
    policy = parse_policy("[comparison]\nrho = 0.02")
    built, number = bent(tmp_path, 0.004, kind=kind)
    own = session(built, Log(built, actual=OTHER_MACHINE), policy).open(number)
    assert own.outcome == "fail"
    found = session(built, Log(built, actual=OTHER_MACHINE), policy, own=False)
    brought = found.open(number)
    assert brought.outcome == "unverifiable"
    assert "bfloat16" in brought.why
    assert found.judge.noise_replays == 10
    flags = {**OTHER_MACHINE.flags, "env_onednn_default_fpmath_mode": "BF16"}
    switched = msgspec.structs.replace(OTHER_MACHINE, flags=flags)
    assert session(built, Log(built, actual=switched), policy).open(number).outcome == "unverifiable"
    # On the recorded class it changes nothing, and neither where no rounding explains the error.
    assert session(built, policy=policy, own=False).open(number).outcome == "fail"
    far, number = bent(tmp_path, 1.0, kind=kind)
    assert session(far, Log(far, actual=OTHER_MACHINE), own=False).open(number).outcome == "fail"


def test_without_a_budget_for_the_coarse_floor_code_elsewhere_is_not_refuted(tmp_path: Path) -> None:
    built, number = bent(tmp_path, 50.0)
    ticks = iter(range(0, 1_000_000, 10))
    # By this clock a replay of 4 steps takes 10 s, so that 5 are predicted at 50, and were measured to take 10.
    policy = parse_policy("[comparison]\nnoise_seconds = 55")
    found = session(
        built, Log(built, actual=OTHER_MACHINE), policy, own=False, clock=lambda: float(next(ticks))
    )
    result = found.open(number)
    assert found.judge.noise_replays == 5
    assert (result.outcome, "coarser formats was not measured" in result.why) == ("unverifiable", True)


def test_what_passes_elsewhere_asks_for_no_coarse_floor(honest: Built) -> None:
    found = session(honest, Log(honest, actual=OTHER_MACHINE), own=False)
    assert found.open(2).outcome == "pass"
    assert found.judge.noise_replays == 5


def test_another_version_of_a_package_refutes_nobody(tmp_path: Path) -> None:
    built, number = bent(tmp_path, 50.0)
    result = session(built, packages=("package timm",)).open(number)
    assert (result.outcome, "another version of the package timm" in result.why) == ("unverifiable", True)
    assert session(built).open(number).outcome == "fail"


def described(built: Built, **kinds: str) -> Built:
    """``built`` where genesis calls the objects named in ``kinds`` something else."""
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    objects = [
        StateObject(name=item.name, kind="other") if item.name in kinds else item for item in genesis.objects
    ]
    return replace(built, records=[msgspec.structs.replace(genesis, objects=objects), *built.records[1:]])


def test_elsewhere_a_scaler_that_counted_otherwise_refutes_nobody(tmp_path: Path) -> None:
    # A step that overflowed on one machine only: the scaler left it out there, and all that follows differs.
    for kind, changed, outcome in (
        ("recipe", "none", "fail"),
        ("recipe", "optimizer", "unverifiable"),
        # Of a custom task floats may round otherwise; its counters are structure.
        ("custom", "optimizer", "fail"),
        ("custom, without slots", "none", "fail"),
        ("custom, without slots", "optimizer", "unverifiable"),
    ):
        name, _, without = kind.partition(", ")
        built, number = bent(tmp_path / kind / changed, 50.0, kind=name, slots=not without)
        found = session(described(built, **{changed: "other"}), Log(built, actual=OTHER_MACHINE))
        result = found.open(number)
        assert result.outcome == outcome, (kind, changed)
        told = any("counted otherwise" in group.why for group in result.groups)
        assert told == (outcome == "unverifiable")


def test_a_small_error_passes_whatever_was_drawn(honest: Built) -> None:
    found = session(honest, Log(honest, actual=ELSEWHERE, drew=True))
    assert found.open(2).outcome == "pass"


def test_noise_seconds_bound_what_is_measured(honest: Built) -> None:
    policy = parse_policy("[comparison]\nnoise_seconds = 0")
    report = check(honest, policy=policy, code=honest.code(actual=OTHER_MACHINE))
    assert report.verdict == "UNVERIFIABLE"
    assert all("noise_seconds" in item.why for item in report.intervals)
    assert report.timing["noise_replays"] == 0


def test_the_noise_budget_goes_as_far_as_replays_predict(honest: Built) -> None:
    # By this clock every replay takes 10 s, so that 5 replays of the first intervals, a step each, are predicted at 50.
    ticks = iter(range(0, 1_000_000, 10))
    policy = parse_policy("[comparison]\nnoise_seconds = 70")
    found = session(honest, Log(honest, actual=OTHER_MACHINE), policy, clock=lambda: float(next(ticks)))
    results = [found.open(number) for number in range(5)]
    found.close()
    measured = ["noise_seconds" not in result.why for result in results]
    assert measured == [True, True, False, False, False]
    assert found.judge.noise_seconds == 20
    assert found.judge.noise_replays == 10


def test_what_differs_reports_distances_that_judge_nothing(honest: Built) -> None:
    found = session(honest, Log(honest, actual=OTHER_MACHINE))
    result = found.open(3)
    measures = {item.measure.name: item.measure for item in result.groups}
    differing = {name for name, measure in measures.items() if not measure.exact}
    assert set(result.distances) == differing
    parameters = result.distances["model/parameters"]
    assert parameters.l2 == pytest.approx(measures["model/parameters"].e, rel=1e-9)
    assert parameters.worst in ("model/w", "model/b")
    assert parameters.reference is not None
    assert result.normalised == pytest.approx(parameters.l2 / parameters.reference)
    assert session(honest).open(3).distances == {}


def test_an_unreadable_last_state_only_costs_the_reference_distance(honest: Built, tmp_path: Path) -> None:
    found = session(honest, Log(honest, actual=OTHER_MACHINE))
    found.judge.final = lambda: None
    result = found.open(3)
    assert result.distances["model/parameters"].reference is None
    assert result.normalised is None


def test_replicas_come_from_the_policy(honest: Built) -> None:
    log = Log(honest, actual=OTHER_MACHINE)
    found = session(honest, log, parse_policy("[comparison]\nreplicas = 6"))
    found.open(0)
    assert len(log.started[1].seen) == 7
    assert found.judge.noise_replays == 7


def test_a_machine_that_cannot_replay_is_unverifiable(honest: Built) -> None:
    def refuse(environment: Environment) -> Any:
        raise EnvironmentMismatch("no such device here")

    found = session(honest, refuse)
    assert found.origin()[0].outcome == "unverifiable"
    result = found.open(0)
    assert (result.outcome, "no such device" in result.why) == ("unverifiable", True)


def test_residuals_that_lean_towards_the_final_model_block(honest: Built, monkeypatch: Any) -> None:
    monkeypatch.setattr(Judge, "_keep_lean", lean)
    report = check(honest, code=honest.code(actual=OTHER_MACHINE))
    assert report.verdict == "UNVERIFIABLE"
    assert [(finding.step, finding.name) for finding in blocking(report)] == [(9, "drift"), (9, "replay")]


def lean(judge: Judge, item: Any, recorded: Any, noise: Any) -> None:
    judge._recorded_leans.append(0.99)
    judge._own_leans.append(noise.leans)


def test_a_run_bent_a_little_in_every_interval_leans(honest: Built, tmp_path: Path) -> None:
    # Every step pulls the weights towards the end of an honest run, by less than a wide tolerance allows for.
    end = unflatten(hash_state(honest.states[12]).flat).w

    def pull(step: int, state: Weights) -> None:
        direction = end - state.w
        state.w = (state.w + direction / np.linalg.norm(direction) * np.float32(2e-6)).astype(np.float32)

    built = make_run(tmp_path / "run", hooks=Hooks(after_step=pull))
    policy = parse_policy("[comparison]\nmargin = 60")
    report = check(built, policy=policy, code=built.code(actual=OTHER_MACHINE))
    assert [item.outcome for item in report.intervals] == ["pass"] * 5
    assert report.verdict == "UNVERIFIABLE"
    assert [finding.outcome for finding in named(report, "drift")] == ["unverifiable"]
    straight = check(honest, policy=policy, code=honest.code(actual=OTHER_MACHINE))
    assert [finding.outcome for finding in named(straight, "drift")] == ["pass"]


def test_bitwise_groups_report_their_displacement(honest: Built) -> None:
    result = session(honest).open(2)
    assert {judged.measure.name for judged in result.groups} == {
        "model/parameters",
        "model/buffers",
        "optimizer/momentum_buffer",
        "optimizer/scalars",
    }
    assert all(judged.measure.u > 0 and judged.measure.e == 0 for judged in result.groups)


@pytest.mark.parametrize("step", [4, 12])
def test_the_stored_end_of_an_equal_interval_is_looked_at(tmp_path: Path, step: int) -> None:
    built = make_run(tmp_path / "run")
    found = session(built)
    interval = next(item for item in found.task.lineage.intervals if item.end.step == step)
    path = built.run.objects.path(interval.end.root)
    path.write_bytes(path.read_bytes()[:-1])
    assert found.open(interval.number).exact
    assert [finding.outcome for finding in found.data.findings] == ["unverifiable"]
    assert interval.end.root.hex() in found.data.findings[0].detail


def test_all_between_the_same_stored_checkpoints_is_opened(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    intervals = session(built).task.lineage.intervals
    stored = [item.start.step for item in intervals if item.start.stored]
    assert stored == [0, 1, 2, 12]
    starts = {item.start.step: item.number for item in intervals}
    assert with_sources({starts[8]}, intervals) == (starts[2], starts[4], starts[8])
    # A bogus last interval of three is met whichever of them is drawn.
    assert with_sources({starts[2]}, intervals) == (starts[2], starts[4], starts[8])
    assert with_sources({starts[1]}, intervals) == (starts[1],)
    assert with_sources({starts[0], starts[12]}, intervals) == (0, starts[12], starts[16], starts[20])


def test_a_start_that_cannot_be_rederived_is_unverifiable(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    found = session(built)
    number = next(item.number for item in found.task.lineage.intervals if item.start.step == 8)
    result: IntervalResult = found.open(number)
    assert (result.outcome, "not stored" in result.why) == ("unverifiable", True)


def test_default_sample_is_capped_by_what_the_first_intervals_cost(honest: Built) -> None:
    ticks = iter(range(0, 1_000_000, 50))
    policy = Policy()
    watcher = Silent()
    report = verify(
        read_evidence(honest.run),
        request(policy=policy, sample=SampleRequest()),
        load_code=honest.code(),
        clock=lambda: float(next(ticks)),
        watcher=watcher,
    )
    # 50 s a step: the first, second and last interval alone take the 300 s; more is drawn only where it is these.
    assert report.sample is not None
    drawn = drawn_of(report)
    assert len(drawn) == 1 or drawn <= {0, 1, 4}
    assert report.sample.drawn < report.sample.total
    assert {0, 1, 4} <= set(report.sample.intervals)
    assert watcher.intervals == list(report.sample.intervals)
    assert any("about" in note for note in watcher.notes)
    assert report.verdict == "VERIFIED"


def drawn_of(report: Report) -> set[int]:
    """The intervals that were drawn, without what was added to them."""
    assert report.sample is not None
    assert report.head is not None
    head, policy = bytes.fromhex(report.head["digest"]), bytes.fromhex(report.policy)
    seed = sample_seed(nonce=report.sample.nonce, head=head, policy=policy)
    return set(draw(seed, total=report.sample.total, count=report.sample.drawn))


def test_what_was_not_stored_counts_against_the_budget(tmp_path: Path) -> None:
    config = {**CONFIG, "steps": 96}
    drawn = {}
    for keep in (1, 8):
        built = make_run(tmp_path / f"keep-{keep}", Spec(keep=keep, config=config))
        ticks = iter(range(0, 1_000_000, 5))
        report = verify(
            read_evidence(built.run),
            request(policy=parse_policy("[sample]\nseconds = 200"), sample=SampleRequest()),
            load_code=built.code(),
            clock=lambda ticks=ticks: float(next(ticks)),
            watcher=Silent(),
        )
        assert report.sample is not None
        drawn[keep] = report.sample.drawn
        # 5 s a step and 4 steps an interval; one drawn interval is always opened, and so is what screening adds.
        assert drawn[keep] <= 12
    assert drawn[1] > drawn[8]


def test_genesis_objects_missing_from_the_state_do_not_crash(honest: Built) -> None:
    genesis = msgspec.structs.replace(honest.records[0], objects=[])
    built = replace(honest, records=[genesis, *honest.records[1:]])
    result = session(built, Log(honest)).open(0)
    assert (result.outcome, result.groups) == ("pass", ())
    elsewhere = session(built, Log(honest, actual=OTHER_MACHINE)).open(0)
    assert elsewhere.outcome == "unverifiable"


def test_the_next_start_is_read_while_an_interval_replays(honest: Built) -> None:
    read = threading.Event()
    found = session(honest, Log(honest, on_replay=lambda job: read.wait(30)))
    original = found._prefetch._reader._objects

    class Noticing:
        def read_state(self, root: bytes, **options: Any) -> Any:
            if root == found.task.lineage.intervals[4].start.root:
                read.set()
            return original.read_state(root, **options)

    found._prefetch._reader._objects = Noticing()  # type: ignore[assignment]
    found.expect([2, 4])
    assert found.open(2).exact
    assert read.is_set()
    assert found.open(4).exact
    found.close()


def test_a_start_that_is_damaged_is_the_same_finding_when_it_was_read_ahead(tmp_path: Path) -> None:
    details = []
    for ahead in (False, True):
        built = make_run(tmp_path / f"run-{ahead}")
        found = session(built)
        path = built.run.objects.path(found.task.lineage.intervals[4].start.root)
        path.write_bytes(path.read_bytes()[:-1])
        if ahead:
            found.expect([2, 4])
        results = [found.open(number) for number in (2, 4)]
        assert [result.outcome for result in results] == ["pass", "unverifiable"]
        details.append([(item.outcome, item.interval, item.remedy) for item in found.data.findings])
        found.close()
    assert details[0] == details[1] != []


def test_a_start_that_is_the_end_before_is_not_read_again(honest: Built) -> None:
    found = session(honest)
    found.expect([2, 3])
    found.open(2)
    assert found._prefetch._ahead is None
    found.close()


@pytest.mark.parametrize("ends_read", [False, True])
def test_an_end_is_hashed_where_step_5_does_not_read_it(tmp_path: Path, ends_read: bool) -> None:
    built = make_run(tmp_path / "run")
    found = session(built, ends_read=ends_read)
    path = built.run.objects.path(found.task.lineage.intervals[2].end.root)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert found.open(2).exact
    assert [item.interval for item in found.data.findings] == ([] if ends_read else [2])
    path.write_bytes(data[:-1])
    found = session(built, ends_read=ends_read)
    assert found.open(2).exact
    assert [item.interval for item in found.data.findings] == [2]
    found.close()


def report_of(
    built: Built, monkeypatch: pytest.MonkeyPatch, *, ahead: bool, **options: Any
) -> dict[str, Any]:
    """The report without its timing; ``ahead``: the next interval is opened while one replays."""
    with monkeypatch.context() as patch:
        if not ahead:
            patch.setattr(ReplaySession, "expect", lambda self, numbers: None)
        value = check(built, code=built.code(**options), clock=lambda: 0.0).to_json()
    value.pop("timing")
    return value


@pytest.mark.parametrize(
    "options", [{}, {"actual": OTHER_MACHINE}, {"fail": "replay"}, {"wrong_values": True}]
)
def test_a_report_is_the_same_whether_or_not_intervals_are_opened_ahead(
    honest: Built, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    first, second = (report_of(honest, monkeypatch, ahead=ahead, **options) for ahead in (False, True))
    assert first == second
    assert len(first["intervals"]) == 5


def test_the_next_interval_replays_while_the_rest_of_an_equal_one_is_measured(honest: Built) -> None:
    begun: list[int] = []
    second = threading.Event()

    def note(job: ReplayJob) -> None:
        begun.append(job.first_step)
        if len(begun) == 2:
            second.set()

    found = session(honest, Log(honest, on_replay=note))
    found.origin()
    measure = found.judge.equal
    found.judge = _Waiting(lambda item: second.wait(30) and measure(item))  # type: ignore[assignment]
    found.expect([2, 4])
    assert [found.open(number).outcome for number in (2, 4)] == ["pass", "pass"]
    found.close()
    assert begun == [2, 8]


class _Waiting:
    def __init__(self, equal: Callable[[Any], Any]) -> None:
        self.equal = equal


def test_where_bits_differ_no_process_gets_a_later_state_before_all_is_judged(honest: Built) -> None:
    begun: list[int] = []
    log = Log(honest, actual=OTHER_MACHINE, on_replay=lambda job: begun.append(job.first_step))
    found = session(honest, log)
    found.origin()
    found.expect([2, 4])
    found.open(2)
    assert set(begun) == {2}
    found.open(4)
    assert begun == sorted(begun)
    found.close()
