#!/usr/bin/env python3
"""Write tests/vectors/derivation.json: seeds, salts, data order, sample and tree head, byte for byte.

A second, literal transcription of the protocol (sections 6, 7 and 10.6): it imports nothing of polledger and takes
no short cut, so that agreement with the library means something. Numbers beyond 2^53 are written as hex. ``--check``
writes nothing and exits 1 if the file differs.
"""

import argparse
import base64
import hashlib
import hmac
import json
import math
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "derivation.json"

PRIVATE = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
SECRET = bytes(range(100, 132))
SALT = bytes(range(200, 232))
S = 0x0123456789ABCDEF


def h(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def be(number: int, width: int) -> bytes:
    return number.to_bytes(width, "big")


def training_seeds() -> list[dict[str, Any]]:
    rows = []
    for seed in (0, 1, 2**64 - 1):
        for key in (KEY, b""):
            s = h(b"polledger/seed/1", b"\0", be(seed, 8), key)[:8]
            rows.append({"seed": f"{seed:x}", "key": key.hex(), "s": s.hex()})
    return rows


def generator_seeds() -> list[dict[str, Any]]:
    rows = []
    for n, purpose in ((0, "build"), (0, "batch"), (0, "step"), (7, "step"), (2**40, "batch")):
        digest = h(b"polledger/rng/1", be(S, 8), be(n, 8), purpose.encode())
        torch, numpy, random = digest[:8].hex(), digest[8:12].hex(), digest[12:].hex()
        rows.append({"n": n, "purpose": purpose, "torch": torch, "numpy": numpy, "random": random})
    return rows


def salts() -> list[dict[str, Any]]:
    rows = []
    for purpose, i in (("example", 0), ("example", 1), ("batch", 0), ("batch", 2**40)):
        value = hmac.new(SECRET, purpose.encode() + b"\0" + be(i, 8), hashlib.sha256)
        rows.append({"purpose": purpose, "i": i, "salt": value.hexdigest()})
    return rows


def salted() -> list[dict[str, Any]]:
    rows = []
    for content in (b"", b"canonical bytes", bytes(1000)):
        example = h(b"polledger/example/1", b"\0", SALT, content).hex()
        batch = h(b"polledger/batch/1", b"\0", SALT, content).hex()
        rows.append({"content": content.hex(), "example": example, "batch": batch})
    return rows


def permuted(s: int, epoch: int, size: int, place: int) -> int:
    """perm_e(place), every table entry hashed anew."""
    half = 1 << max(1, math.ceil(math.ceil(math.log2(size)) / 2))

    def table(r: int, j: int) -> int:
        block = h(b"polledger/order/1", be(s, 8), be(epoch, 8), be(r, 1), be(j // 8, 4))
        start = 4 * (j % 8)
        return int.from_bytes(block[start : start + 4], "big") % half

    x = place
    while True:
        left, right = divmod(x, half)
        for r in range(8):
            left, right = right, left ^ table(r, right)
        x = left * half + right
        if x < size:
            return x


def order() -> dict[str, Any]:
    epochs = [
        {"size": size, "epoch": epoch, "order": [permuted(S, epoch, size, p) for p in range(size)]}
        for size in (1, 2, 3, 4, 5, 10, 16, 17, 33)
        for epoch in (0, 1)
    ]
    steps = []
    for size, batch, n in ((10, 4, 2), (1000, 64, 15), (1_000_000, 8, 124_999), (2**32, 3, 5)):
        places = range(n * batch, (n + 1) * batch)
        examples = [permuted(S, p // size, size, p % size) for p in places]
        steps.append({"size": size, "batch_size": batch, "n": n, "examples": examples})
    return {"s": f"{S:x}", "epochs": epochs, "steps": steps}


def draws() -> list[dict[str, Any]]:
    rows = []
    head, policy = h(b"a head"), h(b"a policy")
    for nonce in (b"\1", b"sixteen bytes nn", bytes(64)):
        seed = h(b"polledger/sample/1", b"\0", nonce, head, policy)
        row = {"nonce": nonce.hex(), "head": head.hex(), "policy": policy.hex(), "seed": seed.hex()}
        sizes = ((1, 0), (1, 1), (10, 3), (10, 9), (10, 10), (10, 11), (60, 8), (100_000, 20))
        samples = [{"total": t, "count": n, "sample": drawn(seed, t, n)} for t, n in sizes]
        rows.append({**row, "samples": samples})
    return rows


def drawn(seed: bytes, total: int, count: int) -> list[int]:
    if count >= total:
        return list(range(total))
    blocks = (h(b"polledger/draw/1", b"\0", seed, be(c, 8)) for c in range(2**32))
    words = (int.from_bytes(block[i : i + 8], "big") for block in blocks for i in (0, 8, 16, 24))
    a = list(range(total))
    for i in range(count):
        m = total - i
        w = next(words)
        while w >= 2**64 - 2**64 % m:
            w = next(words)
        j = i + w % m
        a[i], a[j] = a[j], a[i]
    return sorted(a[:count])


def head() -> dict[str, Any]:
    run, root, chainpoint, previous = bytes(range(16)), h(b"root"), h(b"chainpoint"), h(b"previous")
    origin = "polledger/run/" + run.hex()
    lines = [
        origin,
        "1234567",
        base64.b64encode(root).decode(),
        "chainpoint " + base64.b64encode(chainpoint).decode(),
        "previous " + previous.hex(),
    ]
    text = "".join(line + "\n" for line in lines).encode()
    key_id = h(origin.encode(), b"\x0a", b"\x01", KEY)[:4]
    signature = Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(text)
    signed = (
        text
        + b"\n"
        + b"\xe2\x80\x94 "
        + origin.encode()
        + b" "
        + base64.b64encode(key_id + signature)
        + b"\n"
    )
    return {
        "private": PRIVATE.hex(),
        "key": KEY.hex(),
        "run": run.hex(),
        "size": 1234567,
        "root": root.hex(),
        "chainpoint": chainpoint.hex(),
        "previous": previous.hex(),
        "text": text.decode(),
        "digest": h(text).hex(),
        "key_id": key_id.hex(),
        "note": signed.decode(),
    }


def document() -> dict[str, Any]:
    return {
        "training_seeds": training_seeds(),
        "rng": {"s": f"{S:x}", "seeds": generator_seeds()},
        "salts": {"secret": SECRET.hex(), "salts": salts()},
        "salted": {"salt": SALT.hex(), "digests": salted()},
        "order": order(),
        "sampling": draws(),
        "head": head(),
    }


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    text = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if parser.parse_args().check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print("tests/vectors/derivation.json differs from what scripts/make_derivation_vectors.py makes")
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    print(f"{len(text)} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
