"""Step 7 for tasks that make their own batches: what is made again has to be what was recorded.

PROTOCOL section 10, step 7. A batch that differs contradicts a record only if nothing of the verifier's explains it:
its inputs, its machine, chance, or a damaged run secret.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polledger.core.replay import OpenedBatch, Replayer, ReplayFailed
from polledger.errors import EnvironmentMismatch, MalformedError, Unavailable
from polledger.verify.data import DataChecks
from polledger.verify.lineage import Interval

REPLAY_ERRORS = (ReplayFailed, EnvironmentMismatch, MalformedError, Unavailable)
"""What stands for "could not be replayed here": never more than unverifiable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomBatches:
    """Checks the batches of a run's ``intervals``. ``again`` gives a process that has not made these before."""

    intervals: Sequence[Interval]
    data: DataChecks
    inputs_declared: bool
    again: Callable[[Interval], Replayer]

    def check(self, interval: Interval, batches: Sequence[OpenedBatch], is_other_class: bool) -> bool:
        """True when every batch the task made itself is the recorded one; the first that is not becomes a finding."""
        for step, opened in zip(interval.steps, batches, strict=True):
            if opened.batch is None or self.data.batch_matches(step, opened.batch):
                continue
            if self.inputs_declared:
                why = "the task reads inputs: is --input right?"
            elif is_other_class:
                why = "this machine is of another class"
            else:
                why = self._doubt(interval, opened)
            self.data.report_batch(step, interval.number, confirmed=not why, why=why)
            return False
        return True

    def _doubt(self, interval: Interval, opened: OpenedBatch) -> str:
        """Why a batch that differs contradicts nothing; empty where it does."""
        try:
            other = list(self.again(interval).open_batches([(opened.step, None)]))
            if [batch.batch for batch in other] != [opened.batch]:
                return "two processes make different batches"
            if not self._secret_proven(interval):
                return "no other batch matches either: the run secret may be damaged"
        except REPLAY_ERRORS as error:
            return str(error)
        return ""

    def _secret_proven(self, interval: Interval) -> bool:
        """True once any batch of the run matches: the secret lies under no signature, and a damaged one fits none."""
        replayer = self.again(interval)
        for other in (interval, self.intervals[0], self.intervals[-1]):
            made = replayer.open_batches([(step.step, None) for step in other.steps])
            for step, batch in zip(other.steps, made, strict=True):
                if self.data.secret_proven or self.data.batch_matches(step, batch.batch or b""):
                    return True
        return self.data.secret_proven
