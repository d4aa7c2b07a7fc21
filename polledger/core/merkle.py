"""The Merkle tree of RFC 9162 section 2.1: roots, proofs and their verification. PROTOCOL section 7.

A leaf is hashed with the prefix 0x00 and a node with 0x01, so neither can stand in for the other. Entry
*i* of a ledger is SHA-256 of the record's bytes: its leaf hash is ``leaf_hash(sha256(record))``. The same
tree shape with ``chainpoint_node`` for a node gives the root and the proofs that stock merkletools
understands; these are exported and never verified here.

Verification takes primitives and answers True or False. The caller recomputes the leaf hash from the
record it was shown and takes index, size and root from a head whose signature it checked: an inclusion
proof for (index, size) can also hold under other sizes, so a size from anywhere else proves nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256 as _sha256
from typing import TypeAlias

from polledger.core.digest import DIGEST_BYTES, Buffer, require_digest
from polledger.errors import UsageError

NodeHash: TypeAlias = Callable[[bytes, bytes], bytes]

EMPTY_ROOT = _sha256(b"").digest()
"""Root of the tree without leaves."""


def leaf_hash(entry: Buffer) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    digest = _sha256(b"\x00")
    digest.update(entry)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right). Does not check that both have 32 bytes."""
    return _sha256(b"\x01" + left + right).digest()


def chainpoint_node(left: bytes, right: bytes) -> bytes:
    """SHA-256(left ‖ right), the node of merkletools: not separated from leaves, hence never evidence."""
    return _sha256(left + right).digest()


class Frontier:
    """A growing tree that keeps only the roots of its complete subtrees: O(log size) memory, O(1) per append.

    ``node`` is :func:`node_hash` or :func:`chainpoint_node`.
    """

    __slots__ = ("_node", "_roots", "_size")

    def __init__(self, node: NodeHash = node_hash) -> None:
        self._node = node
        self._roots: list[bytes] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Number of leaves so far."""
        return self._size

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf hash. Raises UsageError unless it has 32 bytes."""
        if len(leaf_hash) != DIGEST_BYTES:
            require_digest(leaf_hash, "a leaf hash")
        roots = self._roots
        size = self._size
        while size & 1:
            leaf_hash = self._node(roots.pop(), leaf_hash)
            size >>= 1
        roots.append(leaf_hash)
        self._size += 1

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Append every leaf hash in turn."""
        for leaf in leaf_hashes:
            self.append(leaf)

    def consistency_proof(self, leaf_hashes: Sequence[bytes]) -> list[bytes]:
        """PROOF(size, D[size + n]) of RFC 9162 section 2.1.4.1 for the n ``leaf_hashes`` that follow.

        Hashes nothing but these. Empty when there are none. Raises UsageError before the first leaf: nothing can be
        consistent with no tree.
        """
        if not self._size:
            raise UsageError("no consistency proof leads from the tree without leaves")
        subtrees = iter(self._roots)
        proof: list[bytes] = []
        start, end = 0, self._size + len(leaf_hashes)
        while end != self._size:
            middle = start + _split(end - start)
            if self._size <= middle:
                proof.append(root(leaf_hashes[middle - self._size : end - self._size]))
                end = middle
            else:
                proof.append(next(subtrees))
                start = middle
        if start:
            proof.append(next(subtrees))
        proof.reverse()
        return proof

    def root(self) -> bytes:
        """Root of the tree of the leaves so far; EMPTY_ROOT before the first."""
        if not self._roots:
            return EMPTY_ROOT
        node = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            node = self._node(left, node)
        return node


class Tree:
    """A finished tree with every level in memory (64 bytes a leaf): many proofs for one pass of hashing.

    Raises UsageError if a leaf hash does not have 32 bytes.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Sequence[bytes], node: NodeHash = node_hash) -> None:
        level = list(leaf_hashes)
        for leaf in level:
            require_digest(leaf, "a leaf hash")
        self._levels = [level]
        while len(level) > 1:
            level = _parents(level, node)
            self._levels.append(level)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """Root of the tree; EMPTY_ROOT without leaves."""
        top = self._levels[-1]
        return top[0] if top else EMPTY_ROOT

    def siblings(self, index: int) -> list[tuple[bool, bytes]]:
        """The path from leaf ``index`` to the root, lowest first: (sibling stands on the left, its hash).

        Raises UsageError unless 0 ≤ index < size.
        """
        if not 0 <= index < self.size:
            raise UsageError(f"leaf {index} does not exist in a tree of size {self.size}")
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            # The last node of an odd level has no sibling: it moves up as it is.
            if sibling < len(level):
                path.append((sibling < index, level[sibling]))
            index >>= 1
        return path

    def inclusion_proof(self, index: int) -> list[bytes]:
        """PATH(index) of RFC 9162 section 2.1.3.1. Raises UsageError unless 0 ≤ index < size."""
        return [sibling for _, sibling in self.siblings(index)]

    def common_proof(self, indices: Iterable[int]) -> list[bytes]:
        """One proof for the leaves at all of ``indices``: what :func:`verify_common` takes, nothing twice.

        Empty for none and for all of them. Raises UsageError unless 0 ≤ index < size for each.
        """
        known = sorted(set(indices))
        if known and not 0 <= known[0] <= known[-1] < self.size:
            raise UsageError(
                f"not all of the leaves {known[0]} to {known[-1]} are in a tree of size {self.size}"
            )
        proof = []
        for level in self._levels[:-1] if known else ():
            present = set(known)
            for index in known:
                sibling = index ^ 1
                if sibling < len(level) and sibling not in present:
                    proof.append(level[sibling])
            known = sorted({index >> 1 for index in known})
        return proof


