"""Where the run lies that another one starts from: what the user named, or what ``run.toml`` hints at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from polledger.cli.code import CodeOptions
from polledger.core.head import parse_note
from polledger.core.records import Genesis, parse_genesis
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.ledger import iter_records
from polledger.store.run import RunDirectory, hinted_origin
from polledger.verify.ancestry import FindRun, FoundRun
from polledger.verify.evidence import read_evidence

LoadCode = Callable[[RunDirectory, CodeOptions], Callable[[Any], Any]]
"""Gives what decides, for one run and these options, whether its code may run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """The runs that the user named, and how the code of one is loaded."""

    runs: tuple[RunDirectory, ...]
    options: CodeOptions
    load: LoadCode

    @classmethod
    def given(cls, paths: Sequence[Path], options: CodeOptions, load: LoadCode) -> "Parents":
        """Raises UsageError for a path that is no run."""
        runs = tuple(RunDirectory.open(path) for path in paths)
        return cls(runs=runs, options=replace(options, chain=True), load=load)

    def of(self, run: RunDirectory) -> FindRun:
        """Looks for the parent of ``run``."""

        def find(head: bytes) -> FoundRun | None:
            found = next((item for item in self._candidates(run) if has_head(item, head)), None)
            return None if found is None else self._found(found)

        return find

    def _candidates(self, run: RunDirectory) -> Iterator[RunDirectory]:
        yield from self.runs
        hinted = hinted_run(run)
        if hinted is not None:
            yield hinted

    def _found(self, run: RunDirectory) -> FoundRun:
        return FoundRun(
            name=str(run.path),
            evidence=read_evidence(run),
            load_code=self.load(run, self.options),
            find=self.of(run),
        )


def hinted_run(run: RunDirectory) -> RunDirectory | None:
    """The run at which the hints of ``run`` point, None where they do not or there is none."""
    path = hinted_origin(run, "parent")
    try:
        return None if path is None else RunDirectory.open(path)
    except (UsageError, Unavailable):
        return None


def genesis_of(run: RunDirectory) -> Genesis:
    """The genesis record of ``run``. Raises Unavailable or MalformedError when there is none to read."""
    first = next(iter_records(run.ledger_path), None)
    if not isinstance(first, bytes):
        raise Unavailable(f"{run.ledger_path}: there is no genesis record to read")
    return parse_genesis(first)


def hinted_parent_run(run: RunDirectory, genesis: Genesis) -> tuple[RunDirectory, Genesis] | None:
    """The run that ``genesis`` names as its parent, by its bytes, if the hints of ``run`` lead to it."""
    parent = hinted_run(run)
    if parent is None or isinstance(genesis.parent, UnsetType) or not has_head(parent, genesis.parent.head):
        return None
    try:
        return parent, genesis_of(parent)
    except (MalformedError, Unavailable):
        return None


def has_head(run: RunDirectory, head: bytes) -> bool:
    """Whether a seal of ``run`` has the head of that digest, by its bytes: no signature is checked."""
    try:
        numbers = run.seals()
    except Unavailable:
        return False
    # The end of a run is what others start from.
    return any(_head_digest(run, number) == head for number in reversed(numbers))


def _head_digest(run: RunDirectory, number: int) -> bytes:
    try:
        return parse_note(run.read_seal(number).note).head.digest()
    except (MalformedError, Unavailable):
        return b""
