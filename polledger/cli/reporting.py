"""The verification report for people: what was checked, what was found, what it does not say."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from polledger.cli.waiting import waiting_rows
from polledger.core.report import LIMITS, STEP_NAMES, Finding, Report, counted, origin_text
from polledger.core.reportform import FlagForm, PaceForm, RenewalForm
from polledger.core.text import one_line
from polledger.core.timesummary import Lag, Waiting

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"pass": "green", "fail": "bold red", "unverifiable": "yellow"}
_DIGEST = re.compile("[0-9a-f]{64}")

_NUMBERS = ("e/u", "ν/u", "e/d_ref")

_WORSE = ("pass", "unverifiable", "fail")

FLAG_REASONS: dict[str, str] = {
    "jump": "moves further than its neighbours",
    "alone": "too few of this length to compare it with",
    "arrival": "hardly anything moves after it",
    "pace": "leads further than other stretches",
    "straight": "keeps one direction",
    "optimizer": "is no step of this optimizer",
}
"""Why a flag was raised, for people; docs/protocol.md has the rules."""

_RATIOS = ("jump", "arrival", "pace")

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
    facts.append(("time", f"{time.assurance}{_span(time.first, time.last)}"))
    facts += _tokens(time.seals, time.stamped, time.lag, time.waiting)
    if time.renewals:
        facts.append(("renewals", "; ".join(map(_renewal, time.renewals))))
    if time.pace:
        facts.append(("pace", _pace(time.pace)))
    if report.code:
        facts.append(("code", _code(report)))
    if report.origin.get("kind", "scratch") != "scratch":
        facts.append(("origin", origin_text(report.origin)))
    if report.comparison != "none":
        facts.append(("comparison", _comparison(report)))
    grid = _grid("right", "left")
    for name, value in facts:
        grid.add_row(Text(name, style="dim"), Text(one_line(value)))
    console.print(grid)
    console.print()


def _tokens(seals: int, stamped: int, lag: Lag | None, waiting: Sequence[Waiting]) -> list[tuple[str, str]]:
    """Rows about seals and their tokens: how many have one, how late it came, and who still has to answer."""
    late = ""
    if lag is not None:
        late = f", {_seconds(lag.median)} after the seal (median of {lag.tokens}), at most {_seconds(lag.longest)}"
        late += f" (seal {lag.seal})"
    return [("tokens", f"{stamped} of {counted(seals, 'seal')} have one{late}"), *waiting_rows(waiting)]


def _seconds(value: float) -> str:
    if abs(value) < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if abs(value) < 7200 else f"{value / 3600:.0f} h"


def _span(first: str | None, last: str | None) -> str:
    if first is None and last is None:
        return ""
    return f", genesis by {first or 'unknown'}, end by {last or 'unknown'}"


def _renewal(renewal: RenewalForm) -> str:
    """A renewal, when it was made and who vouches for that."""
    if renewal["by"] is None:
        return f"{renewal['index']}: too few operators that you trust vouch for it"
    return f"{renewal['index']}: by {renewal['by']}, {', '.join(renewal['operators'])}"


def _pace(pace: PaceForm) -> str:
    """Steps a second as the anchors imply them, over all and at the fastest, beside what the replay reached."""
    first, last = pace["seals"]
    over = pace["steps_per_second"]
    whole = f"{over:.3g} steps a second" if over is not None else "no time"
    quick = f"at the fastest {pace['fastest']['steps_per_second']:.3g} or more"
    replayed = pace.get("replayed_steps_per_second")
    here = f"; {replayed:.3g} replayed here" if replayed is not None else ""
    return f"{whole} between the anchors of seals {first} and {last}, {quick}{here}"


def _code(report: Report) -> str:
    code = report.code
    lines = f", {code['lines']} lines" if "lines" in code else ""
    vouched = f", vouched for by {code['vouched']}" if code.get("vouched") else ""
    name = f" {code['class']}" if "class" in code else ""
    return f"{code.get('kind', 'unknown')}{name}{lines}, sha256 {str(code.get('digest', ''))[:16]}…{vouched}"


def _comparison(report: Report) -> str:
    differences = report.environment.get("differences") or []
    where = (
        f"another environment ({', '.join(differences[:4])})"
        if differences
        else "the recorded environment class"
    )
    noise = report.timing.get("noise_seconds", 0.0)
    replays = counted(int(report.timing.get("noise_replays", 0)), "noise replay")
    cost = f"; {replays} took {noise:.1f} s" if noise else ""
    return f"{report.comparison}, in {where}{cost}"


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
            _beyond(flag["value"], flag["limit"]) if flag["kind"] in _RATIOS else "",
        )
    console.print(table)
    left = len(flags) - FLAGS_SHOWN
    if left > 0:
        console.print(f"… and {left} more (--json lists all)", style="dim")
    console.print()


def _beyond(value: float | str, limit: float | str) -> str:
    """How many times the limit; numbers that are not finite come as text."""
    if isinstance(value, str) or isinstance(limit, str):
        return str(value)
    ratio = value / limit if limit else math.inf
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"


def _print_intervals(report: Report, console: "Console") -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("interval", "steps", "outcome", "bits", "worst group", *_NUMBERS):
        table.add_column(column, justify="right" if column in ("interval", *_NUMBERS) else "left")
    for result in report.intervals[:INTERVALS_SHOWN]:
        worst = max(
            result.groups,
            key=lambda item: item.measure.e / item.measure.u if item.measure.u else 0.0,
            default=None,
        )
        shown = worst is not None and not result.exact
        table.add_row(
            str(result.interval),
            f"{result.first}-{result.last}",
            Text(result.outcome, style=_STYLES[result.outcome]),
            "equal" if result.exact else "differ" if result.groups else "not compared",
            Text(one_line(worst.measure.name)) if worst and shown else "",
            _ratio(worst.measure.e, worst.measure.u) if worst and shown else "",
            _ratio(worst.measure.nu, worst.measure.u) if worst and shown else "",
            _ratio(result.normalised, 1.0) if worst and shown else "",
        )
    console.print(table)
    left = len(report.intervals) - INTERVALS_SHOWN
    if left > 0:
        console.print(f"… and {left} more (--json lists all)", style="dim")
    console.print()


def _ratio(value: float | None, scale: float) -> str:
    return f"{value / scale:.2g}" if value is not None and scale else "-"


def _print_odds(report: Report, console: "Console") -> None:
    sample = report.sample
    if sample is None:
        return
    added = len(report.intervals) - sample.drawn
    besides = f", {added} opened besides" if added > 0 else ""
    console.print(
        f"{sample.drawn} of {sample.total} intervals were drawn{besides}. By the draw alone a run with bogus intervals "
        "would pass:"
    )
    for odds in report.odds:
        share = "one bogus interval" if odds.label == "one" else f"{odds.label} bogus ({odds.bogus})"
        console.print(
            f"  {share:<24} with probability {1 - odds.detection:.3g}; 99 % odds need {odds.needed} drawn",
            highlight=False,
        )
    console.print()
