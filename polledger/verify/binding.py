"""Step 10: the published model is the one this run ends with. PROTOCOL section 10, step 10."""

from collections.abc import Callable, Iterator
from pathlib import Path

from polledger.core.records import Final
from polledger.core.replay import ReplayFailed
from polledger.core.report import Finding
from polledger.core.state import FlatState, file_root, model_root
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import read_bounded
from polledger.store.objects import ObjectStore
from polledger.verify.lineage import Lineage
from polledger.verify.modelfile import parse_safetensors
from polledger.verify.states import hash_state, load_state

FILE_BYTES = 1 << 40
"""Largest model file read, 1 TiB: a guard against nonsense, memory is the real bound."""


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


def _final(outcome: str, detail: str, final: Final, expected: bytes | None = None) -> Finding:
    return Finding(
        step=10,
        name="final",
        outcome=outcome,  # type: ignore[arg-type]
        detail=detail,
        record=final.index,
        expected=expected.hex() if expected is not None else None,
        found=final.model_root.hex() if expected is not None else None,
        remedy="restore the object from a copy" if outcome == "unverifiable" else None,
    )


ReadModel = Callable[[Path], bytes]
"""Reads a torch file somewhere safe; gives a state file with one object, ``model`` (unverified bytes)."""


def published_root(model: Path, read: ReadModel) -> bytes:
    """Model root of the ``state_dict`` in ``model``: ``.safetensors`` is read here, anything else by ``read``.

    Raises UsageError if there is no such file, Unavailable or ReplayFailed if it cannot be read, MalformedError for
    a file that is no ``state_dict``.
    """
    if not model.is_file():
        raise UsageError(f"{model} does not exist: give a .safetensors or .pt file")
    if model.suffix == ".safetensors":
        return file_root(parse_safetensors(read_bounded(model, limit=FILE_BYTES)))
    try:
        return model_root(hash_state(read(model)).flat, "model")
    except UsageError as error:
        raise MalformedError(str(error)) from None


def step_binding(lineage: Lineage, model: Path, read: ReadModel) -> Finding:
    """Step 10 for a model file. ``pass``: its names, dtypes, shapes and bytes give final's model root.

    A file that does not match contradicts nothing that the prover signed: that is ``unverifiable``. Raises UsageError
    if there is no such file.
    """
    final = lineage.final
    if final is None:
        return _binding("unverifiable", "the run has no sealed final record to bind a model to", None)
    try:
        root = published_root(model, read)
    except (MalformedError, Unavailable, ReplayFailed) as error:
        return _binding(
            "unverifiable", f"{model}: {error}", final, remedy="give the state_dict as .safetensors or .pt"
        )
    if root == final.model_root:
        return _binding("pass", f"{model} is the model this run ends with, tensor by tensor", final)
    return _binding(
        "unverifiable",
        f"{model} is not the model this run ends with",
        final,
        remedy="give the file of the final state_dict, with its names, dtypes and values unchanged",
        found=root,
    )


def _binding(
    outcome: str, detail: str, final: Final | None, *, remedy: str | None = None, found: bytes | None = None
) -> Finding:
    return Finding(
        step=10,
        name="binding",
        outcome=outcome,  # type: ignore[arg-type]
        detail=detail,
        record=final.index if final else None,
        expected=final.model_root.hex() if final and found is not None else None,
        found=found.hex() if found is not None else None,
        remedy=remedy,
    )
