"""What a run starts from besides its seed: the end of another run, or a file of tensors. PROTOCOL sections 4 and 10.

The first state is made here as ``verify`` makes it again (core/start.py). What a file holds, or how the parent came
to its end, is not judged here.
"""

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET, UnsetType

from polledger.core.digest import sha256
from polledger.core.head import Head, open_note
from polledger.core.merkle import Frontier, leaf_hash
from polledger.core.records import Checkpoint, Final, Genesis, Parent, parse_genesis, parse_record
from polledger.core.replay import ReplayFailed
from polledger.core.schedule import near
from polledger.core.start import MODEL, Tensors, model_tensors, start_from
from polledger.core.state import FlatState, parse_state
from polledger.errors import EnvironmentMismatch, MalformedError, Unavailable, UsageError
from polledger.files import file_digest
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions
from polledger.training.replay import read_model

if TYPE_CHECKING:
    from polledger.training.runner import Runner

STATE_LIMIT = 1 << 40
"""Bytes of a state file of our own: no limit that a machine could reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The fields of genesis that say what a run starts from."""

    origin: Literal["scratch", "parent", "external"] = "scratch"
    parent: Parent | UnsetType = UNSET
    external: bytes | UnsetType = UNSET
    fresh: list[str] | UnsetType = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was named as the start. ``state``: a whole state to go on from; otherwise ``tensors`` of a model."""

    name: str
    origin: Origin
    tensors: Tensors
    state: FlatState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRun:
    """A finished run, as far as its own head and records say: nothing is replayed."""

    run: RunDirectory
    genesis: Genesis
    head: Head
    final: Final
    root: bytes
    """State root of its last checkpoint."""

    def state(self) -> FlatState:
        """Its final state, every byte hashed. Raises Unavailable."""
        data = self.run.objects.read_state(self.root, limit=STATE_LIMIT)
        try:
            return parse_state(data, root=self.root)
        except MalformedError as error:
            raise Unavailable(f"{self.run.path}: its final state is damaged: {error}") from None


def open_parent(path: Path) -> ParentRun:
    """The finished run at ``path``. Raises UsageError if it is none, Unavailable if it cannot be read as a whole."""
    run = RunDirectory.open(path)
    try:
        return _open_parent(run)
    except MalformedError as error:
        raise Unavailable(f"{path} cannot be started from: {error}") from None


def _open_parent(run: RunDirectory) -> ParentRun:
    seals = run.seals()
    if not seals:
        raise UsageError(f"{run.path} has no seal: a run starts from the end of a finished one")
    records = read_ledger(run.ledger_path).records
    genesis = parse_genesis(records[0] or b"") if records else None
    if genesis is None:
        raise Unavailable(f"{run.ledger_path}: there is no genesis record to read")
    head = open_note(run.read_seal(seals[-1]).note, key=genesis.key)
    _check_root(run, records, head)
    final = parse_record(records[head.size - 1] or b"")
    if not isinstance(final, Final):
        raise UsageError(f"{run.path} is not finished: a run starts from the end of a finished one")
    checkpoint = parse_record(records[final.checkpoint] or b"") if final.checkpoint < head.size else None
    if not isinstance(checkpoint, Checkpoint):
        raise Unavailable(f"{run.path}: its final record names no checkpoint")
    return ParentRun(run=run, genesis=genesis, head=head, final=final, root=checkpoint.root)


def _check_root(run: RunDirectory, records: Sequence[bytes | None], head: Head) -> None:
    tree = Frontier()
    for record in records[: head.size]:
        if record is not None:
            tree.append(leaf_hash(sha256(record)))
    if tree.size != head.size or tree.root() != head.root:
        raise Unavailable(f"{run.path}: the records are not those of its last head: restore it from a copy")


def read_source(options: SealOptions) -> Source | None:
    """What ``options`` name as the start, None for a run that begins from its seed alone.

    Raises UsageError if it is nothing to start from, Unavailable if it cannot be read.
    """
    if options.parent is not None:
        return _parent_source(options.parent, whole=options.whole)
    return None if options.external is None else _file_source(options.external)


def _parent_source(path: Path, *, whole: bool) -> Source:
    found = open_parent(path)
    state = found.state()
    return Source(
        name=str(path),
        origin=Origin(origin="parent", parent=_named(found, whole=whole)),
        tensors={} if whole else model_tensors(state, found.final.object),
        state=state if whole else None,
    )


def _named(found: ParentRun, *, whole: bool) -> Parent:
    return Parent(head=found.head.digest(), mode="continue" if whole else "model")


def _file_source(path: Path) -> Source:
    if not path.is_file():
        raise UsageError(f"--external {path}: there is no such file")
    digest = file_digest(path)
    try:
        root, state = read_model(path)
        tensors = model_tensors(parse_state(state, root=root), MODEL)
    except (ReplayFailed, MalformedError, UsageError) as error:
        raise UsageError(f"--external {path}: {error}") from None
    return Source(name=str(path), origin=Origin(origin="external", external=digest), tensors=tensors)


def start(runner: "Runner", source: Source, patterns: Sequence[str]) -> Origin:
    """Bring freshly built objects into the first state that ``source`` gives; the fields of genesis that say so.

    ``patterns``: names that keep the value of the seed, or are left out. Raises UsageError naming the first tensor that
    does not fit.
    """
    fresh: list[str] = []
    try:
        state = source.state
        if state is None:
            built = runner.flatten()
            fresh = _matching(patterns, model_tensors(built, MODEL).keys() | source.tensors.keys())
            state = start_from(built, source.tensors, fresh=fresh)
        runner.load(state)
    except (UsageError, EnvironmentMismatch) as error:
        raise UsageError(f"the task cannot start from {source.name}: {error}") from None
    return replace(source.origin, fresh=fresh or UNSET)


def check_resumed(options: SealOptions, genesis: Genesis) -> None:
    """Raise UsageError if ``options`` name another start than that of the run they continue."""
    same = True
    if options.parent is not None:
        same = genesis.parent == _named(open_parent(options.parent), whole=options.whole)
    if options.external is not None:
        same = genesis.external == file_digest(options.external)
    kept = [] if isinstance(genesis.fresh, UnsetType) else genesis.fresh
    if options.fresh:
        same = same and kept == _matching(options.fresh, kept)
    if not same:
        raise UsageError("this run starts from something else: a resumed run keeps its origin")


def _matching(patterns: Sequence[str], names: Collection[str]) -> list[str]:
    """The ``names`` that one of ``patterns`` fits, ascending; every pattern has to fit one."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--fresh {pattern} fits no tensor{near(pattern, names)}")
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
