"""The trust file."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.errors import Unavailable, UsageError
from polledger.timestamp.trust import REVOCATION_BYTES, TRUST_BYTES, RevocationFile, load_trust
from tests.timestamp import forge
from tests.timestamp.witness import vkey

ENTRY = """
[[authority]]
name = "one"
operator = "One Ltd"
roots = ["root.pem"]
"""

KEY = vkey("w.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))

WITNESS = f"""
[[witness]]
name = "w.example"
operator = "Two Ltd"
key = "{KEY}"
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
        'hashes = ["sha256", "sha512"]\ninterval = 1.5\nrevocation = ["a.crl"]\n'
    )
    (tmp_path / "a.crl").write_bytes(b"anything")
    (entry,) = load_trust(write(tmp_path, text)).entries
    assert (entry.name, entry.operator, entry.url) == ("one", "One Ltd", "https://tsa.example/")
    assert [one.subject.rfc4514_string() for one in entry.roots] == ["CN=Root,O=polledger-test"]
    assert len(entry.intermediates) == 2
    assert entry.policies == ("1.2.3",)
    assert entry.not_before == datetime(2020, 1, 1, tzinfo=UTC)
    assert entry.not_after == datetime(2029, 12, 31, 22, tzinfo=UTC)
    assert entry.hashes == ("sha256", "sha512")
    assert entry.interval == timedelta(seconds=1.5)
    assert entry.revocation == (RevocationFile(path=tmp_path / "a.crl", data=b"anything"),)


def test_what_is_optional_may_be_absent(tmp_path: Path) -> None:
    (entry,) = load_trust(write(tmp_path, ENTRY)).entries
    assert (entry.url, entry.intermediates, entry.policies) == ("", (), ())
    assert (entry.not_before, entry.not_after, entry.interval) == (None, None, None)
    assert (entry.hashes, entry.revocation) == ((), ())


def test_entry_without_roots_can_be_asked(tmp_path: Path) -> None:
    text = ENTRY.replace('roots = ["root.pem"]', 'url = "http://user:pass@tsa.example/"')
    (entry,) = load_trust(write(tmp_path, text)).entries
    assert (entry.roots, entry.url) == ((), "http://user:pass@tsa.example/")


def test_witnesses_need_no_authority(tmp_path: Path) -> None:
    trust = load_trust(write(tmp_path, WITNESS))
    assert trust.entries == ()
    (witness,) = trust.witnesses
    assert (witness.name, witness.operator, witness.url) == ("w.example", "Two Ltd", "")
    assert witness.key.vkey() == KEY


def test_authority_and_witness_may_share_a_name(tmp_path: Path) -> None:
    trust = load_trust(write(tmp_path, ENTRY + WITNESS.replace('"w.example"', '"one"')))
    assert (trust.entries[0].name, trust.witnesses[0].name) == ("one", "one")


def test_two_operators_under_one_root_need_policies_of_their_own(tmp_path: Path) -> None:
    """One signer would otherwise count as two operators."""
    other = ENTRY.replace('"one"', '"two"').replace('"One Ltd"', '"Two Ltd"')
    with pytest.raises(UsageError, match="'one' and 'two' share a root, .* but have different operators"):
        load_trust(write(tmp_path, ENTRY + other))
    with pytest.raises(UsageError, match="share a root"):
        load_trust(write(tmp_path, ENTRY + 'policies = ["1.2.3"]' + other))
    with pytest.raises(UsageError, match="share a root"):
        load_trust(write(tmp_path, ENTRY + 'policies = ["1.2.3"]' + other + 'policies = ["1.2.3", "1.2.4"]'))
    load_trust(write(tmp_path, ENTRY + 'policies = ["1.2.3"]' + other + 'policies = ["1.2.4"]'))
    same = other.replace('"Two Ltd"', '"ONE  ltd"')
    load_trust(write(tmp_path, ENTRY + same))


def test_a_root_of_an_unknown_version_is_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path, ENTRY)
    odd = forge.root().certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)
    (tmp_path / "root.pem").write_bytes(replace(forge.root(), certificate=odd).pem())
    with pytest.raises(UsageError, match="root.pem: holds no certificates"):
        load_trust(path)


def test_a_root_that_leads_to_another_operators_root_is_shared(tmp_path: Path) -> None:
    """A prover who leaves the intermediate out of one of two tokens would have two operators from one signer."""
    path = write(tmp_path, "")
    again = forge.certify("Root again", forge.ec_key("root"), None, forge.CA)
    cross = forge.certify("Root", forge.ec_key("root"), again, forge.CA)
    below = forge.certify("Below", forge.ec_key("below"), forge.intermediate(), forge.CA)
    apart = forge.certify("Apart", forge.ec_key("apart"), None, forge.CA)
    parties = {"again": again, "cross": cross, "inter": forge.intermediate(), "below": below, "apart": apart}
    for name, party in parties.items():
        (tmp_path / f"{name}.pem").write_bytes(party.pem())
    two = '[[authority]]\nname = "two"\noperator = "Two Ltd"\nroots = ["{}.pem"]\nintermediates = [{}]\n'
    for root, intermediates in (
        ("inter", ""),
        ("again", ""),
        ("below", '"inter.pem"'),
        ("apart", '"cross.pem"'),
    ):
        entry = ENTRY + ('intermediates = ["inter.pem"]\n' if root == "below" else "")
        for text in (entry + two.format(root, intermediates), two.format(root, intermediates) + entry):
            path.write_text(text)
            with pytest.raises(UsageError, match="share a root"):
                load_trust(path)
    path.write_text(ENTRY + two.format("apart", ""))
    assert len(load_trust(path).entries) == 2


