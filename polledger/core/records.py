"""The records of the ledger: what each leaf of a run's tree says. PROTOCOL section 4.

Field order here is free: the encoding sorts keys. Reals are 8 bytes (:func:`polledger.core.encoding.real`).
Absent fields are ``msgspec.UNSET``. Bounds of types are checked by ``encode`` and ``parse``, relations
between fields in ``__post_init__``. What records say about each other is checked in verification, not here.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from polledger.core.config import CONFIG_BYTES, KEY_LENGTH, check_config
from polledger.core.encoding import INT_MAX, RECORD_LIMITS, SEAL_LIMITS, parse
from polledger.errors import MalformedError, PolledgerError

__all__ = [
    "CONFIG_BYTES",
    "AnyRecord",
    "Checkpoint",
    "CosignatureLine",
    "Count",
    "Dataset",
    "Digest",
    "Domain",
    "Environment",
    "Final",
    "Genesis",
    "GroupValues",
    "Integer",
    "Key",
    "Name",
    "Parent",
    "Positive",
    "Real",
    "Record",
    "Resume",
    "RunId",
    "Seal",
    "StateObject",
    "StatePath",
    "Step",
    "Terms",
    "Text",
    "TokenRef",
    "Unshown",
    "parse_genesis",
    "parse_record",
    "parse_seal",
]

Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
RunId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Real: TypeAlias = Annotated[bytes, Meta(min_length=8, max_length=8)]
Integer: TypeAlias = Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=INT_MAX)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=INT_MAX)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Text: TypeAlias = Annotated[str, Meta(max_length=1024)]
"""A line for people, possibly empty."""
StatePath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]
"""Path of a state entry (PROTOCOL section 5)."""
# The scan holds keys to this pattern already; here it only reaches the JSON Schema.
Key: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=KEY_LENGTH, extra_json_schema={"pattern": "^[a-z0-9_]+$"})
]

COSIGNATURE_BYTES = 1 << 9
"""Longest cosignature line kept, its newline included: 104 characters of base64 and the name of the witness."""

COSIGNATURES = 64
"""Cosignature lines kept with one head, at most: C2SP asks for room for 16, stock verifiers stop at 100."""

CosignatureLine: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=COSIGNATURE_BYTES)]
"""A signature line of a C2SP note, its newline included (core/cosignature.py)."""

ConfigValue: TypeAlias = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "type": ["boolean", "integer", "string", "array", "object"],
            "description": "A boolean, integer or string, a real as base64 of its 8 bytes, or nested values.",
        }
    ),
]
"""Checked by :func:`polledger.core.config.check_config`."""

ENVIRONMENT_CHARACTERS = 1 << 14
"""Characters in all texts of an environment together: a machine's description has about two thousand."""

NOTE_BYTES = 1 << 16
"""Longest signed note: the text has about 230 bytes, a signature line about 150."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every struct that is written in PL-MP/1."""


class Environment(_Struct, frozen=True, kw_only=True):
    """Everything outside task and config that decides bits. PROTOCOL section 10, "environment class"."""

    device: Text
    """``cpu`` or the accelerator's model name."""
    cpu: Text
    capability: Text
    """ATen's CPU capability as torch reports it: DEFAULT, AVX2, AVX512."""
    torch: Text
    torch_git: Text
    cuda: Text
    cudnn: Text
    driver: Text
    python: Text
    numpy: Text
    platform: Text
    polledger: Text
    threads: Count
    interop_threads: Count
    flags: Annotated[dict[Key, Text | Integer | bool], Meta(max_length=256)]
    """Determinism and precision switches by name, and the ISA variables that were set (``env_...``)."""

    def __post_init__(self) -> None:
        # Task code that replays sees its environment: no way in for weights.
        values = (getattr(self, name) for name in self.__struct_fields__)
        texts = [value for value in (*values, *self.flags, *self.flags.values()) if isinstance(value, str)]
        if sum(map(len, texts)) > ENVIRONMENT_CHARACTERS:
            raise ValueError(f"an environment takes more than {ENVIRONMENT_CHARACTERS} characters")


