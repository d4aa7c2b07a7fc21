"""States of runs, changed for tests."""

from collections.abc import Callable

import numpy as np

from polledger.core.state import FlatState, TensorData


def change_tensor(flat: FlatState, path_part: str, change: Callable[[np.ndarray], np.ndarray]) -> FlatState:
    """The state with every float32 tensor whose path contains ``path_part`` changed."""
    changed = [
        TensorData(
            path=tensor.path,
            dtype=tensor.dtype,
            shape=tensor.shape,
            data=memoryview(change(np.frombuffer(tensor.data, np.float32)).astype(np.float32).tobytes()),
        )
        if path_part in tensor.path and tensor.dtype == "float32"
        else tensor
        for tensor in flat.tensors
    ]
    assert any(path_part in tensor.path for tensor in flat.tensors)
    return FlatState(skeletons=flat.skeletons, tensors=changed)
