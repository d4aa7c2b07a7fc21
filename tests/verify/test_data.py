"""Step 7: examples, batches and domains."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.config import encode_config
from polledger.core.encoding import real
from polledger.core.nest import NestTensor, encode_header
from polledger.core.order import Order
from polledger.core.records import Dataset, Domain, Genesis, Step
from polledger.errors import MalformedError
from polledger.store.objects import ObjectStore
from polledger.verify.data import DataChecks
from polledger.verify.domains import DomainCheck, describe, in_domain
from polledger.verify.lineage import Interval, build_lineage
from polledger.verify.openings import RunOpenings
from tests.verify.build import CONFIG, ENVIRONMENT, Built, NumpyReplayer, Spec, make_run


def checks(built: Built, **changes: Any) -> DataChecks:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    values: dict[str, Any] = {
        "genesis": genesis,
        "openings": RunOpenings(secret=built.run.secret(), objects=built.run.objects),
    }
    return DataChecks(**{**values, **changes})


def interval(built: Built, number: int = 2, **changes: Any) -> Interval:
    """An interval of the run, its first step record changed."""
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    found = build_lineage(genesis, built.records).intervals[number]
    first = msgspec.structs.replace(found.steps[0], **changes)
    return replace(found, steps=(first, *found.steps[1:]))


def replayer(built: Built, **options: Any) -> NumpyReplayer:
    return NumpyReplayer(spec=built.spec, environment=ENVIRONMENT, **options)


def test_honest_examples_are_authentic(honest: Built) -> None:
    data = checks(honest)
    opened = data.open(interval(honest), replayer(honest))
    assert opened.authentic
    assert data.findings == []
    order = Order(honest.spec.s, honest.spec.examples)
    assert [batch.indices for batch in opened.batches] == [tuple(order.step(n, 4)) for n in (2, 3)]


def test_summary_passes_only_for_checked_steps(honest: Built) -> None:
    data = checks(honest)
    data.open(interval(honest), replayer(honest))
    assert [finding.outcome for finding in data.summary(steps=2)] == ["pass"]
    assert list(data.summary(steps=0)) == []


def test_an_example_that_was_not_committed_is_unverifiable(honest: Built) -> None:
    data = checks(honest)
    opened = data.open(interval(honest), replayer(honest, data=replace(honest.spec, labels=1)))
    assert not opened.authentic
    assert {finding.outcome for finding in data.findings} == {"unverifiable"}
    assert list(data.summary(steps=2)) == []


def test_examples_recorded_for_a_recipe_must_be_those_of_the_seed(honest: Built) -> None:
    order = Order(honest.spec.s, honest.spec.examples)
    true = checks(honest)
    true.open(interval(honest, examples=order.step(2, 4)), replayer(honest))
    assert true.findings == []
    data = checks(honest)
    data.open(interval(honest, examples=[0, 1, 2, 3]), replayer(honest))
    assert [finding.outcome for finding in data.findings] == ["fail"]


def test_a_custom_task_takes_the_examples_of_its_seed_too(honest: Built) -> None:
    genesis = msgspec.structs.replace(honest.records[0], kind="custom")
    assert isinstance(genesis, Genesis)
    data = checks(honest, genesis=genesis)
    opened = data.open(interval(honest, examples=[0, 1, 2, 3]), replayer(honest))
    assert opened.batches[0].indices == (0, 1, 2, 3)
    assert [finding.outcome for finding in data.findings] == ["fail"]
    assert "do not follow from the seed" in data.findings[0].detail


def test_an_example_beyond_the_data_set_is_refuted(honest: Built) -> None:
    genesis = msgspec.structs.replace(honest.records[0], kind="custom")
    assert isinstance(genesis, Genesis)
    data = checks(honest, genesis=genesis)
    data.open(interval(honest, examples=[0, 1, 2, 20]), replayer(honest))
    assert {finding.outcome for finding in data.findings} == {"fail"}
    assert any("beyond the 20" in finding.detail for finding in data.findings)


def test_without_a_data_set_the_task_makes_its_batches(custom: Built) -> None:
    data = checks(custom)
    opened = data.open(interval(custom), replayer(custom))
    assert opened.batches[0].examples is None
    assert opened.batches[0].batch is not None
    assert data.batch_matches(interval(custom).steps[0], opened.batches[0].batch)
    assert [finding.name for finding in data.summary(steps=2)] == ["inclusion", "data.origin"]


@pytest.mark.parametrize("change", ["no batch size", "a size beyond any order"])
def test_a_data_set_named_beside_batches_of_the_tasks_own_shows_nothing(custom: Built, change: str) -> None:
    genesis = custom.records[0]
    assert isinstance(genesis, Genesis)
    size = 20 if change == "no batch size" else (1 << 32) + 1
    config = encode_config({key: value for key, value in CONFIG.items() if key != "batch_size"})
    named = msgspec.structs.replace(genesis, dataset=Dataset(root=bytes(32), size=size), config=config)
    data = checks(custom, genesis=named)
    assert not data.open(interval(custom), replayer(custom)).authentic
    assert {finding.outcome for finding in data.findings} == {"unverifiable"}
    assert "nothing shows that its examples were consumed" in data.findings[0].detail


def test_batch_digest_is_salted_by_step(custom: Built) -> None:
    data = checks(custom)
    steps = interval(custom).steps
    batch = next(iter(replayer(custom).open_batches([(steps[0].step, None)]))).batch
    assert batch is not None
    assert data.batch_matches(steps[0], batch)
    assert not data.batch_matches(steps[1], batch)
    assert not data.batch_matches(steps[0], batch + b"x")


def test_without_the_secret_nothing_matches_and_it_is_said_once(honest: Built) -> None:
    openings = RunOpenings(secret=None, objects=honest.run.objects, problem="the run secret is damaged")
    data = checks(honest, openings=openings)
    assert not data.readable()
    assert not data.readable()
    assert not data.open(interval(honest), replayer(honest)).authentic
    assert not data.batch_matches(interval(honest).steps[0], b"")
    assert ["run secret" in finding.detail for finding in data.findings] == [True]


@pytest.mark.parametrize("damage", ["missing", "changed", "short", "long"])
def test_a_damaged_list_of_leaves_is_unverifiable_and_named(
    honest: Built, tmp_path: Path, damage: str
) -> None:
    genesis = honest.records[0]
    assert isinstance(genesis, Genesis)
    assert genesis.dataset is not msgspec.UNSET
    root = genesis.dataset.root
    data = bytes(honest.run.objects.read(root, limit=1 << 20))
    store = ObjectStore(tmp_path)
    contents = {"changed": b"\x00" + data[1:], "short": data[:-32], "long": data + bytes(32)}
    if damage in contents:
        store.put_named(root, [contents[damage]])
    found = checks(honest, openings=RunOpenings(secret=honest.run.secret(), objects=store))
    assert not found.open(interval(honest), replayer(honest)).authentic
    assert [root.hex() in finding.detail for finding in found.findings] == [True]


def test_a_list_of_leaves_of_another_length_than_genesis_says_is_refused(honest: Built) -> None:
    genesis = honest.records[0]
    assert isinstance(genesis, Genesis)
    assert genesis.dataset is not msgspec.UNSET
    shorter = msgspec.structs.replace(genesis.dataset, size=19)
    lying = msgspec.structs.replace(genesis, dataset=shorter)
    assert not checks(honest, genesis=lying).open(interval(honest), replayer(honest)).authentic


def test_a_value_outside_its_declared_domain_is_refuted(tmp_path: Path) -> None:
    spec = Spec(domains=(Domain(field="1", kind="range", low=real(0.0), high=real(1.0)),))
    built = make_run(tmp_path / "run", spec)
    data = checks(built)
    data.open(interval(built, 4), replayer(built))
    assert data.findings
    assert {finding.outcome for finding in data.findings} == {"fail"}
    assert "outside its declared domain" in data.findings[0].detail


def test_ranges_of_undeclared_fields_are_observed(honest: Built) -> None:
    data = checks(honest)
    data.open(interval(honest), replayer(honest))
    assert set(data.domains.observed) == {"0"}
    assert not data.domains.observed["0"].whole
    text = next(iter(data.summary(steps=2))).detail
    assert "field '0' holds" in text
    assert "1 declared fields" in text


def test_an_example_that_is_no_nest_is_unverifiable(honest: Built) -> None:
    data = checks(honest)
    step = interval(honest).steps[0]
    assert isinstance(step, Step)
    data._check_domain(step, 0, b"junk", 2)
    assert [finding.outcome for finding in data.findings] == ["unverifiable"]


# Domains


def domain(kind: str, *bounds: float) -> Domain:
    names = ("low", "high", "step")
    return Domain(field="x", kind=kind, **{name: real(v) for name, v in zip(names, bounds, strict=False)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "inside", "outside"),
    [
        (domain("range", 0, 9), [0.0, 9.0], [-1.0]),
        (domain("range", 0, 9), [3.0], [3.5]),
        (domain("range", 0, 9), [3.0], [10.0]),
        (domain("grid", 0, 1, 0.25), [0.0, 0.25, 1.0], [0.3]),
        (domain("grid", 0, 1, 0.25), [0.5], [1.25]),
        (domain("grid", -1, 1, 2), [-1.0, 1.0], [0.0]),
        (domain("one_hot"), [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]),
        (domain("one_hot"), [1.0], [1.0, 1.0]),
        (domain("one_hot"), [1.0, 0.0], [0.0, 0.0]),
        (domain("range", 0, 9), [1.0], [math.nan]),
        (domain("grid", 0, 1, 0.25), [1.0], [math.nan]),
        (domain("one_hot"), [1.0, 0.0], [1.0, math.nan]),
        (domain("range", 0, 9), [1.0], [math.inf]),
    ],
)
def test_domains(made: Domain, inside: list[float], outside: list[float]) -> None:
    assert in_domain(np.array(inside), made)
    assert not in_domain(np.array(outside), made)
    assert describe(made)


def test_pixels_of_float32_lie_on_the_grid_of_255ths() -> None:
    pixels = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float64)
    assert in_domain(pixels, domain("grid", 0, 1, 1 / 255))
    assert not in_domain(pixels + 1e-6, domain("grid", 0, 1.1, 1 / 255))


def test_one_hot_holds_for_each_row() -> None:
    assert in_domain(np.eye(3), domain("one_hot"))
    assert not in_domain(np.array([[1.0, 0.0], [0.0, 0.0]]), domain("one_hot"))
    assert not in_domain(np.array(1.0), domain("one_hot"))


def nest(structure: list[Any], tensors: list[NestTensor], data: bytes = b"") -> bytes:
    return encode_header(structure, tensors) + data


def test_fields_are_found_in_nests_of_every_kind() -> None:
    value = ["map", [["x", ["tuple", [["int", "5"], ["float", real(0.5)], ["bool", True], ["str", "s"]]]],
                     ["y", ["tensor", 0]], ["z", ["scalar", 1]]]]  # fmt: skip
    tensors = [NestTensor(dtype="uint8", shape=[2]), NestTensor(dtype="int16", shape=[])]
    check = DomainCheck([])
    assert check.check(nest(value, tensors, bytes([3, 200]) + (-7).to_bytes(2, "little", signed=True))) == ""
    ranges = {path: (seen.low, seen.high) for path, seen in check.observed.items()}
    assert ranges == {"x/0": (5, 5), "x/1": (0.5, 0.5), "x/2": (1, 1), "y": (3, 200), "z": (-7, -7)}
    assert str(check.observed["y"]) == "3 to 200 (whole numbers)"


def test_a_declared_field_that_no_example_has_is_said() -> None:
    check = DomainCheck([domain("range", 0, 1)])
    check.check(nest(["int", "5"], []))
    assert check.unseen == ["x"]


def test_integers_of_any_size_are_compared() -> None:
    check = DomainCheck([Domain(field="0", kind="range", low=real(0.0), high=real(9.0))])
    huge = nest(["tuple", [["int", "9" * 400]]], [])
    assert "outside" in check.check(huge)
    assert "outside" in check.check(nest(["tuple", [["int", "-" + "9" * 400]]], []))


def test_what_is_no_nest_is_malformed() -> None:
    with pytest.raises(MalformedError):
        DomainCheck([]).check(b"\x00" * 9)
