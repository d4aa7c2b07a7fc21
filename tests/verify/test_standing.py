"""Step 3 when time has passed: certificates that ended, renewals in time and too late, quorums, algorithms."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from polledger.core.encoding import encode
from polledger.core.head import parse_note
from polledger.core.records import TokenRef
from polledger.core.renewal import imprint, parse_statement
from polledger.core.report import Finding
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.client import make_request
from polledger.timestamp.renewal import Renewer, survey
from polledger.timestamp.stamper import Embedded, Http, keep_token, obtain_token
from polledger.timestamp.trust import Trust
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.time import Times, step_time
from tests.timestamp import forge
from tests.timestamp.ages import YEAR, Aging, aging, renew, trust, year
from tests.timestamp.peers import http, needs_openssl, openssl
from tests.verify.build import START, Built
from tests.verify.check import check, named
from tests.verify.test_time import MINUTE, consistency, reference, with_tokens

FIRST = aging("first", year(2020), year(2028))
SECOND = aging("second", year(2024), year(2034))
THIRD = aging("third", year(2030), year(2044))
ALL = trust(FIRST, SECOND, THIRD)

LATER = year(2040)
"""When everything of the first two authorities has ended, their roots included."""


def times(run: RunDirectory, now: datetime, *, trusted: Trust = ALL, policy: Policy | None = None) -> Times:
    evidence = read_evidence(run)
    heads = match_heads(evidence, parse_records(evidence))
    return step_time(
        heads, evidence.objects, trust=trusted, policy=policy or Policy(), now=now, renewals=evidence.renewals
    )


def one(found: Times, name: str) -> Finding:
    """The only finding called ``name``."""
    findings = [finding for finding in found.findings if finding.name == name]
    assert len(findings) == 1, findings
    return findings[0]


Stamped = Callable[..., RunDirectory]


@pytest.fixture
def stamped(honest: Built, tmp_path: Path) -> Stamped:
    """A copy of the honest run whose seals are stamped by the given authorities, FIRST by default."""

    def make(*authorities: Aging, name: str = "run") -> RunDirectory:
        def tokens(run: RunDirectory, number: int) -> list[TokenRef]:
            return [
                reference(run, number, each.authority, START + number * MINUTE, authority=each.name)
                for each in authorities or (FIRST,)
            ]

        return with_tokens(
            honest, tmp_path / name, {number: lambda run, n=number: tokens(run, n) for number in range(3)}
        )

    return make


def test_a_token_counts_until_its_certificates_end(stamped: Stamped) -> None:
    run = stamped()
    before, after = times(run, year(2028)), times(run, year(2028) + MINUTE)
    assert before.summary.assurance == "external"
    assert before.summary.until == "2028-01-01T00:00:00Z"
    assert one(before, "time.renewed").outcome == "pass"
    assert after.summary.assurance == "self-asserted"
    finding = one(after, "time.renewed")
    assert finding.outcome == "unverifiable"
    assert "seal 0 and 2 more, token of 'first'" in finding.detail
    assert "ended 2028-01-01T00:00:00Z, and no renewal covers it" in finding.detail
    assert [item.outcome for item in consistency(after)] == ["pass"]


def test_the_policy_may_accept_tokens_past_their_certificates_and_that_is_said(stamped: Stamped) -> None:
    found = times(stamped(), LATER, policy=parse_policy("[time]\naccept_expired = true"))
    assert found.summary.assurance == "external"
    assert found.summary.last == "2026-03-01T12:02:00Z"
    finding = one(found, "time.renewed")
    assert finding.outcome == "unverifiable"
    assert "time.accept_expired" in finding.detail


def test_two_renewals_carry_tokens_past_the_end_of_their_authority_and_its_root(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renew(run, THIRD, now=year(2033))
    found = times(run, LATER)
    assert found.summary.assurance == "external"
    assert (found.summary.first, found.summary.last) == ("2026-03-01T12:00:00Z", "2026-03-01T12:02:00Z")
    assert found.summary.until == "2044-01-01T00:00:00Z"
    assert [renewal["index"] for renewal in found.summary.renewals] == [0, 1]
    assert [renewal["operators"] for renewal in found.summary.renewals] == [["Second Ltd"], ["Third Ltd"]]
    finding = one(found, "time.renewed")
    assert finding.outcome == "pass"
    assert "4 tokens past their certificates renewed in time, last by renewal 1" in finding.detail
    assert not any(item.blocks for item in found.findings)


def test_what_is_renewed_already_holds_as_long_as_the_renewal(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    found = times(run, year(2027))
    assert found.summary.until == "2034-01-01T00:00:00Z"
    assert "of no token that counts a certificate has ended" in one(found, "time.renewed").detail


def test_the_whole_run_verifies_years_later(honest: Built, stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renew(run, THIRD, now=year(2033))
    policy = parse_policy("[require]\nexternal_time = true")
    report = check(replace(honest, run=run), now=LATER, trust=ALL, policy=policy)
    assert report.verdict == "VERIFIED"
    assert report.time.last == "2026-03-01T12:02:00Z"
    assert named(report, "time.renewed")[0].outcome == "pass"
    for number in (1, 0):
        run.renewal_path(number).unlink()
        report = check(replace(honest, run=run), now=LATER, trust=ALL, policy=policy)
        assert report.verdict == "UNVERIFIABLE"


@needs_openssl
def test_tokens_of_openssl_outlive_its_certificate_and_root_by_years(honest: Built, tmp_path: Path) -> None:
    """An authority that is openssl, over HTTP, and whose certificate and root last two hours."""
    present = datetime.now(UTC).replace(microsecond=0)
    hour = timedelta(hours=1)
    short = aging("openssl", present - hour, present + hour)
    eight = aging("eight", present - hour, present + 8 * YEAR)
    twenty = aging("twenty", present + 5 * YEAR, present + 20 * YEAR)
    run = with_tokens(honest, tmp_path / "run", {})
    with http(openssl(tmp_path / "authority", short.signer)) as server:
        (tmp_path / "authority" / "chain.pem").write_bytes(short.root.pem())
        asked = Http(url=server.url, name="openssl")
        for number in run.seals():
            request = make_request(parse_note(run.read_seal(number).note).head.digest(), nonce=number + 1)
            keep_token(run, number, obtain_token(asked, request, now=present))
    renew(run, eight, now=present + hour / 2)
    trusted = trust(short, eight, twenty)
    assert times(run, present + 8 * YEAR, trusted=trusted).summary.assurance == "external"
    assert times(run, present + 9 * YEAR, trusted=trusted).summary.assurance == "self-asserted"
    renew(run, twenty, now=present + 7 * YEAR)
    found = times(run, present + 19 * YEAR, trusted=trusted)
    assert one(found, "time.renewed").outcome == "pass"
    assert found.summary.assurance == "external"
    assert abs(datetime.fromisoformat(found.summary.last or "") - present) < hour / 2


def test_without_the_newest_renewal_the_chain_ends_with_the_one_before(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    assert times(run, year(2034)).summary.last == "2026-03-01T12:02:00Z"
    found = times(run, LATER)
    assert found.summary.assurance == "self-asserted"
    details = [finding.detail for finding in found.findings if finding.name == "time.renewed"]
    assert any("renewal 0, token of 'second'" in detail for detail in details)
    assert any("token of 'first'" in detail and "too few operators" in detail for detail in details)


def test_a_renewal_after_the_end_is_a_gap_and_dates_the_run_only_itself(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2029))
    found = times(run, year(2030))
    finding = one(found, "time.renewed")
    assert finding.outcome == "unverifiable"
    assert (
        "ended 2028-01-01T00:00:00Z, and it was renewed only by 2029-01-01T00:00:01Z: a gap" in finding.detail
    )
    assert all(stamp.operator is None for stamp in found.stamps)
    assert found.summary.assurance == "external"
    assert (found.summary.first, found.summary.last) == ("2029-01-01T00:00:00Z", "2029-01-01T00:00:00Z")


def test_a_gap_between_two_renewals_is_a_gap(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renew(run, THIRD, now=year(2035))
    found = times(run, LATER)
    details = [finding.detail for finding in found.findings if finding.name == "time.renewed"]
    assert any("renewal 0, token of 'second'" in detail and "a gap" in detail for detail in details)
    assert found.summary.last == "2035-01-01T00:00:00Z"


@pytest.mark.parametrize(("late", "counts"), [(timedelta(), False), (timedelta(seconds=1), True)])
def test_the_accuracy_of_a_renewal_does_not_reach_past_the_end(
    stamped: Stamped, late: timedelta, counts: bool
) -> None:
    """The authorities here state an accuracy of one second."""
    run = stamped()
    renew(run, SECOND, now=year(2028) - late)
    found = times(run, year(2029))
    assert (found.summary.last == "2026-03-01T12:02:00Z") is counts


@pytest.mark.parametrize(("early", "counts"), [(2, True), (3, False)])
def test_clocks_may_differ_by_the_accuracy_of_both(stamped: Stamped, early: int, counts: bool) -> None:
    """The last seal's token states a second of accuracy, and so does the renewal."""
    run = stamped()
    renew(run, SECOND, now=START + 2 * MINUTE - timedelta(seconds=early))
    assert (times(run, year(2029)).stamps[2].operator is not None) is counts


