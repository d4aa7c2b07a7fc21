#!/usr/bin/env python3
"""Measures what a training waits for when its state is kept, part by part, and what was chosen against the plain way.

    scripts/bench_copying.py [--mb 100] [--rounds 15] [--work DIR] [--out DIR]

A state of so many bytes, in as many tensors as that of ``bench_checkpoints.py``, on one thread of torch. In every round
each way has its turn, after steps of training that leave their own data in the caches: the copy into memory that was
touched before, in small or large pages, by one thread or two; the same bytes written from that memory past the page
cache into a new file, until they are durable, with the time of all processors for it; and the memory given back. Before
them, what the walk over the objects takes, and the first touch of such memory.

--out keeps the figures in DIR/copying.json, round by round.
"""

import argparse
import mmap
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_checkpoints import HEAD, spread, write
from bench_peers import Training, threads
from evidence import machine, table, write_evidence

from polledger.core.state import TensorData
from polledger.memory import large_memory
from polledger.store.blockfile import Disk
from polledger.training.copying import Pair, copy_all, copy_bytes
from polledger.training.state import live_objects

STEPS = 3
"""Of training, before each turn."""

PAGES = {"small": "4 KiB", "large": "2 MiB, where the system has them"}


def small_memory(size: int) -> memoryview:
    """As ``large_memory``, in small pages."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view = memoryview(memory)
    begins = view[:: mmap.PAGESIZE]
    begins[:] = bytes(len(begins))
    return view


MEMORIES: dict[str, Callable[[int], memoryview]] = {"small": small_memory, "large": large_memory}


def measure(work: Path, *, megabytes: float, rounds: int) -> dict[str, Any]:
    """Seconds of every part, round by round: of the walk, and by pages of everything else."""
    training = Training(megabytes)
    seconds: dict[str, list[float]] = defaultdict(list)
    size = sum(len(tensor.data) for tensor in walked(training))
    disk = Disk()
    with threads(1):
        for _ in range(rounds):
            trained(training)
            seconds["walk"].append(timed(lambda: walked(training)))
            for pages, room in MEMORIES.items():
                for name, value in turn(training, room, HEAD + size, work / "file", disk).items():
                    seconds[f"{pages}, {name}"].append(value)
    disk.close()
    return {"megabytes": megabytes, "rounds": rounds, "seconds": seconds}


def turn(
    training: Training, room: Callable[[int], memoryview], size: int, path: Path, disk: Disk
) -> dict[str, float]:
    """Seconds of every part in one kind of memory."""
    began = time.perf_counter()
    memory = room(size)
    touched = time.perf_counter() - began
    one, two = (copied(training, memory, way) for way in (one_by_one, copy_all))
    before = time.process_time()
    written = timed(lambda: write(path, memory, disk))
    processors = time.process_time() - before
    path.unlink()
    began = time.perf_counter()
    memory.release()
    return {
        "touched": touched,
        "one thread": one,
        "two threads": two,
        "written": written,
        "processors": processors,
        "given back": time.perf_counter() - began,
    }


def copied(training: Training, memory: memoryview, way: Callable[[Sequence[Pair]], None]) -> float:
    """Seconds that a copy into ``memory`` takes, one tensor behind the other, after some training."""
    trained(training)
    pairs: list[Pair] = []
    end = HEAD
    for tensor in walked(training):
        begin, end = end, end + len(tensor.data)
        pairs.append((tensor.data, memory[begin:end]))
    return timed(lambda: way(pairs))


def one_by_one(pairs: Sequence[Pair]) -> None:
    """As ``copy_all``, with one thread."""
    for source, place in pairs:
        copy_bytes(source, place)


def walked(training: Training) -> list[TensorData]:
    """The tensors of the state, where they lie."""
    return live_objects(training.objects).near.tensors


def trained(training: Training) -> None:
    for _ in range(STEPS):
        training.step(training.batch())


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def render(value: dict[str, Any]) -> str:
    """Milliseconds: the walk in a sentence, then by pages."""
    seconds = value["seconds"]
    parts = ("touched", "one thread", "two threads", "written", "processors", "given back")
    head = (
        "pages",
        "first touch, ms",
        "copy, one thread",
        "two",
        "written",
        "of all processors",
        "given back",
    )
    rows = [
        (what, *(spread([1e3 * one for one in seconds[f"{pages}, {part}"]]) for part in parts))
        for pages, what in PAGES.items()
    ]
    walk = spread([1e3 * one for one in seconds["walk"]])
    return f"A state of {value['megabytes']:g} MB. The walk over it: {walk} ms.\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--work", type=Path, help="where the file is written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        found = measure(Path(name), megabytes=wanted.mb, rounds=wanted.rounds)
    value = {"machine": machine(), **found}
    if wanted.out is not None:
        write_evidence("copying", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
