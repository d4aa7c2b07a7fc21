"""Step 8 for runs that start from another run's end, or from a file."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.head import parse_note
from polledger.core.records import AnyRecord, Checkpoint, Genesis, Parent
from polledger.core.report import Report, sentence
from polledger.core.state import parse_state
from polledger.files import file_digest
from polledger.store.run import RunDirectory
from polledger.verify import verifier
from polledger.verify.ancestry import PARENT, FindRun, FoundRun
from polledger.verify.claimalone import read_claim_files
from polledger.verify.evidence import read_evidence
from tests.verify.build import (
    OTHER_MACHINE,
    Built,
    Hooks,
    Spec,
    Weights,
    make_run,
    reseal,
    unflatten,
)
from tests.verify.check import blocking, check, failures, named
from tests.verify.claiming import write_claim
from tests.verify.presenting import challenge_of, check_asked

OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)

MODEL = ("w", "b", "count", "mean")


def head_of(run: RunDirectory, seal: int = -1) -> bytes:
    return parse_note(run.read_seal(run.seals()[seal]).note).head.digest()


def end_of(built: Built) -> Weights:
    return unflatten(parse_state(built.states[built.spec.steps], root=_last(built.records).root))


def _last(records: Sequence[AnyRecord]) -> Checkpoint:
    return [record for record in records if isinstance(record, Checkpoint)][-1]


def taking(source: Weights, names: Sequence[str] = MODEL) -> Hooks:
    """Start from the model of ``source``."""

    def first(state: Weights) -> None:
        for name in names:
            setattr(state, name, getattr(source, name).copy())

    return Hooks(first=first)


def whole(source: Weights) -> Hooks:
    def first(state: Weights) -> None:
        copied = source.copy()
        taking(copied).first(state)
        state.momentum, state.lr = copied.momentum, copied.lr

    return Hooks(first=first)


def child_of(
    built: Built, path: Path, *, hooks: Hooks | None = None, mode: Any = "model", **origin: Any
) -> Built:
    """An honest run that starts from the end of ``built``, unless told otherwise."""
    named: dict[str, Any] = {"origin": "parent", "parent": Parent(head=head_of(built.run), mode=mode)}
    start = end_of(built)
    hooks = hooks or (whole(start) if mode == "continue" else taking(start))
    return make_run(path, Spec(seed=8, origin={**named, **origin}), hooks=hooks)


def finding(*runs: Built) -> FindRun:
    """Looks among ``runs``, by their seals."""

    def find(head: bytes) -> FoundRun | None:
        for built in runs:
            if head in [head_of(built.run, number) for number in range(len(built.run.seals()))]:
                return FoundRun(
                    name=str(built.run.path),
                    evidence=read_evidence(built.run),
                    load_code=built.code(),
                    find=find,
                )
        return None

    return find


def origin(report: Report) -> list[tuple[str, str]]:
    return [(item.name, item.outcome) for item in report.findings if item.step == 8]


@pytest.fixture(scope="module")
def child(honest: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An honest run that starts from the end of the honest one. Not to be changed."""
    return child_of(honest, tmp_path_factory.mktemp("child") / "run")


def test_a_run_that_starts_from_a_verified_one_is_verified(honest: Built, child: Built) -> None:
    report = check(child, find=finding(honest))
    assert report.verdict == "VERIFIED", blocking(report)
    assert origin(report) == [(PARENT, "pass"), ("origin", "pass")]
    run = honest.records[0].run.hex()
    assert sentence(report).endswith(f"; starts from run {run}, itself VERIFIED")
    found = report.to_json()["origin"]
    assert found["head"] == head_of(honest.run).hex()
    assert (found["kind"], found["mode"], found["run"], found["verdict"]) == (
        "parent",
        "model",
        run,
        "VERIFIED",
    )
    assert found["origin"] == {"kind": "scratch"}


def test_without_its_parent_a_run_is_unverifiable_and_says_what_to_do(child: Built) -> None:
    report = check(child)
    assert report.verdict == "UNVERIFIABLE"
    (bad,) = blocking(report)
    assert (bad.name, bad.remedy) == ("origin", "give the directory of that run with --parent")


