"""Live objects to a flat state and back, bit for bit. PROTOCOL section 5.

Loading does what ``load_state_dict`` leaves undone: optimizer slots keep their recorded dtype, non-persistent
buffers are restored, and afterwards the objects are flattened again and compared with what was to be loaded.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polledger.core.records import StateObject
from polledger.core.state import FlatState, SkeletonEntry, TensorData
from polledger.core.structure import Structure, check_structure, decode_value, encode_value, escape, join
from polledger.errors import EnvironmentMismatch
from polledger.training.attributes import (
    ATTRIBUTES_KEY,
    TRAINS_KEY,
    Traits,
    changed_traits,
    restore_traits,
    traits_of,
)
from polledger.training.snapshot import FarTensor, LiveState
from polledger.training.tensors import (
    check_plain,
    is_whole,
    plain_bytes,
    plain_view,
    tensor_from_bytes,
)

OUTSIDE_KEY = 0
"""Key of the tensors of a module that its ``state_dict`` leaves out; names in a ``state_dict`` are always str."""


def kind_of_object(value: Any) -> str:
    """``module``, ``optimizer`` or ``other``."""
    if isinstance(value, nn.Module):
        return "module"
    return "optimizer" if isinstance(value, torch.optim.Optimizer) else "other"


def values_of(value: Any, built: Traits | None = None) -> Any:
    """The nested values of one object: its ``state_dict()``, for a module with everything that lacks there.

    ``built``: the module as it was built; what differs from it besides tensors is added. Plain containers stand for
    themselves.
    """
    if isinstance(value, nn.Module):
        values: dict[Any, Any] = dict(value.state_dict())
        outside = {name: tensor for name, tensor in _tensors_of(value) if name not in values}
        if outside:
            values[OUTSIDE_KEY] = outside
        return values if built is None else {**values, **changed_traits(value, built)}
    return value.state_dict() if hasattr(value, "state_dict") else value


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def traits_of_objects(objects: Mapping[str, Any]) -> dict[str, Traits]:
    """The traits of every module among ``objects``, to be taken right after they were built."""
    return {name: traits_of(value) for name, value in objects.items() if isinstance(value, nn.Module)}


def flatten_objects(objects: Mapping[str, Any], built: Mapping[str, Traits] | None = None) -> FlatState:
    """The whole state of ``objects``; ``data`` are views of live tensors where those lie contiguous on the CPU.

    Tensors that share memory and shape (tied weights) share one ``data``. Gradients are not touched and not part of
    it. ``built``: modules as they were built, by name; without it nothing but tensors of a module is recorded. Raises
    UsageError naming the path of anything that cannot be recorded.
    """
    reader = _Reader()
    return FlatState(skeletons=reader.skeletons(objects, built), tensors=_by_path(reader.tensors))


def live_objects(objects: Mapping[str, Any], built: Mapping[str, Traits] | None = None) -> LiveState:
    """As :func:`flatten_objects`; what lies on an accelerator is left there."""
    reader = _Reader(leave=True)
    near = FlatState(skeletons=reader.skeletons(objects, built), tensors=_by_path(reader.tensors))
    return LiveState(near=near, far=reader.far)


def _by_path(tensors: list[TensorData]) -> list[TensorData]:
    return sorted(tensors, key=lambda tensor: tensor.path)


class _Reader:
    """Reads objects; with ``leave`` tensors that are not on the CPU are not fetched."""

    def __init__(self, *, leave: bool = False) -> None:
        self.tensors: list[TensorData] = []
        self.far: list[FarTensor] = []
        self._leave = leave
        # Tied weights: equal memory has equal bytes, whatever its dtype and shape.
        self._views: dict[tuple[int, int], memoryview] = {}
        self._far: dict[tuple[torch.device, int, int], Tensor] = {}

    def skeletons(
        self, objects: Mapping[str, Any], built: Mapping[str, Traits] | None
    ) -> list[SkeletonEntry]:
        """The structure of every object, by name; what tensors they have is kept here."""
        found = []
        for name, value in sorted(objects.items()):
            path = escape(name)
            values = values_of(value, (built or {}).get(name))
            structure = encode_value(values, path, self.leaf, ordered=True, exact=False)
            found.append(SkeletonEntry(v=1, path=path, structure=structure))
        return found

    def leaf(self, value: Any, path: str) -> Structure | None:
        if isinstance(value, Tensor):
            self._add(value, path)
            return ["tensor", path]
        if isinstance(value, np.generic):
            return encode_value(value.item(), path, _no_leaf, ordered=True, exact=True)
        return None

    def _add(self, tensor: Tensor, path: str) -> None:
        dtype, shape = check_plain(tensor, path), tuple(tensor.shape)
        if self._leave and not tensor.is_cpu and tensor.numel():
            self.far.append(FarTensor(path=path, dtype=dtype, shape=shape, data=self._left(tensor)))
        else:
            self.tensors.append(TensorData(path=path, dtype=dtype, shape=shape, data=self._data(tensor)))

    def _left(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not is_whole(tensor):
            return tensor
        return self._far.setdefault((tensor.device, tensor.data_ptr(), tensor.nbytes), tensor)

    def _data(self, tensor: Tensor) -> memoryview:
        view = plain_view(tensor)
        if view is None:
            return plain_bytes(tensor)
        return self._views.setdefault((tensor.data_ptr(), len(view)), view)


def _no_leaf(value: Any, path: str) -> Structure | None:
    return None


def describe_objects(objects: Mapping[str, Any]) -> list[StateObject]:
    """How the entries of every object fall into groups, by name in ascending order."""
    return [_describe(name, value) for name, value in sorted(objects.items())]


def _describe(name: str, value: Any) -> StateObject:
    if not isinstance(value, nn.Module):
        kind: Any = kind_of_object(value)
        return StateObject(name=name, kind=kind)
    persistent = value.state_dict().keys()
    buffers = sorted(
        _path_of(name, key, inside=key in persistent)
        for key, _ in value.named_buffers(remove_duplicate=False)
    )
    return StateObject(name=name, kind="module", buffers=buffers)


def _path_of(name: str, key: str, *, inside: bool) -> str:
    top = escape(name)
    return join(top if inside else join(top, escape(OUTSIDE_KEY)), escape(key))


def load_objects(
    objects: Mapping[str, Any], flat: FlatState, built: Mapping[str, Traits] | None = None
) -> None:
    """Bring freshly built ``objects`` into the state ``flat``: ``flatten_objects(objects, built)`` then equals it.

    Modules are loaded first, then optimizers, then the rest, because a schedule or a scaler may look at an optimizer.
    Raises EnvironmentMismatch naming the first path that does not fit or that the object does not take on.
    """
    recorded = {skeleton.path: skeleton.structure for skeleton in flat.skeletons}
    live = {escape(name): value for name, value in objects.items()}
    if recorded.keys() != live.keys():
        name = min(recorded.keys() ^ live.keys())
        where = "is not in the recorded state" if name in live else "is not built here"
        raise EnvironmentMismatch(f"the object {name} {where}")
    tensors = {tensor.path: tensor for tensor in flat.tensors}

    def leaf(tag: str, path: Any) -> Tensor:
        found = tensors[path]
        return tensor_from_bytes(found.dtype, found.shape, found.data)

    order = ("module", "optimizer", "other")
    for path, value in sorted(live.items(), key=lambda item: order.index(kind_of_object(item[1]))):
        _load(value, decode_value(recorded[path], leaf), path)
    _check_loaded(objects, flat, built)


def _load(target: Any, values: Any, path: str) -> None:
    if isinstance(target, nn.Module):
        _load_module(target, values, path)
        return
    values = _conform(values, values_of(target))
    try:
        if isinstance(target, torch.optim.Optimizer):
            _load_optimizer(target, values, path)
        else:
            target.load_state_dict(values)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise EnvironmentMismatch(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error


def _load_module(module: nn.Module, values: dict[Any, Any], path: str) -> None:
    outside: dict[str, Any] = values.pop(OUTSIDE_KEY, {})
    changes = {key: values.pop(key) for key in (ATTRIBUTES_KEY, TRAINS_KEY) if key in values}
    inside = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    for key, value in (*inside.items(), *outside.items()):
        _make_room(module, key, value)
    live = values_of(module)
    live_outside = live.pop(OUTSIDE_KEY, {})
    _check_names(path, values, live)
    _check_names(join(path, escape(OUTSIDE_KEY)), outside, live_outside)
    with torch.no_grad():
        for key, value in outside.items():
            live_outside[key].copy_(value)
    try:
        module.load_state_dict(values)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise EnvironmentMismatch(f"{path}: cannot be loaded: {error}") from error
    restore_traits(module, changes, path)


def _make_room(module: nn.Module, key: str, value: Tensor) -> None:
    """Give a buffer that is still None, or has another shape than recorded, memory to be loaded into."""
    owner_name, _, name = key.rpartition(".")
    try:
        owner = module.get_submodule(owner_name)
    except AttributeError:
        return
    if name not in owner._buffers:
        return
    buffer = owner._buffers[name]
    if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
        device = _device_of(module) if buffer is None else buffer.device
        owner._buffers[name] = torch.empty_like(value, device=device)


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in _tensors_of(module)), torch.device("cpu"))


def _check_names(path: str, recorded: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    for key in sorted(recorded.keys() | live.keys()):
        place = join(path, escape(key))
        if key not in live:
            raise EnvironmentMismatch(f"{place}: recorded, but not built here")
        if key not in recorded:
            raise EnvironmentMismatch(f"{place}: built here, but not recorded")
        one, other = recorded[key], live[key]
        tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
        if tensors and (one.dtype != other.dtype or one.shape != other.shape):
            raise EnvironmentMismatch(f"{place}: recorded as {_shape(one)}, built here as {_shape(other)}")


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _load_optimizer(optimizer: torch.optim.Optimizer, values: dict[str, Any], path: str) -> None:
    live = optimizer.state_dict()
    recorded_ids = [group["params"] for group in values["param_groups"]]
    if recorded_ids != [group["params"] for group in live["param_groups"]]:
        raise EnvironmentMismatch(f"{path}/param_groups: other parameter groups than recorded")
    ids = [identity for group in recorded_ids for identity in group]
    optimizer.load_state_dict(values)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for identity, parameter in zip(ids, parameters, strict=True):
        if identity in values["state"]:
            slots = _uncast(values["state"][identity], optimizer.state[parameter])
            optimizer.state[parameter] = {key: _laid_out(slot, parameter) for key, slot in slots.items()}


def _uncast(recorded: Any, loaded: Any) -> Any:
    """``loaded``, its tensors with the dtype of ``recorded``: load_state_dict casts slots to the parameter's."""
    if isinstance(recorded, Tensor):
        return recorded.to(loaded.device) if recorded.dtype != loaded.dtype else loaded
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            loaded[key] = _uncast(value, loaded[key])
    elif isinstance(recorded, list | tuple):
        return type(recorded)(_uncast(*pair) for pair in zip(recorded, loaded, strict=True))
    return loaded


