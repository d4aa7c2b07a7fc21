"""A claim and what lies beside it: envelope, public proof, tokens. docs/decisions/0034."""

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
        for path in (self.path, self.proof_path):
            if path.exists():
                raise UsageError(
                    f"{path} exists and is never overwritten: give the claim a directory of its own"
                )

    def write(self, envelope: Envelope, proof: PublicProof) -> None:
        """Write the proof, and last the envelope; whatever ``proof`` names among the tokens is there already.

        Raises UsageError if one of the files is there, Unavailable if one cannot be written.
        """
        make_directory(self.tokens.directory)
        try:
            write_once(self.proof_path, encode(proof), mode=PUBLIC_FILE)
            write_once(self.path, encode_envelope(envelope), mode=PUBLIC_FILE)
        except FileExistsError as error:
            raise UsageError(f"{error} exists and is never overwritten") from None

    def read(self) -> bytes:
        """The bytes of the envelope. Raises UsageError if there is none, Unavailable if it cannot be read."""
        try:
            return bytes(read_bounded(self.path, limit=ENVELOPE_LIMITS.size))
        except FileNotFoundError:
            raise UsageError(f"{self.path} does not exist: give the file of a claim") from None

    def read_proof(self) -> bytes | None:
        """The bytes of the public proof; None if there is none. Raises Unavailable if it cannot be read."""
        try:
            return bytes(read_bounded(self.proof_path, limit=PUBLIC_PROOF_LIMITS.size))
        except FileNotFoundError:
            return None
