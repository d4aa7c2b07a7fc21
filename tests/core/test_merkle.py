"""The tree against the slow oracle: roots, proofs and the frontier of every size from 0 to 65."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.digest import sha256
from polledger.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    chainpoint_node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_common,
    verify_consistency,
    verify_inclusion,
)
from polledger.errors import UsageError
from tests.core import oracle_merkle as oracle

SIZES = range(66)
LEAVES = [oracle.leaf(f"entry {i}".encode()) for i in range(200)]
sizes = pytest.mark.parametrize("size", SIZES)


@cache
def oracle_root(size: int) -> bytes:
    return oracle.mth(LEAVES[:size])


def includes(
    index: int, size: int, proof: list[bytes], *, of: int | None = None, claimed: int | None = None
) -> bool:
    """verify_inclusion for leaf ``of`` (index by default) under the root of ``size`` and a claimed size."""
    return verify_inclusion(
        leaf_hash=LEAVES[index if of is None else of],
        index=index,
        size=size if claimed is None else claimed,
        proof=proof,
        root=oracle_root(size),
    )


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_leaf_and_node_prefixes_are_those_of_the_rfc() -> None:
    assert leaf_hash(b"entry") == sha256(b"\x00entry")
    assert leaf_hash(memoryview(b"entry")) == leaf_hash(b"entry")
    assert node_hash(LEAVES[0], LEAVES[1]) == sha256(b"\x01" + LEAVES[0] + LEAVES[1])
    assert chainpoint_node(LEAVES[0], LEAVES[1]) == sha256(LEAVES[0] + LEAVES[1])
    assert sha256(b"") == EMPTY_ROOT


@sizes
def test_root_equals_the_oracle(size: int) -> None:
    assert root(LEAVES[:size]) == Tree(LEAVES[:size]).root == oracle_root(size)


def test_frontier_equals_the_oracle_at_every_size() -> None:
    frontier = Frontier()
    for size in SIZES:
        assert (frontier.size, frontier.root()) == (size, oracle_root(size))
        frontier.append(LEAVES[size])


def test_frontier_extends_like_it_appends() -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:20])
    frontier.extend(iter(LEAVES[20:61]))
    assert (frontier.size, frontier.root()) == (61, oracle_root(61))


@sizes
def test_frontier_and_tree_agree_under_the_chainpoint_node(size: int) -> None:
    frontier = Frontier(chainpoint_node)
    frontier.extend(LEAVES[:size])
    expected = root(LEAVES[:size], chainpoint_node)
    assert frontier.root() == Tree(LEAVES[:size], chainpoint_node).root == expected
    assert (expected == oracle_root(size)) == (size < 2)


@sizes
def test_inclusion_proofs_equal_the_oracle_and_verify(size: int) -> None:
    tree = Tree(LEAVES[:size])
    for index in range(size):
        proof = tree.inclusion_proof(index)
        assert proof == oracle.path(index, LEAVES[:size])
        assert includes(index, size, proof)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65])
def test_inclusion_proof_takes_the_tree_of_the_first_leaves(size: int) -> None:
    for index in range(size):
        assert inclusion_proof(LEAVES, index, size=size) == oracle.path(index, LEAVES[:size])
    whole = inclusion_proof(LEAVES[:size], size - 1)
    assert whole == oracle.path(size - 1, LEAVES[:size])


@sizes
def test_inclusion_at_another_index_is_refused(size: int) -> None:
    tree = Tree(LEAVES[:size])
    for index in range(size):
        proof = tree.inclusion_proof(index)
        for other in range(-1, size + 1):
            assert includes(other, size, proof, of=index) == (other == index)


@pytest.mark.parametrize("size", range(1, 34))
def test_inclusion_under_another_size_is_judged_like_the_oracle(size: int) -> None:
    tree = Tree(LEAVES[:size])
    for index in range(size):
        proof = tree.inclusion_proof(index)
        for claimed in range(36):
            expected = oracle.accepts_inclusion(LEAVES[index], index, claimed, proof, oracle_root(size))
            assert includes(index, size, proof, claimed=claimed) == expected


@sizes
def test_consistency_proofs_equal_the_oracle_and_verify(size: int) -> None:
    for first in range(1, size + 1):
        proof = consistency_proof(LEAVES, first, size)
        assert proof == oracle.proof(first, LEAVES[:size])
        assert verify_consistency(
            size1=first, root1=oracle_root(first), size2=size, root2=oracle_root(size), proof=proof
        )


@pytest.mark.parametrize("size", range(1, 66))
def test_a_frontier_proves_what_follows_it_like_the_whole_tree(size: int) -> None:
    for first in range(1, size + 1):
        frontier = Frontier()
        frontier.extend(LEAVES[:first])
        assert frontier.consistency_proof(LEAVES[first:size]) == consistency_proof(LEAVES, first, size)
        assert frontier.root() == oracle_root(first)


def test_a_frontier_without_leaves_proves_nothing() -> None:
    with pytest.raises(UsageError, match="tree without leaves"):
        Frontier().consistency_proof(LEAVES[:3])


@pytest.mark.parametrize("size", range(1, 34))
def test_consistency_with_another_first_size_or_root_is_refused(size: int) -> None:
    for first in range(1, size):
        proof = consistency_proof(LEAVES, first, size)
        roots = {"root1": oracle_root(first), "size2": size, "root2": oracle_root(size), "proof": proof}
        for other in range(-1, size + 2):
            assert verify_consistency(**roots | {"size1": other}) == (other == first)
            rewritten = {"root1": oracle_root(max(other, 0))}
            assert verify_consistency(**roots | {"size1": first} | rewritten) == (other == first)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_of_an_inclusion_proof_is_rejected(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)), "size")
    index = data.draw(st.integers(0, size - 1), "index")
    values = [LEAVES[index], oracle_root(size), *inclusion_proof(LEAVES, index, size=size)]
    which = data.draw(st.integers(0, len(values) - 1), "which")
    values[which] = flip(values[which], data.draw(st.integers(0, 255), "bit"))
    leaf, top, *proof = values
    assert not verify_inclusion(leaf_hash=leaf, index=index, size=size, proof=proof, root=top)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_of_a_consistency_proof_is_rejected(data: st.DataObject) -> None:
    size2 = data.draw(st.integers(1, len(LEAVES)), "size2")
    size1 = data.draw(st.integers(1, size2), "size1")
    values = [oracle_root(size1), oracle_root(size2), *consistency_proof(LEAVES, size1, size2)]
    which = data.draw(st.integers(0, len(values) - 1), "which")
    values[which] = flip(values[which], data.draw(st.integers(0, 255), "bit"))
    root1, root2, *proof = values
    assert not verify_consistency(size1=size1, root1=root1, size2=size2, root2=root2, proof=proof)


digests = st.one_of(st.binary(max_size=40), st.sampled_from(LEAVES[:9]), st.integers(0, 9).map(oracle_root))
anything = st.lists(digests, max_size=9)
numbers = st.one_of(st.integers(-3, 10), st.integers())


@given(leaf=digests, index=numbers, size=numbers, proof=anything, top=digests)
@settings(max_examples=500, deadline=None)
def test_inclusion_of_anything_is_judged_like_the_oracle(leaf, index, size, proof, top) -> None:
    verdict = verify_inclusion(leaf_hash=leaf, index=index, size=size, proof=proof, root=top)
    assert verdict == oracle.accepts_inclusion(leaf, index, size, proof, top)


@given(size1=numbers, root1=digests, size2=numbers, root2=digests, proof=anything)
@settings(max_examples=500, deadline=None)
def test_consistency_of_anything_is_judged_like_the_oracle(size1, root1, size2, root2, proof) -> None:
    verdict = verify_consistency(size1=size1, root1=root1, size2=size2, root2=root2, proof=proof)
    assert verdict == oracle.accepts_consistency(size1, root1, size2, root2, proof)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_leaf_hash_of_another_width_is_refused(length: int) -> None:
    wrong = [LEAVES[0], bytes(length), LEAVES[1]]
    for build in (root, Tree, Frontier().extend):
        with pytest.raises(UsageError, match="a leaf hash has 32 bytes"):
            build(wrong)


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (0, 201), (0, -1)])
def test_no_inclusion_proof_is_made_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(UsageError):
        inclusion_proof(LEAVES, index, size=size)


@pytest.mark.parametrize(("size1", "size2"), [(0, 5), (-1, 5), (6, 5), (5, 201), (0, 0)])
def test_no_consistency_proof_is_made_from_an_empty_tree_or_backwards(size1: int, size2: int) -> None:
    with pytest.raises(UsageError):
        consistency_proof(LEAVES, size1, size2)


def common(indices: list[int], size: int, proof: list[bytes], *, claimed: int | None = None) -> bool:
    return verify_common(
        leaf_hashes={index: LEAVES[index] for index in indices},
        size=size if claimed is None else claimed,
        proof=proof,
        root=oracle_root(size),
    )


@sizes
def test_a_common_proof_of_one_leaf_is_its_inclusion_proof_and_of_all_is_empty(size: int) -> None:
    tree = Tree(LEAVES[:size])
    for index in range(size):
        proof = tree.common_proof([index])
        assert proof == tree.inclusion_proof(index)
        assert common([index], size, proof)
    assert tree.common_proof(range(size)) == []
    assert common(list(range(size)), size, []) is (size > 0)


@given(
    st.integers(1, 65).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1)))
)
def test_a_common_proof_holds_for_its_leaves_and_for_nothing_else(drawn: tuple[int, set[int]]) -> None:
    size, chosen = drawn
    indices = sorted(chosen)
    proof = Tree(LEAVES[:size]).common_proof(indices)
    assert common(indices, size, proof)
    assert len(proof) <= sum(len(Tree(LEAVES[:size]).inclusion_proof(index)) for index in indices)
    assert not common(indices, size, [*proof, LEAVES[0]])
    assert not common(indices, size, proof[1:]) or not proof
    assert not common([], size, proof)
    changed = {index: LEAVES[index] for index in indices} | {indices[0]: LEAVES[100]}
    assert not verify_common(leaf_hashes=changed, size=size, proof=proof, root=oracle_root(size))
    for at in range(len(proof)):
        bent = [*proof[:at], flip(proof[at], 3), *proof[at + 1 :]]
        assert not common(indices, size, bent)


def test_a_common_proof_needs_leaves_of_the_tree() -> None:
    with pytest.raises(UsageError, match="tree of size 5"):
        Tree(LEAVES[:5]).common_proof([2, 5])
    assert not common([5], 5, [])
    assert not verify_common(leaf_hashes={0: b"short"}, size=1, proof=[], root=b"short")
