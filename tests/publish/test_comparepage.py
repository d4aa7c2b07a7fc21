"""A comparison as a page: the same facts, and nothing in it acts."""

from pathlib import Path

from polledger.core.compareform import RivalsForm
from polledger.publish.compare import POSSESSION
from polledger.publish.compared import between, side_facts
from polledger.publish.comparepage import compare_page
from tests.publish.html import read
from tests.publish.test_compare import compare
from tests.verify.build import Built, Spec, make_run


def found_of(honest: Built, path: Path) -> RivalsForm:
    return compare(honest, make_run(path, Spec(seed=9)))


def test_the_page_has_every_fact_of_both_sides_and_of_what_lies_between(
    honest: Built, tmp_path: Path
) -> None:
    found = found_of(honest, tmp_path / "other")
    text = " ".join(" ".join(read(compare_page(found)).text).split())
    facts = [value for side in ("a", "b") for _, value in side_facts(found[side])]  # type: ignore[literal-required]
    for value in (*facts, *(value for _, value in between(found)), found["sentence"], *found["not_shown"]):
        assert " ".join(value.split()) in text
    assert POSSESSION in text
    assert "tensor by tensor" in text
    assert "Along the way" in text


def test_what_evidence_says_does_nothing_on_the_page(honest: Built, tmp_path: Path) -> None:
    found = found_of(honest, tmp_path / "other")
    attack = "<script>alert(1)</script>"
    found["a"]["name"] = attack
    found["missing"] = [attack]
    found["binding"]["tensors"][0]["name"] = attack
    page = compare_page(found)
    assert attack not in page
    assert page.count("&lt;script&gt;") == 3
    assert not read(page).named("script")


def test_equal_models_need_no_table_of_tensors(honest: Built) -> None:
    page = compare_page(compare(honest, honest))
    assert "tensor by tensor" not in page