class Dataset(_Struct, frozen=True, kw_only=True):
    """Commitment to a data set: RFC 9162 root over salted example leaves, and how many there are."""

    root: Digest
    size: Positive


class Domain(_Struct, frozen=True, kw_only=True):
    """Values one field of an example may take; ``field`` is its path in the example (``label``, ``x/1``)."""

    field: Name
    kind: Literal["range", "one_hot", "grid"]
    low: Real | UnsetType = UNSET
    high: Real | UnsetType = UNSET
    step: Real | UnsetType = UNSET


class StateObject(_Struct, frozen=True, kw_only=True):
    """One named object of the state and how its entries fall into groups (core/state.py)."""

    name: Name
    kind: Literal["module", "optimizer", "other"]
    buffers: Annotated[list[StatePath], Meta(max_length=100_000)] | UnsetType = UNSET
    """Full paths of the module's entries that are buffers, in path order."""


class Parent(_Struct, frozen=True, kw_only=True):
    """The run whose final model state this one starts from."""

    claim: Digest | UnsetType = UNSET
    head: Digest
    mode: Literal["model", "continue"]


class Terms(_Struct, frozen=True, kw_only=True):
    """What a verifier fixed before training."""

    every: Positive | UnsetType = UNSET
    nonce: Annotated[bytes, Meta(min_length=16, max_length=64)] | UnsetType = UNSET
    policy: Digest | UnsetType = UNSET


class Record(_Struct, frozen=True, kw_only=True, tag_field="type"):
    """Fields of every record. ``index`` is its position in the ledger, ``run`` the run's 16 random bytes."""

    v: Literal[1]
    run: RunId
    index: Count


class Genesis(Record, frozen=True, kw_only=True, tag="genesis"):
    """Index 0, sealed before step 0: everything that is fixed in advance."""

    task: Digest
    """SHA-256 of the encoded :class:`polledger.core.source.TaskSource`."""
    kind: Literal["recipe", "custom"]
    config: dict[Key, ConfigValue]
    """As :func:`polledger.core.config.encode_config` makes it: reals as 8 bytes, at most 64 KiB."""
    seed: Count
    bound: bool
    """True when the training seed is derived from the key as well (the default)."""
    key: Digest
    """The prover's raw Ed25519 public key."""
    every: Positive
    warm: Count
    steps: Positive
    dataset: Dataset | UnsetType = UNSET
    domains: Annotated[list[Domain], Meta(max_length=4096)] | UnsetType = UNSET
    objects: Annotated[list[StateObject], Meta(max_length=4096)]
    environment: Environment
    origin: Literal["scratch", "parent", "external"]
    parent: Parent | UnsetType = UNSET
    external: Digest | UnsetType = UNSET
    """SHA-256 of the file whose tensors the model starts from."""
    fresh: Annotated[list[StatePath], Meta(min_length=1, max_length=100_000)] | UnsetType = UNSET
    """Names in the ``state_dict``, ascending, that are not taken from parent or file (core/start.py)."""
    terms: Terms | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.index != 0:
            raise ValueError("genesis is record 0")
        try:
            check_config(self.config)
        except PolledgerError as error:
            raise ValueError(str(error)) from None
        if (self.origin == "parent") != (self.parent is not UNSET):
            raise ValueError("origin 'parent' and the field parent go together")
        if (self.origin == "external") != (self.external is not UNSET):
            raise ValueError("origin 'external' and the field external go together")
        self._check_fresh()
        _check_unique("domain", [] if self.domains is UNSET else [domain.field for domain in self.domains])
        _check_unique("state object", [item.name for item in self.objects])

    def _check_fresh(self) -> None:
        if self.fresh is UNSET:
            return
        whole = self.parent is not UNSET and self.parent.mode == "continue"
        if self.origin == "scratch" or whole:
            raise ValueError("fresh goes with an origin of which the model alone is taken")
        if sorted(set(self.fresh)) != self.fresh:
            raise ValueError("the names of fresh are unique and ascending")


def _check_unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} {name!r} is listed twice")
        seen.add(name)