def root(leaf_hashes: Sequence[bytes], node: NodeHash = node_hash) -> bytes:
    """Root of the tree over ``leaf_hashes``; EMPTY_ROOT without leaves.

    Raises UsageError if a leaf hash does not have 32 bytes.
    """
    level = leaf_hashes
    for leaf in level:
        if len(leaf) != DIGEST_BYTES:
            require_digest(leaf, "a leaf hash")
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        level = _parents(level, node)
    return level[0]


def inclusion_proof(
    leaf_hashes: Sequence[bytes], index: int, *, size: int | None = None, node: NodeHash = node_hash
) -> list[bytes]:
    """Inclusion proof of leaf ``index`` in the tree of the first ``size`` leaf hashes (all by default).

    Hashes the whole tree; for many proofs build a :class:`Tree` once. Raises UsageError unless
    0 ≤ index < size ≤ len(leaf_hashes).
    """
    return Tree(leaf_hashes[: _checked_size(leaf_hashes, size)], node).inclusion_proof(index)


def consistency_proof(leaf_hashes: Sequence[bytes], size1: int, size2: int) -> list[bytes]:
    """PROOF(size1, D[size2]) of RFC 9162 section 2.1.4.1: the first tree is a prefix of the second.

    Empty when the sizes are equal. Raises UsageError unless 1 ≤ size1 ≤ size2 ≤ len(leaf_hashes).
    """
    _checked_size(leaf_hashes, size2)
    if not 1 <= size1 <= size2:
        raise UsageError(f"no consistency proof leads from size {size1} to size {size2}")
    proof: list[bytes] = []
    start, end = 0, size2
    while end != size1:
        middle = start + _split(end - start)
        if size1 <= middle:
            proof.append(root(leaf_hashes[middle:end]))
            end = middle
        else:
            proof.append(root(leaf_hashes[start:middle]))
            start = middle
    # A subtree that starts at 0 is the first tree itself, whose root the verifier has.
    if start:
        proof.append(root(leaf_hashes[start:end]))
    proof.reverse()
    return proof


def chainpoint_proof(leaf_hashes: Sequence[bytes], index: int) -> list[dict[str, str]]:
    """The path of leaf ``index`` in the form of merkletools: ``{"left" or "right": hex}``, lowest first.

    ``merkletools.validate_proof(proof, leaf_hashes[index].hex(), root(leaf_hashes, chainpoint_node).hex())``
    holds. Such a proof also validates for interior nodes and under other sizes: a consumer must recompute the
    leaf hash from the record. Raises UsageError unless 0 ≤ index < len(leaf_hashes).
    """
    path = Tree(leaf_hashes, chainpoint_node).siblings(index)
    return [{"left" if is_left else "right": sibling.hex()} for is_left, sibling in path]