def test_a_run_that_starts_elsewhere_than_at_the_end_of_its_parent_is_refuted(
    honest: Built, tmp_path: Path
) -> None:
    stolen = end_of(honest)
    stolen.w[0, 0] += np.float32(0.25)
    report = check(child_of(honest, tmp_path / "run", hooks=taking(stolen)), find=finding(honest))
    (bad,) = failures(report)
    assert (bad.step, bad.name) == (8, "origin")
    assert "model/w" in bad.detail


def test_on_another_machine_another_start_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    thief = child_of(honest, tmp_path / "run", hooks=taking(end_of(honest), ["w", "b", "count"]))
    report = check(thief, find=finding(honest), code=thief.code(actual=OTHER_MACHINE))
    assert ("origin", "unverifiable") in origin(report)
    assert not [item for item in failures(report) if item.step == 8]


def test_scratch_with_the_weights_of_another_run_is_refuted(honest: Built, tmp_path: Path) -> None:
    thief = make_run(tmp_path / "run", Spec(seed=8), hooks=taking(end_of(honest)))
    assert [(bad.step, bad.name) for bad in failures(check(thief, find=finding(honest)))] == [(8, "origin")]


def bogus(honest: Built, path: Path, **changes: Any) -> Built:
    """``honest`` with another state in its middle."""
    records = list(honest.records)
    at = [i for i, record in enumerate(records) if isinstance(record, Checkpoint)]
    records[at[2]] = msgspec.structs.replace(records[at[2]], root=_last(records).root)
    return reseal(honest, path, records, **changes)


def of_somebody_else(built: Built) -> Built:
    """The records of ``built`` under the key OTHER, not sealed yet."""
    first = built.records[0]
    assert isinstance(first, Genesis)
    mine = msgspec.structs.replace(first, key=OTHER.public_key().public_bytes_raw())
    return replace(built, records=[mine, *built.records[1:]])


def test_a_refuted_parent_under_the_same_key_refutes(honest: Built, tmp_path: Path) -> None:
    parent = bogus(honest, tmp_path / "parent")
    report = check(child_of(parent, tmp_path / "run"), find=finding(parent))
    assert report.verdict == "REFUTED"
    assert origin(report) == [(PARENT, "fail"), ("origin", "pass")]


def test_a_refuted_parent_of_somebody_else_leaves_its_child_unverifiable(
    honest: Built, tmp_path: Path
) -> None:
    parent = bogus(of_somebody_else(honest), tmp_path / "parent", key=OTHER)
    report = check(child_of(parent, tmp_path / "run"), find=finding(parent))
    assert report.verdict == "UNVERIFIABLE"
    assert origin(report) == [(PARENT, "unverifiable"), ("origin", "pass")]
    assert "REFUTED" in named(report, PARENT)[0].detail


@pytest.mark.parametrize("mode", ["model", "continue"])
def test_what_is_sealed_after_the_named_head_does_not_refute_its_child(
    honest: Built, tmp_path: Path, mode: str
) -> None:
    signed = of_somebody_else(honest)
    edges = [2, len(signed.records)]
    parent = reseal(signed, tmp_path / "parent", signed.records, key=OTHER, sizes=edges)
    child = child_of(parent, tmp_path / "run", mode=mode)
    last = _last(parent.records)
    first = next(record for record in parent.records if isinstance(record, Checkpoint))
    # Its owner adds a checkpoint that is elsewhere, and a head over it.
    added = msgspec.structs.replace(last, index=len(parent.records), root=first.root)
    records = [*parent.records, added]
    spoilt = reseal(signed, tmp_path / "spoilt", records, key=OTHER, sizes=[*edges, len(records)])
    report = check(child, find=finding(spoilt))
    assert report.verdict == "UNVERIFIABLE"
    assert origin(report) == [(PARENT, "unverifiable"), ("origin", "pass")]


def test_a_parent_that_ends_without_a_checkpoint_starts_nothing(honest: Built, tmp_path: Path) -> None:
    signed = of_somebody_else(honest)
    final = msgspec.structs.replace(signed.records[-1], index=1)
    parent = reseal(signed, tmp_path / "parent", [signed.records[0], final], key=OTHER, sizes=[1, 2])
    start = {"parent": Parent(head=head_of(parent.run), mode="model")}
    report = check(child_of(honest, tmp_path / "run", **start), find=finding(parent))
    assert report.verdict == "UNVERIFIABLE"
    assert "does not cover the end" in named(report, "origin")[0].detail