class GroupValues(_Struct, frozen=True, kw_only=True):
    """Numeric hyperparameters of one parameter group that changed at this step (all of them at step 0)."""

    optimizer: Name
    index: Count
    values: Annotated[dict[Key, Real | Integer | bool], Meta(max_length=256)]


class Step(Record, frozen=True, kw_only=True, tag="step"):
    """One optimizer step: the step that turns the state after ``step`` steps into the next one."""

    step: Count
    batch: Digest
    groups: Annotated[list[GroupValues], Meta(max_length=10_000)] | UnsetType = UNSET
    examples: Annotated[list[Count], Meta(max_length=131_072)] | UnsetType = UNSET
    metrics: Annotated[dict[Key, Real], Meta(max_length=256)] | UnsetType = UNSET


class Unshown(Step, frozen=True, kw_only=True, tag="unshown"):
    """Stands for a record of which a compact proof has the leaf hash alone: taken for a step, never encoded.

    What it says is not known. Only :attr:`index` means anything.
    """


class Checkpoint(Record, frozen=True, kw_only=True, tag="checkpoint"):
    """The state after ``step`` steps. ``stored`` says whether its payload was kept under objects/."""

    step: Count
    root: Digest
    stored: bool


class Resume(Record, frozen=True, kw_only=True, tag="resume"):
    """An interruption: training continued from the checkpoint record ``source``.

    ``first`` to ``last`` is the abandoned range of record indices, both included; absent if nothing was lost.
    """

    environment: Environment
    source: Count
    first: Count | UnsetType = UNSET
    last: Count | UnsetType = UNSET
    reason: Text

    def __post_init__(self) -> None:
        if (self.first is UNSET) != (self.last is UNSET):
            raise ValueError("an abandoned range has two ends")


class Final(Record, frozen=True, kw_only=True, tag="final"):
    """The last record: which checkpoint is the end and which of its objects is the published model."""

    checkpoint: Count
    """Index of the last checkpoint record."""
    object: Name
    model_root: Digest
    steps: Count


AnyRecord: TypeAlias = Genesis | Step | Checkpoint | Resume | Final


def parse_record(data: bytes) -> AnyRecord:
    """The record that ``data`` encodes. Raises MalformedError; checks no index, run id or signature."""
    record: AnyRecord = parse(data, AnyRecord, limits=RECORD_LIMITS)
    return record


_DECODER: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def decode_record(data: bytes) -> AnyRecord:
    """The record that ``data`` encodes, without the gate: only for bytes that :func:`parse_record` took before."""
    return _DECODER.decode(data)


def parse_genesis(data: bytes) -> Genesis:
    """Like :func:`parse_record`, for the first record."""
    record = parse_record(data)
    if not isinstance(record, Genesis):
        raise MalformedError("record 0 is not genesis")
    return record


class TokenRef(_Struct, frozen=True, kw_only=True):
    """One RFC 3161 response kept for a seal; every digest names an object."""

    authority: Name
    """Name of the authority as the prover configured it; carries no trust."""
    request: Digest
    response: Digest
    chain: Annotated[list[Digest], Meta(max_length=32)] | UnsetType = UNSET
    revocation: Annotated[list[Digest], Meta(max_length=64)] | UnsetType = UNSET


class Seal(_Struct, frozen=True, kw_only=True, tag_field="type", tag="seal"):
    """One file under seals/: a signed tree head, the tokens over it and the cosignatures of witnesses."""

    v: Literal[1]
    index: Count
    note: Annotated[bytes, Meta(max_length=NOTE_BYTES)]
    """The C2SP signed note, UTF-8."""
    tokens: Annotated[list[TokenRef], Meta(max_length=1000)]
    cosignatures: (
        Annotated[list[CosignatureLine], Meta(min_length=1, max_length=COSIGNATURES)] | UnsetType
    ) = UNSET
    """Lines of witnesses in the order they came: the note followed by them is a signed note again."""


def parse_seal(data: bytes) -> Seal:
    """The seal manifest that ``data`` encodes. Raises MalformedError; does not look into note or tokens."""
    return parse(data, Seal, limits=SEAL_LIMITS)
