#!/usr/bin/env python3
"""Measures how long a model file takes to check: polledger's model root beside what model-signing verifies.

    scripts/bench_files.py [--mb 1000] [--rounds 5] [--peer PYTHON] [--work DIR] [--out DIR]

One .safetensors file. polledger reads it, accounts for every byte and computes the model root that runs and claims
commit to; model-signing verifies the signature of a throw-away key over the same file. In turn, in processes of their
own, in which only that is timed; the file is in the page cache. ``--peer`` is a Python that has the package
model-signing; default: this one. --out keeps the figures in DIR/files.json.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_checkpoints import spread
from bench_peers import ratios
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from evidence import machine, table, write_evidence

OURS, PEER = "polledger", "model-signing"

ROOT = """
import sys, time
from pathlib import Path
from polledger.verify.filehash import safetensors_root
began = time.perf_counter()
safetensors_root(Path(sys.argv[1]))
print(time.perf_counter() - began)
"""

SIGN = """
import sys
from model_signing import signing
model, key, public, signature = sys.argv[1:]
signing.Config().use_elliptic_key_signer(private_key=key).sign(model, signature)
"""

VERIFY = """
import sys, time
from model_signing import verifying
model, key, public, signature = sys.argv[1:]
config = verifying.Config().use_elliptic_key_verifier(public_key=public)
began = time.perf_counter()
config.verify(model, signature)
print(time.perf_counter() - began)
"""


def write_model(path: Path, megabytes: float) -> None:
    """A model of sixteen equally large tensors."""
    from safetensors.torch import save_file

    count = max(1, int(megabytes * 1e6 / 16 / 4))
    save_file({f"layer{number:02d}": torch.randn(count) for number in range(16)}, path)


def write_keys(work: Path) -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    key = generate_private_key(SECP256R1())
    private, public = work / "key.pem", work / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def run(python: str, code: str, *words: object) -> str:
    """What ``code`` prints in a process of its own."""
    done = subprocess.run([python, "-c", code, *map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


def measure(work: Path, *, megabytes: float, rounds: int, peer: str) -> dict[str, Any]:
    """Seconds of both, round by round."""
    folder = work / "model"
    folder.mkdir()
    model = folder / "model.safetensors"
    write_model(model, megabytes)
    words = (folder, *write_keys(work), work / "model.sig")
    run(peer, SIGN, *words)
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    for _ in range(rounds):
        seconds[OURS].append(float(run(sys.executable, ROOT, model)))
        seconds[PEER].append(float(run(peer, VERIFY, *words)))
    return {
        "megabytes": megabytes,
        "seconds": seconds,
        "ratios": {f"{OURS} / {PEER}": ratios(seconds[OURS], seconds[PEER])},
    }


def render(value: Mapping[str, Any]) -> str:
    """Milliseconds, and the ratio."""
    times = [(name, spread([1e3 * one for one in found])) for name, found in value["seconds"].items()]
    shares = [(name, spread(found)) for name, found in value["ratios"].items()]
    size = f"{value['megabytes']:g} MB"
    return f"{table((size, 'ms'), times)}\n\n{table(('', 'ratio'), shares)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    parser.add_argument(
        "--work", type=Path, help="where the file is written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        found = measure(Path(name), megabytes=wanted.mb, rounds=wanted.rounds, peer=wanted.peer)
    value = {"machine": machine(), "rounds": wanted.rounds, **found}
    if wanted.out is not None:
        write_evidence("files", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
