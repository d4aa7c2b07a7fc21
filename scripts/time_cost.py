#!/usr/bin/env python3
"""Measures what verifying time-stamps costs: one token of each algorithm, and runs of up to 10,000 seals.

    scripts/time_cost.py [--seals 10000] [--work DIR] [--evidence]

Tokens: the process's CPU time for one of the vectors, the median of 500 verifications; `first` with nothing known,
`next` with certificates and chain known from the token before, as in a run. Runs: real heads over real records, a token
over each from two authorities (P-256 by the code of `tsa serve`, RSA by the tests' generator), verified under a
trust file that lists ten strangers before them; each size in a fresh process. CPU seconds are those
of step 3 alone, memory is the peak of the resident set over what the process had before it read the run.
--work keeps the run of 10,000 seals there, and takes it from there the next time. --evidence keeps the figures in
docs/evidence/time_cost.json.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402
from evidence import NOWHERE, machine, table, write_evidence  # noqa: E402

from polledger.core.config import encode_config  # noqa: E402
from polledger.core.digest import ZERO, sha256  # noqa: E402
from polledger.core.encoding import encode  # noqa: E402
from polledger.core.head import Head, sign_head  # noqa: E402
from polledger.core.merkle import Frontier, chainpoint_node, leaf_hash  # noqa: E402
from polledger.core.records import Genesis, Seal, StateObject, Step, TokenRef  # noqa: E402
from polledger.store.ledger import LedgerWriter  # noqa: E402
from polledger.store.run import RunDirectory  # noqa: E402
from polledger.timestamp import certificates, cms, messages, tstinfo  # noqa: E402
from polledger.timestamp.authority import LocalAuthority  # noqa: E402
from polledger.timestamp.client import make_request  # noqa: E402
from polledger.timestamp.identity import make_identity  # noqa: E402
from polledger.timestamp.token import verify_response  # noqa: E402
from polledger.timestamp.trust import Trust, load_trust  # noqa: E402
from polledger.verify.evidence import read_evidence  # noqa: E402
from polledger.verify.heads import match_heads, parse_records  # noqa: E402
from polledger.verify.policy import Policy, TimeBounds  # noqa: E402
from polledger.verify.time import Times, step_time  # noqa: E402
from tests.timestamp import cases, forge  # noqa: E402

ALGORITHMS = {
    "RSA 2048, PKCS #1": "own/good-rsa2048",
    "RSA 2048, PSS": "own/good-pss",
    "ECDSA P-256": "own/good-p256",
    "ECDSA P-384": "own/good-p384-sha384",
    "Ed25519": "own/good-ed25519-sha512",
}
REPEATS = 500
STRANGERS = 10
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2027, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"time cost"))
RUN = sha256(b"time cost")[:16]


def forget_token() -> None:
    messages.token_of.cache_clear()
    cms.parse_token.cache_clear()
    tstinfo.parse_tst_info.cache_clear()


def forget_everything() -> None:
    forget_token()
    certificates.read_certificate.cache_clear()
    certificates.given_certificate.cache_clear()
    certificates.require_timestamping.cache_clear()
    certificates._find_chain.cache_clear()
    certificates.is_issued.cache_clear()


def token_microseconds(name: str, forget: Any) -> float:
    """Median CPU microseconds of one verification, ``forget`` called before each."""
    case = cases.find(name)
    response, arguments = case.response(), case.arguments()
    taken = []
    for _ in range(REPEATS):
        forget()
        began = time.process_time_ns()
        verify_response(response, **arguments)
        taken.append(time.process_time_ns() - began)
    return statistics.median(taken) / 1000


def tokens() -> list[dict[str, Any]]:
    return [
        {
            "algorithm": label,
            "bytes": len(cases.find(name).response()),
            "first": token_microseconds(name, forget_everything),
            "next": token_microseconds(name, forget_token),
        }
        for label, name in ALGORITHMS.items()
    ]


def records(count: int) -> list[bytes]:
    """A genesis and steps; nothing here is ever replayed."""
    genesis = Genesis(
        v=1,
        run=RUN,
        index=0,
        task=sha256(b"nothing"),
        kind="custom",
        config=encode_config({"steps": count}),
        seed=0,
        bound=True,
        key=KEY.public_key().public_bytes_raw(),
        every=1,
        warm=0,
        steps=count,
        objects=[StateObject(name="model", kind="module", buffers=[])],
        environment=NOWHERE,
        origin="scratch",
    )
    steps = [Step(v=1, run=RUN, index=i, step=i - 1, batch=sha256(str(i).encode())) for i in range(1, count)]
    return [encode(record) for record in (genesis, *steps)]


def forged(digest: bytes, nonce: int, when: datetime) -> bytes:
    """A response of the tests' RSA authority."""
    imprint = forge.seq(forge.algorithm(forge.SHA256), forge.octets(digest))
    fields = {"imprint": imprint, "nonce": forge.integer(nonce), "serial": forge.integer(nonce)}
    token = forge.Token(signer=forge.tsa_rsa(), tst_info={**fields, "gen_time": forge.time(when)})
    return token.response_bytes()


