"""Everything outside task and config that decides bits: set it, describe it, reproduce it. PROTOCOL section 10.

What matters on the CPU was found by experiment (torch 2.13; convolution, transformer and MLP, fp32 and bf16): the
thread count that ``torch.set_num_threads`` sets, ATen's capability, oneDNN's and MKL's instruction sets, and the
OpenMP limits each change bits. How many cores there are does not, once the thread count is fixed.
"""

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from polledger.core.records import Environment

if TYPE_CHECKING:
    from polledger.training.switches import Switch

PINNED_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GOMP_SPINCOUNT",
    "KMP_DETERMINISTIC_REDUCTION",
    "KMP_FORCE_REDUCTION",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DOMAIN_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_THREADING_LAYER",
    "NPY_DISABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_MAX_ACTIVE_LEVELS",
    "OMP_SCHEDULE",
    "OMP_THREAD_LIMIT",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
"""Variables that change how numbers are computed, and nothing else: none names a file or a library to load, since a
verifier sets them from a record it does not trust. Thread counts and ATen's capability have fields of their own."""

_VALUE = re.compile(r"[A-Za-z0-9_.,:;+= -]{1,128}", re.ASCII)

CUBLAS_WORKSPACE = ":4096:8"
"""What torch asks for so that cuBLAS is deterministic; it has to be set before CUDA starts."""

THREADS_MAX = 1024
"""Most threads a record can make a verifier start: above, the description shows another class."""

