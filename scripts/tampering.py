#!/usr/bin/env python3
"""Tamper with a claim, its public proof, its page, an answer to a challenge and a model file; keep what is said then.

    scripts/tampering.py [--steps 60] [--only KIND ...] [--evidence]

The digits example is sealed, claimed, published and opened for a challenge; everything is tampered with in a copy, one
thing at a time, and given to `polledger verify` and, where there is something to open, to the page in a headless
Chromium. What is said is the first finding that the honest one does not have. Exits 1 if anything passed.

--evidence keeps what was said in docs/evidence/tampering.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from evidence import machine, table, write_evidence  # noqa: E402
from tampers import ANSWERS, CLAIMS, MODELS, PAGES, PROOFS, Honest, Parts, prepare  # noqa: E402

from tests.browser import Browser, browser  # noqa: E402
from tests.publish.reading import MODEL_FINDINGS, said  # noqa: E402

KINDS: Final = ("claim", "public proof", "page", "answer to a challenge", "model file")

WHETHER_SETTLED: Final = """new Promise((resolve) => {
  const end = Date.now() + 2000;
  const look = () => {
    const settled = document.documentElement.dataset.verdict !== undefined;
    return settled || Date.now() > end ? resolve(settled) : setTimeout(look, 20);
  };
  look();
})"""
"""Whether the page comes to a verdict within two seconds."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing tampered with, and what was said: by ``verify``, and by the page where there is one."""

    kind: str
    change: str
    verdict: str = ""
    sentence: str = ""
    page: str = ""
    page_sentence: str = ""

    @property
    def passed(self) -> bool:
        """Whether somebody found nothing wrong."""
        unsaid = (self.verdict and not self.sentence) or (self.page and not self.page_sentence)
        return self.verdict == "VERIFIED" or bool(unsaid)


