"""Whole verifications of small sealed runs: honest ones live, bent ones die at the step that catches them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.records import Checkpoint, Final, Genesis, Resume, Step
from polledger.core.replay import IsolationReport
from polledger.core.report import Finding
from polledger.core.state import parse_state
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records, step_heads, step_parse
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.request import Code
from polledger.verify.sampling import SampleRequest
from polledger.verify.time import step_time
from tests.verify.build import (
    CONFIG,
    ENVIRONMENT,
    NOW,
    OBJECTS,
    OTHER_MACHINE,
    Built,
    Hooks,
    Spec,
    Weights,
    make_run,
    reseal,
    store_state,
    unflatten,
)
from tests.verify.check import blocking, check, copy_of, failures, named

POLICY = Policy()


def state_after(built: Built, step: int) -> Weights:
    root = next(item.root for item in built.records if isinstance(item, Checkpoint) and item.step == step)
    return unflatten(parse_state(built.states[step], root=root))


def with_state(built: Built, path: Path, step: int, change: Any) -> Built:
    """The run, properly re-signed, with another state committed after ``step``."""
    state = state_after(built, step)
    change(state)
    root, _ = store_state(built.run, state, stored=False)
    records = [
        msgspec.structs.replace(item, root=root)
        if isinstance(item, Checkpoint) and item.step == step
        else item
        for item in built.records
    ]
    return reseal(built, path, records, states=[state])


def with_genesis(built: Built, path: Path, **changes: Any) -> Built:
    records = [msgspec.structs.replace(built.records[0], **changes), *built.records[1:]]
    return reseal(built, path, records)


def refuted_at(report: Any) -> list[int]:
    assert report.verdict == "REFUTED", report.findings
    return sorted({finding.step for finding in failures(report)})


# Honest runs


def test_honest_run_is_verified_bit_for_bit(honest: Built) -> None:
    report = check(honest)
    assert report.verdict == "VERIFIED", blocking(report)
    assert report.comparison == "bitwise"
    assert [item.interval for item in report.intervals] == [0, 1, 2, 3, 4]
    assert all(item.exact for item in report.intervals)
    assert report.time.assurance == "self-asserted"


def test_honest_custom_run_is_verified_and_its_data_origin_reported(custom: Built) -> None:
    report = check(custom)
    assert report.verdict == "VERIFIED", blocking(report)
    assert [finding.outcome for finding in named(report, "data.origin")] == ["unverifiable"]


def test_honest_run_is_verified_within_tolerance_on_another_machine(honest: Built) -> None:
    report = check(honest, code=honest.code(actual=OTHER_MACHINE))
    assert report.verdict == "VERIFIED", blocking(report)
    assert report.comparison == "tolerance"
    assert not any(item.exact for item in report.intervals)
    assert report.environment["differences"] == ["threads"]
    assert report.timing["noise_seconds"] > 0


def test_policy_can_replay_as_another_machine_would(honest: Built) -> None:
    report = check(honest, policy=parse_policy("[replay]\nthreads = 2"))
    assert report.environment["differences"] == ["threads"]
    assert report.comparison == "tolerance"


def test_policy_can_require_equal_bits(honest: Built) -> None:
    policy = parse_policy("[require]\nbitwise = true")
    assert check(honest, policy=policy).verdict == "VERIFIED"
    elsewhere = check(honest, policy=policy, code=honest.code(actual=OTHER_MACHINE))
    assert elsewhere.verdict == "UNVERIFIABLE"
    assert [finding.name for finding in blocking(elsewhere)] == ["bitwise"]


def test_run_with_few_stored_states_is_verified_by_rederiving_them(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    assert not all(item.stored for item in built.records if isinstance(item, Checkpoint))
    assert check(built).verdict == "VERIFIED"
    sampled = check(built, sample=SampleRequest(count=1), nonce=b"x" * 32)
    assert sampled.verdict == "VERIFIED"


def test_unstored_states_cannot_be_judged_within_tolerance(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    report = check(built, code=built.code(actual=OTHER_MACHINE))
    assert report.verdict == "UNVERIFIABLE"
    assert any("not stored" in finding.detail for finding in blocking(report))


def test_a_root_that_no_stored_state_stands_for_is_refuted_by_the_next_one(tmp_path: Path) -> None:
    spec = Spec(keep=3, config={**CONFIG, "steps": 24})
    built = make_run(tmp_path / "run", spec)
    lie = reseal(built, tmp_path / "lie", [with_root(record, 8) for record in built.records])
    report = check(lie)
    assert report.verdict == "REFUTED"
    (failed,) = [item for item in report.intervals if item.outcome == "fail"]
    assert (failed.last, "another state lies on the way" in failed.why) == (8, True)


def with_root(record: Any, step: int) -> Any:
    """``record``, its root invented if it is the checkpoint after ``step`` steps."""
    if isinstance(record, Checkpoint) and record.step == step:
        assert not record.stored
        return msgspec.structs.replace(record, root=b"\x07" * 32)
    return record


def test_a_jump_behind_an_invented_root_is_refuted_at_the_next_stored_state(tmp_path: Path) -> None:
    def jump(step: int, state: Any) -> None:
        if step == 6:
            state.w = (state.w + np.float32(0.25)).astype(np.float32)

    spec = Spec(keep=3, config={**CONFIG, "steps": 24})
    built = make_run(tmp_path / "run", spec, hooks=Hooks(after_step=jump))
    lie = reseal(built, tmp_path / "lie", [with_root(record, 8) for record in built.records])
    report = check(lie)
    assert report.verdict == "REFUTED"
    (failed,) = [item for item in report.intervals if item.outcome == "fail"]
    assert (failed.first, failed.last) == (4, 8)
    assert "replayed on to step 12" in failed.why
    elsewhere = check(lie, code=lie.code(actual=OTHER_MACHINE))
    assert elsewhere.verdict == "UNVERIFIABLE"


@pytest.mark.parametrize("name", ["ledger.log", "secret"])
def test_a_lost_file_is_missing_evidence_and_named(honest: Built, tmp_path: Path, name: str) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    path = copy.run.path / name if name == "ledger.log" else copy.run.path / "private" / name
    path.unlink()
    report = check(copy)
    assert report.verdict == "UNVERIFIABLE"
    assert any(name in finding.detail and "missing" in finding.detail for finding in blocking(report))


def test_two_replays_that_disagree_raise_the_noise_floor(tmp_path: Path) -> None:
    def drift(step: int, state: Any) -> None:
        if step == 9:
            state.w[0, 0] += np.float32(1e-3)

    built = make_run(tmp_path / "run", hooks=Hooks(after_step=drift))
    report = check(built, code=built.code(flaky=True))
    floors = [
        judged.measure.nu
        for item in report.intervals
        for judged in item.groups
        if judged.measure.name == "model/parameters" and judged.measure.nu is not None
    ]
    assert floors
    assert all(floor >= 1.9e-3 for floor in floors)


def test_a_resumed_run_is_verified(honest: Built, tmp_path: Path) -> None:
    assert check(resumed(honest, tmp_path / "run")).verdict == "VERIFIED"


def resumed(built: Built, path: Path, **changes: Any) -> Built:
    """The run as if it had been interrupted two steps after the checkpoint of step 4."""
    at = next(i for i, item in enumerate(built.records) if isinstance(item, Checkpoint) and item.step == 4)
    lost = built.records[at + 1 : at + 3]
    values: dict[str, Any] = {
        "v": 1,
        "run": built.records[0].run,
        "index": 0,
        "environment": ENVIRONMENT,
        "source": at,
        "first": at + 1,
        "last": at + 2,
        "reason": "power",
    }
    resume = Resume(**{**values, **changes})
    # The first step after a resume records every hyperparameter again.
    records = [*built.records[: at + 1], *lost, resume, *built.records[at + 1 :]]
    final = records[-1]
    assert isinstance(final, Final)
    records[-1] = msgspec.structs.replace(final, checkpoint=final.checkpoint + 3)
    return reseal(built, path, records)


# Absence of evidence is never a pass


def test_switching_replay_off_leaves_nothing_verified(honest: Built) -> None:
    report = check(honest, replay=False)
    assert report.verdict == "UNVERIFIABLE"
    assert {finding.step for finding in blocking(report)} == {7, 8, 9}
    assert all("--no-replay" in finding.detail for finding in blocking(report))


def test_switching_the_scan_off_leaves_stillness_and_screening_open(honest: Built) -> None:
    report = check(honest, scan=False)
    assert report.verdict == "UNVERIFIABLE"
    assert [(finding.step, finding.name) for finding in blocking(report)] == [
        (4, "stillness"),
        (5, "screening"),
    ]
    assert all("--no-scan" in finding.detail for finding in blocking(report))
    assert report.screening is None


def test_code_that_may_not_run_stops_the_replay_with_its_reason(honest: Built) -> None:
    finding = Finding(step=7, name="code", outcome="unverifiable", detail="replay would run your code")
    report = check(honest, code=lambda genesis: Code(summary={}, engines=None, finding=finding))
    assert report.verdict == "UNVERIFIABLE"
    assert report.first_bad == finding


@pytest.mark.parametrize("fault", ["rebuild", "open", "replay", "nonsense", "short"])
def test_a_task_that_fails_here_is_missing_evidence(honest: Built, fault: str) -> None:
    report = check(honest, code=honest.code(fail=fault))
    assert report.verdict == "UNVERIFIABLE"
    assert failures(report) == []
    if fault != "rebuild":
        # What was not replayed was not checked.
        assert [finding.outcome for finding in named(report, "inclusion")] == ["unverifiable"]


@pytest.mark.parametrize(
    ("files", "network", "reached"),
    [(False, True, "files here"), (True, False, "the network"), (False, False, "files here and the network")],
)
def test_that_replay_was_not_isolated_is_said_and_blocks_where_required(
    honest: Built, files: bool, network: bool, reached: str
) -> None:
    bare = IsolationReport(files=files, network=network)
    told = check(honest, code=honest.code(isolated=bare))
    (finding,) = named(told, "isolation")
    assert (finding.step, finding.outcome) == (9, "unverifiable")
    assert reached in finding.detail
    assert told.verdict == "VERIFIED"
    policy = parse_policy("[require]\nisolation = true")
    required = check(honest, policy=policy, code=honest.code(isolated=bare))
    assert required.verdict == "UNVERIFIABLE"
    assert [found.name for found in blocking(required)] == ["isolation.required"]
    # polledger's own module looks for nothing.
    own = check(honest, policy=policy, code=honest.code(isolated=bare, own=True))
    assert own.verdict == "VERIFIED"
    assert named(own, "isolation") == named(own, "isolation.required") == []


def test_an_isolated_replay_meets_the_requirement(honest: Built) -> None:
    report = check(honest, policy=parse_policy("[require]\nisolation = true"))
    assert report.verdict == "VERIFIED"
    assert named(report, "isolation") == named(report, "isolation.required") == []


def test_a_nondeterministic_task_is_never_refuted(honest: Built) -> None:
    report = check(honest, code=honest.code(flaky=True))
    assert report.verdict == "UNVERIFIABLE"
    # Replays here disagree, so the tolerance rule decides although the class is the recorded one.
    assert [item.outcome for item in report.intervals] == ["pass"] * 5


def test_without_the_run_secret_opened_data_cannot_be_checked(honest: Built, tmp_path: Path) -> None:
    built = copy_of(honest, tmp_path / "run")
    (built.run.path / "private" / "secret").unlink()
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert any("run secret" in finding.detail for finding in blocking(report))


def test_a_model_file_adds_step_10_to_what_is_required(honest: Built, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"not a model")
    report = check(honest, model=model)
    assert report.verdict == "UNVERIFIABLE"
    assert [(finding.step, finding.name) for finding in blocking(report)] == [(10, "binding")]


# Bent runs, properly signed


def test_swapped_checkpoint_is_refuted_by_replay(honest: Built, tmp_path: Path) -> None:
    def nudge(state: Weights) -> None:
        state.w[0, 0] += np.float32(0.01)

    assert refuted_at(check(with_state(honest, tmp_path / "run", 4, nudge))) == [9]


def test_checkpoint_off_by_a_displacement_is_refuted_on_another_machine_too(
    honest: Built, tmp_path: Path
) -> None:
    def back(state: Weights) -> None:
        state.w = state_after(honest, 0).w

    built = with_state(honest, tmp_path / "run", 8, back)
    assert refuted_at(check(built, code=built.code(actual=OTHER_MACHINE))) == [9]


def test_planted_momentum_is_refuted_by_replay(honest: Built, tmp_path: Path) -> None:
    def plant(state: Weights) -> None:
        assert state.momentum is not None
        state.momentum[0] += np.float32(0.5)

    report = check(with_state(honest, tmp_path / "run", 4, plant))
    assert refuted_at(report) == [9]
    assert any("momentum_buffer" in finding.detail for finding in failures(report))


def test_changed_running_statistics_are_refuted_by_replay(honest: Built, tmp_path: Path) -> None:
    def swap(state: Weights) -> None:
        state.mean += np.float32(1)

    assert refuted_at(check(with_state(honest, tmp_path / "run", 8, swap))) == [9]


def test_a_changed_counter_is_refuted_by_replay(honest: Built, tmp_path: Path) -> None:
    def count(state: Weights) -> None:
        state.count = state.count + 1

    assert refuted_at(check(with_state(honest, tmp_path / "run", 8, count))) == [9]


def test_a_changed_counter_is_unverifiable_on_another_machine(honest: Built, tmp_path: Path) -> None:
    def count(state: Weights) -> None:
        state.count = state.count + 1

    built = with_state(honest, tmp_path / "run", 8, count)
    assert check(built, code=built.code(actual=OTHER_MACHINE)).verdict == "UNVERIFIABLE"


def test_values_that_are_not_finite_never_pass(honest: Built, tmp_path: Path) -> None:
    def poison(state: Weights) -> None:
        state.w[0, 0] = np.float32(np.nan)

    built = with_state(honest, tmp_path / "run", 8, poison)
    assert check(built).verdict == "REFUTED"
    assert check(built, code=built.code(actual=OTHER_MACHINE)).verdict == "UNVERIFIABLE"


def test_stolen_start_is_refuted_at_the_origin(tmp_path: Path) -> None:
    def steal(state: Weights) -> None:
        state.w = np.full_like(state.w, 0.25)

    report = check(make_run(tmp_path / "run", hooks=Hooks(first=steal)))
    assert refuted_at(report) == [8]
    assert "model/w" in failures(report)[0].detail


def test_another_seed_in_genesis_is_refuted(honest: Built, tmp_path: Path) -> None:
    built = with_genesis(honest, tmp_path / "run", seed=8)
    assert 8 in refuted_at(check(replace(built, spec=replace(built.spec, seed=8))))


def test_a_run_republished_under_another_key_is_refuted(honest: Built, tmp_path: Path) -> None:
    # The thief's genesis names the thief's key, so the seed that replay derives is another one.
    built = with_genesis(honest, tmp_path / "run", bound=False)
    report = check(replace(built, spec=replace(built.spec, bound=False)))
    assert 8 in refuted_at(report)


def test_another_order_is_refuted_with_the_batches(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", hooks=Hooks(indices=lambda step, indices: sorted(indices)))
    assert refuted_at(check(built)) == [7]


def test_other_labels_are_refuted_with_the_batches(tmp_path: Path) -> None:
    # Genesis commits to the true labels; the batches were made from others.
    spec = Spec()
    lying = make_run(tmp_path / "lying", replace(spec, labels=1))
    honest_genesis = make_run(tmp_path / "true", spec).records[0]
    assert isinstance(honest_genesis, Genesis)
    true_leaves = tmp_path / "true"
    built = with_genesis(lying, tmp_path / "run", dataset=honest_genesis.dataset)
    copy_objects(true_leaves, built)
    (built.run.path / "private" / "secret").write_bytes((true_leaves / "private" / "secret").read_bytes())
    report = check(replace(built, spec=spec))
    assert 7 in refuted_at(report)


def copy_objects(source: Path, built: Built) -> None:
    for file in (source / "objects").glob("*/*"):
        target = built.run.path / "objects" / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())


def test_a_learning_rate_bent_for_three_steps_is_refuted_by_the_schedule(tmp_path: Path) -> None:
    def bend(step: int, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "lr": values["lr"] * 2} if 5 <= step < 8 else values

    report = check(make_run(tmp_path / "run", hooks=Hooks(values=bend)))
    assert 4 in refuted_at(report)
    assert "lr" in failures(report)[0].detail


def test_a_bent_learning_rate_recorded_as_scheduled_is_refuted_by_replay(tmp_path: Path) -> None:
    built = make_run(tmp_path / "bent", hooks=Hooks(after_step=_push))
    assert refuted_at(check(built)) == [9]


def _push(step: int, state: Weights) -> None:
    if step == 6:
        state.w *= np.float32(0.99)


def test_hyperparameters_that_replay_does_not_use_are_refuted_at_step_4(honest: Built) -> None:
    report = check(honest, code=honest.code(wrong_values=True))
    assert refuted_at(report) == [4]
    elsewhere = check(honest, code=honest.code(wrong_values=True, actual=OTHER_MACHINE))
    assert elsewhere.verdict == "UNVERIFIABLE"


def bent_batches(custom: Built, path: Path) -> Built:
    """A custom run whose records claim another batch at steps 5 to 8."""
    records = [
        msgspec.structs.replace(item, batch=b"\x01" * 32)
        if isinstance(item, Step) and 5 <= item.step < 9
        else item
        for item in custom.records
    ]
    return reseal(custom, path, records)


def test_a_custom_batch_that_differs_is_refuted_only_without_inputs(custom: Built, tmp_path: Path) -> None:
    built = bent_batches(custom, tmp_path / "run")
    assert refuted_at(check(built)) == [7]
    with_inputs = check(built, code=built.code(inputs_declared=True))
    assert with_inputs.verdict == "UNVERIFIABLE"
    elsewhere = check(built, code=built.code(actual=OTHER_MACHINE))
    assert elsewhere.verdict == "UNVERIFIABLE"


def test_custom_batches_that_all_differ_may_be_a_damaged_secret(custom: Built, tmp_path: Path) -> None:
    built = copy_of(custom, tmp_path / "run")
    (built.run.path / "private" / "secret").write_bytes(b"\x01" * 32)
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert any("secret may be damaged" in finding.detail for finding in blocking(report))


def test_a_damaged_secret_of_a_recipe_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    built = copy_of(honest, tmp_path / "run")
    (built.run.path / "private" / "secret").write_bytes(b"\x01" * 32)
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert any("run secret" in (finding.remedy or "") for finding in blocking(report))


def test_the_verifiers_own_wrong_data_are_unverifiable(honest: Built) -> None:
    report = check(honest, code=honest.code(data=replace(honest.spec, labels=1)))
    assert report.verdict == "UNVERIFIABLE"
    assert any("--input" in (finding.remedy or "") for finding in blocking(report))


def test_state_objects_described_otherwise_are_refuted_at_the_origin(honest: Built, tmp_path: Path) -> None:
    hidden = [
        msgspec.structs.replace(OBJECTS[0], buffers=["model/count", "model/mean", "model/w"]),
        OBJECTS[1],
    ]
    built = with_genesis(honest, tmp_path / "run", objects=hidden)
    assert refuted_at(check(built)) == [8]
    elsewhere = check(built, code=built.code(actual=OTHER_MACHINE))
    assert elsewhere.verdict == "UNVERIFIABLE"


def test_a_wrong_model_root_in_final_is_refuted(honest: Built, tmp_path: Path) -> None:
    final = msgspec.structs.replace(honest.records[-1], model_root=b"\x01" * 32)
    built = reseal(honest, tmp_path / "run", [*honest.records[:-1], final])
    assert refuted_at(check(built)) == [10]


def test_a_run_without_final_is_unfinished(honest: Built, tmp_path: Path) -> None:
    built = reseal(honest, tmp_path / "run", honest.records[:-1])
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert "not finished" in blocking(report)[0].detail


def test_k_above_policy_is_unverifiable(honest: Built) -> None:
    report = check(honest, policy=parse_policy("[structure]\nevery = 3"))
    assert report.verdict == "UNVERIFIABLE"
    assert "above the policy" in blocking(report)[0].detail


def test_policy_can_require_a_recipe_and_a_data_set_root(honest: Built, custom: Built) -> None:
    for wanted in ("recipe", "dataset_root"):
        policy = parse_policy(f"[require]\n{wanted} = true")
        assert check(honest, policy=policy).verdict == "VERIFIED"
        assert check(custom, policy=policy).verdict == "UNVERIFIABLE"


def test_policy_can_require_external_time(honest: Built) -> None:
    report = check(honest, policy=parse_policy("[require]\nexternal_time = true"))
    assert report.verdict == "UNVERIFIABLE"
    assert [finding.name for finding in blocking(report)] == ["time.required"]


def test_other_origins_say_what_to_do(honest: Built, tmp_path: Path) -> None:
    built = with_genesis(honest, tmp_path / "run", origin="external", external=b"\x02" * 32)
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert blocking(report)[0].step == 8
    assert blocking(report)[0].remedy


# Damage


def test_missing_state_names_the_object(honest: Built, tmp_path: Path) -> None:
    built = copy_of(honest, tmp_path / "run")
    checkpoint = next(item for item in built.records if isinstance(item, Checkpoint) and item.step == 4)
    built.run.objects.path(checkpoint.root).unlink()
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert any(checkpoint.root.hex() in finding.detail for finding in blocking(report))


@pytest.mark.parametrize("place", [0, 20, 50, 99])
def test_a_byte_changed_in_an_opened_object_is_never_verified_and_named(
    honest: Built, tmp_path: Path, place: int
) -> None:
    files = sorted(path for path in (honest.run.path / "objects").glob("*/*"))
    for number, path in enumerate(files):
        built = copy_of(honest, tmp_path / f"run{number}")
        target = built.run.path / path.relative_to(honest.run.path)
        data = bytearray(target.read_bytes())
        data[place * len(data) // 100] ^= 1
        target.write_bytes(bytes(data))
        report = check(built)
        assert report.verdict == "UNVERIFIABLE", target
        name = target.parent.name + target.name
        assert any(name in finding.detail for finding in blocking(report)), (name, blocking(report))


@pytest.mark.parametrize("part", ["ledger.log", "seals/000000.msgpack", "seals/000002.msgpack"])
def test_any_byte_changed_in_ledger_or_seals_is_never_verified_and_named(
    honest: Built, tmp_path: Path, part: str
) -> None:
    built = copy_of(honest, tmp_path / "run")
    file = built.run.path / part
    original = file.read_bytes()
    for place in range(len(original)):
        data = bytearray(original)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(bytes(data))
        found = [finding for finding in early_findings(built, time=part != "ledger.log") if finding.blocks]
        assert found, place
        assert all(finding.outcome == "unverifiable" for finding in found), (place, found)
        if part == "ledger.log":
            assert any(finding.record is not None for finding in found), (place, found)
        else:
            name = f"seal {int(part[6:12])} "
            assert any(name in finding.detail for finding in found), (place, found)


def early_findings(built: Built, *, time: bool) -> list[Finding]:
    """Findings of steps 1 and 2, and with ``time`` 3."""
    evidence = read_evidence(built.run)
    parsed = parse_records(evidence)
    heads = match_heads(evidence, parsed)
    findings = [*step_parse(evidence, parsed, heads), *step_heads(evidence, parsed, heads)]
    if time:
        findings += step_time(heads, evidence.objects, trust=None, policy=POLICY, now=NOW).findings
    return findings


@pytest.mark.parametrize("part", ["ledger.log", "seals/000001.msgpack"])
@pytest.mark.parametrize("share", [1, 30, 60, 99])
def test_a_byte_changed_in_ledger_or_seals_leaves_the_whole_run_unverifiable(
    honest: Built, tmp_path: Path, part: str, share: int
) -> None:
    built = copy_of(honest, tmp_path / "run")
    file = built.run.path / part
    data = bytearray(file.read_bytes())
    data[share * len(data) // 100] ^= 4
    file.write_bytes(bytes(data))
    report = check(built)
    assert report.verdict == "UNVERIFIABLE"
    assert failures(report) == []


def test_unsealed_records_after_the_last_head_do_not_block(honest: Built, tmp_path: Path) -> None:
    built = copy_of(honest, tmp_path / "run")
    frame = (built.run.path / "ledger.log").read_bytes()
    with (built.run.path / "ledger.log").open("ab") as ledger:
        ledger.write(frame[: len(frame) // 3])
    report = check(built)
    assert report.verdict == "VERIFIED", blocking(report)
    assert named(report, "unsealed")


def test_findings_are_ordered_by_step(honest: Built) -> None:
    steps = [finding.step for finding in check(honest).findings]
    assert steps == sorted(steps)


def test_every_step_record_is_in_an_interval(honest: Built) -> None:
    report = check(honest)
    covered = [step for item in report.intervals for step in range(item.first, item.last)]
    assert covered == [item.step for item in honest.records if isinstance(item, Step)]
