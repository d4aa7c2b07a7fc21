"""The catalogue: every number of the list of spoofs is there, once per name."""

import importlib
import pkgutil

import pytest

from polledger import redteam
from polledger.errors import UsageError
from polledger.redteam.catalogue import catalogue, chosen
from polledger.redteam.spoof import Spoof


def test_every_spoof_that_a_module_lists_is_in_the_catalogue_once() -> None:
    modules = [
        importlib.import_module(f"{redteam.__name__}.{item.name}")
        for item in pkgutil.iter_modules(redteam.__path__)
    ]
    listed = [
        spoof
        for module in modules
        for spoof in (*getattr(module, "SPOOFS", ()), *getattr(module, "LIMITS", ()))
    ]
    names = [spoof.name for spoof in catalogue()]
    assert sorted(names) == sorted(spoof.name for spoof in listed)
    assert len(set(names)) == len(names)


def test_every_number_is_there_in_order() -> None:
    numbers = [spoof.number for spoof in catalogue()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 28))


def test_who_has_nothing_to_pass_says_why() -> None:
    assert all(spoof.reference or spoof.why for spoof in catalogue())


def test_names_choose_all_of_a_number_or_one_variant() -> None:
    spoofs = [_spoof(2, "1"), _spoof(2, "5"), _spoof(9, "", slow=True), _spoof(27, "100")]
    assert [spoof.name for spoof in chosen(["2"], spoofs)] == ["2+1", "2+5"]
    assert [spoof.name for spoof in chosen(["9", "2+5"], spoofs)] == ["2+5", "9"]
    assert [spoof.name for spoof in chosen([], spoofs)] == ["2+1", "2+5", "27+100"]
    with pytest.raises(UsageError, match="choose from 2, 9, 27"):
        chosen(["1"], spoofs)
    with pytest.raises(UsageError, match="choose from 2\\+1, 2\\+5"):
        chosen(["2+"], spoofs)


def _spoof(number: int, variant: str, *, slow: bool = False) -> Spoof:
    def never(*_: object) -> object:
        raise AssertionError

    return Spoof(number=number, variant=variant, title="", source="", forge=never, slow=slow)  # type: ignore[arg-type]
