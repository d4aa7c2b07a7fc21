"""A task whose step looks for the recorded answer everywhere it can think of and reports what it found.

It trains honestly; the metric ``found`` counts the places where evidence was in reach while the step ran.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

import torch

from polledger import Task

NAMES = ("ledger.log", "seals", "objects", "private", "run.toml")


def looks_like_evidence(path: Path) -> bool:
    """True for a run directory's files that can be read from here."""
    try:
        if path.name not in NAMES:
            return False
        if path.is_dir():
            return bool(os.listdir(path))
        # Reading a pipe of that name would wait for a writer.
        return path.is_file() and bool(path.read_bytes())
    except OSError:
        return False


def readable_files(root: Path, depth: int) -> list[Path]:
    """Every path below ``root`` that can be listed, ``depth`` levels down."""
    try:
        here = list(root.iterdir())
    except OSError:  # no directory, or out of reach
        return []
    below = [path for entry in here if depth for path in readable_files(entry, depth - 1)]
    return here + below


def places() -> dict[str, int]:
    """Evidence in reach, by kind of place."""
    parent = Path("/proc") / str(os.getppid())
    roots = [Path.cwd(), *Path.cwd().parents, Path(os.environ.get("TMPDIR", "/nowhere")).parent]
    hint = os.environ.get("PEEK_AT")
    if hint:
        roots.append(Path(hint))
    files = sum(looks_like_evidence(path) for root in set(roots) for path in readable_files(root, 1))
    arguments = sum(name in word for word in sys.orig_argv for name in (*NAMES, "verify", "inspect"))
    environment = sum("run" in name.lower() or "PEEK" in name for name in os.environ)
    descriptors = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            descriptors += os.readlink(f"/proc/self/fd/{entry}").endswith((".log", ".msgpack", "state"))
        except OSError:
            continue
    objects = sum(
        type(thing).__name__ in ("Evidence", "Final", "LedgerScan", "Head") for thing in gc.get_objects()
    )
    memory = 0
    for name in ("mem", "environ", "fd"):
        try:
            memory += bool(os.listdir(parent / name) if name == "fd" else (parent / name).open("rb").read(1))
        except OSError:
            continue
    return {
        "files": files,
        "arguments": arguments,
        "environment": environment,
        "descriptors": descriptors,
        "objects": objects,
        "memory": memory,
    }


class Peek(Task):
    """A linear model that would rather copy than learn."""

    config = {"steps": 12, "batch_size": 4, "lr": 0.1}

    def dataset(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        made = torch.Generator().manual_seed(3)
        return [(torch.randn(6, generator=made), torch.randn(1, generator=made)) for _ in range(24)]

    def build(self) -> dict[str, Any]:
        model = torch.nn.Linear(6, 1)
        return {
            "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=self.config["lr"], momentum=0.9),
        }

    def step(self, state: dict[str, Any], batch: list[torch.Tensor]) -> dict[str, float]:
        loss = (state["model"](batch[0]) - batch[1]).square().mean()
        loss.backward()
        state["optimizer"].step()
        return {"loss": float(loss.detach()), **{name: float(count) for name, count in places().items()}}
