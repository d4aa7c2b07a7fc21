"""Renewals as ``inspect`` and ``verify`` show them."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from polledger.core.encoding import encode
from tests.cli.conftest import Command
from tests.timestamp.ages import Aging, aging, renew, year
from tests.timestamp.lists import crl
from tests.verify.build import START, Built
from tests.verify.test_time import MINUTE, reference

FIRST = aging("first", year(2020), datetime(2026, 7, 1, tzinfo=UTC))
SECOND = aging("second", year(2024), year(2040))
WHEN = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def renewed(copied: Built) -> Built:
    """A run whose seals FIRST stamped, renewed by SECOND a month before the end of FIRST."""
    run = copied.run
    for number in run.seals():
        ref = reference(run, number, FIRST.authority, START + number * MINUTE, authority="first")
        run.seal_path(number).write_bytes(
            encode(msgspec.structs.replace(run.read_seal(number), tokens=[ref]))
        )
    renew(run, SECOND, now=WHEN)
    return copied


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    def entry(one: Aging) -> str:
        (tmp_path / f"{one.name}.pem").write_bytes(one.root.pem())
        return (
            f'[[authority]]\nname = "{one.name}"\noperator = "{one.name} Ltd"\nroots = ["{one.name}.pem"]\n'
        )

    path = tmp_path / "trust.toml"
    path.write_text(entry(FIRST) + 'revocation = ["first.crl"]\n' + entry(SECOND))
    (tmp_path / "first.crl").write_bytes(crl(FIRST.root, this=START, pem=True))
    return path


def test_inspect_lists_renewals(command: Command, renewed: Built) -> None:
    (only,) = command("inspect", renewed.run.path, "--json").json["renewals"]
    assert only == {"index": 0, "entries": 6, "time": "2026-06-01T00:00:00Z", "authorities": ["second"]}
    text = command("inspect", renewed.run.path).out
    assert "renewals  0: 6 heads and tokens, 2026-06-01T00:00:00Z, second" in text


def test_inspect_says_which_renewals_it_cannot_read(command: Command, renewed: Built) -> None:
    renewed.run.renewal_path(0).write_bytes(b"x")
    (only,) = command("inspect", renewed.run.path, "--json").json["renewals"]
    assert (only["entries"], only["time"]) == (None, None)
    assert "0: unreadable" in command("inspect", renewed.run.path).out


def test_inspect_of_a_run_without_renewals_has_none(command: Command, sealed: Built) -> None:
    assert command("inspect", sealed.run.path, "--json").json["renewals"] == []
    assert "renewals" not in command("inspect", sealed.run.path).out


def test_verify_shows_who_renewed_and_until_when_that_holds(
    command: Command, renewed: Built, trust: Path
) -> None:
    words = ("verify", renewed.run.path, "--no-replay", "--trust", trust)
    found = command(*words, "--json").json
    assert found["time"]["assurance"] == "external"
    assert found["time"]["last"] == "2026-03-01T12:02:00Z"
    assert found["time"]["renewals"] == [
        {"index": 0, "by": "2026-06-01T00:00:01Z", "operators": ["second Ltd"]}
    ]
    assert found["time"]["until"] == "2040-01-01T00:00:00Z"
    outcomes = {item["name"]: item["outcome"] for item in found["findings"]}
    assert outcomes["time.renewed"] == "pass"
    assert outcomes["time.revocation"] == "unverifiable"
    text = command(*words).out
    assert "renewals 0: by 2026-06-01T00:00:01Z, second Ltd" in text
    assert "3 tokens past their certificates renewed in time" in " ".join(text.split())


def test_verify_says_where_nobody_trusted_vouches_for_a_renewal(
    command: Command, renewed: Built, trust: Path
) -> None:
    trust.write_text(trust.read_text().partition('[[authority]]\nname = "second"')[0])
    words = ("verify", renewed.run.path, "--no-replay", "--trust", trust)
    assert command(*words, "--json").json["time"]["assurance"] == "self-asserted"
    assert "0: too few operators that you trust vouch for it" in command(*words).out


def test_a_revocation_file_that_holds_none_is_a_usage_error(
    command: Command, renewed: Built, trust: Path
) -> None:
    (trust.parent / "first.crl").write_bytes(b"junk")
    said = command("verify", renewed.run.path, "--no-replay", "--trust", trust)
    assert said.code == 2
    assert "first.crl: neither a CRL nor an OCSP response" in said.last
