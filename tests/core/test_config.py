import enum
import math
import struct
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.config import CONFIG_BYTES, check_config, decode_config, encode_config
from polledger.core.encoding import encode, real
from polledger.errors import MalformedError, UsageError

INT_MAX = 2**53 - 1

keys = st.text("abcz019_", min_size=1, max_size=20)
texts = st.text(max_size=20).map(lambda text: unicodedata.normalize("NFC", text))
leaves = st.booleans() | st.integers(-INT_MAX, INT_MAX) | st.floats(allow_nan=False) | texts
configs = st.dictionaries(
    keys,
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=10,
    ),
    max_size=6,
)


def bits(value: Any) -> Any:
    """``value`` with floats as bytes and every leaf beside its type, so that == means the same bits."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return type(value), struct.pack(">d", value) if isinstance(value, float) else value


@given(configs)
@settings(max_examples=200, deadline=None)
def test_a_config_comes_back_bit_for_bit(config: dict[str, Any]) -> None:
    encoded = encode_config(config)
    check_config(encoded)
    encode(encoded)
    assert bits(decode_config(encoded)) == bits(config)


def test_a_real_config_is_committed_as_the_protocol_says() -> None:
    config = {"lr": 0.05, "steps": 600, "nesterov": True, "optimizer": "SGD", "betas": (0.9, 0.999)}
    assert encode_config(config) == {
        "lr": real(0.05),
        "steps": 600,
        "nesterov": True,
        "optimizer": "SGD",
        "betas": [real(0.9), real(0.999)],
    }


def test_tuples_come_back_as_lists() -> None:
    assert decode_config(encode_config({"betas": (0.9, 0.999)})) == {"betas": [0.9, 0.999]}


def test_zeros_and_infinities_keep_their_signs() -> None:
    config = {"a": -0.0, "b": math.inf, "c": -math.inf, "d": 5e-324}
    assert bits(decode_config(encode_config(config))) == bits(config)


def test_subclasses_of_plain_values_become_plain() -> None:
    class Choice(enum.StrEnum):
        FAST = "fast"

    class Named(str, enum.Enum):  # noqa: UP042 (str() of these names the class)
        SLOW = "slow"

    class Level(enum.IntEnum):
        HIGH = 3

    encoded = encode_config({"a": Choice.FAST, "b": Named.SLOW, "c": Level.HIGH, "d": np.float64(0.5)})
    assert bits(encoded) == bits({"a": "fast", "b": "slow", "c": 3, "d": real(0.5)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"clip": None}, "'clip': None cannot be committed"),
        ({"a": {"b": [1, None]}}, r"'a\.b\[1\]': None"),
        ({"data": b"bytes"}, "'data': a bytes cannot be committed"),
        pytest.param({"model": object()}, "'model': a object cannot", id="an object"),
        ({"a": {1, 2}}, "'a': a set cannot"),
        ({"a": 1j}, "'a': a complex cannot"),
        ({"a": np.int64(3)}, "'a': a int64 cannot"),
        ({"a": math.nan}, "'a': NaN"),
        ({"a": [math.nan]}, r"'a\[0\]': NaN"),
        ({"a": 2**53}, "'a': integers lie within"),
        ({"a": -(2**53)}, "'a': integers lie within"),
        ({"a": "e\u0301"}, "'a': the string must be in Unicode form NFC"),
        ({"a": "\ud800"}, "'a': the string is not Unicode text"),
        ({"Lr": 1}, "'Lr': use"),
        ({"learning-rate": 1}, "'learning-rate': use"),
        ({"": 1}, "'': use"),
        ({"é": 1}, "'é': use"),
        ({"a\n": 1}, "use"),
        ({"k" * 65: 1}, "use"),
        ({"a": {"B": 1}}, r"'a\.B': use"),
        ({3: 1}, "'3': keys must be strings"),
        ({"a": {None: 1}}, r"'a\.None': keys must be strings"),
    ],
    ids=ascii,
)
def test_what_cannot_be_committed_is_refused_naming_its_key(config: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_config(config)


def test_the_longest_key_and_the_largest_integers_are_taken() -> None:
    config = {"k" * 64: INT_MAX, "low": -INT_MAX}
    assert decode_config(encode_config(config)) == config


def test_a_config_takes_at_most_64_kibibytes() -> None:
    room = CONFIG_BYTES - len(encode({"a": "x" * 60_000})) + 60_000
    assert encode_config({"a": "x" * room})
    with pytest.raises(UsageError, match="65537 bytes, at most 65536"):
        encode_config({"a": "x" * (room + 1)})
    with pytest.raises(MalformedError, match="more than 65536"):
        check_config({"a": "x" * (room + 1)})


def nested(depth: int) -> dict[str, Any]:
    """A config of ``depth`` containers, itself included."""
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_a_config_nests_sixteen_deep() -> None:
    assert decode_config(encode_config(nested(16))) == nested(16)
    with pytest.raises(UsageError, match="nested deeper than 16"):
        encode_config(nested(17))
    with pytest.raises(MalformedError, match="nested deeper than 16"):
        decode_config(nested(17))


def test_a_config_that_holds_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["a"] = config
    with pytest.raises(UsageError, match="nested deeper"):
        encode_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"a": b"1234567"}, r"config\.a: a real has 8 bytes"),
        ({"a": [real(math.nan)]}, r"config\.a\[0\]: NaN"),
        ({"a": 0.5}, r"config\.a: a config holds no float"),
        ({"a": {"b": None}}, r"config\.a\.b: a config holds no NoneType"),
    ],
    ids=str,
)
def test_what_cannot_have_been_committed_is_rejected_naming_its_key(config: Any, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        decode_config(config)
