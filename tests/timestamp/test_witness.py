"""Asking witnesses: outages, lies and forks, against a witness in a process of its own."""

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from polledger.core.cosignature import parse_cosignature, parse_witness_key, verify_cosignature
from polledger.core.digest import sha256
from polledger.core.head import Head, parse_note
from polledger.core.merkle import consistency_proof, leaf_hash
from polledger.core.records import Step
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.ledger import LedgerCursor, read_ledger
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Embedded, Outcome, Stamper, keep_token
from polledger.timestamp.witness import (
    SIZE_TYPE,
    Cosigned,
    Growth,
    Reply,
    Witness,
    WitnessRequests,
    encode_request,
    is_cosigned,
    keep_cosignature,
    parse_witness,
    read_cosignature,
    told_size,
)
from polledger.timestamp.worker import StampWorker
from tests.timestamp.conftest import Command
from tests.timestamp.peers import free_url
from tests.timestamp.witness import MODES, Running, cosign, running, vkey
from tests.verify.build import KEY, Built, make_run, reseal
from tests.verify.check import copy_of

NOW = datetime(2026, 11, 22, 6, 13, 20, tzinfo=UTC)
LOG = KEY.public_key().public_bytes_raw()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run of seven seals without tokens. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("witnessed") / "run", stamp=False, sealed=6)


@pytest.fixture
def run(built: Built, tmp_path: Path) -> RunDirectory:
    return copy_of(built, tmp_path / "run").run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "witness", log=LOG) as started:
        yield started


def witness(server: Running, *, timeout: float = 10.0) -> Witness:
    return Witness(key=parse_witness_key(server.vkey), url=server.url, timeout=timeout)


def requests(
    run: RunDirectory,
    *witnesses: Witness,
    storing: "threading.Lock | None" = None,
    timer: Callable[[], float] = time.monotonic,
) -> WitnessRequests:
    return WitnessRequests(
        witnesses=witnesses,
        seals=run,
        ledger=lambda: LedgerCursor(run.ledger_path).records,
        queue=RequestQueue(run.witness_queue_path),
        clock=lambda: NOW,
        keep=lambda seal, cosigned: keep_cosignature(run, seal, cosigned),
        storing=storing,
        timer=timer,
    )


def head(run: RunDirectory, seal: int) -> Head:
    return parse_note(run.read_seal(seal).note).head


def ask(asking: WitnessRequests, run: RunDirectory, seal: int) -> Outcome[Cosigned]:
    """Enqueue the head of ``seal`` for the one witness, and ask once."""
    (pending,) = asking.enqueue(seal, head(run, seal).digest())
    return asking.attempt(pending)


def lines(run: RunDirectory, seal: int) -> list[bytes]:
    kept = run.read_seal(seal).cosignatures
    return [] if kept is UNSET else list(kept)


def waiting(run: RunDirectory) -> list[int]:
    return [pending.seal for pending in RequestQueue(run.witness_queue_path).pending()]


def reason(run: RunDirectory) -> str:
    (pending,) = RequestQueue(run.witness_queue_path).pending()
    return str(pending.reason)


WRONG = {
    "signed-by-another": "does not hold for this head",
    "under-another-key": "no cosignature by the key of witness.example/w1",
    "other-text": "does not hold for this head",
    "stale": "does not hold for this head",
    "timeless": "no cosignature by the key",
    "garbage": "no cosignature by the key|does not end in a newline|at most 64 lines",
    "html": "no cosignature by the key",
    "empty": "does not end in a newline",
    "no-newline": "does not end in a newline",
    "many-lines": "at most 64 lines, found 65",
    "large": "answers with more than 65536 bytes",
    "endless": "answers with more than 65536 bytes",
    "redirect": r"redirect \(HTTP 302\)",
    "failing": "answers HTTP 500",
    "busy": "answers HTTP 429",
    "unknown": r"does not take this run \(HTTP 404\)",
    "forbidden": r"does not take this run \(HTTP 403\)",
    "malformed": r"may not take heads with extension lines \(HTTP 400\)",
    "inconsistent": r"inconsistent with the tree of \d+ records that it signed \(HTTP 422\)",
    "fickle": r"states another size each time \(HTTP 409\)",
    "ahead": "has cosigned 9007199254740991 records of this run before, more than the",
    "beyond": r"another tree than this one of \d+ records \(HTTP 409\)",
    "padded": r"another tree than this one of \d+ records \(HTTP 409\)",
    "sizeless": r"another tree than this one of \d+ records \(HTTP 409\)",
}
"""Modes of the witness, and what is said of their answers."""


