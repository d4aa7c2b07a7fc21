"""Stamper and worker: outages cost nothing but time, and what arrives late is added to its seal."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.head import Head, sign_head
from polledger.core.records import Seal
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.messages import granting_response, parse_request, token_of
from polledger.timestamp.queue import Pending, RequestQueue
from polledger.timestamp.stamper import Embedded, Http, Stamper, Token, keep_token
from polledger.timestamp.token import TokenRejected, verify_response
from polledger.timestamp.worker import StampWorker
from tests.timestamp import forge
from tests.timestamp.peers import REPLY, Asked, Server, free_url, http, needs_openssl, openssl

NOW = datetime(2026, 11, 22, 6, 13, 20, tzinfo=UTC)
POLL = timedelta(milliseconds=20)


def head(number: int) -> Head:
    return Head(
        run=bytes(16), size=number + 1, root=bytes([number]) * 32, chainpoint=bytes(32), previous=bytes(32)
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory.create(tmp_path / "run")
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    for number in range(4):
        directory.write_seal(Seal(v=1, index=number, note=sign_head(head(number), key), tokens=[]))
    return directory


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.pauses: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        """The same as a timer."""
        return self.now.timestamp()

    def sleep(self, seconds: float) -> None:
        """Nobody waits in a test."""
        self.pauses.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., Stamper]


@pytest.fixture
def make(run: RunDirectory, clock: Clock) -> Make:
    def build(*authorities: Embedded | Http, **options: Any) -> Stamper:
        return Stamper(
            authorities=authorities,
            queue=RequestQueue(run.queue_path),
            clock=clock,
            keep=lambda seal, token: keep_token(run, seal, token),
            **options,
        )

    return build


def waiting(run: RunDirectory) -> list[Pending]:
    return RequestQueue(run.queue_path).pending()


def forged(
    bend: Callable[[forge.Token], forge.Token] = lambda token: token,
) -> Callable[[Asked], tuple[int, dict[str, str], bytes]]:
    """An authority that answers what it is asked, through the forge."""

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        wanted = parse_request(asked.body)
        token = forge.Token(
            tst_info={
                "imprint": forge.seq(forge.algorithm(forge.SHA256), forge.octets(wanted.imprint)),
                "nonce": forge.integer(wanted.nonce or 0),
            }
        )
        return 200, {"Content-Type": REPLY}, bend(token).response_bytes()

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with http(forged()) as running:
        yield running


def test_token_of_the_embedded_authority_is_kept_with_its_seal(
    run: RunDirectory, make: Make, embedded: EmbeddedAuthority
) -> None:
    (token,) = make(Embedded(authority=embedded)).stamp(1, head(1).digest())
    assert token.timestamp.gen_time == NOW
    (reference,) = run.read_seal(1).tokens
    assert reference.authority == "embedded"
    response = run.objects.get(reference.response, limit=1 << 16)
    request = parse_request(run.objects.get(reference.request, limit=1 << 16))
    assert isinstance(reference.chain, list)
    chain = [x509.load_der_x509_certificate(run.objects.get(name, limit=1 << 16)) for name in reference.chain]
    assert chain == [embedded.leaf, embedded.root]
    verify_response(response, digest=head(1).digest(), roots=[embedded.root], nonce=request.nonce)
    verify_response(response, digest=head(1).digest(), roots=chain, nonce=request.nonce)
    assert run.read_seal(0).tokens == []
    assert waiting(run) == []


@needs_openssl
def test_token_of_openssl_is_kept_under_the_url_without_credentials(
    run: RunDirectory, make: Make, tmp_path: Path
) -> None:
    with http(openssl(tmp_path)) as server:
        url = server.url.replace("//", "//me:pw@")
        (token,) = make(Http(url=f"{url}/tsr?key=x", policy=forge.POLICY)).stamp(0, head(0).digest())
    assert token.timestamp.policy == forge.POLICY
    (reference,) = run.read_seal(0).tokens
    assert reference.authority == f"{server.url}/tsr"
    assert len(reference.chain or []) == 2


def test_every_authority_is_asked_and_an_outage_stops_no_other(
    run: RunDirectory, make: Make, embedded: EmbeddedAuthority, server: Server
) -> None:
    authorities = [
        Http(url=free_url(), name="down"),
        Embedded(authority=embedded),
        Http(url=server.url, name="up"),
    ]
    tokens = make(*authorities).stamp(0, head(0).digest())
    assert [token.authority for token in tokens] == ["embedded", "up"]
    assert [reference.authority for reference in run.read_seal(0).tokens] == ["embedded", "up"]
    (entry,) = waiting(run)
    assert (entry.authority, entry.seal, entry.attempts) == ("down", 0, 1)
    assert entry.first_failure == round(NOW.timestamp() * 1000)
    assert "Connection refused" in str(entry.reason)


def test_nonces_differ(run: RunDirectory, make: Make, server: Server) -> None:
    stamper = make(Http(url=server.url))
    for number in range(3):
        stamper.stamp(number, head(number).digest())
    nonces = {parse_request(asked.body).nonce for asked in server.asked}
    assert len(nonces) == 3
    assert all(nonce is not None and 0 <= nonce < 1 << 63 for nonce in nonces)


def test_request_is_durable_before_anybody_is_asked(run: RunDirectory, make: Make) -> None:
    seen: list[int] = []

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        seen.append(sum(entry.request == asked.body for entry in waiting(run)))
        return 500, {}, b""

    with http(answer) as server:
        make(Http(url=server.url)).stamp(0, head(0).digest())
    assert seen == [1]


def test_retry_sends_the_same_bytes_and_adds_the_token_to_its_seal(run: RunDirectory, make: Make) -> None:
    up = False

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return forged()(asked) if up else (503, {}, b"")

    with http(answer) as server:
        make(Http(url=server.url)).stamp(2, head(2).digest())
        (entry,) = waiting(run)
        assert not make().is_due(entry)
        up = True
        (outcome,) = make().retry([entry])
        first, second = server.asked
    assert outcome.token is not None
    assert first.body == second.body == entry.request
    assert len(run.read_seal(2).tokens) == 1
    assert waiting(run) == []


def test_pause_passes_with_the_clock(run: RunDirectory, make: Make, clock: Clock) -> None:
    stamper = make(Http(url=free_url()))
    stamper.stamp(0, head(0).digest())
    (entry,) = stamper.waiting()
    assert not stamper.is_due(entry)
    clock.now += timedelta(seconds=31)
    assert stamper.is_due(entry)


def test_authority_that_does_not_answer_is_asked_once_per_round_newest_first(
    run: RunDirectory, make: Make, clock: Clock, server: Server
) -> None:
    down = free_url()
    stamper = make(Http(url=down, name="down"), Http(url=server.url, name="up"), timer=clock.seconds)
    entries = [entry for number in range(3) for entry in stamper.enqueue(number, head(number).digest())]
    outcomes = list(stamper.retry(entries, sleep=clock.sleep))
    seen = [
        (outcome.pending.authority, outcome.pending.seal, outcome.token is not None) for outcome in outcomes
    ]
    assert seen == [
        ("down", 2, False), ("down", 1, False), ("down", 0, False), ("up", 2, True), ("up", 1, True), ("up", 0, True),
    ]  # fmt: skip
    assert [entry.attempts for entry in waiting(run)] == [0, 0, 1]
    assert [outcome.pending.attempts for outcome in outcomes[:3]] == [1, 0, 0]
    assert "not asked again" in outcomes[1].reason
    assert clock.pauses == [1.0, 1.0]


def test_interval_of_an_authority_is_kept_while_others_are_asked(
    run: RunDirectory, make: Make, clock: Clock, server: Server
) -> None:
    with http(forged()) as slow:
        stamper = make(
            Http(url=slow.url, name="slow"),
            Http(url=server.url, name="quick"),
            intervals={slow.url: timedelta(seconds=15), server.url: timedelta(seconds=4)},
            timer=clock.seconds,
        )
        entries = [entry for number in range(3) for entry in stamper.enqueue(number, head(number).digest())]
        asked = []
        for outcome in stamper.retry(entries, sleep=clock.sleep):
            asked.append((outcome.pending.authority, (clock.now - NOW).total_seconds()))
    assert asked == [
        ("slow", 0.0), ("quick", 0.0), ("quick", 4.0), ("quick", 8.0), ("slow", 15.0), ("slow", 30.0),
    ]  # fmt: skip


def test_interval_counts_from_what_an_earlier_process_asked(
    run: RunDirectory, make: Make, clock: Clock
) -> None:
    down = free_url()
    make(Http(url=down), timer=clock.seconds).stamp(0, head(0).digest())
    clock.now += timedelta(seconds=5)
    later = make(intervals={down: timedelta(seconds=15)}, timer=clock.seconds)
    list(later.retry(later.waiting(), sleep=clock.sleep))
    assert clock.pauses == [10.0]


def test_embedded_authority_needs_no_interval(make: Make, clock: Clock, embedded: EmbeddedAuthority) -> None:
    stamper = make(Embedded(authority=embedded), timer=clock.seconds)
    entries = [entry for number in range(3) for entry in stamper.enqueue(number, head(number).digest())]
    assert all(outcome.token for outcome in stamper.retry(entries, sleep=clock.sleep))
    assert clock.pauses == []


def test_proxy_that_cannot_be_used_fails_no_seal(
    run: RunDirectory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert make(Http(url="http://tsa.invalid/")).stamp(0, head(0).digest()) == []
    assert "http_proxy" in str(waiting(run)[0].reason)


def test_refusal_of_one_request_does_not_hold_up_the_next(
    run: RunDirectory, make: Make, server: Server
) -> None:
    stamper = make(Http(url=server.url, name="up"))
    wrong, right = *stamper.enqueue(0, head(1).digest()), *stamper.enqueue(1, head(1).digest())
    outcomes = list(stamper.retry([wrong, right], sleep=lambda _: None))
    assert outcomes[0].token is not None
    assert "not over the head of seal 0" in outcomes[1].reason
    assert run.read_seal(0).tokens == []
    assert [entry.seal for entry in waiting(run)] == [0]


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        ({"imprint": forge.seq(forge.algorithm(forge.SHA256), forge.octets(bytes(32)))}, "the imprint is"),
        ({"nonce": forge.integer(5)}, "the nonce is"),
        ({"nonce": b""}, "the nonce is missing"),
        ({"policy": forge.oid("1.2.3")}, "the policy is"),
        ({"version": forge.integer(2)}, "version"),
    ],
)
def test_token_that_does_not_fit_its_request_is_not_kept(
    run: RunDirectory, make: Make, bend: dict[str, bytes], message: str
) -> None:
    def bent(token: forge.Token) -> forge.Token:
        return forge.Token(tst_info={**token.tst_info, **bend})

    with http(forged(bent)) as server:
        assert make(Http(url=server.url, policy=forge.POLICY)).stamp(0, head(0).digest()) == []
    assert run.read_seal(0).tokens == []
    assert message in str(waiting(run)[0].reason)


def test_clock_of_this_machine_has_no_say(
    run: RunDirectory, make: Make, clock: Clock, server: Server
) -> None:
    clock.now = datetime(1999, 1, 1, tzinfo=UTC)
    assert len(make(Http(url=server.url)).stamp(0, head(0).digest())) == 1


def test_embedded_authority_with_an_impossible_clock_is_queued(
    run: RunDirectory, make: Make, clock: Clock, embedded: EmbeddedAuthority
) -> None:
    clock.now = datetime(1999, 1, 1, tzinfo=UTC)
    stamper = make(Embedded(authority=embedded))
    assert stamper.stamp(0, head(0).digest()) == []
    assert "time source" in str(waiting(run)[0].reason)
    (outcome,) = make().retry(waiting(run))
    assert outcome.reason == "the embedded authority is not at hand"
    clock.now = NOW
    (outcome,) = stamper.retry(waiting(run))
    assert outcome.token is not None


def test_crash_between_keeping_and_forgetting_adds_no_second_token(
    run: RunDirectory, make: Make, server: Server
) -> None:
    stamper = make(Http(url=server.url))
    (entry,) = stamper.enqueue(0, head(0).digest())
    assert stamper.attempt(entry).token is not None
    RequestQueue(run.queue_path).put(entry)
    assert stamper.attempt(entry).token is not None
    assert len(run.read_seal(0).tokens) == 1
    assert waiting(run) == []


def test_request_that_no_longer_waits_is_not_asked_for(run: RunDirectory, make: Make, server: Server) -> None:
    stamper = make(Http(url=server.url))
    (entry,) = stamper.enqueue(0, head(0).digest())
    stamper.attempt(entry)
    assert stamper.attempt(entry).token is None
    assert len(server.asked) == 1


def test_token_over_another_head_is_not_kept(
    run: RunDirectory, make: Make, embedded: EmbeddedAuthority
) -> None:
    (token,) = make(Embedded(authority=embedded)).stamp(1, head(1).digest())
    with pytest.raises(MalformedError, match="not over the head of seal 2"):
        keep_token(run, 2, token)


def test_disk_that_cannot_keep_a_token_is_an_error_and_the_request_waits(
    run: RunDirectory, server: Server
) -> None:
    def keep(_: int, __: Token) -> None:
        raise Unavailable("disk full")

    queue = RequestQueue(run.queue_path)
    stamper = Stamper(authorities=[Http(url=server.url)], queue=queue, clock=lambda: NOW, keep=keep)
    with pytest.raises(Unavailable, match="disk full"):
        stamper.stamp(0, head(0).digest())
    assert len(waiting(run)) == 1


def test_url_that_is_none_is_refused_before_anything_is_queued() -> None:
    with pytest.raises(UsageError):
        Http(url="tsa.example")


def test_worker_does_not_wait_for_an_authority_that_hangs(run: RunDirectory, make: Make) -> None:
    release = threading.Event()

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        release.wait(30)
        return forged()(asked)

    with http(answer) as server:
        worker = StampWorker(make(Http(url=server.url)))
        for number in range(3):
            worker.submit(number, head(number).digest())
        assert len(waiting(run)) == 3
        assert [run.read_seal(number).tokens for number in range(3)] == [[], [], []]
        release.set()
        worker.close(timeout=60)
    assert [len(run.read_seal(number).tokens) for number in range(3)] == [1, 1, 1]
    assert waiting(run) == []


def test_worker_closes_in_time_and_leaves_the_rest_queued(run: RunDirectory, make: Make) -> None:
    release = threading.Event()

    def answer(_: Asked) -> tuple[int, dict[str, str], bytes]:
        release.wait(30)
        return 500, {}, b""

    with http(answer) as server:
        worker = StampWorker(make(Http(url=server.url)))
        worker.submit(0, head(0).digest())
        worker.close(timeout=0.2)
        assert len(waiting(run)) == 1
        release.set()


def test_authority_that_hangs_does_not_hold_up_another(run: RunDirectory, make: Make, server: Server) -> None:
    release = threading.Event()

    def answer(_: Asked) -> tuple[int, dict[str, str], bytes]:
        release.wait(60)
        return 500, {}, b""

    with http(answer) as hanging:
        slow = Http(url=hanging.url, name="slow", timeout=60)
        worker = StampWorker(make(slow, Http(url=server.url, name="up")))
        for number in range(2):
            worker.submit(number, head(number).digest())
            _until(lambda number=number: len(run.read_seal(number).tokens) == 1)
        _until(lambda: [entry.authority for entry in waiting(run)] == ["slow", "slow"])
        release.set()
        worker.close()


def test_nothing_is_written_once_a_worker_is_closed(run: RunDirectory, make: Make) -> None:
    """The run's lock is given back then: another process may have the directory, or it may be gone."""
    asked, release = threading.Event(), threading.Event()

    def answer(asking: Asked) -> tuple[int, dict[str, str], bytes]:
        asked.set()
        release.wait(60)
        return forged()(asking)

    with http(answer) as server:
        worker = StampWorker(make(Http(url=server.url, timeout=60)))
        worker.submit(0, head(0).digest())
        worker.submit(1, head(1).digest())
        assert asked.wait(30)
        worker.close(timeout=0.01)
        before = _contents(run.path)
        release.set()
        for thread in [thread for thread in threading.enumerate() if thread.name == "timestamps"]:
            thread.join(60)
        assert len(server.asked) == 1
    assert _contents(run.path) == before


