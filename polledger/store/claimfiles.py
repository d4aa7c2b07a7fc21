"""A claim and what lies beside it: envelope, public proof, tokens. docs/decisions/0034."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polledger.core.dsse import ENVELOPE_LIMITS, Envelope, encode_envelope
from polledger.core.encoding import encode
from polledger.core.publicproof import PUBLIC_PROOF_LIMITS, PublicProof
from polledger.errors import UsageError
from polledger.files import PUBLIC_FILE, make_directory, read_bounded, reported, write_once
from polledger.store.tokens import TokenFolder

CLAIM = "claim.dsse.json"
PROOF = "proof.msgpack"
TOKENS = "tokens"
MODEL_SIGNATURE = "model.sig"
MODEL_KEY = "model.pub.pem"
BOM = "mlbom.cdx.json"
EXTRAS = (MODEL_SIGNATURE, MODEL_KEY, BOM)
"""What stands beside a claim for the tools of others; ``verify`` reads none of it."""

EXTRA_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFiles:
    """The files of one claim, there or not: the envelope at ``path``, the others in its directory."""

    path: Path

    @property
    def proof_path(self) -> Path:
        """The public proof."""
        return self.path.parent / PROOF

    @property
    def tokens(self) -> TokenFolder:
        """The tokens over heads and claim."""
        return TokenFolder(self.path.parent / TOKENS)

    def prepare(self) -> None:
        """Make the directory. Raises UsageError if one of the files is there: a claim is never overwritten."""
        with reported(self.path.parent, "make"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.proof_path, *map(self.path.parent.joinpath, EXTRAS)):
            if path.exists():
                raise UsageError(
                    f"{path} exists and is never overwritten: give the claim a directory of its own"
                )

    def write(self, envelope: Envelope, proof: PublicProof, extras: Mapping[str, bytes]) -> None:
        """Write the proof, the ``extras`` by name, and last the envelope. The tokens that ``proof`` names are there.

        Raises UsageError if one of the files is there, Unavailable if one cannot be written.
        """
        make_directory(self.tokens.directory)
        try:
            write_once(self.proof_path, encode(proof), mode=PUBLIC_FILE)
            for name, data in extras.items():
                write_once(self.path.parent / name, data, mode=PUBLIC_FILE)
            write_once(self.path, encode_envelope(envelope), mode=PUBLIC_FILE)
        except FileExistsError as error:
            raise UsageError(f"{error} exists and is never overwritten") from None

    def read(self) -> bytes:
        """The bytes of the envelope. Raises UsageError if there is none, Unavailable if it cannot be read."""
        try:
            return bytes(read_bounded(self.path, limit=ENVELOPE_LIMITS.size))
        except FileNotFoundError:
            raise UsageError(f"{self.path} does not exist: give the file of a claim") from None

    def read_extras(self) -> dict[str, bytes]:
        """The extras that are there, by name. Raises Unavailable if one cannot be read."""
        found = {}
        for name in EXTRAS:
            with contextlib.suppress(FileNotFoundError):
                found[name] = bytes(read_bounded(self.path.parent / name, limit=EXTRA_BYTES))
        return found

    def read_proof(self) -> bytes | None:
        """The bytes of the public proof; None if there is none. Raises Unavailable if it cannot be read."""
        try:
            return bytes(read_bounded(self.proof_path, limit=PUBLIC_PROOF_LIMITS.size))
        except FileNotFoundError:
            return None
