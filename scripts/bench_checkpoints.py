#!/usr/bin/env python3
"""Measures what keeping one state costs: polledger beside torch.save and async_save, and beside what the machine can.

    scripts/bench_checkpoints.py [--mb 10 100 1000] [--checkpoints 9] [--rounds 3] [--work DIR] [--out DIR]

All take the same state in turn, in this one process; each writes its own files, which are removed after its turn, and
the disk is idle when the next begins. In every turn the state is kept 2 x 9 times. First within training, which has
one core less than there are: half a second of steps, and whatever is left until everything is on disk, lie between two
calls (*blocking*: seconds that the call takes, the median of nine). Then one after the other, a little changed in
between (*durable*: seconds a state until all nine are on disk). Of polledger all of that includes a signed head for
every state.

Limits, measured in the same rounds over as many bytes as the nine states have: SHA-256 on one core; writing them from
memory past the page cache into new files, one after the other, each durable before the next; and the same while all
cores hash the same bytes, which is what a disk can do that the machine's own processors serve.

--out keeps the figures in DIR/checkpoints.json, round by round.
"""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_peers import Peer, Training, middle, opened, ratios, size_of, spare_one, threads
from evidence import machine, table, write_evidence

from polledger.core.state import PIECE
from polledger.memory import large_memory
from polledger.store.blockfile import BlockFile, Disk

NAMES = ("polledger", "torch.save", "torch.save, fsync, SHA-256", "async_save")
SHA, DISK, BOTH = "SHA-256, one core", "disk", "disk, while all cores hash the same"

HEAD = 4096
"""Bytes that come last of a file that only the disk's rate is measured with."""

PAUSE = 0.5
"""Seconds of training, at least, between two states."""


def measure(work: Path, *, megabytes: float, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of every peer for one size of state, and the limits of the machine, round by round."""
    training = Training(megabytes)
    blocking: dict[str, list[float]] = {name: [] for name in NAMES}
    durable: dict[str, list[float]] = {name: [] for name in NAMES}
    limits: dict[str, list[float]] = {SHA: [], DISK: [], BOTH: []}
    stored = {}
    for _ in range(rounds):
        for name in NAMES:
            with opened(name, work, training.objects, steps=2 * count + 2, every=1) as peer:
                kept, whole = saving(peer, training, count)
                stored[name] = size_of(peer.place) // peer.saved
            blocking[name].append(kept)
            durable[name].append(whole)
        for name, seconds in limits_of(work, megabytes, count).items():
            limits[name].append(seconds)
    return {
        "megabytes": megabytes,
        "count": count,
        "stored": stored,
        "blocking": blocking,
        "durable": durable,
        "limits": limits,
        "ratios": compared(blocking, durable, limits),
    }


def compared(
    blocking: Mapping[str, list[float]],
    durable: Mapping[str, list[float]],
    limits: Mapping[str, list[float]],
) -> dict[str, list[float]]:
    """The ratios that are promised, round by round."""
    slower = [max(pair) for pair in zip(limits[SHA], limits[DISK], strict=True)]
    return {
        "blocking / torch.save": ratios(blocking["polledger"], blocking["torch.save"]),
        "blocking / async_save": ratios(blocking["polledger"], blocking["async_save"]),
        "durable / (torch.save, fsync, SHA-256)": ratios(
            durable["polledger"], durable["torch.save, fsync, SHA-256"]
        ),
        "durable / max(SHA-256, disk)": ratios(durable["polledger"], slower),
        "durable / both at once": ratios(durable["polledger"], limits[BOTH]),
    }


def saving(peer: Peer, training: Training, count: int) -> tuple[float, float]:
    """Seconds that one state blocks for, and seconds a state until all are durable."""
    with threads(spare_one()):
        blocking = [blocked(peer, training) for _ in range(1 + count)][1:]
    peer.drain()
    began = time.perf_counter()
    for _ in range(count):
        training.change()
        peer.save()
    peer.drain()
    return middle(blocking), (time.perf_counter() - began) / count


def blocked(peer: Peer, training: Training) -> float:
    """Seconds that one state blocks for, after a while of training."""
    batch = training.batch()
    until = time.perf_counter() + PAUSE
    while time.perf_counter() < until:
        training.step(batch)
    peer.drain()
    began = time.perf_counter()
    peer.save()
    return time.perf_counter() - began


def limits_of(work: Path, megabytes: float, count: int) -> dict[str, float]:
    """Seconds that the machine takes for the bytes of one state, the mean of ``count`` of them."""
    memory = large_memory(HEAD + (max(1, round(megabytes)) << 20))
    data = memory[HEAD:]
    data[:] = os.urandom(1 << 20) * (len(data) >> 20)
    path, disk = work / "file", Disk()
    seconds = dict.fromkeys((SHA, DISK, BOTH), 0.0)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in range(count):
            began = time.perf_counter()
            hashlib.sha256(data).digest()
            seconds[SHA] += time.perf_counter() - began
            began = time.perf_counter()
            write(path, memory, disk)
            seconds[DISK] += time.perf_counter() - began
            path.unlink()
            began = time.perf_counter()
            pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
            hashes = [pool.submit(hashlib.sha256, piece) for piece in pieces]
            write(path, memory, disk)
            for item in hashes:
                item.result()
            seconds[BOTH] += time.perf_counter() - began
            path.unlink()
    disk.close()
    return {name: value / count * megabytes * 1e6 / len(data) for name, value in seconds.items()}


def write(path: Path, memory: memoryview, disk: Disk) -> None:
    """A new file of ``memory``, written past the page cache; durable on return."""
    with BlockFile(path, head=HEAD, mode=0o600, disk=disk, memory=memory) as file:
        file.write(memory[HEAD:])
        file.finish(bytes(HEAD))
        os.fsync(file.fileno())


def render(value: Mapping[str, Any]) -> str:
    """Two tables: milliseconds, and ratios."""
    return "\n\n".join([times_table(value["sizes"]), ratio_table(value["sizes"])])


def times_table(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds of a state, medians of the rounds."""
    rows: list[Sequence[object]] = []
    for item in sizes:
        size = f"{item['megabytes']:g} MB"
        for name in NAMES:
            kept, whole = (f"{1e3 * middle(item[kind][name]):.1f}" for kind in ("blocking", "durable"))
            rows.append((size, name, kept, whole, f"{item['stored'][name] / 1e6:.1f}"))
        rows += [
            (size, f"limit: {name}", "", f"{1e3 * middle(item['limits'][name]):.1f}", "")
            for name in (SHA, DISK, BOTH)
        ]
    return table(("state", "", "blocking, ms", "durable, ms", "stored, MB"), rows)


def ratio_table(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Medians of the rounds' ratios, with the smallest and the largest."""
    names = list(sizes[0]["ratios"])
    rows = [
        (f"{item['megabytes']:g} MB", *(spread(item["ratios"][name]) for name in names)) for item in sizes
    ]
    return table(("state", *names), rows)


def spread(values: Sequence[float]) -> str:
    """The median, and what it lies between."""
    return f"{middle(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--checkpoints", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        sizes = [
            measure(Path(name), megabytes=size, count=wanted.checkpoints, rounds=wanted.rounds)
            for size in wanted.mb
        ]
    value = {"machine": machine(), "rounds": wanted.rounds, "sizes": sizes}
    if wanted.out is not None:
        write_evidence("checkpoints", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