def test_revocation_file_may_be_larger_than_a_certificate(tmp_path: Path) -> None:
    path = write(tmp_path, ENTRY + 'revocation = ["a.crl"]')
    (tmp_path / "a.crl").write_bytes(bytes(REVOCATION_BYTES))
    assert len(load_trust(path).entries[0].revocation[0].data) == REVOCATION_BYTES
    (tmp_path / "a.crl").write_bytes(bytes(REVOCATION_BYTES + 1))
    with pytest.raises(UsageError, match="revocation: .*more than"):
        load_trust(path)


def test_several_entries_keep_their_order(tmp_path: Path) -> None:
    trust = load_trust(write(tmp_path, ENTRY + ENTRY.replace('"one"', '"two"')))
    assert [entry.name for entry in trust.entries] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[\\[authority\\]\\] and no \\[\\[witness\\]\\]"),
        ("authority = 5", "authority is not a list of tables"),
        ("authority = [5]", "authority is not a list of tables"),
        ("witness = {}", "witness is not a list of tables"),
        ("x = [", "not valid TOML"),
        (f"x = {'[' * 100_000}", "not valid TOML"),
        (f"x = {'9' * 10_000}", "not valid TOML"),
        (ENTRY.replace("root.pem", "a\\u0000b"), "roots holds a character that cannot be printed"),
        (
            ENTRY + f'url = "http://tsa.example/{"x" * 2048}"',
            "url is not an http:// or https:// URL of at most",
        ),
        ("x = 1" + ENTRY, "unknown key 'x'"),
        ("authorities = []" + ENTRY, "unknown key 'authorities'; near: authority"),
        (ENTRY + "root = 1", "authority 1 \\('one'\\): unknown key 'root'; near: roots"),
        (ENTRY + ENTRY, "authority 2 \\('one'\\): another authority has the same name"),
        (ENTRY.replace('name = "one"', ""), "authority 1: name is required"),
        (ENTRY.replace('"one"', '""'), "authority 1: name is required"),
        (ENTRY.replace('"one"', '"embedded"'), "name is 'embedded' or a URL"),
        (ENTRY.replace('"one"', '"https://tsa.example"'), "name is 'embedded' or a URL"),
        (ENTRY.replace('"one"', f'"{"x" * 257}"'), "name has more than 256 characters"),
        (ENTRY.replace('"one"', '"a\\u001bb"'), "name holds a character that cannot be printed"),
        (ENTRY.replace('"One Ltd"', '" "'), "operator is required"),
        (ENTRY.replace('["root.pem"]', "[]"), "without roots it vouches for nothing, without url"),
        (ENTRY.replace('"one"', "1"), "name is not a string"),
        (ENTRY + "url = 5", "url is not a string"),
        (ENTRY + 'url = "ftp://tsa.example/"', "url is not an http:// or https:// URL"),
        (ENTRY.replace('["root.pem"]', '"root.pem"'), "roots is not a list"),
        (ENTRY.replace('["root.pem"]', "[1]"), "roots holds something that is not a string"),
        (ENTRY + 'hashes = ["sha1"]', "hashes: 'sha1' is not one of sha256, sha384, sha512"),
        (ENTRY + "interval = -1", "interval is not a number of seconds from 0 to 86400"),
        (ENTRY + "interval = 86401", "interval is not a number of seconds"),
        (ENTRY + "interval = nan", "interval is not a number of seconds"),
        (ENTRY + "interval = true", "interval is not a number of seconds"),
        (ENTRY + 'interval = "15"', "interval is not a number of seconds"),
        (ENTRY + 'revocation = ["gone.crl"]', "revocation: .*gone.crl does not exist"),
        (ENTRY.replace("root.pem", "gone.pem"), "authority 1 \\('one'\\): roots: .*gone.pem does not exist"),
        (ENTRY.replace("root.pem", "."), "is a directory"),
        (ENTRY.replace("root.pem", "trust.toml"), "no certificates"),
        (ENTRY + 'policies = ["x"]', "not an object identifier"),
        (ENTRY + 'not_before = "2020"', "not a time with zone"),
        (ENTRY + "not_before = 2020-01-01T00:00:00", "not a time with zone"),
        (ENTRY + "not_after = 2020-01-01", "not a time with zone"),
        (
            ENTRY + "not_before = 2020-01-02T00:00:00Z\nnot_after = 2020-01-01T00:00:00Z",
            "not_before lies after not_after",
        ),
        (
            WITNESS.replace(f'key = "{KEY}"', ""),
            "witness 1 \\('w.example'\\): key is required",
        ),
        (WITNESS.replace('"Two Ltd"', '""'), "operator is required"),
        (WITNESS + "roots = []", "unknown key 'roots'"),
        (WITNESS + 'url = "w.example"', "url is not an http:// or https:// URL"),
        (WITNESS + WITNESS, "another witness has the same name"),
        (
            WITNESS.replace(KEY, "w.example"),
            "witness 1 \\('w.example'\\): key: a witness key is written name",
        ),
        (WITNESS + WITNESS.replace('"w.example"', '"other"'), "'w.example' and 'other' have the same key"),
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
