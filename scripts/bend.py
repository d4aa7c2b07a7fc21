#!/usr/bin/env python3
"""Makes a well-formed lie out of an honest run, to show what only replay can find.

    scripts/bend.py RUN BENT --key FILE

The second half of the training is thrown away and made up: every checkpoint between the middle and the end becomes a
point on the straight line between these two states, as if training had moved there. Then everything is signed and
time-stamped again with the run's own key and the embedded authority. No digest, signature, tree or schedule
is wrong in the result, and the published model is the honest one. RUN stays as it is.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from polledger.core.head import parse_note
from polledger.core.records import AnyRecord, Checkpoint, Final, Genesis, parse_record
from polledger.core.state import FlatState, TensorData, encode_state, parse_state
from polledger.errors import PolledgerError, Unavailable, UsageError
from polledger.keys import load_or_create_key
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training.sealer import Sealer, encode_record
from polledger.training.stamping import Stamping, choose_authorities

STATE_LIMIT = 1 << 32
"""Bytes of a state file that this reads at most: 4 GiB."""


def read_records(run: RunDirectory) -> list[AnyRecord]:
    scan = read_ledger(run.ledger_path)
    if scan.damage is not None:
        raise Unavailable(f"record {scan.damage.index} of {run.ledger_path} is damaged: {scan.damage.reason}")
    return [parse_record(data) for data in scan.records if data is not None]


def load_state(run: RunDirectory, checkpoint: Checkpoint) -> FlatState:
    return parse_state(run.objects.read(checkpoint.root, limit=STATE_LIMIT), root=checkpoint.root)


def between(first: FlatState, last: FlatState, share: float) -> FlatState:
    """The state ``share`` of the way from ``first`` to ``last``; dtypes other than float32 and int64 as in ``last``."""
    start = {tensor.path: tensor for tensor in first.tensors}
    return FlatState(
        skeletons=last.skeletons,
        tensors=[blend(start[tensor.path], tensor, share) for tensor in last.tensors],
    )


def blend(first: TensorData, last: TensorData, share: float) -> TensorData:
    if last.dtype not in ("float32", "int64"):
        return last
    kind = "<f4" if last.dtype == "float32" else "<i8"
    a, b = (np.frombuffer(tensor.data, dtype=kind).astype("<f8") for tensor in (first, last))
    mixed = a + share * (b - a)
    mixed = (mixed if kind == "<f4" else mixed.round()).astype(kind)
    return TensorData(path=last.path, dtype=last.dtype, shape=last.shape, data=memoryview(mixed.tobytes()))


def interpolated(run: RunDirectory, checkpoints: Sequence[Checkpoint]) -> dict[int, Checkpoint]:
    """The checkpoints to put in place of those in the second half, by record index; their states are stored."""
    middle, end = checkpoints[len(checkpoints) // 2], checkpoints[-1]
    first, last = load_state(run, middle), load_state(run, end)
    bent = {}
    for checkpoint in checkpoints[len(checkpoints) // 2 + 1 : -1]:
        share = (checkpoint.step - middle.step) / (end.step - middle.step)
        encoded = encode_state(between(first, last, share))
        run.objects.put_named(encoded.root, list(encoded.chunks()))
        bent[checkpoint.index] = msgspec.structs.replace(checkpoint, root=encoded.root, stored=True)
    return bent


def reseal(
    run: RunDirectory,
    records: Sequence[AnyRecord],
    bent: Mapping[int, Checkpoint],
    *,
    sizes: set[int],
    key: Path,
) -> None:
    """Write ledger and seals anew, signed and time-stamped, with the same number of records under each head."""
    run.ledger_path.write_bytes(b"")
    shutil.rmtree(run.path / "seals")
    (run.path / "seals").mkdir()
    stamping = Stamping(
        run, choose_authorities([]), warn=lambda text: print(f"warning: {text}", file=sys.stderr)
    )
    sealer = Sealer.create(run, records[0].run, load_or_create_key(key), stamp=stamping.stamp)
    for record in records:
        sealer.append(encode_record(bent.get(record.index, record)))
        if sealer.size in sizes:
            sealer.seal()
    sealer.close()
    stamping.close()


def bend(source: Path, target: Path, key: Path) -> int:
    """Write the bent copy of the run ``source`` to ``target``; how many checkpoints were made up."""
    RunDirectory.open(source)
    if target.exists():
        raise UsageError(f"{target} exists already")
    shutil.copytree(source, target)
    run = RunDirectory.open(target)
    records = read_records(run)
    sizes = sealed_sizes(run)
    checkpoints = [record for record in records if isinstance(record, Checkpoint)]
    if not isinstance(records[-1], Final) or not isinstance(records[0], Genesis) or len(checkpoints) < 4:
        raise UsageError(f"{source} is not a finished run with at least four checkpoints")
    with run.lock():
        bent = interpolated(run, checkpoints)
        run.objects.sync()
        reseal(run, records, bent, sizes=sizes, key=key)
    return len(bent)


def sealed_sizes(run: RunDirectory) -> set[int]:
    return {parse_note(run.read_seal(index).note).head.size for index in run.seals()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a well-formed lie out of an honest run.")
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("bent", type=Path, help="where the bent copy goes; must not exist")
    parser.add_argument("--key", type=Path, required=True, help="the private key that signed the run")
    arguments = parser.parse_args()
    try:
        count = bend(arguments.run, arguments.bent, arguments.key)
    except PolledgerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(
        f"{arguments.bent}: {count} checkpoints of the second half made up, everything signed and stamped again"
    )


if __name__ == "__main__":
    main()
