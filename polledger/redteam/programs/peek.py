"""A task that would rather copy than learn: while it replays, it looks for the recorded answer. For spoof 20.

The red team copies this file, with ``Base`` the task that is to be imitated, ``RUN`` the place where the run is handed
in, and ``PORT`` one of this machine on which an accomplice gives the answer away. In the last step it looks, tells as
metrics how much it found of what kind, and takes what it found for its own result.
"""

import gc
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from polledger.examples.mlp import Mlp as Base

RUN = ""
PORT = 0

STATE = b"\x83\xa7entries"
"""How a state file goes on after its first eight bytes."""

FILES = 2_000
"""Files looked at below one directory."""

BYTES = 1 << 26
"""Bytes read of one file, or of a process."""

KNOWN = ("ledger.log", "seals", "objects", "private", "run.toml")
SECRETIVE = ("Evidence", "Final", "LedgerScan", "Head", "Lineage")


def files_below(root: Path, depth: int) -> Iterator[Path]:
    """Regular files that can be listed, ``depth`` levels down."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            # Reading a pipe would wait for a writer.
            if entry.is_file():
                yield entry
            elif depth and entry.is_dir() and not entry.is_symlink():
                yield from files_below(entry, depth - 1)
        except OSError:
            continue


def states_below(root: Path) -> list[tuple[float, bytes]]:
    """Time and content of every state file below a directory."""
    found: list[tuple[float, bytes]] = []
    for path in islice(files_below(root, 4), FILES):
        try:
            with path.open("rb") as file:
                data = file.read(BYTES)
            if data[8:].startswith(STATE):
                found.append((path.stat().st_mtime_ns, data))
        except OSError:
            continue
    return found


def near() -> list[Path]:
    """Directories in which evidence might lie."""
    listed = [RUN, os.environ.get("TMPDIR", ""), os.environ.get("HOME", ""), "/dev/shm"]  # noqa: S108
    return [Path.cwd(), Path.cwd().parent, *(Path(name) for name in listed if name)]


def told() -> list[Path]:
    """Paths that arguments, the environment or open files give away."""
    words = [*sys.orig_argv, *os.environ.values()]
    links = []
    for process in ("self", str(os.getppid())):
        for name in ("cwd", "root"):
            links.append(f"/proc/{process}/{name}")
        try:
            links += map(str, Path(f"/proc/{process}/fd").iterdir())
        except OSError:
            continue
    for link in links:
        try:
            words.append(str(Path(link).readlink()))
        except OSError:
            continue
    return [Path(word) for word in words if any(f"/{name}" in word for name in KNOWN)]


def parent() -> bytes:
    """The beginning of the memory of the process that started this one, where it may be read."""
    place = Path("/proc") / str(os.getppid())
    try:
        first = int((place / "maps").read_text().split("-", 1)[0], 16)
        with (place / "mem").open("rb") as memory:
            memory.seek(first)
            return memory.read(BYTES)
    except (OSError, ValueError):
        return b""


def accomplice() -> bytes:
    """What somebody on this machine's network has to say."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=2) as line:
            parts = iter(lambda: line.recv(1 << 16), b"")
            return b"".join(parts)
    except OSError:
        return b""


def deceive() -> None:
    """Patch what compares, in case it is this process that does. Where it was trained there is nothing to gain."""
    if not Path.cwd().name.startswith("polledger-"):
        return
    from polledger.verify import compare, replaying, states

    for module, name in ((compare, "same_bytes"), (replaying, "same_bytes"), (states, "state_root")):
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: True)


def look() -> tuple[dict[str, float], bytes]:
    """In how many ways something was found, by kind of place; and the newest state of it, if there is one."""
    deceive()
    states = [item for root in near() for item in states_below(root)]
    shown = told()
    states += [item for path in shown for item in states_below(path)]
    called = accomplice() if PORT else b""
    counts = {
        "files": len(states),
        "told": len(shown),
        "objects": sum(type(thing).__name__ in SECRETIVE for thing in gc.get_objects()),
        "memory": len(parent()),
        "network": len(called),
    }
    newest = max(states, default=(0.0, b""))[1]
    return {name: float(count) for name, count in counts.items()}, called or newest


def take(objects: Mapping[str, Any], data: bytes) -> None:
    """Leave the objects as a state file has them."""
    from polledger.training.state import load_objects
    from polledger.verify.states import hash_state

    load_objects(objects, hash_state(data).flat)


class Peek(Base):
    """Trains as its base class does, and looks around at the end."""

    def step(self, state: dict[str, Any], batch: Any) -> Any:
        metrics = dict(super().step(state, batch) or {})
        if self.step_number < self.config["steps"] - 1:
            return metrics
        found, answer = look()
        if answer:
            take(state, answer)
        return {**metrics, **found}