def verify_inclusion(*, leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows ``leaf_hash`` at ``index`` in the tree of ``size`` leaves with this ``root``.

    RFC 9162 section 2.1.3.2, with every hash held to 32 bytes. Never raises on values of the right types.
    Does not check where ``leaf_hash``, ``index``, ``size`` and ``root`` come from: see the module's text.
    """
    if not 0 <= index < size or not _are_digests(leaf_hash, root, *proof):
        return False
    first, last, node = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            node = node_hash(sibling, node)
            first, last = _climb(first, last)
        else:
            node = node_hash(node, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and node == root


def verify_common(
    *, leaf_hashes: Mapping[int, bytes], size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``proof`` shows all of ``leaf_hashes``, by index, in the tree of ``size`` leaves with this ``root``.

    The proof holds the missing nodes that stand beside known ones: lowest level first, within one by index. Nothing
    shows no leaf at all, and that is False. Never raises on values of the right types. Does not check where the rest
    comes from, as :func:`verify_inclusion`.
    """
    known = dict(leaf_hashes)
    if not known or not all(0 <= index < size for index in known):
        return False
    if not _are_digests(root, *known.values(), *proof):
        return False
    missing, width = iter(proof), size
    while width > 1:
        above = _known_parents(known, width, missing)
        if above is None:
            return False
        known, width = above, (width + 1) >> 1
    return known[0] == root and next(missing, None) is None


def _known_parents(
    known: Mapping[int, bytes], width: int, missing: Iterator[bytes]
) -> dict[int, bytes] | None:
    """The nodes above ``known`` in a level of ``width`` nodes; None where the proof ends too early."""
    above: dict[int, bytes] = {}
    for index in sorted(known):
        if index >> 1 in above:
            continue
        sibling = index ^ 1
        if sibling >= width:
            above[index >> 1] = known[index]
            continue
        other = known[sibling] if sibling in known else next(missing, None)
        if other is None:
            return None
        left, right = (other, known[index]) if index & 1 else (known[index], other)
        above[index >> 1] = node_hash(left, right)
    return above


def verify_consistency(*, size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree (size1, root1) is a prefix of the tree (size2, root2).

    RFC 9162 section 2.1.4.2. A size of 0 shows nothing and is refused; equal sizes need equal roots and an
    empty proof. Never raises on values of the right types. Does not check where sizes and roots come from.
    """
    if not 1 <= size1 <= size2:
        return False
    if size1 == size2:
        # Nothing is hashed, so the widths need no check.
        return not proof and root1 == root2
    if not proof or not _are_digests(root1, root2, *proof):
        return False
    # A first tree that is a complete subtree of the second is its own first component.
    path = [root1, *proof] if size1.bit_count() == 1 else proof
    first, last = _strip_ones(size1 - 1, size2 - 1)
    node1 = node2 = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            node1 = node_hash(sibling, node1)
            node2 = node_hash(sibling, node2)
            first, last = _climb(first, last)
        else:
            node2 = node_hash(node2, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and node1 == root1 and node2 == root2


def _parents(level: Sequence[bytes], node: NodeHash) -> list[bytes]:
    parents = [node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    if len(level) & 1:
        parents.append(level[-1])
    return parents


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def _climb(first: int, last: int) -> tuple[int, int]:
    """Skip the levels on which the rightmost node has no sibling."""
    while first and not first & 1:
        first >>= 1
        last >>= 1
    return first, last


def _strip_ones(first: int, last: int) -> tuple[int, int]:
    """Skip the levels on which the first tree ends at a right child."""
    while first & 1:
        first >>= 1
        last >>= 1
    return first, last


def _are_digests(*values: bytes) -> bool:
    """Whether all have 32 bytes: otherwise the boundary between two could be shifted under one hash."""
    return all(len(value) == DIGEST_BYTES for value in values)


def _checked_size(leaf_hashes: Sequence[bytes], size: int | None) -> int:
    if size is None:
        return len(leaf_hashes)
    if not 0 <= size <= len(leaf_hashes):
        raise UsageError(f"a tree of size {size} cannot be made from {len(leaf_hashes)} leaves")
    return size
