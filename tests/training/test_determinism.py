"""Environments: set, described, reproduced in another process; and records that are not trusted while doing so."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from polledger.core.encoding import encode
from polledger.core.environment import same_class
from polledger.core.records import Environment
from polledger.errors import EnvironmentMismatch
from polledger.training import determinism, switches
from polledger.training.determinism import (
    CAPABILITIES,
    PINNED_VARIABLES,
    apply_environment,
    apply_switches,
    cpu_features,
    describe_environment,
    flag_of,
    matching_device,
    process_environment,
    variable_flags,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = {switch.name: switch.read() for switch in switches.SWITCHES}
    threads = torch.get_num_threads()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    for switch in switches.SWITCHES:
        switch.write(before[switch.name])
    torch.set_num_threads(threads)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


def changed(environment: Environment, **flags: str | int | bool) -> Environment:
    return msgspec.structs.replace(environment, flags={**environment.flags, **flags})


def test_recording_switches_are_the_deterministic_ones() -> None:
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(False)
    apply_switches()
    flags = describe_environment().flags
    assert flags["deterministic"] is True
    assert flags["cudnn_benchmark"] is False
    assert flags["cudnn_deterministic"] is True
    assert flags["cudnn_tf32"] is False
    assert flags["matmul_tf32"] is False
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_cublas_workspace_of_the_user_is_kept() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    apply_switches()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_description_can_be_committed_and_says_what_is_in_force() -> None:
    found = describe_environment()
    encode(found)
    assert (found.device, found.torch, found.threads) == ("cpu", torch.__version__, torch.get_num_threads())
    assert found.capability == torch.backends.cpu.get_cpu_capability()
    assert found.flags["default_dtype"] == "float32"
    assert same_class(found, describe_environment()) == []


@pytest.mark.parametrize(
    "name", [switch.name for switch in switches.SWITCHES if switch.values == (False, True)]
)
def test_recorded_switch_is_reproduced(name: str) -> None:
    apply_switches()
    switch = next(item for item in switches.SWITCHES if item.name == name)
    before = describe_environment()
    switch.write(not before.flags[name])
    recorded = describe_environment()
    if name == "flush_denormal" and recorded.flags[name] == before.flags[name]:
        pytest.skip("this CPU cannot flush denormals")
    assert f"flags.{name}" in same_class(before, recorded)
    switch.write(before.flags[name])
    apply_environment(recorded)
    assert same_class(recorded, describe_environment()) == []


def test_recorded_precision_and_dtype_are_reproduced() -> None:
    recorded = changed(describe_environment(), default_dtype="float64")
    apply_environment(recorded)
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_dtype", "int64"),
        ("default_dtype", "nn"),
        ("default_dtype", True),
        ("cudnn_benchmark", "yes"),
        ("cudnn_benchmark", 1),
    ],
)
def test_switch_value_that_no_recording_gives_is_not_set(name: str, value: str | int | bool) -> None:
    apply_switches()
    before = describe_environment()
    apply_environment(changed(before, **{name: value}))
    assert describe_environment().flags == before.flags


def test_thread_count_is_reproduced() -> None:
    recorded = msgspec.structs.replace(describe_environment(), threads=3)
    apply_environment(recorded)
    assert torch.get_num_threads() == 3
    assert describe_environment().threads == 3


def test_unknown_flag_puts_the_replay_into_another_class() -> None:
    recorded = changed(describe_environment(), switch_of_the_future=True)
    apply_environment(recorded)
    assert same_class(recorded, describe_environment()) == ["flags.switch_of_the_future"]


def test_process_variables_pin_threads_and_capability() -> None:
    found = process_environment(
        msgspec.structs.replace(describe_environment(), threads=5, capability="DEFAULT")
    )
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "5"
    assert found["ATEN_CPU_CAPABILITY"] == "default"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_capability_this_cpu_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = msgspec.structs.replace(describe_environment(), capability="AVX512")
    monkeypatch.setattr(determinism, "cpu_features", lambda: CAPABILITIES["AVX512"][1])
    assert process_environment(environment)["ATEN_CPU_CAPABILITY"] == "avx512"
    for missing in CAPABILITIES["AVX512"][1]:
        monkeypatch.setattr(
            determinism, "cpu_features", lambda missing=missing: CAPABILITIES["AVX512"][1] - {missing}
        )
        assert "ATEN_CPU_CAPABILITY" not in process_environment(environment)


def test_capability_nobody_knows_is_left_out() -> None:
    environment = msgspec.structs.replace(describe_environment(), capability="AVX1024")
    assert "ATEN_CPU_CAPABILITY" not in process_environment(environment)


def test_pinned_variables_are_recorded_and_set_again() -> None:
    flags = variable_flags(
        {"MKL_CBWR": "AVX2", "OMP_DYNAMIC": "TRUE", "HOME": "/root", "ONEDNN_MAX_CPU_ISA": ""}
    )
    assert flags == {"env_mkl_cbwr": "AVX2", "env_omp_dynamic": "TRUE"}
    found = process_environment(changed(describe_environment(), **flags))
    assert (found["MKL_CBWR"], found["OMP_DYNAMIC"]) == ("AVX2", "TRUE")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("env_ld_preload", "evil.so"),
        ("env_omp_tool_libraries", "evil.so"),
        ("env_mkl_cbwr", "/tmp/evil"),
        ("env_mkl_cbwr", "a\nb"),
        ("env_mkl_cbwr", ""),
        ("env_mkl_cbwr", "x" * 129),
        ("env_mkl_cbwr", True),
        ("env_mkl_cbwr", 5),
    ],
)
def test_record_cannot_set_other_variables_or_name_files(flag: str, value: str | int | bool) -> None:
    found = process_environment(changed(describe_environment(), **{flag: value}))
    assert found.keys() <= {
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "CUBLAS_WORKSPACE_CONFIG",
        "ATEN_CPU_CAPABILITY",
    }


def test_pinned_variables_name_no_file_and_no_library() -> None:
    assert not [
        name
        for name in PINNED_VARIABLES
        if any(part in name for part in ("PATH", "LIB", "DIR", "FILE", "LOG"))
    ]
    assert len({flag_of(name) for name in PINNED_VARIABLES}) == len(PINNED_VARIABLES)


def test_process_variables_are_computed_without_torch() -> None:
    code = (
        "import sys, polledger.training.determinism as d; d.cpu_features(); d.cpu_name(); d.cpu_caches();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "xla"])
def test_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(EnvironmentMismatch, match=device):
        describe_environment(device)


def test_cache_sharing_is_counted_from_cpu_lists() -> None:
    assert [determinism._count(text) for text in ("0", "0-1", "0-3,8", "0-1,4-5", "")] == [1, 2, 5, 4, 0]


PINNED = """
import hashlib, json, sys
import torch
import msgspec
from torch import nn
from polledger.core.records import Environment
from polledger.training.determinism import apply_environment, apply_switches, describe_environment
recorded = sys.stdin.buffer.read()
if recorded:
    apply_environment(msgspec.msgpack.decode(recorded, type=Environment))
