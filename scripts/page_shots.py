#!/usr/bin/env python3
"""Seal the digits example, claim and publish it; measure the page in Chromium and take its pictures.

The pictures show the page in light and dark, on a telephone, and over a claim of which one word was changed after it
was signed. Sizes are of the files published. Times are from the start of the navigation to the verdict, each in a new
tab, by the browser's clock, which other work on the machine slows, and in processor time of the page's main thread.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from evidence import ROOT, command, machine, table, write_evidence, write_key  # noqa: E402

from polledger.core.dsse import encode_envelope, parse_envelope  # noqa: E402
from polledger.publish.claim import finished_run  # noqa: E402
from polledger.publish.page import render_page  # noqa: E402
from polledger.store.run import RunDirectory  # noqa: E402
from polledger.verify.evidence import read_evidence  # noqa: E402
from polledger.verify.states import load_state  # noqa: E402
from tests.browser import Browser, Page, browser  # noqa: E402
from tests.publish.claims import safetensors  # noqa: E402
from tests.publish.reading import MODEL_FINDINGS, said  # noqa: E402

LOADS = 20
LARGE = 64 << 20
"""Bytes of the file for which reading is timed: a thousand chunks, read in sixteen pieces."""

PICTURES = ROOT / "docs" / "page"
WIDE, NARROW = 1000, 390
COLOURS = 96


@dataclass(frozen=True, kw_only=True)
class Site:
    """What was published, and the model file that is claimed."""

    directory: Path
    model: Path

    @property
    def page(self) -> Path:
        return self.directory / "index.html"


def publish_digits(place: Path) -> Site:
    """The digits example with its default 600 steps, sealed, claimed and published below ``place``."""
    key, run, claim = write_key(place / "key.pem", "page"), place / "run", place / "claim" / "claim.dsse.json"
    home: dict[str, Any] = {"home": place / "home", "variables": {}}
    command(["seal", "polledger.examples.digits", "--run", str(run), "--key", str(key)], **home)
    model = place / "digits.safetensors"
    model.write_bytes(published_model(run))
    words = ["--model", str(model), "--title", "Handwritten digits", "--name", "Ada Example"]
    words += ["--contact", "ada@example.org"]
    command(["claim", str(run), "--key", str(key), "-o", str(claim), *words], **home)
    command(["publish", str(claim), str(place / "site")], **home)
    return Site(directory=place / "site", model=model)


def published_model(path: Path) -> bytes:
    """The safetensors file of the model that the run at ``path`` ends with."""
    run = finished_run(read_evidence(RunDirectory.open(path)))
    last = load_state(run.evidence.objects, run.lineage.checkpoints[-1].root).flat
    inside = [one for one in last.tensors if one.path.startswith("model/")]
    return safetensors([replace(one, path=one.path.removeprefix("model/")) for one in inside])


def changed_page(site: Site) -> bytes:
    """The page over the same claim, with 60,000 steps written into it after it was signed."""
    envelope = parse_envelope((site.directory / "claim.dsse.json").read_bytes())
    payload = envelope.payload.replace(b'"steps":600', b'"steps":60000')
    changed = encode_envelope(replace(envelope, payload=payload))
    text = site.page.read_text()
    tokens = [b64decode(part.split("</script>")[0]) for part in text.split(" data-token>")[1:]]
    proof = (site.directory / "proof.msgpack").read_bytes()
    return render_page(envelope=changed, proof=proof, tokens=tokens)


def measure(running: Browser, site: Site) -> dict[str, Any]:
    """Sizes in bytes, and milliseconds until the verdict and for a large file."""
    clock, processor = [], []
    for _ in range(LOADS):
        with counted(running, site) as page:
            clock.append(float(page.evaluate("document.documentElement.dataset.milliseconds")))
            processor.append(thread_time(page))
    names = ("claim.dsse.json", "proof.msgpack", "index.html")
    return {
        "bytes": {name: (site.directory / name).stat().st_size for name in names},
        "loads": LOADS,
        "clock": {"median": statistics.median(clock), "most": max(clock)},
        "processor": {"median": statistics.median(processor), "most": max(processor)},
        "large": large_file(running, site),
        "browser": running.call("Browser.getVersion")["product"],
    }


@contextmanager
def counted(running: Browser, site: Site) -> Iterator[Page]:
    """The page with its verdict, in a tab whose processor time is counted. Raises RuntimeError unless it holds."""
    with running.page("about:blank") as page:
        page.call("Performance.enable", timeDomain="threadTicks")
        page.open(site.page.as_uri())
        if said(page).verdict != "holds":
            raise RuntimeError("the published page does not hold")
        yield page


def thread_time(page: Page) -> float:
    """Milliseconds of processor time that the page's main thread took for its tasks so far."""
    metrics = {one["name"]: one["value"] for one in page.call("Performance.getMetrics")["metrics"]}
    return 1000 * float(metrics["TaskDuration"])


