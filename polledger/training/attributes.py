"""What a module carries besides tensors and may change while it trains. PROTOCOL section 5.

A dropout rate that is annealed, a counter that ``forward`` keeps, layers that are unfrozen on the way: a replay that
starts in the middle needs them. Recorded is only what differs from the module as it was built, so that most states
hold nothing of the kind. Not seen: lists, dicts and objects of other types, names that begin with an underscore, and
what no record can hold (text that is not NFC, integers of more than 1,024 digits).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from polledger.core.structure import MAX_NESTING, encode_value
from polledger.errors import EnvironmentMismatch, UsageError

ATTRIBUTES_KEY = 1
"""Key of changed attributes in the values of a module, by dotted name."""

TRAINS_KEY = 2
"""Key of changed ``requires_grad`` flags, by the parameter's name."""

_PLAIN = frozenset({bool, int, float, str, type(None)})

Changes: TypeAlias = dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """A module as it was built: plain attributes as Python writes them, and which parameters train."""

    attributes: Mapping[str, str]
    trains: Mapping[str, bool]


def traits_of(module: nn.Module) -> Traits:
    """The traits of ``module`` and all modules in it, now."""
    return Traits(
        attributes={name: repr(value) for name, value in _attributes(module)},
        trains={name: parameter.requires_grad for name, parameter in module.named_parameters()},
    )


def changed_traits(module: nn.Module, built: Traits) -> Changes:
    """What differs from ``built``; no key where nothing does."""
    attributes = {
        name: value for name, value in _attributes(module) if built.attributes.get(name) != repr(value)
    }
    trains = {
        name: parameter.requires_grad
        for name, parameter in module.named_parameters()
        if built.trains.get(name, True) is not parameter.requires_grad
    }
    found = {ATTRIBUTES_KEY: attributes, TRAINS_KEY: trains}
    return {key: values for key, values in found.items() if values}


def restore_traits(module: nn.Module, changes: Mapping[int, Mapping[str, Any]], path: str) -> None:
    """Give a freshly built ``module`` the changes that were recorded. Raises EnvironmentMismatch naming the first
    that has no place.
    """
    for name, value in changes.get(ATTRIBUTES_KEY, {}).items():
        owner, _, attribute = name.rpartition(".")
        try:
            setattr(module.get_submodule(owner), attribute, value)
        except (AttributeError, TypeError) as error:
            raise EnvironmentMismatch(f"{path}: the attribute {name} cannot be restored: {error}") from None
    for name, value in changes.get(TRAINS_KEY, {}).items():
        try:
            module.get_parameter(name).requires_grad_(value)
        except (AttributeError, RuntimeError) as error:
            raise EnvironmentMismatch(
                f"{path}: requires_grad of {name} cannot be restored: {error}"
            ) from None


def plain_attributes(owner: object) -> Iterator[tuple[str, Any]]:
    """Name and value of every attribute that is a number, text, bool, None or a tuple of these, and can be recorded."""
    for name, value in vars(owner).items():
        if not name.startswith("_") and _is_plain(value) and _can_be_recorded(name, value):
            yield name, value


def _attributes(root: nn.Module) -> Iterator[tuple[str, Any]]:
    for place, module in root.named_modules():
        for name, value in plain_attributes(module):
            # The runner puts every module into its mode before every step.
            if name != "training" and "." not in name:
                yield f"{place}.{name}" if place else name, value


def _is_plain(value: object, room: int = MAX_NESTING) -> bool:
    """``room``: how many tuples may lie in each other; a list that is linked by tuples may have thousands."""
    if type(value) in _PLAIN:
        return True
    # A subclass of tuple, a named one say, means more than its values.
    return type(value) is tuple and room > 0 and all(_is_plain(item, room - 1) for item in value)


def _can_be_recorded(name: str, value: object) -> bool:
    if name.isascii() and _is_short(value):
        return True
    try:
        # As deep as it will lie in the structure of its module.
        encode_value({ATTRIBUTES_KEY: {name: value}}, "", lambda item, path: None, ordered=True, exact=True)
    except UsageError:
        return False
    return True


def _is_short(value: object) -> bool:
    """True for what needs no second look; of every module each attribute comes by at every checkpoint."""
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value.isascii() if isinstance(value, str) else not isinstance(value, tuple)
