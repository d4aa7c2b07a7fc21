"""Step 9: judges replayed intervals against the recorded states. PROTOCOL section 10, "Comparison"."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from polledger.core.environment import same_draws
from polledger.core.opened import IntervalResult
from polledger.core.records import Genesis
from polledger.core.replay import Replayer, ReplayFailed, ReplayJob, ReplayOutcome, Variant
from polledger.core.report import Finding
from polledger.core.state import FlatState, escape
from polledger.core.tolerance import (
    Distances,
    GroupJudgement,
    judge_group,
    judge_interval,
    judge_lean,
    spared,
    spared_by_coarse,
)
from polledger.errors import MalformedError, UsageError
from polledger.verify.compare import Comparison, compare_states, residual_cosine
from polledger.verify.distances import measure_distances, reference_distances
from polledger.verify.floats import Precision
from polledger.verify.lineage import Interval
from polledger.verify.noise import Noise, NoiseTask, compute_precision, measure_noise, other_variant
from polledger.verify.policy import Policy
from polledger.verify.replaytask import PACKAGE
from polledger.verify.states import LoadedState

COARSEST: Precision = "bfloat16"
"""What code may compute in without saying so: autocast, a cast of its own, TF32 or bfloat16 products by a switch."""

COARSE_FLAGS = (
    "env_dnnl_default_fpmath_mode",
    "env_onednn_default_fpmath_mode",
    "env_nvidia_tf32_override",
    "env_torch_allow_tf32_cublas_override",
)
"""Variables that have libraries compute in bfloat16 or TF32 whatever the code asks for, but for "0" and "STRICT"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One interval after its replay. ``recorded`` is None where the end state was not stored.

    ``differences``: in what this machine's environment class differs from the recorded one.
    """

    interval: Interval
    job: ReplayJob
    start: LoadedState
    outcome: ReplayOutcome
    state: LoadedState
    recorded: LoadedState | None
    differences: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Judge:
    """Applies the comparison rules and keeps account of noise replays and leaning residuals.

    ``final`` gives the run's last state (None where it cannot be read); ``clock`` counts seconds, ``pace`` says how
    many a replayed step took so far. ``own``: the code is polledger's, and computes in the format that config names.
    """

    genesis: Genesis
    policy: Policy
    base: Variant
    seed: bytes
    clock: Callable[[], float]
    pace: Callable[[], float]
    final: Callable[[], FlatState | None]
    precision_config: dict[str, object]
    own: bool
    noise_seconds: float = 0.0
    noise_replays: int = 0
    noise_steps: int = 0
    _references: Mapping[str, float] | None = None
    _recorded_leans: list[float] = field(default_factory=list)
    _own_leans: list[tuple[float, ...]] = field(default_factory=list)

    def equal(self, item: Replayed) -> IntervalResult:
        """The result of an interval whose end root was reached bit for bit."""
        try:
            comparison = self._compare(item, item.state.flat)
        except UsageError:
            # Genesis does not describe every object: step 8 says so, and equal bits stay equal.
            comparison = Comparison(measures=())
        result = self._result(item, comparison, confirmed=True, why="")
        return replace(result, outcome="pass", why="")

    def differing(
        self, item: Replayed, *, confirmed: bool, again: FlatState | None, replayer: Replayer
    ) -> IntervalResult:
        """Judge an interval whose bits differ. ``confirmed``: same class, and a second replay agreed with the first.

        ``again``: where that second one ended, if there was one: a difference between the two is noise as well.
        ``replayer`` runs the noise replays, in processes that have not seen later states.
        """
        if item.recorded is None:
            return self._unjudged(item, "its end state was not stored, so only equal bits could pass")
        try:
            comparison = self._compare(item, item.recorded.flat)
        except UsageError as error:
            return self._unjudged(item, f"the states cannot be compared: {error}")
        if any(measure.strict_equal and not measure.exact for measure in comparison.measures):
            noise, blocked = self._noise(item, comparison, replayer)
            floor = noise.floor if noise else {}
            comparison = comparison.with_noise(floor if again is None else self._raised(floor, item, again))
            result = self._result(item, comparison, confirmed=confirmed, why=blocked)
            if result.outcome == "pass" and noise is not None:
                self._keep_lean(item, item.recorded, noise)
        else:
            result = self._result(item, comparison, confirmed=confirmed, why="")
        if result.outcome == "fail" and not confirmed:
            result = self._spare(item, result, comparison, replayer)
        return replace(result, distances=self._distances(item, item.recorded))

    def _spare(
        self, item: Replayed, result: IntervalResult, comparison: Comparison, replayer: Replayer
    ) -> IntervalResult:
        """``result``, a failure by tolerance, without what honest code may have come to as well: it passes nothing."""
        why = self._other_way(item, comparison)
        if why:
            groups = tuple(spared(group, why) for group in result.groups)
        elif self.own and not _rounds_by_switch(item):
            return result
        else:
            noise, _ = self._measured(self._noise_task(item, COARSEST), replayer)
            floor = noise.floor if noise else {}
            rules = self.policy.comparison.rules
            groups = tuple(
                spared_by_coarse(group, floor.get(group.measure.name), rules=rules) for group in result.groups
            )
        reason = _reason(item, groups, "", comparison.worst)
        return replace(result, outcome=judge_interval(groups), groups=groups, why=reason)

    def _other_way(self, item: Replayed, comparison: Comparison) -> str:
        """Why the training may have gone another way here than roundings take it; empty where nothing says so."""
        packages = [name for name in item.differences if name.startswith(PACKAGE)]
        if packages:
            return f"another version of the {packages[0]} may compute something else"
        for measure in comparison.measures:
            # A recipe has no other object than the scaler, whose numbers are counters and powers of two.
            counted = measure.exact if self.genesis.kind == "recipe" else measure.strict_equal
            if self._is_other(measure.name) and not counted:
                return f"{measure.name} counted otherwise here: a step may have been left out that was not recorded so"
        return ""

    def _is_other(self, group: str) -> bool:
        """Whether ``group`` is of an object that is no module or optimizer, such as a gradient scaler or schedule."""
        name = group.partition("/")[0]
        return any(escape(item.name) == name for item in self.genesis.objects if item.kind == "other")

    def _distances(self, item: Replayed, recorded: LoadedState) -> dict[str, Distances]:
        """What the literature compares by, for the report."""
        if self._references is None:
            self._references = self._reference_distances()
        return measure_distances(
            replayed=item.state.flat,
            recorded=recorded.flat,
            objects=self.genesis.objects,
            references=self._references,
        )

    def _reference_distances(self) -> dict[str, float]:
        final = self.final()
        try:
            return {} if final is None else reference_distances(final, self.genesis.objects)
        except UsageError:
            # The last state may hold what genesis does not describe: it has no groups then.
            return {}

    def unstored(self, item: Replayed, further: Replayed, *, replayer: Replayer) -> IntervalResult:
        """Judge an interval whose recorded end is no stored state and is not reached; both replays agreed.

        ``further`` goes on from the same start to the next stored checkpoint. Where that is reached bit for bit, the
        recorded root is none that the training passed.
        """
        if further.state.root == further.interval.end.root:
            why = f"another state lies on the way to the stored one after step {further.interval.end.step}"
            return replace(self._unjudged(item, why), outcome="fail")
        judged = self.differing(further, confirmed=True, again=None, replayer=replayer)
        return replace(
            judged,
            last=item.interval.end.step,
            why=f"its end was not stored; replayed on to step {further.interval.end.step}: {judged.why}",
            reached=item.state.root,
        )

    def _raised(self, floor: dict[str, float], item: Replayed, again: FlatState) -> dict[str, float]:
        """``floor`` where noise was measured, at least the distance between two replays of the same job."""
        apart = compare_states(
            replayed=again, recorded=item.state.flat, start=item.start.flat, objects=self.genesis.objects
        )
        distances = {measure.name: measure.e for measure in apart.measures if measure.strict_equal}
        return {name: max(value, distances.get(name, 0.0)) for name, value in floor.items()}

    def lean_finding(self) -> Finding | None:
        """The directed-residual test over all intervals that passed within tolerance; None where there are none."""
        if not self._recorded_leans:
            return None
        lean = judge_lean(self._recorded_leans, self._own_leans, margin=self.policy.comparison.lean_margin)
        detail = f"residuals lean towards the final model by {lean.mean:.3g}; noise explains {lean.limit:.3g}"
        if lean.false_alarm is not None:
            chance = f"with probability {lean.false_alarm:.2g} at most, if they scatter as noise does"
            detail += f", which honest ones exceed {chance}"
        if lean.acceptable:
            return Finding(step=9, name="drift", outcome="pass", detail=detail)
        remedy = "verify where the run was recorded: there the bits decide"
        return Finding(step=9, name="drift", outcome="unverifiable", detail=detail, remedy=remedy)

    def _compare(self, item: Replayed, recorded: FlatState) -> Comparison:
        return compare_states(
            replayed=item.state.flat, recorded=recorded, start=item.start.flat, objects=self.genesis.objects
        )

    def _noise(self, item: Replayed, comparison: Comparison, replayer: Replayer) -> tuple[Noise | None, str]:
        """The floor, or why there is none. Without one nothing passes, and off the recorded class nothing fails."""
        if _draws_otherwise(item, own=self.own) and self._is_far(comparison):
            return None, "its steps may draw random numbers, and this machine draws others"
        return self._measured(self._noise_task(item, self._precision(item)), replayer)

    def _measured(self, task: NoiseTask, replayer: Replayer) -> tuple[Noise | None, str]:
        expected = self._predicted(task)
        if self.noise_seconds + expected > self.policy.comparison.noise_seconds:
            return None, "the budget for noise replays (comparison.noise_seconds) is used up"
        started = self.clock()
        try:
            return measure_noise(task, replayer), ""
        except (ReplayFailed, MalformedError) as error:
            return None, f"the noise floor could not be measured: {error}"
        finally:
            self.noise_seconds += self.clock() - started
            self.noise_replays += task.replicas + 1
            self.noise_steps += task.steps

    def _is_far(self, comparison: Comparison) -> bool:
        """Whether an error is so large that no noise lets its group pass."""
        rho = self.policy.comparison.rho
        return any(not measure.exact and measure.e >= rho * measure.u for measure in comparison.measures)

    def _predicted(self, task: NoiseTask) -> float:
        """Seconds that a measurement will take: by what earlier ones took a step, and no less than replays do."""
        measured = self.noise_seconds / self.noise_steps if self.noise_steps else 0.0
        return max(measured, self.pace()) * task.steps

    def _precision(self, item: Replayed) -> Precision:
        devices = (item.interval.environment.device, item.outcome.environment.device)
        return compute_precision(self.precision_config, devices)

    def _noise_task(self, item: Replayed, precision: Precision) -> NoiseTask:
        return NoiseTask(
            job=item.job,
            start=item.start.flat,
            replayed=item.state.flat,
            final=self.final(),
            objects=self.genesis.objects,
            seed=self.seed,
            replicas=self.policy.comparison.replicas,
            precision=precision,
            base=self.base,
            other=other_variant(item.outcome.environment, self.base),
        )

    def _keep_lean(self, item: Replayed, recorded: LoadedState, noise: Noise) -> None:
        final = self.final()
        cosine = float("nan")
        if final is not None:
            cosine = residual_cosine(
                found=recorded.flat,
                replayed=item.state.flat,
                start=item.start.flat,
                final=final,
                objects=self.genesis.objects,
            )
        self._recorded_leans.append(cosine)
        self._own_leans.append(noise.leans)

    def _result(self, item: Replayed, comparison: Comparison, *, confirmed: bool, why: str) -> IntervalResult:
        judgements = tuple(
            judge_group(measure, rules=self.policy.comparison.rules, confirmed=confirmed)
            for measure in comparison.measures
        )
        outcome = judge_interval(judgements)
        exact = item.state.root == item.interval.end.root
        return IntervalResult(
            interval=item.interval.number,
            first=item.interval.start.step,
            last=item.interval.end.step,
            outcome=outcome,
            exact=exact,
            groups=judgements,
            why="" if outcome == "pass" else _reason(item, judgements, why, comparison.worst),
            reached=item.state.root,
        )

    def _unjudged(self, item: Replayed, why: str) -> IntervalResult:
        return IntervalResult(
            interval=item.interval.number,
            first=item.interval.start.step,
            last=item.interval.end.step,
            outcome="unverifiable",
            exact=False,
            why=_reason(item, (), why, {}),
            reached=item.state.root,
        )


def _rounds_by_switch(item: Replayed) -> bool:
    """Whether a variable makes a library compute in a coarser format than it is asked for, here or where recorded."""
    environments = (item.interval.environment, item.outcome.environment)
    return any(
        where.flags.get(name, "0") not in ("0", "STRICT") for where in environments for name in COARSE_FLAGS
    )


def _draws_otherwise(item: Replayed, *, own: bool) -> bool:
    """Whether steps may have used random numbers for which this machine need not give those that were recorded.

    Generators that code made itself, and those it put back, show nowhere: only of polledger's ``own`` is it known.
    """
    drew = not own or any(step.drew for step in item.outcome.steps)
    return drew and not same_draws(item.outcome.environment, item.interval.environment)


def _reason(item: Replayed, judgements: Sequence[GroupJudgement], why: str, worst: Mapping[str, str]) -> str:
    """The group that decided and where in it the error is largest, what blocked, what differs on this machine."""
    failed = [judgement for judgement in judgements if judgement.outcome == "fail"]
    blocked = failed or [judgement for judgement in judgements if judgement.outcome != "pass"]
    parts = []
    if blocked:
        group = max(blocked, key=_relative_error)
        parts.append(f"{group.measure.name}: {group.why}")
        parts += [f"worst at {worst[group.measure.name]}"] if group.measure.name in worst else []
    parts += [why] if why else []
    if item.differences:
        parts.append(f"this machine differs in {', '.join(item.differences[:4])}")
    return "; ".join(parts) or "the states differ"


def _relative_error(judgement: GroupJudgement) -> float:
    # A group that did not move has no scale: any other says more.
    measure = judgement.measure
    return measure.e / measure.u if measure.u else 0.0
