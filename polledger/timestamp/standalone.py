"""The authority of ``polledger tsa serve``: its directory, its certificate, and a clock that does not run back.

It is an authority of its own, never the embedded one: another key, name and policy, and neither opens the other's
directory. What its time is worth is what its operator's clock and word are worth.
docs/decisions/0025.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from polledger.core.moment import utc_milliseconds
from polledger.errors import Unavailable, UsageError
from polledger.files import PRIVATE_FILE, TEMPORARY, read_bounded, write_atomic
from polledger.timestamp import der
from polledger.timestamp.authority import ACCURACY_SECONDS, LocalAuthority
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.identity import (
    FILE_NAME,
    ROOT_NAME,
    Damaged,
    Identity,
    SigningKey,
    make_identity,
    open_identity,
)
from polledger.timestamp.messages import TIME_NOT_AVAILABLE, RequestRefused

POLICY: Final = "2.25.30670600244104377203215411542199727390"
"""Policy of these authorities unless another is chosen, under the arc of a random UUID: the operator's clock."""

VALID_DAYS: Final = 3650
"""Life of key and root. Long, since every verifier must be told of a new root."""

WARNING: Final = timedelta(days=90)
"""How long before the end of the certificate each start says so."""

NAME_CHARACTERS: Final = 64
"""Longest organisation name in a certificate (RFC 5280, ub-organization-name)."""

RSA_BITS: Final = 3072
"""As strong as P-256 (NIST SP 800-57)."""

STATE_NAME: Final = "latest"
STATE_BYTES: Final = 64
KEEP_EVERY: Final = timedelta(seconds=60)
"""How much of the clock's progress a crash may forget."""

_CLOCK_BACK: Final = timedelta(seconds=ACCURACY_SECONDS)
"""How far a clock may be set back: as far as tokens claim to be accurate. By more, some token was wrong or will be."""

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)

_COMMON_NAME: Final = "polledger time-stamping"


