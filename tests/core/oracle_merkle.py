"""A slow Merkle tree, transcribed from the definitions of RFC 9162 section 2.1, as an oracle for tests.

Everything here follows the recursive definitions of MTH, PATH and PROOF; the library follows the iterative
algorithms. It shares no code with the library and knows nothing of it.
"""

import hashlib
from collections.abc import Sequence


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaf(entry: bytes) -> bytes:
    """MTH({d[0]}) = HASH(0x00 || d[0])."""
    return sha256(b"\x00" + entry)


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def split(n: int) -> int:
    """The k of the RFC: the largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k = 2 * k
    return k


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH over leaf hashes. Section 2.1.1."""
    n = len(leaves)
    if n == 0:
        return sha256(b"")
    if n == 1:
        return leaves[0]
    k = split(n)
    return node(mth(leaves[:k]), mth(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D_n), the inclusion proof. Section 2.1.3.1."""
    n = len(leaves)
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D_n), the consistency proof. Section 2.1.4.1."""
    return _subproof(m, leaves, True)


def _subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = split(n)
    if m <= k:
        return [*_subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], False), mth(leaves[:k])]


class _DoesNotFit(Exception):
    """The proof has too few or too many components."""


def accepts_inclusion(leaf_hash: bytes, index: int, size: int, components: list[bytes], root: bytes) -> bool:
    """Whether the components, read back through the definition of PATH, lead from the leaf to the root."""
    if not 0 <= index < size or any(len(value) != 32 for value in (leaf_hash, root, *components)):
        return False
    try:
        return _root_from_path(leaf_hash, index, size, components) == root
    except _DoesNotFit:
        return False


def _root_from_path(leaf_hash: bytes, index: int, size: int, components: list[bytes]) -> bytes:
    if size == 1:
        if components:
            raise _DoesNotFit
        return leaf_hash
    if not components:
        raise _DoesNotFit
    *rest, last = components
    k = split(size)
    if index < k:
        return node(_root_from_path(leaf_hash, index, k, rest), last)
    return node(last, _root_from_path(leaf_hash, index - k, size - k, rest))


def accepts_consistency(size1: int, root1: bytes, size2: int, root2: bytes, components: list[bytes]) -> bool:
    """Whether the components, read back through the definition of SUBPROOF, give both roots."""
    if not 1 <= size1 <= size2:
        return False
    if size1 == size2:
        return not components and root1 == root2
    if any(len(value) != 32 for value in (root1, root2, *components)):
        return False
    try:
        return _roots_from_proof(size1, size2, True, root1, components) == (root1, root2)
    except _DoesNotFit:
        return False


def _roots_from_proof(
    m: int, n: int, whole: bool, root1: bytes, components: list[bytes]
) -> tuple[bytes, bytes]:
    if m == n:
        if whole:
            if components:
                raise _DoesNotFit
            return root1, root1
        if len(components) != 1:
            raise _DoesNotFit
        return components[0], components[0]
    if not components:
        raise _DoesNotFit
    *rest, last = components
    k = split(n)
    if m <= k:
        first, second = _roots_from_proof(m, k, whole, root1, rest)
        return first, node(second, last)
    first, second = _roots_from_proof(m - k, n - k, False, root1, rest)
    return node(last, first), node(last, second)
