"""The commitment to a data set: one salted leaf per example, and their root. PROTOCOL section 6.

The leaves are kept as one object named by the root (N times 32 bytes, checked by hashing them again), so that
inclusion of an opened example can be shown without reading the others.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polledger.core.merkle import Frontier, leaf_hash
from polledger.core.records import Dataset
from polledger.core.seeds import example_leaf, salt
from polledger.errors import UsageError
from polledger.helper import Job, Report, Worker
from polledger.machine import usable_cores
from polledger.store.run import RunDirectory
from polledger.training.rehearsal import RunRequest, dataset_size, load_task, parse_request

ENTRY_BYTES = 32

Progress = Callable[[int, int], None]
"""Called with how many examples are done, and how many there are."""

PARALLEL_SECONDS = 10.0
"""A data set that one process reads faster than this is not worth starting others, at about 4 s each."""

REPORT_SECONDS = 0.2
"""How often a helper process hands over what it has."""

IDENTITY_FILES = 100_000
"""Most files whose identity stands for their content; a larger input is read again on resume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedDataset:
    """A data set's commitment and the entries of its leaves, concatenated."""

    dataset: Dataset
    entries: bytes

    def store(self, run: RunDirectory) -> None:
        """Keep the entries as the object named by the root."""
        run.objects.put_named(self.dataset.root, [self.entries])


def hash_dataset(
    data: Any,
    *,
    request: RunRequest,
    secret: bytes,
    seconds_per_example: float = 0.0,
    progress: Progress | None = None,
) -> HashedDataset:
    """Hash every example of ``data``, the task's own ``dataset()``, under the run's secret.

    Large sets are divided among helper processes that load the task themselves; the result is the same.
    Raises UsageError when an example cannot be read or encoded.
    """
    size = dataset_size(data)
    tell = progress or (lambda done, total: None)
    workers = _worker_count(size, seconds_per_example)
    if workers == 1:
        entries = _hash_here(data, size, secret, tell)
    else:
        entries = _hash_in_workers(request, size, secret, tell, workers=workers)
    return commit_entries(entries)


def commit_entries(entries: bytes) -> HashedDataset:
    """The commitment over the concatenated 32-byte ``entries``. Raises UsageError if there are none."""
    if not entries or len(entries) % ENTRY_BYTES:
        raise UsageError(f"{len(entries)} bytes are no list of example leaves")
    tree = Frontier()
    # Never all leaves at once: they would take five times the memory of the entries.
    tree.extend(leaf_hash(entries[at : at + ENTRY_BYTES]) for at in range(0, len(entries), ENTRY_BYTES))
    return HashedDataset(dataset=Dataset(root=tree.root(), size=tree.size), entries=entries)


def hash_examples(data: Any, indices: range, secret: bytes) -> Iterator[bytes]:
    """The entry of each example in turn. Raises UsageError naming the one that cannot be read or encoded."""
    from polledger.training.nest import encode_nest

    for index in indices:
        try:
            chunks = encode_nest(data[index])
        except UsageError as error:
            raise UsageError(f"dataset()[{index}]: {error}") from None
        except (Exception, SystemExit) as error:
            raise UsageError(f"dataset()[{index}] failed: {type(error).__name__}: {error}") from error
        yield example_leaf(salt(secret, "example", index), chunks)


def hash_range(job: Mapping[str, Any], send: Report) -> dict[str, Any]:
    """Runs in a helper process: hash examples ``first`` to ``last − 1``, handing entries over as they come."""
    from polledger.training import determinism

    request = parse_request(job["request"])
    determinism.apply_switches(request.device)
    data = load_task(request).dataset()
    if dataset_size(data) != job["size"]:
        raise UsageError(
            f"dataset() has {dataset_size(data)} examples in one process, {job['size']} in another"
        )
    secret = bytes.fromhex(job["secret"])
    pending: list[bytes] = []
    told = time.monotonic()
    for entry in hash_examples(data, range(job["first"], job["last"]), secret):
        pending.append(entry)
        if time.monotonic() - told >= REPORT_SECONDS:
            send({"entries": b"".join(pending).hex()})
            pending, told = [], time.monotonic()
    send({"entries": b"".join(pending).hex()})
    return {}


def _worker_count(size: int, seconds_per_example: float) -> int:
    cores = usable_cores()
    if cores == 1 or size * seconds_per_example < PARALLEL_SECONDS:
        return 1
    return min(cores, size)


def _hash_here(data: Any, size: int, secret: bytes, tell: Progress) -> bytes:
    entries = bytearray()
    told = 0.0
    for done, entry in enumerate(hash_examples(data, range(size), secret), start=1):
        entries += entry
        if time.monotonic() - told >= REPORT_SECONDS or done == size:
            tell(done, size)
            told = time.monotonic()
    return bytes(entries)


def _hash_in_workers(
    request: RunRequest,
    size: int,
    secret: bytes,
    tell: Progress,
    *,
    workers: int,
) -> bytes:
    """Divide the examples into one stretch per worker; entries come back in pieces."""
    parts = [bytearray() for _ in range(workers)]
    jobs = _jobs(request, size, secret, workers)
    with contextlib.ExitStack() as stack:
        # Left last: its threads end once the workers are closed.
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        running = [stack.enter_context(Worker(job)) for job in jobs]
        futures = [pool.submit(_gather, *pair) for pair in zip(running, parts, strict=True)]
        while True:
            done, pending = wait(futures, timeout=REPORT_SECONDS, return_when=FIRST_EXCEPTION)
            tell(sum(map(len, parts)) // ENTRY_BYTES, size)
            for future in done:
                future.result()
            if not pending:
                return b"".join(parts)


def _jobs(request: RunRequest, size: int, secret: bytes, workers: int) -> list[Job]:
    edges = [size * number // workers for number in range(workers + 1)]
    shared = {"request": request.to_json(), "size": size, "secret": secret.hex()}
    return [
        Job(
            function="polledger.training.dataset:hash_range",
            argument={**shared, "first": first, "last": last},
        )
        for first, last in itertools.pairwise(edges)
    ]


def _gather(worker: Worker, part: bytearray) -> None:
    for message in worker.messages():
        part += bytes.fromhex(message.get("entries", ""))


def data_identity(inputs: Mapping[str, str], task: bytes) -> str | None:
    """A digest over path, size and modification time of every file under ``inputs``, and the task's digest.

    Equal identities stand for equal data where reading everything again would cost too much. None, which stands for
    nothing, if there are too many files, one cannot be looked at, or there are none: the data then come from somewhere
    else. Symbolic links are followed. Not seen: a file that keeps size and time while its content changes.
    """
    total = hashlib.sha256(task)
    count = 0
    try:
        for name, path in sorted(inputs.items()):
            for file in _files(Path(path)):
                count += 1
                if count > IDENTITY_FILES:
                    return None
                found = file.stat()
                line = json.dumps([name, str(file), found.st_size, found.st_mtime_ns])
                total.update(line.encode() + b"\n")
    except OSError:
        return None
    return total.hexdigest() if count else None


def _files(path: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Every file at or below ``path``, in order. Raises OSError where one is gone or a link leads to ``above``."""
    if not path.is_dir():
        yield path
        return
    found = path.stat()
    place = (found.st_dev, found.st_ino)
    if place in above:
        raise OSError(errno.ELOOP, "a folder contains itself", str(path))
    for entry in sorted(path.iterdir()):
        yield from _files(entry, above | {place})
