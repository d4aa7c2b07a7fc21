"""Which authorities ``--tsa`` names."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509

from polledger.core.head import Head, parse_note
from polledger.errors import UsageError
from polledger.store.run import RunDirectory
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Embedded, Http
from polledger.training.stamping import Stamping, choose_authorities
from tests.timestamp.peers import free_url
from tests.verify.build import make_run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLLEDGER_HOME", str(tmp_path))
    return tmp_path


def test_default_and_urls_read_no_file(home: Path) -> None:
    (home / "trust.toml").write_text("not TOML [")
    (found,) = choose_authorities([])
    assert isinstance(found, Embedded)
    (asked,) = choose_authorities(["http://tsa.example/"])
    assert isinstance(asked, Http)
    with pytest.raises(UsageError, match="trust.toml is not valid TOML"):
        choose_authorities(["sectigo"])


def test_names_and_urls_mix_and_keep_their_order(home: Path) -> None:
    text = '[[authority]]\nname = "team"\noperator = "Us"\nurl = "http://u:p@tsa.team.example/x?y"\n'
    (home / "trust.toml").write_text(text)
    found = choose_authorities(["team", "http://127.0.0.1:9/tsa", "embedded", "sectigo", "team"])
    assert [authority.name for authority in found] == [
        "team",
        "http://127.0.0.1:9/tsa",
        "embedded",
        "sectigo",
    ]
    assert found[0].url == "http://u:p@tsa.team.example/x?y"
    assert found[3].url == "http://timestamp.sectigo.com"
    assert isinstance(found[1], Http)


@pytest.mark.parametrize("name", ["sektigo", "", "ftp://tsa.example/"])
def test_anything_else_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        choose_authorities([name])


def test_one_authority_under_two_names_is_a_usage_error_without_credentials(home: Path) -> None:
    """It would be asked twice for every seal, and its tokens count once."""
    text = '[[authority]]\nname = "team"\noperator = "Us"\nurl = "http://u:secret@tsa.example/"\n'
    (home / "trust.toml").write_text(text)
    with pytest.raises(UsageError, match="twice, as team and http://tsa.example/") as refused:
        choose_authorities(["team", "http://u:secret@tsa.example/"])
    assert "secret" not in str(refused.value)


@dataclass
class Unforeseen:
    """An authority whose answer ends in an error that nobody thought of."""

    name: str = "unforeseen"
    url: str = "http://unforeseen.example/"
    policy: str | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    def ask(self, request: bytes, *, now: datetime) -> bytes:
        self.asked.set()
        raise RuntimeError("a surprise")

    def roots(self) -> Sequence[x509.Certificate]:
        return ()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", stamp=False, sealed=2).run


def head(run: RunDirectory, seal: int) -> Head:
    return parse_note(run.read_seal(seal).note).head


def test_an_error_that_nobody_foresaw_is_a_warning_and_its_request_waits(
    run: RunDirectory, home: Path
) -> None:
    authority, warnings = Unforeseen(), list[str]()
    stamping = Stamping(run, [authority], warn=warnings.append)
    stamping.stamp(1, head(run, 1))
    assert authority.asked.wait(60)
    for _ in range(3000):
        stamping.stamp(1, head(run, 1))
        if warnings:
            break
        time.sleep(0.02)
    waiting = stamping.close()
    assert warnings == [
        "seal 1 is durable, but: RuntimeError: a surprise",
        "a timestamp could not be kept: RuntimeError: a surprise",
    ]
    assert len(waiting) >= 2


def test_a_queue_that_cannot_be_read_keeps_no_run_from_going_on(run: RunDirectory, home: Path) -> None:
    run.queue_path.parent.mkdir(exist_ok=True)
    run.queue_path.touch()
    warnings: list[str] = []
    stamping = Stamping(run, choose_authorities([]), warn=warnings.append)
    stamping.catch_up(1, head(run, 1))
    stamping.close()
    assert any("seal 1 is durable, but: cannot read the queue" in warning for warning in warnings)


def test_an_authority_that_was_never_asked_about_the_last_seal_is_caught_up(
    run: RunDirectory, home: Path
) -> None:
    """The process ended between the request to one authority and the one to the next."""
    first, second = (Http(url=free_url()) for _ in range(2))
    begun = Stamping(run, [first], warn=pytest.fail)
    begun.stamp(1, head(run, 1))
    begun.close()
    for _ in range(2):
        again = Stamping(run, [first, second], warn=pytest.fail)
        again.catch_up(1, head(run, 1))
        again.close()
    assert {pending.url for pending in RequestQueue(run.queue_path).pending()} == {first.url, second.url}
    asked = [pending.url for pending in RequestQueue(run.queue_path).pending()]
    assert asked.count(second.url) == 1
