"""Hyperparameters that a step ran with, against those that the records carry. PROTOCOL section 10, step 4."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.records import Step
from polledger.core.replay import ReplayedStep
from polledger.core.report import Finding
from polledger.verify.lineage import Values, changed_values
from polledger.verify.schedule import same_value


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherStep:
    """A step that ran with other hyperparameters than recorded.

    ``stated``: the step's own record says otherwise. Without it the replay lacks a value that an earlier record
    stated: a record can say what a value becomes, not that it is gone, so an honest run may do that.
    """

    record: int
    detail: str
    stated: bool

    def finding(self, interval: int, *, confirmed: bool, remedy: str) -> Finding:
        """``fail`` where the replay contradicts the records; ``confirmed``: it is owed to be exact, and repeats."""
        failed = confirmed and self.stated
        return Finding(
            step=4,
            name="hyperparameters",
            outcome="fail" if failed else "unverifiable",
            detail=self.detail,
            record=self.record,
            interval=interval,
            remedy=None if failed else remedy,
        )


def differing_steps(
    before: Values, steps: Sequence[Step], replayed: Sequence[ReplayedStep]
) -> list[OtherStep]:
    """The steps of an interval that ran with other values than recorded; ``before``: those in force ahead of it."""
    values, found = before, []
    for step, done in zip(steps, replayed, strict=True):
        values = changed_values(values, step.groups)
        stated = changed_values({}, step.groups)
        ours = changed_values({}, list(done.groups))
        others = sorted(_others(values, ours, stated))
        if others:
            unstated, name = others[0]
            detail = f"step {step.step} ran with another {name} than recorded"
            found.append(OtherStep(record=step.index, detail=detail, stated=not unstated))
    return found


def _others(recorded: Values, replayed: Values, stated: Values) -> Iterator[tuple[bool, str]]:
    """Hyperparameters in which the two differ: (the replay merely lacks what an earlier record states, name)."""
    for key in recorded.keys() | replayed.keys():
        ours, theirs, own = replayed.get(key, {}), recorded.get(key, {}), stated.get(key, {})
        for name in ours.keys() | theirs.keys():
            if name in ours and name in theirs and _same_number(ours[name], theirs[name]):
                continue
            yield name not in ours and name not in own, f"{name} of group {key[1]} of {key[0]}"


def _same_number(a: float | int | bool, b: float | int | bool) -> bool:
    # What was recorded as NaN and runs as NaN is no difference; whether NaN is acceptable is step 4's to say.
    return same_value(a, b) or (a != a and b != b)
