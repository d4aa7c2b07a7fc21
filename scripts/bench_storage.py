#!/usr/bin/env python3
"""Measures the bytes of whole runs beside those of torch.save at every checkpoint.

    scripts/bench_storage.py [--mb 1] [--checkpoints 1000] [--keep 1 10 100] [--state-mb 100] [--work DIR] [--out DIR]

A run of k = 10 and 10 warm checkpoints is recorded with all its steps and seals; every state has other bytes.
Everything in its directory counts. torch.save has one file for each checkpoint after k steps, the warm ones left out.
Besides every K-th state the first, the warm ones and the last are always stored. Where K > 1 they are packed.

Besides: what is left of a state of a training of 200 steps, packed as polledger does, and when all its bytes are sorted
by significance and compressed by zlib, level 1, alone and after XOR with the state 10 and 100 steps before; how fast,
and how fast it is read from the page cache, unpacked and hashed, beside one that is not packed.

--out keeps the figures in DIR/storage.json.
"""

import argparse
import statistics
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

from polledger.core.state import encode_state
from polledger.store.objects import ObjectStore
from polledger.store.packed import packed
from polledger.store.run import RunDirectory
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.sealer import Sealer
from polledger.training.state import live_objects
from polledger.verify.states import BLOCKS, StateReader

EVERY = WARM = 10

STEPS = 200
"""Of the training whose states are kept."""


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
    for _ in range(STEPS):
        training.step(training.batch())
    whole = saved_bytes(work, training) * checkpoints
    rows = []
    for keep in keeps:
        size = run_bytes(work, training, checkpoints=checkpoints, keep=keep)
        rows.append({"keep": keep, "bytes": size, "saved": whole, "ratio": size / whole})
    return rows


def compressed(training: Training) -> list[dict[str, Any]]:
    """What compression leaves of a state, and at which rate. The training has made STEPS more steps afterwards."""
    kept = {}
    for step in range(1, STEPS + 1):
        training.step(training.batch())
        if step in (STEPS - 100, STEPS - 10, STEPS):
            tensors = live_objects(training.objects).near.tensors
            kept[step] = np.frombuffer(b"".join(item.data for item in tensors), np.uint32).copy()
    return [
        packing(training),
        squeezed("alone", kept[STEPS]),
        squeezed("XOR with the state 10 steps before", kept[STEPS] ^ kept[STEPS - 10]),
        squeezed("XOR with the state 100 steps before", kept[STEPS] ^ kept[STEPS - 100]),
    ]


def packing(training: Training) -> dict[str, Any]:
    """What packing leaves of a state; the best rate of three."""
    encoded = encode_state(live_objects(training.objects).near)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        left = sum(map(len, packed(encoded.size, encoded.parts())))
        seconds.append(time.perf_counter() - began)
    return {"name": "packed", "left": left / encoded.size, "rate": encoded.size / min(seconds)}


def reading(work: Path, training: Training) -> list[dict[str, Any]]:
    """Seconds for reading and hashing the state as it is and packed, in turn; the median of five."""
    encoded = encode_state(live_objects(training.objects).near)
    seconds: dict[str, list[float]] = {"as it is": [], "packed": []}
    with tempfile.TemporaryDirectory(dir=work) as place:
        plain, small = (ObjectStore(Path(place) / name) for name in ("plain", "small"))
        plain.put_named(encoded.root, list(encoded.chunks()))
        small.put_packed(encoded.root, encoded.size, list(encoded.parts()))
        readers = [StateReader(store) for store in (plain, small)]
        for turn in range(5 + BLOCKS):
            for name, reader in zip(seconds, readers, strict=True):
                began = time.perf_counter()
                reader.load(encoded.root)
                # Not while its memory is touched for the first time.
                if turn >= BLOCKS:
                    seconds[name].append(time.perf_counter() - began)
    return [{"name": name, "seconds": statistics.median(taken)} for name, taken in seconds.items()]


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
    (_, bare), *_ = reads = [(item["name"], item["seconds"]) for item in value["reading"]]
    times = [(name, f"{1000 * seconds:.0f}", f"{seconds / bare:.2f}") for name, seconds in reads]
    small = table(("a state, compressed", "left", "MB/s"), squeezes)
    title = f"a state of {value['state_megabytes']:g} MB, read and hashed"
    return f"{whole}\n\n{small}\n\n{table((title, 'ms', 'ratio'), times)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--state-mb", type=float, default=100, help="of the state that is compressed")
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--keep", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        rows = measure(Path(name), megabytes=wanted.mb, checkpoints=wanted.checkpoints, keeps=wanted.keep)
        training = Training(wanted.state_mb)
        small = {"compressed": compressed(training), "reading": reading(Path(name), training)}
    size = {"megabytes": wanted.mb, "checkpoints": wanted.checkpoints, "state_megabytes": wanted.state_mb}
    value = {"machine": machine(), **size, "rows": rows, **small}
    if wanted.out is not None:
        write_evidence("storage", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
