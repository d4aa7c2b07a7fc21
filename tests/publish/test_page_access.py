"""Whether everybody can read the page: axe-core, run in it by Chromium, in light and dark, good and bad."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.publish.claims import MODEL, Parts, safetensors
from tests.publish.reading import MODEL_FINDINGS, said

VIOLATIONS = """axe.run(document).then(({ violations }) =>
  violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' | ')}`))"""

HAPPENED = """axe.run(document).then(({ passes }) => passes.map(({ id }) => id))"""


@cache
def axe() -> str:
    """The script. Its package is never imported: that would load a browser driver that is not installed."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
@pytest.mark.parametrize("kind", ["good", "contradicted", "changed"])
def test_axe_finds_nothing(
    chromium: Browser, tmp_path: Path, good: Parts, scheme: str, width: int, kind: str
) -> None:
    parts = {
        "good": good,
        "contradicted": good.training(steps=400),
        "changed": good.payload('"steps":40', '"steps":41'),
    }[kind]
    path, model = tmp_path / "index.html", tmp_path / "model.safetensors"
    path.write_bytes(parts.page())
    model.write_bytes(safetensors(MODEL))
    with chromium.page(path.as_uri()) as page:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        said(page)
        page.give_files("#file", [model])
        page.evaluate(MODEL_FINDINGS)
        page.evaluate("document.querySelectorAll('details').forEach((part) => part.setAttribute('open', ''))")
        page.evaluate(axe())
        assert page.evaluate(VIOLATIONS) == []
        assert {"color-contrast", "label", "region", "heading-order"} <= set(page.evaluate(HAPPENED))


def test_a_keyboard_reaches_file_and_values(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        reached = []
        for _ in range(8):
            for kind in ("keyDown", "keyUp"):
                page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(page.evaluate("document.activeElement.tagName"))
    assert reached[:7] == ["INPUT"] + ["SUMMARY"] * 6


def test_results_are_announced(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        live = page.evaluate("Array.from(document.querySelectorAll('[aria-live=polite]'), ({ id }) => id)")
    assert live == ["verdict", "file-result"]


def test_what_is_printed_shows_every_value(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        before = page.evaluate("document.querySelector('#details').offsetHeight")
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.evaluate("document.querySelector('#details').offsetHeight") > 2 * before
        assert page.evaluate("getComputedStyle(document.getElementById('file-section')).display") == "none"
        assert page.pdf().startswith(b"%PDF-")
