"""The first state of a run that does not begin from its seed alone: tensors of another model put into the rebuilt one.

PROTOCOL section 10, step 8. Both sides of a run use this: ``seal`` to make checkpoint 0, ``verify`` to make it again.
Names are those of the ``state_dict``, escaped, without the prefixes of :data:`polledger.core.published.PREFIXES`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from polledger.core.published import short_names
from polledger.core.state import OUTSIDE, FlatState, TensorData, escape, unescape
from polledger.errors import UsageError

MODEL: Final = "model"
"""The object that takes the tensors: every task builds one of that name (PROTOCOL section 9)."""

_COMPARED = 1 << 20
"""Bytes compared at a time."""

Tensors = Mapping[str, TensorData]
"""Tensors of a ``state_dict`` by name."""


def model_tensors(flat: FlatState, object_name: str) -> dict[str, TensorData]:
    """The tensors of one object of a state as its ``state_dict`` names them; what it leaves out is not among them.

    Raises UsageError if there is no such object, or its ``state_dict`` holds anything but tensors.
    """
    name = escape(object_name)
    structure = next((entry.structure for entry in flat.skeletons if entry.path == name), None)
    if structure is None or structure[0] != "map":
        raise UsageError(f"the state has no object {object_name!r} with named parts")
    pairs = [pair for pair in structure[1] if not pair[0].startswith("#")]
    other = next((key for key, value in pairs if value[0] != "tensor"), None)
    if other is not None:
        raise UsageError(f"{other} of {object_name!r} is no tensor: only tensors can start another run")
    short = short_names([key for key, _ in pairs])
    prefix = f"{name}/"
    found = (tensor for tensor in flat.tensors if tensor.path.startswith(prefix))
    return {
        short[tensor.path.removeprefix(prefix)]: tensor
        for tensor in found
        if not tensor.path.startswith(f"{prefix}{OUTSIDE}/")
    }


def file_tensors(tensors: Sequence[TensorData]) -> dict[str, TensorData]:
    """The same for the tensors of a file, each ``path`` of which is an escaped name."""
    short = short_names([tensor.path for tensor in tensors])
    return {short[tensor.path]: tensor for tensor in tensors}


def start_from(built: FlatState, source: Tensors, *, fresh: Collection[str] = ()) -> FlatState:
    """``built`` with the tensors of ``source`` in its model, but for those that ``fresh`` names.

    A name that ``fresh`` does not list has to be on both sides, in one dtype and shape. Other objects that are copies
    of the model as it was built (an average of its weights, a target network) become copies of it again. Everything
    else stays as built. Raises UsageError naming the first tensor that does not fit, or if ``fresh`` leaves none.
    """
    model = model_tensors(built, MODEL)
    _check_fit(model, source, fresh)
    if model.keys() <= set(fresh):
        raise UsageError("nothing would be taken: every tensor of the model is to keep the value of the seed")
    taken: dict[str, memoryview] = {}
    for tensors in (model, *_copies(built, model)):
        taken |= {tensor.path: source[name].data for name, tensor in tensors.items() if name not in fresh}
    return FlatState(
        skeletons=built.skeletons,
        tensors=[replace(tensor, data=taken.get(tensor.path, tensor.data)) for tensor in built.tensors],
    )


def _check_fit(model: Tensors, source: Tensors, fresh: Collection[str]) -> None:
    for name in sorted((model.keys() | source.keys()) - set(fresh)):
        if name not in source:
            raise UsageError(f"{name} of the model is not in what it starts from")
        if name not in model:
            raise UsageError(f"{name} has no place in the model")
        here, there = model[name], source[name]
        if (here.dtype, here.shape) != (there.dtype, there.shape):
            raise UsageError(f"{name} is {_form(here)} in the model, {_form(there)} in what it starts from")


def _form(tensor: TensorData) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _copies(built: FlatState, model: Tensors) -> list[dict[str, TensorData]]:
    """The tensors of every other object with the model's names, dtypes, shapes and bytes."""
    found = []
    for entry in built.skeletons:
        try:
            tensors = model_tensors(built, str(unescape(entry.path)))
        except UsageError:
            continue
        if entry.path != MODEL and _equal(tensors, model):
            found.append(tensors)
    return found


def _equal(some: Tensors, others: Tensors) -> bool:
    return some.keys() == others.keys() and all(
        (tensor.dtype, tensor.shape) == (others[name].dtype, others[name].shape)
        and _same_bytes(tensor.data, others[name].data)
        for name, tensor in some.items()
    )


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    # A comparison of views goes byte by byte, at a fiftieth of this speed.
    return len(one) == len(other) and all(
        bytes(one[at : at + _COMPARED]) == bytes(other[at : at + _COMPARED])
        for at in range(0, len(one), _COMPARED)
    )
