"""One line per tried spoof: what a table, a JSON object and a page say about it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polledger.core.sampling import detection_odds
from polledger.errors import UsageError
from polledger.redteam.spoof import Outcome, Spoof


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trial in plain values.

    ``cost``: as :attr:`Forgery.gradients`. ``reference``: whether a verifier of the published kind accepts it by the l2
    distance, ``shipped`` by all four of its code, None where it has nothing to pass (``why``). ``step``, ``finding``
    and ``detail`` say what decided, empty for VERIFIED. ``sample`` intervals of ``intervals`` were drawn, ``opened``
    opened, and ``bogus`` are not training; ``odds`` is the chance that the draw alone holds one of these, None where
    no interval is bogus. ``flagged``: how many screening chose. ``smallest`` is the smallest error over displacement
    among the intervals that failed, each by its worst group; ``reached`` are distances by name.
    """

    spoof: str
    number: int
    title: str
    source: str
    seed: int
    verdict: str
    step: int | None
    finding: str
    detail: str
    cost: float
    reference: bool | None
    shipped: bool | None
    why: str
    sample: int
    intervals: int | None
    opened: int
    bogus: int
    odds: float | None
    flagged: int
    smallest: float | None
    parameters: float | None
    reached: dict[str, float]
    note: str
    limit: bool

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


def row_of(spoof: Spoof, outcome: Outcome) -> Row:
    """What ``outcome`` comes down to."""
    report, forgery = outcome.report, outcome.forgery
    bad: Mapping[str, Any] = report.get("first_bad") or {}
    sample: Mapping[str, Any] = report.get("sample") or {}
    total = sample.get("total")
    return Row(
        spoof=spoof.name,
        number=spoof.number,
        title=spoof.title,
        source=spoof.source,
        seed=outcome.seed,
        verdict=report["verdict"],
        step=bad.get("step"),
        finding=bad.get("name", ""),
        detail=bad.get("detail", ""),
        cost=forgery.gradients,
        reference=outcome.reference,
        shipped=outcome.shipped,
        why=spoof.why,
        sample=sample.get("drawn", 0),
        intervals=total,
        opened=len(sample.get("intervals", ())),
        bogus=forgery.bogus,
        odds=None if not forgery.bogus or total is None else drawn_odds(sample, forgery.bogus),
        flagged=_flagged(report),
        smallest=smallest_ratio(report),
        parameters=smallest_ratio(report, group="/parameters"),
        reached=dict(forgery.reached),
        note=forgery.note,
        limit=spoof.limit,
    )


def drawn_odds(sample: Mapping[str, Any], bogus: int) -> float:
    """Chance that the uniform draw alone holds one of ``bogus`` intervals."""
    return detection_odds(total=sample["total"], bogus=min(bogus, sample["total"]), count=sample["drawn"])


def smallest_ratio(report: Mapping[str, Any], *, group: str = "") -> float | None:
    """The smallest error over displacement of an interval that failed, each taken by its worst group of this ending.

    A group that errs and should not have moved at all counts as infinite; None where no interval failed.
    """
    failed = [item["groups"] for item in report.get("intervals", ()) if item["outcome"] == "fail"]
    return min((_worst_ratio(groups, group) for groups in failed), default=None)


def _worst_ratio(groups: Mapping[str, Mapping[str, Any]], ending: str) -> float:
    chosen = [value for name, value in groups.items() if name.endswith(ending)]
    return max((_ratio(float(value["e"]), float(value["u"])) for value in chosen), default=math.inf)


def _ratio(error: float, displacement: float) -> float:
    if not error:
        return 0.0
    return error / displacement if displacement else math.inf


