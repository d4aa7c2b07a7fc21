"""What all pages have in common: one look, light and dark and on paper, and a policy under which nothing runs.

A page fetches nothing and runs nothing: its policy allows its own style, by digest. Styles in attributes are not
allowed, so a page has classes instead.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from polledger.publish.markup import Content, Markup, element, joined


@cache
def base_style() -> str:
    """The style that all pages share: colours as variables, tables, lists, print."""
    return files(__package__).joinpath("style.css").read_text("utf-8")


def source(content: str) -> str:
    """A style or script as a content security policy names it: ``'sha256-…'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def document(title: str, *body: Content, style: str = "") -> str:
    """A whole page in English: ``style`` comes after the shared one."""
    css = base_style() + style
    policy = f"default-src 'none'; style-src {source(css)}; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        # Ours, and it has to be as it was hashed.
        Markup(f"<style>{css}</style>"),
    )
    page = element("html", head, element("body", element("main", *body)), lang="en")
    return f"<!doctype html>\n{page}\n"


def facts(items: Iterable[tuple[str, Content]]) -> Markup:
    """A list of names and values; those without a value are left out."""
    shown = [(name, value) for name, value in items if value]
    return element("dl", *(joined([element("dt", name), element("dd", value)]) for name, value in shown))


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    numbers: Iterable[int] = (),
    quiet: bool = False,
    kind: str | None = None,
) -> Markup:
    """A table whose first column names its rows. ``numbers``: columns of figures. ``quiet``: a caption for ears only.

    ``kind``: a class for the page's own style. Wider than the page it can be scrolled, by keyboard too.
    """
    right = frozenset(numbers)
    head = (
        element("th", heading, scope="col", class_="number" if at in right else None)
        for at, heading in enumerate(headings)
    )
    body = (_row(cells, right) for cells in rows)
    whole = element(
        "table",
        element("caption", caption, class_="hidden" if quiet else None),
        element("thead", element("tr", *head)),
        element("tbody", *body),
        class_=kind,
    )
    return element("div", whole, class_="wide", role="region", aria_label=caption, tabindex=0)


def _row(cells: Sequence[Content], right: frozenset[int]) -> Markup:
    first, *rest = cells
    named = element("th", first, scope="row", class_="number" if 0 in right else None)
    others = (
        element("td", cell, class_="number" if at in right else None) for at, cell in enumerate(rest, start=1)
    )
    return element("tr", named, *others)
