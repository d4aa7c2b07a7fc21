"""Run as a program, with Triton's interpreter in place of a GPU: roots from the kernel against those of the CPU.

Leaves of 128 bytes, because the interpreter takes half a second for a block of 64; the code is the same for 64 KiB.
"""

import torch

from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.training.devicehash import roots_on_device
from polledger.training.tensors import canonical_bytes, raw_bytes

CHUNK = 128
# Around a block and a chunk, and where padding no longer fits into the last block.
SIZES = (1, 2, 3, 4, 53, 54, 55, 56, 63, 64, 65, 117, 118, 119, 120, 127, 128, 129, 255, 256, 257, 384, 385)
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int8,
    torch.bool,
    torch.complex64,
)


def expected(data: bytes) -> bytes:
    return tree_root([leaf_hash(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)])


def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def random(size: int) -> torch.Tensor:
        return torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)

    numbers = torch.randn(19, 3, generator=generator)
    return [
        *(random(size) for size in SIZES),
        # Words of a view need not lie where words lie.
        *(random(300)[by:] for by in (1, 2, 3, 4)),
        *((numbers > 0 if dtype is torch.bool else numbers.to(dtype)) for dtype in DTYPES),
        numbers.t(),
        numbers[::2, 1:],
        numbers[0, 0],
        torch.nn.Parameter(numbers.clone()),
        torch.complex(numbers, numbers).conj(),
    ]


def main() -> None:
    found = tensors()
    roots = roots_on_device([raw_bytes(tensor) for tensor in found], chunk=CHUNK)
    for tensor, root in zip(found, roots, strict=True):
        data = bytes(canonical_bytes(tensor, "t"))
        assert root == expected(data), (tensor.dtype, tuple(tensor.shape), len(data))
    print(f"{len(found)} roots")


if __name__ == "__main__":
    main()
