import pytest

from polledger.core.digest import ZERO, require_digest, sha256, u8, u32, u64
from polledger.errors import UsageError


def test_sha256_of_abc_is_the_value_of_fips_180() -> None:
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_views_and_arrays_are_hashed_like_bytes() -> None:
    assert sha256(memoryview(b"abc")) == sha256(bytearray(b"abc")) == sha256(b"abc")


def test_zero_is_32_zero_bytes() -> None:
    assert ZERO == b"\0" * 32


@pytest.mark.parametrize(("encode", "width"), [(u8, 1), (u32, 4), (u64, 8)])
def test_integers_are_big_endian_and_bounded(encode, width: int) -> None:
    largest = 256**width - 1
    assert encode(0) == bytes(width)
    assert encode(1) == bytes(width - 1) + b"\x01"
    assert encode(largest) == b"\xff" * width
    for outside in (-1, largest + 1):
        with pytest.raises(UsageError):
            encode(outside)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_of_another_width_is_refused_by_name(length: int) -> None:
    with pytest.raises(UsageError, match="the policy has 32 bytes, found"):
        require_digest(bytes(length), "the policy")
    assert require_digest(ZERO, "the policy") is ZERO