def test_a_renewal_dated_before_what_it_covers_saves_nothing(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2025))
    found = times(run, year(2029))
    assert "states 2025-01-01T00:00:01Z, before it was made" in one(found, "time.renewed").detail
    assert all(stamp.operator is None for stamp in found.stamps)


def test_a_renewal_by_nobody_that_is_trusted_saves_nothing(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    found = times(run, year(2029), trusted=trust(FIRST, THIRD))
    assert found.summary.assurance == "self-asserted"
    assert "too few operators" in one(found, "time.renewed").detail


def test_the_embedded_authority_renews_nothing(stamped: Stamped) -> None:
    run = stamped()
    renew(run, replace(SECOND, policy=EMBEDDED_POLICY), now=year(2027))
    assert times(run, year(2029)).summary.assurance == "self-asserted"


def test_a_renewal_by_another_operator_dates_a_run_that_nobody_trusted_had_stamped(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    found = times(run, year(2029), trusted=trust(SECOND))
    assert found.summary.assurance == "external"
    assert found.summary.last == "2027-01-01T00:00:00Z"
    assert found.summary.operators == ("Second Ltd",)


def test_a_quorum_holds_through_renewals_made_by_a_quorum(stamped: Stamped) -> None:
    other = aging("other", year(2020), year(2028))
    trusted = trust(FIRST, other, SECOND, THIRD)
    quorum = parse_policy("[time]\nquorum = 2")
    run = stamped(FIRST, other)
    assert times(run, year(2027), trusted=trusted, policy=quorum).summary.assurance == "external"
    renew(run, SECOND, now=year(2027))
    found = times(run, year(2029), trusted=trusted, policy=quorum)
    assert found.summary.assurance == "self-asserted"
    details = [finding.detail for finding in found.findings if finding.name == "time.renewed"]
    assert all("too few operators" in detail for detail in details)
    assert len(details) == 2


def test_two_operators_that_renew_together_carry_a_quorum(stamped: Stamped) -> None:
    other, more = aging("other", year(2020), year(2028)), aging("more", year(2024), year(2036))
    trusted = trust(FIRST, other, SECOND, more)
    quorum = parse_policy("[time]\nquorum = 2")
    run = stamped(FIRST, other)
    renew(run, SECOND, more, now=year(2027))
    found = times(run, year(2029), trusted=trusted, policy=quorum)
    assert found.summary.assurance == "external"
    assert found.summary.last == "2026-03-01T12:02:00Z"
    assert found.summary.until == "2034-01-01T00:00:00Z"


def test_entries_of_one_operator_are_one_voice_in_a_renewal(stamped: Stamped) -> None:
    other, more = aging("other", year(2020), year(2028)), aging("more", year(2024), year(2036))
    entries = (FIRST.entry(), other.entry(), SECOND.entry("Same Ltd"), more.entry("same  LTD"))
    run = stamped(FIRST, other)
    renew(run, SECOND, more, now=year(2027))
    found = times(run, year(2029), trusted=Trust(entries=entries), policy=parse_policy("[time]\nquorum = 2"))
    assert found.summary.assurance == "self-asserted"


def test_a_late_token_of_a_renewal_saves_nothing_that_had_fallen_before_it(stamped: Stamped) -> None:
    """Two authorities stamped one renewal six years apart: what fell between them rests on the first alone."""
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renewer = Renewer(run, parse_statement(run.read_renewal(0).statement))
    assert renewer.ask(Embedded(authority=THIRD.authority, name="third"), now=year(2033)).token
    found = times(run, year(2033) + YEAR / 2)
    assert found.summary.last == "2026-03-01T12:02:00Z"
    assert found.summary.until == "2034-01-01T00:00:00Z"
    found = times(run, LATER)
    assert found.summary.last == "2033-01-01T00:00:00Z"
    assert any("a gap" in item.detail for item in found.findings if item.name == "time.renewed")


def test_the_policy_accepts_expired_renewals_with_what_they_saved(stamped: Stamped) -> None:
    """What a policy takes on trust for tokens it takes on trust for renewals, and for no compromised key."""
    run = stamped()
    renew(run, SECOND, now=year(2027))
    policy = parse_policy('[time]\naccept_expired = true\n[time.sunset]\np256 = "2029-01-01"')
    assert times(run, LATER, policy=policy).summary.assurance == "self-asserted"
    found = times(run, LATER, policy=parse_policy("[time]\naccept_expired = true"))
    assert found.summary.last == "2026-03-01T12:02:00Z"
    assert found.summary.until is None
    lasting = stamped(FIRST, SECOND, name="lasting")
    accepted = times(lasting, year(2030), policy=parse_policy("[time]\naccept_expired = true"))
    assert accepted.summary.until is None
    assert times(lasting, year(2030)).summary.until == "2034-01-01T00:00:00Z"


def test_a_signer_under_two_roots_lasts_as_long_as_the_longer_one(honest: Built, tmp_path: Path) -> None:
    """Rollover: the new root's key is certified by the old root too, and the token carries that certificate."""
    key = forge.ec_key("new root")
    dates = {"not_before": year(2020), "not_after": year(2044)}
    old = forge.certify("Old root", forge.ec_key("old root"), None, forge.CA, not_after=year(2030))
    new = forge.certify("New root", key, None, forge.CA, **dates)
    cross = forge.certify("New root", key, old, forge.CA, serial=77, **dates)
    signer = forge.certify("TSA under both", forge.ec_key("both"), new, forge.TSA, **dates)
    both = Aging(name="both", root=old, signer=signer)

    def token(run: RunDirectory) -> list[TokenRef]:
        ref = reference(run, 2, both.authority, START, authority="both")
        return [
            msgspec.structs.replace(ref, chain=[run.objects.put(one.certificate) for one in (signer, cross)])
        ]

    run = with_tokens(honest, tmp_path / "run", {2: token})
    roots = {
        name: x509.load_der_x509_certificate(one.certificate) for name, one in (("old", old), ("new", new))
    }

    def assurance(*names: str, now: datetime) -> str:
        entry = both.entry(roots=tuple(roots[name] for name in names))
        return times(run, now, trusted=Trust(entries=(entry,))).summary.assurance

    assert assurance("old", now=year(2029)) == "external"
    assert assurance("old", now=LATER) == "self-asserted"
    assert assurance("new", now=LATER) == "external"
    assert assurance("old", "new", now=LATER) == "external"
    assert assurance("new", "old", now=LATER) == "external"


def test_a_root_that_ended_gives_way_to_a_longer_chain(honest: Built, tmp_path: Path) -> None:
    """The trust file has the signer's own root, which ended, and the one that certified it again."""
    key = forge.ec_key("short root")
    dates = {"not_before": year(2020), "not_after": year(2044)}
    short = forge.certify("Short root", key, None, forge.CA, not_after=year(2030))
    long = forge.certify("Long root", forge.ec_key("long root"), None, forge.CA, **dates)
    cross = forge.certify("Short root", key, long, forge.CA, serial=78, **dates)
    signer = forge.certify("TSA under a short root", forge.ec_key("short"), short, forge.TSA, **dates)
    both = Aging(name="both", root=short, signer=signer)

    def token(run: RunDirectory) -> list[TokenRef]:
        ref = reference(run, 2, both.authority, START, authority="both")
        return [msgspec.structs.replace(ref, chain=[run.objects.put(cross.certificate)])]

    run = with_tokens(honest, tmp_path / "run", {2: token})
    roots = [x509.load_der_x509_certificate(one.certificate) for one in (short, long)]
    for given in (roots, roots[::-1]):
        found = times(run, LATER, trusted=Trust(entries=(both.entry(roots=tuple(given)),)))
        assert found.summary.assurance == "external"
    assert times(run, LATER, trusted=trust(both)).summary.assurance == "self-asserted"


def test_two_renewals_never_share_a_list(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    first = run.read_renewal(0)
    statement = msgspec.structs.replace(
        parse_statement(first.statement), index=1, previous=imprint(first.statement)
    )
    answer = Renewer(run, statement, []).ask(Embedded(authority=SECOND.authority, name="x"), now=year(2028))
    assert answer.token is not None
    inconsistent(times(run, year(2029)), "its list is that of another renewal")


def test_a_token_that_came_after_the_renewal_is_not_covered(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    seal = run.read_seal(2)
    late = reference(run, 2, FIRST.authority, START + 9 * MINUTE, authority="first", nonce=5)
    run.write_seal(msgspec.structs.replace(seal, tokens=[*seal.tokens, late]))
    finding = one(times(run, year(2029)), "time.renewed")
    assert finding.outcome == "unverifiable"
    assert "seal 2, token of 'first'" in finding.detail
    assert "no renewal covers it" in finding.detail
    assert times(run, year(2029)).summary.last == "2026-03-01T12:02:00Z"


def test_a_renewal_that_omits_a_token_does_not_save_it(stamped: Stamped) -> None:
    run = stamped()
    tokens = {number: run.read_seal(number).tokens for number in (1, 2)}
    for number in tokens:
        run.seal_path(number).write_bytes(encode(msgspec.structs.replace(run.read_seal(number), tokens=[])))
    renew(run, SECOND, now=year(2027))
    for number, kept in tokens.items():
        run.write_seal(msgspec.structs.replace(run.read_seal(number), tokens=kept))
    found = times(run, year(2029))
    assert "seal 1 and 1 more, token of 'first'" in one(found, "time.renewed").detail
    assert [stamp.operator for stamp in found.stamps] == ["First Ltd", None, None]
    # The head itself was covered: the renewal is a token over it.
    assert found.summary.last == "2027-01-01T00:00:00Z"


def rewritten(run: RunDirectory, number: int, changes: dict[str, object]) -> None:
    """Renewal ``number`` with another statement under the same tokens."""
    renewal = run.read_renewal(number)
    statement = msgspec.structs.replace(parse_statement(renewal.statement), **changes)
    changed = msgspec.structs.replace(renewal, statement=encode(statement))
    run.renewal_path(number).write_bytes(encode(changed))


def inconsistent(found: Times, part: str) -> None:
    findings = consistency(found)
    assert findings
    assert all(finding.outcome == "unverifiable" for finding in findings)
    assert any(part in finding.detail for finding in findings), findings


def test_a_renewal_of_another_run_is_said_and_covers_nothing(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    rewritten(run, 0, {"run": bytes(16)})
    found = times(run, year(2029))
    inconsistent(found, "renewal 0 (renewals/000000.msgpack): it renews another run")
    assert found.summary.assurance == "self-asserted"


def test_a_renewal_borrowed_from_another_run_covers_nothing(stamped: Stamped, honest: Built) -> None:
    """Moved over whole, with list and tokens: it names its run."""
    run, other = stamped(), stamped(name="other")
    renew(run, SECOND, now=year(2027))
    made = survey(other).statement([])[0]
    alien = encode(msgspec.structs.replace(made, run=b"\x01" * 16))
    renewal = run.read_renewal(0)
    run.renewal_path(0).write_bytes(encode(msgspec.structs.replace(renewal, statement=alien)))
    inconsistent(times(run, year(2029)), "another run")


def test_a_tampered_statement_is_not_what_was_stamped(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    name = run.objects.put(b"more")
    rewritten(run, 0, {"revocation": [name]})
    found = times(run, year(2029))
    inconsistent(found, "something else")
    assert found.summary.assurance == "self-asserted"


def test_a_tampered_list_covers_nothing(stamped: Stamped) -> None:
    """Whoever adds the entry of a new token to the list changes the root that was stamped."""
    run = stamped()
    renew(run, SECOND, now=year(2027))
    path = run.objects.path(parse_statement(run.read_renewal(0).statement).root)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    found = times(run, year(2029))
    inconsistent(found, "not the one whose root was stamped")
    assert found.summary.assurance == "self-asserted"
    path.write_bytes(bytes(data) + bytes(32))
    inconsistent(times(run, year(2029)), "at most 192 are expected")
    path.write_bytes(bytes(data)[:-32])
    inconsistent(times(run, year(2029)), "not 6 entries")


@pytest.mark.parametrize("part", ["list", "request", "response", "chain", "revocation"])
def test_a_missing_object_of_a_renewal_is_named(stamped: Stamped, part: str) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027), revocation=[b"some list"])
    renewal = run.read_renewal(0)
    statement, token = parse_statement(renewal.statement), renewal.tokens[0]
    assert isinstance(token.chain, list)
    assert isinstance(statement.revocation, list)
    name = {
        "list": statement.root,
        "request": token.request,
        "response": token.response,
        "chain": token.chain[0],
        "revocation": statement.revocation[0],
    }[part]
    run.objects.path(name).unlink()
    inconsistent(times(run, year(2027)), name.hex())


@pytest.mark.parametrize("content", [b"", b"\x80", None])
def test_a_damaged_or_missing_renewal_is_named_and_the_later_ones_count(
    stamped: Stamped, content: bytes | None
) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renew(run, THIRD, now=year(2033))
    path = run.renewal_path(0)
    path.unlink() if content is None else path.write_bytes(content)
    found = times(run, LATER)
    inconsistent(found, "renewal 0 (renewals/000000.msgpack)")
    # Without the one before, the last one came after the end of the tokens.
    assert found.summary.last == "2033-01-01T00:00:00Z"


def test_a_folder_of_renewals_that_cannot_be_listed_is_said(stamped: Stamped) -> None:
    run = stamped()
    (run.path / "renewals").write_bytes(b"")
    inconsistent(times(run, year(2027)), "renewals: Not a directory")


def test_what_is_left_of_many_renewals_counts(stamped: Stamped) -> None:
    """Seven were made in time, and all but the last are lost."""
    run = stamped()
    for month in range(7):
        renew(run, SECOND, now=year(2027) + month * YEAR / 12)
    for number in range(6):
        run.renewal_path(number).unlink()
    found = times(run, year(2029))
    inconsistent(found, "renewal 0 (renewals/000000.msgpack): it is missing")
    assert found.summary.assurance == "external"
    assert found.summary.last == "2026-03-01T12:02:00Z"


def test_a_renewal_out_of_its_chain_is_refused(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renew(run, THIRD, now=year(2033))
    rewritten(run, 1, {"previous": bytes(32)})
    inconsistent(times(run, LATER), "does not follow")
    renumbered = stamped(name="renumbered")
    renew(renumbered, SECOND, now=year(2027))
    rewritten(renumbered, 0, {"index": 1})
    inconsistent(times(renumbered, year(2027)), "does not follow")


def test_a_file_with_a_huge_number_costs_nothing(stamped: Stamped) -> None:
    run = stamped()
    renew(run, SECOND, now=year(2027))
    run.renewal_path(0).rename(run.renewal_path(900_000_000_000))
    assert len(consistency(times(run, year(2029)))) <= 3


def test_the_token_of_a_renewal_is_over_its_own_statement(stamped: Stamped) -> None:
    """A token over a head, offered as one over a renewal, is refused: the imprints are separate domains."""
    run = stamped()
    renew(run, SECOND, now=year(2027))
    renewal = run.read_renewal(0)
    head = parse_note(run.read_seal(0).note).head.digest()
    assert imprint(renewal.statement) != head
    foreign = reference(run, 0, SECOND.authority, year(2027), authority="second", digest=head)
    run.renewal_path(0).write_bytes(encode(msgspec.structs.replace(renewal, tokens=[foreign])))
    inconsistent(times(run, year(2029)), "something else")


def test_an_algorithm_past_its_day_is_an_end_like_any_other(stamped: Stamped) -> None:
    run = stamped()
    policy = parse_policy('[time.sunset]\np256 = "2027-06-01"\nrsa3072 = "2026-01-01"')
    assert times(run, year(2027), policy=policy).summary.assurance == "external"
    found = times(run, datetime.fromisoformat("2027-06-01T00:00:00Z"), policy=policy)
    assert found.summary.assurance == "self-asserted"
    assert "p256 counts no more by the policy" in one(found, "time.renewed").detail


def test_a_renewal_with_another_algorithm_outlives_the_day_of_the_first(stamped: Stamped) -> None:
    policy = parse_policy('[time.sunset]\np256 = "2027-06-01"')
    larger = aging("larger", year(2024), year(2034), ec.SECP384R1())
    trusted = trust(FIRST, SECOND, larger)
    run, other = stamped(), stamped(name="other")
    renew(run, SECOND, now=year(2027))
    renew(other, larger, now=year(2027))
    assert times(run, year(2028), trusted=trusted, policy=policy).summary.assurance == "self-asserted"
    found = times(other, year(2028), trusted=trusted, policy=policy)
    assert found.summary.last == "2026-03-01T12:02:00Z"
    everything = parse_policy('[time.sunset]\nsha256 = "2027-06-01"')
    assert times(other, year(2028), policy=everything, trusted=trusted).summary.assurance == "self-asserted"


def test_nothing_is_said_of_renewals_where_nobody_is_trusted(honest: Built) -> None:
    found = times(honest.run, LATER, trusted=Trust())
    assert not [item for item in found.findings if item.name in ("time.renewed", "time.revocation")]
    assert found.summary.until is None
