#!/usr/bin/env python3
"""Measures the bytes of whole runs beside those of torch.save at every checkpoint.

    scripts/bench_storage.py [--mb 1] [--checkpoints 1000] [--keep 1 10 100] [--work DIR] [--out DIR]

A run of k = 10 and 10 warm checkpoints is recorded with all its steps and seals; every state has other bytes.
Everything in its directory counts. torch.save has one file for each checkpoint after k steps, the warm ones left out.
What stays above 1/K are the states that are always stored: the first, the warm ones and the last.

Besides: what is left of a state of a training of 200 steps when its bytes are sorted by significance and compressed by
zlib, level 1, alone and after XOR with the state 10 and 100 steps before. polledger does not compress.

--out keeps the figures in DIR/storage.json.
"""

import argparse
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_peers import Training, size_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence import machine, table, write_evidence

from polledger.store.run import RunDirectory
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.sealer import Sealer
from polledger.training.state import live_objects

EVERY = WARM = 10


def run_bytes(work: Path, training: Training, *, checkpoints: int, keep: int) -> int:
    """Bytes of a run that stores every ``keep``-th state."""
    steps = EVERY * checkpoints
    with tempfile.TemporaryDirectory(dir=work) as place:
        run = RunDirectory.create(Path(place) / "run")
        sealer = Sealer.create(run, bytes(16), Ed25519PrivateKey.generate())
        recorder = RunRecorder(run, sealer, Cadence(steps=steps, every=EVERY, warm=WARM, keep=keep))
        recorder.checkpoint(0, live_objects(training.objects))
        for step in range(steps):
            recorder.step(step, batch=bytes(32), metrics={"loss": 1 / (step + 1)})
            if recorder.cadence.is_checkpoint(step + 1):
                training.change()
                recorder.checkpoint(step + 1, live_objects(training.objects))
            recorder.seal_if_due()
        recorder.seal()
        recorder.close()
        return size_of(run.path)


def saved_bytes(work: Path, training: Training) -> int:
    """Bytes of one file of torch.save."""
    path = work / "state.pt"
    torch.save({name: item.state_dict() for name, item in training.objects.items()}, path)
    size = path.stat().st_size
    path.unlink()
    return size


def measure(work: Path, *, megabytes: float, checkpoints: int, keeps: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each K."""
    training = Training(megabytes)
    whole = saved_bytes(work, training) * checkpoints
    rows = []
    for keep in keeps:
        size = run_bytes(work, training, checkpoints=checkpoints, keep=keep)
        rows.append({"keep": keep, "bytes": size, "saved": whole, "ratio": size / whole})
    return rows


def compressed(training: Training) -> list[dict[str, Any]]:
    """What compression leaves of a state, and at which rate."""
    kept = {}
    for step in range(1, 201):
        training.step(training.batch())
        if step in (100, 190, 200):
            tensors = live_objects(training.objects).near.tensors
            kept[step] = np.frombuffer(b"".join(item.data for item in tensors), np.uint32).copy()
    return [
        squeezed("alone", kept[200]),
        squeezed("XOR with the state 10 steps before", kept[200] ^ kept[190]),
        squeezed("XOR with the state 100 steps before", kept[200] ^ kept[100]),
    ]


def squeezed(name: str, values: "np.ndarray[Any, np.dtype[np.uint32]]") -> dict[str, Any]:
    """The share that is left, and the bytes per second."""
    began = time.perf_counter()
    sorted_bytes = np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T)
    left = len(zlib.compress(sorted_bytes.data, level=1))
    return {"name": name, "left": left / values.nbytes, "rate": values.nbytes / (time.perf_counter() - began)}


def render(value: Mapping[str, Any]) -> str:
    """Bytes by K, and what compression would leave."""
    rows = [
        (
            item["keep"],
            f"{item['bytes'] / 1e6:.1f}",
            f"{item['saved'] / 1e6:.1f}",
            f"{item['ratio']:.4f}",
            f"{1 / item['keep']:.4f}",
        )
        for item in value["rows"]
    ]
    whole = table(("K", "run, MB", "torch.save, MB", "ratio", "1/K"), rows)
    squeezes = [
        (item["name"], f"{item['left']:.2f}", f"{item['rate'] / 1e6:.0f}") for item in value["compressed"]
    ]
    return f"{whole}\n\n{table(('a state, compressed', 'left', 'MB/s'), squeezes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--keep", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        rows = measure(Path(name), megabytes=wanted.mb, checkpoints=wanted.checkpoints, keeps=wanted.keep)
    size = {"megabytes": wanted.mb, "checkpoints": wanted.checkpoints}
    value = {"machine": machine(), **size, "rows": rows, "compressed": compressed(Training(wanted.mb))}
    if wanted.out is not None:
        write_evidence("storage", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