def _laid_out(slot: Any, parameter: Tensor) -> Any:
    """``slot`` with the strides of its parameter, as the optimizer made it: fused kernels walk both side by side."""
    if not isinstance(slot, Tensor) or slot.shape != parameter.shape or slot.stride() == parameter.stride():
        return slot
    return torch.empty_like(parameter, dtype=slot.dtype, requires_grad=False).copy_(slot)


def _conform(value: Any, template: Any) -> Any:
    """``value`` in the types and the dict order of ``template``, as far as their structures agree.

    The encoding knows neither a Counter nor an np.float32; a freshly built object's own ``state_dict`` does.
    """
    if isinstance(value, dict) and isinstance(template, dict):
        order = [key for key in template if key in value] + [key for key in value if key not in template]
        pairs = [(key, _conform(value[key], template.get(key))) for key in order]
        return _mapping_like(template, pairs)
    if isinstance(value, list) and isinstance(template, list) and len(value) == len(template):
        return [_conform(*pair) for pair in zip(value, template, strict=True)]
    if isinstance(value, tuple) and isinstance(template, tuple) and len(value) == len(template):
        items = [_conform(*pair) for pair in zip(value, template, strict=True)]
        return type(template)(*items) if hasattr(template, "_fields") else tuple(items)
    if isinstance(template, np.generic) and isinstance(value, bool | int | float):
        return template.dtype.type(value)
    return value