class Judge:
    """Asks ``polledger verify`` and a browser, in one scratch directory."""

    def __init__(self, it: Honest, place: Path, running: Browser) -> None:
        self._it, self._place, self._running = it, place, running
        self._number = 0
        self._known: set[str] = set()

    def room(self) -> Path:
        """A new directory."""
        self._number += 1
        path = self._place / str(self._number)
        path.mkdir(parents=True)
        return path

    def report(self, words: Sequence[object]) -> dict[str, Any]:
        """What ``polledger verify WORDS --json`` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "polledger.cli.app", "verify", *map(str, words), "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "POLLEDGER_HOME": str(self._it.home)},
            check=False,
        )
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def learn(self, words: Sequence[object]) -> None:
        """Remember what is found of the honest one: nothing else counts."""
        self._known = {one["detail"] for one in self.report(words)["findings"]}

    def verify(self, words: Sequence[object]) -> tuple[str, str]:
        """The verdict, and the first finding that the honest one does not have; "" if there is none."""
        report = self.report(words)
        if "error" in report:
            return f"exit code {report['exit_code']}", str(report["error"])
        found = [one["detail"] for one in report["findings"] if one["outcome"] != "pass"]
        return str(report["verdict"]), next((one for one in found if one not in self._known), "")

    def look(self, page: bytes, files: Sequence[Path] = ()) -> tuple[str, str]:
        """What the page says first of all, or of the file given to it."""
        with self._running.page(self._kept(page, "index.html").as_uri()) as opened:
            if not opened.evaluate(WHETHER_SETTLED):
                return "checks nothing", str(
                    opened.evaluate("document.getElementById('verdict')?.innerText ?? ''")
                )
            found = said(opened)
            if not files:
                return found.title, next(iter(found.top), "")
            opened.give_files("#file", files)
            items = opened.evaluate(MODEL_FINDINGS)
            bad = [sentence for outcome, sentence in items if outcome != "holds"]
            return ("holds" if not bad else "not the claimed model"), next(iter(bad), "")

    def rows(self, kinds: Iterable[str]) -> list[Row]:
        """Everything of these kinds, in order."""
        makers: Mapping[str, Callable[[], Iterable[Row]]] = {
            "claim": lambda: self._published("claim", CLAIMS),
            "public proof": lambda: self._published("public proof", PROOFS),
            "page": self._pages,
            "answer to a challenge": self._answers,
            "model file": self._models,
        }
        return [row for kind in kinds for row in makers[kind]()]

    def _published(self, kind: str, cases: Mapping[str, Callable[[Honest], Parts]]) -> Iterable[Row]:
        self.learn([self._it.parts.write(self.room() / "claim")])
        for change, make in cases.items():
            parts = make(self._it)
            verdict, sentence = self.verify([parts.write(self.room() / "claim")])
            page, words = self.look(parts.page())
            yield Row(
                kind=kind,
                change=change,
                verdict=verdict,
                sentence=sentence,
                page=page,
                page_sentence=words,
            )

    def _pages(self) -> Iterable[Row]:
        for change, make in PAGES.items():
            page = make(self._it)
            if page == self._it.page:
                raise ValueError(f"{change}: nothing was changed")
            title, words = self.look(page)
            yield Row(kind="page", change=change, page=title, page_sentence=words)

    def _answers(self) -> Iterable[Row]:
        self.learn([self._kept(self._it.answer, "answer"), "--challenge", self._it.challenge])
        for change, make in ANSWERS.items():
            answer = make(self._it)
            words = [] if answer.challenge is None else ["--challenge", answer.challenge]
            verdict, sentence = self.verify([self._kept(answer.data, "answer"), *words])
            yield Row(kind="answer to a challenge", change=change, verdict=verdict, sentence=sentence)

    def _models(self) -> Iterable[Row]:
        claim = self._it.parts.write(self.room() / "claim")
        self.learn([claim, "--model", self._kept(self._it.model, "model.safetensors")])
        for change, make in MODELS.items():
            name, data = make(self._it)
            path = self._kept(data, name)
            verdict, sentence = self.verify([claim, "--model", path])
            page, words = self.look(self._it.page, [path])
            yield Row(
                kind="model file",
                change=change,
                verdict=verdict,
                sentence=sentence,
                page=page,
                page_sentence=words,
            )

    def _kept(self, data: bytes, name: str) -> Path:
        path = self.room() / name
        path.write_bytes(data)
        return path


def render(value: Mapping[str, Any]) -> str:
    """A table for each kind."""
    parts = []
    for kind in KINDS:
        rows = [row for row in value["rows"] if row["kind"] == kind]
        if not rows:
            continue
        with_page, with_verify = any(row["page"] for row in rows), any(row["verdict"] for row in rows)
        columns = [
            "tampered",
            *(["`polledger verify`"] if with_verify else []),
            *(["the page"] if with_page else []),
        ]
        parts += [f"### The {kind}", table(columns, [_cells(row, with_verify, with_page) for row in rows])]
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any], with_verify: bool, with_page: bool) -> list[str]:
    cells = [row["change"]]
    if with_verify:
        cells.append(f"**{row['verdict']}**: {shortened(row['sentence'])}")
    if with_page:
        cells.append(f"**{row['page']}**: {shortened(row['page_sentence'])}")
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def shortened(text: str) -> str:
    """Digests cut to eight digits, and no path of the scratch directory."""
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b", r"\1…", text)
    return re.sub(r"\S*/(?=[^/\s]+)", "", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--evidence", action="store_true", help="keep it in docs/evidence/tampering.json")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        it = prepare(place / "parties", wanted.steps)
        with browser(place / "profile") as running:
            rows = Judge(it, place / "rooms", running).rows(wanted.only)
    value = {
        "machine": machine(),
        "rows": [
            {
                "kind": row.kind,
                "change": row.change,
                "verdict": row.verdict,
                "sentence": shortened(row.sentence),
                "page": row.page,
                "page_sentence": shortened(row.page_sentence),
            }
            for row in rows
        ],
    }
    if wanted.evidence:
        write_evidence("tampering", value)
    print(render(value))
    passed = [f"{row.kind}: {row.change}" for row in rows if row.passed]
    print(
        f"{len(rows)} tampered, {len(passed)} passed{''.join(f'; {one}' for one in passed)}", file=sys.stderr
    )
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
