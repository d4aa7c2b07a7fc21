"""Stock merkletools as a peer: it validates every proof we export, and forgeries that we refuse."""

import warnings
from types import ModuleType
from typing import Any

import pytest

from polledger.core.digest import ZERO, sha256
from polledger.core.head import Head
from polledger.core.merkle import (
    Tree,
    chainpoint_node,
    chainpoint_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from polledger.errors import UsageError
from tests.core import oracle_merkle as oracle

RECORDS = [f"record {i}".encode() for i in range(1000)]
LEAVES = [leaf_hash(sha256(record)) for record in RECORDS]


def load_merkletools() -> ModuleType:
    with warnings.catch_warnings():
        # It warns that an optional hash it does not need here is missing.
        warnings.simplefilter("ignore")
        import merkletools
    return merkletools


def peer() -> Any:
    return load_merkletools().MerkleTools(hash_type="sha256")


def peer_accepts(proof: list[dict[str, str]], target: bytes, top: bytes) -> bool:
    return bool(peer().validate_proof(proof, target.hex(), top.hex()))


def chainpoint_root(leaves: list[bytes]) -> bytes:
    return root(leaves, chainpoint_node)


def we_accept(leaf: bytes, index: int, size: int, proof: list[dict[str, str]], top: bytes) -> bool:
    components = [bytes.fromhex(value) for step in proof for value in step.values()]
    return verify_inclusion(leaf_hash=leaf, index=index, size=size, proof=components, root=top)


@pytest.mark.parametrize("size", range(1, 71))
def test_merkletools_validates_every_exported_proof(size: int) -> None:
    leaves = LEAVES[:size]
    tool = peer()
    tool.add_leaf([leaf.hex() for leaf in leaves])
    tool.make_tree()
    assert tool.get_merkle_root() == chainpoint_root(leaves).hex()
    for index, leaf in enumerate(leaves):
        proof = chainpoint_proof(leaves, index)
        assert proof == tool.get_proof(index)
        assert tool.validate_proof(proof, leaf.hex(), tool.get_merkle_root())


def test_merkletools_validates_every_exported_proof_of_1000_leaves() -> None:
    tool = peer()
    top = chainpoint_root(LEAVES).hex()
    for index, leaf in enumerate(LEAVES):
        assert tool.validate_proof(chainpoint_proof(LEAVES, index), leaf.hex(), top)


@pytest.mark.parametrize("index", [-1, 5])
def test_no_chainpoint_proof_is_made_outside_the_tree(index: int) -> None:
    with pytest.raises(UsageError):
        chainpoint_proof(LEAVES[:5], index)


# The forgeries. Each is shown twice: in the exported tree, where merkletools accepts it, and in the tree of the
# head, where the leaf hash is recomputed from a record and index and size come from the head.


def test_interior_node_as_leaf_is_refused() -> None:
    leaves = LEAVES[:8]
    forged = chainpoint_node(leaves[0], leaves[1])
    shortened = chainpoint_proof(leaves, 0)[1:]
    assert peer_accepts(shortened, forged, chainpoint_root(leaves))

    proof = inclusion_proof(leaves, 0)[1:]
    interior = node_hash(leaves[0], leaves[1])
    # The bytes under an interior node shown as an entry, and the node itself as a leaf hash.
    for leaf in (leaf_hash(leaves[0] + leaves[1]), leaf_hash(sha256(leaves[0] + leaves[1])), interior):
        assert not verify_inclusion(leaf_hash=leaf, index=0, size=8, proof=proof, root=root(leaves))


def test_root_as_leaf_is_refused() -> None:
    leaves = LEAVES[:8]
    top = chainpoint_root(leaves)
    assert peer_accepts([], top, top)

    top = root(leaves)
    for index in range(8):
        assert not verify_inclusion(leaf_hash=top, index=index, size=8, proof=[], root=top)
    below = Tree(leaves)
    left, right = root(leaves[:4]), root(leaves[4:])
    assert node_hash(left, right) == below.root
    assert not verify_inclusion(leaf_hash=leaf_hash(left + right), index=0, size=8, proof=[], root=top)


def test_truncated_tree_is_refused() -> None:
    """Four leaves that are the interior nodes of eight have the root of the eight."""
    pairs = [chainpoint_node(LEAVES[i], LEAVES[i + 1]) for i in range(0, 8, 2)]
    assert chainpoint_root(pairs) == chainpoint_root(LEAVES[:8])
    for index in range(4):
        assert peer_accepts(chainpoint_proof(pairs, index), pairs[index], chainpoint_root(LEAVES[:8]))

    # As entries, the same bytes are hashed with the leaf prefix: the four have another root.
    entries = [leaf_hash(LEAVES[i] + LEAVES[i + 1]) for i in range(0, 8, 2)]
    assert root(entries) != root(LEAVES[:8])
    interior = [node_hash(LEAVES[i], LEAVES[i + 1]) for i in range(0, 8, 2)]
    for index in range(4):
        for leaf, leaves in ((entries[index], entries), (interior[index], interior)):
            proof = inclusion_proof(leaves, index)
            assert not verify_inclusion(
                leaf_hash=leaf, index=index, size=8, proof=proof, root=root(LEAVES[:8])
            )


def test_boundary_shift_between_leaf_and_sibling_is_refused() -> None:
    leaves = LEAVES[:2]
    shifted = leaves[0] + leaves[1][:1], leaves[1][1:]
    top = chainpoint_root(leaves)
    assert peer_accepts([{"right": shifted[1].hex()}], shifted[0], top)

    assert node_hash(*shifted) == root(leaves)
    assert not verify_inclusion(leaf_hash=shifted[0], index=0, size=2, proof=[shifted[1]], root=root(leaves))


def test_wrong_index_is_refused() -> None:
    """A merkletools proof names no index: it proves a place only by its left and right, which nobody checks."""
    leaves = LEAVES[:8]
    proof = chainpoint_proof(leaves, 5)
    assert peer_accepts(proof, leaves[5], chainpoint_root(leaves))

    proof = [{"right": component.hex()} for component in inclusion_proof(leaves, 5)]
    assert [index for index in range(-8, 17) if we_accept(leaves[5], index, 8, proof, root(leaves))] == [5]


def test_aliased_tree_size_is_refused_through_the_head() -> None:
    """A proof for 3 leaves holds under 4 as arithmetic; the size counts only as the head signs it."""
    leaves = LEAVES[:3]
    proof = chainpoint_proof(leaves, 0)
    assert peer_accepts(proof, leaves[0], chainpoint_root(leaves))

    top = root(leaves)
    path = inclusion_proof(leaves, 0)
    assert verify_inclusion(leaf_hash=leaves[0], index=0, size=4, proof=path, root=top)
    honest = Head(run=bytes(16), size=3, root=top, chainpoint=chainpoint_root(leaves), previous=ZERO)
    aliased = Head(run=bytes(16), size=4, root=top, chainpoint=chainpoint_root(leaves), previous=ZERO)
    assert aliased.digest() != honest.digest()
    # Nor can the aliased head be extended: no fourth leaf gives its root, and no later tree is consistent with it.
    assert root(LEAVES[:4]) != top
    for size in range(5, 12):
        later = oracle.mth(LEAVES[:size])
        for made_for in (3, 4):
            extension = oracle.proof(made_for, LEAVES[:size])
            assert not verify_consistency(size1=4, root1=top, size2=size, root2=later, proof=extension)
