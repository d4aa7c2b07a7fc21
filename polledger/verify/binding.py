"""Step 10: the published model is the one this run ends with. PROTOCOL section 10, step 10."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from polledger.core.published import model_root, published_entries, published_file, published_model
from polledger.core.records import Final
from polledger.core.replay import ReplayFailed
from polledger.core.report import Finding
from polledger.core.state import FlatState, TensorEntry, state_root, tensor_entries
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import read_bounded
from polledger.store.objects import ObjectStore
from polledger.verify.closeness import TensorDifference, measure
from polledger.verify.filehash import safetensors_root
from polledger.verify.lineage import Lineage
from polledger.verify.modelfile import parse_safetensors
from polledger.verify.states import hash_state, load_state

FILE_BYTES = 1 << 40
"""Largest model file read, 1 TiB: a guard against nonsense, memory is the real bound."""

TENSORS_TOLD = 20
"""Tensors of a file that differ and are reported one by one."""


def step_final(lineage: Lineage, objects: ObjectStore) -> list[Finding]:
    """``final`` names a model that is in the last state. ``pass`` is not required where the last state is missing:
    the last interval is opened anyway and reports that.
    """
    final = lineage.final
    if final is None or not lineage.intervals:
        return []
    try:
        last = load_state(objects, lineage.intervals[-1].end.root)
    except Unavailable as error:
        return [_final("unverifiable", str(error), final)]
    return list(_check_final(final, last.flat))


def _check_final(final: Final, flat: FlatState) -> Iterator[Finding]:
    try:
        root = model_root(flat, final.object)
    except UsageError as error:
        yield _final("fail", f"final names a model that the last state does not have: {error}", final)
        return
    if root != final.model_root:
        yield _final("fail", "the model root of final is not that of the last state", final, root)
    else:
        yield _final("pass", f"final's model root is that of {final.object!r} in the last state", final)


def _final(outcome: Outcome, detail: str, final: Final, expected: bytes | None = None) -> Finding:
    return Finding(
        step=10,
        name="final",
        outcome=outcome,
        detail=detail,
        record=final.index,
        expected=expected.hex() if expected is not None else None,
        found=final.model_root.hex() if expected is not None else None,
        remedy="restore the object from a copy" if outcome == "unverifiable" else None,
    )


ReadModel = Callable[[Path], bytes]
"""Reads a torch file somewhere safe; gives a state file with one object, ``model`` (unverified bytes)."""


def read_published(model: Path, read: ReadModel) -> FlatState:
    """The ``state_dict`` in ``model`` as it is published: ``.safetensors`` is read here, anything else by ``read``.

    Raises UsageError if there is no such file, Unavailable or ReplayFailed if it cannot be read, MalformedError for
    a file that is no ``state_dict``.
    """
    if not model.is_file():
        raise UsageError(f"{model} does not exist: give a .safetensors or .pt file")
    if model.suffix == ".safetensors":
        return published_file(parse_safetensors(read_bounded(model, limit=FILE_BYTES)))
    try:
        return published_model(hash_state(read(model)).flat, "model")
    except UsageError as error:
        raise MalformedError(str(error)) from None


def step_binding(lineage: Lineage, model: Path, read: ReadModel, objects: ObjectStore) -> list[Finding]:
    """Step 10 for a model file. ``pass``: its names, dtypes, shapes and bytes give final's model root.

    A file that does not match contradicts nothing that the prover signed: that is ``unverifiable``, with how far it
    lies from the model. Raises UsageError if there is no such file.
    """
    final = lineage.final
    if final is None:
        return [_binding("unverifiable", "the run has no sealed final record to bind a model to", None)]
    return bind_file(
        model,
        read,
        root=final.model_root,
        record=final.index,
        original=lambda: _last(lineage, final, objects),
    )


def _last(lineage: Lineage, final: Final, objects: ObjectStore) -> FlatState | None:
    """The model that the run ends with; None where its state is not at hand."""
    try:
        state = load_state(objects, lineage.checkpoints[-1].root)
        return published_model(state.flat, final.object)
    except (Unavailable, UsageError):
        return None


def bind_file(
    model: Path,
    read: ReadModel,
    *,
    root: bytes,
    record: int | None,
    original: Callable[[], FlatState | None],
    listed: Sequence[TensorEntry] = (),
) -> list[Finding]:
    """Step 10: whether the file has the model root ``root``; if not, what it is instead.

    ``original`` gives the model itself where it is at hand, ``listed`` what is known of its tensors otherwise.
    """
    try:
        if model.suffix == ".safetensors" and model.is_file() and safetensors_root(model) == root:
            return [_the_model(model, record)]
        # Whoever is told how far a file lies from the model waits for it to be read as a whole.
        published = read_published(model, read)
    except (MalformedError, Unavailable, ReplayFailed) as error:
        remedy = "give the state_dict as .safetensors or .pt"
        return [_binding("unverifiable", f"{model}: {error}", record, remedy=remedy)]
    entries = published_entries(published)
    found = state_root(entries)
    if found == root:
        return [_the_model(model, record)]
    ours = original()
    if ours is not None:
        listed = tensor_entries(ours.tensors)
    closeness = measure(ours, listed, published, [one for one in entries if isinstance(one, TensorEntry)])
    first = _binding(
        "unverifiable",
        f"{model} is not the model this run ends with: {closeness.sentence}",
        record,
        remedy="give the file of the final state_dict, with its names, dtypes and values unchanged",
        expected=root,
        found=found,
    )
    return [first, *(_tensor(one, record) for one in closeness.differing[:TENSORS_TOLD])]


def _the_model(model: Path, record: int | None) -> Finding:
    return _binding("pass", f"{model} is the model this run ends with, tensor by tensor", record)


def _tensor(differing: TensorDifference, record: int | None) -> Finding:
    return Finding(
        step=10,
        name="binding.tensor",
        outcome="unverifiable",
        detail=differing.detail,
        record=record,
        expected=differing.expected,
        found=differing.found,
    )


def _binding(
    outcome: Outcome,
    detail: str,
    record: int | None,
    *,
    remedy: str | None = None,
    expected: bytes | None = None,
    found: bytes | None = None,
) -> Finding:
    return Finding(
        step=10,
        name="binding",
        outcome=outcome,
        detail=detail,
        record=record,
        expected=None if expected is None else expected.hex(),
        found=None if found is None else found.hex(),
        remedy=remedy,
    )
