"""Examples and batches to bytes and back."""

import enum
from collections import UserDict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polledger.core.dtypes import DTYPE_BYTES
from polledger.core.nest import NEST_LIMITS
from polledger.core.structure import MAX_NESTING
from polledger.errors import MalformedError, UsageError
from polledger.training.nest import check_exact, decode_nest, encode_nest

Named = namedtuple("Named", "x y")


class Marked(Tensor):
    """A tensor subclass, as image libraries make them."""


def encoded(value: Any, *, exact: bool = True) -> bytes:
    return b"".join(bytes(chunk) for chunk in encode_nest(value, exact=exact))


def same(one: Any, other: Any) -> bool:
    """Equal in type, dtype, shape and bits, in depth and in the order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and encoded(one) == encoded(other)
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


VALUES = {
    "tensor": torch.arange(6.0).view(2, 3),
    "nest": {
        "b": (torch.ones(2), [1, 2.5, None, True, "ä", b"raw"]),
        "a": {3: torch.zeros((), dtype=torch.bool)},
    },
    "transposed": torch.arange(6).view(2, 3).T,
    "one-of-many": torch.arange(20)[5:6:3].view(1, 1)[:, ::1],
    "one-strided": torch.as_strided(torch.arange(9.0), (1,), (7,)),
    "row-strided": torch.as_strided(torch.arange(40.0), (1, 1, 4), (9, 33, 1), 3),
    "strided": torch.arange(20)[::3],
    "expanded": torch.ones(1).expand(3),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "negative-bit": torch.tensor([1 + 2j]).conj().imag,
    "array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "empty-array": np.zeros((2, 0), dtype=np.int8),
    "array-scalar": np.array(3, dtype=np.int16),
    "numpy-scalar": np.float32(0.1),
    "numpy-bool": np.bool_(True),
    "label": 7,
    "text": "seven",
    "nothing": None,
}


@pytest.mark.parametrize("name", VALUES)
def test_value_comes_back_as_it_was(name: str) -> None:
    assert same(decode_nest(encoded(VALUES[name])), VALUES[name])


@pytest.mark.parametrize("name", [name for name in DTYPE_BYTES if hasattr(torch, name)])
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_dtype_of_torch_comes_back_bit_for_bit(name: str) -> None:
    dtype = getattr(torch, name)
    size = DTYPE_BYTES[name]
    bits = torch.tensor([0, 1] if name == "bool" else range(1, 1 + 3 * size), dtype=torch.uint8)
    value = bits.view(dtype)
    assert value.element_size() == size
    found = decode_nest(encoded(value))
    assert found.dtype == dtype
    assert found.view(torch.uint8).tolist() == bits.tolist()


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "uint64", "int32", "float16", "float64", "complex64", ">f4", ">i2"]
)
def test_array_comes_back_with_equal_values_in_native_order(dtype: str) -> None:
    value = np.array([0, 1, 1], dtype=dtype)
    found = decode_nest(encoded(value))
    assert found.dtype == value.dtype.newbyteorder("=")
    assert found.tolist() == value.tolist()


def test_decoded_values_are_writable_and_own_their_memory() -> None:
    data = encoded({"t": torch.zeros(2), "a": np.zeros(2)})
    first = decode_nest(data)
    first["t"] += 1
    first["a"] += 1
    assert decode_nest(data)["t"].tolist() == [0, 0]
    assert decode_nest(data)["a"].tolist() == [0, 0]


def test_data_are_views_and_not_copies() -> None:
    value = torch.zeros(4, dtype=torch.uint8)
    _, data = encode_nest(value)
    value += 3
    assert bytes(data) == b"\3\3\3\3"


def test_header_separates_what_bytes_alone_do_not() -> None:
    values = [
        torch.ones(2),
        torch.ones(1, 2),
        np.ones(2, dtype=np.float32),
        [torch.ones(2)],
        (torch.ones(2),),
    ]
    assert len({encoded(value) for value in values}) == len(values)


LOSSY: dict[str, tuple[Any, Any]] = {
    "named tuple": (Named(1, 2), (1, 2)),
    "mapping": (UserDict(a=torch.ones(1)), {"a": torch.ones(1)}),
    "tensor subclass": (torch.ones(2).as_subclass(Marked), torch.ones(2)),
    "parameter": (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
    "array subclass": (np.ones(2).view(np.recarray), np.ones(2)),
}


@pytest.mark.parametrize("name", LOSSY)
def test_what_would_come_back_as_another_type_is_refused_when_exactness_is_asked(name: str) -> None:
    value, plain = LOSSY[name]
    assert same(decode_nest(encoded(value, exact=False)), plain)
    for refuse in (check_exact, encoded):
        with pytest.raises(UsageError, match=r"the value|x"):
            refuse(value)
        with pytest.raises(UsageError, match="x/0"):
            refuse({"x": [value]})


class Picture:
    """What image data sets return before they are converted."""


BAD: dict[str, Any] = {
    "object": Picture(),
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.empty(2, device="meta"),
    "bits": torch.empty(2, dtype=torch.bits8),
    "wrapper": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged),
    "texts": np.array(["a"]),
    "objects": np.array([None]),
    "date": np.datetime64("2020-01-01"),
    "long-double": np.longdouble(1),
    "records": np.zeros(2, dtype=[("a", "f4")]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_canonical_bytes_is_refused_and_the_place_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"^x/1: "):
        encode_nest({"x": [0, BAD[name]]})


def test_check_accepts_what_comes_back() -> None:
    for value in VALUES.values():
        check_exact(value)


def test_mapping_inside_a_mapping_is_written_as_a_map() -> None:
    value: Mapping[str, Any] = UserDict(a=UserDict(b=1))
    assert decode_nest(encoded(value, exact=False)) == {"a": {"b": 1}}


def test_noise_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode_nest(b"noise")


class Key(enum.StrEnum):
    """A text that is more than a text."""

    X = "x"


@pytest.mark.parametrize("key", [np.str_("x"), Key.X])
def test_keys_that_are_more_than_texts_are_written_as_their_text_or_refused(key: str) -> None:
    assert encode_nest({key: 1}) == encode_nest({"x": 1})
    with pytest.raises(UsageError, match="as a key"):
        encode_nest({key: 1}, exact=True)


@pytest.mark.parametrize("tensor", [torch.empty(0), torch.zeros(2, 3).T, torch.zeros(4)[::2]])
def test_tensors_that_are_not_viewed_can_still_be_resized(tensor: torch.Tensor) -> None:
    encode_nest(tensor)
    tensor.resize_(7)


def test_mappings_count_as_nesting() -> None:
    value: Any = 1
    for _ in range(MAX_NESTING):
        value = UserDict(a=value)
    assert decode_nest(encoded(value, exact=False))
    with pytest.raises(UsageError, match="nested deeper"):
        encoded(UserDict(a=value), exact=False)


def test_more_text_than_can_be_read_again_is_refused() -> None:
    text = "x" * (NEST_LIMITS.size - 100)
    assert decode_nest(encoded(text)) == text
    with pytest.raises(UsageError, match="not tensors"):
        encoded(text + "x" * 100)


class Odd(np.ndarray):
    """An array that lies about its shape."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (-5,)


def test_shape_that_no_tensor_has_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be encoded"):
        encoded(np.ones(3).view(Odd), exact=False)
