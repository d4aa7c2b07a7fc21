"""What code a run committed to: the task's source tree and imported distributions. PROTOCOL section 9."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from polledger.core.encoding import SOURCE_LIMITS, parse
from polledger.core.records import Count, Digest, Name, _Struct

__all__ = ["SOURCE_BYTES", "Distribution", "SourceFile", "TaskSource", "parse_source"]

SOURCE_BYTES = 1 << 20
"""Largest source tree (PROTOCOL section 7): room for code, not for weights."""

SOURCE_FILES = 4096
"""Most files of a tree; with one file per directory that is still 256 bytes each."""

_PART_BYTES = 255
"""Longest file name that common file systems take."""


class SourceFile(_Struct, frozen=True, kw_only=True):
    """One file of the tree. ``path`` is relative, ``/``-separated, without empty, ``.`` or ``..`` parts."""

    path: Name
    executable: bool
    size: Annotated[int, Meta(ge=0, le=SOURCE_BYTES)]
    digest: Digest

    def __post_init__(self) -> None:
        _check_path(self.path)


class Distribution(_Struct, frozen=True, kw_only=True):
    """An imported installed distribution; ``record`` is SHA-256 of its RECORD file where it has one."""

    name: Name
    version: Name
    record: Digest | UnsetType = UNSET


class TaskSource(_Struct, frozen=True, kw_only=True, tag_field="type", tag="source"):
    """The object whose digest genesis commits as ``task``.

    Paths are unique, ascending by their UTF-8 bytes, and none is a directory of another, so the tree can be
    written below an empty directory without leaving it. Sizes add up to at most 1 MiB.
    """

    v: Literal[1]
    entry: Name
    """Path of the file that defines the task, one of ``files``."""
    module: Name | UnsetType = UNSET
    """Dotted name when the task was named as a module; ``entry`` is then that module's file."""
    class_name: Name
    lines: Count
    """Source lines a reader of a custom task has to read."""
    files: Annotated[list[SourceFile], Meta(min_length=1, max_length=SOURCE_FILES)]
    distributions: Annotated[list[Distribution], Meta(max_length=10_000)]

    def __post_init__(self) -> None:
        paths = [file.path for file in self.files]
        _check_tree(paths)
        if self.entry not in paths:
            raise ValueError(f"the entry {self.entry!r} is none of the files")
        if sum(file.size for file in self.files) > SOURCE_BYTES:
            raise ValueError(f"the source tree takes more than {SOURCE_BYTES} bytes")
        _check_dotted("class", self.class_name)
        if isinstance(self.module, str):
            _check_dotted("module", self.module)
            below = self.module.replace(".", "/")
            if self.entry not in (f"{below}.py", f"{below}/__init__.py"):
                raise ValueError(f"the entry {self.entry!r} is not the file of the module {self.module!r}")


def parse_source(data: bytes) -> TaskSource:
    """The source description that ``data`` encodes.

    Raises MalformedError. Not checked: that the files' bytes have these sizes and digests.
    """
    return parse(data, TaskSource, limits=SOURCE_LIMITS)


def _check_path(path: str) -> None:
    if path.startswith("/"):
        raise ValueError(f"the path {path!r} is absolute")
    if "\\" in path or ":" in path:
        raise ValueError(f"the path {path!r} holds a backslash or colon")
    if not path.isprintable():
        raise ValueError(f"the path {path!r} holds a control character")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"the path {path!r} has an empty, '.' or '..' part")
        if len(part.encode()) > _PART_BYTES:
            raise ValueError(f"the path {path!r} has a part of more than {_PART_BYTES} bytes")


def _check_tree(paths: Sequence[str]) -> None:
    directories: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        directories.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    for before, path in pairwise(paths):
        if before == path:
            raise ValueError(f"the path {path!r} is listed twice")
        if before > path:
            raise ValueError(f"the path {path!r} is not in ascending order")
    for path in paths:
        if path in directories:
            raise ValueError(f"the path {path!r} is a file and a directory")


def _check_dotted(what: str, name: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"the {what} name {name!r} is not made of identifiers")
