"""Step 5: has every segment that looks like anything but training opened. PROTOCOL section 10, step 5."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.report import Finding, counted
from polledger.core.reportform import ScreeningForm
from polledger.core.screening import Flag, Segment, largest, probes, screen
from polledger.verify.policy import Policy
from polledger.verify.scan import Scan

NAME = "screening"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What the rules found in one run and what they ask step 6 to open: ``flagged`` and ``top``, both ascending.

    ``left``: how many more intervals flags ask for than the budget has. ``uncompared``: intervals of segments that
    nothing could be compared with, and which are too many to open.
    """

    scan: Scan
    total: int
    policy: Policy
    flags: tuple[Flag, ...]
    flagged: tuple[int, ...]
    top: tuple[int, ...]
    left: int
    uncompared: int

    @property
    def compared(self) -> float:
        """Share of intervals in segments that were compared with others, or are opened."""
        return 1 - self.uncompared / self.total

    @property
    def covered(self) -> float:
        """Share of intervals both ends of which were read."""
        return sum(len(segment.intervals) == 1 for segment in self.scan.track.segments) / self.total

    def findings(self, opened: Sequence[int]) -> list[Finding]:
        """``pass``: every stored checkpoint was read, and all that is flagged is among ``opened``.

        Flags refute nothing. Where every interval is opened there is nothing left to ask for; where none is, because
        nothing was replayed, step 9 says so.
        """
        findings = [
            _unverifiable(problem, "restore the object from a copy") for problem in self.scan.problems
        ]
        if len(opened) < self.total:
            findings += self._blocked(opened)
        return findings or [Finding(step=5, name=NAME, outcome="pass", detail=self._passed(opened))]

    def _blocked(self, opened: Sequence[int]) -> Iterator[Finding]:
        everything = f"open every interval (--sample {self.total})"
        if self.left:
            detail = (
                f"screening saturated: flags ask for {len(self.flagged) + self.left} of {self.total} intervals, "
                f"the budget is {self.policy.screening.budget(self.total)}"
            )
            yield _unverifiable(detail, everything)
        if self.compared < self.policy.screening.compared:
            detail = f"{self.uncompared} of {self.total} intervals lie between stored checkpoints too few to compare"
            yield _unverifiable(detail, f"{everything}, or lower screening.compared in the policy")
        if opened and not set(self.flagged) <= set(opened):
            yield _unverifiable("not every flagged interval was opened", everything)

    def _passed(self, opened: Sequence[int]) -> str:
        opening = "opened" if opened else "to be opened"
        manner = (
            "sketched by the prover before it knew the sample" if self.scan.sketched else "read and rehashed"
        )
        detail = (
            f"{counted(self.scan.read, 'stored checkpoint')} {manner}; {counted(len(self.flags), 'flag')}, "
            f"{counted(len(self.flagged), 'interval')} {opening} for them"
        )
        if opened:
            detail += (
                f"; {path_share(self.scan.track.segments, opened):.0%} of the way of the parameters is opened"
            )
        covered = self.covered
        if covered < 1:
            detail += f"; {1 - covered:.0%} of the intervals lie between checkpoints that were not all stored"
        if self.uncompared:
            detail += f"; {self.uncompared} intervals had too few others to be compared with"
        return detail

    def summary(self, opened: Sequence[int]) -> ScreeningForm:
        """``screening`` of the JSON report."""
        segments = self.scan.track.segments
        return {
            "read": self.scan.read,
            "stored": self.scan.stored,
            "bytes": self.scan.size,
            "budget": self.policy.screening.budget(self.total),
            "saturated": self.left > 0,
            "covered": self.covered,
            "compared": self.compared,
            "opened_path": path_share(segments, opened),
            "flags": [flag.to_json() for flag in self.flags],
        }


def step_screening(scan: Scan, *, total: int, policy: Policy, seed: bytes) -> Screening:
    """Step 5 over the ``total`` > 0 intervals of the final lineage; ``seed`` is that of the sample.

    Opens the strongest flags up to the budget, and segments that stand alone if all of them fit besides.
    """
    bounds = policy.screening
    budget = bounds.budget(total)
    flags = tuple(screen(scan.track, bounds.rules))
    alone = {number for flag in flags if flag.kind == "alone" for number in range(flag.first, flag.last + 1)}
    wanted = list(_strongest(flags, seed=seed, count=bounds.probes))
    opened = set(wanted[:budget])
    fits = len(opened | alone) <= budget
    return Screening(
        scan=scan,
        total=total,
        policy=policy,
        flags=flags,
        flagged=tuple(sorted(opened | alone if fits else opened)),
        top=largest(scan.track.segments, policy.sample.top),
        left=len(wanted) - len(opened),
        uncompared=0 if fits else len(alone - opened),
    )


def unscreened() -> Finding:
    """What a proof without sketches leaves undone: step 5 is required only where stored checkpoints are at hand."""
    detail = (
        "the stored checkpoints are not at hand, and no sketches of them were asked for before the sample: the odds of "
        "the draw are all that speaks for the intervals that were not opened"
    )
    remedy = "ask for sketches first: `polledger challenge HEAD --sketch -o FILE`"
    return Finding(step=5, name="screening.sketches", outcome="unverifiable", detail=detail, remedy=remedy)


def _strongest(flags: Sequence[Flag], *, seed: bytes, count: int) -> dict[int, None]:
    """The intervals that flags ask for, those of the strongest flag first."""
    ordered = sorted((flag for flag in flags if flag.kind != "alone"), key=lambda flag: -flag.strength)
    return dict.fromkeys(number for flag in ordered for number in probes(flag, seed=seed, count=count))


def _unverifiable(detail: str, remedy: str) -> Finding:
    return Finding(step=5, name=NAME, outcome="unverifiable", detail=detail, remedy=remedy)


def path_share(segments: Sequence[Segment], opened: Sequence[int]) -> float:
    """Share of the way of the parameters that lies in opened intervals; a segment's is spread over its intervals.

    Segments whose way is not finite are left out.
    """
    chosen = set(opened)
    whole = part = 0.0
    for segment in segments:
        if math.isfinite(pace := segment.pace):
            whole += pace
            part += pace * sum(number in chosen for number in segment.intervals) / len(segment.intervals)
    return part / whole if whole else 0.0
