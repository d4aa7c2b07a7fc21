"""Tagged arrays and paths: what goes in comes out, and what encoding would not write is refused."""

import math
import string
import unicodedata
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.structure import (
    MAX_DIGITS,
    MAX_NESTING,
    check_structure,
    decode_value,
    encode_value,
    escape,
    join,
    split_floats,
    unescape,
)
from polledger.errors import MalformedError, UsageError


def encode(value: Any, *, ordered: bool = True, exact: bool = False) -> list[Any]:
    return encode_value(value, "top", lambda value, path: None, ordered=ordered, exact=exact)


def decode(structure: list[Any]) -> Any:
    return decode_value(structure, lambda tag, payload: (tag, payload))


def check(structure: Any, *, ordered: bool = True) -> list[tuple[str, list[Any]]]:
    return list(check_structure(structure, "top", ordered=ordered))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8).filter(
    lambda text: unicodedata.is_normalized("NFC", text)
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_value_survives_round_trip_with_types(value: Any) -> None:
    structure = encode(value, exact=True)
    check(structure)
    assert repr(decode(structure)) in (repr(value), repr(_in_key_order(value)))
    assert decode(encode(value, ordered=False)) == value


def _in_key_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_key_order(value[key]) for key in sorted(value, key=escape)}
    if isinstance(value, list | tuple):
        return type(value)(_in_key_order(item) for item in value)
    return value


@given(st.text(alphabet="~/#012a", max_size=6) | st.integers())
def test_escaped_key_comes_back_and_holds_no_slash(key: str | int) -> None:
    assert unescape(escape(key)) == key
    assert "/" not in escape(key)


@given(TEXT | st.integers(), TEXT | st.integers())
def test_different_keys_have_different_segments(one: str | int, other: str | int) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    "segment", ["~", "~3", "a~", "a/b", "a#", "#", "#+1", "#01", "#-0", "#1a", "# 1", "#１"]
)
def test_rejects_segment_that_escape_never_writes(segment: str) -> None:
    with pytest.raises(MalformedError):
        unescape(segment)


def test_paths_join_with_a_slash_only_below_the_top() -> None:
    assert join("", "a") == "a"
    assert join("a", "b") == "a/b"


def test_each_type_has_its_tag() -> None:
    value = {"a": [None, True, -5, 0.5, "s", b"b", (1,)], 3: {}}
    assert encode(value) == [
        "map",
        [
            ["#3", ["map", []]],
            [
                "a",
                [
                    "list",
                    [
                        ["none"],
                        ["bool", True],
                        ["int", "-5"],
                        ["float", bytes.fromhex("3fe0000000000000")],
                        ["str", "s"],
                        ["bytes", b"b"],
                        ["tuple", [["int", "1"]]],
                    ],
                ],
            ],
        ],
    ]


def test_nan_keeps_its_bits() -> None:
    structure = encode(math.nan)
    assert encode(decode(structure)) == structure


def test_unordered_map_keeps_the_order_of_the_dict() -> None:
    assert list(decode(encode({"b": 1, "a": 2}, ordered=False))) == ["b", "a"]


class Colour(IntEnum):
    RED = 3


Pair = namedtuple("Pair", "one two")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, 3),
        (Pair(1, 2), (1, 2)),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (bytearray(b"x"), b"x"),
    ],
)
def test_subclass_is_its_base_type_unless_exactness_is_asked(value: Any, plain: Any) -> None:
    assert decode(encode(value)) == plain
    with pytest.raises(UsageError, match=f"top.*{type(value).__name__}"):
        encode(value, exact=True)


class Text(str):
    """A text that says something else about itself, which could not be read again."""

    __slots__ = ()

    def __str__(self) -> str:
        return "e\u0301"

    isascii = staticmethod(lambda: True)


class Number(int):
    """A number that says something else about itself."""

    def __int__(self) -> int:
        return 10 ** (2 * MAX_DIGITS)

    def __format__(self, form: str) -> str:
        return "\ud800"

    __str__ = __repr__ = lambda self: "e\u0301"


class Raw(bytes):
    """Bytes that say something else about themselves."""

    def __bytes__(self) -> bytes:
        return Raw(b"other")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (Number(5), 5),
        (Raw(b"x"), b"x"),
        ({Text("a"): 1}, {"a": 1}),
        ({Number(5): 1}, {5: 1}),
        ({Colour.RED: 1}, {3: 1}),
    ],
)
def test_subclass_is_written_as_what_it_holds_not_what_it_says(value: Any, plain: Any) -> None:
    structure = encode(value)
    check(structure)
    assert structure == encode(plain)
    with pytest.raises(UsageError, match=r"^top: a value of type"):
        encode(value, exact=True)