def test_a_parent_that_cannot_be_checked_leaves_its_child_unverifiable(
    honest: Built, child: Built, tmp_path: Path
) -> None:
    shutil.copytree(honest.run.path, tmp_path / "parent")
    parent = replace(honest, run=RunDirectory.open(tmp_path / "parent"))
    middle = [record for record in honest.records if isinstance(record, Checkpoint)][2]
    parent.run.objects.path(middle.root).unlink()
    report = check(child, find=finding(parent))
    assert report.verdict == "UNVERIFIABLE"
    assert origin(report) == [(PARENT, "unverifiable"), ("origin", "pass")]


def test_a_parent_whose_end_is_lost_says_so(honest: Built, child: Built, tmp_path: Path) -> None:
    shutil.copytree(honest.run.path, tmp_path / "parent")
    parent = replace(honest, run=RunDirectory.open(tmp_path / "parent"))
    parent.run.objects.path(_last(honest.records).root).unlink()
    report = check(child, find=finding(parent))
    assert ("origin", "unverifiable") in origin(report)
    assert "final model of run" in named(report, "origin")[0].detail


def test_a_head_before_the_end_is_nothing_to_start_from(honest: Built, tmp_path: Path) -> None:
    early = {"parent": Parent(head=head_of(honest.run, 1), mode="model")}
    report = check(child_of(honest, tmp_path / "run", **early), find=finding(honest))
    assert ("origin", "unverifiable") in origin(report)
    assert "does not cover the end" in named(report, "origin")[0].detail


def test_a_seal_that_only_looks_like_the_named_head_is_not_followed(
    honest: Built, child: Built, tmp_path: Path
) -> None:
    # Its note is the parent's, its records are not: without this check runs could name each other without end.
    forged = make_run(tmp_path / "forged", Spec(seed=3))
    number = len(forged.run.seals())
    seal = honest.run.read_seal(honest.run.seals()[-1])
    forged.run.write_seal(msgspec.structs.replace(seal, index=number, tokens=[]))
    report = check(child, find=finding(forged))
    assert "do not give the head" in named(report, "origin")[0].detail
    assert origin(report) == [(PARENT, "unverifiable"), ("origin", "unverifiable")]
    assert report.origin["origin"] == {}


def test_a_run_may_go_on_from_the_whole_state_of_its_parent(honest: Built, tmp_path: Path) -> None:
    report = check(child_of(honest, tmp_path / "run", mode="continue"), find=finding(honest))
    assert report.verdict == "VERIFIED", blocking(report)
    assert "is the final state of run" in named(report, "origin")[0].detail


def test_momentum_that_is_not_the_parents_is_refuted_on_any_machine(honest: Built, tmp_path: Path) -> None:
    planted = end_of(honest)
    assert planted.momentum is not None
    planted.momentum[0][0, 0] += np.float32(1)
    thief = child_of(honest, tmp_path / "run", mode="continue", hooks=whole(planted))
    for code in (thief.code(), thief.code(actual=OTHER_MACHINE)):
        found = [item for item in failures(check(thief, find=finding(honest), code=code)) if item.step == 8]
        assert [(item.name, "momentum_buffer" in item.detail) for item in found] == [("origin", True)]


def test_momentum_does_not_come_with_the_model_alone(honest: Built, tmp_path: Path) -> None:
    thief = child_of(honest, tmp_path / "run", hooks=whole(end_of(honest)))
    assert ("origin", "fail") in origin(check(thief, find=finding(honest)))


def test_fresh_tensors_come_from_the_seed(honest: Built, tmp_path: Path) -> None:
    kept = taking(end_of(honest), ["b", "count", "mean"])
    fair = child_of(honest, tmp_path / "fair", hooks=kept, fresh=["w"])
    report = check(fair, find=finding(honest))
    assert report.verdict == "VERIFIED", blocking(report)
    assert report.origin["fresh"] == ["w"]
    run = honest.records[0].run.hex()
    assert sentence(report).endswith(f"; starts from run {run} but for 1 tensor, itself VERIFIED")
    lying = child_of(honest, tmp_path / "lying", fresh=["w"])
    assert ("origin", "fail") in origin(check(lying, find=finding(honest)))


def test_a_run_that_takes_nothing_of_its_parent_does_not_start_from_it(honest: Built, tmp_path: Path) -> None:
    # Its own work from its own seed, under the name of somebody's verified run.
    borrowed = child_of(honest, tmp_path / "run", hooks=Hooks(), fresh=sorted(MODEL))
    (bad,) = failures(check(borrowed, find=finding(honest)))
    assert (bad.name, "nothing would be taken" in bad.detail) == ("origin", True)