def _contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_tokens_that_come_at_once_are_all_kept(run: RunDirectory, make: Make) -> None:
    with http(forged()) as one, http(forged()) as two, http(forged()) as three:
        authorities = [Http(url=server.url) for server in (one, two, three)]
        with StampWorker(make(*authorities)) as worker:
            for number in range(4):
                worker.submit(number, head(number).digest())
    assert [len(run.read_seal(number).tokens) for number in range(4)] == [3, 3, 3, 3]
    assert waiting(run) == []


def test_what_other_authorities_were_asked_before_is_retried(
    run: RunDirectory, make: Make, server: Server, embedded: EmbeddedAuthority
) -> None:
    make(Http(url=server.url)).enqueue(0, head(0).digest())
    with StampWorker(make(Embedded(authority=embedded)), poll=timedelta(milliseconds=20)):
        _until(lambda: waiting(run) == [])
    assert len(run.read_seal(0).tokens) == 1


def refusing(count: int) -> Callable[[Asked], tuple[int, dict[str, str], bytes]]:
    """An authority that is out of order for its first ``count`` requests."""
    left = [count]

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        left[0] -= 1
        return (503, {}, b"") if left[0] >= 0 else forged()(asked)

    return answer


def test_worker_retries_what_is_due_while_idle(run: RunDirectory, make: Make, clock: Clock) -> None:
    with http(refusing(1)) as server:
        stamper = make(Http(url=server.url), timer=clock.seconds)
        with StampWorker(stamper, poll=POLL) as worker:
            worker.submit(0, head(0).digest())
            _until(lambda: stamper.pace(server.url).rest() > 0)
            assert run.read_seal(0).tokens == []
            clock.now += timedelta(minutes=1)
            _until(lambda: waiting(run) == [])
    assert len(run.read_seal(0).tokens) == 1