def large_file(running: Browser, site: Site) -> dict[str, Any]:
    """Bytes of a safetensors file of one tensor, and the milliseconds of processor time that judging it takes."""
    path = site.model.with_name("large.safetensors")
    header = json.dumps({"x": {"dtype": "U8", "shape": [LARGE], "data_offsets": [0, LARGE]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(LARGE))
    with counted(running, site) as page:
        before = thread_time(page)
        page.give_files("#file", [path])
        page.evaluate(MODEL_FINDINGS)
        return {"bytes": LARGE, "processor": thread_time(page) - before}


def take_pictures(running: Browser, site: Site) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    bad = site.page.with_name("changed.html")
    bad.write_bytes(changed_page(site))
    for name, path, width, scheme, files in (
        ("light", site.page, WIDE, "light", [site.model]),
        ("dark", site.page, WIDE, "dark", []),
        ("narrow", site.page, NARROW, "light", []),
        ("changed", bad, WIDE, "light", []),
    ):
        with running.page(path.as_uri()) as page:
            (PICTURES / f"{name}.png").write_bytes(picture(page, width, scheme, files))


def picture(page: Page, width: int, scheme: str, files: Sequence[Path]) -> bytes:
    """A PNG of few colours: the page as it looks at ``width`` pixels, once it has judged ``files``."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    said(page)
    if files:
        page.give_files("#file", files)
        page.evaluate(MODEL_FINDINGS)
    for height in (800, None):
        tall = height or page.evaluate("document.documentElement.scrollHeight")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=tall, deviceScaleFactor=1, mobile=False
        )
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    packed = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return packed.getvalue()


def page_table(found: Any) -> str:
    """The machine, and a row for each figure."""
    where, sizes, large = found["machine"], found["bytes"], found["large"]
    rate = large["bytes"] / (1 << 20) / (large["processor"] / 1000)
    rows = [
        ("claim (`claim.dsse.json`)", f"{sizes['claim.dsse.json']:,} bytes"),
        ("public proof (`proof.msgpack`)", f"{sizes['proof.msgpack']:,} bytes"),
        ("page (`index.html`), which holds both and the tokens", f"{sizes['index.html']:,} bytes"),
        ("from opening the page to its verdict, median", times(found["clock"]["median"])),
        ("the slowest", times(found["clock"]["most"])),
        ("processor time of that, median", times(found["processor"]["median"])),
        ("the most", times(found["processor"]["most"])),
        ("a second of processor time hashes of a model file", f"{rate:.0f} MiB"),
    ]
    machine_words = f"{where['cpu']}, {where['cores']} cores, {found['browser']}, {found['loads']} times; "
    load = f"load of the machine at the end: {found['load']:.1f}."
    return f"{machine_words}{load}\n\n{table(('what', 'digits, 600 steps'), rows)}"


def times(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure the page of the digits claim and take its pictures."
    )
    parser.add_argument(
        "--evidence", action="store_true", help="keep figures and pictures in docs/evidence and docs/page"
    )
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        site = publish_digits(place)
        with browser(place / "profile") as running:
            found = {**measure(running, site), "load": os.getloadavg()[0], "machine": machine()}
            if wanted.evidence:
                take_pictures(running, site)
    if wanted.evidence:
        write_evidence("page", found)
    print(page_table(found))


if __name__ == "__main__":
    main()
