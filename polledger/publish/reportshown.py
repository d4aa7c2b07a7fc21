"""The sections of a report with a figure over a scale: reproduction, time, trajectory; and what all sections share.

A figure has its numbers beside it as a table, which is folded under it, and takes its place where matplotlib is not
installed.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from polledger.core.report import counted
from polledger.core.reportform import FlagForm, Number, SealForm, TrajectoryForm, VerificationForm
from polledger.core.reportwords import (
    FLAG_REASONS,
    beyond_limit,
    pace_words,
    ratio,
    renewal_words,
    seconds,
    tokens_words,
    waiting_rows,
)
from polledger.core.timesummary import Waiting
from polledger.publish.markup import Content, Markup, element, joined
from polledger.publish.reportdata import ErrorPoint, error_points, lettered, moment, spread, tokens
from polledger.publish.reportfigures import error_figure, timeline_figure, trajectory_figure
from polledger.publish.style import facts, table

ROWS = 40
"""Rows of one table; the JSON object has the rest."""

DRAWN = 150
"""Seals in the figure."""

FLAGS = 12
"""Rows of the table of flags."""

_OUTCOMES = {"pass": "good", "fail": "bad", "unverifiable": "open"}


def section(name: str, heading: str, *content: Content) -> Markup:
    """A part of the report under its heading, which links lead to."""
    return element("section", element("h2", heading, id=name), *content)


def shown(figure: Markup | None, caption: Content, numbers: Markup) -> Markup:
    """``figure`` with its ``numbers`` folded below; these alone, and why, where it could not be drawn."""
    if figure is None:
        note = "No figure: matplotlib is not installed (polledger[figures]). These are its numbers."
        return element("figure", numbers, element("figcaption", caption, " ", note))
    return element(
        "figure",
        element(
            "div",
            figure,
            class_="wide",
            tabindex=0,
            role="group",
            aria_label="Figure, wider than small screens",
        ),
        element("figcaption", caption),
        element("details", element("summary", "The numbers"), numbers),
    )


def outcome(word: str) -> Markup:
    """An outcome in its colour."""
    return element("span", word, class_=f"outcome {_OUTCOMES.get(word, '')}".rstrip())


def left_out(count: int, noun: str) -> Content:
    """What a table leaves to the JSON object."""
    return (
        element("p", f"{counted(count, noun)} more in report.json.", class_="faint small")
        if count > 0
        else None
    )


# Reproduction


def errors_section(value: VerificationForm) -> Markup:
    """How far each replay ended from what was recorded."""
    heading = "Reproduction error"
    if not value["intervals"]:
        return section("errors", heading, element("p", "No interval was replayed."))
    points, merged = error_points(value)
    exact = sum(result["exact"] for result in value["intervals"])
    bad = sum(result["outcome"] != "pass" for result in value["intervals"])
    opened = counted(len(value["intervals"]), "interval")
    words = f"{opened} replayed, {exact} of them bit for bit; {bad} did not pass. "
    rules = value["rules"]
    caption = (
        f"{words}Error, tolerance, noise floor and displacement are l2 norms of the group of the state whose error "
        "is the largest part of its displacement; where bits are equal, of the parameters. The tolerance is "
        f"{rules['margin']:g} times the noise floor and has to lie below {rules['rho']:g} displacements."
    )
    if merged > 1:
        caption += f" Of each {merged} neighbours the one with most to tell is shown."
    return section(
        "errors", heading, shown(error_figure(points, words.strip()), caption, _error_table(points))
    )


def _error_table(points: Sequence[ErrorPoint]) -> Markup:
    ordered = sorted(points, key=lambda point: (-point.closeness[0], -point.closeness[1], point.interval))
    headings = ("Interval", "Steps", "Outcome", "Bits", "Worst group", "e", "f", "u", "e/u", "e/d_ref")
    return joined(
        [
            table(
                "Opened intervals, those with most to tell first",
                headings,
                map(_error_row, ordered[:ROWS]),
                numbers=(0, 5, 6, 7, 8, 9),
            ),
            left_out(len(ordered) - ROWS, "interval"),
        ]
    )


def _error_row(point: ErrorPoint) -> list[Content]:
    differ = point.bits == "differ"
    return [
        str(point.interval),
        f"{point.steps[0]}-{point.steps[1]}",
        outcome(point.outcome),
        point.bits,
        point.group if differ else "",
        figures(point.e) if differ else "",
        figures(point.tolerance) if differ else "",
        figures(point.u),
        ratio(point.e, point.u) if differ else "",
        figures(point.normalised) if differ else "",
    ]


def figures(value: Number | None) -> str:
    """Three digits of ``value``."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:.3g}"


