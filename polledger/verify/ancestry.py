"""What a run starts from besides its seed: the end of another run, or a file. PROTOCOL section 10, step 8.

A parent is named by the digest of one of its heads, so what lies at a path is that run or it is not, and no chain of
parents can be a circle. docs/decisions/0039.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UnsetType

from polledger.core.head import Head
from polledger.core.records import Genesis
from polledger.core.replay import ReplayFailed
from polledger.core.report import Finding, Report, sentence
from polledger.core.reportform import OriginForm
from polledger.core.start import MODEL, Tensors, file_tensors, model_tensors, start_from
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import file_digest, read_bounded
from polledger.store.objects import ObjectStore
from polledger.verify.binding import FILE_BYTES, ReadModel
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.modelfile import parse_safetensors
from polledger.verify.states import LoadedState, encode_file, hash_state, load_state

if TYPE_CHECKING:
    from polledger.verify.request import Code

ANCESTORS: Final = 16
"""Parents in a row that are followed: each is verified in full, and nobody names the presenter's thousandth."""

PARENT: Final = "origin.parent"

_GIVE_PARENT = "give the directory of that run with --parent"
_GIVE_FILE = "give that file with --external"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run that has the wanted head among its seals, by the words of its files: nothing of it was verified.

    ``find`` looks for its own parent, ``load_code`` decides whether its code may run.
    """

    name: str
    evidence: Evidence
    load_code: "Callable[[Genesis], Code]"
    find: "FindRun"


FindRun = Callable[[bytes], FoundRun | None]
"""Looks for a run by the digest of one of its heads."""


def nowhere(head: bytes) -> None:
    """A verifier that has no other run."""
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What checkpoint 0 takes from elsewhere: ``tensors`` of a model but for ``fresh``, or a whole ``state``.

    ``what`` names it in a sentence. ``problem`` says why nothing is known about it, ``remedy`` what to do.
    """

    what: str = ""
    tensors: Tensors = field(default_factory=dict)
    fresh: Sequence[str] = ()
    state: LoadedState | None = None
    problem: str = ""
    remedy: str = ""

    def first_state(self, built: LoadedState) -> LoadedState:
        """Checkpoint 0 as it has to be, from what the seed gives. Raises UsageError where the two do not fit."""
        if self.state is not None:
            return self.state
        flat = start_from(built.flat, self.tensors, fresh=self.fresh)
        data, root = encode_file(flat)
        return LoadedState(root=root, data=data, flat=flat)


def too_deep() -> Start:
    """The start of a run whose parents are not followed any further."""
    return Start(
        problem=f"more than {ANCESTORS} runs start from each other, and no more are followed",
        remedy="verify the parent by itself, and read its report",
    )


def missing_parent(head: bytes) -> Start:
    """The start of a run whose parent is not at hand."""
    return Start(
        problem=f"the run starts from another run's model, that of head {head.hex()}, which is not at hand",
        remedy=_GIVE_PARENT,
    )


def find_head(heads: Heads, digest: bytes) -> Head | None:
    """The head of that digest if it is signed by the run's key and that of its records."""
    return next((item.head for item in heads.heads if item.matches and item.head.digest() == digest), None)


def parent_start(genesis: Genesis, heads: Heads, lineage: Lineage | None, objects: ObjectStore) -> Start:
    """What ``genesis`` takes from the run that ``heads`` and ``lineage`` are of; its own verdict is another matter."""
    parent = genesis.parent
    named = None if isinstance(parent, UnsetType) else find_head(heads, parent.head)
    if isinstance(parent, UnsetType) or named is None or lineage is None:
        return Start(
            problem="the parent's records do not give the head that genesis names", remedy=_GIVE_PARENT
        )
    # What the parent's owner sealed after that head is no part of what the run starts from: it could refute the run.
    lineage = build_lineage(lineage.genesis, heads.records[: named.size])
    final = lineage.final
    if final is None or not lineage.checkpoints:
        return Start(
            problem="the head that genesis names does not cover the end of the parent run",
            remedy="a run starts from the end of a finished one",
        )
    run = f"run {lineage.genesis.run.hex()}"
    try:
        state = load_state(objects, lineage.checkpoints[-1].root)
        if parent.mode == "continue":
            return Start(what=f"the final state of {run}", state=state)
        tensors = model_tensors(state.flat, final.object)
    except (Unavailable, UsageError) as error:
        return Start(
            problem=f"the final model of {run} cannot be read: {error}", remedy="restore it from a copy"
        )
    return Start(what=f"the final model of {run}", tensors=tensors, fresh=_fresh(genesis))


def _fresh(genesis: Genesis) -> Sequence[str]:
    return () if isinstance(genesis.fresh, UnsetType) else genesis.fresh


def external_start(genesis: Genesis, file: Path | None, read: ReadModel) -> Start:
    """What ``genesis`` takes from a file; the verifier's own copy of it, as nobody else's can be told from another."""
    wanted = b"" if isinstance(genesis.external, UnsetType) else genesis.external
    if file is None:
        text = f"the run starts from an external file, sha256 {wanted.hex()}, which is not at hand"
        return Start(problem=text, remedy=_GIVE_FILE)
    if not file.is_file():
        raise UsageError(f"--external {file}: there is no such file")
    try:
        digest = file_digest(file)
        if digest != wanted:
            text = f"{file} has sha256 {digest.hex()}, genesis names {wanted.hex()}"
            return Start(problem=text, remedy=_GIVE_FILE)
        tensors = _read_tensors(file, read)
    except (MalformedError, Unavailable, ReplayFailed, UsageError) as error:
        return Start(problem=f"{file}: {error}", remedy="give it where it can be read")
    what = f"the external file of sha256 {digest.hex()}"
    return Start(what=what, tensors=tensors, fresh=_fresh(genesis))


def _read_tensors(file: Path, read: ReadModel) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return file_tensors(parse_safetensors(read_bounded(file, limit=FILE_BYTES)))
    return model_tensors(hash_state(read(file)).flat, MODEL)


def parent_finding(genesis: Genesis, parent: Genesis | None, report: Report) -> Finding:
    """What the parent's own verdict says about this run.

    Who signed both is refuted by either. A parent of somebody else's that is refuted shows only that the start is
    not what a training gave: its owner may have spoilt it afterwards, and that is nobody's lie here.
    """
    said = f"the parent run {report.run}: {sentence(report)}"
    if report.verdict == "VERIFIED":
        return Finding(step=8, name=PARENT, outcome="pass", detail=said)
    refuted = report.verdict == "REFUTED" and parent is not None and parent.key == genesis.key
    return Finding(
        step=8,
        name=PARENT,
        outcome="fail" if refuted else "unverifiable",
        detail=said,
        record=0 if refuted else None,
        remedy=None if refuted else "verify the parent by itself: what it lacks, this run lacks",
    )


def describe_origin(genesis: Genesis) -> OriginForm:
    """The ``origin`` object of a report, as far as genesis tells."""
    found: OriginForm = {"kind": genesis.origin}
    if not isinstance(genesis.parent, UnsetType):
        found["head"], found["mode"] = genesis.parent.head.hex(), genesis.parent.mode
    if not isinstance(genesis.external, UnsetType):
        found["sha256"] = genesis.external.hex()
    if _fresh(genesis):
        found["fresh"] = list(_fresh(genesis))
    return found


def describe_parent(report: Report) -> OriginForm:
    """What the report of the child says about the parent's."""
    return {
        "run": report.run,
        "verdict": report.verdict,
        "sentence": sentence(report),
        "origin": report.origin,
    }