def test_every_wrong_answer_is_tried() -> None:
    assert set(WRONG) == {*MODES, "endless"} - {"honest", "chatty"}


def fork(built: Built, path: Path, *, change: int = 3) -> RunDirectory:
    """Another ledger under the same run id and key: from record ``change`` on it tells something else."""
    records = list(built.records)
    index = next(i for i, record in enumerate(records) if i >= change and isinstance(record, Step))
    records[index] = msgspec.structs.replace(records[index], batch=bytes(32))
    return reseal(built, path, records, sealed=6).run


def test_a_cosignature_is_kept_with_its_seal(run: RunDirectory, server: Running) -> None:
    outcome = ask(requests(run, witness(server)), run, 0)
    assert outcome.token is not None
    (line,) = lines(run, 0)
    verify_cosignature(
        parse_cosignature(line), witness=parse_witness_key(server.vkey), text=head(run, 0).text()
    )
    assert abs(parse_cosignature(line).seconds - time.time()) < 600
    assert server.sizes() == [head(run, 0).size]
    assert waiting(run) == []


def test_the_note_stays_and_with_the_lines_it_is_a_note_again(run: RunDirectory, server: Running) -> None:
    before = run.read_seal(0).note
    ask(requests(run, witness(server)), run, 0)
    seal = run.read_seal(0)
    assert seal.note == before
    parsed = parse_note(seal.note + b"".join(lines(run, 0)))
    assert [signature.name for signature in parsed.signatures] == [parsed.head.origin, server.name]


def test_a_request_is_what_the_specification_shows() -> None:
    proof = [base64.b64decode(line) for line in EXAMPLE_PROOF]
    text = "old 20852014\n" + "".join(f"{line}\n" for line in EXAMPLE_PROOF) + "\nNOTE"
    assert encode_request(old=20852014, proof=proof, note=b"NOTE") == text.encode()
    assert encode_request(old=0, proof=[], note=b"NOTE") == b"old 0\n\nNOTE"


EXAMPLE_PROOF = [
    "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=",
    "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=",
]


def test_a_proof_of_64_hashes_is_never_sent() -> None:
    encode_request(old=1, proof=[bytes(32)] * 63, note=b"")
    with pytest.raises(UsageError, match="at most 63 hashes, found 64"):
        encode_request(old=1, proof=[bytes(32)] * 64, note=b"")


