"""When a replayed state counts as the recorded one: the rules of PROTOCOL section 10, "Comparison", over numbers.

Nothing here measures: distances, displacements and noise come in as float64. Every number that is not finite
fails closed: it can never turn into a ``pass``. What these rules cannot see is drift below the tolerance in
another environment class; :func:`judge_lean` bounds its direction, not its existence.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["pass", "fail", "unverifiable"]

MARGIN = 3.0
"""Tolerance over measured noise. Over every group and interval of the prototype, honest error between
CPUs stayed below 2.65 times the maximum of 4 one-ulp replicas and one thread change (FACTS, "Prototype findings"); a
GPU's error on a CPU may exceed 3 times it, which makes an interval unverifiable (docs/benchmarks.md)."""

RHO = 0.5
"""Share of the displacement that error must stay below. Interpolated checkpoints have error 0.74 to 1.4 of the
displacement, with all published optimisation (FACTS, "Honest error and spoofs")."""

LEAN_FLOOR = 0.05
"""Mean cosine towards the final model that is never held against a run: two honest replays of a small model whose
residuals have few effective directions reach a few hundredths by chance."""

LEAN_CEILING = 0.9
"""Mean cosine that no noise excuses: residuals that all point at the final model. Replicas of a model with a handful
of parameters scatter so widely that a multiple of theirs would allow anything."""

