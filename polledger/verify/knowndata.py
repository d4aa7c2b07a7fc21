"""Step 7: are the data those that the verifier means? A policy may list digests of data sets that it knows.

Whoever invents the data decides where training goes, and what came of it replays bit for bit: see docs/soundness.md.
The committed root is salted with the run's secret, so that nobody can compare it with anything; here the whole data
set is read once, unsalted. What its code shows then it must also have shown to training: every opened example is held
against that reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polledger.core.digest import DIGEST_BYTES
from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.order import Order
from polledger.core.replay import OpenedBatch, Replayer
from polledger.core.report import Finding
from polledger.core.seeds import known_entry
from polledger.core.tolerance import Outcome

NAME = "data.known"


@dataclass(slots=True, kw_only=True)
class KnownData:
    """``known``: digests (hex) that the policy lists, at least one."""

    known: Sequence[str]
    findings: list[Finding] = field(default_factory=list)
    _entries: bytes | None = None
    _differed: bool = False

    def read(self, replayer: Replayer, order: Order, batch_size: int) -> None:
        """Read every example of ``order``, once, and compare the digest. Raises ReplayFailed if one cannot be read.

        They are asked for as the steps of the first epoch take them, so that the task's code cannot tell this from
        any other opening.
        """
        if self._entries is not None:
            return
        entries = bytearray(order.size * DIGEST_BYTES)
        steps = [(n, order.step(n, batch_size)) for n in range(-(-order.size // batch_size))]
        for batch in replayer.open_batches(steps):
            for index, example in zip(batch.indices or (), batch.examples or (), strict=True):
                entries[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = known_entry([example])
        self._entries = bytes(entries)
        self._compare(self._entries)

    def _compare(self, entries: bytes) -> None:
        parts = [entries[at : at + DIGEST_BYTES] for at in range(0, len(entries), DIGEST_BYTES)]
        found = tree_root([leaf_hash(part) for part in parts]).hex()
        if found in self.known:
            self._add("pass", f"the data set is the one with the digest {found}, which the policy lists")
        else:
            self._add(
                "unverifiable",
                f"the data set has the digest {found}, which the policy does not list",
                remedy="add it to data.known in the policy if these are the data you mean",
            )

    def check(self, batch: OpenedBatch) -> bool:
        """True when every example of ``batch`` is the one of the whole reading; else a finding says which is not."""
        if self._entries is None or batch.indices is None or batch.examples is None:
            return False
        for index, example in zip(batch.indices, batch.examples, strict=True):
            if known_entry([example]) != self._entries[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
                self._differs(index, batch.step)
                return False
        return True

    def _differs(self, index: int, step: int) -> None:
        # The first one says it all.
        if not self._differed:
            self._differed = True
            detail = f"example {index} of step {step} is not the one that the data set gave as a whole"
            self._add("unverifiable", detail, remedy="read the task's dataset(): it gives different bytes")

    def _add(self, outcome: Outcome, detail: str, *, remedy: str | None = None) -> None:
        self.findings.append(Finding(step=7, name=NAME, outcome=outcome, detail=detail, remedy=remedy))