def test_each_head_is_proved_from_the_one_before(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    for seal in range(7):
        assert ask(asking, run, seal).token is not None
    sizes = [head(run, seal).size for seal in range(7)]
    assert server.olds() == [0, *sizes[:-1]]
    assert [len(lines(run, seal)) for seal in range(7)] == [1] * 7


def test_a_witness_sees_the_note_and_hashes_and_nothing_else(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    for seal in (0, 3, 6):
        ask(asking, run, seal)
    for body, seal in zip(server.asked(), (0, 3, 6), strict=True):
        request, _, note = body.partition("\n\n")
        assert re.fullmatch(r"old \d+(\n[A-Za-z0-9+/]{43}=)*", request)
        assert note.encode() == run.read_seal(seal).note


def test_a_new_process_asks_the_witness_where_it_stands(run: RunDirectory, server: Running) -> None:
    ask(requests(run, witness(server)), run, 2)
    assert ask(requests(run, witness(server)), run, 5).token is not None
    assert server.olds() == [0, 0, head(run, 2).size]
    assert len(lines(run, 5)) == 1


def test_after_an_outage_one_proof_leads_to_the_newest_head(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    ask(asking, run, 1)
    server.stop()
    for seal in (2, 3, 4, 5):
        assert ask(asking, run, seal).token is None
        assert waiting(run) == [seal]
    assert "Connection refused" in reason(run)
    server.start()
    (outcome,) = requests(run).retry(RequestQueue(run.witness_queue_path).pending())
    assert outcome.token is not None
    assert server.olds()[-2:] == [0, head(run, 1).size]
    assert [len(lines(run, seal)) for seal in range(7)] == [0, 1, 0, 0, 0, 1, 0]
    assert waiting(run) == []


def test_a_witness_forgets_nothing_over_a_restart(run: RunDirectory, server: Running) -> None:
    ask(requests(run, witness(server)), run, 4)
    server.stop()
    server.start()
    assert ask(requests(run, witness(server)), run, 2).token is None
    assert f"has cosigned {head(run, 4).size} records of this run before" in reason(run)
    assert server.sizes() == [head(run, 4).size]


def test_an_answer_that_was_lost_is_asked_for_again(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    ask(asking, run, 0)
    server.mode("lost")
    assert ask(asking, run, 3).token is None
    assert server.sizes() == [head(run, 3).size]
    server.mode("honest")
    (outcome,) = asking.retry(RequestQueue(run.witness_queue_path).pending())
    assert outcome.token is not None
    sizes = [head(run, seal).size for seal in (0, 3)]
    assert server.olds() == [0, sizes[0], sizes[0], sizes[1]]
    assert server.asked()[-1].startswith(f"old {sizes[1]}\n\n")
    assert len(lines(run, 3)) == 1


def test_a_fork_is_refused_where_it_goes_on(
    run: RunDirectory, built: Built, server: Running, tmp_path: Path
) -> None:
    other = fork(built, tmp_path / "fork")
    ask(requests(run, witness(server)), run, 3)
    assert head(other, 3).origin == head(run, 3).origin
    outcome = ask(requests(other, witness(server)), other, 5)
    assert outcome.token is None
    assert (
        f"inconsistent with the tree of {head(run, 3).size} records that it signed (HTTP 422)"
        in outcome.reason
    )
    assert lines(other, 5) == []
    assert server.sizes() == [head(run, 3).size]


def test_a_fork_of_the_same_size_is_refused(
    run: RunDirectory, built: Built, server: Running, tmp_path: Path
) -> None:
    other = fork(built, tmp_path / "fork")
    ask(requests(run, witness(server)), run, 6)
    outcome = ask(requests(other, witness(server)), other, 6)
    assert f"another tree than this one of {head(run, 6).size} records (HTTP 409)" in outcome.reason
    assert lines(other, 6) == []


def test_a_copy_that_shares_all_the_witness_saw_may_go_on(
    run: RunDirectory, built: Built, server: Running, tmp_path: Path
) -> None:
    """What a witness cannot know it does not refuse: the fork begins behind the head that it signed."""
    other = fork(built, tmp_path / "fork", change=head(run, 3).size)
    ask(requests(run, witness(server)), run, 3)
    assert ask(requests(other, witness(server)), other, 6).token is not None
    assert ask(requests(run, witness(server)), run, 6).token is None


@pytest.mark.parametrize(("mode", "message"), WRONG.items())
def test_what_a_witness_answers_wrongly_is_not_kept_and_waits(
    run: RunDirectory, server: Running, mode: str, message: str
) -> None:
    asking = requests(run, witness(server))
    ask(asking, run, 0)
    server.mode(mode)
    outcome = ask(asking, run, 3)
    assert outcome.token is None
    assert re.search(message, outcome.reason), outcome.reason
    assert reason(run) == outcome.reason[:512]
    assert lines(run, 3) == []
    server.mode("honest")
    (again,) = requests(run).retry(RequestQueue(run.witness_queue_path).pending())
    assert again.token is not None
    assert len(lines(run, 3)) == 1


def test_an_answer_counts_only_if_every_line_of_the_witness_holds() -> None:
    """As C2SP asks of a note: what a known key signed wrongly makes all of it doubtful."""
    key, text = Ed25519PrivateKey.generate(), b"text"
    known = parse_witness_key(vkey("w", key))
    good, other = (cosign("w", key, signed, 1_790_000_000) for signed in (text, b"other"))
    stranger = cosign("w", Ed25519PrivateKey.generate(), b"other", 1_790_000_000)
    found = read_cosignature((stranger + good).encode(), witness=known, text=text)
    assert found.line == good.encode()
    for body in (other, good + other, other + good):
        with pytest.raises(MalformedError, match="does not hold for this head"):
            read_cosignature(body.encode(), witness=known, text=text)


@pytest.mark.parametrize(
    ("status", "kind", "body", "size"),
    [
        (409, SIZE_TYPE, b"0\n", 0),
        (409, SIZE_TYPE, b"50\n", 50),
        (409, SIZE_TYPE, b"9007199254740991\n", 2**53 - 1),
        (409, SIZE_TYPE, b"9007199254740992\n", None),
        (409, SIZE_TYPE, b"99999999999999999999\n", None),
        (409, SIZE_TYPE, b"", None),
        (409, SIZE_TYPE, b"50", None),
        (409, SIZE_TYPE, b"050\n", None),
        (409, SIZE_TYPE, b"+5\n", None),
        (409, SIZE_TYPE, b" 5\n", None),
        (409, SIZE_TYPE, b"5\n5\n", None),
        (409, SIZE_TYPE, "٥\n".encode(), None),
        (409, "text/plain", b"50\n", None),
        (200, SIZE_TYPE, b"50\n", None),
        (422, SIZE_TYPE, b"50\n", None),
    ],
)
def test_a_conflict_states_a_size_in_one_way(status: int, kind: str, body: bytes, size: int | None) -> None:
    assert told_size(Reply(status=status, kind=kind, body=body)) == size


def test_a_good_line_among_others_is_kept_once(run: RunDirectory, server: Running) -> None:
    server.mode("chatty")
    assert ask(requests(run, witness(server)), run, 1).token is not None
    (line,) = lines(run, 1)
    assert parse_cosignature(line).name == server.name


def test_a_witness_that_hangs_costs_its_time_limit(run: RunDirectory, server: Running) -> None:
    server.mode("hang")
    outcome = ask(requests(run, witness(server, timeout=0.5)), run, 0)
    assert outcome.unreachable
    assert re.search(r"no answer (within 0.5 s|in time)", outcome.reason)


def test_whoever_runs_the_witness_is_told_the_key_of_the_log(run: RunDirectory, server: Running) -> None:
    server.mode("unknown")
    outcome = ask(requests(run, witness(server)), run, 0)
    assert vkey(head(run, 0).origin, KEY, kind=1) in outcome.reason


def test_a_request_is_on_disk_before_anybody_is_asked(run: RunDirectory, server: Running) -> None:
    (pending,) = requests(run, witness(server)).enqueue(2, head(run, 2).digest())
    assert waiting(run) == [2]
    assert server.asked() == []
    assert (pending.request, pending.witness) == (run.read_seal(2).note, server.vkey)


def test_a_request_that_a_later_head_replaced_is_not_asked_for(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    (early,) = asking.enqueue(1, head(run, 1).digest())
    (late,) = asking.enqueue(2, head(run, 2).digest())
    assert waiting(run) == [2]
    assert asking.attempt(early).reason == "no longer waits"
    assert asking.attempt(late).token is not None
    assert server.olds() == [0]


def test_a_request_that_fails_after_it_was_replaced_does_not_come_back(
    run: RunDirectory, server: Running
) -> None:
    server.mode("hang")
    asking = requests(run, witness(server, timeout=3))
    (early,) = asking.enqueue(1, head(run, 1).digest())
    attempt = threading.Thread(target=asking.attempt, args=(early,))
    attempt.start()
    _until(lambda: len(server.asked()) == 1)
    asking.enqueue(2, head(run, 2).digest())
    attempt.join()
    assert waiting(run) == [2]


def test_another_witness_waits_for_itself(run: RunDirectory, server: Running, tmp_path: Path) -> None:
    with running(tmp_path / "second", log=LOG, name="witness.example/w2") as second:
        asking = requests(run, witness(server), witness(second))
        server.stop()
        for seal in (1, 2):
            for pending in asking.enqueue(seal, head(run, seal).digest()):
                asking.attempt(pending)
        assert [parse_cosignature(line).name for line in lines(run, 2)] == ["witness.example/w2"]
        assert waiting(run) == [2]
        server.start()
        list(asking.retry(RequestQueue(run.witness_queue_path).pending()))
    assert [parse_cosignature(line).name for line in lines(run, 2)] == [second.name, server.name]


def test_only_the_head_of_the_seal_is_asked_for(run: RunDirectory, server: Running) -> None:
    with pytest.raises(MalformedError, match="seal 1 holds another head"):
        requests(run, witness(server)).enqueue(1, head(run, 2).digest())
    assert waiting(run) == []


def test_a_cosignature_is_kept_only_with_the_head_it_is_over(run: RunDirectory, server: Running) -> None:
    outcome = ask(requests(run, witness(server)), run, 1)
    assert outcome.token is not None
    with pytest.raises(MalformedError, match="does not hold for this head"):
        keep_cosignature(run, 2, outcome.token)
    assert lines(run, 2) == []


def test_a_second_cosignature_of_one_witness_is_not_kept(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    ask(asking, run, 1)
    (first,) = lines(run, 1)
    assert ask(asking, run, 1).token is not None
    assert lines(run, 1) == [first]
    assert waiting(run) == []


def test_a_seal_takes_64_cosignatures(run: RunDirectory, server: Running) -> None:
    text = head(run, 1).text()
    key = Ed25519PrivateKey.generate()
    made = [cosign(f"other.example/{number}", key, text, 1).encode() for number in range(64)]
    run.write_seal(msgspec.structs.replace(run.read_seal(1), cosignatures=made[:63]))
    assert ask(requests(run, witness(server)), run, 1).token is not None
    assert len(lines(run, 1)) == 64
    run.write_seal(msgspec.structs.replace(run.read_seal(2), cosignatures=made))
    outcome = ask(requests(run, witness(server)), run, 2)
    assert "seal 2 holds 64 cosignatures and takes no more" in outcome.reason


def test_a_damaged_line_does_not_stand_for_a_cosignature(run: RunDirectory, server: Running) -> None:
    line = bytearray(cosign(server.name, server.key, head(run, 1).text(), 1_790_000_000).encode())
    line[60] ^= 1
    run.write_seal(msgspec.structs.replace(run.read_seal(1), cosignatures=[bytes(line), b"x\n"]))
    assert not is_cosigned(run.read_seal(1), parse_witness_key(server.vkey))
    ask(requests(run, witness(server)), run, 1)
    assert len(lines(run, 1)) == 3
    assert is_cosigned(run.read_seal(1), parse_witness_key(server.vkey))


def test_tokens_and_cosignatures_of_one_seal_are_all_kept(
    run: RunDirectory, server: Running, embedded: EmbeddedAuthority
) -> None:
    """Two workers write the same files: neither loses what the other adds."""
    storing = threading.Lock()
    stamper = Stamper(
        authorities=[Embedded(authority=embedded, name=f"tsa{number}") for number in range(3)],
        queue=RequestQueue(run.queue_path),
        clock=lambda: NOW,
        keep=lambda seal, token: keep_token(run, seal, token),
        storing=storing,
    )
    asking = requests(run, witness(server), storing=storing)
    with StampWorker(stamper) as tokens, StampWorker(asking) as cosignatures:
        for seal in range(3):
            cosignatures.submit(seal, head(run, seal).digest())
            tokens.submit(seal, head(run, seal).digest())
            _until(lambda seal=seal: bool(lines(run, seal)))
    assert [len(run.read_seal(seal).tokens) for seal in range(3)] == [3] * 3
    assert [len(lines(run, seal)) for seal in range(3)] == [1] * 3


def test_a_worker_goes_on_when_a_witness_is_back(run: RunDirectory, server: Running) -> None:
    now = [0.0]
    asking = requests(run, witness(server), timer=lambda: now[0])
    server.stop()
    with StampWorker(asking, poll=timedelta(milliseconds=20)) as worker:
        worker.submit(1, head(run, 1).digest())
        _until(lambda: asking.pace(server.url).rest() > 0)
        worker.submit(2, head(run, 2).digest())
        server.start()
        now[0] += 60
        _until(lambda: waiting(run) == [])
    assert [len(lines(run, seal)) for seal in (1, 2)] == [0, 1]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_queue_entry_without_a_note_is_damaged(run: RunDirectory, server: Running) -> None:
    queue = RequestQueue(run.witness_queue_path)
    (pending,) = requests(run, witness(server)).enqueue(1, head(run, 1).digest())
    queue.put(msgspec.structs.replace(pending, request=b"no note", seal=2))
    assert [entry.seal for entry in queue.pending()] == [1]
    assert len(queue.damaged()) == 1


def test_a_queue_entry_with_a_damaged_key_stays(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    (pending,) = asking.enqueue(1, head(run, 1).digest())
    RequestQueue(run.witness_queue_path).remove(pending)
    bent = msgspec.structs.replace(pending, witness="w+00000000+" + "A" * 44)
    RequestQueue(run.witness_queue_path).put(bent)
    assert "type 00" in asking.attempt(bent).reason
    assert waiting(run) == [1]


def test_a_ledger_cut_short_is_said(run: RunDirectory, server: Running) -> None:
    asking = requests(run, witness(server))
    ask(asking, run, 1)
    scan = read_ledger(run.ledger_path)
    data = run.ledger_path.read_bytes()
    run.ledger_path.write_bytes(data[: scan.offsets[head(run, 2).size - 1]])
    assert f"fewer than the {head(run, 2).size} records" in ask(asking, run, 2).reason


def test_growth_proves_any_step_like_the_whole_tree(run: RunDirectory) -> None:
    records = [record for record in read_ledger(run.ledger_path).records if record is not None]
    leaves = [leaf_hash(sha256(record)) for record in records]
    growth = Growth(LedgerCursor(run.ledger_path).records)
    n = len(records)
    for old, new in [(1, 2), (2, 2), (2, 7), (7, n), (3, n), (n, n), (1, n), (5, 6), (6, 9)]:
        assert growth.proof(old, new) == consistency_proof(leaves, old, new)
    assert growth.proof(0, n) == []
    with pytest.raises(Unavailable, match="fewer than"):
        growth.proof(n, n + 1)


def test_growth_hashes_what_has_grown_and_no_more() -> None:
    read: list[int] = []

    def records(begin: int) -> Iterator[bytes]:
        for index in range(begin, 1000):
            read.append(index)
            yield index.to_bytes(4, "big")

    growth = Growth(records)
    growth.proof(400, 500)
    read.clear()
    growth.proof(500, 510)
    assert read == list(range(400, 510))


def test_retry_asks_witnesses_as_well(run: RunDirectory, server: Running, command: Command) -> None:
    requests(run, witness(server)).enqueue(3, head(run, 3).digest())
    done = command("timestamp", "retry", run.path, "--json")
    assert done.code == 0
    (cosigned,) = done.json()["cosigned"]
    assert (cosigned["seal"], cosigned["witness"]) == (3, server.name)
    assert cosigned["time"].endswith("Z")
    assert done.err.splitlines()[-1] == "no timestamp waits; 1 of 1 cosignature obtained"
    assert len(lines(run, 3)) == 1


def test_retry_says_why_a_fork_is_not_cosigned(
    run: RunDirectory, built: Built, server: Running, tmp_path: Path, command: Command
) -> None:
    ask(requests(run, witness(server)), run, 3)
    other = fork(built, tmp_path / "fork")
    requests(other, witness(server)).enqueue(5, head(other, 5).digest())
    done = command("timestamp", "retry", other.path, "--json")
    assert done.code == 4
    (left,) = done.json()["unwitnessed"]
    assert (left["seal"], left["witness"], left["attempts"]) == (5, server.name, 1)
    assert "inconsistent with the tree" in left["reason"]
    assert done.err.splitlines()[-1] == (
        "no timestamp waits; 0 of 1 cosignature obtained, the rest stays queued"
    )


GIVEN = "https://w.example/prefix+" + vkey("w.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_a_witness_is_given_as_url_and_key() -> None:
    found = parse_witness(GIVEN)
    assert (found.url, found.key.name, found.text) == ("https://w.example/prefix", "w.example", GIVEN)
    plus = parse_witness(GIVEN.replace("prefix", "a+b"))
    assert plus.url == "https://w.example/a+b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://w.example/", r"given as URL\+name"),
        (GIVEN.replace("https", "ftp"), "by an http:// or https:// URL"),
        (GIVEN.replace("prefix", "p?key=secret"), "has a query or a fragment"),
        (GIVEN.replace("prefix", "p#secret"), "has a query or a fragment"),
        (GIVEN.replace("prefix", "secret" * 340), "by an http:// or https:// URL of at most 2048"),
        (GIVEN.replace("w.example+", "v.example+"), "is damaged"),
        (GIVEN.replace("://", "://secret:secret@ "), "by an http:// or https:// URL"),
    ],
)
def test_other_witnesses_are_refused_without_repeating_the_url(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse_witness(text)
    assert "secret" not in str(refused.value)


def test_a_trailing_slash_of_the_prefix_makes_no_difference(run: RunDirectory, server: Running) -> None:
    slashed = replace(witness(server), url=f"{server.url}/")
    assert ask(requests(run, slashed), run, 0).token is not None


def test_nobody_listening_is_an_outage(run: RunDirectory, server: Running) -> None:
    asking = requests(run, replace(witness(server), url=free_url()))
    assert ask(asking, run, 0).unreachable
    assert waiting(run) == [0]
