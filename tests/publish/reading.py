"""Reads the pages of claims in a browser: one for all tests, a good claim, and what a page says of one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from polledger.timestamp.authority import EmbeddedAuthority
from tests.browser import Browser, Page, browser
from tests.publish.claims import Maker, Parts

SETTLED = """new Promise((resolve) => {
  const look = () => document.documentElement.dataset.verdict ? resolve() : setTimeout(look, 5);
  look();
})"""

FINDINGS = """(id) => Array.from(document.querySelectorAll(`#${id} li`), (item) =>
  [item.dataset.outcome, item.querySelector('.sentence').innerText])"""

MODEL_FINDINGS = """new Promise((resolve) => {
  const look = () => {
    const items = Array.from(document.querySelectorAll('#file-result li'), (item) =>
      [item.dataset.outcome, item.querySelector('.sentence').innerText]);
    return items.length > 0 ? resolve(items) : setTimeout(look, 5);
  };
  look();
})"""
"""What the page says of a file, once it does."""


@dataclass(frozen=True)
class Said:
    """What a page says: its verdict, the sentences at its top and its findings (outcome, sentence)."""

    verdict: str
    title: str
    top: list[str]
    findings: list[tuple[str, str]]
    problems: list[str]

    def outcome(self, name: str) -> str:
        """Outcome of the one finding of this name."""
        (found,) = [outcome for outcome, sentence in self.findings if sentence.startswith(name + ". ")]
        return found


def said(page: Page) -> Said:
    """What ``page`` says once its checks are through."""
    page.evaluate(SETTLED)
    return Said(
        verdict=page.evaluate("document.documentElement.dataset.verdict"),
        title=page.evaluate("document.getElementById('verdict-title').innerText"),
        top=page.evaluate(
            "Array.from(document.querySelectorAll('#verdict li'), ({ innerText }) => innerText)"
        ),
        findings=[tuple(one) for one in page.evaluate(f"({FINDINGS})('findings')")],
        problems=page.problems(),
    )


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedAuthority:
    return EmbeddedAuthority.open(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="session")
def good(authority: EmbeddedAuthority) -> Parts:
    return Maker(authority=authority).make()


Reader = Callable[[Parts], Said]


@pytest.fixture
def read(chromium: Browser, tmp_path: Path) -> Reader:
    """What the page of some parts says in a browser that is offline."""

    def open_page(parts: Parts) -> Said:
        path = tmp_path / "index.html"
        path.write_bytes(parts.page())
        with chromium.page(path.as_uri()) as page:
            return said(page)

    return open_page
