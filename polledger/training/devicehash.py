"""Tensor roots computed where the tensors lie: 32 bytes for each 64 KiB cross the bus. PROTOCOL section 5.

The roots are those of :func:`polledger.core.state.tensor_root`; whether they are on this machine is tried before they
are relied on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from polledger.core.digest import DIGEST_BYTES
from polledger.core.merkle import root as tree_root
from polledger.core.state import CHUNK, TensorEntry, tensor_root
from polledger.training.snapshot import FarTensor, LiveState, State
from polledger.training.tensors import canonical_bytes, raw_bytes

BLOCK = 64
"""Bytes of a SHA-256 block."""

PADDING = 9
"""Bytes behind a message at least: 0x80, and its length in bits."""

ALIGNMENT = 4
"""Bytes of the words that the kernel reads."""

HASHED = ("cuda",)
"""Types of devices that the kernel runs on."""

Digests = Callable[..., bytes]
"""As :func:`polledger.training.devicekernel.digests_of`."""


def roots_on_device(tensors: Sequence[Tensor], *, chunk: int = CHUNK) -> list[bytes]:
    """The tensor root of each of ``tensors``: bytes (uint8, one dimension, not empty) on one CUDA device.

    Runs in the device's current stream and waits for it. ``chunk``: bytes of a leaf, whole blocks. Raises whatever
    Triton raises where it cannot compile or run its kernel.
    """
    from polledger.training.devicekernel import digests_of

    device = tensors[0].device
    aligned = [data if data.data_ptr() % ALIGNMENT == 0 else data.clone() for data in tensors]
    whole = [data.data_ptr() + begin for data in aligned for begin in range(0, len(data) - chunk + 1, chunk)]
    rests = [data[len(data) // chunk * chunk :] for data in aligned if len(data) % chunk]
    full = _split(digests_of(whole, [chunk // BLOCK] * len(whole), device, leaves=True) if whole else b"")
    last = _split(_digests_of_rests(rests, device, digests_of) if rests else b"")
    roots = []
    for data in aligned:
        leaves = list(islice(full, len(data) // chunk))
        leaves += islice(last, 1 if len(data) % chunk else 0)
        roots.append(tree_root(leaves))
    return roots


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))


def _digests_of_rests(rests: Sequence[Tensor], device: torch.device, digests_of: Digests) -> bytes:
    """Leaf hashes of the pieces behind the last whole chunks, from a copy with prefix, padding and lengths."""
    blocks = [-(-(1 + len(rest) + PADDING) // BLOCK) for rest in rests]
    places, values = [], []
    begins, end = [], 0
    for rest, count in zip(rests, blocks, strict=True):
        begins.append(end)
        places.append(end + 1 + len(rest))
        values.append(0x80)
        end += count * BLOCK
        length = (8 * (1 + len(rest))).to_bytes(8, "big")
        places += range(end - 8, end)
        values += length
    room = torch.zeros(end, dtype=torch.uint8, device=device)
    room[torch.tensor(places, device=device)] = torch.tensor(values, dtype=torch.uint8, device=device)
    for rest, begin in zip(rests, begins, strict=True):
        room[begin + 1 : begin + 1 + len(rest)] = rest
    return digests_of([room.data_ptr() + begin for begin in begins], blocks, device, leaves=False)


class DeviceHashing:
    """Hashes on their GPU the tensors that lie on one, as long as that works and gives the roots of the CPU.

    ``warn`` is told once where it does not. For one thread.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._tried = self._refused = False

    def split(self, state: State) -> tuple[State, Sequence[TensorEntry]]:
        """What of ``state`` is still to be hashed, and the entries of all that was hashed where it lies.

        The device is waited for: training may go on when this returns. The first time all of it is hashed here, too.
        """
        far = [] if self._refused or not isinstance(state, LiveState) else _on_gpu(state)
        if not far or not isinstance(state, LiveState):
            return state, ()
        entries = self._entries(far)
        if entries is None:
            return state, ()
        left = [item for item in state.far if item.data.device.type not in HASHED]
        return replace(state, far=left), entries

    def _entries(self, far: Sequence[FarTensor]) -> list[TensorEntry] | None:
        try:
            roots = _far_roots(far)
        except (
            Exception
        ) as error:  # whatever a compiler, its language or a driver comes up with: the CPU is at hand
            self._refuse(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return None
        if not self._tried and any(roots[id(item.data)] != _cpu_root(item) for item in far):
            self._refuse("it gives other roots than the CPU")
            return None
        self._tried = True
        return [_entry(item, roots[id(item.data)]) for item in far]

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._warn(f"states cannot be hashed on the GPU ({why}): the CPU does it, which takes longer")


def _on_gpu(state: LiveState) -> list[FarTensor]:
    return [item for item in state.far if item.data.device.type in HASHED]


def _far_roots(far: Sequence[FarTensor]) -> dict[int, bytes]:
    """The root of each distinct ``data``, by its id."""
    distinct = {id(item.data): item.data for item in far}
    roots: dict[int, bytes] = {}
    for device in dict.fromkeys(tensor.device for tensor in distinct.values()):
        here = {key: raw_bytes(tensor) for key, tensor in distinct.items() if tensor.device == device}
        roots.update(zip(here, roots_on_device(list(here.values())), strict=True))
    return roots


def _cpu_root(item: FarTensor) -> bytes:
    return tensor_root(canonical_bytes(item.data, item.path))


def _entry(item: FarTensor, root: bytes) -> TensorEntry:
    return TensorEntry(
        v=1, path=item.path, dtype=item.dtype, shape=list(item.shape), bytes=item.data.nbytes, root=root
    )
