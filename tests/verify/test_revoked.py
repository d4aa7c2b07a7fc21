"""Step 3 with revocation data at hand: what was checked, what was not, and what a revocation does to the time."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from polledger.errors import UsageError
from polledger.store.run import RunDirectory
from polledger.timestamp.trust import RevocationFile, Trust
from polledger.verify import tokens
from polledger.verify.policy import parse_policy
from tests.timestamp.ages import aging, renew, trust, year
from tests.timestamp.lists import DAY, Entry, crl, response
from tests.verify.build import START, Built
from tests.verify.test_scan import noted_reads
from tests.verify.test_standing import one, times
from tests.verify.test_time import MINUTE, consistency, reference, with_tokens

FIRST = aging("first", year(2020), year(2038))
SECOND = aging("second", year(2024), year(2044))
ALL = trust(FIRST, SECOND)
NOW = year(2030)

GOOD = crl(FIRST.root, this=START - DAY, following=START + DAY)
COMPROMISED = crl(
    FIRST.root,
    Entry(party=FIRST.signer, at=year(2028), reason=x509.ReasonFlags.key_compromise),
    this=year(2029),
)
"""Said three years after the tokens: the key has been another's since 2028."""

Stamped = Callable[..., RunDirectory]


@pytest.fixture
def stamped(honest: Built, tmp_path: Path) -> Stamped:
    """A copy of the run whose three seals are stamped by FIRST, each token with the given revocation data."""

    def make(*data: bytes, name: str = "run") -> RunDirectory:
        def token(run: RunDirectory, number: int) -> object:
            kept = [run.objects.put(piece) for piece in data]
            when = START + number * MINUTE
            ref = reference(run, number, FIRST.authority, when, authority="first")
            return msgspec.structs.replace(ref, revocation=kept or msgspec.UNSET)

        return with_tokens(
            honest, tmp_path / name, {number: lambda run, n=number: [token(run, n)] for number in range(3)}
        )

    return make


def held(*data: bytes) -> Trust:
    """A trust file that has both authorities and ``data`` for the first."""
    files = tuple(
        RevocationFile(path=Path(f"held{number}.crl"), data=piece) for number, piece in enumerate(data)
    )
    return Trust(entries=(FIRST.entry(revocation=files), SECOND.entry()))


def test_absence_is_reported_and_blocks_nothing(stamped: Stamped) -> None:
    found = times(stamped(), NOW, trusted=ALL)
    finding = one(found, "time.revocation")
    assert finding.outcome == "unverifiable"
    assert finding.detail.startswith("revocation was not checked for 3 of 3 tokens")
    assert "'CN=TSA first,O=polledger-test'" in finding.detail
    assert not finding.blocks
    assert found.summary.assurance == "external"


@pytest.mark.parametrize("place", ["token", "renewal", "trust file"])
def test_data_are_used_wherever_they_lie(stamped: Stamped, place: str) -> None:
    run = stamped(*([GOOD] if place == "token" else []))
    if place == "renewal":
        second = crl(SECOND.root, this=year(2027))
        renew(run, SECOND, now=year(2027), revocation=[GOOD])
        renew(run, SECOND, now=year(2027), revocation=[second])
        found = times(run, NOW, trusted=ALL)
        assert "checked for 5 tokens" in one(found, "time.revocation").detail
    else:
        found = times(run, NOW, trusted=held(GOOD) if place == "trust file" else ALL)
        assert "checked for 3 tokens" in one(found, "time.revocation").detail
    assert one(found, "time.revocation").outcome == "pass"


def test_one_piece_checks_the_tokens_it_speaks_for(stamped: Stamped) -> None:
    early = crl(FIRST.root, this=START - DAY, following=START + MINUTE)
    finding = one(times(stamped(early), NOW, trusted=ALL), "time.revocation")
    assert finding.outcome == "unverifiable"
    assert "not checked for 1 of 3 tokens" in finding.detail


@pytest.mark.parametrize("place", ["token", "trust file"])
def test_a_token_made_after_the_revocation_counts_for_nothing(stamped: Stamped, place: str) -> None:
    revoked = crl(FIRST.root, Entry(party=FIRST.signer, at=START + MINUTE), this=START + DAY)
    run = stamped(*([revoked] if place == "token" else []))
    found = times(run, NOW, trusted=held(revoked) if place == "trust file" else ALL)
    details = [item.detail for item in found.findings if item.name == "time.revocation"]
    assert any("seal 1 and 1 more, token of 'first': it counts for nothing" in detail for detail in details)
    # Nothing says that the first one existed before, either.
    assert found.summary.assurance != "external"


def test_a_token_before_a_harmless_revocation_counts(stamped: Stamped) -> None:
    superseded = Entry(party=FIRST.signer, at=START + 2 * DAY, reason=x509.ReasonFlags.superseded)
    found = times(stamped(crl(FIRST.root, superseded, this=START + 3 * DAY)), NOW, trusted=ALL)
    assert found.summary.assurance == "external"
    assert one(found, "time.revocation").outcome == "pass"


