"""Requests over heads that wait for an answer, on disk: nothing asked for is forgotten. PROTOCOL section 8.

One file per request, written whole before the authority is asked and removed once its token is kept. The files
lie in the run's private directory: a URL may carry credentials.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from polledger.core.encoding import Limits, encode, parse
from polledger.core.head import parse_note
from polledger.errors import MalformedError, Unavailable
from polledger.files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    read_bounded,
    reported,
    sync_directory,
    write_atomic,
)
from polledger.timestamp.address import URL_CHARACTERS
from polledger.timestamp.messages import TimestampRequest, parse_request

FIRST_PAUSE: Final = timedelta(seconds=30)
LONGEST_PAUSE: Final = timedelta(hours=6)
"""Pauses between attempts double from the first to the longest: a restart of an authority takes minutes, an
outage hours, and a public authority is not to be hammered."""

LIMITS: Final = Limits(size=1 << 14, depth=2, count=64)

LAST_MOMENT: Final = 253370764799999
"""The end of the year 9998, in milliseconds since 1970: a datetime holds it, and a pause after it."""

_SUFFIX: Final = ".msgpack"
_Moment = Annotated[int, Meta(ge=0, le=LAST_MOMENT)]


class Pending(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True,
    tag_field="type", tag="pending",
):  # fmt: skip
    """A request over the head of seal ``seal``. Times are milliseconds since 1970 UTC."""

    v: Literal[1] = 1
    seal: Annotated[int, Meta(ge=0)]
    authority: Annotated[str, Meta(min_length=1, max_length=256)]
    url: Annotated[str, Meta(min_length=1, max_length=URL_CHARACTERS)]
    request: Annotated[bytes, Meta(min_length=1, max_length=4096)]
    """The exact TimeStampReq: every attempt sends these bytes, so that any answer fits. A witness gets this note."""
    witness: Annotated[str, Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    """The C2SP vkey of the witness that is asked to cosign; an authority has none."""
    attempts: Annotated[int, Meta(ge=0)] = 0
    """Failed attempts so far."""
    first_failure: _Moment | UnsetType = UNSET
    last_failure: _Moment | UnsetType = UNSET
    reason: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    """Why the last attempt failed, in words."""

    def wanted(self) -> TimestampRequest:
        """Imprint, nonce and policy of the request. Raises MalformedError if it is none."""
        return parse_request(self.request)

    def failed(self, reason: str, *, now: datetime) -> "Pending":
        """This request after one more failed attempt at ``now``."""
        moment = max(0, round(now.timestamp() * 1000))
        first = moment if self.first_failure is UNSET else self.first_failure
        return msgspec.structs.replace(
            self, attempts=self.attempts + 1, first_failure=first, last_failure=moment, reason=reason[:512]
        )

    def due(self) -> datetime:
        """The earliest time for the next attempt."""
        if self.last_failure is UNSET:
            return datetime.fromtimestamp(0, UTC)
        # Bounded before shifting: attempts may have grown over months, and a file may say none.
        pause = min(FIRST_PAUSE * (1 << min(max(self.attempts - 1, 0), 16)), LONGEST_PAUSE)
        return datetime.fromtimestamp(self.last_failure / 1000, UTC) + pause


class RequestQueue:
    """The requests that wait in ``directory``, which is made with mode 0700 when the first one comes.

    One process at a time uses it, in any of its threads: whoever holds the run's lock. Methods raise
    Unavailable when the directory cannot be read or written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, pending: Pending) -> None:
        """Add a request, or replace what is kept of it; durable on return."""
        try:
            if not self._directory.is_dir():
                with reported(self._directory, "make"):
                    self._directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
                sync_directory(self._directory.parent)
            write_atomic(self._path(pending), [encode(pending)], mode=PRIVATE_FILE)
        except Unavailable as error:
            raise Unavailable(f"cannot queue a timestamp request: {error}") from None

    def holds(self, pending: Pending) -> bool:
        """Whether the request still waits."""
        return self._path(pending).exists()

    def remove(self, pending: Pending) -> None:
        """Forget a request whose token is kept; one that is not there is no error."""
        path = self._path(pending)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot update the queue: {path}: {error.strerror}") from None

    def pending(self) -> list[Pending]:
        """The requests that wait, by seal. Files that cannot be read are left where they are: :meth:`damaged`."""
        return [found for _, found in self._entries() if found is not None]

    def damaged(self) -> list[Path]:
        """Files in the queue that hold no valid request; a person has to look at them."""
        return [path for path, found in self._entries() if found is None]

    def _entries(self) -> list[tuple[Path, Pending | None]]:
        try:
            if not self._directory.exists():
                return []
            paths = sorted(path for path in self._directory.iterdir() if path.suffix == _SUFFIX)
        except OSError as error:
            raise Unavailable(f"cannot read the queue: {error.filename}: {error.strerror}") from None
        return [entry for path in paths for entry in _entry(path)]

    def _path(self, pending: Pending) -> Path:
        identity = hashlib.sha256(encode([pending.authority, pending.url, pending.request])).hexdigest()[:24]
        return self._directory / f"{pending.seal:06d}-{identity}{_SUFFIX}"


def _entry(path: Path) -> Iterator[tuple[Path, Pending | None]]:
    """The file and what it holds; nothing if another thread has just removed it, because its token is kept."""
    try:
        data = bytes(read_bounded(path, limit=LIMITS.size))
    except FileNotFoundError:
        return
    except Unavailable:
        # Whatever lies there: a copy of a run may come with a pipe or a link in its queue.
        yield path, None
        return
    yield path, _parse(data)


def _parse(data: bytes) -> Pending | None:
    try:
        found: Pending = parse(data, Pending, limits=LIMITS)
        _check_request(found)
    except MalformedError:
        return None
    return found


def _check_request(pending: Pending) -> None:
    if pending.witness is UNSET:
        pending.wanted()
    else:
        parse_note(pending.request)
