"""The trust file."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from polledger.errors import Unavailable, UsageError
from polledger.timestamp.trust import TRUST_BYTES, load_trust
from tests.timestamp import forge

ENTRY = """
[[authority]]
name = "one"
operator = "One Ltd"
roots = ["root.pem"]
"""


def write(directory: Path, text: str) -> Path:
    (directory / "root.pem").write_bytes(forge.root().pem())
    (directory / "more.pem").write_bytes(forge.intermediate().pem() + forge.tsa_p256().pem())
    path = directory / "trust.toml"
    path.write_text(text)
    return path


def test_full_entry_is_read(tmp_path: Path) -> None:
    text = ENTRY + (
        'url = "https://tsa.example/"\nintermediates = ["more.pem"]\npolicies = ["1.2.3"]\n'
        "not_before = 2020-01-01T00:00:00Z\nnot_after = 2030-01-01T00:00:00+02:00\n"
    )
    (entry,) = load_trust(write(tmp_path, text)).entries
    assert (entry.name, entry.operator, entry.url) == ("one", "One Ltd", "https://tsa.example/")
    assert [one.subject.rfc4514_string() for one in entry.roots] == ["CN=Root,O=polledger-test"]
    assert len(entry.intermediates) == 2
    assert entry.policies == ("1.2.3",)
    assert entry.not_before == datetime(2020, 1, 1, tzinfo=UTC)
    assert entry.not_after == datetime(2029, 12, 31, 22, tzinfo=UTC)


def test_what_is_optional_may_be_absent(tmp_path: Path) -> None:
    (entry,) = load_trust(write(tmp_path, ENTRY)).entries
    assert (entry.url, entry.intermediates, entry.policies) == ("", (), ())
    assert (entry.not_before, entry.not_after) == (None, None)


def test_several_entries_keep_their_order(tmp_path: Path) -> None:
    trust = load_trust(write(tmp_path, ENTRY + ENTRY.replace('"one"', '"two"')))
    assert [entry.name for entry in trust.entries] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[\\[authority\\]\\]"),
        ("authority = 5", "no \\[\\[authority\\]\\]"),
        ("authority = [5]", "no \\[\\[authority\\]\\]"),
        ("x = [", "not valid TOML"),
        ("x = 1" + ENTRY, "unknown key 'x'"),
        (ENTRY + "root = 1", "authority 1: unknown key 'root'"),
        (ENTRY + ENTRY, "same name"),
        (ENTRY.replace('"one"', '""'), "are required"),
        (ENTRY.replace('"One Ltd"', '""'), "are required"),
        (ENTRY.replace('["root.pem"]', "[]"), "are required"),
        (ENTRY.replace('"one"', "1"), "name is not a string"),
        (ENTRY.replace('["root.pem"]', '"root.pem"'), "roots is not a list"),
        (ENTRY.replace('["root.pem"]', "[1]"), "roots is not a string"),
        (ENTRY.replace("root.pem", "gone.pem"), "gone.pem does not exist"),
        (ENTRY.replace("root.pem", "."), "is a directory"),
        (ENTRY.replace("root.pem", "trust.toml"), "no certificates"),
        (ENTRY + 'policies = ["x"]', "not an object identifier"),
        (ENTRY + 'not_before = "2020"', "not a time with zone"),
        (ENTRY + "not_before = 2020-01-01T00:00:00", "not a time with zone"),
        (ENTRY + "not_after = 2020-01-01", "not a time with zone"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_trust(write(tmp_path, text))


def test_missing_binary_and_huge_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_trust(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_trust(tmp_path / "binary.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (TRUST_BYTES + 1))
    with pytest.raises(UsageError, match="more than"):
        load_trust(tmp_path / "huge.toml")


def test_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="Not a directory"):
        load_trust(tmp_path / "file" / "trust.toml")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_certificate_that_no_chain_could_use_is_refused(tmp_path: Path) -> None:
    zero = forge.certify("Zero", forge.ec_key("zero"), None, forge.CA, serial=0)
    path = write(tmp_path, ENTRY)
    (tmp_path / "root.pem").write_bytes(zero.pem())
    with pytest.raises(UsageError, match=r"root\.pem: certificate: the serial number is not positive"):
        load_trust(path)