def chain(honest: Built, path: Path, length: int) -> list[Built]:
    runs = [honest]
    for number in range(length):
        runs.append(child_of(runs[-1], path / str(number)))
    return runs


def test_as_many_parents_are_followed_as_the_limit_says_and_no_more(
    honest: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "ANCESTORS", 2)
    runs = chain(honest, tmp_path, 3)
    within = check(runs[2], find=finding(*runs))
    assert within.verdict == "VERIFIED", blocking(within)
    assert sentence(within).count("itself VERIFIED") == 2
    beyond = check(runs[3], find=finding(*runs))
    assert beyond.verdict == "UNVERIFIABLE"
    assert "no more are followed" in beyond.origin["origin"]["sentence"]


def safetensors(path: Path, weights: Weights, names: Sequence[str] = MODEL) -> Path:
    """A model file of these tensors."""
    kinds = {"float32": "F32", "int64": "I64"}
    header: dict[str, Any] = {}
    data = b""
    for name in names:
        value = getattr(weights, name)
        begin, data = len(data), data + value.tobytes()
        entry = {
            "dtype": kinds[str(value.dtype)],
            "shape": list(value.shape),
            "data_offsets": [begin, len(data)],
        }
        header[name] = entry
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def from_file(honest: Built, path: Path, file: Path, **origin: Any) -> Built:
    fields = {"origin": "external", "external": file_digest(file), **origin}
    return make_run(path, Spec(seed=8, origin=fields), hooks=taking(end_of(honest)))


def test_a_run_that_starts_from_a_file_names_it_in_its_verdict(honest: Built, tmp_path: Path) -> None:
    file = safetensors(tmp_path / "model.safetensors", end_of(honest))
    report = check(from_file(honest, tmp_path / "run", file), external=file)
    assert report.verdict == "VERIFIED", blocking(report)
    digest = file_digest(file).hex()
    assert sentence(report).endswith(f"; starts from a file, sha256 {digest}, whose own origin is not shown")
    assert report.origin == {"kind": "external", "sha256": digest}


def test_a_file_that_is_not_at_hand_or_another_one_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    file = safetensors(tmp_path / "model.safetensors", end_of(honest))
    built = from_file(honest, tmp_path / "run", file)
    changed = end_of(honest)
    changed.w[0, 0] += np.float32(1)
    other = safetensors(tmp_path / "other.safetensors", changed)
    for given in (None, other):
        report = check(built, external=given)
        assert origin(report) == [("origin", "unverifiable")]
        assert named(report, "origin")[0].remedy == "give that file with --external"


def test_another_file_than_the_start_came_from_is_refuted(honest: Built, tmp_path: Path) -> None:
    changed = end_of(honest)
    changed.w[0, 0] += np.float32(1)
    other = safetensors(tmp_path / "other.safetensors", changed)
    thief = from_file(honest, tmp_path / "run", other)
    assert [(bad.step, bad.name) for bad in failures(check(thief, external=other))] == [(8, "origin")]


def test_a_file_that_lacks_a_tensor_is_refuted_by_name(honest: Built, tmp_path: Path) -> None:
    file = safetensors(tmp_path / "model.safetensors", end_of(honest), ["w", "b", "count"])
    (bad,) = failures(check(from_file(honest, tmp_path / "run", file), external=file))
    assert "mean of the model is not in what it starts from" in bad.detail


def test_a_file_that_is_none_of_tensors_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"no tensors")
    report = check(from_file(honest, tmp_path / "run", file), external=file)
    assert origin(report) == [("origin", "unverifiable")]


def test_what_was_asked_about_a_run_is_not_asked_of_its_parent(
    honest: Built, child: Built, tmp_path: Path
) -> None:
    claim = read_claim_files(write_claim(child, tmp_path / "claim", tsa=tmp_path / "tsa"))
    model = safetensors(tmp_path / "model.safetensors", end_of(child))
    for report in (
        check(child, find=finding(honest), claim=claim, model=model),
        check_asked(child, challenge_of(child), find=finding(honest)),
    ):
        assert report.verdict == "VERIFIED", blocking(report)
        assert origin(report) == [(PARENT, "pass"), ("origin", "pass")]
