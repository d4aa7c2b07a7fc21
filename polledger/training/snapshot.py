"""Copies of the state taken between two steps, for whoever hashes and writes them afterwards.

The copy is the only part that has to happen on the training thread. It goes into one buffer that is kept and
touched once: fresh pages cost ten times as much as warm ones.
"""

from polledger.core.state import FlatState, TensorData


class Arena:
    """One reusable buffer for copies of one state after another. A new copy overwrites the one before."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def copy(self, flat: FlatState) -> FlatState:
        """``flat`` with its tensors copied into the buffer; tensors that share data go on sharing it.

        The copy is valid until the next call.
        """
        distinct = {id(tensor.data): tensor.data for tensor in flat.tensors}
        size = sum(len(data) for data in distinct.values())
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        whole = memoryview(self._buffer)
        copies: dict[int, memoryview] = {}
        position = 0
        for key, data in distinct.items():
            target = whole[position : position + len(data)]
            target[:] = data
            copies[key] = target.toreadonly()
            position += len(data)
        tensors = [
            TensorData(path=item.path, dtype=item.dtype, shape=item.shape, data=copies[id(item.data)])
            for item in flat.tensors
        ]
        return FlatState(skeletons=list(flat.skeletons), tensors=tensors)
