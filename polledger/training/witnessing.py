"""Witnesses of a run that is being sealed: which ones, and the requests to them. PROTOCOL sections 1 and 7."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations

from polledger.errors import UsageError
from polledger.keys import home
from polledger.store.ledger import LedgerCursor
from polledger.store.run import RunDirectory
from polledger.timestamp.directory import TRUST_NAME
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.trust import WitnessEntry, load_trust
from polledger.timestamp.witness import Witness, WitnessRequests, keep_cosignature, parse_witness


def choose_witnesses(given: Sequence[str]) -> list[Witness]:
    """The witnesses that ``--witness`` names: entries of the user's trust file, or URL+VKEY.

    Raises UsageError for anything else, and for a witness that is named twice.
    """
    found = [_witness(text) for text in dict.fromkeys(given)]
    for one, other in combinations(found, 2):
        if one.key.key == other.key.key or one.key.name == other.key.name:
            raise UsageError(f"--witness names one witness twice, as {one.key.name} and {other.key.name}")
    return found


def _witness(text: str) -> Witness:
    if "://" in text:
        return parse_witness(text)
    path = home() / TRUST_NAME
    entries = load_trust(path).witnesses if path.exists() else ()
    entry = next((entry for entry in entries if entry.name == text), None)
    if entry is None:
        raise UsageError(f"--witness takes a name from {path} or URL+VKEY, not {text!r}{_known(entries)}")
    if not entry.url:
        raise UsageError(f"{path}: the witness {text!r} has no url: it cannot be asked")
    return Witness(key=entry.key, url=entry.url)


def _known(entries: Sequence[WitnessEntry]) -> str:
    return f"; known: {', '.join(entry.name for entry in entries)}" if entries else ""


def witness_requests(
    run: RunDirectory, witnesses: Sequence[Witness], *, storing: "threading.Lock | None" = None
) -> WitnessRequests:
    """The requests of ``run`` to ``witnesses``, with its own queue; what waits for others can be asked for as well."""
    return WitnessRequests(
        witnesses=witnesses,
        seals=run,
        ledger=lambda: LedgerCursor(run.ledger_path).records,
        queue=RequestQueue(run.witness_queue_path),
        clock=lambda: datetime.now(UTC),
        keep=lambda seal, cosigned: keep_cosignature(run, seal, cosigned),
        storing=storing,
    )
