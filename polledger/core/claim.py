"""The claim: an in-toto Statement v1 about a model and the run it comes from. PROTOCOL section 13.

A claim says what its signer says. :mod:`polledger.verify.claim` holds every field against the run or the public proof.
An unknown field is refused although in-toto lets readers ignore them: a verifier that passes over what it does not know
would vouch for it.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from polledger.core.dsse import IN_TOTO, Algorithm, Envelope, PublicKey
from polledger.core.jsontext import JsonLimits, encode_json, parse_json
from polledger.core.records import Count, Environment, Positive
from polledger.errors import MalformedError, UsageError

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:polledger:claim:1"

MODEL_ROOT: Final = "polledgerModelRoot1"
"""Name of the model root (PROTOCOL section 5) in a subject's digest set."""

CLAIM_LIMITS = JsonLimits(size=1 << 25, count=2_000_000)
"""32 MiB: some 200 bytes a tensor, 150,000 tensors."""

NOT_CLAIMED: Final = (
    "that the claimant is the author of the model, of its code or of its data",
    "that the data were lawfully obtained",
    "that the code does nothing but train: it has to be read",
    "that the training was not simulated before its first record was stamped",
    "that no other run ends in the same or a similar model",
)
"""What every claim says that it does not say."""

Hex32: TypeAlias = Annotated[str, Meta(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")]
Hex16: TypeAlias = Annotated[str, Meta(min_length=32, max_length=32, pattern="^[0-9a-f]{32}$")]
HexKey: TypeAlias = Annotated[str, Meta(min_length=64, max_length=2624, pattern=r"^[0-9a-f]+$(?!\n)")]
Moment: TypeAlias = Annotated[
    str, Meta(max_length=32, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$(?!\n)")
]
"""RFC 3339 in UTC."""
# Neither controls nor marks that turn the direction of writing: people read these lines beside a signature.
# The end is spelt out because a mere $ would let a last line break pass.
_PLAIN = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$(?!\n)"
Line: TypeAlias = Annotated[str, Meta(max_length=1024, pattern=_PLAIN)]
Title: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256, pattern=_PLAIN)]


class _Json(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything in a claim."""


class Tensor(_Json, frozen=True, kw_only=True):
    """One tensor of the published model: ``root`` of its canonical bytes, ``name`` its path in the state.

    That is the name in its ``state_dict`` with ``~``, ``/`` and ``#`` escaped. PROTOCOL section 5.
    """

    name: Annotated[str, Meta(min_length=1, max_length=4096, pattern=_PLAIN)]
    dtype: Annotated[str, Meta(min_length=1, max_length=32)]
    shape: list[Count]
    root: Hex32


class ModelFile(_Json, frozen=True, kw_only=True):
    """A file whose tensors give the model root, whatever its container."""

    name: Title
    size: Positive
    sha256: Hex32


class Model(_Json, frozen=True, kw_only=True):
    """What is claimed. ``object`` is its name in the run's state, ``root`` the model root that ``final`` commits to."""

    name: Title
    object: Title
    root: Hex32
    tensors: Annotated[list[Tensor], Meta(max_length=150_000)]
    files: Annotated[list[ModelFile], Meta(max_length=1000)]


class ClaimedHead(_Json, frozen=True, kw_only=True):
    """The newest tree head: number of its seal, records under it, their root, and the digest that tokens are over."""

    seal: Count
    size: Positive
    root: Hex32
    digest: Hex32


class Anchor(_Json, frozen=True, kw_only=True):
    """A time-stamp token over a head: which, of whom, the time it states, and SHA-256 of the stored response."""

    seal: Count
    size: Positive
    authority: Title
    time: Moment
    token: Hex32


class ClaimedParent(_Json, frozen=True, kw_only=True):
    """The run that this one starts from, as genesis names it."""

    head: Hex32
    mode: Literal["model", "continue"]
    claim: Hex32 | UnsetType = UNSET


class Training(_Json, frozen=True, kw_only=True):
    """Where the model comes from. ``genesis`` is SHA-256 of record 0, ``key`` of claimant signed its heads."""

    run: Hex16
    genesis: Hex32
    head: ClaimedHead
    kind: Literal["recipe", "custom"]
    steps: Count
    intervals: Count
    resumes: Count
    every: Positive
    warm: Count
    seed: Count
    bound: bool
    origin: Literal["scratch", "parent", "external"]
    external: Hex32 | UnsetType = UNSET
    anchors: Annotated[list[Anchor], Meta(max_length=1000)]

    def __post_init__(self) -> None:
        if (self.origin == "external") != (self.external is not UNSET):
            raise ValueError("origin 'external' and the field external go together")


class Data(_Json, frozen=True, kw_only=True):
    """``withheld``: committed in genesis example by example, and not shown. ``batches``: only batches are committed."""

    disclosure: Literal["withheld", "batches"]
    root: Hex32 | UnsetType = UNSET
    size: Positive | UnsetType = UNSET

    def __post_init__(self) -> None:
        committed = self.disclosure == "withheld"
        if (self.root is not UNSET) != committed or (self.size is not UNSET) != committed:
            raise ValueError("root and size go with the disclosure 'withheld'")


class FurtherKey(_Json, frozen=True, kw_only=True):
    """A key that signs the claim besides the one of genesis."""

    algorithm: Algorithm
    key: HexKey

    def public(self) -> PublicKey:
        """The key. Raises MalformedError if its length is not that of the algorithm."""
        try:
            return PublicKey(algorithm=self.algorithm, key=bytes.fromhex(self.key))
        except (ValueError, UsageError) as error:
            raise MalformedError(f"a further key of the claim: {error}") from None


class Claimant(_Json, frozen=True, kw_only=True):
    """Who claims. ``key`` is the Ed25519 key that signed genesis; name and contact are what its holder says."""

    key: Hex32
    name: Line
    contact: Line
    further: Annotated[list[FurtherKey], Meta(max_length=16)] | UnsetType = UNSET


class Claim(_Json, frozen=True, kw_only=True):
    """The predicate ``urn:polledger:claim:1``. ``supersedes`` is SHA-256 of the payload of an earlier claim."""

    v: Literal[1]
    claimant: Claimant
    model: Model
    training: Training
    data: Data
    task: Hex32
    environment: Environment
    parents: Annotated[list[ClaimedParent], Meta(max_length=1)]
    not_claimed: Annotated[list[Line], Meta(min_length=1, max_length=64)]
    supersedes: Hex32 | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.training.origin == "parent") != bool(self.parents):
            raise ValueError("origin 'parent' and the list of parents go together")


class Subject(_Json, frozen=True, kw_only=True):
    """What an in-toto statement is about: a name and its digests in hex."""

    name: Title
    digest: Annotated[dict[str, Hex32], Meta(min_length=1, max_length=1)]


class Statement(_Json, frozen=True, kw_only=True):
    """The in-toto Statement. Its subjects repeat the model for tools that look nowhere else."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[list[Subject], Meta(min_length=1, max_length=1001)]
    predicate_type: Literal["urn:polledger:claim:1"] = msgspec.field(name="predicateType")
    predicate: Claim

    def __post_init__(self) -> None:
        if self.subject != subjects(self.predicate.model):
            raise ValueError("the subjects are not the model that the predicate describes")


def subjects(model: Model) -> list[Subject]:
    """The model by its root, then each of its files by its SHA-256."""
    files = [Subject(name=file.name, digest={"sha256": file.sha256}) for file in model.files]
    return [Subject(name=model.name, digest={MODEL_ROOT: model.root}), *files]


def encode_statement(claim: Claim) -> bytes:
    """The payload to be signed for ``claim``. What :func:`parse_statement` accepts, if the claim keeps its bounds."""
    statement = Statement(
        type=STATEMENT_TYPE, subject=subjects(claim.model), predicate_type=PREDICATE_TYPE, predicate=claim
    )
    return encode_json(statement)


def parse_statement(payload: bytes) -> Claim:
    """The claim in ``payload``. Raises MalformedError; nothing it says is checked."""
    return parse_json(payload, Statement, limits=CLAIM_LIMITS, what="the claim").predicate


def claim_in(envelope: Envelope) -> Claim:
    """The claim in ``envelope``. Raises MalformedError; no signature is checked."""
    if envelope.payload_type != IN_TOTO:
        raise MalformedError(f"the envelope holds {envelope.payload_type[:80]!r}, not an in-toto statement")
    return parse_statement(envelope.payload)
