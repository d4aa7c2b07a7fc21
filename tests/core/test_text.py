"""Values as text."""

import json

import pytest

from polledger.core.text import json_text


@pytest.mark.parametrize(
    ("value", "name"), [(float("inf"), "inf"), (float("-inf"), "-inf"), (float("nan"), "nan")]
)
def test_a_number_that_json_has_none_for_is_its_name_at_any_depth(value: float, name: str) -> None:
    assert json.loads(json_text({"a": [{"b": (value,)}]})) == {"a": [{"b": [name]}]}