# Time


def timeline_section(value: VerificationForm) -> Markup:
    """Seals and tokens: what was sealed by when, who says so, and how late."""
    time = value["time"]
    seals = time["timeline"]["seals"]
    operators = lettered(sorted({token["operator"] for _, token in tokens(seals) if token["operator"]}))
    waiting = [Waiting(**item) for item in time["waiting"]]
    listed = facts(
        [
            ("Tokens", tokens_words(time["seals"], time["stamped"], time["lag"])),
            *((name.capitalize(), words) for name, words in waiting_rows(waiting)),
            ("Renewals", "; ".join(map(renewal_words, time["renewals"]))),
            (
                "Until",
                f"{time['until']}, when the first token that counts falls unless renewed"
                if time["until"]
                else None,
            ),
            ("Pace", pace_words(time["pace"]) if time["pace"] else None),
            ("Witnesses", _witnesses(value)),
        ]
    )
    return section("time", "Seals and time-stamps", _timeline(value, seals, operators), listed)


def _witnesses(value: VerificationForm) -> str:
    return "; ".join(
        f"{item['name']} ({item['operator']}) cosigned {counted(item['heads'], 'head')}"
        f"{', the last among them' if item['final'] else ''}"
        for item in value["time"]["witnesses"]
    )


def _timeline(value: VerificationForm, seals: Sequence[SealForm], operators: Mapping[str, str]) -> Content:
    start = _start(seals)
    if start is None:
        return element("p", "No seal has a time that can be shown.")
    words = tokens_words(value["time"]["seals"], value["time"]["stamped"], value["time"]["lag"])
    caption = (
        "Each seal covers the steps before it. Bars show the accuracy that a token states; the line from a "
        "seal to its tokens is the time it waited. A head existed by the time of its token, and may be "
        "older."
    )
    drawn = spread(seals, DRAWN)
    omitted = value["time"]["timeline"]["left_out"] + len(seals) - len(drawn)
    if omitted:
        caption += f" {counted(omitted, 'seal')} between those shown are left out."
    letters = (element("li", element("b", letter), " ", name) for name, letter in operators.items())
    figure = timeline_figure(drawn, operators, start, words)
    return joined(
        [
            shown(figure, caption, _seal_table(seals, operators)),
            element("ul", *letters, class_="letters", aria_label="Operators") if operators else None,
        ]
    )


def _start(seals: Sequence[SealForm]) -> datetime | None:
    """The earliest time that is shown."""
    times = [moment(token["time"]) for _, token in tokens(seals)] + [moment(seal["made"]) for seal in seals]
    return min((time for time in times if time is not None), default=None)


