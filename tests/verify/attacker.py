"""Whoever knows everything about a run but its secret, and guesses what its examples are.

The data have few possible values, the code, the seed and so the order are public, and so is every byte that a prover
hands out. A guess is confirmed where a digest made of it turns up in those bytes.
"""

import base64
import binascii
import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from polledger.core.merkle import leaf_hash
from polledger.core.seeds import batch_digest, example_leaf, known_entry, salt

Salts = Callable[[str, int], list[bytes]]
"""What the salt of an example or a batch could be, by purpose and number."""

WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """``published``: every file that was handed out; ``explained``: digests in it of what is opened anyway.

    ``candidates``: what each example may be; ``steps``: the indices that a step consumes; ``collate`` makes a batch.
    """

    published: Sequence[bytes]
    candidates: Callable[[int], Sequence[bytes]]
    steps: Sequence[Sequence[int]]
    explained: frozenset[bytes]
    collate: Callable[[Sequence[bytes]], bytes]

    def confirmed(self, salts: Salts) -> set[tuple[str, int]]:
        """Examples and batches of which a guess is confirmed."""
        seen = self._windows()
        indices = sorted({index for step in self.steps for index in step})
        found = {("example", index) for index in indices if seen & set(self._examples(index, salts))}
        return found | {
            ("batch", step) for step in range(len(self.steps)) if seen & set(self._batches(step, salts))
        }

    def _windows(self) -> set[bytes]:
        """Every 32 bytes in a row, also of what is written in hex or base64."""
        windows = set()
        for data in (form for file in self.published for form in _forms(file)):
            windows |= {data[at : at + WIDTH] for at in range(len(data) - WIDTH + 1)}
        return windows - self.explained

    def _examples(self, index: int, salts: Salts) -> Iterator[bytes]:
        for guess in self.candidates(index):
            entries = [example_leaf(one, [guess]) for one in salts("example", index)]
            entries += [known_entry([guess]), hashlib.sha256(guess).digest()]
            yield from entries
            yield from map(leaf_hash, entries)

    def _batches(self, step: int, salts: Salts) -> Iterator[bytes]:
        for guess in itertools.product(*(self.candidates(index) for index in self.steps[step])):
            batch = self.collate(guess)
            yield from (batch_digest(one, [batch]) for one in salts("batch", step))
            yield hashlib.sha256(batch).digest()


def _forms(data: bytes) -> Iterator[bytes]:
    yield data
    yield from (bytes.fromhex(found.decode()) for found in re.findall(rb"(?:[0-9a-f]{2}){32,}", data))
    for text in re.findall(rb"[A-Za-z0-9+/]{43,}={0,2}", data):
        try:
            yield base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            continue


def public_salts(values: Sequence[bytes]) -> Salts:
    """No salt, and every value of 32 bytes that anybody can see, taken for the salt itself or for the secret."""
    known = [bytes(WIDTH), *(value.ljust(WIDTH, b"\0")[:WIDTH] for value in values)]

    def guesses(purpose: str, number: int) -> list[bytes]:
        derived = [salt(value, purpose, number) for value in known]
        counted = hashlib.sha256(number.to_bytes(8, "big")).digest()
        return [*known, *derived, counted, hmac.digest(b"", number.to_bytes(8, "big"), "sha256")]

    return guesses


def leaked(secret: bytes) -> Salts:
    """The salts, had the secret leaked."""
    return lambda purpose, number: [salt(secret, purpose, number)]
