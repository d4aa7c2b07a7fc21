"""The sections on the sample of a report: what became of every interval, and what the draw alone would have missed."""

from collections.abc import Sequence

from polledger.core.report import counted
from polledger.core.reportform import VerificationForm
from polledger.core.reportwords import share_words
from polledger.publish.markup import Markup, element
from polledger.publish.reportdata import cells, fates
from polledger.publish.reportmap import WORDS, interval_key, interval_map
from polledger.publish.reportshown import section
from polledger.publish.style import facts, table

RANGES = 60
"""Ranges of intervals that are written out."""


def sample_section(value: VerificationForm) -> Markup:
    """Every interval of the run, and what became of it."""
    sample, shown_cells = value["sample"], cells(value)
    if sample is None or not shown_cells:
        return section("sample", "Sample", element("p", "There was no interval to draw from."))
    size = shown_cells[0].size
    note = f" A cell is {size} consecutive intervals and shows the worst among them." if size > 1 else ""
    words = _sample_words(value)
    caption = (
        f"{words} The draw follows from the verifier's nonce, the last head and the policy; first and last "
        f"interval, those that move furthest and flagged ones are opened besides.{note}"
    )
    return section(
        "sample",
        "Sample",
        element(
            "figure",
            element(
                "div",
                interval_map(shown_cells, words),
                class_="wide",
                tabindex=0,
                role="group",
                aria_label="Map",
            ),
            interval_key(),
            element("figcaption", caption),
            element("details", element("summary", "The intervals"), _ranges(value)),
        ),
    )


def _sample_words(value: VerificationForm) -> str:
    sample, found = value["sample"], fates(value)
    total = sample["total"] if sample else 0
    count = {fate: sum(item == fate for item in found.values()) for fate in WORDS}
    parts = [f"{count[fate]} {words}" for fate, words in WORDS.items() if fate != "closed" and count[fate]]
    return f"{counted(total, 'interval')}: {'; '.join([*parts, f'{total - len(found)} not opened'])}."


def _ranges(value: VerificationForm) -> Markup:
    """Which intervals are meant, in words: what the map shows to those who see it."""
    sample, found = value["sample"], fates(value)
    items = [
        (words.capitalize(), ranges(sorted(at for at, item in found.items() if item == fate)))
        for fate, words in WORDS.items()
        if fate != "closed"
    ]
    flagged = ranges(sorted(sample["flagged"])) if sample else ""
    return facts([*items, ("Flagged by screening", flagged)])


def ranges(numbers: Sequence[int]) -> str:
    """``0-3, 7``: at most RANGES of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:RANGES]]
    more = [f"and {len(runs) - RANGES} more ranges"] if len(runs) > RANGES else []
    return ", ".join([*words, *more])


def odds_section(value: VerificationForm) -> Markup:
    """What the draw alone would have missed."""
    heading = "Odds"
    if not value["odds"] or not value["intervals"]:
        return section("odds", heading, element("p", "Nothing was drawn and replayed: there are no odds."))
    headings = ("If the run had", "The draw finds one", "It passes", "Drawn for 99 %")
    rows = (
        [share_words(odds), f"{odds['detection']:.4g}", f"{odds['passes']:.3g}", str(odds["sample_for_99"])]
        for odds in value["odds"]
    )
    return section(
        "odds",
        heading,
        table(
            "Chances by the draw alone; what screening adds has no number", headings, rows, numbers=(1, 2, 3)
        ),
    )