def authority_in(place: Path) -> LocalAuthority:
    """A P-256 authority as `tsa serve` has one, its root in ``place``."""
    names = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"cost {role}")]) for role in ("TSA", "root"))
    made = make_identity(
        ec.generate_private_key(ec.SECP256R1()), leaf=next(names), root=next(names), valid=(START, NOW)
    )
    (place / "p256.pem").write_bytes(made.root.public_bytes(Encoding.PEM))
    return LocalAuthority(key=made.key, leaf=made.leaf, root=made.root, policy=forge.POLICY)


def build(place: Path, seals: int) -> None:
    """A run of ``seals`` records with a seal over each, two tokens over each seal, and the trust file for it."""
    run = RunDirectory.create(place / "run")
    authority = authority_in(place)
    encoded = records(seals)
    with LedgerWriter.open(run.ledger_path) as ledger:
        for data in encoded:
            ledger.append(data)
        ledger.sync()
    p256 = [run.objects.put(one.public_bytes(Encoding.DER)) for one in (authority.leaf, authority.root)]
    rsa = [run.objects.put(one.certificate) for one in (forge.tsa_rsa(), forge.intermediate())]
    tree, chainpoint, previous = Frontier(), Frontier(chainpoint_node), ZERO
    for number, data in enumerate(encoded):
        leaf = leaf_hash(sha256(data))
        tree.append(leaf)
        chainpoint.append(leaf)
        head = Head(
            run=RUN, size=number + 1, root=tree.root(), chainpoint=chainpoint.root(), previous=previous
        )
        previous = head.digest()
        request, when = make_request(previous, nonce=number + 1), START + timedelta(minutes=number)
        answers = {
            "https://p256.example/": (authority.respond(request, now=when), p256),
            "https://rsa.example/": (forged(previous, number + 1, when), rsa),
        }
        asked = run.objects.put(request)
        refs = [
            TokenRef(authority=name, request=asked, response=run.objects.put(response), chain=chain)
            for name, (response, chain) in answers.items()
        ]
        run.write_seal(Seal(v=1, index=number, note=sign_head(head, KEY), tokens=refs))
    write_trust(place)


def write_trust(place: Path) -> None:
    (place / "rsa.pem").write_bytes(forge.root().pem())
    entries = []
    for number in range(STRANGERS):
        stranger = forge.certify(f"Stranger {number}", forge.ec_key(f"stranger {number}"), None, forge.CA)
        (place / f"{number}.pem").write_bytes(stranger.pem())
        entries.append((f"stranger{number}", f"{number}.pem"))
    entries += [("p256", "p256.pem"), ("rsa", "rsa.pem")]
    text = "".join(
        f'[[authority]]\nname = "{name}"\noperator = "{name}"\nroots = ["{root}"]\n' for name, root in entries
    )
    (place / "trust.toml").write_text(text)


@contextlib.contextmanager
def part(whole: Path, seals: int) -> Iterator[Path]:
    """The run with its first ``seals`` seals; ledger, objects and seals are hard links to those of the whole one."""
    with tempfile.TemporaryDirectory(dir=whole) as name:
        path, run = Path(name), whole / "run"
        (path / "seals").mkdir()
        (path / "ledger.log").hardlink_to(run / "ledger.log")
        (path / "objects").symlink_to(run / "objects")
        for number in range(seals):
            file = f"seals/{number:06d}.msgpack"
            (path / file).hardlink_to(run / file)
        yield path


