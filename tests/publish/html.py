"""Reads pages in tests: well-formedness, and that nothing in them is fetched or runs."""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "col"}


class Tags(HTMLParser):
    """Every element of a page in order; what opens has to close."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [found for tag, found in self.seen if tag == name]


def read(page: str) -> Tags:
    """The elements of a whole page."""
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def assert_inert(page: str) -> None:
    """No script, no request, no style but the one that the policy names, and no character that turns text around."""
    tags = read(page)
    assert not {name for name, _ in tags.seen} & {
        "script", "link", "img", "iframe", "object", "embed", "form", "base", "foreignobject", "image", "animate",
        "set",
    }  # fmt: skip
    for _, found in tags.seen:
        assert not {"src", "style", "srcdoc", "action"} & found.keys()
        assert not any(name.startswith("on") for name in found)
        for name in ("href", "xlink:href"):
            assert (found.get(name) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", page)
    assert all(part.isprintable() or part == "\n" for part in page)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [found["content"] for found in tags.named("meta") if "http-equiv" in found]
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
