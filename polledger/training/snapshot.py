"""Copies of the state taken between two steps, for whoever hashes and writes them afterwards.

The copy is the only part that has to happen on the training thread. It goes into memory that is kept and was touched
before: fresh pages cost ten times as much. From a GPU the thread does not even wait for it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from polledger.core.state import EncodedState, FlatState, TensorData, TensorEntry
from polledger.errors import Unavailable
from polledger.memory import large_memory
from polledger.training.copying import copy_all

if TYPE_CHECKING:
    import torch

SPARE: Final = 64
"""One part in so many that an arena is larger than asked for: a state that grows a little needs no other memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarTensor:
    """A plain tensor that lies on an accelerator. Tensors that share memory and shape share one ``data``."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    data: "torch.Tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """A state where it lies, until the next step: what is on the CPU, all skeletons with it, and what is not."""

    near: FlatState
    far: Sequence[FarTensor]


State: TypeAlias = FlatState | LiveState
"""What can be copied."""


def size_of(state: State) -> int:
    """Bytes of a copy of ``state``: what is shared counts once."""
    live = _live(state)
    items: list[TensorData | FarTensor] = [*live.near.tensors, *live.far]
    return sum({id(item.data): item.data.nbytes for item in items}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a state in ``block``: complete once :meth:`wait` returned, valid until the block's next copy."""

    state: FlatState
    block: "Arena"
    events: Sequence[Any]

    def wait(self) -> None:
        """Wait for what an accelerator still copies. In any thread."""
        for event in self.events:
            event.synchronize()


class Arena:
    """One block of memory for copies of one state after another: a new copy overwrites the one before.

    A copy lies as in the state's file (core/state.py) if that has a header as long as, and equal tensors where,
    :meth:`expect` was told. Page-aligned, and pinned as soon as something comes from a GPU. For one thread at a time;
    close it after use.
    """

    def __init__(self) -> None:
        self._head = 0
        self._repeated: frozenset[str] = frozenset()
        self.memory = memoryview(b"")
        """All of it."""
        self._pinned: bool | None = None
        """Whether the memory is pinned; None before that was tried."""
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def expect(self, encoded: EncodedState) -> None:
        """Have the next copy lie as in the file of a state that is like ``encoded``: most are like the one before.

        What is expected decides where copies lie, never what is in them.
        """
        roots: set[bytes] = set()
        repeated = set()
        for entry in encoded.entries:
            if isinstance(entry, TensorEntry):
                if entry.root in roots:
                    repeated.add(entry.path)
                roots.add(entry.root)
        self._head, self._repeated = len(encoded.header), frozenset(repeated)

    def reserve(self, size: int) -> None:
        """Have room for ``size`` bytes, every page touched. Raises Unavailable where there is none."""
        if size <= len(self.memory):
            return
        self.close()
        try:
            self.memory = large_memory(size + size // SPARE)
        except OSError as error:
            raise Unavailable(f"no memory for a copy of the state, {size} bytes: {error.strerror}") from error

    def copy(self, state: State) -> Copy:
        """``state`` with its tensors copied here; tensors that share data go on sharing it.

        Of a GPU only the current stream waits until its part is copied, as does what waits for that stream.
        """
        live = _live(state)
        far = {id(item.data): item.data for item in live.far}
        items: list[TensorData | FarTensor] = [*live.near.tensors, *live.far]
        items.sort(key=lambda item: item.path)
        sources = {id(item.data): item.data for item in items}
        places = self._places(items)
        events = self._fetch([(tensor, places[key]) for key, tensor in far.items()])
        copy_all([(source, places[key]) for key, source in sources.items() if isinstance(source, memoryview)])
        views = {key: place.toreadonly() for key, place in places.items()}
        tensors = [
            TensorData(path=item.path, dtype=item.dtype, shape=item.shape, data=views[id(item.data)])
            for item in items
        ]
        copied = FlatState(skeletons=list(live.near.skeletons), tensors=tensors)
        return Copy(state=copied, block=self, events=events)

    def close(self) -> None:
        """Give the memory back; a copy that somebody holds keeps it. Idempotent."""
        if self._pinned:
            import torch

            torch.cuda.cudart().cudaHostUnregister(_tensor(self.memory).data_ptr())
        self.memory, self._pinned = memoryview(b""), None

    def _places(self, items: Sequence[TensorData | FarTensor]) -> dict[int, memoryview]:
        """Where the data of ``items`` are copied to, by identity: one behind the other, what is repeated behind all."""
        first: dict[int, TensorData | FarTensor] = {}
        for item in items:
            first.setdefault(id(item.data), item)
        in_line = {key: item.data.nbytes for key, item in first.items() if item.path not in self._repeated}
        aside = {key: item.data.nbytes for key, item in first.items() if item.path in self._repeated}
        self.reserve(self._head + sum(in_line.values()) + sum(aside.values()))
        places, end = {}, self._head
        for key, count in (*in_line.items(), *aside.items()):
            begin, end = end, end + count
            places[key] = self.memory[begin:end]
        return places

    def _fetch(self, pairs: "list[tuple[torch.Tensor, memoryview]]") -> list[Any]:
        """Begin to copy tensors of accelerators; the events to wait for."""
        devices = dict.fromkeys(tensor.device for tensor, _ in pairs)
        found = (
            self._fetch_from(device, [pair for pair in pairs if pair[0].device == device])
            for device in devices
        )
        return [event for event in found if event is not None]

    def _fetch_from(self, device: "torch.device", pairs: "list[tuple[torch.Tensor, memoryview]]") -> Any:
        import torch

        from polledger.training.tensors import raw_bytes

        if device.type != "cuda":
            for tensor, place in pairs:
                _tensor(place).copy_(raw_bytes(tensor))
            return None
        if self._pinned is None:
            self._pinned = _pin(self.memory, device)
        side = self._streams.setdefault(device, torch.cuda.Stream(device))
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for tensor, place in pairs:
                _tensor(place).copy_(raw_bytes(tensor), non_blocking=True)
                # Its memory may be given to another tensor before the copy is made.
                tensor.record_stream(side)
            event = side.record_event()
        current.wait_event(event)
        return event


def _live(state: State) -> LiveState:
    return state if isinstance(state, LiveState) else LiveState(near=state, far=())


def _tensor(memory: memoryview) -> "torch.Tensor":
    import torch

    return torch.frombuffer(memory, dtype=torch.uint8)


def _pin(memory: memoryview, device: "torch.device") -> bool:
    """Have ``device`` write to ``memory`` by itself; whether it can. Otherwise copies are slower, and the same."""
    import torch

    # Of torch's own pinned memory there would be up to twice as much: it hands out powers of two.
    if int(torch.cuda.cudart().cudaHostRegister(_tensor(memory).data_ptr(), len(memory), 0)) == 0:
        return True
    with contextlib.suppress(RuntimeError):
        # The error stays behind, and whatever is launched next raises it.
        torch.zeros(1, device=device)
    return False
