"""Step 4: hyperparameters against the schedule or the policy, terms, and stillness."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.encoding import real
from polledger.core.opened import IntervalResult
from polledger.core.records import AnyRecord, Checkpoint, Final, Genesis, GroupValues, Step, Terms
from polledger.core.report import Finding
from polledger.core.state import parse_state
from polledger.core.tolerance import GroupJudgement, GroupMeasure
from polledger.verify.lineage import build_lineage, changed_values
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.scan import ScanTask, scan
from polledger.verify.stillness import StillnessTask, opened_stillness, step_stillness
from polledger.verify.structure import Structure, step_structure
from tests.verify.build import CONFIG, Built, Hooks, Spec, make_run, store_state, unflatten


def structure(records: list[AnyRecord], policy: Policy | None = None, *, whole: bool = True) -> Structure:
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    return step_structure(build_lineage(genesis, records), policy=policy or Policy(), whole=whole)


def edited(built: Built, number: int, **values: Any) -> list[AnyRecord]:
    """The records with hyperparameters of step ``number`` recorded otherwise."""
    encoded = {name: real(v) if isinstance(v, float) else v for name, v in values.items()}
    records = list(built.records)
    for i, record in enumerate(records):
        if isinstance(record, Step) and record.step == number:
            known = {} if record.groups is msgspec.UNSET else record.groups[0].values
            group = GroupValues(optimizer="optimizer", index=0, values={**known, **encoded})
            records[i] = msgspec.structs.replace(record, groups=[group])
    return records


def only(found: Structure) -> Finding:
    assert len(found.findings) == 1, found.findings
    return found.findings[0]


def with_genesis(built: Built, **changes: Any) -> list[AnyRecord]:
    return [msgspec.structs.replace(built.records[0], **changes), *built.records[1:]]


def test_honest_runs_pass(honest: Built, custom: Built) -> None:
    for built in (honest, custom):
        assert only(structure(built.records)).outcome == "pass"


def test_a_value_the_schedule_owns_must_be_the_schedules(honest: Built) -> None:
    finding = only(structure(edited(honest, 5, lr=0.123)))
    assert (finding.outcome, finding.found) == ("fail", "0.123")
    assert "step 5: lr" in finding.detail


def test_a_value_of_config_must_stay_what_config_says(honest: Built) -> None:
    found = structure(edited(honest, 5, momentum=0.8))
    # Carried forward: every later step has it too.
    assert {finding.outcome for finding in found.findings} == {"fail"}
    assert "momentum" in found.findings[0].detail


def test_a_value_nobody_owns_must_stay_that_of_step_0(honest: Built) -> None:
    records = edited(honest, 0, dampening=0.0)
    assert only(structure(records)).outcome == "pass"
    late = structure([*records[:9], *edited(honest, 5, dampening=0.5)[9:]])
    assert {finding.outcome for finding in late.findings} == {"fail"}
    assert "dampening" in late.findings[0].detail


def test_a_value_that_appears_later_is_refused(honest: Built) -> None:
    assert "no schedule owns it" in structure(edited(honest, 5, dampening=0.0)).findings[0].detail


def test_a_value_that_is_never_recorded_is_refused(honest: Built) -> None:
    records = [
        msgspec.structs.replace(record, groups=msgspec.UNSET) if isinstance(record, Step) else record
        for record in honest.records
    ]
    assert "parameter groups" in structure(records).findings[0].detail


def test_another_number_of_parameter_groups_is_refused(honest: Built) -> None:
    records = list(honest.records)
    first = records[2]
    assert isinstance(first, Step)
    assert first.groups is not msgspec.UNSET
    extra = GroupValues(optimizer="optimizer", index=1, values=first.groups[0].values)
    records[2] = msgspec.structs.replace(first, groups=[*first.groups, extra])
    assert "parameter groups" in structure(records).findings[0].detail


def test_a_boolean_is_not_the_number_one(honest: Built) -> None:
    records = edited(honest, 0, nesterov=True)
    later = edited(honest, 5, nesterov=1)
    found = structure([*records[:9], *later[9:]])
    assert "nesterov" in found.findings[0].detail


def test_nan_equals_nothing(honest: Built) -> None:
    assert {finding.outcome for finding in structure(edited(honest, 0, eps=float("nan"))).findings} == {
        "fail"
    }


def test_a_config_no_schedule_can_be_computed_from_is_unverifiable(honest: Built) -> None:
    config = {**msgspec.structs.asdict(honest.records[0])["config"], "schedule": "unheard_of"}
    finding = only(structure(with_genesis(honest, config=config)))
    assert finding.outcome == "unverifiable"
    assert "schedule" in finding.detail


def test_custom_values_must_lie_within_the_policys_bounds(custom: Built) -> None:
    found = structure(edited(custom, 5, lr=11.0))
    assert {finding.outcome for finding in found.findings} == {"unverifiable"}
    assert "outside the policy's [0, 10]" in found.findings[0].detail
    wider = parse_policy("[hyperparameters.bounds]\nlr = [0, 100]")
    assert only(structure(edited(custom, 5, lr=11.0), wider)).outcome == "pass"


def test_custom_nan_is_within_no_bounds(custom: Built) -> None:
    assert structure(edited(custom, 5, lr=float("nan"))).findings[0].outcome == "unverifiable"


def test_custom_values_change_only_where_the_policy_lists_them(custom: Built) -> None:
    found = structure(edited(custom, 5, weight_decay=0.1))
    assert "does not list it as scheduled" in found.findings[0].detail
    assert {finding.outcome for finding in found.findings} == {"unverifiable"}
    listed = parse_policy('[hyperparameters]\nscheduled = ["lr", "weight_decay"]')
    assert only(structure(edited(custom, 5, weight_decay=0.1), listed)).outcome == "pass"


def test_config_and_genesis_must_agree_on_the_steps(honest: Built, custom: Built) -> None:
    for built in (honest, custom):
        config = {**msgspec.structs.asdict(built.records[0])["config"], "steps": 13}
        found = structure(with_genesis(built, config=config))
        assert any("number of steps" in finding.detail for finding in found.findings)


def kept(found: Structure) -> Finding:
    """The one finding beside what is said about terms."""
    (finding,) = [finding for finding in found.findings if finding.name != "terms"]
    return finding


def test_k_above_the_agreed_one_is_refuted(honest: Built) -> None:
    assert kept(structure(with_genesis(honest, terms=Terms(every=4)))).outcome == "pass"
    assert kept(structure(with_genesis(honest, terms=Terms(every=3)))).outcome == "fail"


def test_terms_are_said_and_block_nobody(honest: Built) -> None:
    for terms, outcome, said in (
        (Terms(every=8, nonce=b"n" * 16), "pass", "k up to 8, the nonce 6e6e"),
        (Terms(policy=Policy().digest()), "pass", "the policy"),
        (Terms(policy=b"p" * 32), "unverifiable", "another one"),
        (Terms(), "pass", "nothing"),
    ):
        found = structure(with_genesis(honest, terms=terms))
        assert kept(found).outcome == "pass"
        (finding,) = [finding for finding in found.findings if finding.name == "terms"]
        assert (finding.outcome, finding.blocks) == (outcome, False)
        assert said in finding.detail


def test_k_above_policy_is_unverifiable_and_k_at_policy_is_not(honest: Built) -> None:
    assert only(structure(honest.records, parse_policy("[structure]\nevery = 4"))).outcome == "pass"
    assert only(structure(honest.records, parse_policy("[structure]\nevery = 3"))).outcome == "unverifiable"


def test_a_part_of_the_records_never_passes(honest: Built) -> None:
    assert only(structure(honest.records, whole=False)).outcome == "unverifiable"
    assert only(structure(honest.records[:-1])).outcome == "unverifiable"
    assert structure(honest.records[:1]).findings[0].outcome == "unverifiable"


def test_hyperparameters_are_carried_to_the_start_of_each_interval(honest: Built) -> None:
    found = structure(honest.records)
    assert found.values[0] == {}
    assert found.values[2][("optimizer", 0)]["momentum"] == 0.9


# Stillness


def stillness(built: Built, policy: Policy | None = None) -> Finding:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    lineage = build_lineage(genesis, built.records)
    found = step_structure(lineage, policy=policy or Policy(), whole=True)
    seen = scan(
        ScanTask(
            lineage=lineage,
            objects=built.run.objects,
            values=found.values,
            nonce=b"n" * 32,
            told=lambda done, total: None,
        )
    )
    task = StillnessTask(lineage=lineage, scan=seen, declared=found.still, policy=policy or Policy())
    findings = step_stillness(task)
    assert len(findings) >= 1
    return findings[0]


def zero_lr(last: int) -> Hooks:
    return Hooks(values=lambda step, values: {**values, "lr": 0.0} if step < last else values)


def test_a_moving_run_passes(honest: Built) -> None:
    assert stillness(honest).outcome == "pass"


def test_learning_rate_zero_in_too_many_intervals_is_unverifiable(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(kind="custom"), hooks=zero_lr(2))
    finding = stillness(built)
    assert finding.outcome == "unverifiable"
    assert "2 of 5 intervals stand still" in finding.detail
    generous = parse_policy("[structure]\nstill_share = 0.4")
    assert stillness(built, generous).outcome == "pass"


def test_declared_stillness_counts_where_no_state_is_stored(tmp_path: Path) -> None:
    hooks = Hooks(values=lambda step, values: {**values, "lr": 0.0} if 4 <= step < 12 else values)
    spec = Spec(kind="custom", keep=3, config={**CONFIG, "steps": 24})
    finding = stillness(make_run(tmp_path / "run", spec, hooks=hooks))
    assert finding.outcome == "unverifiable"
    assert "2 of 8 intervals" in finding.detail


def test_one_interval_may_stand_still(tmp_path: Path) -> None:
    assert stillness(make_run(tmp_path / "run", Spec(kind="custom"), hooks=zero_lr(1))).outcome == "pass"


def test_parameters_that_do_not_move_are_still_whatever_the_learning_rate_says(tmp_path: Path) -> None:
    frozen: dict[str, Any] = {}

    def freeze(step: int, state: Any) -> None:
        frozen.setdefault("w", state.w.copy())
        frozen.setdefault("b", state.b.copy())
        if step < 8:
            state.w, state.b = frozen["w"].copy(), frozen["b"].copy()

    finding = stillness(make_run(tmp_path / "run", hooks=Hooks(after_step=freeze)))
    assert finding.outcome == "unverifiable"
    assert "stand still" in finding.detail


@pytest.mark.parametrize(("rate", "outcome"), [(2e-7, "unverifiable"), (1e-2, "pass")])
def test_a_learning_rate_next_to_zero_is_no_movement(tmp_path: Path, rate: float, outcome: str) -> None:
    """Weights planted early, then steps that keep them: every root is another one, and nothing is trained."""

    def values(step: int, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "lr": rate if step >= 2 else values["lr"]}

    built = make_run(tmp_path / "run", Spec(kind="custom"), hooks=Hooks(values=values))
    finding = stillness(built)
    assert finding.outcome == outcome
    if outcome == "unverifiable":
        assert stillness(built, parse_policy("[structure]\nstill_ratio = 0")).outcome == "pass"


def test_a_run_that_moves_less_than_the_policy_wants_is_unverifiable(honest: Built) -> None:
    finding = stillness(honest, parse_policy("[structure]\ndisplacement = 10.0"))
    assert finding.outcome == "unverifiable"
    assert "whole run" in finding.detail


def test_a_run_that_ends_where_it_began_is_unverifiable(tmp_path: Path) -> None:
    start: dict[str, Any] = {}

    def loop(step: int, state: Any) -> None:
        if step == 11:
            state.w, state.b = start["w"], start["b"]

    def remember(state: Any) -> None:
        start.update(w=state.w.copy(), b=state.b.copy())

    finding = stillness(make_run(tmp_path / "run", hooks=Hooks(first=remember, after_step=loop)))
    assert finding.outcome == "unverifiable"


def test_the_published_object_has_to_move_itself(honest: Built) -> None:
    final = honest.records[-1]
    assert isinstance(final, Final)
    other = msgspec.structs.replace(final, object="optimizer")
    finding = stillness(replace(honest, records=[*honest.records[:-1], other]))
    assert finding.outcome == "unverifiable"
    assert "whole run moves the published model by 0 " in finding.detail


def opened(*movements: float | None) -> list[IntervalResult]:
    """Opened intervals by the displacement of their parameters; None: no module is described."""
    results = []
    for number, u in enumerate(movements):
        names = {"model/buffers": 1.0} | ({} if u is None else {"model/parameters": u, "ema/parameters": 0.0})
        groups = tuple(
            GroupJudgement(
                measure=GroupMeasure(name=name, exact=True, strict_equal=True, e=0.0, u=value), outcome="pass"
            )
            for name, value in names.items()
        )
        results.append(
            IntervalResult(
                interval=number, first=number, last=number + 1, outcome="pass", exact=True, groups=groups
            )
        )
    return results


@pytest.mark.parametrize(
    ("results", "still"),
    [
        (opened(1.0, 0.5, 1e-30), False),
        (opened(0.0, 1.0, 1.0), False),  # a warm-up may begin at 0
        (opened(0.0, 0.0, *[1.0] * 18), True),
        (opened(0.0, 0.0, *[1.0] * 38), False),
        (opened(None, None, None), False),
        ([], False),
    ],
)
def test_opened_intervals_that_move_nothing_are_counted(results: list[IntervalResult], still: bool) -> None:
    findings = opened_stillness(results, policy=Policy())
    assert [finding.outcome for finding in findings] == ["unverifiable"] * still


@pytest.mark.parametrize("step", [1, 12])
def test_a_checkpoint_that_has_to_be_stored_and_was_not_is_unverifiable(honest: Built, step: int) -> None:
    records = [
        msgspec.structs.replace(record, stored=False)
        if isinstance(record, Checkpoint) and record.step == step
        else record
        for record in honest.records
    ]
    findings = structure(records).findings
    assert [finding.outcome for finding in findings] == ["unverifiable"]
    assert f"after step {step} has to be stored" in findings[0].detail


def test_parameters_that_are_not_finite_do_not_count_as_moving(honest: Built, tmp_path: Path) -> None:
    def poison(step: int, state: Any) -> None:
        if step == 11:
            state.w[0, 0] = np.float32(np.nan)

    finding = stillness(make_run(tmp_path / "run", hooks=Hooks(after_step=poison)))
    # An infinite displacement is above any bound, but replay and the origin see such a state: it only must not crash.
    assert finding.step == 4


@pytest.mark.parametrize("which", ["missing", "manifest"])
def test_a_stored_state_that_is_missing_or_damaged_is_named(tmp_path: Path, which: str) -> None:
    built = make_run(tmp_path / "run", Spec(config={**CONFIG, "steps": 8}))
    checkpoint = next(item for item in built.records if isinstance(item, Checkpoint) and item.step == 4)
    path = built.run.objects.path(checkpoint.root)
    if which == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(bytes(data))
    finding = stillness(built)
    assert finding.outcome == "unverifiable"
    assert checkpoint.root.hex() in finding.detail


def test_a_state_file_of_another_root_is_refused(honest: Built, tmp_path: Path) -> None:
    built = make_run(tmp_path / "run")
    first, second = (item for item in built.records if isinstance(item, Checkpoint) and item.step in (1, 2))
    built.run.objects.path(second.root).write_bytes(built.run.objects.path(first.root).read_bytes())
    assert second.root.hex() in stillness(built).detail
    state = unflatten(parse_state(built.states[1], root=first.root))
    assert store_state(built.run, state)[0] == first.root


def test_hyperparameters_before_an_interval_are_those_of_the_step_before_whatever_is_asked_for_first(
    tmp_path: Path,
) -> None:
    spec = Spec(config={**CONFIG, "steps": 150}, every=1)
    records = make_run(tmp_path / "run", spec, stamp=False).records
    found = structure(records).values
    steps = [record for record in records if isinstance(record, Step)]
    rates = [0.0, *(changed_values({}, step.groups)["optimizer", 0]["lr"] for step in steps)]
    assert found[0] == {}
    for number in (1, 70, 71, 64, 149, 63, 128, 5, 127, 64):
        assert found[number]["optimizer", 0]["lr"] == rates[number]
