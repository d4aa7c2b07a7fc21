"""Environment classes: what must agree for equal bits to be expected, and what need not."""

import msgspec
import pytest

from polledger.core.environment import environment_class, same_class, same_draws
from polledger.core.records import Environment

BASE = Environment(
    device="cpu",
    cpu="Some CPU (6/85/7)",
    capability="AVX2",
    torch="2.13.0",
    torch_git="cf30",
    cuda="",
    cudnn="",
    driver="",
    python="3.11.7",
    numpy="2.4.6",
    platform="Linux",
    polledger="0.1.0",
    threads=2,
    interop_threads=1,
    flags={"deterministic": True, "env_mkl_cbwr": "AVX2"},
)


def test_an_environment_is_of_its_own_class() -> None:
    assert same_class(BASE, BASE) == []


@pytest.mark.parametrize(
    "name",
    [
        "device",
        "cpu",
        "capability",
        "torch",
        "torch_git",
        "cuda",
        "cudnn",
        "driver",
        "threads",
        "interop_threads",
        "python",
        "numpy",
        "polledger",
    ],
)
def test_what_decides_bits_is_part_of_the_class(name: str) -> None:
    value = 7 if name.endswith("threads") else "other"
    assert same_class(BASE, msgspec.structs.replace(BASE, **{name: value})) == [name]


def test_the_name_of_the_platform_is_not() -> None:
    assert same_class(BASE, msgspec.structs.replace(BASE, platform="other")) == []


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({"deterministic": False, "env_mkl_cbwr": "AVX2"}, ["flags.deterministic"]),
        ({"deterministic": 1, "env_mkl_cbwr": "AVX2"}, ["flags.deterministic"]),
        ({"deterministic": True}, ["flags.env_mkl_cbwr"]),
        ({"deterministic": True, "env_mkl_cbwr": "AVX2", "new": 0}, ["flags.new"]),
        ({}, ["flags.deterministic", "flags.env_mkl_cbwr"]),
    ],
)
def test_flags_agree_by_name_value_and_type(flags: dict[str, str | int | bool], names: list[str]) -> None:
    other = msgspec.structs.replace(BASE, flags=flags)
    assert same_class(BASE, other) == same_class(other, BASE) == names


def test_class_lists_every_value_by_name() -> None:
    found = environment_class(BASE)
    assert found["flags.env_mkl_cbwr"] == "AVX2"
    assert found["threads"] == 2
    assert "platform" not in found


@pytest.mark.parametrize("name", ["device", "torch", "torch_git", "cuda"])
def test_other_hardware_and_other_torch_draw_other_numbers(name: str) -> None:
    assert not same_draws(BASE, msgspec.structs.replace(BASE, **{name: "other"}))


@pytest.mark.parametrize("name", ["gpu_capability", "gpu_multiprocessors"])
def test_a_gpu_draws_by_its_multiprocessors(name: str) -> None:
    assert not same_draws(BASE, msgspec.structs.replace(BASE, flags={**BASE.flags, name: 108}))


@pytest.mark.parametrize("name", ["cpu", "capability", "driver", "python", "numpy", "threads"])
def test_draws_do_not_depend_on_what_rounds(name: str) -> None:
    value = 7 if name == "threads" else "other"
    one, other = (with_instructions(base, "avx2 fma") for base in (BASE, BASE))
    assert same_draws(one, msgspec.structs.replace(other, **{name: value}))


def test_cpus_of_another_architecture_draw_other_numbers() -> None:
    one, other = with_instructions(BASE, "avx2 fma"), with_instructions(BASE, "asimd sve")
    assert same_draws(one, other)
    other = msgspec.structs.replace(other, cpu="Another CPU")
    assert not same_draws(one, other)
    assert same_draws(one, with_instructions(other, "avx512f fma"))


def with_instructions(environment: Environment, names: str) -> Environment:
    return msgspec.structs.replace(environment, flags={**environment.flags, "cpu_isa": names})
