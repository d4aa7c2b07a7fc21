"""The verification report for people: what was checked, what was found, what it does not say."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from polledger.core.report import LIMITS, STEP_NAMES, Finding, Report, counted, origin_text
from polledger.core.reportform import FlagForm
from polledger.core.reportwords import (
    FLAG_REASONS,
    anchors_words,
    beyond_limit,
    code_words,
    comparison_words,
    drawn_words,
    pace_words,
    ratio,
    renewal_words,
    share_words,
    tokens_words,
    waiting_rows,
    worst_group,
)
from polledger.core.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"pass": "green", "fail": "bold red", "unverifiable": "yellow"}
_DIGEST = re.compile("[0-9a-f]{64}")

_NUMBERS = ("e/u", "ν/u", "e/d_ref")

_WORSE = ("pass", "unverifiable", "fail")

FLAGS_SHOWN = 12
"""Rows of the table of flags; --json has all."""

INTERVALS_SHOWN = 40
"""Rows of the table of intervals; --json has all."""


def report_text(report: Report, console: "Console") -> str:
    """``report`` laid out for ``console``: facts, findings step by step, intervals, odds, limits; not the verdict.

    What evidence says is on it as text: no line feed, escape or other control character comes from a value.
    """
    with console.capture() as captured:
        _print_parts(report, console)
    # Tables pad every line to the full width.
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _print_parts(report: Report, console: "Console") -> None:
    _print_facts(report, console)
    _print_findings(report, console)
    if report.screening and report.screening["flags"]:
        _print_flags(report, report.screening["flags"], console)
    if report.intervals:
        _print_intervals(report, console)
    if report.odds and report.intervals:
        _print_odds(report, console)
    console.print("What this does not say:", style="bold")
    limits = _grid("right", "left")
    for limit in LIMITS:
        limits.add_row("-", limit)
    console.print(limits)


def _grid(*columns: Literal["left", "right"]) -> Table:
    """Columns without lines; all but the last keep their words on one line."""
    grid = Table.grid(padding=(0, 1))
    for justify in columns[:-1]:
        grid.add_column(justify=justify, no_wrap=True)
    grid.add_column(justify=columns[-1], overflow="fold")
    return grid


def _print_facts(report: Report, console: "Console") -> None:
    head = report.head
    sealed = f"{head['size']} records under seal {head['seal']}" if head else "no authentic head"
    time = report.time
    facts = [("run", report.run or "unknown"), ("sealed", sealed)]
    facts.append(("time", anchors_words(time.assurance, time.first, time.last)))
    lag = None if time.lag is None else time.lag.to_json()
    facts.append(("tokens", tokens_words(time.seals, time.stamped, lag)))
    facts += waiting_rows(time.waiting)
    if time.renewals:
        facts.append(("renewals", "; ".join(map(renewal_words, time.renewals))))
    if time.pace:
        facts.append(("pace", pace_words(time.pace)))
    if report.code:
        facts.append(("code", code_words(report.code)))
    if report.origin.get("kind", "scratch") != "scratch":
        facts.append(("origin", origin_text(report.origin)))
    if report.comparison != "none":
        differences = report.environment.get("differences") or []
        facts.append(("comparison", comparison_words(report.comparison, differences, report.timing)))
    if report.intervals and "opened_seconds" in report.timing:
        facts.append(("opening", _opening(report)))
    grid = _grid("right", "left")
    for name, value in facts:
        grid.add_row(Text(name, style="dim"), Text(one_line(value)))
    console.print(grid)
    console.print()


def _opening(report: Report) -> str:
    """How long it takes to show what an interval was: what is not stored is trained again for it."""
    seconds, count = report.timing["opened_seconds"], len(report.intervals)
    return f"{counted(count, 'interval')} in {seconds:.1f} s, {seconds / count:.2g} s each on average"


def _print_findings(report: Report, console: "Console") -> None:
    grid = _grid("right", "left", "left", "left")
    for step, name in STEP_NAMES.items():
        found = [finding for finding in report.findings if finding.step == step]
        for place, finding in enumerate(found):
            label = (str(step), name) if place == 0 else ("", "")
            grid.add_row(*label, _outcome(finding), _described(finding))
    console.print(grid)
    console.print()


def _outcome(finding: Finding) -> Text:
    loud = finding.blocks or finding.outcome == "pass"
    return Text(finding.outcome, style=_STYLES[finding.outcome] if loud else "dim")


def _described(finding: Finding) -> Text:
    place = f"interval {finding.interval}: " if finding.interval is not None else ""
    if finding.record is not None and finding.outcome != "pass":
        place = f"record {finding.record}, {place}" if place else f"record {finding.record}: "
    lines = [Text(one_line(place + finding.detail))]
    if finding.expected is not None or finding.found is not None:
        values = f"expected {_short(finding.expected)}, found {_short(finding.found)}"
        lines.append(Text(one_line(values), style="dim"))
    if finding.remedy and finding.outcome != "pass":
        lines.append(Text(one_line(f"remedy: {finding.remedy}"), style="dim"))
    return Text("\n").join(lines)


def _short(value: str | None) -> str:
    """A value, a digest by its first 16 digits: --json has it whole."""
    if value is None:
        return "-"
    return f"{value[:16]}…" if _DIGEST.fullmatch(value) else value


def _print_flags(report: Report, flags: Sequence[FlagForm], console: "Console") -> None:
    """What looked odd to screening, in words, and what replaying it gave. A flag alone accuses nobody."""
    console.print("Flagged by screening, and opened:", style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("intervals", "opened", "replay", "why", "group", "× limit"):
        table.add_column(column, justify="right" if column == "× limit" else "left", no_wrap=column != "why")
    for flag in flags[:FLAGS_SHOWN]:
        first, last = flag["intervals"]
        inside = [result for result in report.intervals if first <= result.interval <= last]
        worst = max((result.outcome for result in inside), key=_WORSE.index, default=None)
        table.add_row(
            f"{first}" if first == last else f"{first}-{last}",
            f"{len(inside)} of {last + 1 - first}",
            Text(worst, style=_STYLES[worst]) if worst else "-",
            FLAG_REASONS[flag["kind"]],
            Text(one_line(flag["group"] or "-")),
            beyond_limit(flag),
        )
    console.print(table)
    left = len(flags) - FLAGS_SHOWN
    if left > 0:
        console.print(f"… and {left} more (--json lists all)", style="dim")
    console.print()


def _print_intervals(report: Report, console: "Console") -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("interval", "steps", "outcome", "bits", "worst group", *_NUMBERS):
        table.add_column(column, justify="right" if column in ("interval", *_NUMBERS) else "left")
    for result in report.intervals[:INTERVALS_SHOWN]:
        worst = None if result.exact else worst_group(result.to_json())
        name, group = worst if worst else ("", None)
        table.add_row(
            str(result.interval),
            f"{result.first}-{result.last}",
            Text(result.outcome, style=_STYLES[result.outcome]),
            "equal" if result.exact else "differ" if result.groups else "not compared",
            Text(one_line(name)),
            ratio(group["e"], group["u"]) if group else "",
            ratio(group.get("nu"), group["u"]) if group else "",
            ratio(result.normalised, 1.0) if group else "",
        )
    console.print(table)
    left = len(report.intervals) - INTERVALS_SHOWN
    if left > 0:
        console.print(f"… and {left} more (--json lists all)", style="dim")
    console.print()


def _print_odds(report: Report, console: "Console") -> None:
    sample = report.sample
    if sample is None:
        return
    drawn = drawn_words(sample.drawn, sample.total, len(report.intervals))
    console.print(f"{drawn}. By the draw alone a run with bogus intervals would pass:")
    for odds in report.odds:
        console.print(
            f"  {share_words(odds.to_json()):<24} with probability {1 - odds.detection:.3g}; 99 % odds need "
            f"{odds.needed} drawn",
            highlight=False,
        )
    console.print()
