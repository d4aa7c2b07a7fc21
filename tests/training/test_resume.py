"""Where a run goes on that a crash of the machine cut off: nothing behind what is lost is built upon."""

from pathlib import Path

import pytest
import torch

from polledger.core.records import Checkpoint
from polledger.core.state import encode_state
from polledger.errors import Unavailable
from polledger.store.run import RunDirectory
from polledger.training.resume import _latest_intact
from polledger.training.state import flatten_objects

COUNT = 4


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def stored(run: RunDirectory) -> list[Checkpoint]:
    """A checkpoint after each of the first steps, with its payload."""
    found = []
    for step in range(COUNT):
        encoded = encode_state(flatten_objects({"model": {"w": torch.full((3,), float(step))}}))
        run.objects.put_named(encoded.root, list(encoded.chunks()))
        found.append(Checkpoint(v=1, run=bytes(16), index=step, step=step, root=encoded.root, stored=True))
    return found


@pytest.mark.parametrize(
    ("sealed", "lost", "chosen"),
    [
        (1, (), 3),
        (4, (), 3),
        # Records before a seal had reached the disk with their payloads: only the last has to be looked at.
        (4, (3,), 2),
        (4, (1,), 3),
        # What was not sealed was written in any order: a later payload may be there where an earlier one is not.
        (1, (1,), 0),
        (1, (2,), 1),
        (2, (2,), 1),
        (1, (3,), 2),
    ],
)
def test_the_latest_state_before_which_nothing_is_lost(
    run: RunDirectory, sealed: int, lost: tuple[int, ...], chosen: int
) -> None:
    checkpoints = stored(run)
    for number in lost:
        run.objects.path(checkpoints[number].root).write_bytes(b"")
    found, state = _latest_intact(run, checkpoints, sealed)
    assert found.step == chosen
    assert encode_state(state).root == checkpoints[chosen].root


def test_without_any_intact_state_nothing_goes_on(run: RunDirectory) -> None:
    checkpoints = stored(run)
    for checkpoint in checkpoints:
        run.objects.path(checkpoint.root).unlink()
    with pytest.raises(Unavailable, match="no stored checkpoint"):
        _latest_intact(run, checkpoints, 2)
