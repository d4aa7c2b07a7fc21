"""What a report says in words, the same on a terminal and on a page. Values may be hostile: who shows them escapes."""

import math
from collections.abc import Sequence

from polledger.core.report import counted
from polledger.core.reportform import (
    CodeForm,
    Comparison,
    FlagForm,
    GroupForm,
    IntervalForm,
    LagForm,
    Number,
    OddsForm,
    PaceForm,
    RenewalForm,
)
from polledger.core.timesummary import Waiting

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


def seconds(value: float) -> str:
    """A time in a unit that suits it."""
    if abs(value) < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if abs(value) < 7200 else f"{value / 3600:.0f} h"


def anchors_words(assurance: str, first: str | None, last: str | None) -> str:
    """How far time is vouched for, and by when genesis and the end existed."""
    if first is None and last is None:
        return assurance
    return f"{assurance}, genesis by {first or 'unknown'}, end by {last or 'unknown'}"


def tokens_words(seals: int, stamped: int, lag: LagForm | None) -> str:
    """How many seals have a token, and how late it came."""
    late = ""
    if lag is not None:
        late = (
            f", {seconds(lag['median'])} after the seal (median of {lag['tokens']}), "
            f"at most {seconds(lag['longest'])} (seal {lag['seal']})"
        )
    return f"{stamped} of {counted(seals, 'seal')} have one{late}"


def waiting_rows(waiting: Sequence[Waiting]) -> list[tuple[str, str]]:
    """A row for each authority that has not answered all it was asked."""
    by_authority: dict[str, list[Waiting]] = {}
    for one in waiting:
        by_authority.setdefault(one.authority, []).append(one)
    return [("waiting", waiting_of(name, ones)) for name, ones in by_authority.items()]


def waiting_of(authority: str, waiting: Sequence[Waiting]) -> str:
    """What waits for ``authority``, since when, and why."""
    since = min((one.since for one in waiting if one.since is not None), default=None)
    tried = max(waiting, key=lambda one: (bool(one.reason), one.seal))
    why = f": {tried.reason}" if tried.reason else ": not asked yet"
    when = f" since {since}" if since else ""
    return f"{counted(len(waiting), 'seal')} for {authority}{when}{why}"


def renewal_words(renewal: RenewalForm) -> str:
    """A renewal, when it was made and who vouches for that."""
    if renewal["by"] is None:
        return f"{renewal['index']}: too few operators that you trust vouch for it"
    return f"{renewal['index']}: by {renewal['by']}, {', '.join(renewal['operators'])}"


def pace_words(pace: PaceForm) -> str:
    """Steps a second as the anchors imply them, over all and at the fastest, beside what the replay reached."""
    first, last = pace["seals"]
    over = pace["steps_per_second"]
    whole = f"{over:.3g} steps a second" if over is not None else "no time"
    quick = f"at the fastest {pace['fastest']['steps_per_second']:.3g} or more"
    replayed = pace.get("replayed_steps_per_second")
    here = f"; {replayed:.3g} replayed here" if replayed is not None else ""
    return f"{whole} between the anchors of seals {first} and {last}, {quick}{here}"


def code_words(code: CodeForm) -> str:
    """The task's code: what it is called, how long it is, what names it and who vouches for it."""
    lines = f", {code['lines']} lines" if "lines" in code else ""
    vouched = f", vouched for by {code['vouched']}" if code.get("vouched") else ""
    name = f" {code['class']}" if "class" in code else ""
    return f"{code.get('kind', 'unknown')}{name}{lines}, sha256 {str(code.get('digest', ''))[:16]}…{vouched}"


def comparison_words(comparison: Comparison, differences: Sequence[str], timing: dict[str, float]) -> str:
    """By what rule states were compared, where, and what the noise floor cost."""
    where = (
        f"another environment ({', '.join(differences[:4])})"
        if differences
        else "the recorded environment class"
    )
    noise = timing.get("noise_seconds", 0.0)
    replays = counted(int(timing.get("noise_replays", 0)), "noise replay")
    cost = f"; {replays} took {noise:.1f} s" if noise else ""
    return f"{comparison}, in {where}{cost}"


def beyond_limit(flag: FlagForm) -> str:
    """How many times its limit the value of a flag is; empty for rules whose limit is none of that kind."""
    value, limit = flag["value"], flag["limit"]
    if flag["kind"] not in _RATIOS:
        return ""
    if isinstance(value, str) or isinstance(limit, str):
        return str(value)
    ratio = value / limit if limit else math.inf
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"


def share_words(odds: OddsForm) -> str:
    """A share of bogus intervals."""
    return "one bogus interval" if odds["share"] == "one" else f"{odds['share']} bogus ({odds['bogus']})"


def drawn_words(drawn: int, total: int, opened: int) -> str:
    """How many intervals were drawn and how many opened besides."""
    besides = f", {opened - drawn} opened besides" if opened > drawn else ""
    return f"{drawn} of {total} intervals were drawn{besides}"


def worst_group(interval: IntervalForm) -> tuple[str, GroupForm] | None:
    """The group with the largest error in displacements; the first where none has both. None without groups."""
    return max(interval["groups"].items(), key=lambda item: _relative(item[1]), default=None)


def _relative(group: GroupForm) -> float:
    e, u = (float(group[name]) for name in ("e", "u"))
    return e / u if u else 0.0


def ratio(value: Number | None, scale: Number | None) -> str:
    """``value`` over ``scale`` with two digits; a dash where one is missing or the quotient is no number."""
    if value is None or isinstance(value, str) or scale is None or isinstance(scale, str) or not scale:
        return "-"
    return f"{value / scale:.2g}"