def test_authority_that_is_down_is_left_in_peace_longer_and_longer(
    run: RunDirectory, make: Make, clock: Clock
) -> None:
    """However many seals are made meanwhile."""
    with http(refusing(4)) as server:
        stamper = make(Http(url=server.url), timer=clock.seconds)
        pace = stamper.pace(server.url)
        worker = StampWorker(stamper, poll=POLL)
        worker.submit(0, head(0).digest())
        for pause in (5, 10, 20):
            _until(lambda: pace.rest() > 0)
            asked = len(server.asked)
            clock.now += timedelta(seconds=pause - 1)
            worker.submit(1, head(1).digest())
            time.sleep(10 * POLL.total_seconds())
            assert len(server.asked) == asked
            clock.now += timedelta(seconds=1)
            _until(lambda asked=asked: len(server.asked) == asked + 1)
        worker.close()


def test_once_an_authority_is_back_all_that_waits_for_it_is_asked_newest_first(
    run: RunDirectory, make: Make, clock: Clock
) -> None:
    """Also what has failed often, whose own pause lasts for hours."""
    with http(refusing(1)) as server:
        stamper = make(Http(url=server.url), timer=clock.seconds, intervals={server.url: timedelta(0)})
        (old,) = stamper.enqueue(0, head(0).digest())
        for _ in range(12):
            old = old.failed("down", now=clock.now)
        RequestQueue(run.queue_path).put(old)
        with StampWorker(stamper, poll=POLL) as worker:
            for number in (1, 2):
                worker.submit(number, head(number).digest())
            _until(lambda: stamper.pace(server.url).rest() > 0)
            clock.now += timedelta(seconds=31)
            _until(lambda: waiting(run) == [])
    asked = [parse_request(one.body).imprint for one in server.asked[1:]]
    assert asked == [head(number).digest() for number in (2, 1, 0)]