def _flagged(report: Mapping[str, Any]) -> int:
    return len((report.get("sample") or {}).get("flagged", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What became of one spoof over all seeds. ``low`` and ``high`` bound its detection rate, 95 %, Clopper-Pearson.

    ``detected``: not VERIFIED. ``by``: the steps that decided, most frequent first. ``odds``: mean of the chances that
    the draw alone finds it, None where no interval is bogus. ``reference`` and ``shipped``: how many a verifier of the
    published kind accepted of ``asked`` that it could read, None where that says nothing. ``smallest`` and
    ``parameters``: the smallest ratios that any seed reached.
    """

    spoof: str
    title: str
    source: str
    trials: int
    verdicts: Mapping[str, int]
    detected: int
    low: float
    high: float
    by: tuple[str, ...]
    odds: float | None
    sample: int
    intervals: int | None
    bogus: int
    cost: float
    asked: int
    reference: int | None
    shipped: int | None
    why: str
    smallest: float | None
    parameters: float | None
    reached: Mapping[str, float]
    detail: str
    note: str
    limit: bool

    @property
    def succeeded(self) -> bool:
        """Whether it got a VERIFIED that no stated limit foretells."""
        return bool(self.verdicts.get("VERIFIED")) and not self.limit

    def to_json(self) -> dict[str, Any]:
        """The line as plain values."""
        return {**asdict(self), "by": list(self.by)}


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """One line per spoof, in the order in which the spoofs first come."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.spoof, []).append(row)
    return [_line(members) for members in grouped.values()]


def _line(rows: Sequence[Row]) -> Line:
    verdicts = Counter(row.verdict for row in rows)
    detected = len(rows) - verdicts["VERIFIED"]
    low, high = clopper_pearson(detected, len(rows))
    by = Counter(f"step {row.step} ({row.finding})" for row in rows if row.step is not None)
    # A trial that verified says most about its spoof.
    shown = next((row for row in rows if row.verdict == "VERIFIED"), rows[0])
    return Line(
        spoof=shown.spoof,
        title=shown.title,
        source=shown.source,
        trials=len(rows),
        verdicts=dict(verdicts.most_common()),
        detected=detected,
        low=low,
        high=high,
        by=tuple(name for name, _ in by.most_common()),
        odds=_mean([row.odds for row in rows if row.odds is not None]),
        sample=shown.sample,
        intervals=shown.intervals,
        bogus=shown.bogus,
        cost=_mean([row.cost for row in rows]) or 0.0,
        asked=sum(row.reference is not None for row in rows),
        reference=_accepted([row.reference for row in rows]),
        shipped=_accepted([row.shipped for row in rows]),
        why=shown.why,
        smallest=min((row.smallest for row in rows if row.smallest is not None), default=None),
        parameters=min((row.parameters for row in rows if row.parameters is not None), default=None),
        reached=_smallest_reached(rows),
        detail=shown.detail,
        note=shown.note,
        limit=shown.limit,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _accepted(verdicts: Sequence[bool | None]) -> int | None:
    said = [verdict for verdict in verdicts if verdict is not None]
    return sum(said) if said else None


def _smallest_reached(rows: Sequence[Row]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row.reached)
    return {name: min(row.reached[name] for row in rows if name in row.reached) for name in names}


def clopper_pearson(hits: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact confidence interval of a rate of which ``hits`` of ``trials`` were seen; within 1e-12.

    Raises UsageError unless 0 <= hits <= trials and trials >= 1.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise UsageError(f"{hits} of {trials} is no rate")
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _at_least(hits, trials, p) - tail)
    high = 1.0 if hits == trials else _root(lambda p: tail - _at_least(trials - hits, trials, 1 - p))
    return low, high


def _at_least(hits: int, trials: int, p: float) -> float:
    """P(X >= hits) for a binomial X."""
    return math.fsum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(hits, trials + 1))


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def summary_words(lines: Sequence[Line]) -> str:
    """The result in half a sentence. Stated limits that verified are neither a success nor a failure of the rest."""
    known = sum(bool(line.limit and line.verdicts.get("VERIFIED")) for line in lines)
    verified = [line.spoof for line in lines if line.succeeded]
    rest = f"; {known} verified as the limits say" if known else ""
    tried = len(lines) - known
    if verified:
        return f"{len(verified)} of {tried} spoofs got a VERIFIED: {', '.join(verified)}{rest}"
    return f"no spoof of {tried} was VERIFIED{rest}"


def verdict_words(line: Line) -> str:
    """``REFUTED by step 9 (replay)``, with counts where several seeds were tried."""
    by = f" by {' or '.join(line.by)}" if line.by else ""
    stated = ", as the limits say" if line.limit and "VERIFIED" in line.verdicts else ""
    if line.trials == 1:
        return f"{next(iter(line.verdicts))}{by}{stated}"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in line.verdicts.items())
    return f"{counts} of {line.trials}{by}{stated}"


def opened_words(line: Line) -> str:
    """How many intervals were drawn and are bogus, and what the draw alone would find."""
    if line.intervals is None:
        return "nothing to sample"
    drawn = f"n = {line.sample} of {line.intervals}"
    if line.odds is None:
        return f"{drawn}, no interval is bogus"
    return f"{drawn}, {line.bogus} bogus: the draw alone finds {chance(line.odds)}"


def chance(odds: float) -> str:
    """Odds in per cent, never rounded to certainty."""
    if odds == 1:
        return "100 %"
    return ">99.9 %" if odds > 0.999 else f"{100 * odds:.3g} %"


def cost_words(line: Line) -> str:
    """Cost in honest trainings."""
    return "no gradient computed" if line.cost == 0 else f"cost {line.cost:.3g} of an honest training"


def reference_words(line: Line) -> str:
    """What a verifier of the published kind does with it, or why that says nothing."""
    if line.reference is None:
        return f"published verifier: {line.why or 'cannot read it'}"
    if line.asked == 1:
        four = " by l2, not by all four of its distances" if line.reference and not line.shipped else ""
        return f"published verifier {'accepts' if line.reference else 'rejects'}{four}"
    return f"published verifier accepts {line.reference} of {line.asked}, {line.shipped} by all four of its distances"


def ratio_words(line: Line) -> str:
    """The smallest error over displacement that a failed interval got to: of all that is compared, of parameters."""
    if line.smallest is None or line.parameters is None:
        return "–"
    return f"{line.smallest:.3g} ({line.parameters:.3g})"
