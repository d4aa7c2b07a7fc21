"""HTML in which nothing that evidence says can act: every text is escaped because there is no way to leave it out.

:func:`element` takes texts and :class:`Markup`; only this module and constants of ours make Markup. Characters that
nobody sees, or that turn the text around them, are spelled out.
"""

import re
import unicodedata
from collections.abc import Iterable
from html import escape
from typing import TypeAlias

from polledger.core.text import shown

TEXT = 600
"""Characters of one text that a page shows; a digest has 64, a sentence of a finding seldom more than 200."""

_MARKS = 2
"""Combining marks on one letter that are left as they are: some languages need two; a pile paints over other lines."""

_SPACES = re.compile(r"\s+")

_VOID = frozenset({"br", "col", "hr", "meta"})

Attribute: TypeAlias = str | int | bool | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content: TypeAlias = str | Markup | None


def text(value: str, *, limit: int = TEXT) -> Markup:
    """``value`` as one line of escaped text, cut in the middle where it is longer than ``limit`` characters."""
    if isinstance(value, Markup):
        return value
    return exact(_SPACES.sub(" ", _cut(value, limit)))


def exact(value: str) -> Markup:
    """``value`` whole and with its spaces as they are, escaped: for texts of ours and short names."""
    return Markup(escape(_marks_spelled(shown(value))))


def _cut(value: str, limit: int) -> str:
    if len(value) <= limit:
        return value
    ends = limit // 2
    return f"{value[:ends]} … ({len(value) - 2 * ends} characters left out) … {value[-ends:]}"


def _marks_spelled(value: str) -> str:
    if value.isascii():
        return value
    parts, marks = [], 0
    for part in value:
        marks = marks + 1 if unicodedata.category(part) in ("Mn", "Me", "Mc") else 0
        parts.append(part if marks <= _MARKS else part.encode("unicode_escape").decode())
    return "".join(parts)


def element(name: str, /, *content: Content, **attributes: Attribute) -> Markup:
    """The element ``name``. Content that is no Markup is escaped, None is left out.

    Attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; True stands alone, False and None are not
    written.
    """
    inside = "".join(text(part) for part in content if part is not None)
    opened = f"<{name}{''.join(map(_attribute, attributes, attributes.values()))}>"
    return Markup(opened if name in _VOID else f"{opened}{inside}</{name}>")


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    written = name.rstrip("_").replace("_", "-")
    return f" {written}" if value is True else f' {written}="{exact(str(value))}"'


def joined(parts: Iterable[Content], separator: str = "") -> Markup:
    """``parts``, each escaped unless it is Markup, with ``separator`` between them."""
    return Markup(text(separator).join(text(part) for part in parts if part is not None))
