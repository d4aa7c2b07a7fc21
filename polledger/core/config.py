"""A task's config as genesis commits it: plain values, reals as 8 bytes. PROTOCOL sections 3 and 9.

``decode_config(encode_config(c))`` equals ``c`` bit for bit, except that tuples come back as lists.
"""

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from polledger.core.encoding import INT_MAX, encode, from_real, real
from polledger.core.scan import KEY_BYTES
from polledger.errors import MalformedError, UsageError

CONFIG_BYTES = 1 << 16
"""Largest encoded config (PROTOCOL section 7): room for hyperparameters, not for weights."""

CONFIG_DEPTH = 16
"""Deepest nesting of lists and maps, the config itself included; genesis leaves room for more."""

KEY_LENGTH = 64
"""Longest key: the bound that records put on names of hyperparameters and metrics."""


def encode_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The form of ``config`` that goes into genesis: floats as 8 bytes, tuples as lists, the rest unchanged.

    Raises UsageError naming the key for anything but float, int, bool, str, list, tuple and mappings of these
    with keys of a-z, 0-9 and _; for NaN, integers beyond ±(2^53−1), strings not in NFC; and where the whole
    takes more than 64 KiB.
    """
    encoded = {_key("", key): _encode_value(_key("", key), value, 1) for key, value in config.items()}
    size = len(encode(encoded))
    if size > CONFIG_BYTES:
        raise UsageError(f"the config takes {size} bytes, at most {CONFIG_BYTES} can be committed")
    return encoded


def decode_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain config that :func:`encode_config` made ``config`` from.

    Raises MalformedError naming the key for anything that it cannot have made.
    """
    decoded: dict[str, Any] = _decode_value("config", dict(config), 0)
    return decoded


def check_config(config: Mapping[str, Any]) -> None:
    """Raise MalformedError unless ``config`` is what :func:`encode_config` makes, at most 64 KiB encoded."""
    decode_config(config)
    if len(encode(config)) > CONFIG_BYTES:
        raise MalformedError(f"the config takes more than {CONFIG_BYTES} bytes")


def _key(parent: str, key: object) -> str:
    path = f"{parent}.{key}" if parent else f"{key}"
    if not isinstance(key, str):
        raise UsageError(f"config key {path!r}: keys must be strings, not {type(key).__name__}")
    if not 0 < len(key) <= KEY_LENGTH or not key.isascii() or key.encode().translate(None, KEY_BYTES):
        raise UsageError(
            f"config key {path!r}: use up to {KEY_LENGTH} lower-case letters, digits and underscores"
        )
    return path


def _encode_value(path: str, value: object, depth: int) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _encode_int(path, int(value))
    if isinstance(value, float):
        if math.isnan(value):
            raise UsageError(f"config key {path!r}: NaN cannot be committed, it equals nothing")
        return real(float(value))
    if isinstance(value, str):
        return _encode_str(path, str.__str__(value))
    if depth >= CONFIG_DEPTH:
        raise UsageError(f"config key {path!r}: nested deeper than {CONFIG_DEPTH}")
    if isinstance(value, list | tuple):
        return [_encode_value(f"{path}[{i}]", item, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        keys = {key: _key(path, key) for key in value}
        return {key: _encode_value(keys[key], item, depth + 1) for key, item in value.items()}
    raise UsageError(_why_not(path, value))


def _encode_int(path: str, value: int) -> int:
    if not -INT_MAX <= value <= INT_MAX:
        raise UsageError(f"config key {path!r}: integers lie within ±(2^53−1), use a float or a string")
    return value


def _encode_str(path: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"config key {path!r}: the string is not Unicode text") from None
    if not unicodedata.is_normalized("NFC", value):
        raise UsageError(f"config key {path!r}: the string must be in Unicode form NFC")
    return value


def _why_not(path: str, value: object) -> str:
    if value is None:
        return f"config key {path!r}: None cannot be committed, leave the key out or use a value that says it"
    allowed = "float, int, bool, str, list or dict"
    return f"config key {path!r}: a {type(value).__name__} cannot be committed, only {allowed}"


def _decode_value(path: str, value: Any, depth: int) -> Any:
    if isinstance(value, bytes):
        return _decode_real(path, value)
    if isinstance(value, bool | int | str):
        return value
    if depth >= CONFIG_DEPTH:
        raise MalformedError(f"{path}: nested deeper than {CONFIG_DEPTH}")
    if isinstance(value, list):
        return [_decode_value(f"{path}[{i}]", item, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _decode_value(f"{path}.{key}", item, depth + 1) for key, item in value.items()}
    raise MalformedError(f"{path}: a config holds no {type(value).__name__}")


def _decode_real(path: str, value: bytes) -> float:
    try:
        number = from_real(value)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from None
    if math.isnan(number):
        raise MalformedError(f"{path}: NaN is no config value")
    return number