class SteadyClock:
    """A clock that is believed as long as it does not run back, across restarts too.

    The latest time it told is kept in ``path``, every minute and by :meth:`keep`.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._latest = self._kept = _read_state(path)

    def read(self) -> datetime:
        """The time now, UTC.

        Raises RequestRefused (timeNotAvailable) if the clock was set back since it was last read, Unavailable if its
        progress cannot be kept on disk.
        """
        with self._lock:
            now = self._clock()
            if now < self._latest - _CLOCK_BACK:
                raise RequestRefused(self._complaint(), TIME_NOT_AVAILABLE)
            self._latest = max(now, self._latest)
            if self._latest - self._kept >= KEEP_EVERY:
                self._keep()
            return now

    def now(self) -> datetime:
        """The time now, UTC, believed or not."""
        return self._clock()

    def keep(self) -> None:
        """Put the latest time on disk. Raises Unavailable."""
        with self._lock:
            if self._latest > self._kept:
                self._keep()

    def trouble(self) -> str | None:
        """What is wrong with the clock right now, and what to do about it."""
        if self._clock() >= self._latest - _CLOCK_BACK:
            return None
        return f"{self._complaint()}; set the clock, or, if that time was wrong, stop and remove {self._path}"

    def _complaint(self) -> str:
        return f"the clock was set back: it has told {utc_milliseconds(self._latest)} before"

    def _keep(self) -> None:
        write_atomic(self._path, [f"{utc_milliseconds(self._latest)}\n".encode("ascii")], mode=PRIVATE_FILE)
        self._kept = self._latest


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneAuthority:
    """An authority with the clock it goes by."""

    local: LocalAuthority
    clock: SteadyClock
    root_path: Path

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        clock: Callable[[], datetime],
        policy: str = POLICY,
        name: str | None = None,
        default_name: str,
        use_rsa: bool = False,
    ) -> Self:
        """The authority kept in ``directory``, made on first use under ``name`` or else ``default_name``.

        Raises UsageError for a policy, name or key that do not fit, a directory that is another's, and a key file
        that others may read; Unavailable for what cannot be read, is damaged or has expired.
        """
        _check(policy, name)
        now = clock()
        try:
            found = open_identity(
                directory,
                lambda: _first(directory, name or default_name, now, use_rsa=use_rsa),
                private=True,
            )
        except OSError as error:
            raise Unavailable(f"authority: {error.filename or directory}: {error.strerror}") from None
        except Damaged as error:
            raise Unavailable(f"authority: {error} is damaged; restore it from a copy") from None
        authority = cls(
            local=LocalAuthority(key=found.key, leaf=found.leaf, root=found.root, policy=policy),
            clock=SteadyClock(directory / STATE_NAME, clock),
            root_path=directory / ROOT_NAME,
        )
        authority._check_fits(directory, name, use_rsa=use_rsa)
        return authority

    @property
    def name(self) -> str:
        """Who runs it, as its certificate says."""
        return _organisation(self.local.leaf)

    def issue(self, request: bytes) -> bytes:
        """The token for ``request`` at the time that the clock tells now.

        Raises as :meth:`LocalAuthority.issue` and :meth:`SteadyClock.read` do.
        """
        return self.local.issue(request, now=self.clock.read())

    def remaining(self, now: datetime) -> timedelta:
        """How long the certificate is still valid."""
        return self.local.leaf.not_valid_after_utc - now

    def _check_fits(self, directory: Path, name: str | None, *, use_rsa: bool) -> None:
        leaf = self.local.leaf
        if not _common_name(leaf).startswith(_COMMON_NAME):
            raise UsageError(f"{directory / FILE_NAME} is another kind of authority; give another --dir")
        if name not in (None, self.name):
            raise UsageError(f"the authority in {directory} is {self.name!r}, not {name!r}; leave out --name")
        if use_rsa and not isinstance(self.local.key, rsa.RSAPrivateKey):
            raise UsageError(f"the authority in {directory} has a P-256 key; --rsa needs a new --dir")
        if self.remaining(self.clock.now()) <= timedelta():
            raise Unavailable(
                f"the certificate in {directory} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; start with a new --dir, "
                "and let verifiers add its root beside the old one"
            )


def _check(policy: str, name: str | None) -> None:
    der.oid(policy)
    if policy == EMBEDDED_POLICY:
        raise UsageError("--policy is that of the embedded authority, whose tokens never count")
    if name is not None and not (0 < len(name) <= NAME_CHARACTERS and name.isprintable()):
        raise UsageError(f"--name has 1 to {NAME_CHARACTERS} printable characters")


def _first(directory: Path, name: str, now: datetime, *, use_rsa: bool) -> Identity:
    """A new identity for ``directory``, which must hold nothing else. ``now`` begins its validity."""
    # What a first start that was killed leaves is no other's.
    others = [
        path.name
        for path in directory.iterdir()
        if path.name != ROOT_NAME and not path.name.startswith(TEMPORARY)
    ]
    if others:
        raise UsageError(f"{directory} holds other files ({min(others)}); give --dir a directory of its own")
    key: SigningKey = ec.generate_private_key(ec.SECP256R1())
    if use_rsa:
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    # Two authorities of one name must not look like one: verifiers tell signers apart by these names.
    number = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:16]
    since = now.replace(microsecond=0)
    return make_identity(
        key,
        leaf=_subject(name, f"{_COMMON_NAME} {number}"),
        root=_subject(name, f"{_COMMON_NAME} root {number}"),
        valid=(since, since + timedelta(days=VALID_DAYS)),
    )


def _subject(organisation: str, common: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])  # fmt: skip


def _attribute(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> str:
    return "".join(str(found.value) for found in certificate.subject.get_attributes_for_oid(kind))


def _organisation(certificate: x509.Certificate) -> str:
    return _attribute(certificate, NameOID.ORGANIZATION_NAME)


def _common_name(certificate: x509.Certificate) -> str:
    return _attribute(certificate, NameOID.COMMON_NAME)


def _read_state(path: Path) -> datetime:
    """The latest time that was told; long ago where none is kept. Raises Unavailable."""
    try:
        data = bytes(read_bounded(path, limit=STATE_BYTES))
        moment = datetime.fromisoformat(data.decode("ascii").strip())
    except FileNotFoundError:
        return _LONG_AGO
    except ValueError:
        moment = _LONG_AGO.replace(tzinfo=None)
    if moment.tzinfo is None:
        raise Unavailable(f"{path} holds no time; remove it if the clock is right")
    return moment
