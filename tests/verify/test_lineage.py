"""Step 4, lineage: what the final lineage is, and every way in which records can contradict genesis."""

from typing import Any

import msgspec
import pytest

from polledger.core.digest import ZERO
from polledger.core.records import AnyRecord, Checkpoint, Environment, Final, Genesis, Resume, Step, Unshown
from polledger.verify.lineage import Lineage, build_lineage, checkpoint_steps, is_checkpoint_step
from tests.verify.build import ENVIRONMENT, OTHER_MACHINE, RUN, Spec, genesis_of

SPEC = Spec(every=4, warm=2, config={**Spec().config, "steps": 10})
GENESIS = genesis_of(SPEC, msgspec.UNSET)


def numbered(records: list[AnyRecord]) -> list[AnyRecord]:
    return [msgspec.structs.replace(record, index=i) for i, record in enumerate(records)]


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(v=1, run=RUN, index=0, step=step, root=bytes([step]) * 32, stored=True)


def step(number: int) -> Step:
    return Step(v=1, run=RUN, index=0, step=number, batch=b"\x01" * 32)


def straight() -> list[AnyRecord]:
    """Checkpoints after 0, 1, 2, 4, 8 and 10 steps: records 1, 3, 5, 8, 13, 16."""
    records: list[AnyRecord] = [GENESIS]
    for number in range(11):
        if is_checkpoint_step(GENESIS, number):
            records.append(checkpoint(number))
        if number < 10:
            records.append(step(number))
    records.append(final(len(records) - 1))
    return numbered(records)


def final(at: int, *, steps: int = 10) -> Final:
    return Final(v=1, run=RUN, index=0, checkpoint=at, object="model", model_root=bytes(32), steps=steps)


def resume(
    source: int, first: int | None, last: int | None, environment: Environment = ENVIRONMENT
) -> Resume:
    ends: dict[str, Any] = {} if first is None else {"first": first, "last": last}
    return Resume(v=1, run=RUN, index=0, environment=environment, source=source, reason="r", **ends)


def build(records: list[AnyRecord]) -> Lineage:
    numbers = numbered(records)
    genesis = numbers[0]
    assert isinstance(genesis, Genesis)
    return build_lineage(genesis, numbers)


def details(lineage: Lineage) -> str:
    return " | ".join(finding.detail for finding in lineage.findings)


def without(index: int) -> list[AnyRecord]:
    records = straight()
    del records[index]
    # Keep final consistent with the shifted checkpoint, so that only the gap is wrong.
    last = records[-1]
    assert isinstance(last, Final)
    records[-1] = msgspec.structs.replace(last, checkpoint=last.checkpoint - 1)
    return records


def test_checkpoints_belong_after_0_each_warm_step_multiples_of_k_and_the_end() -> None:
    wanted = [number for number in range(11) if is_checkpoint_step(GENESIS, number)]
    assert wanted == [0, 1, 2, 4, 8, 10]


def test_a_straight_run_has_its_intervals_and_nothing_wrong() -> None:
    lineage = build(straight())
    assert lineage.findings == ()
    assert lineage.complete
    spans = [(item.start.step, item.end.step) for item in lineage.intervals]
    assert spans == [(0, 1), (1, 2), (2, 4), (4, 8), (8, 10)]
    assert lineage.intervals[3].records == (8, 9, 10, 11, 12, 13)


def test_a_dropped_step_is_a_contradiction() -> None:
    assert "not contiguous" in details(build(without(10)))


def test_a_repeated_step_is_a_contradiction() -> None:
    records = straight()
    records.insert(10, step(5))
    assert "not contiguous" in details(build(records))


def test_a_missing_checkpoint_is_a_contradiction() -> None:
    lineage = build(without(8))
    assert "checkpoint after step 4 is missing" in details(lineage)
    assert all(finding.outcome == "fail" for finding in lineage.findings)


def test_the_missing_last_checkpoint_is_a_contradiction() -> None:
    records = straight()
    del records[16]
    records[-1] = final(13)
    assert "number of steps" in details(build(records))


def test_a_checkpoint_where_genesis_has_none_is_a_contradiction() -> None:
    records = straight()
    records.insert(11, checkpoint(6))
    assert "where genesis has none" in details(build(records))


def test_a_checkpoint_that_claims_another_step_is_a_contradiction() -> None:
    records = straight()
    records[8] = checkpoint(8)
    assert "does not follow its step" in details(build(records))


def test_a_second_checkpoint_of_one_step_is_a_contradiction() -> None:
    records = straight()
    records.insert(9, checkpoint(4))
    assert "no contiguous steps" in details(build(records))


def test_a_step_before_the_first_checkpoint_is_a_contradiction() -> None:
    records = straight()
    del records[1]
    assert "before the checkpoint of step 0" in details(build(records))


def test_steps_beyond_genesis_are_a_contradiction() -> None:
    records = straight()
    records[-1:] = [step(10), checkpoint(11)]
    assert "beyond the 10 of genesis" in details(build(records))


def test_a_record_after_final_is_a_contradiction() -> None:
    records = [*straight(), step(10)]
    assert "follows the final one" in details(build(records))


def test_final_must_name_the_last_checkpoint() -> None:
    records = straight()
    records[-1] = final(13)
    assert "last checkpoint" in details(build(records))


def test_final_must_count_the_steps_of_genesis() -> None:
    records = straight()
    records[-1] = final(16, steps=9)
    assert "number of steps" in details(build(records))


def test_final_before_the_last_step_is_a_contradiction() -> None:
    records = straight()
    records[14:] = [final(13, steps=8)]
    assert "number of steps" in details(build(records))


def test_a_run_cut_short_has_nothing_wrong_and_is_not_complete() -> None:
    lineage = build(straight()[:12])
    assert lineage.findings == ()
    assert not lineage.complete
    assert len(lineage.intervals) == 3
    assert build(straight()[:1]).findings == ()


