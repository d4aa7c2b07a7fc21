"""The source tree that a run commits to: which files, their digests, and the installed packages beside them.

Digests are computed on files, never by importing. Which modules a task loads is told by a rehearsal in a
child process (:mod:`polledger.training.rehearsal`). PROTOCOL section 9, last paragraph but one.
"""

import hashlib
import importlib.metadata
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

from msgspec import UNSET, UnsetType

from polledger import __version__
from polledger.core.encoding import encode
from polledger.core.source import SOURCE_BYTES, Distribution, SourceFile, TaskSource
from polledger.errors import MalformedError, UsageError
from polledger.helper import OWN_ROOT
from polledger.training.location import TaskLocation, load_task_class, nearest, resolve_task

__all__ = [
    "PLAIN_LOOP",
    "TaskLocation",
    "collect_source",
    "count_lines",
    "imported_distributions",
    "load_task_class",
    "nearest",
    "resolve_task",
    "source_digest",
    "task_modules",
    "uncommitted_modules",
    "verify_tree",
    "write_tree",
]

PLAIN_LOOP = "polledger.Recorder"
"""``class_name`` of a source whose training loop polledger did not run: no Task, never replayed."""

_DIGEST_OF_NAMES = b"polledger/distribution/1\x00"


def source_digest(source: TaskSource) -> bytes:
    """What genesis commits as ``task``."""
    return hashlib.sha256(encode(source)).digest()


def collect_source(
    location: TaskLocation,
    *,
    class_name: str,
    modules: Mapping[str, str] | None = None,
    distributions: Iterable[Distribution] = (),
) -> tuple[TaskSource, dict[str, bytes]]:
    """The manifest of a task's code and the contents of its files by path, read from disk now.

    ``modules`` maps paths in the tree to the files that a rehearsal loaded (:func:`task_modules`). Raises
    UsageError for a tree above 1 MiB, or two files that claim one path.
    """
    if location.path is None or location.root is None:
        raise UsageError("a source tree needs the task's file")
    paths = _package_files(location.path, location.root)
    for path, file in (modules or {}).items():
        if Path(paths.setdefault(path, file)) != Path(file):
            raise UsageError(f"{file} and {paths[path]} both claim {path} in the source tree")
    contents = {path: _read(Path(paths[path])) for path in sorted(paths)}
    _check_size(contents)
    try:
        source = TaskSource(
            v=1,
            entry=_relative(location.path, location.root),
            module=UNSET if location.module is None else location.module,
            class_name=class_name,
            lines=count_lines(contents.values()),
            files=[_entry(path, Path(paths[path]), data) for path, data in contents.items()],
            distributions=list(distributions),
        )
    except ValueError as error:
        raise UsageError(f"the source tree cannot be committed: {error}") from None
    return source, contents


def verify_tree(source: TaskSource, root: Path) -> dict[str, bytes] | list[str]:
    """The committed files as they lie under ``root`` (or else on sys.path), or what is wrong with them.

    Reads and hashes; imports nothing. Returns the contents by path if every digest matches, otherwise one
    line per file that is missing or differs.
    """
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for entry in source.files:
        candidates = [Path(base) / entry.path for base in [str(root), *sys.path] if base]
        file = next((file for file in candidates if file.is_file()), None)
        data = None if file is None else _read_at_most(file, entry.size)
        if data is None:
            problems.append(f"{entry.path} is missing" if file is None else f"{entry.path} differs")
        elif hashlib.sha256(data).digest() != entry.digest:
            problems.append(f"{entry.path} differs")
        else:
            contents[entry.path] = data
    return problems or contents


def write_tree(source: TaskSource, read: Callable[[bytes], bytes], directory: Path) -> None:
    """Write the committed files below ``directory``, which must be empty. ``read`` maps digests to contents.

    Raises MalformedError when contents do not match their digest.
    """
    for entry in source.files:
        target = directory / entry.path
        data = read(entry.digest)
        if len(data) != entry.size or hashlib.sha256(data).digest() != entry.digest:
            raise MalformedError(f"the contents of {entry.path} do not match their digest")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)
        target.chmod(0o755 if entry.executable else 0o644)


def task_modules(
    location: TaskLocation, modules: Mapping[str, ModuleType], *, environment_paths: Iterable[str] = ()
) -> dict[str, str]:
    """Path in the tree -> absolute file, for every loaded module that belongs into the source tree.

    That is what lies outside the standard library and site-packages, and what shares an installed task's
    top package; polledger itself is a distribution, and what torch.compile writes is no source.
    ``environment_paths`` were on sys.path before the task loaded.
    """
    if location.root is None:
        return {}
    top = (location.module or "").partition(".")[0]
    bases = {os.path.abspath(path) for path in environment_paths}  # noqa: PTH100 - as in location.py
    found = {}
    for name, module in sorted(modules.items()):
        file = _file_of(module)
        first = name.partition(".")[0]
        if file is None or first == "polledger" or name == "__main__" or _is_generated(file):
            continue
        if not _is_installed(file) or (first == top and Path(file).is_relative_to(location.root)):
            found[_tree_path(name, file, location.root, bases)] = file
    return found


def uncommitted_modules(
    source: TaskSource, location: TaskLocation, *, before: Iterable[str] = ()
) -> list[str]:
    """Files of modules that are loaded now, belong into the source tree and are not in ``source``; ascending.

    A replay does not have them. Call it when training ends: what the rehearsal loads is committed, what a task first
    imports later is not. Modules named in ``before``, those of whoever calls polledger, are left out. Not seen: what
    only ``--workers`` processes load.
    """
    given = set(before)
    modules = {name: module for name, module in list(sys.modules.items()) if name not in given}
    committed = {entry.path: entry.digest for entry in source.files}
    found = task_modules(location, modules)
    return sorted(
        file for path, file in found.items() if path not in committed and not _is_among(file, committed)
    )


