"""The run directory: one folder that holds a run's ledger, seals and payloads. PROTOCOL section 2."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self, TypeAlias

from msgspec import UNSET

from polledger.core.encoding import SEAL_LIMITS, encode
from polledger.core.records import Seal, TokenRef, parse_seal
from polledger.core.renewal import Renewal, parse_renewal
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    TEMPORARY,
    make_directory,
    read_bounded,
    remove_temporaries,
    reported,
    sync_directory,
    write_atomic,
    write_once,
)
from polledger.store.objects import ObjectStore

SECRET_BYTES = 32

Hints: TypeAlias = dict[str, str | dict[str, str]]
"""What may help a person and changes no verdict: strings, and tables of strings."""

_HINTS_BYTES = 1 << 16
_LEDGER, _SEALS, _OBJECTS, _PRIVATE, _HINTS = "ledger.log", "seals", "objects", "private", "run.toml"
_RENEWALS = "renewals"
_NUMBERED = re.compile(r"(\d{6}|[1-9]\d{6,14})\.msgpack", re.ASCII)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class RunDirectory:
    """A run directory that exists. Made by :meth:`create` or :meth:`open`, never directly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = ObjectStore(path / _OBJECTS)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the directory ``path`` for a new run, with an empty ledger and a fresh run secret.

        What a creation that was interrupted before the first record left there is taken over. Raises UsageError
        if ``path`` holds a run or anything else, Unavailable if it cannot be written.
        """
        _check_free(path)
        with reported(path, "make"):
            path.mkdir(parents=True, exist_ok=True)
        make_directory(path / _PRIVATE, mode=PRIVATE_DIRECTORY)
        make_directory(path / _SEALS)
        make_directory(path / _OBJECTS)
        secret = path / _PRIVATE / "secret"
        # Another process may begin here at the same time: whoever is first makes the secret of both.
        with contextlib.suppress(FileExistsError):
            write_once(secret, secrets.token_bytes(SECRET_BYTES), mode=PRIVATE_FILE)
        # Last, because a directory with a ledger is a run; not anew, because another process may hold it open.
        if not (path / _LEDGER).exists():
            write_atomic(path / _LEDGER, [])
        sync_directory(path.absolute().parent)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run at ``path``. Raises UsageError if there is none, Unavailable if it cannot be looked at."""
        with reported(path, "open"):
            if not path.exists():
                raise UsageError(f"{path} does not exist: give the directory of a run")
            if not path.is_dir():
                raise UsageError(f"{path} is a file, not a run directory")
            # A run whose ledger was lost is one still: what is missing is for its readers to say.
            if not (path / _LEDGER).exists() and not (path / _SEALS).is_dir():
                raise UsageError(f"{path} is not a run directory: it has no {_LEDGER}")
        return cls(path)

    @property
    def ledger_path(self) -> Path:
        """The ledger, for :mod:`polledger.store.ledger`."""
        return self.path / _LEDGER

    @property
    def queue_path(self) -> Path:
        """Where timestamp requests that were not answered wait."""
        return self.path / _PRIVATE / "queue"

    @property
    def seal_times_path(self) -> Path:
        """Where the prover notes when seals were made."""
        return self.path / _PRIVATE / "sealed"

    @property
    def witness_queue_path(self) -> Path:
        """Where heads wait that a witness has not cosigned."""
        return self.path / _PRIVATE / "witness-queue"

    @property
    def answers_path(self) -> Path:
        """Where the prover keeps the sketches that it answered, by SHA-256."""
        return self.path / _PRIVATE / "answers"

    def seals(self) -> list[int]:
        """The indices of all seals that are there, ascending; a gap means that one was lost."""
        return _numbers(self.path / _SEALS)

    def seal_path(self, index: int) -> Path:
        """The file of seal ``index``, whether or not it is there."""
        return self.path / _SEALS / f"{index:06d}.msgpack"

    def read_seal(self, index: int) -> Seal:
        """Seal ``index``. Raises Unavailable if it cannot be read, MalformedError if it is not that seal.

        Not checked: the note's signature and the tokens.
        """
        path = self.seal_path(index)
        try:
            data = read_bounded(path, limit=SEAL_LIMITS.size)
        except FileNotFoundError:
            raise Unavailable(f"seal {index} is missing: {path}") from None
        try:
            seal = parse_seal(bytes(data))
        except MalformedError as error:
            raise MalformedError(f"seal {index} ({path}) cannot be read: {error}") from error
        if seal.index != index:
            raise MalformedError(f"{path} holds seal {seal.index}, not {index}")
        return seal

    def write_seal(self, seal: Seal) -> None:
        """Write ``seal`` to its file in one step; it has reached the disk on return.

        The head of a seal is never rewritten, its tokens and cosignatures are never removed: raises UsageError for
        that, and Unavailable if it cannot be written.
        """
        path = self.seal_path(seal.index)
        if path.exists():
            old = self.read_seal(seal.index)
            if old.note != seal.note:
                raise UsageError(f"seal {old.index} has another head already: a head is never rewritten")
            _check_tokens(f"seal {old.index}", old.tokens, seal.tokens)
            _check_cosignatures(old, seal)
        make_directory(path.parent)
        write_atomic(path, [encode(seal)])

    def renewals(self) -> list[int]:
        """The indices of all renewals that are there, ascending; a gap means that one was lost."""
        directory = self.path / _RENEWALS
        return _numbers(directory) if directory.exists() else []

    def renewal_path(self, index: int) -> Path:
        """The file of renewal ``index``, whether or not it is there."""
        return self.path / _RENEWALS / f"{index:06d}.msgpack"

    def read_renewal(self, index: int) -> Renewal:
        """Renewal ``index``. Raises Unavailable if it cannot be read, MalformedError if it is not that renewal.

        Not checked: the statement and the tokens.
        """
        path = self.renewal_path(index)
        try:
            data = read_bounded(path, limit=SEAL_LIMITS.size)
        except FileNotFoundError:
            raise Unavailable(f"renewal {index} is missing: {path}") from None
        try:
            renewal = parse_renewal(bytes(data))
        except MalformedError as error:
            raise MalformedError(f"renewal {index} ({path}) cannot be read: {error}") from error
        if renewal.index != index:
            raise MalformedError(f"{path} holds renewal {renewal.index}, not {index}")
        return renewal

    def write_renewal(self, renewal: Renewal) -> None:
        """Write ``renewal`` to its file in one step; it has reached the disk on return.

        What was stamped is never rewritten and tokens never removed: raises UsageError for either, and
        Unavailable if it cannot be written.
        """
        path = self.renewal_path(renewal.index)
        if path.exists():
            old = self.read_renewal(renewal.index)
            if old.statement != renewal.statement:
                raise UsageError(f"renewal {old.index} covers something else already: it is never rewritten")
            _check_tokens(f"renewal {old.index}", old.tokens, renewal.tokens)
        if not path.parent.exists():
            make_directory(path.parent)
            sync_directory(self.path)
        write_atomic(path, [encode(renewal)])

    def secret(self) -> bytes:
        """The 32 bytes that salt examples and batches. Raises Unavailable in a copy without ``private/``."""
        path = self.path / _PRIVATE / "secret"
        try:
            data = bytes(read_bounded(path, limit=SECRET_BYTES))
        except FileNotFoundError:
            raise Unavailable(
                f"{path} is missing: only the prover's own directory has the run secret"
            ) from None
        if len(data) != SECRET_BYTES:
            raise Unavailable(f"{path} is damaged: it has {len(data)} bytes, not {SECRET_BYTES}")
        return data

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing: one process at a time. Clears away what interrupted writes left behind.

        The lock ends with the process, however it ends. Raises Unavailable if another process holds it.
        """
        make_directory(self.path / _PRIVATE, mode=PRIVATE_DIRECTORY)
        path = self.path / _PRIVATE / "lock"
        with self._locked(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW):
            yield

    @contextlib.contextmanager
    def lock_evidence(self) -> Iterator[None]:
        """Like :meth:`lock`, also in a copy that came without ``private/``, which is not made."""
        if (self.path / _PRIVATE).exists():
            with self.lock():
                yield
            return
        with self._locked(self.path, os.O_RDONLY | os.O_DIRECTORY):
            yield

    @contextlib.contextmanager
    def _locked(self, path: Path, flags: int) -> Iterator[None]:
        with reported(path, "open"):
            descriptor = os.open(path, flags, PRIVATE_FILE)
        try:
            self._acquire(descriptor)
            self._clean()
            yield
        finally:
            os.close(descriptor)

    def write_hints(self, hints: Mapping[str, str | Mapping[str, str]]) -> None:
        """Replace ``run.toml``. Raises UsageError for what it cannot hold, Unavailable if it cannot be written."""
        text = _to_toml(hints)
        if len(text) > _HINTS_BYTES:
            raise UsageError(f"the hints take {len(text)} bytes, at most {_HINTS_BYTES} are kept")
        write_atomic(self.path / _HINTS, [text])

    def read_hints(self) -> Hints:
        """What ``run.toml`` says. A missing, damaged or foreign file is no hint: it never raises, and whatever
        is neither a string nor a table of strings is left out.
        """
        try:
            data = bytes(read_bounded(self.path / _HINTS, limit=_HINTS_BYTES))
            table = tomllib.loads(data.decode("utf-8"))
        except (FileNotFoundError, Unavailable, ValueError, RecursionError):
            return {}
        return {key: hint for key, value in table.items() if (hint := _hint(value)) is not None}

    def _acquire(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise Unavailable(f"cannot lock {self.path}: {error.strerror}") from error

    def _clean(self) -> None:
        folders = [self.path / name for name in (_SEALS, _RENEWALS, _PRIVATE)]
        for directory in (self.path, *folders, self.queue_path, self.witness_queue_path):
            remove_temporaries(directory)
        self.objects.clean()


def hinted_origin(run: RunDirectory, kind: Literal["parent", "external"]) -> Path | None:
    """Where ``run.toml`` says that the run or the file lies from which this run starts: authenticated by nobody."""
    hint = run.read_hints().get(kind)
    if not isinstance(hint, str) or "\0" in hint:
        return None
    return Path(os.path.relpath(run.path.resolve() / hint))


def _check_free(path: Path) -> None:
    """Raise UsageError unless a run can begin at ``path``."""
    with reported(path, "open"):
        if not path.exists() and not path.is_symlink():
            return
        if not path.is_dir():
            raise UsageError(f"{path} is a file: give a directory for the run")
        if _begun(path):
            raise UsageError(
                f"{path} holds a run already: choose another one (seal --resume continues that one)"
            )
        foreign = {entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)}
        foreign -= {_LEDGER, _SEALS, _OBJECTS, _PRIVATE, _HINTS}
        if foreign:
            raise UsageError(f"{path} is not empty (it has {min(foreign)}): choose another directory")


def _begun(path: Path) -> bool:
    ledger, seals = path / _LEDGER, path / _SEALS
    return (ledger.exists() and ledger.stat().st_size > 0) or (seals.is_dir() and any(seals.iterdir()))


def _numbers(directory: Path) -> list[int]:
    with reported(directory, "read"):
        names = [entry.name for entry in directory.iterdir()]
    matches = (_NUMBERED.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def _check_tokens(what: str, old: Sequence[TokenRef], new: Sequence[TokenRef]) -> None:
    if any(token not in new for token in old):
        raise UsageError(f"{what} has tokens that the new manifest lacks: tokens are never removed")


def _check_cosignatures(old: Seal, new: Seal) -> None:
    kept = [] if new.cosignatures is UNSET else new.cosignatures
    if old.cosignatures is not UNSET and any(line not in kept for line in old.cosignatures):
        raise UsageError(
            f"seal {old.index} has cosignatures that the new manifest lacks: cosignatures are never removed"
        )


def _hint(value: object) -> str | dict[str, str] | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if isinstance(item, str)}
    return None


def _to_toml(hints: Mapping[str, str | Mapping[str, str]]) -> bytes:
    lines = ["# Display hints. Deleting this file changes no verdict."]
    tables: list[str] = []
    for key, value in hints.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{_toml_key(key)}]"]
            tables += [f"{_toml_key(name)} = {_toml_string(item)}" for name, item in value.items()]
        else:
            lines.append(f"{_toml_key(key)} = {_toml_string(value)}")
    try:
        return ("\n".join(lines + tables) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("a hint is not Unicode text") from None


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_string(key)


def _toml_string(value: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"a hint is a string, not {value!r}")
    # JSON's escapes are TOML's, except that TOML wants DEL escaped as well and knows no lone surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
