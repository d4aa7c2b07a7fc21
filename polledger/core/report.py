"""Findings, the verdict over them, and the report that carries both. PROTOCOL sections 10 ("Verdict") and 14.

The verdict fails closed: VERIFIED needs a ``pass`` finding for every required check by name, so a check that was
skipped, crashed or forgotten can never be read as passed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from polledger.core.opened import IntervalResult, Odds, Sample
from polledger.core.reportform import (
    CodeForm,
    Comparison,
    EnvironmentForm,
    FindingForm,
    HeadForm,
    OriginForm,
    ScreeningForm,
    TrajectoryForm,
    Verdict,
    VerificationForm,
)
from polledger.core.timesummary import TimeSummary
from polledger.core.tolerance import Outcome, Rules
from polledger.errors import EXIT_OK, EXIT_REFUTED, EXIT_UNVERIFIABLE

SCHEMA: Final = "polledger.verify/1"

EXIT_CODES: dict[Verdict, Literal[0, 1, 3]] = {
    "VERIFIED": EXIT_OK,
    "REFUTED": EXIT_REFUTED,
    "UNVERIFIABLE": EXIT_UNVERIFIABLE,
}

STEP_NAMES = {
    1: "parse",
    2: "heads",
    3: "time",
    4: "structure",
    5: "screening",
    6: "sampling",
    7: "inclusion",
    8: "origin",
    9: "replay",
    10: "binding",
}

REQUIRED: tuple[tuple[int, str], ...] = (
    (1, "parse"),
    (2, "heads"),
    (3, "time.consistency"),
    (4, "structure"),
    (4, "stillness"),
    (5, "screening"),
    (6, "sampling"),
    (7, "inclusion"),
    (8, "origin"),
    (9, "replay"),
)
"""The checks without whose ``pass`` nothing is VERIFIED. Every run stores checkpoints, so step 5 is among them."""

REQUIRED_WITH_MODEL: tuple[tuple[int, str], ...] = ((10, "binding"),)

REQUIRED_WITH_CLAIM: tuple[tuple[int, str], ...] = ((10, "claim"),)

SCREENING = (5, "screening")
"""Required where the stored checkpoints, or sketches of them, are at hand: a proof may have neither."""

ADVISORY = frozenset({
    "unsealed", "time.tokens", "time.assurance", "time.renewed", "time.revocation", "time.pace", "time.clocks",
    "time.witnesses", "data.origin", "isolation", "metrics", "screening.sketches", "time.claim", "binding.tensor",
    "claim.files", "claim.further", "terms",
})  # fmt: skip
"""Findings that inform and never block: what they could not check is not required by default (PROTOCOL section 10).
Their ``fail`` still refutes."""

LIMITS = (
    "VERIFIED means: this code turned these states into those on these data. Not authorship, lawful data or innocent "
    "code; a task's code has to be read.",
    "Timestamps bound from above only: a run simulated offline before genesis cannot be told from an honest one.",
    "One bogus interval among N is found with probability n/N, unless it moves the state further than the training "
    "around it: then screening of the stored checkpoints finds it. A walk as slow and crooked as training is left to "
    "the odds, and so is what happens between checkpoints that were not stored.",
    "Data invented before genesis can lead honest training anywhere: verify on your own copy of the data, or list the "
    "digests of those you know in the policy (data.known).",
    "Across hardware a tolerance remains; chaotic or low-precision long intervals are uncheckable off the recording "
    "hardware.",
    "Withholding cannot be told from loss, and many secret forks need outside witnesses to be seen.",
)
"""What a verdict does not say: PROTOCOL section 1, printed in every report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of one numbered step. ``detail`` is a sentence; the optional fields are set where they apply."""

    step: int
    name: str
    outcome: Outcome
    detail: str
    record: int | None = None
    interval: int | None = None
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None

    @property
    def blocks(self) -> bool:
        """True when this finding alone keeps the verdict from VERIFIED."""
        return self.outcome == "fail" or (self.outcome == "unverifiable" and self.name not in ADVISORY)

    def to_json(self) -> FindingForm:
        """The finding as plain values; fields that do not apply are absent."""
        values = {
            "step": self.step,
            "name": self.name,
            "outcome": self.outcome,
            "detail": self.detail,
            "record": self.record,
            "interval": self.interval,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }
        return cast(FindingForm, {key: value for key, value in values.items() if value is not None})


def required_checks(
    *, model: bool, screened: bool = True, claim: bool = False
) -> tuple[tuple[int, str], ...]:
    """The (step, name) pairs whose ``pass`` VERIFIED needs; ``model``, ``claim``: when such a file was given.

    ``screened``: False only where neither the stored checkpoints nor sketches of them are at hand.
    """
    required = REQUIRED + (REQUIRED_WITH_MODEL if model else ()) + (REQUIRED_WITH_CLAIM if claim else ())
    return tuple(check for check in required if screened or check != SCREENING)


def missing_checks(
    findings: Iterable[Finding], *, model: bool, screened: bool = True, claim: bool = False
) -> list[tuple[int, str]]:
    """Required checks that no finding passed."""
    passed = {(finding.step, finding.name) for finding in findings if finding.outcome == "pass"}
    required = required_checks(model=model, screened=screened, claim=claim)
    return [check for check in required if check not in passed]


def judge(findings: Sequence[Finding], *, model: bool, screened: bool = True, claim: bool = False) -> Verdict:
    """REFUTED if anything failed; else VERIFIED only if every required check passed and nothing blocks."""
    if any(finding.outcome == "fail" for finding in findings):
        return "REFUTED"
    missing = missing_checks(findings, model=model, screened=screened, claim=claim)
    if missing or any(finding.blocks for finding in findings):
        return "UNVERIFIABLE"
    return "VERIFIED"


def counted(count: int, noun: str) -> str:
    """``1 head``, ``3 heads``: a count and its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a verification found; the verdict follows from the findings and cannot be set.

    ``comparison`` is "bitwise", "tolerance" or "none"; ``model``, ``claim``: such a file was given, so it is
    required in step 10.
    ``rules`` judged what differs. ``at``: when it was done by the verifier's clock (ISO 8601, UTC), by polledger
    ``version``. ``origin``: what the run starts from, its parent's verdict where one was verified. ``screened``: see
    :func:`required_checks`.
    """

    run: str | None
    head: HeadForm | None
    findings: tuple[Finding, ...]
    intervals: tuple[IntervalResult, ...] = ()
    screening: ScreeningForm | None = None
    trajectory: TrajectoryForm | None = None
    sample: Sample | None = None
    odds: tuple[Odds, ...] = ()
    time: TimeSummary = field(default_factory=TimeSummary)
    code: CodeForm = field(default_factory=lambda: CodeForm())
    comparison: Comparison = "none"
    rules: Rules = field(default_factory=Rules)
    environment: EnvironmentForm = field(default_factory=lambda: EnvironmentForm())
    policy: str = ""
    model: bool = False
    claim: bool = False
    origin: OriginForm = field(default_factory=lambda: OriginForm())
    screened: bool = True
    timing: dict[str, float] = field(default_factory=dict)
    at: str | None = None
    version: str = ""

    @property
    def verdict(self) -> Verdict:
        """:func:`judge` over the findings."""
        return judge(self.findings, model=self.model, screened=self.screened, claim=self.claim)

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """Exit code of the command line for this verdict."""
        return EXIT_CODES[self.verdict]

    @property
    def first_bad(self) -> Finding | None:
        """The finding that decided: the first ``fail``, else the first that blocks."""
        failed = next((finding for finding in self.findings if finding.outcome == "fail"), None)
        return failed or next((finding for finding in self.findings if finding.blocks), None)

    def to_json(self) -> VerificationForm:
        """The one object of ``verify --json``."""
        bad = self.first_bad
        return {
            "schema": SCHEMA,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "sentence": sentence(self),
            "run": self.run,
            "head": self.head,
            "findings": [finding.to_json() for finding in self.findings],
            "intervals": [interval.to_json() for interval in self.intervals],
            "screening": self.screening,
            "trajectory": self.trajectory,
            "sample": self.sample.to_json() if self.sample else None,
            "odds": [odds.to_json() for odds in self.odds],
            "time": self.time.to_json(),
            "code": self.code,
            "comparison": self.comparison,
            "rules": {"margin": self.rules.margin, "rho": self.rules.rho},
            "environment": self.environment,
            "policy": self.policy,
            "origin": self.origin,
            "timing": {key: round(value, 3) for key, value in self.timing.items()},
            "limits": list(LIMITS),
            "first_bad": bad.to_json() if bad and self.verdict != "VERIFIED" else None,
            "verified_at": self.at,
            "version": self.version,
        }


def sentence(report: Report) -> str:
    """The verdict in one sentence: the last line on standard error."""
    if report.verdict == "VERIFIED":
        screened = () if report.screened else ("what was not drawn was not screened",)
        claimed = (
            ("the claim agrees with the run in every field that the run records",) if report.claim else ()
        )
        replayed = [_coverage(report), _odds(report), *screened]
        parts = [*claimed, *replayed, _time(report.time), *_starts(report.origin)]
        return f"VERIFIED: {'; '.join(parts)}"
    bad = report.first_bad
    if bad is None:
        missing = missing_checks(
            report.findings, model=report.model, screened=report.screened, claim=report.claim
        )
        step, name = next(iter(missing))
        return f"{report.verdict}: step {step} ({name}) was not done"
    where = f"step {bad.step} ({STEP_NAMES[bad.step]})"
    remedy = f"; {bad.remedy}" if bad.remedy and report.verdict == "UNVERIFIABLE" else ""
    return f"{report.verdict}: {where}: {_place(bad)}{bad.detail}{remedy}"


def origin_text(origin: OriginForm) -> str:
    """What a run starts from besides its seed: the ``origin`` object of a report, in words."""
    but = f", but for {', '.join(origin['fresh'])}" if "fresh" in origin else ""
    if origin["kind"] == "external":
        return f"a model file, sha256 {origin['sha256']}{but}"
    part = "whole final state" if origin["mode"] == "continue" else "final model"
    who = f"run {origin['run']}, {origin['verdict']}" if "run" in origin else "another run"
    return f"the {part}{but} of {who} (head {origin['head']})"


def _starts(origin: OriginForm) -> list[str]:
    """What a verdict stands on besides the seed, down to the first of the parents."""
    found = []
    while origin.get("kind") == "parent":
        found.append(f"starts from run {origin['run']}{_kept(origin)}, itself {origin['verdict']}")
        origin = origin["origin"]
    if origin.get("kind") == "external":
        file = f"a file, sha256 {origin['sha256']}{_kept(origin)}"
        found.append(f"starts from {file}, whose own origin is not shown")
    return [", which ".join(found)] if found else []


def _kept(origin: OriginForm) -> str:
    return f" but for {counted(len(origin['fresh']), 'tensor')}" if "fresh" in origin else ""


def _place(finding: Finding) -> str:
    if finding.interval is not None:
        return f"interval {finding.interval}: "
    if finding.record is not None:
        return f"record {finding.record}: "
    return ""


def _coverage(report: Report) -> str:
    total = report.sample.total if report.sample else 0
    manner = "bit for bit" if report.comparison == "bitwise" else "within tolerance"
    return f"{len(report.intervals)} of {counted(total, 'interval')} replayed {manner}"


def _odds(report: Report) -> str:
    tenth = next((odds for odds in report.odds if odds.label == "10 %"), None)
    if tenth is None:
        return "odds unknown"
    return f"a run with 10 % bogus intervals would pass with probability {_probability(1 - tenth.detection)}"


def _probability(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.1g}"


def _time(time: TimeSummary) -> str:
    if time.assurance == "external" and time.last:
        return f"external time {time.last}"
    return f"time is {time.assurance}"