def resident() -> float:
    """Peak of the resident set, MiB. Not that of getrusage, which counts what the process was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def judge(path: Path, trust: Trust) -> tuple[Times, float, float]:
    """Steps 1 to 3 over the run at ``path``, with the CPU and clock seconds of step 3."""
    evidence = read_evidence(RunDirectory.open(path))
    heads = match_heads(evidence, parse_records(evidence))
    began, clock = time.process_time(), time.perf_counter()
    policy = Policy(time=TimeBounds(quorum=2))
    found = step_time(heads, evidence.objects, trust=trust, policy=policy, now=NOW)
    return found, time.process_time() - began, time.perf_counter() - clock


def verify_once(path: Path, trust: Path) -> dict[str, Any]:
    """:func:`judge` measured; this process should be a fresh one."""
    known = load_trust(trust)
    before = resident()
    found, cpu, wall = judge(path, known)
    if found.summary.assurance != "external" or any(finding.blocks for finding in found.findings):
        raise SystemExit(f"the run does not verify: {found.findings}")
    return {"tokens": len(found.stamps), "cpu": cpu, "wall": wall, "growth": resident() - before}


def runs(whole: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for seals in sizes:
        with part(whole, seals) as path:
            words = [sys.executable, __file__, "--measure", str(path), str(whole / "trust.toml")]
            found = json.loads(subprocess.check_output(words, text=True))
        rows.append({"seals": seals, **found})
    return rows


def token_table(found: Mapping[str, Any]) -> str:
    """A Markdown row for each algorithm."""
    each = [
        (row["algorithm"], row["bytes"], f"{row['first'] / 1000:.2f}", f"{row['next'] / 1000:.2f}")
        for row in found["tokens"]
    ]
    return table(("token", "bytes", "first, CPU ms", "next, CPU ms"), each)


def run_table(found: Mapping[str, Any]) -> str:
    """The machine, a Markdown row for each run, and how the cost of a token grows."""
    whole = [
        (
            f"{row['seals']:,}",
            f"{row['tokens']:,}",
            f"{row['cpu']:.2f}",
            f"{1000 * row['cpu'] / row['tokens']:.2f}",
            f"{1000 * row['wall'] / row['tokens']:.2f}",
            f"{row['growth']:.1f}",
            f"{1024 * row['growth'] / row['seals']:.1f}",
        )
        for row in found["runs"]
    ]
    columns = (
        "seals",
        "tokens",
        "CPU s",
        "CPU ms a token",
        "clock ms a token",
        "MiB more",
        "KiB a seal",
    )
    where = found["machine"]
    said = f"{where['cpu']}, {where['cores']} cores, Python {where['python']}; load at the end: {found['load']:.1f}."
    return "\n\n".join((said, table(columns, whole), growth(found["runs"])))


def growth(rows: Sequence[Mapping[str, Any]]) -> str:
    least, most = rows[0], rows[-1]
    ratio = (most["cpu"] / most["tokens"]) / (least["cpu"] / least["tokens"])
    return f"CPU time per token at {most['seals']:,} seals over that at {least['seals']:,}: {ratio:.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what verifying time-stamps costs.")
    parser.add_argument("--seals", type=int, default=10_000)
    parser.add_argument("--work", type=Path, help="where the run is kept")
    parser.add_argument("--evidence", action="store_true", help="keep the figures in docs/evidence")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.measure:
        print(json.dumps(verify_once(*wanted.measure)))
        return
    with tempfile.TemporaryDirectory() as name:
        whole = (wanted.work or Path(name) / "whole").absolute()
        if not (whole / "trust.toml").exists():
            build(whole, wanted.seals)
        sizes = [wanted.seals // part for part in (8, 4, 2, 1)]
        found = {
            "tokens": tokens(),
            "runs": runs(whole, sizes),
            "load": os.getloadavg()[0],
            "machine": machine(),
        }
    if wanted.evidence:
        write_evidence("time_cost", found)
    print(f"{token_table(found)}\n\n{run_table(found)}")


if __name__ == "__main__":
    main()
