"""The three figures of a report. Each is a function of the JSON object; what a name means is said beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from polledger.core.reportform import FlagForm, SealForm, TrajectoryForm, VerificationForm
from polledger.publish.figures import COLOURS, SERIES, draw
from polledger.publish.markup import Markup
from polledger.publish.reportdata import ErrorPoint, finite, moment, step_at, tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = 60
"""Flagged stretches that are shaded, at most."""

_DASHES = ("-", "-", "-", "-", "--", "--", ":", ":")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "hours"), (180.0, 60.0, "minutes"))


def error_figure(points: Sequence[ErrorPoint], label: str) -> Markup | None:
    """Error of each interval against tolerance, noise floor and displacement; below, those without an error."""

    def paint(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1])
        _measures(upper, points)
        _log(upper, "l2 norm")
        _marks(upper, points)
        _strip(lower, points)
        _legend(upper)
        _whole(lower, "interval", [point.interval for point in points])

    return draw("errors", label, 3.6, paint)


def _measures(axes: Any, points: Sequence[ErrorPoint]) -> None:
    """Displacement, tolerance and noise floor of every interval that was compared."""
    shown = [point for point in points if point.bits != "not compared"]
    wide = 14 if len(shown) < 40 else 7 if len(shown) < 120 else 3
    _series(axes, shown, "u", marker="^", color=COLOURS["faint"], markersize=4, label="displacement u")
    differ = [point for point in shown if point.bits == "differ"]
    line = {"marker": "_", "markersize": wide, "markeredgewidth": 1.4}
    _series(axes, differ, "tolerance", color=COLOURS["open"], label="tolerance f", **line)
    _series(axes, differ, "nu", color=COLOURS["faint"], label="noise floor ν", **line)


def _series(axes: Any, points: Sequence[ErrorPoint], name: str, **style: Any) -> None:
    found = [(point.interval, finite(getattr(point, name))) for point in points]
    drawn = [(at, number) for at, number in found if number is not None and number > 0]
    if drawn:
        axes.plot(*zip(*drawn, strict=True), linestyle="none", **style)


def _marks(axes: Any, points: Sequence[ErrorPoint]) -> None:
    """The errors themselves, by outcome."""
    differ = [point for point in points if point.bits == "differ"]
    for outcome, marker, colour, label in (
        ("pass", "o", "mark", "error e, passed"),
        ("unverifiable", "D", "open", "error e, not decided"),
        ("fail", "X", "bad", "error e, failed"),
    ):
        chosen = [point for point in differ if point.outcome == outcome]
        _series(axes, chosen, "e", marker=marker, color=COLOURS[colour], markersize=5.5, label=label)


def _strip(axes: Any, points: Sequence[ErrorPoint]) -> None:
    """Intervals that have no error: equal bits, or nothing to compare."""
    for bits, marker, colour, height in (("equal", "D", "good", 1), ("not compared", "X", "open", 0)):
        at = [point.interval for point in points if point.bits == bits]
        style = {"marker": marker, "markersize": 4, "color": COLOURS[colour]}
        axes.plot(at, [height] * len(at), linestyle="none", **style)
    axes.set_yticks([1, 0], ["bit for bit", "not compared"])
    axes.set_ylim(-0.6, 1.6)
    axes.grid(visible=False)


def timeline_figure(
    seals: Sequence[SealForm], operators: Mapping[str, str], start: datetime, label: str
) -> Markup | None:
    """Steps sealed by when: each seal by the prover's clock, and its tokens with their accuracy."""
    clock = _clock(seals, start)

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        _lags(axes, seals, clock)
        _made(axes, seals, clock)
        for at, (operator, letter) in enumerate(operators.items()):
            style = {"fmt": "o", "color": COLOURS[SERIES[at % len(SERIES)]]}
            _stamps(axes, seals, clock, operator, label=f"token, operator {letter}", **style)
        faint = COLOURS["faint"]
        _stamps(axes, seals, clock, None, label="token nobody vouches for", fmt="s", color=faint)
        _stamps(axes, seals, clock, "", label="token of the prover's own clock", fmt="x", color=faint)
        axes.set_ylabel("steps sealed")
        axes.set_xlabel(f"{clock.unit} since {start:%Y-%m-%d %H:%M:%S} UTC")
        axes.margins(x=0.04, y=0.08)
        _legend(axes)

    return draw("timeline", label, 3.1, paint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """The axis of time: ``scale`` seconds are one ``unit``."""

    start: datetime
    scale: float
    unit: str

    def at(self, time: str) -> float:
        """Where ``time`` lies."""
        found = moment(time)
        return 0.0 if found is None else (found - self.start).total_seconds() / self.scale


def _clock(seals: Sequence[SealForm], start: datetime) -> _Clock:
    """An axis from ``start`` on, in a unit that suits what is on it."""
    seconds = _Clock(start=start, scale=1.0, unit="seconds")
    times = [seconds.at(token["time"]) for _, token in tokens(seals)]
    times += [seconds.at(seal["made"]) for seal in seals if seal["made"]]
    span = max(times, default=0.0) - min(times, default=0.0)
    scale, unit = next(((size, name) for least, size, name in _UNITS if span >= least), (1.0, "seconds"))
    return _Clock(start=start, scale=scale, unit=unit)


def _lags(axes: Any, seals: Sequence[SealForm], clock: _Clock) -> None:
    """A thin line from each seal to its last listed token."""
    for seal in seals:
        if seal["made"] and seal["tokens"]:
            ends = [clock.at(seal["made"]), clock.at(seal["tokens"][-1]["time"])]
            axes.plot(ends, [seal["steps"]] * 2, color=COLOURS["line"], linewidth=1.0, zorder=1)


def _made(axes: Any, seals: Sequence[SealForm], clock: _Clock) -> None:
    made = [(clock.at(seal["made"]), seal["steps"]) for seal in seals if seal["made"]]
    if made:
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "markeredgewidth": 0.8}
        ring |= {"markeredgecolor": COLOURS["ink"], "label": "seal, prover's clock"}
        axes.plot(*zip(*made, strict=True), linestyle="none", **ring)