_INTEGRATION = 800
"""Points at which lean_false_alarm takes the normal density between 0 and 8; more change the sixth digit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bounds of the comparison; they come from the verifier's policy, never from the proof."""

    margin: float = MARGIN
    rho: float = RHO


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeasure:
    """One group of the state after an interval, replayed against recorded.

    ``exact``: every bit is equal. ``strict_equal``: what no tolerance covers (integers, booleans, strings, structure)
    is equal. ``e``: l2 error; ``u``: l2 displacement of the recorded state over the interval; ``nu``: noise
    floor, None where it was not measured.
    """

    name: str
    exact: bool
    strict_equal: bool
    e: float
    u: float
    nu: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Further distances of one group between replayed and recorded state: reported, never judged.

    ``l2`` is the absolute δ of Jia et al. (2021), as are ``l1``, ``linf`` and ``cosine`` (1 − cosine, 0 for parallel
    states, not a number where one is zero). ``worst``: path of the tensor with the largest l2 error. ``reference``:
    estimate of d_ref, the distance between two models trained from different seeds, for groups of parameters; elsewhere
    None.
    """

    l1: float
    l2: float
    linf: float
    cosine: float
    worst: str
    reference: float | None = None

    @property
    def normalised(self) -> float | None:
        """l2 over d_ref; None where there is no d_ref, or it is 0."""
        return self.l2 / self.reference if self.reference else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupJudgement:
    """Outcome for one group, and in one clause why it is not ``pass``."""

    measure: GroupMeasure
    outcome: Outcome
    why: str = ""


def judge_group(measure: GroupMeasure, *, rules: Rules, confirmed: bool) -> GroupJudgement:
    """Apply the comparison rules to one group.

    ``confirmed``: the environment class is the recorded one and two replays of the verifier agree bit for bit. Without
    it (another class, or replays that disagree) the tolerance rule decides.
    """
    if measure.exact:
        return GroupJudgement(measure=measure, outcome="pass")
    if not measure.strict_equal:
        return GroupJudgement(
            measure=measure,
            outcome="fail" if confirmed else "unverifiable",
            why="integers, strings or structure differ",
        )
    if confirmed and measure.u == 0 < measure.e:
        # No noise excuses this one: a group that stands still has no error to allow for.
        return GroupJudgement(
            measure=measure,
            outcome="fail",
            why=f"it stands still as recorded; replays here agree and move it by {measure.e:.3g}",
        )
    if measure.nu is None:
        return GroupJudgement(measure=measure, outcome="unverifiable", why="the noise floor was not measured")
    tolerance = rules.margin * measure.nu
    outcome, why = _confirmed(measure, tolerance) if confirmed else _tolerated(measure, tolerance, rules)
    return GroupJudgement(measure=measure, outcome=outcome, why=why)


def _confirmed(measure: GroupMeasure, tolerance: float) -> tuple[Outcome, str]:
    if math.isnan(measure.e) or not math.isfinite(tolerance):
        return "unverifiable", "the noise floor is not finite"
    if measure.e > tolerance:
        return "fail", f"error {measure.e:.3g} exceeds the tolerance {tolerance:.3g}, and replays here agree"
    return "unverifiable", "bits differ in the recorded environment class, within the noise"


def _tolerated(measure: GroupMeasure, tolerance: float, rules: Rules) -> tuple[Outcome, str]:
    e, limit = measure.e, rules.rho * measure.u
    if not (math.isfinite(e) and math.isfinite(limit) and math.isfinite(tolerance)):
        return "unverifiable", "values that are not finite"
    if e <= tolerance < limit:
        return "pass", ""
    if e >= limit and e > tolerance:
        return (
            "fail",
            f"error {e:.3g} reaches {rules.rho:g} of the displacement {measure.u:.3g}, noise {measure.nu:.3g}",
        )
    if e > tolerance:
        return "unverifiable", f"error {e:.3g} is above the tolerance {tolerance:.3g}"
    return (
        "unverifiable",
        f"tolerance {tolerance:.3g} reaches {rules.rho:g} of the displacement {measure.u:.3g}: chaotic here",
    )


def spared(judgement: GroupJudgement, why: str) -> GroupJudgement:
    """``judgement``; in place of a ``fail``, ``unverifiable`` for the reason ``why``."""
    if judgement.outcome != "fail":
        return judgement
    return replace(judgement, outcome="unverifiable", why=f"{judgement.why}, but {why}")


def spared_by_coarse(judgement: GroupJudgement, coarse: float | None, *, rules: Rules) -> GroupJudgement:
    """A ``fail`` by tolerance stands only above the floor ``coarse`` as well: code may compute in a coarser format than
    it says. None: that floor was not measured. Nothing passes by it.
    """
    if coarse is None:
        return spared(judgement, "the noise of coarser formats was not measured")
    tolerance = rules.margin * coarse
    # Written so that what is not finite spares.
    if judgement.measure.e > tolerance:
        return judgement
    return spared(judgement, f"code that computes in bfloat16 may be off by {tolerance:.3g}")


def judge_interval(judgements: Iterable[GroupJudgement]) -> Outcome:
    """``fail`` if one group fails, ``pass`` only if there are groups and all pass, else ``unverifiable``."""
    outcomes = [judgement.outcome for judgement in judgements]
    if "fail" in outcomes:
        return "fail"
    if outcomes and all(outcome == "pass" for outcome in outcomes):
        return "pass"
    return "unverifiable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lean:
    """How far residuals point towards the final model: mean cosine, and the most the verifier's own replays explain.

    ``false_alarm``: :func:`lean_false_alarm` of the test that was made; None where the limit was LEAN_CEILING and not
    noise.
    """

    mean: float
    limit: float
    acceptable: bool
    false_alarm: float | None


def judge_lean(recorded: Sequence[float], own: Sequence[Sequence[float]], *, margin: float) -> Lean:
    """The directed-residual test over the intervals that passed within tolerance.

    ``recorded[i]`` is the cosine between (recorded − replayed) and (final − start) of interval i; ``own[i]`` the same
    for each of the verifier's own perturbed replays in place of the recorded state. Acceptable when the mean of the
    recorded cosines is at most ``margin`` times the largest magnitude that any one replica shows on average (at least
    LEAN_FLOOR, at most LEAN_CEILING). A simple test: it bounds systematic drift towards the final model, and one
    interval alone carries little. Not acceptable when there is nothing to compare, or a number is not finite.
    """
    if not recorded or len(own) != len(recorded) or not all(own):
        return Lean(mean=math.nan, limit=math.nan, acceptable=False, false_alarm=None)
    mean = math.fsum(recorded) / len(recorded)
    replicas = min(len(cosines) for cosines in own)
    averages = [abs(math.fsum(cosines[j] for cosines in own)) / len(own) for j in range(replicas)]
    noise = margin * max(averages)
    limit = min(LEAN_CEILING, max(LEAN_FLOOR, noise))
    # A replica that is equal in every bit says nothing about the law of those that are not.
    telling = sum(average > 0 for average in averages)
    finite = math.isfinite(mean) and all(map(math.isfinite, averages))
    return Lean(
        mean=mean,
        limit=limit,
        acceptable=finite and mean <= limit,
        false_alarm=None if noise > LEAN_CEILING else lean_false_alarm(margin=margin, replicas=telling),
    )


def lean_false_alarm(*, margin: float, replicas: int) -> float:
    """Probability that an honest run fails :func:`judge_lean`, at most.

    An honest residual is rounding like the residuals of the verifier's own ``replicas`` replays, so all mean cosines
    are taken as independent normal values of mean 0 and one variance: P(X > margin · max|Yj|), integrated numerically.
    LEAN_FLOOR only lowers it. What is not covered: residuals whose law differs from that of the replicas.
    """
    width = 8 / _INTEGRATION
    points = ((i + 0.5) * width for i in range(_INTEGRATION))
    return width * math.fsum(
        math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * math.erf(x / margin / math.sqrt(2)) ** replicas
        for x in points
    )