else:
    apply_switches()
"""
"""A process in the environment on its standard input, or in one that records."""

TRAIN = f"""{PINNED}
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 196, 64), nn.Linear(64, 10))
x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
print(json.dumps([digest, msgspec.msgpack.encode(describe_environment()).hex()]))
"""


def train(recorded: bytes, **variables: str) -> tuple[str, bytes]:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env={**base, **variables},
        input=recorded,
        capture_output=True,
        check=True,
    )
    digest, environment = json.loads(done.stdout.splitlines()[-1])
    return digest, bytes.fromhex(environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "1"},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"MKL_CBWR": "COMPATIBLE"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    ],
    ids=lambda variables: next(iter(variables)) + "=" + next(iter(variables.values())),
)
def test_another_process_reproduces_bits_and_description_from_the_record(variables: dict[str, str]) -> None:
    digest, recorded = train(b"", **variables)
    environment = msgspec.msgpack.decode(recorded, type=Environment)
    again, described = train(recorded, **process_environment(environment))
    assert again == digest
    assert same_class(environment, msgspec.msgpack.decode(described, type=Environment)) == []


def test_thread_counts_that_follow_the_load_are_switched_off_before_torch_loads() -> None:
    code = (
        "from polledger.training.determinism import apply_switches, describe_environment as describe;"
        "apply_switches(); print('env_omp_dynamic' in describe().flags)"
    )
    variables = {**os.environ, "OMP_DYNAMIC": "TRUE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == [b"False"]


@pytest.mark.slow
@pytest.mark.skipif(not cpu_features() >= {"avx2", "fma"}, reason="needs AVX2")
def test_capability_changes_bits_so_that_it_has_to_be_pinned() -> None:
    assert (
        train(b"", OMP_NUM_THREADS="1")[0]
        != train(b"", OMP_NUM_THREADS="1", ATEN_CPU_CAPABILITY="default")[0]
    )


def test_replay_takes_the_accelerator_of_the_recorded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["NVIDIA L4", "NVIDIA H100", "NVIDIA H100"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    assert matching_device("cuda", "NVIDIA H100") == "cuda:1"
    assert matching_device("cuda", "NVIDIA A100") == "cuda"
    assert matching_device("cpu", "cpu") == "cpu"


NEWER = f"""{PINNED}
if not recorded:
    exec(sys.argv[1])
