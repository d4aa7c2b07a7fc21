"""Nothing that evidence says acts in a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.publish.markup import TEXT, Markup, element, exact, joined, text
from polledger.publish.style import document, facts, table
from tests.publish.html import assert_inert, read

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>*{display:none}</style>",
    "\u202eDEIFIREV\u202c \u2066x\u2069 \u200f\u200e\u061c",
    "\x00\x07\x1b[31m\x7f\x9b2J\u2028\u2029\ufeff\u200b",
    "\ud800 lone",
    "&lt;b&gt; &amp;",
    "e" + "\u0301" * 400,
    "\u0488" * 50,
    "{{7*7}} ${7*7} <!-- --> ]]>",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_text_is_text_wherever_it_stands(value: str) -> None:
    page = document(
        value,
        element("p", value, title=value, class_=value),
        facts([(value, value)]),
        table(value, [value], [[value, element("b", value)]]),
    )
    assert_inert(page)
    page.encode()
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("<style") == 1


@given(st.text())
def test_any_text_survives_as_what_a_reader_sees(value: str) -> None:
    page = document("t", element("p", value, title=value))
    assert_inert(page)
    [paragraph] = read(page).named("p")
    seen = paragraph["title"] or ""
    if value.isascii() and value.isprintable():
        assert seen == value


def test_piles_of_combining_marks_are_spelled_out() -> None:
    assert text("e\u0301\u0323") == "e\u0301\u0323"
    assert text("e\u0301\u0301\u0301\u0301") == "e\u0301\u0301\\u0301\\u0301"


def test_long_text_keeps_its_ends_and_says_what_is_left_out() -> None:
    shown = text("a" * TEXT + "middle" + "b" * TEXT)
    assert len(shown) < TEXT + 60
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert f"{TEXT + 6} characters left out" in shown
    assert text("c" * TEXT) == "c" * TEXT


def test_spaces_become_one_and_stay_at_the_ends() -> None:
    assert text(" a \n\t b ") == " a b "
    assert exact("a  b") == "a  b"


def test_markup_is_escaped_once() -> None:
    inner = element("b", "<")
    assert isinstance(inner, Markup)
    assert element("p", inner, " & ", None, joined(["<", inner], ", ")) == (
        "<p><b>&lt;</b> &amp; &lt;, <b>&lt;</b></p>"
    )


def test_attributes_that_are_false_or_none_are_left_out() -> None:
    assert element("details", open=True, hidden=False, id=None, aria_label='a"b', tabindex=0) == (
        '<details open aria-label="a&quot;b" tabindex="0"></details>'
    )
    assert element("br") == "<br>"


def test_tables_name_their_rows_and_columns() -> None:
    found = read(document("t", table("Some <things>", ["a", "b"], [["1", "2"], ["3", None]], numbers=[1])))
    heads = found.named("th")
    assert [head["scope"] for head in heads] == ["col", "col", "row", "row"]
    assert [cell.get("class") for cell in found.named("td")] == ["number", "number"]
    [region] = [item for item in found.named("div") if item.get("role") == "region"]
    assert (region["aria-label"], region["tabindex"]) == ("Some <things>", "0")


def test_facts_without_a_value_are_left_out() -> None:
    assert facts([("a", None), ("b", ""), ("c", "d")]) == "<dl><dt>c</dt><dd>d</dd></dl>"
