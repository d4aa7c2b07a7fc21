"""Authorities by name: the user's own first, then the shipped list, which trusts nobody."""

from datetime import timedelta
from pathlib import Path

import pytest

import polledger
from polledger.errors import UsageError
from polledger.timestamp.directory import SHIPPED, known_intervals, load_directory
from polledger.timestamp.trust import load_trust
from tests.timestamp import forge

OWN = """
[[authority]]
name = "team"
operator = "Our team"
url = "http://tsa.team.example:3161/"
interval = 0

[[authority]]
name = "sectigo"
operator = "Sectigo"
url = "http://mirror.example/"
interval = 60

[[authority]]
name = "digicert"
operator = "DigiCert"
roots = ["root.pem"]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "root.pem").write_bytes(forge.root().pem())
    (tmp_path / "trust.toml").write_text(OWN)
    return tmp_path


def test_shipped_list_is_package_data_of_the_schema_everybody_writes() -> None:
    assert SHIPPED.is_relative_to(Path(polledger.__file__).parent)
    entries = load_trust(SHIPPED).entries
    assert {"digicert", "sectigo", "globalsign", "sigstore", "freetsa"} <= {entry.name for entry in entries}
    assert all(entry.url for entry in entries)


def test_shipped_list_trusts_nobody() -> None:
    trust = load_trust(SHIPPED)
    assert all(not entry.roots and not entry.intermediates for entry in trust.entries)
    assert trust.witnesses == ()


def test_shipped_entries_name_the_page_they_come_from() -> None:
    """A list of services whose terms nobody can look up helps nobody."""
    blocks = SHIPPED.read_text(encoding="utf-8").split("\n\n")[1:]
    assert len(blocks) == len(load_trust(SHIPPED).entries)
    assert all(block.startswith("# https://") for block in blocks)


def test_published_interval_of_sectigo_is_kept(tmp_path: Path) -> None:
    directory = load_directory(tmp_path)
    assert directory.find("sectigo").interval == timedelta(seconds=15)
    assert directory.intervals() == {"http://timestamp.sectigo.com": timedelta(seconds=15)}


def test_own_entries_go_before_shipped_ones(home: Path) -> None:
    directory = load_directory(home)
    assert directory.find("team").operator == "Our team"
    assert directory.find("sectigo").url == "http://mirror.example/"
    assert directory.intervals()["http://tsa.team.example:3161/"] == timedelta(0)
    assert directory.intervals()["http://mirror.example/"] == timedelta(seconds=60)


def test_own_interval_goes_before_the_published_one_of_the_same_url(home: Path) -> None:
    url = "http://timestamp.sectigo.com"
    (home / "trust.toml").write_text(OWN.replace("http://mirror.example/", url))
    assert load_directory(home).intervals()[url] == timedelta(seconds=60)
    (home / "trust.toml").write_text(OWN.replace("http://mirror.example/", url).replace("interval = 60", ""))
    assert load_directory(home).intervals()[url] == timedelta(seconds=15)


def test_own_entry_without_url_leaves_the_shipped_one_to_be_asked(home: Path) -> None:
    assert load_directory(home).find("digicert").url == "http://timestamp.digicert.com"


def test_unknown_name_is_answered_with_near_ones(home: Path) -> None:
    with pytest.raises(UsageError, match="no authority is called 'sektigo'; near: sectigo; a URL"):
        load_directory(home).find("sektigo")
    with pytest.raises(UsageError, match="near: cesnet, dfn, .*, team; a URL"):
        load_directory(home).find("xyz")


def test_mistake_in_the_own_file_is_named(home: Path) -> None:
    (home / "trust.toml").write_text(OWN.replace("interval = 60", "intervall = 60"))
    with pytest.raises(UsageError, match=r"trust.toml: authority 2 \('sectigo'\): unknown key 'intervall'"):
        load_directory(home)
    # Asking too often would be worse than a name that is not known: published intervals are kept all the same.
    assert known_intervals(lambda: home) == {"http://timestamp.sectigo.com": timedelta(seconds=15)}


def test_machine_without_home_keeps_the_published_intervals() -> None:
    def nowhere() -> Path:
        raise UsageError("there is no home directory")

    assert known_intervals(nowhere) == {"http://timestamp.sectigo.com": timedelta(seconds=15)}
