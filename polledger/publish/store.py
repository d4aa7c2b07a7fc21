"""Where a claim is published: a directory, or any place that fsspec reaches. Nothing there is ever overwritten.

Each file is created exclusively, by the file system's own means (a hard link, ``If-None-Match``), so that of two who
publish at once one is refused. The claim comes last: where it is, everything beside it is.
"""

import posixpath
from pathlib import Path
from typing import Any, Protocol

from polledger.errors import Unavailable, UsageError
from polledger.files import PUBLIC_FILE, read_bounded, reported, write_once


class Destination(Protocol):
    """A place for files by name; names may have ``/`` in them."""

    def read(self, name: str, *, limit: int) -> bytes | None:
        """The file, None if there is none. Raises Unavailable if it cannot be read or has more than ``limit`` bytes."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the file; False if there is one of that name, which is left as it is. Raises Unavailable."""


class Folder:
    """A local directory, made when something is put there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, *, limit: int) -> bytes | None:
        try:
            return bytes(read_bounded(self._path / name, limit=limit))
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        path = self._path / name
        with reported(path.parent, "make"):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_once(path, data, mode=PUBLIC_FILE)
        except FileExistsError:
            return False
        return True


class Remote:
    """A place behind an fsspec URL. ``filesystem`` is fsspec's, ``root`` the path in it."""

    def __init__(self, filesystem: Any, root: str, shown: str) -> None:
        self._filesystem = filesystem
        self._root = root
        self._shown = shown

    def read(self, name: str, *, limit: int) -> bytes | None:
        path = posixpath.join(self._root, name)
        try:
            with self._filesystem.open(path, "rb") as file:
                data = bytes(file.read(limit + 1))
        except FileNotFoundError:
            return None
        except Exception as error:
            # Every file system has errors of its own.
            raise self._failed("read", name, error) from error
        if len(data) > limit:
            raise Unavailable(f"{self._shown}/{name} has more than {limit} bytes")
        return data

    def create(self, name: str, data: bytes) -> bool:
        path = posixpath.join(self._root, name)
        try:
            if self._filesystem.exists(path):
                return False
            self._put(path, data)
        except FileExistsError:
            return False
        except Exception as error:
            raise self._failed("write", name, error) from error
        return True

    def _put(self, path: str, data: bytes) -> None:
        try:
            self._filesystem.pipe_file(path, data, mode="create")
        except FileNotFoundError:
            # Object stores have no directories, other file systems want them made. A bucket is nobody's to make.
            if not path.startswith("/") and not self._filesystem.exists(path.partition("/")[0]):
                raise
            self._filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
            self._filesystem.pipe_file(path, data, mode="create")

    def _failed(self, verb: str, name: str, error: Exception) -> Unavailable:
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        return Unavailable(f"cannot {verb} {self._shown}/{name}: {words[:300]}")


def open_destination(dest: str) -> Destination:
    """The place that ``dest`` names: a path, or a URL. Raises UsageError for a URL that fsspec cannot open."""
    if "://" not in dest:
        return Folder(Path(dest).expanduser())
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            f"{dest} is a URL: install polledger[publish] (fsspec) and the package for its kind of storage"
        ) from None
    try:
        filesystem, root = url_to_fs(dest)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{dest} cannot be opened: {error}") from None
    scheme, _, rest = dest.partition("://")
    # A URL may carry credentials.
    return Remote(filesystem, root, f"{scheme}://{rest.rpartition('@')[2].rstrip('/')}")
