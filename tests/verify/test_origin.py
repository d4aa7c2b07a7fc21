"""Step 8: the first state."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.environment import same_class
from polledger.core.records import Genesis
from polledger.core.replay import AS_RECORDED, ReplayFailed
from polledger.core.report import Finding
from polledger.core.state import TensorData
from polledger.verify.lineage import build_lineage
from polledger.verify.origin import OriginTask, is_constant, step_origin
from polledger.verify.states import load_state
from tests.verify import build
from tests.verify.build import ENVIRONMENT, OBJECTS, OTHER_MACHINE, Built, NumpyReplayer, Weights, make_run


def origin(
    built: Built, *, again: dict[str, Any] | None = None, packages: tuple[str, ...] = (), **options: Any
) -> list[Finding]:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    first = build_lineage(genesis, built.records).intervals[0]
    task = OriginTask(
        genesis=genesis,
        first=first,
        recorded=load_state(built.run.objects, first.start.root),
        base=AS_RECORDED,
        differences=lambda here, recorded: [*same_class(here, recorded), *packages],
    )
    replayers = [
        NumpyReplayer(spec=built.spec, environment=ENVIRONMENT, **chosen)
        for chosen in (options, options if again is None else again)
    ]
    return list(step_origin(task, replayers[0], lambda: replayers[1]).findings)


def test_an_equal_rebuild_passes(honest: Built) -> None:
    assert [finding.outcome for finding in origin(honest)] == ["pass"]


def test_an_equal_rebuild_passes_on_another_machine(honest: Built) -> None:
    assert [finding.outcome for finding in origin(honest, actual=OTHER_MACHINE)] == ["pass"]


def test_domains_that_genesis_leaves_out_are_refuted(honest: Built) -> None:
    silent = msgspec.structs.replace(honest.records[0], domains=msgspec.UNSET)
    built = replace(honest, records=[silent, *honest.records[1:]])
    (finding,) = origin(built)
    assert (finding.outcome, finding.expected, finding.found) == ("fail", "range", "none")
    assert [item.outcome for item in origin(built, actual=OTHER_MACHINE)] == ["unverifiable"]


def stolen(state: Weights) -> None:
    state.b[1] = np.float32(0.5)


def test_another_first_state_is_refuted_with_the_first_differing_path(tmp_path: Any) -> None:
    built = make_run(tmp_path / "run", hooks=build.Hooks(first=stolen))
    found = origin(built)
    assert [finding.outcome for finding in found] == ["fail"]
    assert "model/b" in found[0].detail


def test_another_first_state_is_unverifiable_on_another_machine(tmp_path: Any) -> None:
    built = make_run(tmp_path / "run", hooks=build.Hooks(first=stolen))
    found = origin(built, actual=OTHER_MACHINE)
    assert [finding.outcome for finding in found] == ["unverifiable"]
    assert "threads" in found[0].detail
    packages = origin(built, packages=("package pillow",))
    assert [finding.outcome for finding in packages] == ["unverifiable"]
    assert "package pillow" in packages[0].detail


def test_two_rebuilds_that_differ_refute_nothing(honest: Built) -> None:
    found = origin(honest, flaky=True)
    assert [finding.outcome for finding in found] == ["unverifiable"]
    assert "not deterministic" in found[0].detail


def test_a_rebuild_that_fails_is_unverifiable(honest: Built) -> None:
    assert [finding.outcome for finding in origin(honest, fail="rebuild")] == ["unverifiable"]


class Nonsense(NumpyReplayer):
    """Answers with bytes that are no state."""

    def rebuild(self, *, variant: Any = AS_RECORDED, size: int | None = None) -> Any:
        return msgspec_replace(super().rebuild(variant=variant))


def msgspec_replace(rebuilt: Any) -> Any:
    from dataclasses import replace

    return replace(rebuilt, state=b"nonsense")


def test_a_rebuild_that_is_no_state_is_unverifiable(honest: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.verify.test_origin.NumpyReplayer", Nonsense)
    assert [finding.outcome for finding in origin(honest)] == ["unverifiable"]


def test_objects_that_genesis_leaves_out_are_refuted(honest: Built) -> None:
    extra = [*OBJECTS, msgspec.structs.replace(OBJECTS[0], name="ema")]
    found = origin(honest, describe=extra)
    assert [(finding.outcome, finding.found) for finding in found] == [("fail", "nothing")]


def test_an_optimizer_that_starts_with_planted_state_is_unverifiable(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build.build_state

    def planted(spec: Any) -> Weights:
        state = plain(spec)
        state.momentum = [np.arange(15, dtype=np.float32).reshape(5, 3), np.zeros(3, np.float32)]
        return state

    monkeypatch.setattr(build, "build_state", planted)
    found = origin(make_run(tmp_path / "run"))
    assert [finding.outcome for finding in found] == ["unverifiable"]
    assert "momentum_buffer" in found[0].detail


def test_an_optimizer_that_starts_with_constants_passes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build.build_state

    def constant(spec: Any) -> Weights:
        state = plain(spec)
        state.momentum = [np.full((5, 3), 0.1, np.float32), np.zeros(3, np.float32)]
        return state

    monkeypatch.setattr(build, "build_state", constant)
    assert [finding.outcome for finding in origin(make_run(tmp_path / "run"))] == ["pass"]


@pytest.mark.parametrize(
    ("values", "dtype", "constant"),
    [
        ([1.0, 1.0], "float32", True),
        ([1.0, 2.0], "float32", False),
        ([0.0, -0.0], "float32", False),
        ([7, 7, 7], "int64", True),
        ([7, 8], "int64", False),
        ([], "float32", True),
    ],
)
def test_constant_tensors(values: list[float], dtype: str, constant: bool) -> None:
    data = memoryview(np.array(values, dtype=dtype).tobytes())
    assert is_constant(TensorData(path="x", dtype=dtype, shape=(len(values),), data=data)) == constant


def test_parent_and_external_origins_are_unverifiable_with_a_remedy(honest: Built) -> None:
    from dataclasses import replace

    genesis = msgspec.structs.replace(honest.records[0], origin="external", external=bytes(32))
    found = origin(replace(honest, records=[genesis, *honest.records[1:]]))
    assert [(finding.outcome, bool(finding.remedy)) for finding in found] == [("unverifiable", True)]


def test_failure_of_the_second_rebuild_refutes_nothing(tmp_path: Any) -> None:
    built = make_run(tmp_path / "run", hooks=build.Hooks(first=stolen))
    found = origin(built, again={"fail": "rebuild"})
    assert [finding.outcome for finding in found] == ["unverifiable"]
    assert issubclass(ReplayFailed, Exception)