def interrupted(
    source: int = 8, first: int | None = 9, last: int | None = 10, *, environment: Environment = ENVIRONMENT
) -> list[AnyRecord]:
    """Stopped after two steps beyond the checkpoint of step 4, resumed there."""
    records = straight()
    return [
        *records[:11],
        resume(source, first, last, environment),
        *records[9:17],
        final(len(records) + 1),
    ]


def test_an_abandoned_stretch_drops_out_of_the_lineage() -> None:
    lineage = build(interrupted())
    assert details(lineage) == ""
    assert lineage.complete
    assert lineage.abandoned == 2
    assert [(item.start.step, item.end.step) for item in lineage.intervals][-2:] == [(4, 8), (8, 10)]


def test_intervals_after_a_resume_belong_to_its_environment() -> None:
    lineage = build(interrupted(environment=OTHER_MACHINE))
    environments = [item.environment.threads for item in lineage.intervals]
    assert environments == [1, 1, 1, 2, 2]


def test_a_resume_that_does_not_name_what_it_drops_is_a_contradiction() -> None:
    assert "without naming" in details(build(interrupted(first=None, last=None)))


def test_a_resume_that_names_only_a_part_is_a_contradiction() -> None:
    assert "without naming" in details(build(interrupted(first=10, last=10)))


@pytest.mark.parametrize(("first", "last"), [(8, 10), (9, 11), (9, 12), (10, 9)])
def test_an_abandoned_range_lies_between_source_and_resume(first: int, last: int) -> None:
    assert "not between" in details(build(interrupted(first=first, last=last)))


@pytest.mark.parametrize("source", [0, 9, 15, 99])
def test_a_resume_continues_from_a_checkpoint_of_the_lineage(source: int) -> None:
    assert "no checkpoint of this lineage" in details(build(interrupted(source=source)))


def test_a_resume_may_not_continue_from_an_abandoned_checkpoint() -> None:
    records = interrupted()
    # A second resume names the checkpoint of step 8, abandoned by a jump back to step 4.
    at = 17
    again = [*records[:at], resume(8, 9, at - 1), resume(16, None, None)]
    assert "no checkpoint of this lineage" in details(build(again))


def test_a_resume_after_a_resume_may_leave_the_first_unnamed() -> None:
    records = interrupted()
    twice = [*records[:12], resume(8, None, None), *records[12:]]
    last = twice[-1]
    assert isinstance(last, Final)
    twice[-1] = msgspec.structs.replace(last, checkpoint=last.checkpoint + 1)
    assert details(build(twice)) == ""


def test_steps_that_do_not_continue_from_the_source_are_a_contradiction() -> None:
    records = interrupted()
    del records[12]
    assert "not contiguous" in details(build(records))


def test_only_the_first_contradictions_are_kept() -> None:
    records: list[AnyRecord] = [GENESIS, checkpoint(0), *(step(7) for _ in range(100))]
    assert len(build(records).findings) == 20


def test_steps_of_an_interval_that_a_false_resume_lies_in_are_found() -> None:
    records = straight()
    records[11:11] = [resume(2, None, None)]
    found = build(records)
    assert "no checkpoint of this lineage" in details(found)
    assert [[one.step for one in item.steps] for item in found.intervals] == [
        [0], [1], [2, 3], [4, 5, 6, 7], [8, 9]
    ]  # fmt: skip
    assert found.intervals[3].records == (8, 9, 10, 12, 13, 14)


def test_a_resume_after_the_final_record_abandons_nothing() -> None:
    records = straight()
    found = build([*records, resume(8, 9, 17)])
    assert "abandons the final record 17" in details(found)
    assert len(found.intervals) == 5


@pytest.mark.parametrize("every", [1, 3, 4, 100])
@pytest.mark.parametrize("warm", [0, 2, 4, 9, 50])
@pytest.mark.parametrize("planned", [1, 8, 10, 25])
def test_checkpoints_are_counted_as_they_fall_due(every: int, warm: int, planned: int) -> None:
    genesis = msgspec.structs.replace(GENESIS, every=every, warm=warm, steps=planned)
    for steps in range(30):
        due = sum(is_checkpoint_step(genesis, number) for number in range(steps + 1))
        assert checkpoint_steps(genesis, steps) == due


def test_counting_checkpoints_takes_no_time_whatever_number_is_stated() -> None:
    assert checkpoint_steps(msgspec.structs.replace(GENESIS, every=1), 2**53 - 1) == 2**53


def unshown(records: list[AnyRecord], *hidden: int) -> list[AnyRecord]:
    """What a compact proof makes of ``records`` if those at ``hidden`` are not in it."""
    stand_in = Unshown(v=1, run=RUN, index=0, step=0, batch=ZERO)
    return [stand_in if at in hidden else record for at, record in enumerate(records)]


def test_steps_of_an_abandoned_stretch_need_not_be_shown() -> None:
    assert details(build(unshown(interrupted(), 9, 10))) == ""


@pytest.mark.parametrize(
    "hidden", [(17,), (16, 17), (14, 15, 16, 17), (13, *range(14, 18)), tuple(range(9, 18))]
)
def test_a_final_record_is_not_hidden_in_an_abandoned_stretch(hidden: tuple[int, ...]) -> None:
    """Shown, it says that a finished run was resumed; not shown it passes for a step, and there is one too many."""
    records = straight()
    finished_twice = [*records, resume(8, 9, 17), *records[9:17], final(len(records) + 8)]
    assert "abandons the final record 17" in details(build(finished_twice))
    found = build(unshown(finished_twice, *hidden))
    assert "beyond the 10 of genesis" in details(found)
    assert not found.complete
