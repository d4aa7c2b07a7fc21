#!/usr/bin/env python3
"""Write tests/vectors/merkle: one JSON file per mutation of an inclusion or consistency proof.

Every proof and every expected outcome comes from the slow oracle transcribed from RFC 9162
(tests/core/oracle_merkle.py), never from the library. ``--check`` writes nothing and exits 1 if a file
differs, is missing or is left over.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.core import oracle_merkle as oracle  # noqa: E402

TARGET = ROOT / "tests" / "vectors" / "merkle"

RECORDS = [f"polledger merkle vector {i}".encode() for i in range(130)]
LEAVES = [oracle.leaf(oracle.sha256(record)) for record in RECORDS]

GARBAGE = bytes.fromhex("00112233445566778899aabbccddeeff" * 2)
EMPTY_ROOT = oracle.sha256(b"")
WRAPPED = 2**64  # a subtraction below 0 in an unsigned implementation

INCLUSION_CASES = ((0, 1), (0, 8), (5, 8), (2, 3), (1, 5), (64, 65))
CONSISTENCY_CASES = ((1, 1), (1, 8), (6, 8), (2, 5), (6, 7), (32, 65))


@dataclass(frozen=True, kw_only=True)
class Inclusion:
    """One question to verify_inclusion."""

    leaf_hash: bytes
    index: int
    size: int
    proof: list[bytes] = field(default_factory=list)
    root: bytes

    def expected(self) -> bool:
        return oracle.accepts_inclusion(self.leaf_hash, self.index, self.size, self.proof, self.root)


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """One question to verify_consistency."""

    size1: int
    root1: bytes
    size2: int
    root2: bytes
    proof: list[bytes] = field(default_factory=list)

    def expected(self) -> bool:
        return oracle.accepts_consistency(self.size1, self.root1, self.size2, self.root2, self.proof)


Vector = Inclusion | Consistency
Mutations = Iterator[tuple[str, Vector]]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bad_digests(good: bytes) -> dict[str, bytes]:
    """What can stand where ``good`` belongs, by name."""
    return {
        "bit-7": flipped(good, 7),
        "garbage": GARBAGE,
        "empty-tree": EMPTY_ROOT,
        "no-bytes": b"",
        "one-byte-short": good[:-1],
    }


def proof_mutations(good: Vector, roots: dict[str, bytes]) -> Mutations:
    """What can happen to the list of components, whatever it proves."""
    proof = good.proof
    extra = {"empty": b"", "garbage": GARBAGE, **roots}
    for name, value in extra.items():
        yield f"preceding-{name}", replace(good, proof=[value, *proof])
        yield f"trailing-{name}", replace(good, proof=[*proof, value])
    for i, value in enumerate(proof):
        before, after = proof[:i], proof[i + 1 :]
        yield f"component-{i}-bit-100", replace(good, proof=[*before, flipped(value, 100), *after])
        yield f"component-{i}-removed", replace(good, proof=[*before, *after])
        yield f"component-{i}-garbage-inserted", replace(good, proof=[*before, GARBAGE, value, *after])
    if proof:
        first, rest = proof[0], proof[1:]
        yield "first-component-doubled", replace(good, proof=[first, *proof])
        yield "first-component-one-byte-short", replace(good, proof=[first[:-1], *rest])
        yield "first-component-one-byte-long", replace(good, proof=[first + b"\0", *rest])
        yield "empty-proof", replace(good, proof=[])
        yield "components-joined", replace(good, proof=[b"".join(proof)])
    if len(proof) > 1:
        yield "components-reversed", replace(good, proof=proof[::-1])


def inclusion_mutations(index: int, size: int) -> Mutations:
    tree = LEAVES[:size]
    root = oracle.mth(tree)
    good = Inclusion(leaf_hash=tree[index], index=index, size=size, proof=oracle.path(index, tree), root=root)
    yield "valid", good
    yield from proof_mutations(good, {"root": root, "leaf": good.leaf_hash})
    for name, changed in {
        "index-plus-1": index + 1,
        "index-minus-1": (index - 1) % WRAPPED,
        "index-xor-2": index ^ 2,
        "index-is-size": size,
        "index-negative": -1,
        "index-plus-2-to-64": index + WRAPPED,
    }.items():
        yield name, replace(good, index=changed)
    for name, changed in {
        "size-doubled": 2 * size,
        "size-halved": size // 2,
        "size-zero": 0,
        "size-negative": -size,
    }.items():
        yield name, replace(good, size=changed)
    for name, value in bad_digests(root).items():
        yield f"root-{name}", replace(good, root=value)
    for name, value in bad_digests(good.leaf_hash).items():
        yield f"leaf-{name}", replace(good, leaf_hash=value)
    yield "leaf-is-entry", replace(good, leaf_hash=oracle.sha256(RECORDS[index]))
    yield "root-and-leaf-no-bytes", replace(good, root=b"", leaf_hash=b"")
    if good.proof:
        yield "leaf-boundary-shifted", shifted_leaf(good)
        yield "leaf-is-root", replace(good, leaf_hash=root)
        yield "leaf-is-root-without-proof", replace(good, leaf_hash=root, proof=[])
        parent = oracle.mth(tree[index & ~1 : (index & ~1) + 2])
        yield "leaf-is-interior-node", replace(good, leaf_hash=parent, proof=good.proof[1:])


def shifted_leaf(good: Inclusion) -> Inclusion:
    """One byte moved between leaf hash and first sibling: the same bytes are hashed."""
    sibling, *rest = good.proof
    if good.index & 1 or good.index == good.size - 1:
        return replace(good, leaf_hash=good.leaf_hash[1:], proof=[sibling + good.leaf_hash[:1], *rest])
    return replace(good, leaf_hash=good.leaf_hash + sibling[:1], proof=[sibling[1:], *rest])


def inclusion_singles() -> Mutations:
    """Proofs over no tree, and sizes under which a proof made for another size holds too."""
    for index, size in ((0, 0), (1, 0), (0, 1), (2, 1)):
        for name, root, leaf_hash in (
            ("empty-root", EMPTY_ROOT, b""),
            ("empty-root-and-garbage-leaf", EMPTY_ROOT, GARBAGE),
            ("garbage-leaf", b"", GARBAGE),
            ("garbage-for-both", GARBAGE, GARBAGE),
        ):
            vector = Inclusion(leaf_hash=leaf_hash, index=index, size=size, root=root)
            yield f"index-{index}-size-{size}-{name}", vector
    for index, size, other in ((0, 3, 4), (0, 5, 8), (1, 6, 7)):
        tree = LEAVES[:size]
        proof = oracle.path(index, tree)
        alias = Inclusion(leaf_hash=tree[index], index=index, size=other, proof=proof, root=oracle.mth(tree))
        yield f"alias-index-{index}-size-{size}-as-{other}", alias
    leaf_hash, long = LEAVES[0], GARBAGE + b"\0"
    # Roots that the forger made himself: the hashing comes out right, the shape or a width does not.
    for name, size, proof, root in (
        ("component-too-many", 1, [GARBAGE], oracle.node(GARBAGE, leaf_hash)),
        ("component-too-many-on-top", 2, [LEAVES[1], GARBAGE], oracle.node(GARBAGE, oracle.mth(LEAVES[:2]))),
        ("component-too-long", 2, [long], oracle.node(leaf_hash, long)),
        ("component-too-short", 2, [GARBAGE[:-1]], oracle.node(leaf_hash, GARBAGE[:-1])),
    ):
        yield (
            f"made-up-root-{name}",
            Inclusion(leaf_hash=leaf_hash, index=0, size=size, proof=proof, root=root),
        )


def consistency_mutations(size1: int, size2: int) -> Mutations:
    tree = LEAVES[:size2]
    root1, root2 = oracle.mth(tree[:size1]), oracle.mth(tree)
    good = Consistency(size1=size1, root1=root1, size2=size2, root2=root2, proof=oracle.proof(size1, tree))
    yield "valid", good
    first = good.proof[:1] or [root1]
    yield from proof_mutations(good, {"root1": root1, "root2": root2, "first-component": first[0]})
    for name, changed in {
        "plus-1": size1 + 1,
        "minus-1": size1 - 1,
        "xor-2": size1 ^ 2,
        "zero": 0,
        "negative": -size1,
    }.items():
        yield f"size1-{name}", replace(good, size1=changed)
    for name, changed in {"doubled": 2 * size2, "halved": size2 // 2, "zero": 0, "negative": -size2}.items():
        yield f"size2-{name}", replace(good, size2=changed)
    for name, value in bad_digests(root1).items():
        yield f"root1-{name}", replace(good, root1=value)
    for name, value in bad_digests(root2).items():
        yield f"root2-{name}", replace(good, root2=value)
    if size1 != size2:
        # Only a first tree that is a complete subtree has its root hashed beside the first component.
        if size1.bit_count() == 1:
            moved = [good.proof[0][1:], *good.proof[1:]]
            yield "root1-boundary-shifted", replace(good, root1=root1 + good.proof[0][:1], proof=moved)
        yield "roots-swapped", replace(good, root1=root2, root2=root1)
        yield "sizes-swapped", replace(good, size1=size2, size2=size1)
        yield "rewritten-history", replace(good, root1=oracle.mth([*tree[: size1 - 1], LEAVES[-1]]))


def extended(tree1: list[bytes], tree2: list[bytes]) -> tuple[bytes, int, bytes, list[bytes]]:
    """(root1, size2, root2, proof) with one more component hashed on top of both roots."""
    root1, root2 = (oracle.node(GARBAGE, oracle.mth(tree)) for tree in (tree1, tree2))
    return root1, len(tree2), root2, [*oracle.proof(len(tree1), tree2), GARBAGE]


def consistency_singles() -> Mutations:
    """Trees of no leaves, roots whose width is never looked at, and sizes a proof was not made for."""
    short1, short2, long = b"short root 1", b"short root 2", GARBAGE + b"\0"
    for name, size1, root1, size2, root2, proof in (
        ("empty-tree-to-one-leaf", 0, EMPTY_ROOT, 1, EMPTY_ROOT, [EMPTY_ROOT]),
        ("empty-tree-to-one-leaf-without-proof", 0, EMPTY_ROOT, 1, LEAVES[0], []),
        ("empty-tree-to-other-root", 0, EMPTY_ROOT, 1, short2, []),
        ("zero-to-one-short-roots", 0, short1, 1, short2, []),
        ("both-empty", 0, EMPTY_ROOT, 0, EMPTY_ROOT, []),
        ("both-empty-with-proof", 0, EMPTY_ROOT, 0, EMPTY_ROOT, [EMPTY_ROOT]),
        ("both-zero-same-short-root", 0, short1, 0, short1, []),
        ("both-zero-other-short-root", 0, short1, 0, short2, []),
        ("both-zero-other-root", 0, EMPTY_ROOT, 0, short2, []),
        ("both-one-same-short-root", 1, short1, 1, short1, []),
        ("both-one-other-short-root", 1, short1, 1, short2, []),
        ("both-one-other-root", 1, EMPTY_ROOT, 1, short2, []),
        ("both-one-with-proof", 1, EMPTY_ROOT, 1, EMPTY_ROOT, [EMPTY_ROOT]),
        ("shrinks-to-zero", 1, short1, 0, short2, []),
        ("shrinks-to-one", 2, short1, 1, short2, []),
        ("one-to-two-without-proof", 1, LEAVES[0], 2, oracle.mth(LEAVES[:2]), []),
        ("shrinks-with-the-same-root", 3, GARBAGE, 1, GARBAGE, [GARBAGE]),
        ("made-up-root1-too-long", 1, long, 2, oracle.node(long, GARBAGE), [GARBAGE]),
        ("made-up-root2-component-too-long", 1, GARBAGE, 2, oracle.node(GARBAGE, long), [long]),
        ("made-up-roots-component-too-many", 3, *extended(LEAVES[:3], LEAVES[:4])),
    ):
        yield name, Consistency(size1=size1, root1=root1, size2=size2, root2=root2, proof=proof)
    for size1, size2, other in ((2, 5, 6), (6, 7, 8)):
        tree = LEAVES[:size2]
        root1, root2 = oracle.mth(tree[:size1]), oracle.mth(tree)
        proof = oracle.proof(size1, tree)
        alias = Consistency(size1=size1, root1=root1, size2=other, root2=root2, proof=proof)
        yield f"alias-size-{size1}-to-{size2}-as-{other}", alias


ACCEPTED_SINGLES = {"both-one-same-short-root", "index-0-size-1-garbage-for-both"}


def must_hold(name: str, vector: Vector, valid: Vector | None) -> bool:
    """What the name of the mutation promises, independent of the oracle."""
    if name == "valid" or name.startswith("alias-"):
        return True
    return name in ACCEPTED_SINGLES or (valid is not None and vector == valid)


def as_json(vector: Vector, name: str) -> dict[str, Any]:
    document: dict[str, Any] = {"description": name.replace("-", " ")}
    for key in vector.__dataclass_fields__:
        value = getattr(vector, key)
        if isinstance(value, bytes):
            document[key] = value.hex()
        elif isinstance(value, list):
            document[key] = [component.hex() for component in value]
        else:
            document[key] = value
    return {**document, "accept": vector.expected()}


def render(folder: str, mutations: Mutations) -> Iterator[tuple[str, str]]:
    """(path, text) of every file of one folder. Exits if oracle and mutation disagree about the outcome."""
    valid: Vector | None = None
    for name, vector in mutations:
        if name == "valid":
            valid = vector
        elif valid is not None and vector == valid:
            continue  # this mutation changes nothing here, e.g. the second of two equal sizes
        if vector.expected() != must_hold(name, vector, valid):
            sys.exit(f"{folder}/{name}: the oracle says {vector.expected()}")
        yield f"{folder}/{name}.json", json.dumps(as_json(vector, name), indent=1) + "\n"


def vectors() -> dict[str, str]:
    """Text of every file by its path below tests/vectors/merkle."""
    files: dict[str, str] = {}
    for index, size in INCLUSION_CASES:
        files |= render(f"inclusion/index-{index}-size-{size}", inclusion_mutations(index, size))
    files |= render("inclusion/singles", inclusion_singles())
    for size1, size2 in CONSISTENCY_CASES:
        files |= render(f"consistency/size-{size1}-to-{size2}", consistency_mutations(size1, size2))
    files |= render("consistency/singles", consistency_singles())
    return files


def on_disk() -> dict[str, str]:
    return {path.relative_to(TARGET).as_posix(): path.read_text() for path in sorted(TARGET.rglob("*.json"))}


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    arguments = parser.parse_args()
    wanted, found = vectors(), on_disk()
    drift = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if arguments.check:
        for name in drift:
            print(f"tests/vectors/merkle/{name}: differs from what scripts/make_merkle_vectors.py makes")
        return 1 if drift else 0
    for name in found.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name in drift:
        if name in wanted:
            path = TARGET / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name])
    print(f"{len(wanted)} vectors, {len(drift)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
