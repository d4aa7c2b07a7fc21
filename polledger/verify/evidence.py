"""What lies in a run directory, read once and judged nowhere: the verifier's steps take it from here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import UNSET

from polledger.core.challenge import Challenge
from polledger.core.digest import DIGEST_BYTES, sha256
from polledger.core.lazily import Lazy
from polledger.core.merkle import leaf_hash
from polledger.core.records import Seal
from polledger.core.renewal import Renewal
from polledger.errors import MalformedError, Unavailable
from polledger.store.ledger import LedgerScan, read_ledger
from polledger.store.objects import ObjectStore
from polledger.store.run import RunDirectory
from polledger.store.unpack import Proof
from polledger.verify.openings import Openings, ProofOpenings, RunOpenings


@dataclass(frozen=True, slots=True, kw_only=True)
class SealFile:
    """One file under seals/: ``seal`` is None where ``problem`` says why it cannot be read."""

    number: int
    seal: Seal | None
    problem: str = ""

    @property
    def name(self) -> str:
        """Its number and path inside the run directory."""
        return f"seal {self.number} (seals/{self.number:06d}.msgpack)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFile:
    """One file under renewals/: ``renewal`` is None where ``problem`` says why it cannot be read."""

    number: int
    renewal: Renewal | None
    problem: str = ""

    @property
    def name(self) -> str:
        """Its number and path inside the run directory."""
        return f"renewal {self.number} (renewals/{self.number:06d}.msgpack)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a proof says it answers: the challenge in it, and the digest of that one's file.

    ``sketches``: the object that holds them. ``objects``: names of all that it brings along.
    """

    challenge: Challenge
    digest: bytes
    sketches: bytes | None = None
    objects: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """``records[i]`` is None where ``damage[i]`` says why; ``torn`` describes an unreadable end of the ledger.

    ``presented``: all this comes from a proof, and what it does not open is not at hand. ``leaves``: the leaf hashes of
    all records where only some are shown; ``records[i]`` is None then for those that are not.
    """

    records: Sequence[bytes | None]
    seals: tuple[SealFile, ...]
    objects: ObjectStore
    openings: Openings
    damage: dict[int, str] = field(default_factory=dict)
    torn: str = ""
    renewals: tuple[RenewalFile, ...] = ()
    presented: Presented | None = None
    leaves: bytes = b""

    @property
    def compact(self) -> bool:
        """Whether records are shown only where they are opened."""
        return bool(self.leaves)

    def leaf(self, index: int) -> bytes | None:
        """The leaf hash of record ``index``; None where it cannot be read."""
        if self.leaves:
            return self.leaves[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        record = self.records[index]
        return None if record is None else leaf_hash(sha256(record))


def read_evidence(run: RunDirectory) -> Evidence:
    """Everything the steps need from ``run`` but its objects, which are read when opened.

    Raises Unavailable when the ledger cannot be read. Damage raises nothing, and neither does a ledger that is gone.
    """
    secret, problem = _secret(run)
    openings = RunOpenings(secret=secret, objects=run.objects, problem=problem)
    return _read(run, openings)


def read_presented(proof: Proof) -> Evidence:
    """Everything the steps need from ``proof``. Damage raises nothing."""
    evidence = _read(proof.run, ProofOpenings(proof=proof))
    presented = Presented(
        challenge=proof.challenge,
        digest=proof.header.challenge,
        sketches=None if proof.header.sketches is UNSET else proof.header.sketches,
        objects=proof.objects,
    )
    if proof.header.mode == "full":
        return replace(evidence, presented=presented)
    shown = proof.records
    records = Lazy(shown.get, range(proof.header.size))
    return replace(evidence, presented=presented, records=records, leaves=proof.leaves, torn="")


def _read(run: RunDirectory, openings: Openings) -> Evidence:
    scan = read_ledger(run.ledger_path) if run.ledger_path.exists() else None
    return Evidence(
        records=scan.records if scan else (),
        seals=tuple(_read_seal(run, number) for number in _seal_numbers(run)),
        objects=run.objects,
        openings=openings,
        damage=_damage(scan) if scan else {},
        torn=_torn(scan) if scan else f"{run.ledger_path.name} is missing",
        renewals=_read_renewals(run),
    )


def _damage(scan: LedgerScan) -> dict[int, str]:
    missing = dict.fromkeys(scan.records.missing, "damaged in ledger.log")
    if scan.damage is not None and scan.damage.index in missing:
        missing[scan.damage.index] = scan.damage.reason
    return missing


def _torn(scan: LedgerScan) -> str:
    if scan.damage is None or scan.damage.index < len(scan.records):
        return ""
    return f"ledger.log cannot be read from record {scan.damage.index} on: {scan.damage.reason}"


def _seal_numbers(run: RunDirectory) -> list[int]:
    try:
        return run.seals()
    except Unavailable:
        return []


def _read_seal(run: RunDirectory, number: int) -> SealFile:
    try:
        return SealFile(number=number, seal=run.read_seal(number))
    except (MalformedError, Unavailable) as error:
        return SealFile(number=number, seal=None, problem=str(error))


def _read_renewals(run: RunDirectory) -> tuple[RenewalFile, ...]:
    """A run needs none, so that a folder that cannot be listed would pass for one that is not there."""
    try:
        numbers = run.renewals()
    except Unavailable as error:
        return (RenewalFile(number=0, renewal=None, problem=str(error)),)
    return tuple(_read_renewal(run, number) for number in numbers)


def _read_renewal(run: RunDirectory, number: int) -> RenewalFile:
    try:
        return RenewalFile(number=number, renewal=run.read_renewal(number))
    except (MalformedError, Unavailable) as error:
        return RenewalFile(number=number, renewal=None, problem=str(error))


def _secret(run: RunDirectory) -> tuple[bytes | None, str]:
    try:
        return run.secret(), ""
    except (MalformedError, Unavailable) as error:
        return None, str(error)
