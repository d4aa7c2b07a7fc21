"""The noise floor of one interval: how far the verifier's own replays move when nothing but noise changes.

PROTOCOL section 10: every floating parameter is moved one ulp, in the dtype it is computed in, in random directions,
at least four times; and once the thread count (or CPU capability) changes. ν of a group is the largest distance from
the unperturbed replay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polledger.core.digest import sha256, u64
from polledger.core.records import Environment, StateObject
from polledger.core.replay import Replayer, ReplayJob, Variant
from polledger.core.state import FlatState, TensorData
from polledger.verify.compare import compare_states, parameter_tensors, residual_cosine
from polledger.verify.floats import Precision, bit_patterns, moved_one_ulp
from polledger.verify.states import encode_file, hash_state

_SEED_LABEL = b"polledger/noise/1\x00"

_PRECISIONS: dict[str, Precision] = {"bf16": "bfloat16", "fp16": "float16", "tf32": "tfloat32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """ν per group, and for each replica the cosine of its residual towards the final model."""

    floor: dict[str, float]
    leans: tuple[float, ...]


def compute_precision(config: Mapping[str, Any], devices: Sequence[str]) -> Precision:
    """In which format a run of this config computes: ``precision`` bf16, fp16 or tf32, else each parameter's own.

    ``devices``: where it was recorded and is replayed; tf32 rounds nothing where all are the CPU.
    """
    precision = _PRECISIONS.get(str(config.get("precision")), "native")
    return "native" if precision == "tfloat32" and set(devices) == {"cpu"} else precision


def perturbed(
    flat: FlatState, objects: Sequence[StateObject], *, seed: bytes, precision: Precision
) -> FlatState:
    """``flat`` with every floating parameter moved one ulp up or down, by coin flips from the 32 bytes of ``seed``.

    Tensors that share their bytes (tied ones) move alike. Everything but parameters stays.
    """
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    moved: dict[tuple[int, str], memoryview] = {}
    parameters = parameter_tensors(flat, objects)
    for tensor in parameters:
        if _key(tensor) not in moved:
            moved[_key(tensor)] = _moved(tensor, generator, precision)
    inside = {tensor.path for tensor in parameters}
    tensors = [
        replace(tensor, data=moved[_key(tensor)]) if tensor.path in inside else tensor
        for tensor in flat.tensors
    ]
    return FlatState(skeletons=flat.skeletons, tensors=tensors)


def _key(tensor: TensorData) -> tuple[int, str]:
    # Tensors of equal bytes are one object in a parsed state.
    return id(tensor.data), tensor.dtype


def _moved(tensor: TensorData, generator: np.random.Generator, precision: Precision) -> memoryview:
    bits = bit_patterns(tensor.data, tensor.dtype)
    up = generator.integers(0, 2, size=len(bits), dtype=np.uint8).astype(np.bool_)
    moved = moved_one_ulp(bits, tensor.dtype, up, precision=precision)
    return memoryview(moved.tobytes()).cast("B")


def other_variant(environment: Environment, base: Variant) -> Variant:
    """A deviation from how the interval was replayed: one thread, or two where it ran with one."""
    threads = base.threads or environment.threads
    return Variant(threads=2 if threads == 1 else 1, capability=base.capability)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTask:
    """What one measurement needs. ``replayed`` is the verifier's unperturbed replay, ``final`` the last state."""

    job: ReplayJob
    start: FlatState
    replayed: FlatState
    final: FlatState | None
    objects: Sequence[StateObject]
    seed: bytes
    replicas: int
    precision: Precision
    base: Variant
    other: Variant

    @property
    def steps(self) -> int:
        """Training steps that one measurement replays."""
        return (self.job.last_step - self.job.first_step) * (self.replicas + 1)


def measure_noise(task: NoiseTask, replayer: Replayer) -> Noise:
    """Replay the interval ``task.replicas`` times from perturbed starts and once as the other variant.

    Raises ReplayFailed if a replay does not reach its end, MalformedError if one answers nonsense.
    """
    floor: dict[str, float] = {}
    leans = []
    for state in _replicas(task, replayer):
        measures = compare_states(
            replayed=state, recorded=task.replayed, start=task.start, objects=task.objects
        ).measures
        for measure in measures:
            # A replica whose structure differs says nothing finite about noise.
            e = measure.e if measure.strict_equal else float("inf")
            floor[measure.name] = max(floor.get(measure.name, 0.0), e)
        leans.append(_lean(state, task))
    return Noise(floor=floor, leans=tuple(leans))


def _replicas(task: NoiseTask, replayer: Replayer) -> Iterator[FlatState]:
    for replica in range(task.replicas):
        seed = sha256(_SEED_LABEL + task.seed + u64(task.job.first_step) + u64(replica))
        flat = perturbed(task.start, task.objects, seed=seed, precision=task.precision)
        data, root = encode_file(flat)
        outcome = replayer.replay(replace(task.job, start=data, root=root), variant=task.base)
        yield hash_state(outcome.state).flat
    yield hash_state(replayer.replay(task.job, variant=task.other).state).flat


def _lean(state: FlatState, task: NoiseTask) -> float:
    if task.final is None:
        return float("nan")
    return residual_cosine(
        found=state, replayed=task.replayed, start=task.start, final=task.final, objects=task.objects
    )