def _stamps(axes: Any, seals: Sequence[SealForm], clock: _Clock, operator: str | None, **style: str) -> None:
    """Tokens that ``operator`` vouches for; with None those that nobody does, with "" those of embedded authorities."""
    chosen = [
        (clock.at(token["time"]), seal["steps"], (token["accuracy"] or 0.0) / clock.scale)
        for seal, token in tokens(seals)
        if ("" if token["embedded"] else token["operator"]) == operator
    ]
    if chosen:
        at, steps, accuracy = zip(*chosen, strict=True)
        axes.errorbar(at, steps, xerr=accuracy, markersize=4, elinewidth=1.0, capsize=2.5, **style)


def trajectory_figure(
    value: VerificationForm, trajectory: TrajectoryForm, flags: Sequence[FlagForm], label: str
) -> Markup | None:
    """Distance from the start, and below it the way between stored checkpoints, both over steps."""

    def paint(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        for axes in (upper, lower):
            _bands(axes, trajectory, flags)
        _lines(upper, trajectory, "distance")
        _lines(lower, trajectory, "moved")
        upper.set_ylabel("distance\nfrom the start")
        upper.set_ylim(bottom=0)
        _log(lower, "displacement")
        _rug(upper, value)
        _legend(upper)
        _whole(lower, "step", trajectory["steps"])

    return draw("trajectory", label, 3.8, paint)


def _bands(axes: Any, trajectory: TrajectoryForm, flags: Sequence[FlagForm]) -> None:
    for at, flag in enumerate(flags[:BANDS]):
        first, last = flag["intervals"]
        begin, end = step_at(trajectory, first), step_at(trajectory, last + 1)
        name = "flagged by screening" if at == 0 else None
        axes.axvspan(begin, end, facecolor=COLOURS["open-shade"], edgecolor="none", zorder=0, label=name)


def _lines(axes: Any, trajectory: TrajectoryForm, name: str) -> None:
    few = len(trajectory["steps"]) <= 60
    for at, group in enumerate(trajectory["groups"]):
        numbers = group["distance"] if name == "distance" else group["moved"]
        drawn = [
            (step, number)
            for step, number in zip(trajectory["steps"], map(finite, numbers), strict=True)
            if number is not None and (name == "distance" or number > 0)
        ]
        if drawn:
            axes.plot(
                *zip(*drawn, strict=True),
                color=COLOURS[SERIES[at]],
                linestyle=_DASHES[at],
                linewidth=1.3,
                marker="o" if few else None,
                markersize=2.5,
                label=f"group {'ABCDEFGH'[at]}",
            )


def _rug(axes: Any, value: VerificationForm) -> None:
    """A tick at the foot for each opened interval, as long as they can be told apart."""
    opened = value["intervals"]
    if 0 < len(opened) <= 200:
        at = [sum(result["steps"]) / 2 for result in opened]
        axes.plot(
            at,
            [0.02] * len(at),
            linestyle="none",
            marker="|",
            markersize=6,
            color=COLOURS["ink"],
            transform=axes.get_xaxis_transform(),
            label="opened interval",
            zorder=3,
        )


def _log(axes: Any, label: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(_power))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(label)


def _power(value: float, _position: int) -> str:
    """The nearest power of ten: 10⁻³."""
    return f"10{str(round(math.log10(value))).translate(_SUPERSCRIPT)}"


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=5,
            borderaxespad=0.2,
            handletextpad=0.4,
            columnspacing=1.4,
        )


def _whole(axes: Any, label: str, values: Sequence[int]) -> None:
    """An axis of whole numbers."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    low, high = min(values, default=0), max(values, default=1)
    room = max(0.5, 0.015 * (high - low))
    axes.set_xlim(low - room, high + room)