def _is_among(file: str, committed: Mapping[str, bytes]) -> bool:
    """Whether the file is one of ``committed`` under the name that the rehearsal's path gave it."""
    names = [path for path in committed if file.endswith(f"/{path}")]
    return bool(names) and _digest_of(Path(file)) in [committed[path] for path in names]


def imported_distributions(modules: Mapping[str, ModuleType]) -> list[Distribution]:
    """Name, version and RECORD digest of every installed distribution that one of ``modules`` came from.

    polledger is always listed, with a digest over its own files in place of RECORD, so that a checkout and an
    installed wheel of the same code agree.
    """
    tops = set()
    for name, module in list(modules.items()):
        file = _file_of(module)
        if file is not None and _is_installed(file):
            tops.add(name.partition(".")[0])
    owners = importlib.metadata.packages_distributions()
    names = {owner for top in tops for owner in owners.get(top, [])} - {"polledger"}
    return sorted([_own_distribution(), *map(_distribution, names)], key=lambda item: item.name)


def _distribution(name: str) -> Distribution:
    found = importlib.metadata.distribution(name)
    directory = getattr(found, "_path", None)
    record = UNSET if directory is None else _digest_of(Path(directory) / "RECORD")
    return Distribution(name=name, version=found.version, record=record)


def _digest_of(file: Path) -> bytes | UnsetType:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return UNSET


def _own_distribution() -> Distribution:
    package = OWN_ROOT / "polledger"
    total = hashlib.sha256(_DIGEST_OF_NAMES)
    for file in sorted(package.rglob("*.py")):
        total.update(file.relative_to(package).as_posix().encode() + b"\x00")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return Distribution(name="polledger", version=__version__, record=total.digest())


def _package_files(path: Path, root: Path) -> dict[str, str]:
    """The task's file, or every ``*.py`` of its package with the ``__init__.py`` files above it."""
    if not (path.parent / "__init__.py").exists():
        return {_relative(path, root): str(path)}
    files = [file for file in path.parent.glob("*.py") if file.is_file()]
    directory = path.parent.parent
    while directory != root and directory.is_relative_to(root):
        files.append(directory / "__init__.py")
        directory = directory.parent
    own = "polledger/__init__.py"
    return {_relative(file, root): str(file) for file in files if _relative(file, root) != own}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _tree_path(name: str, file: str, root: Path, bases: set[str]) -> str:
    """Relative to the root; for a file found through the environment's path, the path of its dotted name."""
    suffix = Path(file).suffix
    is_package = Path(file).stem == "__init__"
    by_name = name.replace(".", "/") + ("/__init__" if is_package else "") + suffix
    base = file.removesuffix(by_name).rstrip("/") if file.endswith(by_name) else None
    if Path(file).is_relative_to(root) and (base is None or base not in bases):
        return _relative(Path(file), root)
    return by_name


def _file_of(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not Path(file).is_file():
        return None
    return os.path.abspath(file)  # noqa: PTH100 - symbolic links stay as they are


def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages(), [site.getusersitepackages()])
    return tuple({root.rstrip("/") + "/" for path in roots for root in (path, os.path.realpath(path))})


_INSTALLED_ROOTS = _installed_roots()


def _is_installed(file: str) -> bool:
    parts = Path(file).parts
    known = file.startswith(_INSTALLED_ROOTS) or os.path.realpath(file).startswith(_INSTALLED_ROOTS)
    return known or "site-packages" in parts or "dist-packages" in parts


def _is_generated(file: str) -> bool:
    """Whether torch.compile wrote the file: it comes from the task's code, and is written anew wherever that runs."""
    if any(Path(file).is_relative_to(directory) for directory in _compiler_caches()):
        return True
    temporary = Path(tempfile.gettempdir())
    return any(
        directory.name.startswith("torchinductor_") and directory.parent == temporary
        for directory in Path(file).parents
    )


def _compiler_caches() -> list[str]:
    """Where torch's compiler, and Triton for GPUs, keep what they write, if not beside temporary files."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")  # noqa: PTH111 - where there is none, "~"
    named = [os.environ.get("TORCHINDUCTOR_CACHE_DIR"), os.environ.get("TRITON_CACHE_DIR")]
    named.append(os.path.join(home, ".triton", "cache"))  # noqa: PTH118
    return [os.path.abspath(path) for path in named if path]  # noqa: PTH100 - as in location.py


def _read(file: Path) -> bytes:
    try:
        data = _read_at_most(file, SOURCE_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from None
    if data is None:
        raise UsageError(f"{file} is larger than a source tree may be ({SOURCE_BYTES} bytes)")
    return data


def _read_at_most(file: Path, size: int) -> bytes | None:
    with file.open("rb") as stream:
        data = stream.read(size + 1)
    return None if len(data) > size else data


def _check_size(contents: Mapping[str, bytes]) -> None:
    total = sum(map(len, contents.values()))
    if total > SOURCE_BYTES:
        largest = max(contents, key=lambda path: len(contents[path]))
        raise UsageError(
            f"the task's source tree has {total} bytes in {len(contents)} files, at most {SOURCE_BYTES} are "
            f"committed; the largest is {largest}"
        )


def _entry(path: str, file: Path, data: bytes) -> SourceFile:
    executable = bool(file.stat().st_mode & 0o100)
    return SourceFile(path=path, executable=executable, size=len(data), digest=hashlib.sha256(data).digest())


def count_lines(files: Iterable[bytes]) -> int:
    """Lines of a source tree that a reader has to read: neither empty nor nothing but a comment."""
    lines = (line.strip() for data in files for line in data.splitlines())
    return sum(1 for line in lines if line and not line.startswith(b"#"))
