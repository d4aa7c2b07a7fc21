"""Which witnesses ``--witness`` names, and how a run asks them while it is sealed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polledger.core.cosignature import parse_cosignature
from polledger.core.head import Head, parse_note
from polledger.errors import UsageError
from polledger.keys import load_or_create_key, public_key
from polledger.store.run import RunDirectory
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.witness import Witness, parse_witness
from polledger.training.stamping import Stamping, choose_authorities
from polledger.training.witnessing import choose_witnesses, witness_requests
from tests.timestamp.witness import Running, running
from tests.training.sealing import SMALL, Listener, seal_task
from tests.verify.build import KEY, make_run

LOG = KEY.public_key().public_bytes_raw()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLLEDGER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "witness", log=LOG) as started:
        yield started


def trust(home: Path, server: Running, *, name: str = "friend", url: bool = True) -> None:
    text = f'[[witness]]\nname = "{name}"\noperator = "Friends"\nkey = "{server.vkey}"\n'
    (home / "trust.toml").write_text(text + (f'url = "{server.url}"\n' if url else ""))


def test_a_witness_is_named_by_the_trust_file_or_by_url_and_key(home: Path, server: Running) -> None:
    trust(home, server)
    named = choose_witnesses(["friend"])
    assert named == choose_witnesses([server.given]) == [parse_witness(server.given)]
    assert choose_witnesses(["friend", "friend"]) == named
    assert choose_witnesses([]) == []


def test_a_name_without_a_trust_file_is_a_usage_error(home: Path) -> None:
    with pytest.raises(UsageError, match=r"takes a name from .*trust.toml or URL\+VKEY, not 'friend'"):
        choose_witnesses(["friend"])


def test_an_unknown_name_lists_the_known_ones(home: Path, server: Running) -> None:
    trust(home, server)
    with pytest.raises(UsageError, match="not 'freund'; known: friend"):
        choose_witnesses(["freund"])


def test_a_witness_without_a_url_cannot_be_asked(home: Path, server: Running) -> None:
    trust(home, server, url=False)
    with pytest.raises(UsageError, match="'friend' has no url"):
        choose_witnesses(["friend"])


def test_one_witness_is_named_once(home: Path, server: Running) -> None:
    trust(home, server)
    with pytest.raises(UsageError, match="names one witness twice"):
        choose_witnesses(["friend", server.given.replace("+", "/+", 1)])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", stamp=False, sealed=3).run


def head(run: RunDirectory, seal: int) -> Head:
    return parse_note(run.read_seal(seal).note).head


def stamping(run: RunDirectory, *witnesses: Witness) -> Stamping:
    return Stamping(run, choose_authorities([]), witnesses=witnesses, warn=lambda text: pytest.fail(text))


def names(run: RunDirectory, seal: int) -> list[str]:
    return [parse_cosignature(line).name for line in run.read_seal(seal).cosignatures or []]


def test_a_seal_gets_token_and_cosignature(run: RunDirectory, server: Running) -> None:
    asking = stamping(run, parse_witness(server.given))
    asking.stamp(1, head(run, 1))
    assert asking.close() == ()
    assert asking.unwitnessed() == ()
    assert (len(run.read_seal(1).tokens), names(run, 1)) == (1, [server.name])


def test_a_witness_that_is_down_keeps_no_run_from_ending(run: RunDirectory, server: Running) -> None:
    server.stop()
    asking = stamping(run, parse_witness(server.given))
    asking.stamp(1, head(run, 1))
    asking.stamp(2, head(run, 2))
    asking.close()
    (left,) = asking.unwitnessed()
    assert (left.seal, left.authority) == (2, server.name)
    assert left.since is not None
    assert [len(run.read_seal(seal).tokens) for seal in (1, 2)] == [1, 1]


def test_a_witness_that_hangs_holds_up_no_token(run: RunDirectory, server: Running) -> None:
    server.mode("hang")
    asking = stamping(run, parse_witness(server.given))
    asking.stamp(1, head(run, 1))
    _until(lambda: bool(run.read_seal(1).tokens))
    server.stop()
    asking.close()
    assert names(run, 1) == []


def test_what_waits_for_a_witness_is_not_asked_for_twice(run: RunDirectory, server: Running) -> None:
    server.stop()
    first = stamping(run, parse_witness(server.given))
    first.stamp(1, head(run, 1))
    first.close()
    again = stamping(run, parse_witness(server.given))
    again.catch_up(1, head(run, 1))
    again.close()
    (waiting,) = RequestQueue(run.witness_queue_path).pending()
    assert (waiting.seal, waiting.attempts) == (1, 1)
    server.start()
    assert [outcome.token is not None for outcome in witness_requests(run, ()).retry([waiting])] == [True]
    assert names(run, 1) == [server.name]


def test_a_last_seal_that_no_witness_was_asked_about_is_caught_up(run: RunDirectory, server: Running) -> None:
    """The process ended between the seal and the request."""
    asking = stamping(run, parse_witness(server.given))
    asking.catch_up(3, head(run, 3))
    asking.close()
    assert names(run, 3) == [server.name]
    again = stamping(run, parse_witness(server.given))
    again.catch_up(3, head(run, 3))
    again.close()
    assert len(server.asked()) == 1


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Stopping(Listener):
    """Asks the session to stop after step 11."""

    def step(self, done: int, total: int, metrics: object) -> None:
        if done == 11:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_goes_on_with_its_witnesses(tmp_path: Path, home: Path) -> None:
    log = public_key(load_or_create_key())
    with running(tmp_path / "witness", log=log) as server:
        path, given = tmp_path / "sealed", server.given.replace("//", "//user:word@")
        options = {"every": 4, "warm": 2, "seal_every": 2, "settings": ("steps=16",)}
        result = seal_task(SMALL, path, Stopping(), witnesses=(given,), **options)
        assert (result.interrupted, result.unwitnessed) == (True, ())
        half = max(server.sizes())
        assert "word" not in (path / "run.toml").read_text()
        result = seal_task(SMALL, path, resume=True)
        assert (result.interrupted, result.unwitnessed) == (False, ())
        run = RunDirectory.open(path)
        last = run.seals()[-1]
        assert server.sizes() == [head(run, last).size]
        assert half in server.olds()
    assert names(run, last) == [server.name]
