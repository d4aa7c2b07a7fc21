"""Which authorities ``--tsa`` names."""

from pathlib import Path

import pytest

from polledger.errors import UsageError
from polledger.timestamp.stamper import Embedded, Http
from polledger.training.stamping import choose_authorities


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
