"""Step 4: the ledger says what genesis, config and the verifier's policy demand. PROTOCOL section 10, step 4."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from msgspec import UNSET, UnsetType

from polledger.core.lazily import Lazy
from polledger.core.records import Terms
from polledger.core.report import Finding, counted
from polledger.verify.lineage import FINDINGS_KEPT, Interval, Lineage, Values, changed_values
from polledger.verify.policy import Policy
from polledger.verify.schedule import hyperparameter_findings

TERMS = "terms"
"""The finding about what a verifier fixed before training: it blocks nobody else's verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """Outcome of step 4. ``values[i]``: hyperparameters in force before the first step of interval i.

    ``still``: intervals in which every learning rate is recorded as 0 throughout.
    """

    findings: tuple[Finding, ...]
    values: Sequence[Values]
    still: tuple[int, ...]


def step_structure(lineage: Lineage, *, policy: Policy, whole: bool, compact: bool = False) -> Structure:
    """Step 4 over authenticated records; ``whole``: the newest head was matched, so none of them is left out.

    ``compact``: only some of them are shown. What seems to contradict them may be explained by one that is not, and is
    ``unverifiable``.

    ``pass`` means: steps contiguous, checkpoints where genesis has them, resumes accounted for, ``final`` last, k
    within policy, hyperparameters as the schedule (recipe) or the policy (custom) have them. Whether the state
    moves at all is judged in :mod:`polledger.verify.stillness`.
    """
    findings = [
        *lineage.findings,
        *_finished(lineage, whole=whole),
        *_stored(lineage),
        *_terms(lineage, policy),
        *hyperparameter_findings(lineage, policy.hyperparameters),
    ]
    if compact:
        findings = [_explained(finding) for finding in findings]
    if all(finding.name == TERMS for finding in findings):
        findings.append(_passed(lineage))
    followed = _Followed(lineage.intervals)
    return Structure(
        findings=tuple(findings[: 2 * FINDINGS_KEPT]),
        values=Lazy(followed.before, range(len(lineage.intervals))),
        still=tuple(followed.still),
    )


def _explained(finding: Finding) -> Finding:
    if finding.outcome != "fail":
        return finding
    return replace(finding, outcome="unverifiable", remedy="ask the prover for a proof that is not compact")


def _passed(lineage: Lineage) -> Finding:
    steps = sum(len(interval.steps) for interval in lineage.intervals)
    resumes = (
        f", {counted(len(lineage.resumes), 'resume')} with {counted(lineage.abandoned, 'record')} abandoned"
        if lineage.resumes
        else ""
    )
    kind = (
        "hyperparameters as scheduled"
        if lineage.genesis.kind == "recipe"
        else "hyperparameters within policy"
    )
    unshown = sum(not interval.shown for interval in lineage.intervals)
    kind += f"; the records of {counted(unshown, 'interval')} are not shown" if unshown else ""
    detail = f"{counted(steps, 'step')} in {counted(len(lineage.intervals), 'interval')}{resumes}; {kind}"
    return Finding(step=4, name="structure", outcome="pass", detail=detail)


def _finished(lineage: Lineage, *, whole: bool) -> Iterator[Finding]:
    if not whole:
        yield _unverifiable("only a part of the sealed records is authentic", "restore ledger.log and seals/")
    elif lineage.final is None:
        yield _unverifiable(
            "the run is not finished: no final record is sealed",
            "finish it with seal --resume, or restore the last seal if one is missing",
        )
    elif not lineage.intervals:
        yield _unverifiable("there is no interval to replay", "seal a run of at least one step")


def _stored(lineage: Lineage) -> Iterator[Finding]:
    """PROTOCOL section 12: the warm checkpoints and the last are always stored."""
    genesis = lineage.genesis
    for checkpoint in lineage.checkpoints:
        if not checkpoint.stored and (checkpoint.step <= genesis.warm or checkpoint.step == genesis.steps):
            detail = f"the checkpoint after step {checkpoint.step} has to be stored and was not"
            yield Finding(
                step=4, name="structure", outcome="unverifiable", detail=detail, record=checkpoint.index
            )
            return


def _terms(lineage: Lineage, policy: Policy) -> Iterator[Finding]:
    genesis, terms = lineage.genesis, lineage.genesis.terms
    if genesis.every > policy.structure.every:
        detail = f"k = {genesis.every} is above the policy's {policy.structure.every}"
        yield _unverifiable(detail, "raise structure.every in the policy if you accept it")
    if (
        not isinstance(terms, UnsetType)
        and not isinstance(terms.every, UnsetType)
        and genesis.every > terms.every
    ):
        yield _fail("k is above the agreed one", expected=terms.every, found=genesis.every)
    if not isinstance(terms, UnsetType):
        yield _agreed(terms, policy)
    if policy.require.recipe and genesis.kind != "recipe":
        yield _unverifiable(
            "the task is custom, and the policy requires a recipe", "set require.recipe = false"
        )
    if policy.require.dataset_root and isinstance(genesis.dataset, UnsetType):
        detail = "no data set is committed, and the policy requires one"
        yield _unverifiable(detail, "set require.dataset_root = false")
    steps = genesis.config.get("steps")
    if steps != genesis.steps and (genesis.kind == "recipe" or steps is not None):
        yield _fail("config and genesis disagree on the number of steps", expected=genesis.steps, found=steps)


def _agreed(terms: Terms, policy: Policy) -> Finding:
    """What was fixed before training, for whoever fixed it: nobody else can tell their own nonce from another."""
    fixed = [] if isinstance(terms.every, UnsetType) else [f"k up to {terms.every}"]
    fixed += [] if isinstance(terms.nonce, UnsetType) else [f"the nonce {terms.nonce.hex()}"]
    fixed += [] if isinstance(terms.policy, UnsetType) else [f"the policy {terms.policy.hex()}"]
    detail = f"fixed before training: {', '.join(fixed) or 'nothing'}"
    if terms.policy in (UNSET, policy.digest()):
        return Finding(step=4, name=TERMS, outcome="pass", detail=detail, record=0)
    detail += ", and the policy here is another one"
    remedy = "give the policy that was agreed on with --policy"
    return Finding(step=4, name=TERMS, outcome="unverifiable", detail=detail, record=0, remedy=remedy)


def _unverifiable(detail: str, remedy: str) -> Finding:
    return Finding(step=4, name="structure", outcome="unverifiable", detail=detail, remedy=remedy, record=0)


def _fail(detail: str, *, expected: object, found: object) -> Finding:
    return Finding(
        step=4,
        name="structure",
        outcome="fail",
        detail=detail,
        record=0,
        expected=str(expected),
        found=str(found),
    )


ANCHORED = 64
"""Intervals between two of which the hyperparameters are kept: those of the others are followed from there."""


class _Followed:
    """Hyperparameters before each interval, of which only every ANCHORED-th are kept."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self._intervals = intervals
        self._anchors: list[Values] = []
        self.still: list[int] = []
        values: Values = {}
        for interval in intervals:
            if interval.number % ANCHORED == 0:
                self._anchors.append(values)
            moving = False
            for step in interval.steps:
                values = changed_values(values, step.groups)
                moving = moving or not _all_zero(values)
            if not moving and interval.shown:
                self.still.append(interval.number)
        self._last: tuple[int, Values] = (0, {})

    def before(self, number: int) -> Values:
        """Those before interval ``number``; cheap where the last asked for lies a little before it."""
        anchor = number // ANCHORED
        at, values = self._last
        if not anchor * ANCHORED <= at <= number:
            at, values = anchor * ANCHORED, self._anchors[anchor]
        for interval in self._intervals[at:number]:
            for step in interval.steps:
                values = changed_values(values, step.groups)
        self._last = number, values
        return values


def _all_zero(values: Values) -> bool:
    rates = [group["lr"] for group in values.values() if "lr" in group]
    return bool(rates) and all(rate == 0 for rate in rates)
