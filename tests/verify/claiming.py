"""Claims about the small runs of these tests, honest or changed before they are signed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.digest import sha256
from polledger.core.dsse import IN_TOTO, Envelope, Signer, sign_envelope
from polledger.core.encoding import encode
from polledger.core.publicproof import PublicProof, parse_public_proof
from polledger.core.records import TokenRef
from polledger.core.report import Report
from polledger.keys import signer_of
from polledger.publish.claim import Wishes, copy_tokens, finished_run, make_claim, make_proof
from polledger.store.claimfiles import ClaimFiles
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.stamper import Embedded, obtain_token, store_token
from polledger.verify.claimalone import read_claim_files, verify_alone
from polledger.verify.evidence import read_evidence
from tests.verify.build import KEY, NOW, Built
from tests.verify.check import request

Change = Callable[[dict[str, Any]], object]


def no_torch(path: Path) -> bytes:
    raise AssertionError("no torch file is read here")


def write_claim(
    built: Built,
    directory: Path,
    *,
    change: Change | None = None,
    key: Ed25519PrivateKey = KEY,
    further: Sequence[Signer] = (),
    files: Sequence[Path] = (),
    tsa: Path | None = None,
) -> ClaimFiles:
    """A claim with its proof and tokens; ``change`` edits the statement before ``key`` signs it."""
    run = finished_run(read_evidence(built.run))
    wishes = Wishes(name="A. Example", contact="a@example.org", model="small", files=files)
    payload = make_claim(
        run,
        wishes,
        key=KEY.public_key().public_bytes_raw(),
        further=[one.public for one in further],
        read=no_torch,
    )
    if change is not None:
        plain = json.loads(payload)
        change(plain)
        payload = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    made = ClaimFiles(path=directory / "claim.dsse.json")
    made.prepare()
    envelope = sign_envelope(IN_TOTO, payload, (signer_of(key), *further))
    stamps = [] if tsa is None else [_stamp(envelope, made, tsa)]
    proof = make_proof(run, stamps)
    copy_tokens(proof, built.run.objects, made.tokens)
    made.write(envelope, proof, {})
    return made


def _stamp(envelope: Envelope, files: ClaimFiles, home: Path) -> TokenRef:
    authority = Embedded(authority=EmbeddedAuthority.open(home))
    digest = make_request(sha256(envelope.signatures[0].sig), nonce=5)
    return store_token(files.tokens, obtain_token(authority, digest, now=NOW))


def change_proof(files: ClaimFiles, change: Callable[[PublicProof], PublicProof]) -> None:
    """Replace the proof beside a claim by a changed one."""
    proof = parse_public_proof(files.proof_path.read_bytes())
    files.proof_path.write_bytes(encode(change(proof)))


def alone(files: ClaimFiles, **values: Any) -> Report:
    """The report over a claim by what lies beside it."""
    return verify_alone(files, read_claim_files(files), request(**values))