def test_end_of_a_run_tries_an_authority_that_was_down_once_more(
    run: RunDirectory, make: Make, clock: Clock
) -> None:
    with http(refusing(1)) as server:
        stamper = make(Http(url=server.url), timer=clock.seconds, intervals={server.url: timedelta(0)})
        worker = StampWorker(stamper, poll=timedelta(hours=1))
        worker.submit(0, head(0).digest())
        _until(lambda: stamper.pace(server.url).rest() > 0)
        worker.submit(1, head(1).digest())
        worker.close()
    assert len(run.read_seal(1).tokens) == 1
    assert [entry.seal for entry in waiting(run)] == [0]


def test_end_of_a_run_waits_for_no_interval_beyond_its_deadline(run: RunDirectory, make: Make) -> None:
    with http(forged()) as server:
        stamper = make(Http(url=server.url), intervals={server.url: timedelta(hours=1)})
        before = set(threading.enumerate())
        worker = StampWorker(stamper)
        worker.submit(0, head(0).digest())
        _until(lambda: waiting(run) == [])
        worker.submit(1, head(1).digest())
        # Long enough for the thread to see by itself that it has nothing to wait for.
        worker.close(timeout=60)
        assert len(server.asked) == 1
        assert {thread for thread in threading.enumerate() if thread.name == "timestamps"} <= before
    assert [entry.seal for entry in waiting(run)] == [1]


