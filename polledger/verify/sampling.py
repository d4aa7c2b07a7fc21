"""Step 6: which intervals are opened, and the odds that come with it. PROTOCOL section 10, step 6.

The nonce is this verifier's own, made after the head existed; nothing the prover committed about its own movement
has a say. First and last interval, those that move furthest and those that screening flagged are always opened and
count for no odds.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.opened import Odds, Sample
from polledger.core.report import Finding
from polledger.core.sampling import detection_odds, draw, sample_seed, sample_size
from polledger.errors import UsageError
from polledger.verify.policy import Policy

SHARES: tuple[tuple[str, float], ...] = (("one", 0.0), ("1 %", 0.01), ("10 %", 0.10), ("50 %", 0.50))
"""Shares of bogus intervals for which odds are printed; "one" is a single interval."""

_WANTED = re.compile(r"(\d{1,9})|(\d{1,2}(?:\.\d{1,6})?)\s*%")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """How many intervals to draw: ``count``, or as many as ``odds`` against the policy's bogus share need.

    Neither set: the policy's odds, capped by the policy's replay seconds.
    """

    count: int | None = None
    odds: float | None = None

    @property
    def capped(self) -> bool:
        """True when the replay budget may reduce the sample."""
        return self.count is None and self.odds is None


def parse_sample(text: str | None) -> SampleRequest:
    """``--sample``: a number of intervals, or odds as a percentage. Raises UsageError for anything else."""
    if text is None:
        return SampleRequest()
    match = _WANTED.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--sample is a number of intervals or odds like 99%, not {text!r}")
    if match[1]:
        if int(match[1]) < 1:
            raise UsageError(f"--sample is at least 1, not {match[1]}")
        return SampleRequest(count=int(match[1]))
    odds = float(match[2]) / 100
    if not 0 < odds < 1:
        raise UsageError("--sample odds lie between 0 % and 100 %")
    return SampleRequest(odds=odds)


def wanted_count(request: SampleRequest, *, total: int, policy: Policy) -> int:
    """How many intervals ``request`` draws of ``total``, before any cap; at most ``total``."""
    if request.count is not None:
        return min(request.count, total)
    odds = request.odds if request.odds is not None else policy.sample.odds
    return min(total, sample_size(total=total, bogus=bogus_count(policy.sample.bogus, total), odds=odds))


def capped_count(count: int, *, seconds: float, limit: float) -> int:
    """``count`` where its replay, estimated at ``seconds``, takes no longer than ``limit``; else fewer, at least 1.

    To be asked again with the estimate for the smaller count until it stays.
    """
    if count <= 1 or seconds <= limit:
        return count
    return max(1, min(count - 1, math.floor(count * limit / seconds)))


def bogus_count(share: float, total: int) -> int:
    """How many of ``total`` intervals a ``share`` is: rounded up, at least one."""
    return min(total, max(1, math.ceil(share * total - 1e-9)))


def step_sampling(
    *,
    nonce: bytes,
    head: bytes,
    policy: Policy,
    total: int,
    count: int,
    wanted: int,
    top: Sequence[int] = (),
    flagged: Sequence[int] = (),
) -> tuple[Sample, tuple[Odds, ...], list[Finding]]:
    """Step 6: draw ``count`` of ``total`` intervals; first, last, ``top`` and ``flagged`` are added.

    ``head``: digest of the newest head. ``wanted`` is what was asked for before the replay budget cut it.
    """
    if total == 0:
        detail = "no interval is authentic: there is nothing to draw from"
        finding = Finding(step=6, name="sampling", outcome="unverifiable", detail=detail)
        return Sample(nonce=nonce, total=0, drawn=0, intervals=()), (), [finding]
    seed = sample_seed(nonce=nonce, head=head, policy=policy.digest())
    drawn = draw(seed, total=total, count=count)
    sample = Sample(
        nonce=nonce,
        total=total,
        drawn=len(drawn),
        intervals=tuple(sorted({*drawn, 0, total - 1, *top, *flagged})),
        chosen=tuple(sorted(drawn)),
        top=tuple(top),
        flagged=tuple(flagged),
    )
    cut = f", cut from {wanted} to fit {policy.sample.seconds:g} s of replay" if len(drawn) < wanted else ""
    added = len(sample.intervals) - len(drawn)
    detail = (
        f"{len(drawn)} of {total} intervals drawn with this verifier's nonce{cut}; {added} added: first and last, "
        f"the {len(sample.top)} that move furthest, {len(sample.flagged)} flagged"
    )
    return (
        sample,
        tuple(odds_for(total, len(drawn))),
        [Finding(step=6, name="sampling", outcome="pass", detail=detail)],
    )


def odds_for(total: int, count: int) -> Iterator[Odds]:
    """Chance to draw a bogus interval, for each of SHARES."""
    for label, share in SHARES:
        bogus = bogus_count(share, total)
        yield Odds(
            label=label,
            bogus=bogus,
            detection=detection_odds(total=total, bogus=bogus, count=count),
            needed=sample_size(total=total, bogus=bogus, odds=0.99),
        )
