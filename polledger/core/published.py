"""The model as it is published: an object of a state, or a file, by its own names, and its root. PROTOCOL section 5."""

from collections.abc import Callable, Sequence
from typing import Any

from polledger.core.state import (
    OUTSIDE,
    Entry,
    FlatState,
    SkeletonEntry,
    TensorData,
    TensorEntry,
    state_root,
    tensor_entries,
)
from polledger.core.structure import Structure, escape, join
from polledger.errors import UsageError

PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile, DataParallel and AveragedModel put before every name of a module."""


def published_model(flat: FlatState, object_name: str) -> FlatState:
    """One object as it is published, without the object's name.

    A ``_orig_mod.`` or ``module.`` prefix is taken off, and tensors outside the ``state_dict`` are left out, so that
    a file of the ``state_dict`` gives the same (:func:`published_file`). Raises UsageError if there is no such object.
    """
    name = escape(object_name)
    structures = [entry.structure for entry in flat.skeletons if entry.path == name]
    if len(structures) != 1 or structures[0][0] != "map":
        raise UsageError(f"the state has no object {object_name!r} with named parts")
    # Keys that are no texts hold what a state_dict leaves out.
    pairs = [pair for pair in structures[0][1] if not pair[0].startswith("#")]
    inside = [tensor for tensor in flat.tensors if tensor.path.startswith(name + "/")]
    outside = f"{name}/{OUTSIDE}/"
    return _published(pairs, [tensor for tensor in inside if not tensor.path.startswith(outside)], name)


def published_file(tensors: Sequence[TensorData]) -> FlatState:
    """A model read from a file; each ``path`` is the escaped name in the ``state_dict``.

    Has the root of :func:`published_model` if and only if names (without prefix), dtypes, shapes and bytes are equal.
    A ``state_dict`` that holds more than tensors has no such file.
    """
    inside = [_moved(tensor, join("model", tensor.path)) for tensor in tensors]
    pairs = [[tensor.path, ["tensor", join("model", tensor.path)]] for tensor in tensors]
    return _published(pairs, inside, "model")


def published_entries(published: FlatState) -> list[Entry]:
    """The entries of a published model; :func:`state_root` of them is its model root."""
    return [*published.skeletons, *tensor_entries(published.tensors)]


def model_root(flat: FlatState, object_name: str) -> bytes:
    """Root of :func:`published_model`."""
    return state_root(published_entries(published_model(flat, object_name)))


def file_root(tensors: Sequence[TensorData]) -> bytes:
    """Root of :func:`published_file`."""
    return state_root(published_entries(published_file(tensors)))


def flat_model_root(tensors: Sequence[TensorEntry]) -> bytes:
    """Root of the model that consists of ``tensors`` and nothing else, each under the path in its entry."""
    structure = ["map", sorted([entry.path, ["tensor", entry.path]] for entry in tensors)]
    return state_root([SkeletonEntry(v=1, path="", structure=structure), *tensors])


def _published(pairs: list[list[Any]], tensors: list[TensorData], name: str) -> FlatState:
    short = short_names([key for key, _ in pairs])

    def renamed(path: str) -> str:
        key, *rest = path.removeprefix(name + "/").split("/")
        return "/".join([short[key], *rest])

    structure = ["map", sorted([short[key], _with_paths(item, renamed)] for key, item in pairs)]
    return FlatState(
        skeletons=[SkeletonEntry(v=1, path="", structure=structure)],
        tensors=[_moved(tensor, renamed(tensor.path)) for tensor in tensors],
    )


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key of a ``state_dict`` without its prefixes; all keys as they are if two would become one."""
    short = {key: _without_prefix(key) for key in keys}
    return short if len(set(short.values())) == len(keys) else {key: key for key in keys}


def _without_prefix(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key[key.index(".") + 1 :]
    return key


def _with_paths(structure: Structure, renamed: Callable[[str], str]) -> Structure:
    tag = structure[0]
    if tag == "tensor":
        return [tag, renamed(structure[1])]
    if tag in ("list", "tuple"):
        return [tag, [_with_paths(item, renamed) for item in structure[1]]]
    if tag == "map":
        return [tag, [[key, _with_paths(item, renamed)] for key, item in structure[1]]]
    return structure


def _moved(tensor: TensorData, path: str) -> TensorData:
    return TensorData(path=path, dtype=tensor.dtype, shape=tensor.shape, data=tensor.data)
