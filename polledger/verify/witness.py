"""Step 3: which heads the witnesses of the verifier's trust file cosigned. PROTOCOL sections 1, 7 and 10.

A cosignature says that the head extends everything the witness signed before of this run: two secret forks cannot
both have it. It says nothing about what is in the records, and its time is the witness's clock, not a timestamp:
no assurance of time follows from it. Nothing here ever fails the prover; inconsistent heads do, in step 2.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec import UNSET

from polledger.core.cosignature import Cosignature, parse_cosignature, verify_cosignature
from polledger.core.moment import utc_text
from polledger.core.report import Finding, counted
from polledger.core.timesummary import WitnessSummary
from polledger.errors import MalformedError
from polledger.timestamp.trust import Trust, WitnessEntry, operator_key
from polledger.verify.heads import FINDINGS_KEPT, Heads, SealedHead
from polledger.verify.policy import Policy

WITNESSES = "time.witnesses"
REQUIRED = "time.witnesses.required"
COSIGNATURES = "time.cosignatures"

UNKNOWN_NAMED = 5
"""How many names of unknown witnesses a finding lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A cosignature that holds: ``witness`` of the trust file over the head of ``seal``, at the time it states."""

    witness: WitnessEntry
    seal: int
    size: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """What the witnesses add to step 3."""

    findings: tuple[Finding, ...]
    summaries: tuple[WitnessSummary, ...]


def step_witnesses(heads: Heads, *, trust: Trust | None, policy: Policy, now: datetime) -> Witnessed:
    """Every cosignature stored with a head that the records match; ``now`` is the verifier's clock (UTC-aware).

    ``pass`` of ``time.witnesses``: at least as many operators as the policy wants, and at least one, cosigned the last
    head. A stored line that is malformed, from the future, or names the key of a known witness and does not hold,
    is ``time.cosignatures``: unverifiable. Lines of others are counted and ignored.
    """
    reader = _Reader(
        witnesses=trust.witnesses if trust else (),
        latest=now + timedelta(seconds=policy.time.skew),
        doubts=[],
        unknown=set(),
    )
    matching = [item for item in heads.heads if item.matches]
    seen = [sighting for item in matching for sighting in reader.read(item)]
    newest = heads.newest.seal.number if heads.newest is not None else -1
    summaries = tuple(_summarise(witness, seen, newest) for witness in reader.witnesses)
    final = [sighting for sighting in seen if sighting.seal == newest]
    verdict = _verdict(reader, final, size=heads.sealed, wanted=policy.time.witnesses)
    return Witnessed(findings=(*_shortened(reader.doubts), *verdict), summaries=summaries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the cosignatures of one seal after the other, collecting what is wrong with them and unknown names."""

    witnesses: Sequence[WitnessEntry]
    latest: datetime
    doubts: list[str]
    unknown: set[str]

    def read(self, sealed: SealedHead) -> Iterator[Sighting]:
        seal = sealed.seal.seal
        if seal is None or seal.cosignatures is UNSET:
            return
        text = sealed.head.text()
        for line in seal.cosignatures:
            try:
                cosignature = parse_cosignature(line)
                witness = self._witness(cosignature, text)
            except MalformedError as error:
                self.doubts.append(f"{sealed.seal.name}: {error}")
                continue
            if witness is not None:
                yield Sighting(
                    witness=witness,
                    seal=sealed.seal.number,
                    size=sealed.head.size,
                    time=cosignature.time,
                )

    def _witness(self, cosignature: Cosignature, text: bytes) -> WitnessEntry | None:
        """Whose cosignature it is, once it holds; None for a witness that the trust file does not name."""
        known = next((entry for entry in self.witnesses if cosignature.is_by(entry.key)), None)
        if known is None:
            self.unknown.add(cosignature.name)
            return None
        verify_cosignature(cosignature, witness=known.key, text=text)
        if cosignature.time > self.latest:
            raise MalformedError(
                f"the cosignature of {known.name} is from {utc_text(cosignature.time)}, the future"
            )
        return known


def _shortened(doubts: Sequence[str]) -> Iterator[Finding]:
    """A finding for each, as far as anybody would read them."""
    said = list(doubts[:FINDINGS_KEPT])
    if len(doubts) > FINDINGS_KEPT:
        said.append(f"{len(doubts) - FINDINGS_KEPT} more cosignatures do not hold or cannot be read")
    remedy = "restore the seal from a copy, or ask the witness again with timestamp retry"
    for detail in said:
        yield Finding(step=3, name=COSIGNATURES, outcome="unverifiable", detail=detail, remedy=remedy)


def _summarise(witness: WitnessEntry, seen: Iterable[Sighting], newest: int) -> WitnessSummary:
    own = [sighting for sighting in seen if sighting.witness is witness]
    times = [sighting.time for sighting in own]
    return WitnessSummary(
        name=witness.name,
        operator=witness.operator,
        heads=len({sighting.seal for sighting in own}),
        size=max((sighting.size for sighting in own), default=0),
        first=utc_text(min(times)) if times else None,
        last=utc_text(max(times)) if times else None,
        final=any(sighting.seal == newest for sighting in own),
    )


def _verdict(reader: _Reader, final: Sequence[Sighting], *, size: int, wanted: int) -> Iterator[Finding]:
    """One finding about the last head, which the cosignatures ``final`` are over; none where nobody asked."""
    if not reader.witnesses and not reader.unknown and not wanted:
        return
    operators = {operator_key(sighting.witness.operator) for sighting in final}
    enough = len(operators) >= max(1, wanted)
    names = sorted({sighting.witness.name for sighting in final})
    known = f"{len(names)} of {len(reader.witnesses)} witnesses of the trust file cosigned the last head"
    said = [known if reader.witnesses else "no witness is named in a trust file"]
    if final:
        said.append(f"over {counted(size, 'record')}: {', '.join(names)}, {_span(final)}")
    if wanted:
        said.append(f"the policy wants {counted(wanted, 'operator')}")
    if reader.unknown:
        said.append(_unknown(reader.unknown))
    yield Finding(
        step=3,
        name=WITNESSES if enough or not wanted else REQUIRED,
        outcome="pass" if enough else "unverifiable",
        detail="; ".join(said),
        remedy=None if enough else _remedy(reader),
    )


def _span(final: Sequence[Sighting]) -> str:
    first, last = (utc_text(choose(sighting.time for sighting in final)) for choose in (min, max))
    return f"at {first} by its clock" if len(final) == 1 else f"from {first} to {last} by their clocks"


def _unknown(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:UNKNOWN_NAMED])
    more = f" and {len(names) - UNKNOWN_NAMED} more" if len(names) > UNKNOWN_NAMED else ""
    return f"cosignatures of {shown}{more}, unknown here, are ignored"


def _remedy(reader: _Reader) -> str:
    if not reader.witnesses:
        return "name the witnesses you know as [[witness]] in the file given with --trust"
    return "have the prover ask them with timestamp retry"