def _seal_table(seals: Sequence[SealForm], operators: Mapping[str, str]) -> Markup:
    chosen = spread(seals, ROWS // 2)
    headings = (
        "Seal",
        "Steps",
        "Made, prover's clock",
        "Token",
        "Accuracy",
        "Lag",
        "Vouched for by",
        "Authority",
    )
    rows = [row for seal in chosen for row in _seal_rows(seal, operators)]
    return joined(
        [
            table("Seals and their tokens", headings, rows[: 2 * ROWS], numbers=(0, 1, 4, 5)),
            left_out(len(seals) - len(chosen), "seal"),
        ]
    )


def _seal_rows(seal: SealForm, operators: Mapping[str, str]) -> Iterator[list[Content]]:
    begin: list[Content] = [str(seal["seal"]), str(seal["steps"]), seal["made"] or "-"]
    if not seal["tokens"]:
        yield [*begin, "none", "-", "-", "-", "-"]
    for token in seal["tokens"]:
        accuracy, lag = token["accuracy"], token["lag"]
        by = (
            "the prover itself"
            if token["embedded"]
            else operators.get(token["operator"] or "", "nobody you trust")
        )
        yield [
            *begin,
            token["time"],
            "-" if accuracy is None else f"{accuracy:g} s",
            "-" if lag is None else seconds(lag),
            by,
            token["authority"],
        ]


# Trajectory


def trajectory_section(value: VerificationForm) -> Markup:
    """Where the parameters went, and what screening found odd about it."""
    way, screening = value["trajectory"], value["screening"]
    heading = "Trajectory and screening"
    if way is None or screening is None:
        return section("way", heading, element("p", "The stored checkpoints were not looked at."))
    flags = screening["flags"]
    words = (
        f"{screening['read']} of {counted(screening['stored'], 'stored checkpoint')} read and rehashed; "
        f"{counted(len(flags), 'flag')}."
    )
    caption = (
        f"{words} Distances from the start are estimated from a sketch (standard error {way['error']:.0%}); "
        "displacements between stored checkpoints are exact. A flag has intervals opened and accuses "
        "nobody."
    )
    if way["merged"] > 1:
        caption += f" A point stands for {way['merged']} stretches and the largest displacement among them."
    names = [group["name"] for group in way["groups"]]
    letters = (element("li", element("b", letter), " ", name) for name, letter in lettered(names).items())
    figure = trajectory_figure(value, way, flags, words)
    return section(
        "way",
        heading,
        shown(figure, caption, _way_table(way)),
        element("ul", *letters, class_="letters", aria_label="Groups of parameters"),
        left_out(way["left_out"], "group"),
        _flag_table(value, flags),
    )


def _way_table(way: TrajectoryForm) -> Markup:
    points = spread(range(len(way["steps"])), ROWS)
    letters = lettered([group["name"] for group in way["groups"]]).values()
    headings = ["Step", *(f"{letter}, {what}" for letter in letters for what in ("distance", "displacement"))]
    rows = (
        [
            str(way["steps"][at]),
            *(figures(group[what][at]) for group in way["groups"] for what in ("distance", "moved")),
        ]
        for at in points
    )
    return table("Distance from the start and displacement", headings, rows, numbers=range(len(headings)))


def _flag_table(value: VerificationForm, flags: Sequence[FlagForm]) -> Content:
    if not flags:
        return None
    outcomes = {result["interval"]: result["outcome"] for result in value["intervals"]}
    headings = ("Intervals", "Why", "Group", "Times the limit", "Opened", "Replay")
    return joined(
        [
            table(
                "What screening flagged",
                headings,
                (_flag_row(flag, outcomes) for flag in flags[:FLAGS]),
                numbers=(3,),
            ),
            left_out(len(flags) - FLAGS, "flag"),
        ]
    )


def _flag_row(flag: FlagForm, outcomes: Mapping[int, str]) -> list[Content]:
    first, last = flag["intervals"]
    inside = [outcomes[at] for at in range(first, last + 1) if at in outcomes]
    worst = next((word for word in ("fail", "unverifiable", "pass") if word in inside), None)
    return [
        f"{first}" if first == last else f"{first}-{last}",
        FLAG_REASONS[flag["kind"]],
        flag["group"] or "-",
        beyond_limit(flag),
        f"{len(inside)} of {last + 1 - first}",
        outcome(worst) if worst else "-",
    ]
