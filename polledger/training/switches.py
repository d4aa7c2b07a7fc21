"""Torch's own switches that decide bits, each with a way to read and set it. PROTOCOL section 10."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils import deterministic as _deterministic

from polledger.errors import EnvironmentMismatch

Value: TypeAlias = bool | str

FLOATS = ("float16", "bfloat16", "float32", "float64")
PRECISIONS = ("highest", "high", "medium")

MIXED = "fp32_precision"
"""Value of an older switch that torch refuses to read, because a newer one of that name was set. Never set again."""

FP32_PLACES = {
    "generic": ("all",),
    "cuda": ("all", "matmul", "conv", "rnn"),
    "mkldnn": ("all", "matmul", "conv", "rnn"),
}
"""Where torch 2.9 and later keep ``fp32_precision``: backends and their operators, what others inherit from first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One switch. ``wanted`` is what recording sets; None leaves it as the task or torch has it.

    ``read`` never raises.
    """

    name: str
    read: Callable[[], Value]
    write: Callable[[Any], Any]
    wanted: Value | None = None
    values: tuple[Value, ...] = (False, True)

    def accepts(self, value: object) -> bool:
        """Whether ``value`` is one that may be set."""
        return any(type(value) is type(known) and value == known for known in self.values)


def _readable(read: Callable[[], Value]) -> Callable[[], Value]:
    """``read``, or MIXED where torch has no one answer: its older and newer names of TF32 do not agree."""

    def guarded() -> Value:
        try:
            return read()
        except RuntimeError:
            return MIXED

    return guarded


def _exists(owner: Any, attribute: str) -> bool:
    """``hasattr``, also where reading raises because a newer name was set before polledger was imported."""
    try:
        return hasattr(owner, attribute)
    except RuntimeError:
        return True


def _attribute(name: str, owner: Any, attribute: str, wanted: Value | None = None) -> tuple[Switch, ...]:
    """A switch that is a plain attribute; none where this torch does not have it."""
    if not _exists(owner, attribute):
        return ()
    switch = Switch(
        name=name,
        read=_readable(lambda: bool(getattr(owner, attribute))),
        write=lambda value: setattr(owner, attribute, value),
        wanted=wanted,
    )
    return (switch,)


def _fp32_precisions() -> tuple[Switch, ...]:
    """``torch.backends.*.fp32_precision``; none before torch 2.9.

    Through torch._C: in torch 2.13 the setter of ``torch.backends.mkldnn.fp32_precision`` sets that of all backends.
    """
    read = getattr(torch._C, "_get_fp32_precision_getter", None)
    write = getattr(torch._C, "_set_fp32_precision_setter", None)
    if read is None or write is None:
        return ()
    places = [(backend, operator) for backend, found in FP32_PLACES.items() for operator in found]
    switches = (_fp32_precision(read, write, *place) for place in places)
    return tuple(switch for switch in switches if switch.read() != MIXED)


def _fp32_precision(read: Any, write: Any, backend: str, operator: str) -> Switch:
    name = f"fp32_{backend}" if operator == "all" else f"fp32_{backend}_{operator}"
    return Switch(
        name=name,
        read=_readable(lambda: str(read(backend, operator))),
        write=lambda value: write(backend, operator, value),
        # The older switch of this one has set it to what goes with its own value.
        wanted=None if name == "fp32_cuda_matmul" else "none",
        values=("none", "ieee", "tf32") if backend == "cuda" else ("none", "ieee", "tf32", "bf16"),
    )


def _set_default_dtype(name: str) -> None:
    torch.set_default_dtype(getattr(torch, name))


def flushes_denormals() -> bool:
    """Whether torch's arithmetic takes denormal numbers for zero; there is no getter."""
    return float((torch.full((1,), 1e-38) * 1e-3).item()) == 0.0


_cuda: Any = torch.backends.cuda

SWITCHES: tuple[Switch, ...] = (
    Switch(
        name="deterministic",
        read=torch.are_deterministic_algorithms_enabled,
        write=lambda value: torch.use_deterministic_algorithms(value, warn_only=False),
        wanted=True,
    ),
    *_attribute("fill_uninitialized", _deterministic, "fill_uninitialized_memory", True),
    *_attribute("cudnn_enabled", torch.backends.cudnn, "enabled"),
    *_attribute("cudnn_benchmark", torch.backends.cudnn, "benchmark", False),
    *_attribute("cudnn_deterministic", torch.backends.cudnn, "deterministic", True),
    *_attribute("cudnn_tf32", torch.backends.cudnn, "allow_tf32", False),
    *_attribute("matmul_tf32", _cuda.matmul, "allow_tf32", False),
    *_attribute("fp16_reduction", _cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    *_attribute("bf16_reduction", _cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    *_attribute("mkldnn_enabled", torch.backends.mkldnn, "enabled"),
    *_attribute("mkldnn_deterministic", torch.backends.mkldnn, "deterministic", True),
    Switch(name="sdp_flash", read=_cuda.flash_sdp_enabled, write=_cuda.enable_flash_sdp),
    Switch(name="sdp_efficient", read=_cuda.mem_efficient_sdp_enabled, write=_cuda.enable_mem_efficient_sdp),
    Switch(name="sdp_math", read=_cuda.math_sdp_enabled, write=_cuda.enable_math_sdp),
    Switch(name="sdp_cudnn", read=_cuda.cudnn_sdp_enabled, write=_cuda.enable_cudnn_sdp),
    Switch(
        name="float32_matmul_precision",
        read=_readable(torch.get_float32_matmul_precision),
        write=torch.set_float32_matmul_precision,
        values=PRECISIONS,
    ),
    Switch(
        name="default_dtype",
        read=lambda: str(torch.get_default_dtype()).removeprefix("torch."),
        write=_set_default_dtype,
        values=FLOATS,
    ),
    Switch(name="flush_denormal", read=flushes_denormals, write=torch.set_flush_denormal),
    *_fp32_precisions(),
)
"""In the order in which they are set: the older switches of TF32 set the newer ones too, so that these come last."""


def allow_tf32() -> None:
    """Let float32 products on CUDA round to TF32, as ``precision = "tf32"`` asks."""
    _cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def device_name(device: str) -> str:
    """``cpu``, or the model name of the accelerator. Raises EnvironmentMismatch if it is not there."""
    if device == "cpu":
        return "cpu"
    kind = torch.device(device)
    if kind.type == "cuda" and torch.cuda.is_available() and (kind.index or 0) < torch.cuda.device_count():
        return torch.cuda.get_device_name(kind)
    if kind.type == "mps" and torch.backends.mps.is_available():
        return "Apple GPU"
    raise EnvironmentMismatch(f"there is no device {device} here")


def device_flags(device: str) -> dict[str, str | int | bool]:
    """What else about the accelerator chooses kernels: compute capability and number of multiprocessors."""
    kind = torch.device(device)
    if kind.type != "cuda":
        return {}
    major, minor = torch.cuda.get_device_capability(kind)
    count = torch.cuda.get_device_properties(kind).multi_processor_count
    return {"gpu_capability": f"{major}.{minor}", "gpu_multiprocessors": count}
