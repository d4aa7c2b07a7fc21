"""The red team's result as one HTML file: nothing is fetched, nothing runs, light and dark."""

from collections.abc import Iterable, Mapping
from typing import Any

from polledger.publish.markup import Content, Markup, element, joined
from polledger.publish.style import document, facts, table
from polledger.redteam.table import (
    Line,
    cost_words,
    opened_words,
    ratio_words,
    reference_words,
    summary_words,
    verdict_words,
)

_STYLE = "table { min-width: 60rem; }\n"

_HEADINGS = ("Spoof", "Verdict", "Found, of trials", "Opened", "Cost", "Published verifier", "Smallest error")

_NUMBERS = (2, 4, 6)


def redteam_page(value: Mapping[str, Any], lines: Iterable[Line]) -> str:
    """``value``, the object of ``redteam --json``, as a page; ``lines`` are its spoofs."""
    shown = list(lines)
    return document(
        "polledger redteam",
        element("h1", "What became of every spoof"),
        element("p", _summary(shown)),
        _facts(value),
        element(
            "p",
            "Each spoof forged a whole run, sealed and timestamped as a prover would; the verdict is that of ",
            element("code", "polledger verify"),
            ". Costs are in gradient computations of the honest training of the stolen model. Errors are in "
            "displacements, of the closest interval that failed: by its worst group and, in brackets, by its "
            "parameters. The published verifier opens the largest updates and bounds their l2 distance absolutely.",
            class_="faint",
        ),
        table("Spoofs and what became of them", _HEADINGS, map(_row, shown), numbers=_NUMBERS, quiet=True),
        _skipped(value["skipped"]),
        style=_STYLE,
    )


def _summary(lines: list[Line]) -> Content:
    if not lines:
        return "No spoof could be tried."
    style = "bad" if any(line.succeeded for line in lines) else "good"
    words = summary_words(lines)
    return element("span", f"{words[0].upper()}{words[1:]}.", class_=style)


def _facts(value: Mapping[str, Any]) -> Markup:
    target = value["target"]
    steps = (
        f"{target['steps']}, a checkpoint every {target['every']}, after each of the first {target['warm']}"
    )
    return facts(
        [
            ("Stolen from", target["run"]),
            ("Task", target["task"]),
            ("Settings", " ".join(target["settings"]) or "the task's own"),
            ("Steps", steps),
        ]
    )


def _row(line: Line) -> list[Content]:
    style = "bad" if line.succeeded else "known" if line.verdicts.get("VERIFIED") else "good"
    published = reference_words(line).removeprefix("published verifier").removeprefix(":").strip()
    return [
        joined([f"{line.spoof} {line.title}", element("small", line.source)]),
        joined([element("span", verdict_words(line), class_=style), _details(line)]),
        joined(
            [
                f"{line.detected} of {line.trials}",
                element("small", f"95 %: {line.low:.3f} to {line.high:.3f}"),
            ]
        ),
        opened_words(line),
        f"{line.cost:.3g}",
        published,
        ratio_words(line),
    ]


def _details(line: Line) -> Markup:
    reached = ", ".join(f"{name} {number:.4g}" for name, number in line.reached.items())
    items = [("found", line.detail), ("how", line.note), ("reached", reached), ("cost", cost_words(line))]
    return element("details", element("summary", "details"), facts(items))


def _skipped(items: list[Mapping[str, Any]]) -> Content:
    if not items:
        return None
    reasons = dict.fromkeys((item["spoof"], item["reason"]) for item in items)
    listed = (element("li", f"{spoof}: {reason}") for spoof, reason in reasons)
    return joined([element("h2", "Could not be tried"), element("ul", *listed)])