def _mapping_like(template: dict[Any, Any], pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    if isinstance(template, defaultdict):
        return defaultdict(template.default_factory, pairs)
    if isinstance(template, Counter):
        return Counter(dict(pairs))
    return OrderedDict(pairs) if isinstance(template, OrderedDict) else dict(pairs)


def _check_loaded(objects: Mapping[str, Any], flat: FlatState, built: Mapping[str, Traits] | None) -> None:
    path = first_difference(flatten_objects(objects, built), flat)
    if path is not None:
        raise EnvironmentMismatch(
            f"{path}: differs from what was loaded; load_state_dict does not restore it"
        )


def first_difference(one: FlatState, other: FlatState) -> str | None:
    """The first path at which two states differ, structure before tensors; None when they are equal bit for bit."""
    for this, that in zip(_ordered(one), _ordered(other), strict=False):
        if this != that:
            return _first_leaf(this, that)
    if len(one.skeletons) != len(other.skeletons):
        return "the number of objects"
    tensors = {tensor.path: tensor for tensor in other.tensors}
    for tensor in sorted(one.tensors, key=lambda tensor: tensor.path):
        if not _equal(tensor, tensors[tensor.path]):
            return tensor.path
    return None


def _first_leaf(one: SkeletonEntry, other: SkeletonEntry) -> str:
    first, second = _leaves(one), _leaves(other)
    differing = [path for path in first.keys() | second.keys() if first.get(path) != second.get(path)]
    # Empty containers have no leaves.
    return min(differing, default=min(one.path, other.path))


def _leaves(skeleton: SkeletonEntry) -> dict[str, Structure]:
    return dict(check_structure(skeleton.structure, skeleton.path, ordered=True))


def _ordered(flat: FlatState) -> list[SkeletonEntry]:
    return sorted(flat.skeletons, key=lambda skeleton: skeleton.path)


def _equal(one: TensorData, other: TensorData) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return np.array_equal(np.frombuffer(one.data, np.uint8), np.frombuffer(other.data, np.uint8))
