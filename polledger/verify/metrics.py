"""Step 9: recorded metrics beside those of the replay. PROTOCOL section 10."""

import math
from collections.abc import Sequence
from typing import Final

from msgspec import UnsetType

from polledger.core.encoding import real
from polledger.core.records import Step
from polledger.core.replay import ReplayedStep
from polledger.core.report import Finding

NAME: Final = "metrics"


def metrics_finding(steps: Sequence[Step], replayed: Sequence[ReplayedStep]) -> list[Finding]:
    """What the first of ``steps`` records that its replay does not give, bit for bit; nothing where all is equal."""
    for step, done in zip(steps, replayed, strict=True):
        recorded = {} if isinstance(step.metrics, UnsetType) else step.metrics
        others = [name for name in recorded if real(done.metrics.get(name, math.nan)) != recorded[name]]
        if others:
            detail = (
                f"step {step.step}: the replay gives another {others[0]!r} than recorded, from equal states"
            )
            return [Finding(step=9, name=NAME, outcome="unverifiable", detail=detail, record=step.index)]
    return []
