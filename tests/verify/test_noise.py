"""Perturbed starts and the noise floor."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.records import Checkpoint
from polledger.core.replay import AS_RECORDED, ReplayJob, Variant
from polledger.core.state import FlatState, parse_state
from polledger.verify.noise import NoiseTask, compute_precision, measure_noise, other_variant, perturbed
from polledger.verify.states import encode_file, hash_state
from tests.verify.build import (
    ENVIRONMENT,
    OBJECTS,
    OTHER_MACHINE,
    Built,
    NumpyReplayer,
    Spec,
    build_state,
    flatten,
    unflatten,
)


def parsed(**changes: Any) -> FlatState:
    state = build_state(Spec())
    for name, value in changes.items():
        setattr(state, name, value)
    data, root = encode_file(flatten(state))
    return parse_state(data, root=root)


def test_every_parameter_moves_one_ulp_and_nothing_else_moves() -> None:
    before = parsed()
    after = unflatten(perturbed(before, OBJECTS, seed=b"\x01" * 32, precision="native"))
    original = unflatten(before)
    steps = {
        np.nextafter(v, np.float32(s)) for v in original.w.ravel() for s in (np.float32(-9), np.float32(9))
    }
    assert all(item in steps for item in after.w.ravel())
    assert np.all(after.w != original.w)
    assert np.all(after.b != original.b)
    assert np.array_equal(after.mean, original.mean)
    assert after.count == original.count


def test_directions_follow_from_the_seed_and_differ_between_seeds() -> None:
    flat = parsed()
    one, same, other = (
        encode_file(perturbed(flat, OBJECTS, seed=bytes([s]) * 32, precision="native"))[1] for s in (1, 1, 2)
    )
    assert one == same != other


def test_both_directions_occur() -> None:
    original = parsed()
    after = unflatten(perturbed(original, OBJECTS, seed=b"\x03" * 32, precision="native")).w
    moved_up = after > unflatten(original).w
    assert 0 < moved_up.sum() < moved_up.size


def test_tied_tensors_move_alike() -> None:
    flat = parsed()
    tied = replace(flat.tensors[-1], path="model/z")
    assert flat.tensors[-1].path == "model/w"
    with_tie = FlatState(skeletons=flat.skeletons, tensors=[*flat.tensors, tied])
    after = perturbed(with_tie, OBJECTS, seed=b"\x01" * 32, precision="native")
    assert after.tensors[-1].data == after.tensors[-2].data != flat.tensors[-1].data


def test_coarse_precision_moves_further() -> None:
    flat = parsed()
    native, coarse = (
        unflatten(perturbed(flat, OBJECTS, seed=b"\x01" * 32, precision=precision))  # type: ignore[arg-type]
        for precision in ("native", "bfloat16")
    )
    w = unflatten(flat).w
    assert np.all(np.abs(coarse.w - w) > 1000 * np.abs(native.w - w))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, "native"),
        ({"precision": "fp32"}, "native"),
        ({"precision": "bf16"}, "bfloat16"),
        ({"precision": "fp16"}, "float16"),
        ({"precision": "tf32"}, "native"),
    ],
)
def test_precision_follows_config(config: dict[str, Any], wanted: str) -> None:
    assert compute_precision(config, ("cpu", "cpu")) == wanted


@pytest.mark.parametrize("devices", [("Some GPU", "cpu"), ("cpu", "Some GPU"), ("Some GPU", "Some GPU")])
def test_tf32_rounds_where_a_gpu_had_part(devices: tuple[str, str]) -> None:
    assert compute_precision({"precision": "tf32"}, devices) == "tfloat32"


def test_the_other_variant_has_another_thread_count() -> None:
    assert other_variant(ENVIRONMENT, AS_RECORDED) == Variant(threads=2)
    assert other_variant(msgspec.structs.replace(ENVIRONMENT, threads=8), AS_RECORDED) == Variant(threads=1)
    assert other_variant(ENVIRONMENT, Variant(threads=4, capability="AVX2")) == Variant(
        threads=1, capability="AVX2"
    )


def task(honest: Built, **changes: Any) -> NoiseTask:
    checkpoint = next(item for item in honest.records if isinstance(item, Checkpoint) and item.step == 4)
    start = honest.states[4]
    replayer = NumpyReplayer(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    from polledger.core.order import Order

    order = Order(honest.spec.s, honest.spec.examples)
    batches = tuple(replayer.open_batches([(step, order.step(step, 4)) for step in range(4, 8)]))
    job = ReplayJob(start=start, root=checkpoint.root, first_step=4, last_step=8, batches=batches)
    own = hash_state(replayer.replay(job).state)
    values: dict[str, Any] = {
        "job": job,
        "start": parse_state(start, root=checkpoint.root),
        "replayed": own.flat,
        "final": hash_state(honest.states[12]).flat,
        "objects": OBJECTS,
        "seed": b"s" * 32,
        "replicas": 4,
        "precision": "native",
        "base": AS_RECORDED,
        "other": Variant(threads=1),
    }
    return NoiseTask(**{**values, **changes})


class Counting(NumpyReplayer):
    """Keeps what it was asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[tuple[bytes, Variant]] = []

    def replay(self, job: ReplayJob, *, variant: Variant = AS_RECORDED) -> Any:
        self.asked.append((job.root, variant))
        return super().replay(job, variant=variant)


def test_noise_comes_from_four_perturbed_replays_and_one_other_variant(honest: Built) -> None:
    replayer = Counting(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    wanted = task(honest)
    noise = measure_noise(wanted, replayer)
    assert len(replayer.asked) == 5
    assert [variant for _, variant in replayer.asked] == [AS_RECORDED] * 4 + [Variant(threads=1)]
    roots = [root for root, _ in replayer.asked]
    assert len(set(roots[:4])) == 4
    assert roots[4] == wanted.job.root
    assert 0 < noise.floor["model/parameters"] < 1e-4
    assert len(noise.leans) == 5


def test_noise_is_measured_from_the_verifiers_own_replay_not_from_the_record(honest: Built) -> None:
    # Were it measured from the recorded state, a forged one would excuse itself.
    replayer = NumpyReplayer(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    floor = measure_noise(task(honest), replayer).floor
    far = build_state(honest.spec)
    far.momentum = [np.ones_like(far.w), np.ones_like(far.b)]
    replayer = NumpyReplayer(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    moved = measure_noise(task(honest, replayed=flatten(far)), replayer).floor
    assert moved["model/parameters"] > 1000 * floor["model/parameters"]


def test_a_replica_of_another_structure_makes_the_noise_infinite(honest: Built) -> None:
    replayer = NumpyReplayer(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    bare = flatten(build_state(honest.spec))
    floor = measure_noise(task(honest, replayed=bare), replayer).floor
    assert floor["optimizer/momentum_buffer"] == float("inf")


def test_without_a_final_state_nothing_is_known_about_leaning(honest: Built) -> None:
    replayer = NumpyReplayer(spec=honest.spec, environment=ENVIRONMENT, actual=OTHER_MACHINE)
    assert all(np.isnan(item) for item in measure_noise(task(honest, final=None), replayer).leans)