sys.stdout.buffer.write(msgspec.msgpack.encode(describe_environment()))
"""


def described(recorded: bytes, code: str = "") -> Environment:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NEWER, code],
        input=recorded,
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    return msgspec.msgpack.decode(done.stdout, type=Environment)


NEWER_NAMES = [
    ("torch.backends.fp32_precision = 'tf32'", "fp32_generic"),
    ("torch.backends.fp32_precision = 'ieee'", "fp32_generic"),
    ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "fp32_cuda_matmul"),
    ("torch.backends.cudnn.fp32_precision = 'tf32'", "fp32_cuda"),
    ("torch.backends.cudnn.conv.fp32_precision = 'tf32'", "fp32_cuda_conv"),
    ("torch.backends.mkldnn.matmul.fp32_precision = 'bf16'", "fp32_mkldnn_matmul"),
    ("torch.backends.mkldnn.fp32_precision = 'bf16'", "fp32_mkldnn_matmul"),
    ("torch.backends.mkldnn.set_flags(_fp32_precision='tf32')", "fp32_mkldnn"),
]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs torch 2.9")
@pytest.mark.parametrize(("code", "name"), NEWER_NAMES, ids=[code[15:] for code, _ in NEWER_NAMES])
def test_newer_names_of_tf32_are_recorded_and_reproduced(code: str, name: str) -> None:
    """They make torch refuse to read the older ones, which used to end in an error of ours."""
    recorded = described(b"", code)
    assert recorded.flags[name] == code.split("'")[1]
    assert same_class(recorded, described(msgspec.msgpack.encode(recorded))) == []


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs torch 2.9")
def test_recording_puts_newer_names_of_tf32_back() -> None:
    apply_switches()
    before = describe_environment()
    torch.backends.fp32_precision = "tf32"
    assert switches.MIXED not in before.flags.values()
    assert describe_environment().flags["float32_matmul_precision"] == switches.MIXED
    apply_switches()
    assert same_class(before, describe_environment()) == []


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs torch 2.9")
def test_newer_names_may_be_set_before_polledger_is_imported() -> None:
    code = (
        "import torch; torch.backends.fp32_precision = 'tf32'\n"
        "from polledger.training.determinism import describe_environment as describe\n"
        "print(describe().flags['matmul_tf32'], describe().flags['fp32_cuda_matmul'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, cwd=ROOT
    )
    assert done.stdout.decode().split() == [switches.MIXED, "tf32"]
