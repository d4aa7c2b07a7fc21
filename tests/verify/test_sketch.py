"""The two-party form: what a prover answers under a seed, what is screened from it, what an opened payload refutes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.encoding import encode
from polledger.core.records import Checkpoint, Genesis
from polledger.core.screening import ScreeningRules, screen
from polledger.core.sketch import DIRECTIONS, Sketches, decode_place, encode_place, parse_sketches
from polledger.core.state import FlatState, TensorData, parse_state
from polledger.errors import MalformedError, Unavailable
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.movement import Meter
from polledger.verify.sketch import answer_problems, check_opened, make_sketches, track_of
from tests.verify.build import CONFIG, OBJECTS, Built, Spec, make_jumped, make_run

HEAD, SEED = b"h" * 32, b"s" * 32


def lineage_of(built: Built) -> Lineage:
    genesis = built.records[0]
    assert isinstance(genesis, Genesis)
    return build_lineage(genesis, built.records)


def answer_of(built: Built, seed: bytes = SEED) -> Sketches:
    return make_sketches(lineage_of(built), built.run.objects, head=HEAD, seed=seed)


def opened(built: Built, step: int) -> FlatState:
    root = next(item.root for item in built.records if isinstance(item, Checkpoint) and item.step == step)
    return parse_state(built.states[step], root=root)


def with_place(answer: Sketches, at: int, group: str, change: Any) -> Sketches:
    """The answer with another place of ``group`` at one checkpoint."""
    number = answer.groups.index(group)
    values = list(answer.sketches[at].values)
    values[number] = encode_place(change(np.array(decode_place(values[number]))))
    sketches = list(answer.sketches)
    sketches[at] = msgspec.structs.replace(sketches[at], values=values)
    return msgspec.structs.replace(answer, sketches=sketches)


@pytest.fixture(scope="module")
def jumped(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """220 intervals, a jump in number 110. Not to be changed."""
    return make_jumped(tmp_path_factory.mktemp("jumped") / "run", steps=220)


def test_an_answer_goes_through_the_gate_and_has_every_group(honest: Built) -> None:
    answer = answer_of(honest)
    assert parse_sketches(encode(answer)) == answer
    assert answer.groups == ["model/buffers", "model/parameters", "optimizer/momentum_buffer"]
    assert [sketch.step for sketch in answer.sketches] == [0, 1, 2, 4, 8, 12]
    assert answer_problems(answer, lineage_of(honest), head=HEAD, seed=SEED) == []


def test_numbers_that_are_not_finite_are_no_answer(honest: Built) -> None:
    for value in (np.nan, np.inf):
        poisoned = with_place(answer_of(honest), 3, "model/buffers", lambda place, v=value: place + v)
        with pytest.raises(MalformedError, match="not finite"):
            parse_sketches(encode(poisoned))


@pytest.mark.parametrize("value", [1e101, -1e308])
def test_numbers_that_no_projection_reaches_are_no_answer(honest: Built, value: float) -> None:
    """Sums and products of what is let through stay numbers: the rules fail on no answer."""
    answer = with_place(answer_of(honest), 3, "model/parameters", lambda place: place + value)
    with pytest.raises(MalformedError, match="sketch after step 4"):
        parse_sketches(encode(answer))
    signs = np.where(np.arange(DIRECTIONS) % 2, 9e99, -9e99)
    for at in range(1, 6):
        answer = with_place(answer, at, "model/parameters", lambda place, at=at: signs * (-1) ** at)
    flags = screen(track_of(parse_sketches(encode(answer)), lineage_of(honest)), ScreeningRules())
    assert flags


@pytest.mark.parametrize(
    "values",
    [
        {"groups": ["model/parameters", "model/buffers", "optimizer/momentum_buffer"]},
        {"groups": ["model/buffers", "model/parameters"]},
    ],
)
def test_groups_and_places_belong_together(honest: Built, values: dict[str, Any]) -> None:
    answer = answer_of(honest)
    with pytest.raises((MalformedError, ValueError)):
        parse_sketches(encode(msgspec.structs.replace(answer, **values)))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"run": b"r" * 16}, "another run"),
        ({"head": b"g" * 32}, "another head"),
        ({"seed": b"t" * 32}, "another seed"),
    ],
)
def test_an_answer_to_another_question_is_none(honest: Built, change: dict[str, Any], problem: str) -> None:
    answer = msgspec.structs.replace(answer_of(honest), **change)
    (found,) = answer_problems(answer, lineage_of(honest), head=HEAD, seed=SEED)
    assert problem in found


def test_an_answer_leaves_no_checkpoint_out_and_invents_none(honest: Built) -> None:
    answer = answer_of(honest)
    short = msgspec.structs.replace(answer, sketches=answer.sketches[:-1])
    other = msgspec.structs.replace(
        answer, sketches=[msgspec.structs.replace(answer.sketches[0], root=b"x" * 32), *answer.sketches[1:]]
    )
    for bad in (short, other):
        assert answer_problems(bad, lineage_of(honest), head=HEAD, seed=SEED)


def test_places_begin_at_zero(honest: Built) -> None:
    """Far from zero the difference of two places says nothing: any lie would be lost in their roundings."""
    answer = answer_of(honest)
    for at in range(len(answer.sketches)):
        answer = with_place(answer, at, "model/parameters", lambda place: place + 2.0**60)
    (problem,) = answer_problems(answer, lineage_of(honest), head=HEAD, seed=SEED)
    assert "model/parameters" in problem


def test_a_missing_object_is_named_to_the_prover(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run")
    gone = next(item for item in built.records if isinstance(item, Checkpoint) and item.step == 4)
    built.run.objects.path(gone.root).unlink()
    with pytest.raises(Unavailable, match=gone.root.hex()):
        answer_of(built)


def test_sketches_alone_show_the_jump(jumped: Built) -> None:
    for seed in (SEED, b"t" * 32, b"u" * 32):
        track = track_of(answer_of(jumped, seed), lineage_of(jumped))
        flags = screen(track, ScreeningRules())
        assert ("jump", 110) in [(flag.kind, flag.first) for flag in flags]
        # Displacements are estimates here, but no honest one comes near.
        assert [flag.first for flag in flags if flag.kind == "jump" and flag.strength > 2] == [110]


def test_segments_of_an_answer_are_those_of_the_run(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec(keep=3, config={**CONFIG, "steps": 24}))
    track = track_of(answer_of(built), lineage_of(built))
    assert [(s.first, s.last, s.steps) for s in track.segments] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 4, 10),
        (5, 7, 12),
    ]
    assert not any(segment.still for segment in track.segments)


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_honest_payloads_agree_with_their_sketches(honest: Built, at: int) -> None:
    steps = [0, 1, 2, 4, 8, 12]
    start, end = opened(honest, steps[at]), opened(honest, steps[at + 1])
    assert check_opened(answer_of(honest), at, start=start, end=end, objects=OBJECTS) == []


def test_another_order_of_summation_is_no_contradiction(honest: Built) -> None:
    """A machine whose products are as wrong as half precision would make them still agrees; a lie of 1 % does not."""
    answer = answer_of(honest)
    start, end = opened(honest, 4), opened(honest, 8)
    u = float(np.linalg.norm(_parameters(end) - _parameters(start)))
    for error, contradicted in ((2e-4, False), (1e-2, True)):
        rounded = with_place(answer, 4, "model/parameters", lambda place, e=error: place + e * u)
        found = check_opened(rounded, 3, start=start, end=end, objects=OBJECTS)
        assert [item.group for item in found] == ["model/parameters"] * contradicted


def _parameters(flat: FlatState) -> Any:
    return np.concatenate(
        [np.frombuffer(t.data, "<f4") for t in flat.tensors if t.path in ("model/b", "model/w")]
    )


@pytest.mark.parametrize("group", ["model/buffers", "model/parameters", "optimizer/momentum_buffer"])
def test_an_answer_that_smooths_a_jump_over_is_contradicted_by_any_payload_in_it(
    jumped: Built, group: str
) -> None:
    """The prover says that the way of intervals 100 to 120 was walked evenly, although one of them made it."""
    answer = answer_of(jumped)
    number = answer.groups.index(group)
    begin, end = (np.array(decode_place(answer.sketches[at].values[number])) for at in (100, 121))
    for at in range(101, 121):
        answer = with_place(answer, at, group, lambda place, at=at: begin + (end - begin) * (at - 100) / 21)
    for at in (100, 105, 110, 120):
        found = check_opened(
            answer, at, start=opened(jumped, at), end=opened(jumped, at + 1), objects=OBJECTS
        )
        assert [item.group for item in found] == [group]
        assert found[0].apart > found[0].allowed


def test_a_number_that_is_not_finite_excuses_no_lie(honest: Built) -> None:
    """One parameter that turns into NaN makes the displacement infinite, not what an answer may be off by."""
    start, end = opened(honest, 4), _with_nan(opened(honest, 8))
    meter = Meter(OBJECTS, seed=SEED, every_group=True)
    for flat in (start, end):
        meter.take(flat)
    change = meter.sketches["model/parameters"][1]
    answer = answer_of(honest)
    begin = np.array(decode_place(answer.sketches[3].values[answer.groups.index("model/parameters")]))
    for lie, contradicted in ((0.0, False), (1e6, True)):
        said = with_place(answer, 4, "model/parameters", lambda _, lie=lie: begin + change + lie)
        found = check_opened(said, 3, start=start, end=end, objects=OBJECTS)
        assert [item.group for item in found] == ["model/parameters"] * contradicted


def _with_nan(flat: FlatState) -> FlatState:
    (w,) = (tensor for tensor in flat.tensors if tensor.path == "model/w")
    values = np.frombuffer(w.data, "<f4").copy()
    values[0] = np.nan
    changed = replace(w, data=memoryview(values.tobytes()))
    return replace(flat, tensors=[changed if tensor is w else tensor for tensor in flat.tensors])


def test_a_group_that_the_answer_leaves_out_is_a_contradiction(honest: Built) -> None:
    answer = answer_of(honest)
    silent = msgspec.structs.replace(
        answer,
        groups=answer.groups[:2],
        sketches=[msgspec.structs.replace(sketch, values=sketch.values[:2]) for sketch in answer.sketches],
    )
    found = check_opened(silent, 3, start=opened(honest, 4), end=opened(honest, 8), objects=OBJECTS)
    assert [item.group for item in found] == ["optimizer/momentum_buffer"]


def test_late_training_is_not_lost_in_the_size_of_the_weights() -> None:
    """Changes of a millionth of the weights after a long way: places are sums of changes, in binary64."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=4000).astype("<f4") * 100
    meter = Meter(OBJECTS, seed=SEED, every_group=True)
    states = [weights]
    for scale in (1e3, 1.0, 1e-3):
        states.append((states[-1] + scale * rng.normal(size=4000)).astype("<f4"))
    for values in states:
        meter.take(_state(values))
    places = meter.sketches["model/parameters"]
    assert [len(place) for place in places] == [DIRECTIONS] * 4
    assert np.linalg.norm(places[3] - places[2]) == pytest.approx(
        np.linalg.norm(states[3] - states[2]), rel=0.4
    )


def _state(values: Any) -> FlatState:
    tensor = TensorData(
        path="model/w", dtype="float32", shape=values.shape, data=memoryview(values.tobytes())
    )
    return FlatState(skeletons=[], tensors=[tensor])
