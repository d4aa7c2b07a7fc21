"""SHA-256 of many messages at a time on a GPU, one lane a message: the Triton kernel. FIPS 180-4 section 6.2.

Imported only where tensors lie on a CUDA device (or under TRITON_INTERPRET=1, which runs it on the CPU, slowly). Rounds
and schedule are written out: the variables of a lane stay in its registers, and there is nothing to index.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import contextlib
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

LANES = 32
"""Messages of one program, a warp: a lane takes as long as its message, so that many small programs are fastest."""


def _first_primes(count: int) -> list[int]:
    primes: list[int] = []
    number = 2
    while len(primes) < count:
        if all(number % prime for prime in primes):
            primes.append(number)
        number += 1
    return primes


def _cube_root(value: int) -> int:
    """The integer part of the cube root."""
    low, high = 0, 1 << (value.bit_length() // 3 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= value else (low, middle)
    return low


START = [math.isqrt(prime << 64) & 0xFFFFFFFF for prime in _first_primes(8)]
"""The initial hash value: fractional parts of the square roots of the first primes, 32 bits each."""

KEYS = [_cube_root(prime << 96) & 0xFFFFFFFF for prime in _first_primes(64)]
"""The constants of the rounds: fractional parts of the cube roots."""


@triton.jit
def _rotated(x, by: tl.constexpr):
    return (x >> by) | (x << (32 - by))


@triton.jit
def _round(a, b, c, d, e, f, g, h, key, word):
    """What becomes of d and h, which are e and a of the next round."""
    chosen = (e & f) ^ (~e & g)
    first = (
        h
        + (_rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25))
        + chosen
        + key.to(tl.uint32, bitcast=True)
        + word
    )
    majority = (a & b) ^ (a & c) ^ (b & c)
    return d + first, first + (_rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)) + majority


@triton.jit
def _sixteen_rounds(
    a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, keys
):
    d, h = _round(a, b, c, d, e, f, g, h, tl.load(keys + 0), w0)
    c, g = _round(h, a, b, c, d, e, f, g, tl.load(keys + 1), w1)
    b, f = _round(g, h, a, b, c, d, e, f, tl.load(keys + 2), w2)
    a, e = _round(f, g, h, a, b, c, d, e, tl.load(keys + 3), w3)
    h, d = _round(e, f, g, h, a, b, c, d, tl.load(keys + 4), w4)
    g, c = _round(d, e, f, g, h, a, b, c, tl.load(keys + 5), w5)
    f, b = _round(c, d, e, f, g, h, a, b, tl.load(keys + 6), w6)
    e, a = _round(b, c, d, e, f, g, h, a, tl.load(keys + 7), w7)
    d, h = _round(a, b, c, d, e, f, g, h, tl.load(keys + 8), w8)
    c, g = _round(h, a, b, c, d, e, f, g, tl.load(keys + 9), w9)
    b, f = _round(g, h, a, b, c, d, e, f, tl.load(keys + 10), w10)
    a, e = _round(f, g, h, a, b, c, d, e, tl.load(keys + 11), w11)
    h, d = _round(e, f, g, h, a, b, c, d, tl.load(keys + 12), w12)
    g, c = _round(d, e, f, g, h, a, b, c, tl.load(keys + 13), w13)
    f, b = _round(c, d, e, f, g, h, a, b, tl.load(keys + 14), w14)
    e, a = _round(b, c, d, e, f, g, h, a, tl.load(keys + 15), w15)
    return a, b, c, d, e, f, g, h


@triton.jit
def _expanded(oldest, next_oldest, seven_back, two_back):
    first = _rotated(next_oldest, 7) ^ _rotated(next_oldest, 18) ^ (next_oldest >> 3)
    second = _rotated(two_back, 17) ^ _rotated(two_back, 19) ^ (two_back >> 10)
    return oldest + first + seven_back + second


@triton.jit
def _next_sixteen(w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15):
    w0 = _expanded(w0, w1, w9, w14)
    w1 = _expanded(w1, w2, w10, w15)
    w2 = _expanded(w2, w3, w11, w0)
    w3 = _expanded(w3, w4, w12, w1)
    w4 = _expanded(w4, w5, w13, w2)
    w5 = _expanded(w5, w6, w14, w3)
    w6 = _expanded(w6, w7, w15, w4)
    w7 = _expanded(w7, w8, w0, w5)
    w8 = _expanded(w8, w9, w1, w6)
    w9 = _expanded(w9, w10, w2, w7)
    w10 = _expanded(w10, w11, w3, w8)
    w11 = _expanded(w11, w12, w4, w9)
    w12 = _expanded(w12, w13, w5, w10)
    w13 = _expanded(w13, w14, w6, w11)
    w14 = _expanded(w14, w15, w7, w12)
    w15 = _expanded(w15, w0, w8, w13)
    return w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15


@triton.jit
def _compressed(
    a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, keys
):
    """The hash value after one more block of sixteen words."""
    i, j, k, m, n, o, p, q = _sixteen_rounds(
        a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, keys
    )
    for group in range(1, 4):
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = _next_sixteen(
            w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15
        )
        later = keys + 16 * group
        i, j, k, m, n, o, p, q = _sixteen_rounds(
            i, j, k, m, n, o, p, q, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, later
        )  # fmt: skip
    return a + i, b + j, c + k, d + m, e + n, f + o, g + p, h + q


@triton.jit
def _word(address, live):
    x = tl.load(address, mask=live, other=0)
    return ((x & 0xFF) << 24) | ((x & 0xFF00) << 8) | ((x >> 8) & 0xFF00) | (x >> 24)


@triton.jit
def _block(base, live):
    """The sixteen words of 64 bytes."""
    w0 = _word(base + 0, live)
    w1 = _word(base + 1, live)
    w2 = _word(base + 2, live)
    w3 = _word(base + 3, live)
    w4 = _word(base + 4, live)
    w5 = _word(base + 5, live)
    w6 = _word(base + 6, live)
    w7 = _word(base + 7, live)
    w8 = _word(base + 8, live)
    w9 = _word(base + 9, live)
    w10 = _word(base + 10, live)
    w11 = _word(base + 11, live)
    w12 = _word(base + 12, live)
    w13 = _word(base + 13, live)
    w14 = _word(base + 14, live)
    w15 = _word(base + 15, live)
    return w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15


@triton.jit
def _moved(carry, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15):
    """The words of a block one byte later, behind the last byte of ``carry``; and what is carried on."""
    last = w15
    w15 = (w14 << 24) | (w15 >> 8)
    w14 = (w13 << 24) | (w14 >> 8)
    w13 = (w12 << 24) | (w13 >> 8)
    w12 = (w11 << 24) | (w12 >> 8)
    w11 = (w10 << 24) | (w11 >> 8)
    w10 = (w9 << 24) | (w10 >> 8)
    w9 = (w8 << 24) | (w9 >> 8)
    w8 = (w7 << 24) | (w8 >> 8)
    w7 = (w6 << 24) | (w7 >> 8)
    w6 = (w5 << 24) | (w6 >> 8)
    w5 = (w4 << 24) | (w5 >> 8)
    w4 = (w3 << 24) | (w4 >> 8)
    w3 = (w2 << 24) | (w3 >> 8)
    w2 = (w1 << 24) | (w2 >> 8)
    w1 = (w0 << 24) | (w1 >> 8)
    w0 = (carry << 24) | (w0 >> 8)
    return last, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15


@triton.jit
def hash_messages(
    addresses, blocks, count, longest, keys, start, digests, leaves_only: tl.constexpr, lanes: tl.constexpr
):
    """Eight words of digest for each of ``count`` messages: ``blocks[i]`` blocks from ``addresses[i]`` on.

    ``longest`` is the largest number of blocks. Messages are padded already; with ``leaves_only`` they are plain chunks
    of whole blocks, the leaves of a tree: the prefix 0x00 and the padding are put in here. Words lie on multiples of 4.
    """
    lane = tl.program_id(0) * lanes + tl.arange(0, lanes)
    live = lane < count
    base = tl.load(addresses + lane, mask=live, other=0).to(tl.pointer_type(tl.uint32))
    own = tl.load(blocks + lane, mask=live, other=0)
    none = tl.zeros((lanes,), dtype=tl.uint32)
    a = none + tl.load(start + 0).to(tl.uint32, bitcast=True)
    b = none + tl.load(start + 1).to(tl.uint32, bitcast=True)
    c = none + tl.load(start + 2).to(tl.uint32, bitcast=True)
    d = none + tl.load(start + 3).to(tl.uint32, bitcast=True)
    e = none + tl.load(start + 4).to(tl.uint32, bitcast=True)
    f = none + tl.load(start + 5).to(tl.uint32, bitcast=True)
    g = none + tl.load(start + 6).to(tl.uint32, bitcast=True)
    h = none + tl.load(start + 7).to(tl.uint32, bitcast=True)
    carry = none
    for number in range(longest):
        here = number < own
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = _block(base, here)
        base += 16
        if leaves_only:
            carry, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = _moved(
                carry, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15
            )
        i, j, k, m, n, o, p, q = _compressed(
            a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, keys
        )
        a = tl.where(here, i, a)
        b = tl.where(here, j, b)
        c = tl.where(here, k, c)
        d = tl.where(here, m, d)
        e = tl.where(here, n, e)
        f = tl.where(here, o, f)
        g = tl.where(here, p, g)
        h = tl.where(here, q, h)
    if leaves_only:
        w0 = (carry << 24) | 0x00800000
        bits = (own * 512 + 8).to(tl.uint32)
        a, b, c, d, e, f, g, h = _compressed(
            a, b, c, d, e, f, g, h,
            w0, none, none, none, none, none, none, none, none, none, none, none, none, none, none, bits, keys,
        )  # fmt: skip
    tl.store(digests + lane * 8 + 0, a.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 1, b.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 2, c.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 3, d.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 4, e.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 5, f.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 6, g.to(tl.int32, bitcast=True), mask=live)
    tl.store(digests + lane * 8 + 7, h.to(tl.int32, bitcast=True), mask=live)


def digests_of(
    addresses: Sequence[int], blocks: Sequence[int], device: torch.device, *, leaves: bool
) -> bytes:
    """SHA-256 of each message, 32 bytes each: ``blocks[i]`` blocks from ``addresses[i]`` on, see the kernel.

    Runs in the current stream of ``device`` and waits for it.
    """
    # Triton launches on the current device, whatever lies where.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        return _digests_of(addresses, blocks, device, leaves)


def _digests_of(addresses: Sequence[int], blocks: Sequence[int], device: torch.device, leaves: bool) -> bytes:
    count = len(addresses)
    found = torch.empty((count, 8), dtype=torch.int32, device=device)
    keys, start = (
        torch.tensor(values, dtype=torch.int64).to(torch.int32).to(device) for values in (KEYS, START)
    )
    hash_messages[(-(-count // LANES),)](
        torch.tensor(addresses, dtype=torch.int64, device=device),
        torch.tensor(blocks, dtype=torch.int32, device=device),
        count,
        max(blocks),
        keys,
        start,
        found,
        leaves_only=leaves,
        lanes=LANES,
        num_warps=1,
    )
    return found.cpu().numpy().astype(">i4").tobytes()
