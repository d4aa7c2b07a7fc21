'use strict';
// The Merkle tree of RFC 9162 section 2.1. Index, size and root must come from a head whose signature was checked,
// and the leaf hash from the record shown: an inclusion proof can hold under several sizes.

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

function leafHash(entry) {
  return sha256(LEAF, entry);
}

function nodeHash(left, right) {
  return sha256(NODE, left, right);
}

/** Root of the tree over these leaf hashes; SHA-256 of nothing where there are none. */
function treeRoot(leafHashes) {
  let level = leafHashes;
  if (level.length === 0) return sha256();
  while (level.length > 1) {
    const parents = [];
    for (let i = 0; i < level.length; i += 2) {
      parents.push(i + 1 < level.length ? nodeHash(level[i], level[i + 1]) : level[i]);
    }
    level = parents;
  }
  return level[0];
}

/** Whether the proof shows this leaf hash at this index of the tree. RFC 9162 section 2.1.3.2. */
function verifyInclusion({ leaf, index, size, proof, root }) {
  if (!areNaturals([index, size]) || index >= size || !areDigests([leaf, root, ...proof])) return false;
  const place = { first: index, last: size - 1 };
  let node = leaf;
  for (const sibling of proof) {
    if (place.last === 0) return false;
    if (siblingIsLeft(place)) {
      node = nodeHash(sibling, node);
      skipWithoutSibling(place);
    } else {
      node = nodeHash(node, sibling);
    }
    goUp(place);
  }
  return place.last === 0 && sameBytes(node, root);
}

/** Whether the first tree is a prefix of the second. RFC 9162 section 2.1.4.2; a tree without leaves shows nothing. */
function verifyConsistency({ size1, root1, size2, root2, proof }) {
  if (!areNaturals([size1, size2]) || size1 < 1 || size1 > size2) return false;
  if (size1 === size2) return proof.length === 0 && sameBytes(root1, root2);
  if (proof.length === 0 || !areDigests([root1, root2, ...proof])) return false;
  // A first tree that is a complete subtree of the second is its own first component.
  const [seed, ...path] = isPowerOfTwo(size1) ? [root1, ...proof] : proof;
  const place = { first: size1 - 1, last: size2 - 1 };
  while (isOdd(place.first)) goUp(place);
  let [node1, node2] = [seed, seed];
  for (const sibling of path) {
    if (place.last === 0) return false;
    if (siblingIsLeft(place)) {
      node1 = nodeHash(sibling, node1);
      node2 = nodeHash(sibling, node2);
      skipWithoutSibling(place);
    } else {
      node2 = nodeHash(node2, sibling);
    }
    goUp(place);
  }
  return place.last === 0 && sameBytes(node1, root1) && sameBytes(node2, root2);
}

// Numbers go up to 2^53-1, so no bit operators, which see 32 bits.
function isOdd(number) {
  return number % 2 === 1;
}

function isPowerOfTwo(number) {
  while (number > 1 && !isOdd(number)) number /= 2;
  return number === 1;
}

function siblingIsLeft(place) {
  return isOdd(place.first) || place.first === place.last;
}

function goUp(place) {
  place.first = Math.floor(place.first / 2);
  place.last = Math.floor(place.last / 2);
}

/** Skip the levels on which the rightmost node has no sibling. */
function skipWithoutSibling(place) {
  while (place.first !== 0 && !isOdd(place.first)) goUp(place);
}

function areNaturals(numbers) {
  return numbers.every((number) => Number.isSafeInteger(number) && number >= 0);
}

/** All have 32 bytes: otherwise the boundary between two could be shifted under one hash. */
function areDigests(values) {
  return values.every((value) => value.length === DIGEST_BYTES);
}
