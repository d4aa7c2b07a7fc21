"""Authorities with a life of their own, and renewals at a time that a test sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.renewal import Renewer, survey
from polledger.timestamp.stamper import Embedded
from polledger.timestamp.trust import Trust, TrustEntry
from tests.timestamp import forge

YEAR = timedelta(days=365)
SIGNS_LISTS = forge.usage(b"\x01\x06")
"""Key usage of a CA that also signs revocation lists."""


def year(number: int) -> datetime:
    return datetime(number, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Aging:
    """Somebody else's authority whose root and signer end at the same time."""

    name: str
    root: forge.Party
    signer: forge.Party
    policy: str = forge.POLICY

    @property
    def authority(self) -> EmbeddedAuthority:
        leaf, root = (x509.load_der_x509_certificate(one.certificate) for one in (self.signer, self.root))
        return EmbeddedAuthority(key=self.signer.key, leaf=leaf, root=root, policy=self.policy)

    def entry(self, operator: str | None = None, **changes: Any) -> TrustEntry:
        values: dict[str, Any] = {
            "name": self.name,
            "operator": operator or f"{self.name.capitalize()} Ltd",
            "url": "",
            "roots": (self.authority.root,),
            "intermediates": (),
            "policies": (),
            "not_before": None,
            "not_after": None,
        }
        return TrustEntry(**{**values, **changes})


def aging(name: str, start: datetime, end: datetime, curve: ec.EllipticCurve | None = None) -> Aging:
    """The authority ``name``, valid from ``start`` to ``end``; both its keys on ``curve``, P-256 by default."""
    root_key, key = (forge.ec_key(f"{role} {name}", curve) for role in ("root", "tsa"))
    extensions = (forge.basic(ca=True), SIGNS_LISTS)
    root = forge.certify(f"Root of {name}", root_key, None, extensions, not_before=start, not_after=end)
    signer = forge.certify(f"TSA {name}", key, root, forge.TSA, not_before=start, not_after=end)
    return Aging(name=name, root=root, signer=signer)


def trust(*authorities: Aging) -> Trust:
    """A trust file that has ``authorities``, each with an operator of its own."""
    return Trust(entries=tuple(one.entry() for one in authorities))


def renew(run: RunDirectory, *authorities: Aging, now: datetime, revocation: Sequence[bytes] = ()) -> None:
    """A new renewal of ``run`` at ``now`` by ``authorities``."""
    statement, entries = survey(run).statement([run.objects.put(data) for data in revocation])
    renewer = Renewer(run, statement, entries)
    for one in authorities:
        answer = renewer.ask(Embedded(authority=one.authority, name=one.name), now=now)
        assert answer.token is not None, answer.reason