CAPABILITIES = {
    "DEFAULT": ("default", frozenset[str]()),
    "AVX2": ("avx2", frozenset({"avx2", "fma"})),
    "AVX512": ("avx512", frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"})),
}
"""Value of ATEN_CPU_CAPABILITY for what torch reports, and what the CPU needs: torch crashes without it."""

_ISA = re.compile(r"avx\w*|amx\w*|fma|f16c|sse4_[12]|asimd\w*|sve\w*|bf16|i8mm")


def process_environment(environment: Environment) -> dict[str, str]:
    """Environment variables for a process that is to compute as ``environment`` says, set before torch loads.

    A capability this CPU lacks is left out: the process then runs with its own, which its description shows.
    Does not import torch.
    """
    variables = {
        "OMP_NUM_THREADS": str(_threads(environment.threads)),
        "MKL_NUM_THREADS": str(_threads(environment.threads)),
        "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
    }
    value, needed = CAPABILITIES.get(environment.capability, ("", frozenset()))
    if value and needed <= cpu_features():
        variables["ATEN_CPU_CAPABILITY"] = value
    for name in PINNED_VARIABLES:
        recorded = environment.flags.get(flag_of(name))
        if isinstance(recorded, str) and _VALUE.fullmatch(recorded):
            variables[name] = recorded
    return variables


def _threads(recorded: int) -> int:
    return min(max(1, recorded), THREADS_MAX)


def flag_of(variable: str) -> str:
    """Name under which the value of an environment variable is recorded."""
    return f"env_{variable.lower()}"


def variable_flags(variables: Mapping[str, str]) -> dict[str, str | int | bool]:
    """The pinned ones among ``variables``, as flags."""
    return {flag_of(name): variables[name][:128] for name in PINNED_VARIABLES if variables.get(name)}


def apply_switches(device: str = "cpu") -> None:
    """Make this process as deterministic as torch can be, for recording; call it before anything trains.

    Sets deterministic algorithms, no autotuning, no TF32, cuBLAS's workspace, and fixes the thread count at its
    present value. A CUDA context that exists already keeps its workspace. Not touched: which attention kernels
    are allowed, flush-to-zero, oneDNN on or off; :func:`describe_environment` records them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    if "torch" not in sys.modules:
        # Lets OpenMP choose the number of threads by the load of the machine; read once, when torch loads it.
        os.environ.pop("OMP_DYNAMIC", None)
    import torch

    for switch in _switches():
        if switch.wanted is not None:
            switch.write(switch.wanted)
    # OMP_NUM_THREADS may ask for more than MKL takes by itself; only an explicit call binds both.
    torch.set_num_threads(torch.get_num_threads())
    if device.startswith("cuda"):
        torch.cuda.init()


def apply_environment(environment: Environment) -> None:
    """Reproduce recorded switches and thread counts, for replay; the process was started with
    :func:`process_environment`.

    Switches that this version does not know are left: :func:`describe_environment` then gives another class.
    """
    apply_switches()
    import torch

    for switch in _switches():
        value = environment.flags.get(switch.name)
        if switch.accepts(value):
            switch.write(value)
    torch.set_num_threads(_threads(environment.threads))
    if environment.interop_threads not in (0, torch.get_num_interop_threads()):
        try:
            torch.set_num_interop_threads(_threads(environment.interop_threads))
        except RuntimeError:
            # Parallel work has started: the description keeps the number in force.
            return


def _switches() -> "tuple[Switch, ...]":
    # A module of its own, because it imports torch.
    from polledger.training.switches import SWITCHES

    return SWITCHES


def matching_device(device: str, model: str) -> str:
    """``device``; for ``cuda`` the first one here of that ``model``, if there is one. Loads torch for these."""
    if device != "cuda":
        return device
    import torch

    for index in range(torch.cuda.device_count()):
        if torch.cuda.get_device_name(index) == model:
            return f"cuda:{index}"
    return device


def describe_environment(device: str = "cpu") -> Environment:
    """What decides bits in this process now. Call it once what the task sets at import and in build() is in force."""
    import numpy as np
    import torch

    from polledger import __version__
    from polledger.training import switches

    return Environment(
        device=switches.device_name(device),
        cpu=cpu_name(),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=str(torch.__version__),
        torch_git=str(torch.version.git_version or ""),
        cuda=str(torch.version.cuda or torch.version.hip or ""),
        cudnn=str(torch.backends.cudnn.version() or "") if device != "cpu" else "",
        driver=_driver() if device != "cpu" else "",
        python=platform.python_version(),
        numpy=str(np.__version__),
        platform=platform.platform()[:1024],
        polledger=__version__,
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        flags=_flags(device),
    )


def _flags(device: str) -> dict[str, str | int | bool]:
    from polledger.training import switches

    flags: dict[str, str | int | bool] = {switch.name: switch.read() for switch in switches.SWITCHES}
    flags.update(variable_flags(os.environ))
    if device == "cpu":
        # Set by apply_switches for CUDA's sake; without CUDA it decides nothing.
        flags.pop(flag_of("CUBLAS_WORKSPACE_CONFIG"), None)
    else:
        flags.update(switches.device_flags(device))
    flags["cpu_isa"] = " ".join(sorted(name for name in cpu_features() if _ISA.fullmatch(name)))[:1024]
    flags["cpu_caches"] = cpu_caches()
    return flags


def cpu_features() -> frozenset[str]:
    """Instruction set extensions the system reports for the first CPU; empty where it does not."""
    return frozenset((_cpu_info().get("flags") or _cpu_info().get("Features") or "").split())


def cpu_name() -> str:
    """Model name with family, model and stepping: hypervisors give several generations one name."""
    info = _cpu_info()
    numbers = "/".join(info.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{info.get('model name') or platform.processor() or platform.machine()} ({numbers})"


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_caches() -> str:
    """Level, size and sharing of the first CPU's data caches, like ``1:32K/1 2:1024K/1 3:32768K/2``.

    oneDNN and MKL cut their blocks by the cache one core can use, so it decides the order of summation.
    """
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            parts = [
                (index / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            ]
        except OSError:
            continue
        if parts[0] != "Instruction":
            found.append(f"{parts[1]}:{parts[2]}/{_count(parts[3])}")
    return " ".join(found)


def _count(cpu_list: str) -> int:
    """CPUs in a list like ``0-3,8``."""
    ends = [part.split("-") for part in cpu_list.split(",") if part]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)


def _driver() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else ""