def test_queue_that_cannot_be_read_keeps_no_run_from_beginning(
    run: RunDirectory, make: Make, server: Server
) -> None:
    run.queue_path.write_text("a file where the queue should be")
    worker = StampWorker(make(Http(url=server.url)))
    with pytest.raises(Unavailable, match="cannot queue"):
        worker.submit(0, head(0).digest())
    with pytest.raises(Unavailable, match="cannot read the queue"):
        worker.close()


def test_worker_passes_a_full_disk_on_to_its_caller(run: RunDirectory, server: Server) -> None:
    def keep(_: int, __: Token) -> None:
        raise Unavailable("disk full")

    queue = RequestQueue(run.queue_path)
    worker = StampWorker(
        Stamper(authorities=[Http(url=server.url)], queue=queue, clock=lambda: NOW, keep=keep)
    )
    worker.submit(0, head(0).digest())
    _until(lambda: len(server.asked) == 1)
    with pytest.raises(Unavailable, match="disk full"):
        _submit_for_a_while(worker)
    with pytest.raises(Unavailable, match="disk full"):
        worker.close()
    assert {entry.seal for entry in waiting(run)} == {0, 1}


def _submit_for_a_while(worker: StampWorker) -> None:
    for _ in range(100):
        worker.submit(1, head(1).digest())
        time.sleep(0.05)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stored_token_is_refused_under_other_roots(run: RunDirectory, make: Make, server: Server) -> None:
    """A chain stored beside a token is no trust: another root refuses it."""
    (token,) = make(Http(url=server.url)).stamp(0, head(0).digest())
    other = forge.certify("Root", forge.ec_key("another root"), None, forge.CA)
    roots = [x509.load_der_x509_certificate(other.certificate)]
    with pytest.raises(TokenRejected, match="no chain"):
        verify_response(token.response, digest=head(0).digest(), roots=roots)


def test_response_is_stored_without_the_words_beside_the_token(run: RunDirectory, make: Make) -> None:
    def chatty(token: forge.Token) -> forge.Token:
        words = forge.seq(forge.integer(0), forge.seq(forge.utf8("granted, have a nice day")))
        return forge.Token(tst_info=token.tst_info, response={"status": words})

    with http(forged(chatty)) as server:
        (token,) = make(Http(url=server.url)).stamp(0, head(0).digest())
    assert token.response == granting_response(token_of(token.response))
