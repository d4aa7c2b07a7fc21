"""Seals made anew by whoever owns the key: heads chained again, tokens of another authority, tokens moved.

PROTOCOL sections 7 and 8. Nothing here breaks a signature; a manifest is signed by nobody, and whoever runs an
authority may set its clock.
"""

from dataclasses import replace
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.encoding import encode
from polledger.core.head import Head, parse_note, sign_head
from polledger.core.records import Seal
from polledger.store.run import RunDirectory
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Authority, Stamper, keep_token


def head_of(run: RunDirectory, index: int) -> Head:
    """The head that seal ``index`` of ``run`` holds."""
    return parse_note(run.read_seal(index).note).head


def overwrite_seal(run: RunDirectory, seal: Seal) -> None:
    """Write ``seal`` in its place, whatever is there: what :meth:`RunDirectory.write_seal` refuses to do."""
    run.seal_path(seal.index).write_bytes(encode(seal))


def chain_again(run: RunDirectory, *, first: int, key: Ed25519PrivateKey) -> None:
    """Sign the heads of ``run`` from seal ``first`` on anew, each naming the one that now lies before it.

    Their tokens are dropped: they were over other bytes.
    """
    for index in range(first, len(run.seals())):
        head = replace(head_of(run, index), previous=head_of(run, index - 1).digest())
        overwrite_seal(run, Seal(v=1, index=index, note=sign_head(head, key), tokens=[]))


def stamp_again(run: RunDirectory, authority: Authority, *, now: datetime, first: int = 0) -> None:
    """Replace the tokens of the seals from ``first`` on by those that ``authority`` gives at ``now``."""
    stamper = Stamper(
        authorities=[authority],
        queue=RequestQueue(run.queue_path),
        clock=lambda: now,
        keep=lambda index, token: keep_token(run, index, token),
    )
    for index in range(first, len(run.seals())):
        overwrite_seal(run, msgspec.structs.replace(run.read_seal(index), tokens=[]))
        stamper.stamp(index, head_of(run, index).digest())
