#!/usr/bin/env python3
"""Makes a well-formed lie out of an honest run, to show what only replay can find.

    scripts/bend.py RUN BENT --key FILE

The second half of the training is thrown away and made up: every checkpoint between the middle and the end becomes a
point on the straight line between these two states, as if training had moved there. Then everything is signed and
time-stamped again with the run's own key and the embedded authority. No digest, signature, tree or schedule
is wrong in the result, and the published model is the honest one. RUN stays as it is.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from polledger.core.records import AnyRecord, Checkpoint, Final
from polledger.core.state import EncodedState, FlatState, TensorData, encode_state, parse_state
from polledger.errors import PolledgerError, UsageError
from polledger.keys import load_key
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.store.run import RunDirectory

STATE_LIMIT = 1 << 32
"""Bytes of a state file that this reads at most: 4 GiB."""


def load_state(run: RunDirectory, checkpoint: Checkpoint) -> FlatState:
    return parse_state(run.objects.read_state(checkpoint.root, limit=STATE_LIMIT), root=checkpoint.root)


def between(first: FlatState, last: FlatState, share: float) -> FlatState:
    """The state ``share`` of the way from ``first`` to ``last``; dtypes other than float32 and int64 as in ``last``.

    What ``first`` lacks, such as an optimizer's slots before its first step, is zero there.
    """
    start = {tensor.path: tensor for tensor in first.tensors}
    return FlatState(
        skeletons=last.skeletons,
        tensors=[blend(start.get(tensor.path) or zeros(tensor), tensor, share) for tensor in last.tensors],
    )


def zeros(like: TensorData) -> TensorData:
    return replace(like, data=memoryview(bytes(len(like.data))))


def blend(first: TensorData, last: TensorData, share: float) -> TensorData:
    if last.dtype not in ("float32", "int64"):
        return last
    kind = "<f4" if last.dtype == "float32" else "<i8"
    a, b = (np.frombuffer(tensor.data, dtype=kind).astype("<f8") for tensor in (first, last))
    mixed = a + share * (b - a)
    mixed = (mixed if kind == "<f4" else mixed.round()).astype(kind)
    return TensorData(path=last.path, dtype=last.dtype, shape=last.shape, data=memoryview(mixed.tobytes()))


def interpolated(
    run: RunDirectory, checkpoints: Sequence[Checkpoint], *, first_bent: int
) -> dict[int, EncodedState]:
    """The states to put in place of those after checkpoint ``first_bent``, by record index."""
    middle, end = checkpoints[first_bent], checkpoints[-1]
    first, last = load_state(run, middle), load_state(run, end)
    return {
        checkpoint.index: encode_state(
            between(first, last, (checkpoint.step - middle.step) / (end.step - middle.step))
        )
        for checkpoint in checkpoints[first_bent + 1 : -1]
    }


def bend(source: Path, target: Path, key: Path, *, share: float = 0.5) -> int:
    """Write the bent copy of the run ``source`` to ``target``; how many checkpoints were made up.

    The first ``share`` of the checkpoints stays honest.
    """
    run = RunDirectory.open(source)
    records = read_records(run)
    checkpoints = [record for record in records if isinstance(record, Checkpoint)]
    if not isinstance(records[-1], Final) or len(checkpoints) < 4:
        raise UsageError(f"{source} is not a finished run with at least four checkpoints")
    bent = interpolated(run, checkpoints, first_bent=int(len(checkpoints) * share))

    def edit(honest: list[AnyRecord]) -> list[AnyRecord]:
        return [
            msgspec.structs.replace(record, root=bent[record.index].root, stored=True)
            if isinstance(record, Checkpoint) and record.index in bent
            else record
            for record in honest
        ]

    rewrite_run(source, target, key=load_key(key), edit=edit, states=bent.values())
    return len(bent)


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