def test_a_compromised_key_takes_its_earlier_tokens_with_it(stamped: Stamped) -> None:
    found = times(stamped(), NOW, trusted=held(COMPROMISED))
    assert found.summary.assurance == "self-asserted"
    finding = one(found, "time.renewed")
    assert "was revoked (keyCompromise, 2028-01-01T00:00:00Z), and no renewal covers it" in finding.detail


def test_the_policy_cannot_accept_a_compromised_key_as_an_expired_one(stamped: Stamped) -> None:
    policy = parse_policy("[time]\naccept_expired = true")
    found = times(stamped(), year(2040), trusted=held(COMPROMISED), policy=policy)
    assert found.summary.assurance == "self-asserted"


def test_a_renewal_before_the_compromise_saves_them(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    found = times(run, NOW, trusted=held(COMPROMISED))
    assert found.summary.last == "2026-03-01T12:02:00Z"
    assert one(found, "time.renewed").outcome == "pass"


def test_a_renewal_after_the_compromise_does_not(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2028) + DAY)
    found = times(run, NOW, trusted=held(COMPROMISED))
    assert found.summary.last == "2028-01-02T00:00:00Z"
    assert "a gap" in one(found, "time.renewed").detail


def test_data_of_a_clock_that_is_a_little_ahead_count(stamped: Stamped) -> None:
    fresh = crl(FIRST.root, this=NOW + MINUTE)
    assert one(times(stamped(), NOW, trusted=held(fresh)), "time.revocation").outcome == "pass"
    later = crl(FIRST.root, this=NOW + 6 * MINUTE)
    assert one(times(stamped(name="later"), NOW, trusted=held(later)), "time.revocation").outcome != "pass"


def test_malformed_data_in_the_run_are_said(stamped: Stamped) -> None:
    found = times(stamped(b"junk"), NOW, trusted=ALL)
    details = [item.detail for item in found.findings if item.name == "time.revocation"]
    assert any(detail.startswith("revocation data ") and "neither a CRL" in detail for detail in details)
    assert any("not checked for 3 of 3" in detail for detail in details)
    assert found.summary.assurance == "external"


def test_data_that_are_not_their_issuers_are_said(stamped: Stamped) -> None:
    forged = crl(FIRST.root, Entry(party=FIRST.signer, at=START - DAY), this=START, key=SECOND.root.key)
    found = times(stamped(forged), NOW, trusted=ALL)
    details = [item.detail for item in found.findings if item.name == "time.revocation"]
    assert any("not its issuer's" in detail for detail in details)
    assert found.summary.assurance == "external"


def test_foreign_data_in_the_run_are_said_and_the_verifiers_own_are_not(stamped: Stamped) -> None:
    foreign = response(SECOND.signer, SECOND.root, this=START)
    found = times(stamped(foreign), NOW, trusted=ALL)
    details = [item.detail for item in found.findings if item.name == "time.revocation"]
    assert any("speaks of no certificate of these tokens" in detail for detail in details)
    own = times(stamped(name="own"), NOW, trusted=held(foreign, GOOD))
    assert one(own, "time.revocation").outcome == "pass"


def test_missing_data_are_damage(stamped: Stamped) -> None:
    run = stamped(GOOD)
    name = run.read_seal(0).tokens[0].revocation[0]  # type: ignore[index]
    run.objects.path(name).unlink()
    found = times(run, NOW, trusted=ALL)
    assert [item.outcome for item in consistency(found)] == ["unverifiable"] * 3
    assert all(name.hex() in item.detail for item in consistency(found))


def test_a_malformed_file_of_the_verifier_is_a_usage_error(stamped: Stamped) -> None:
    with pytest.raises(UsageError, match=r"held0\.crl: neither a CRL"):
        times(stamped(), NOW, trusted=held(b"junk"))


def test_a_flood_of_data_is_left_unread_and_that_is_said(
    stamped: Stamped, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = crl(SECOND.root, this=START)
    monkeypatch.setattr(tokens, "STORED_REVOCATION_BYTES", len(GOOD))
    found = times(stamped(GOOD, more), NOW, trusted=ALL)
    details = [item.detail for item in found.findings if item.name == "time.revocation"]
    assert any("not read: the run holds more than" in detail for detail in details)


def test_data_beyond_the_limit_are_looked_at_once_for_all_tokens(
    stamped: Stamped, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stamped(GOOD)
    (name,) = run.read_seal(0).tokens[0].revocation or []
    monkeypatch.setattr(tokens, "STORED_REVOCATION_BYTES", 0)
    read = noted_reads(monkeypatch, "read")
    times(run, NOW, trusted=ALL)
    assert read.count(name) == 1


def test_revocation_data_are_named_once_for_all_tokens(stamped: Stamped) -> None:
    found = times(stamped(b"junk"), NOW, trusted=ALL)
    assert len([item for item in found.findings if "neither a CRL" in item.detail]) == 1