def test_text_of_a_subclass_is_looked_at_as_well() -> None:
    with pytest.raises(UsageError, match="NFC"):
        encode(Text("e\u0301"))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({10**MAX_DIGITS: 1}, "top: an integer"),
        ({"a": [1, object()]}, "top/a/1: "),
        ({"a": {(1, 2): 3}}, "top/a: a key of type tuple"),
        ({True: 1}, "top: a key of type bool"),
        ({"x": lambda: None}, "top/x: "),
        ([{1}], "top/0: .*set"),
        (["e\u0301"], "top/0: .*NFC"),
        (["\ud800"], "top/0: .*Unicode"),
        ({"e\u0301": 1}, "top: .*NFC"),
        ([10**MAX_DIGITS], "top/0: an integer"),
        (1 + 2j, "top: .*complex"),
    ],
)
def test_refuses_what_cannot_be_recorded_and_names_the_place(value: Any, place: str) -> None:
    with pytest.raises(UsageError, match=place):
        encode(value)


def test_integers_may_have_the_limit_of_digits() -> None:
    largest = 10**MAX_DIGITS - 1
    assert decode(encode(largest)) == largest
    assert decode(encode(-largest)) == -largest


def test_nesting_is_bounded() -> None:
    value: Any = 0
    for _ in range(MAX_NESTING):
        value = [value]
    check(encode(value))
    with pytest.raises(UsageError, match="nested deeper"):
        encode([value])


def test_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match="nested deeper"):
        encode(value)


BAD = [
    None,
    "none",
    [],
    [7],
    ["none", 1],
    ["int"],
    ["int", "1", "2"],
    ["int", 1],
    ["int", "01"],
    ["int", "-0"],
    ["int", ""],
    ["int", "9" * (MAX_DIGITS + 1)],
    ["bool", 1],
    ["float", 1.0],
    ["float", b"1234567"],
    ["str", b"x"],
    ["bytes", "x"],
    ["list", "x"],
    ["list", ["none"]],
    ["tuple", None],
    ["map", {"a": ["none"]}],
    ["map", [["a"]]],
    ["map", [["a", ["none"], 1]]],
    ["map", [[1, ["none"]]]],
    ["map", [["a#", ["none"]]]],
    ["map", [["a", ["none"]], ["a", ["none"]]]],
    ["map", [["b", ["none"]], ["a", ["none"]]]],
    ["map", [("a", ["none"])]],
    ["unknown", 1],
    ["list", [["list", [["unknown", 1]]]]],
]


@pytest.mark.parametrize("structure", BAD, ids=range(len(BAD)))
def test_rejects_structure_that_encoding_never_writes(structure: Any) -> None:
    with pytest.raises(MalformedError):
        check(structure)


def test_unordered_maps_still_need_unique_keys() -> None:
    check(["map", [["b", ["none"]], ["a", ["none"]]]], ordered=False)
    with pytest.raises(MalformedError, match="unique"):
        check(["map", [["b", ["none"]], ["a", ["none"]], ["b", ["none"]]]], ordered=False)


def test_check_names_scalars_and_leaves_by_path() -> None:
    structure = ["map", [["a", ["list", [["int", "1"], ["tensor", 0]]]], ["b", ["none"]]]]
    assert check(structure) == [
        ("top/a/0", ["int", "1"]),
        ("top/a/1", ["tensor", 0]),
        ("top/b", ["none"]),
    ]


def test_floats_are_split_off_in_order() -> None:
    structure = encode({"a": [0.5, 1, (2.5,)], "b": {"c": -1.0}, "d": "x"})
    rest, floats = split_floats(structure)
    assert floats == [0.5, 2.5, -1.0]
    assert rest == split_floats(encode({"a": [9.5, 1, (8.5,)], "b": {"c": 7.0}, "d": "x"}))[0]
    assert rest != split_floats(encode({"a": [9.5, 2, (8.5,)], "b": {"c": 7.0}, "d": "x"}))[0]
    assert rest != split_floats(encode({"a": [9.5, 1.0, (8.5,)], "b": {"c": 7.0}, "d": "x"}))[0]


def test_alphabet_of_tests_covers_keys_of_real_modules() -> None:
    name = "layers.0." + string.ascii_letters + "._orig_mod.weight"
    assert escape(name) == name
