"""What lies in a run directory, read once and judged nowhere: the verifier's steps take it from here."""

from dataclasses import dataclass, field

from polledger.core.records import Seal
from polledger.errors import MalformedError, Unavailable
from polledger.store.ledger import LedgerScan, read_ledger
from polledger.store.objects import ObjectStore
from polledger.store.run import RunDirectory


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
class Evidence:
    """``records[i]`` is None where ``damage[i]`` says why; ``torn`` describes an unreadable end of the ledger.

    ``secret`` is the run secret, None where private/ is not there: opened data cannot be checked then.
    """

    records: tuple[bytes | None, ...]
    seals: tuple[SealFile, ...]
    objects: ObjectStore
    secret: bytes | None
    damage: dict[int, str] = field(default_factory=dict)
    torn: str = ""


def read_evidence(run: RunDirectory) -> Evidence:
    """Everything the steps need from ``run`` but its objects, which are read when opened.

    Raises Unavailable when there is no ledger to read. Damage raises nothing.
    """
    scan = read_ledger(run.ledger_path)
    return Evidence(
        records=tuple(scan.records),
        seals=tuple(_read_seal(run, number) for number in _seal_numbers(run)),
        objects=run.objects,
        secret=_secret(run),
        damage=_damage(scan),
        torn=_torn(scan),
    )


def _damage(scan: LedgerScan) -> dict[int, str]:
    missing = {index: "damaged in ledger.log" for index, record in enumerate(scan.records) if record is None}
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


def _secret(run: RunDirectory) -> bytes | None:
    try:
        return run.secret()
    except (MalformedError, Unavailable):
        return None
