"""Where a task's code lies and how it is loaded. PROTOCOL section 9, "A task is named".

Finding a task runs none of its code: modules are located on the path, never by importing their package.
"""

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from polledger.errors import PolledgerError, UsageError
from polledger.helper import OWN_ROOT

if TYPE_CHECKING:
    from polledger.training.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLocation:
    """Code that defines a task. At least one of ``path`` and ``module`` is set.

    ``path`` is the absolute path of the file, ``root`` the directory that its imports start from.
    ``module`` is the dotted name if the file lies in a package, None if it stands alone.
    ``class_name`` None means: the only subclass of Task that the file defines.
    """

    path: Path | None
    module: str | None
    class_name: str | None
    root: Path | None

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return self.module or os.path.relpath(self.path or ".")


def resolve_task(spec: str) -> TaskLocation:
    """Locate ``path/to/file.py[:Class]`` or ``package.module[:Class]`` without importing anything.

    Raises UsageError naming what is missing and the nearest existing name.
    """
    name, class_name = _split(spec)
    return locate_file(_file_of(name) if _is_path(name) else _module_file(name), class_name)


def locate_file(path: Path, class_name: str | None = None) -> TaskLocation:
    """The location of code in the absolute ``path``: inside the packages that hold it, or alone."""
    root, module = _package_of(path)
    return TaskLocation(path=path, module=module, class_name=class_name, root=root)


def load_task_class(location: TaskLocation) -> "type[Task]":
    """Import the task's file and return its class. Runs the task's code; puts ``location.root`` on sys.path.

    Raises UsageError if the code does not load or the class is not found. A file below ``location.root``
    shadows an installed module of the same name, also for modules of polledger itself.
    """
    try:
        module = _import(location)
    except PolledgerError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{location.title} does not load: {describe_error(error, location.root)}") from error
    return _find_class(module, location)


def describe_error(error: BaseException, root: Path | None) -> str:
    """One line: the error and the last line of code under ``root`` that it passed through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if root is None or isinstance(error, SyntaxError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename, root)]
    return f"{text} ({os.path.relpath(own[-1].filename, root)}, line {own[-1].lineno})" if own else text


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` or the empty string, to append to a message."""
    close = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _is_own(path: str, root: Path) -> bool:
    return Path(path).is_relative_to(root) and "site-packages" not in path


def _split(spec: str) -> tuple[str, str | None]:
    name, colon, tail = spec.rpartition(":")
    if not colon:
        name, tail = spec, ""
    if not name or (colon and not tail.isidentifier()):
        raise UsageError(f"a task is named path/to/file.py[:Class] or package.module[:Class], not {spec!r}")
    return name, tail or None


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name or os.sep in name


def _file_of(name: str) -> Path:
    path = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 - symbolic links stay as they are
    if path.is_dir():
        raise UsageError(f"{name} is a directory; name the .py file that defines the task")
    if not path.exists():
        raise UsageError(f"no such file: {name}{nearest(path.name, _names(path.parent))}")
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UsageError(f"{name} is not a Python file with an importable name (letters, digits, _ and .py)")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{name} cannot be read")
    return path


def _names(directory: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [path.name for path in directory.glob("*.py")]
    return []


def _module_file(name: str) -> Path:
    """File of the dotted module ``name``, part by part: find_spec on a dotted name would run its packages."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"a task is named path/to/file.py[:Class] or package.module[:Class], not {name!r}")
    search = [str(Path.cwd()), *sys.path] if parts[0] != "polledger" else [str(OWN_ROOT)]
    importlib.invalidate_caches()
    for depth, part in enumerate(parts):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None:
            prefix = ".".join(parts[:depth])
            hint = nearest(part, _modules_in(search)) if depth else ""
            raise UsageError(f"there is no module {part!r}{f' in {prefix}' if prefix else ''}{hint}")
        origin, search = spec.origin, list(spec.submodule_search_locations or [])
    if origin is None or not origin.endswith(".py"):
        raise UsageError(f"{name} is a package without a file; name the module that defines the task")
    return Path(os.path.abspath(origin))  # noqa: PTH100 - symbolic links stay as they are


def _modules_in(search: list[str]) -> list[str]:
    return [Path(name).stem for directory in search for name in _names(Path(directory))]


def _package_of(path: Path) -> tuple[Path, str | None]:
    """Root directory of imports and dotted name, None for a file outside any package."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    directory = path.parent
    while (directory / "__init__.py").exists() and directory.name.isidentifier():
        parts.insert(0, directory.name)
        directory = directory.parent
    alone = len(parts) == 1 and path.name != "__init__.py"
    return directory, None if alone else ".".join(parts)


def _import(location: TaskLocation) -> ModuleType:
    if location.path is None or location.root is None:
        if location.module is None:
            raise UsageError("a task needs a file or a module")
        return importlib.import_module(location.module)
    _put_first(location.root)
    if location.module is None:
        return _import_file(location.path)
    if location.module.startswith("polledger.") and location.root != OWN_ROOT:
        return _import_shadowing(location.module, location.path, location.root)
    module = importlib.import_module(location.module)
    found = module.__file__ or ""
    if not (found and Path(found).samefile(location.path)):
        raise UsageError(
            f"{location.module} is imported from {found or 'elsewhere'}, not from {location.path}"
        )
    return module


def _put_first(root: Path) -> None:
    entry = str(root)
    if not sys.path or sys.path[0] != entry:
        sys.path.insert(0, entry)
    importlib.invalidate_caches()


def _import_file(path: Path) -> ModuleType:
    # A file called like a module of the standard library must not replace it.
    name = path.stem if path.stem not in sys.stdlib_module_names else f"task_{path.stem}"
    return _execute(name, path, package=False)


def _import_shadowing(module: str, path: Path, root: Path) -> ModuleType:
    """Import a copy of one of polledger's own modules, its package's other modules from the same copy."""
    package = module.rpartition(".")[0]
    initial = root.joinpath(*package.split("."), "__init__.py")
    if initial.exists() and path != initial:
        _execute(package, initial, package=True)
        return importlib.import_module(module)
    return _execute(module, path, package=False)


def _execute(name: str, path: Path, *, package: bool) -> ModuleType:
    locations = [str(path.parent)] if package else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    for loaded in [other for other in sys.modules if package and other.startswith(f"{name}.")]:
        del sys.modules[loaded]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _find_class(module: ModuleType, location: TaskLocation) -> "type[Task]":
    from polledger.training.task import Task

    tasks = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value is not Task
    }
    wanted = location.class_name
    if wanted is not None:
        if wanted in tasks:
            return tasks[wanted]
        if hasattr(module, wanted):
            raise UsageError(f"{wanted} in {location.title} is not a subclass of polledger.Task")
        raise UsageError(f"{location.title} defines no {wanted}{nearest(wanted, tasks) or _list(tasks)}")
    own = {cls.__name__: cls for cls in tasks.values() if cls.__module__ == module.__name__}
    if len(own) == 1:
        return next(iter(own.values()))
    if own:
        example = f"{location.title}:{next(iter(own))}"
        raise UsageError(f"{location.title} defines {', '.join(own)}: name one, as in {example}")
    raise UsageError(f"{location.title} defines no subclass of polledger.Task")


def _list(tasks: Iterable[str]) -> str:
    names = ", ".join(tasks)
    return f" (it has {names})" if names else ", and no other subclass of polledger.Task"
