"""Messages between the verifying parent and its child processes: length-prefixed frames over two pipes.

A message is one PL-MP/1 frame; bulk data (states, examples, batches) follow as raw frames. The parent treats
every byte a child sends as hostile: typed, bounded, and hashed by the parent itself.
"""

from io import BufferedReader
from typing import Any, BinaryIO

import msgspec
from msgspec import UNSET, UnsetType

from polledger.core.encoding import Limits, encode, parse
from polledger.core.records import Count, Digest, Domain, Environment, GroupValues, Real, StateObject
from polledger.errors import MalformedError

MESSAGE_LIMITS = Limits(size=1 << 26, depth=32, count=2_000_000)
"""A description of a model with many thousand buffers is the largest message; payloads travel as raw frames."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every message."""


class Setup(_Message, frozen=True, kw_only=True, tag_field="type", tag="setup"):
    """First message to a child: which task, with what, and what it may reach."""

    v: int
    entry: str
    """File to load, relative to the working directory, or the dotted module of polledger's own task."""
    module: str
    """Dotted name under which the task's file is imported; empty for a file that stands alone."""
    materialised: bool
    """True: the source tree lies in the working directory. False: ``module`` is one of polledger's own."""
    class_name: str
    config: dict[str, Any]
    inputs: list[tuple[str, bytes]]
    """Name and path of each; paths are bytes here and below, as the system has them: they need not be text."""
    seed: str
    """Training seed s in decimal: it has 64 bits, more than an integer of PL-MP/1."""
    device: str
    environment: Environment
    readable: list[bytes]
    kind: str = ""
    """What genesis calls the task; empty where nobody has said it yet."""


class Isolated(_Message, frozen=True, kw_only=True, tag_field="type", tag="isolated"):
    """First answer to :class:`Setup`: what was taken away, said before any code of the task can speak."""

    v: int
    files: bool
    network: bool


class Ready(_Message, frozen=True, kw_only=True, tag_field="type", tag="ready"):
    """Second answer to :class:`Setup`, once the task is loaded."""

    v: int
    environment: Environment


class Rebuild(_Message, frozen=True, kw_only=True, tag_field="type", tag="rebuild"):
    """Build the first state from the seed. Answered by :class:`Rebuilt` and one state frame."""

    v: int


class Rebuilt(_Message, frozen=True, kw_only=True, tag_field="type", tag="rebuilt"):
    """Answer to :class:`Rebuild`: how the objects group, hyperparameters at step 0, domains the task declares."""

    v: int
    objects: list[StateObject]
    groups: list[GroupValues]
    domains: list[Domain]


class Open(_Message, frozen=True, kw_only=True, tag_field="type", tag="open"):
    """Read examples ``indices`` of the data set, or with ``custom`` the batch of ``step``.

    Answered by :class:`Opened` and one frame per example (or one for the batch).
    """

    v: int
    step: Count
    indices: list[Count]
    custom: bool


class Opened(_Message, frozen=True, kw_only=True, tag_field="type", tag="opened"):
    """Answer to :class:`Open`; ``frames`` canonical nests follow."""

    v: int
    frames: Count


class Replay(_Message, frozen=True, kw_only=True, tag_field="type", tag="replay"):
    """Load the state of root ``root``, which follows as a frame, and run steps ``first`` to ``last - 1``.

    Then per step a frame count (in ``frames``) of canonical nests: the examples, or with ``custom`` one batch.
    Answered by one :class:`Stepped` with a batch frame per step, then :class:`Ended` with a state frame.
    """

    v: int
    root: Digest
    first: Count
    last: Count
    custom: bool
    frames: list[Count]


class Stepped(_Message, frozen=True, kw_only=True, tag_field="type", tag="stepped"):
    """One replayed step: the hyperparameters in force, the metrics, whether it drew random numbers of torch.

    The canonical batch follows.
    """

    v: int
    step: Count
    groups: list[GroupValues]
    metrics: dict[str, Real]
    drew: bool = False


class Ended(_Message, frozen=True, kw_only=True, tag_field="type", tag="ended"):
    """The interval is done; the state file follows."""

    v: int


class Failed(_Message, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The child could not do what was asked. ``message`` is one line for people."""

    v: int
    kind: str
    message: str
    trace: str | UnsetType = UNSET


class ReadModel(_Message, frozen=True, kw_only=True, tag_field="type", tag="read_model"):
    """First and only message: read the tensors of a model file without running anything in it.

    Answered by :class:`ModelRead` and a state file with one object, ``model``.
    """

    v: int
    path: bytes


class ModelRead(_Message, frozen=True, kw_only=True, tag_field="type", tag="model_read"):
    """Answer to :class:`ReadModel`; ``root`` is the state root of the file that follows, as the child computed it."""

    v: int
    root: Digest


Request = Setup | Rebuild | Open | Replay | ReadModel
Reply = Isolated | Ready | Rebuilt | Opened | Stepped | Ended | ModelRead | Failed


def write_frame(stream: BinaryIO, *parts: bytes | memoryview) -> None:
    """Write one frame: u64 length, then the concatenated ``parts``."""
    stream.write(sum(len(part) for part in parts).to_bytes(8, "big"))
    for part in parts:
        stream.write(part)


def read_frame(stream: BufferedReader, *, limit: int) -> bytearray:
    """Read one frame of at most ``limit`` bytes. Raises MalformedError when longer, EOFError at the end."""
    length = int.from_bytes(_exactly(stream, 8), "big")
    if length > limit:
        raise MalformedError(f"a frame of {length} bytes, at most {limit} are allowed")
    return _exactly(stream, length)


PART = 1 << 24
"""Bytes that a frame's memory begins with at most."""


def _exactly(stream: BufferedReader, length: int) -> bytearray:
    # Grown as bytes arrive, so that a claimed length alone allocates little.
    data, have = bytearray(min(length, PART)), 0
    while have < length:
        if have == len(data):
            data.extend(bytes(min(length - have, max(have, PART))))
        with memoryview(data) as whole:
            part = stream.readinto(whole[have:])
        if not part:
            raise EOFError
        have += part
    return data


def write_message(stream: BinaryIO, message: Request | Reply) -> None:
    """Write ``message`` as one PL-MP/1 frame."""
    write_frame(stream, encode(message))


def read_request(stream: BufferedReader) -> Request:
    """Next message of the parent. Raises EOFError when the parent closed the pipe."""
    message: Request = parse(
        bytes(read_frame(stream, limit=MESSAGE_LIMITS.size)), Request, limits=MESSAGE_LIMITS
    )
    return message


def read_reply(stream: BufferedReader) -> Reply:
    """Next message of a child. Raises MalformedError on anything that is not one, EOFError when it ended."""
    message: Reply = parse(bytes(read_frame(stream, limit=MESSAGE_LIMITS.size)), Reply, limits=MESSAGE_LIMITS)
    return message
