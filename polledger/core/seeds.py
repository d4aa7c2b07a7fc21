"""Everything random in a run, derived: training seed, generator seeds, salts. PROTOCOL section 6."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256 as _sha256

from polledger.core.digest import DIGEST_BYTES, Buffer, require_digest, sha256, u64
from polledger.errors import UsageError

_SEED_LABEL = b"polledger/seed/1\x00"
_RNG_LABEL = b"polledger/rng/1"
_EXAMPLE_LABEL = b"polledger/example/1\x00"
_DATA_LABEL = b"polledger/data/1\x00"
_BATCH_LABEL = b"polledger/batch/1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class RngSeeds:
    """Seeds of the three generators a step may use.

    ``torch`` (unsigned 64 bits) for the default CPU generator and that of the device, ``numpy`` (32 bits)
    for the legacy generator, ``random`` (160 bits) for the standard library's.
    """

    torch: int
    numpy: int
    random: int


def training_seed(seed: int, key: bytes | None) -> int:
    """First 8 bytes, big-endian, of H("polledger/seed/1" ‖ 0 ‖ u64(seed) ‖ public key).

    ``key`` is the raw Ed25519 public key that signs the heads; None leaves it out (``--unbound``). Raises
    UsageError unless 0 ≤ seed < 2^64 and the key has 32 bytes.
    """
    bound = b"" if key is None else require_digest(key, "an Ed25519 public key")
    return int.from_bytes(sha256(_SEED_LABEL + u64(seed) + bound)[:8], "big")


def rng_seeds(s: int, n: int, purpose: str) -> RngSeeds:
    """Generator seeds of step ``n`` under training seed ``s``.

    h = H("polledger/rng/1" ‖ u64(s) ‖ u64(n) ‖ purpose); torch takes h[0:8], NumPy h[8:12], ``random``
    h[12:32], all big-endian. The protocol's purposes are ``build`` (n = 0), ``batch`` and ``step``.
    Raises UsageError when ``s`` or ``n`` is outside 64 bits.
    """
    h = sha256(_RNG_LABEL + u64(s) + u64(n) + purpose.encode())
    return RngSeeds(
        torch=int.from_bytes(h[0:8], "big"),
        numpy=int.from_bytes(h[8:12], "big"),
        random=int.from_bytes(h[12:32], "big"),
    )


def salt(secret: bytes, purpose: str, i: int) -> bytes:
    """HMAC-SHA-256(secret, purpose ‖ 0 ‖ u64(i)): hides one example or batch until it is opened.

    ``secret`` is the run's 32 random bytes, ``purpose`` is ``example`` (i: position in the data set) or
    ``batch`` (i: step). Raises UsageError for a secret of another length or ``i`` outside 64 bits.
    """
    if len(secret) != DIGEST_BYTES:
        raise UsageError(f"a run secret has {DIGEST_BYTES} bytes, found {len(secret)}")
    return hmac.digest(secret, purpose.encode() + b"\x00" + u64(i), "sha256")


def example_leaf(salt: bytes, chunks: Iterable[Buffer]) -> bytes:
    """H("polledger/example/1" ‖ 0 ‖ salt ‖ canonical bytes): the entry of one example.

    The dataset root is the RFC 9162 root over ``leaf_hash`` of these. ``chunks`` are hashed as if joined;
    memoryviews must be C-contiguous. Raises UsageError unless the salt has 32 bytes.
    """
    return _salted(_EXAMPLE_LABEL, salt, chunks)


def batch_digest(salt: bytes, chunks: Iterable[Buffer]) -> bytes:
    """H("polledger/batch/1" ‖ 0 ‖ salt ‖ canonical bytes of the batch as consumed).

    ``chunks`` and errors as in :func:`example_leaf`.
    """
    return _salted(_BATCH_LABEL, salt, chunks)


def known_entry(chunks: Iterable[Buffer]) -> bytes:
    """H("polledger/data/1" ‖ 0 ‖ canonical bytes): an example without a salt, for data that are no secret.

    The digest of a data set is the RFC 9162 root over ``leaf_hash`` of these, in order.
    """
    digest = _sha256(_DATA_LABEL)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _salted(label: bytes, salt: bytes, chunks: Iterable[Buffer]) -> bytes:
    digest = _sha256(label + require_digest(salt, "a salt"))
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
