"""CRLs and OCSP responses: whose word counts, for when, and what a revocation means for a token."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from polledger.errors import MalformedError, UsageError
from polledger.timestamp.revocation import (
    Outcome,
    RevocationPool,
    encoded,
    held_by,
    read_revocation,
    status_of,
)
from polledger.timestamp.trust import REVOCATION_BYTES, RevocationFile, Trust
from tests.timestamp import forge
from tests.timestamp.ages import SIGNS_LISTS, aging, year
from tests.timestamp.lists import DAY, Entry, crl, loaded, response

TSA = aging("one", year(2020), year(2030))
OTHER = aging("other", year(2020), year(2030))
CHAIN = (loaded(TSA.signer), loaded(TSA.root))
WHEN = year(2026)
NOW = year(2027)
REASONS = x509.ReasonFlags
COMMON_NAME = NameOID.COMMON_NAME

HARMLESS = [
    REASONS.unspecified,
    REASONS.affiliation_changed,
    REASONS.superseded,
    REASONS.cessation_of_operation,
]
GRAVE = [
    None,
    REASONS.key_compromise,
    REASONS.ca_compromise,
    REASONS.privilege_withdrawn,
    REASONS.certificate_hold,
]


def pool(*data: bytes) -> RevocationPool:
    made = RevocationPool()
    for number, piece in enumerate(data):
        made.add(f"piece {number}", piece)
    return made


def check(*data: bytes, gen_time: datetime = WHEN, now: datetime = NOW) -> Outcome:
    return pool(*data).check(CHAIN, gen_time=gen_time, now=now)


def problem(data: bytes) -> str:
    """Why ``data`` cannot be used for the token's certificates."""
    made = pool(data)
    outcome = made.check(CHAIN, gen_time=WHEN, now=NOW)
    assert outcome.unchecked
    assert not made.used
    (why,) = made.problems.values()
    return why


NAME = "CN=TSA one,O=polledger-test"


def test_nothing_at_hand_is_nothing_checked() -> None:
    assert check() == Outcome(unchecked=(NAME,))


def test_a_list_of_the_issuer_checks_a_certificate() -> None:
    assert check(crl(TSA.root, this=WHEN - DAY / 2)) == Outcome()


def test_a_response_of_the_issuer_checks_a_certificate() -> None:
    assert check(response(TSA.signer, TSA.root, this=WHEN - DAY / 2, following=WHEN + DAY)) == Outcome()
    assert check(response(TSA.signer, TSA.root, this=WHEN, about=hashes.SHA256())) == Outcome()


@pytest.mark.parametrize("pem", [False, True])
def test_lists_are_read_in_both_forms(pem: bool) -> None:
    made = crl(TSA.root, this=WHEN, pem=pem)
    assert check(made) == Outcome()
    (kept,) = encoded(made)
    assert (kept == made) is not pem
    assert check(kept) == Outcome()


def test_a_file_may_hold_several_lists() -> None:
    both = crl(TSA.root, this=WHEN, pem=True) + crl(OTHER.root, this=WHEN, pem=True)
    assert len(encoded(both)) == 2
    assert check(both) == Outcome()


@pytest.mark.parametrize(
    ("this", "following", "speaks"),
    [
        (WHEN - DAY, WHEN, True),
        (WHEN - DAY, WHEN - timedelta(seconds=1), False),
        (WHEN, WHEN + DAY, True),
        (WHEN + 300 * DAY, WHEN + 301 * DAY, True),
        (year(2027) + DAY, year(2027) + 2 * DAY, False),
    ],
    ids=["last moment", "too old", "same moment", "later", "from the future"],
)
def test_data_speak_for_a_moment_within_their_window_or_before_it(
    this: datetime, following: datetime, speaks: bool
) -> None:
    assert bool(check(crl(TSA.root, this=this, following=following)).unchecked) is not speaks
    made = response(TSA.signer, TSA.root, this=this, following=following)
    assert bool(check(made).unchecked) is not speaks


def test_a_response_without_end_speaks_for_no_later_moment() -> None:
    assert check(response(TSA.signer, TSA.root, this=WHEN - timedelta(seconds=1))).unchecked == (NAME,)


def test_data_from_after_the_end_of_a_certificate_may_have_left_it_out() -> None:
    after = year(2030) + DAY
    assert check(crl(TSA.root, this=after), now=year(2031)).unchecked == (NAME,)
    revoked = Entry(party=TSA.signer, at=WHEN - DAY)
    assert check(crl(TSA.root, revoked, this=after), now=year(2031)).rejected


@pytest.mark.parametrize("reason", [*HARMLESS, *GRAVE])
@pytest.mark.parametrize("kind", ["list", "response"])
def test_a_token_of_a_revoked_certificate_is_rejected(kind: str, reason: REASONS | None) -> None:
    entry = Entry(party=TSA.signer, at=WHEN, reason=reason)
    assert f"the certificate {NAME!r} was revoked before genTime" in check(_told(kind, entry)).rejected


def _told(kind: str, entry: Entry) -> bytes:
    if kind == "list":
        return crl(TSA.root, entry, this=WHEN + DAY)
    return response(TSA.signer, TSA.root, this=WHEN + DAY, revoked=entry)


@pytest.mark.parametrize("reason", HARMLESS)
@pytest.mark.parametrize("kind", ["list", "response"])
def test_a_later_revocation_for_a_harmless_reason_leaves_earlier_tokens(kind: str, reason: REASONS) -> None:
    entry = Entry(party=TSA.signer, at=WHEN + timedelta(seconds=1), reason=reason)
    assert check(_told(kind, entry)) == Outcome()


@pytest.mark.parametrize("reason", GRAVE)
@pytest.mark.parametrize("kind", ["list", "response"])
def test_a_later_revocation_for_any_other_reason_asks_for_proof_of_existence_before(
    kind: str, reason: REASONS | None
) -> None:
    entry = Entry(party=TSA.signer, at=WHEN + DAY, reason=reason)
    outcome = check(_told(kind, entry))
    assert not outcome.rejected
    assert outcome.before == WHEN + DAY - timedelta(microseconds=1)
    assert (reason.value if reason else "no reason stated") in outcome.why


def test_the_invalidity_date_counts_where_it_is_earlier() -> None:
    entry = Entry(party=TSA.signer, at=WHEN + DAY, reason=REASONS.key_compromise, since=WHEN - DAY)
    assert check(_told("list", entry)).rejected
    entry = Entry(party=TSA.signer, at=WHEN + DAY, reason=REASONS.key_compromise, since=WHEN + 2 * DAY)
    assert check(_told("list", entry)).before == WHEN + DAY - timedelta(microseconds=1)


def test_the_worst_that_is_said_counts() -> None:
    good = crl(TSA.root, this=WHEN)
    grave = crl(TSA.root, Entry(party=TSA.signer, at=WHEN + 9 * DAY), this=WHEN + 9 * DAY)
    graver = crl(TSA.root, Entry(party=TSA.signer, at=WHEN + 5 * DAY), this=WHEN + 5 * DAY)
    for order in ([good, grave, graver], [graver, grave, good]):
        assert check(*order).before == WHEN + 5 * DAY - timedelta(microseconds=1)


def test_every_certificate_below_the_root_is_asked_about() -> None:
    root = forge.certify("Deep", forge.ec_key("deep"), None, (forge.basic(ca=True), SIGNS_LISTS))
    inter = forge.certify("Inter deep", forge.ec_key("inter deep"), root, (forge.basic(ca=True), SIGNS_LISTS))
    signer = forge.certify("TSA deep", forge.ec_key("tsa deep"), inter, forge.TSA)
    chain = [loaded(one) for one in (signer, inter, root)]
    only = pool(crl(inter, this=WHEN)).check(chain, gen_time=WHEN, now=NOW)
    assert only.unchecked == ("CN=Inter deep,O=polledger-test",)
    both = pool(crl(inter, this=WHEN), crl(root, this=WHEN))
    assert both.check(chain, gen_time=WHEN, now=NOW) == Outcome()
    revoked = pool(crl(root, Entry(party=inter, at=WHEN - DAY), this=WHEN))
    assert "Inter deep" in revoked.check(chain, gen_time=WHEN, now=NOW).rejected


def test_a_signer_that_is_the_root_itself_has_nobody_to_speak_for_it() -> None:
    assert pool().check(CHAIN[:1], gen_time=WHEN, now=NOW).unchecked == (NAME,)


def test_data_about_others_are_foreign() -> None:
    made = pool(crl(OTHER.root, this=WHEN), response(OTHER.signer, OTHER.root, this=WHEN))
    assert made.check(CHAIN, gen_time=WHEN, now=NOW).unchecked
    assert made.unused() == ["piece 0", "piece 1"]
    assert not made.problems


def test_a_response_about_another_certificate_of_the_issuer_is_foreign() -> None:
    beside = forge.certify("TSA beside", forge.ec_key("beside"), TSA.root, forge.TSA)
    made = pool(response(beside, TSA.root, this=WHEN))
    assert made.check(CHAIN, gen_time=WHEN, now=NOW).unchecked == (NAME,)
    assert made.unused() == ["piece 0"]


def test_data_that_spoke_are_not_foreign() -> None:
    made = pool(crl(TSA.root, this=WHEN), crl(OTHER.root, this=WHEN))
    made.check(CHAIN, gen_time=WHEN, now=NOW)
    assert made.unused() == ["piece 1"]


def test_a_list_signed_by_another_key_is_refused() -> None:
    assert "not its issuer's" in problem(crl(TSA.root, this=WHEN, key=OTHER.root.key))


def test_a_list_signed_with_another_hash_is_refused() -> None:
    assert "not accepted" in problem(crl(TSA.root, this=WHEN, hash_=hashes.SHA224()))


def test_an_answer_that_is_none_says_which() -> None:
    made = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    with pytest.raises(MalformedError, match="the responder answered TRY_LATER"):
        read_revocation(made.public_bytes(Encoding.DER))


def test_a_list_of_an_issuer_that_may_sign_none_is_refused() -> None:
    root = forge.certify("Mute", forge.ec_key("mute"), None, forge.CA)
    signer = forge.certify("TSA mute", forge.ec_key("tsa mute"), root, forge.TSA)
    with pytest.raises(MalformedError, match="does not allow signing revocation lists"):
        status_of(read_revocation(crl(root, this=WHEN))[0], loaded(signer), loaded(root))


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        (x509.DeltaCRLIndicator(1), "delta"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), "critical extension"),
    ],
)
def test_lists_of_unknown_kinds_are_refused(extension: x509.ExtensionType, why: str) -> None:
    assert why in problem(crl(TSA.root, this=WHEN, extensions=[(extension, True)]))


def test_a_delta_list_that_does_not_say_so_critically_is_refused() -> None:
    assert "delta" in problem(crl(TSA.root, this=WHEN, extensions=[(x509.DeltaCRLIndicator(1), False)]))


def scope(**values: Any) -> tuple[x509.ExtensionType, bool]:
    fields: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**fields, **values}), True


@pytest.mark.parametrize(
    "values",
    [
        {"indirect_crl": True},
        {"only_some_reasons": frozenset({REASONS.key_compromise})},
        {"only_contains_attribute_certs": True},
        {"relative_name": x509.RelativeDistinguishedName([x509.NameAttribute(COMMON_NAME, "part 1")])},
    ],
)
def test_indirect_and_partial_lists_are_refused(values: dict[str, Any]) -> None:
    assert "indirect or partial" in problem(crl(TSA.root, this=WHEN, extensions=[scope(**values)]))


def test_a_list_speaks_within_its_scope_only() -> None:
    users = crl(TSA.root, this=WHEN, extensions=[scope(only_contains_user_certs=True)])
    authorities = crl(TSA.root, this=WHEN, extensions=[scope(only_contains_ca_certs=True)])
    point = crl(
        TSA.root,
        this=WHEN,
        extensions=[scope(full_name=[x509.UniformResourceIdentifier("http://example/1.crl")])],
    )
    assert check(users) == Outcome()
    assert check(authorities).unchecked
    assert check(point).unchecked


def test_a_list_of_a_distribution_point_speaks_for_certificates_that_name_it() -> None:
    url = b"http://example/1.crl"
    name = forge.tlv(0x86, url)
    points = forge.extension(
        "2.5.29.31", forge.seq(forge.seq(forge.tlv(0xA0, forge.tlv(0xA0, name)))), critical=False
    )
    signer = forge.certify("TSA pointed", forge.ec_key("pointed"), TSA.root, (*forge.TSA, points))
    made = crl(
        TSA.root,
        this=WHEN,
        extensions=[scope(full_name=[x509.UniformResourceIdentifier(url.decode())])],
    )
    assert status_of(read_revocation(made)[0], loaded(signer), CHAIN[1]) is not None


@pytest.mark.parametrize(
    "key",
    [
        dsa.generate_private_key(2048),
        ec.generate_private_key(ec.SECP521R1()),
        ed448.Ed448PrivateKey.generate(),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        x25519.X25519PrivateKey.generate(),
        x448.X448PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_no_kind_of_key_in_an_issuer_does_more_than_not_to_match(key: Any) -> None:
    issuer = (
        x509.CertificateBuilder()
        .subject_name(CHAIN[1].subject)
        .issuer_name(CHAIN[1].subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(year(2020))
        .not_valid_after(year(2030))
        .sign(OTHER.root.key, hashes.SHA256())
    )
    (parsed,) = read_revocation(crl(TSA.root, this=WHEN))
    with pytest.raises(MalformedError):
        status_of(parsed, CHAIN[0], issuer)


def responder(by: forge.Party, *extensions: bytes, **values: Any) -> forge.Party:
    return forge.certify("Responder", forge.ec_key("responder"), by, extensions, **values)


OCSP_SIGNING = forge.purpose("1.3.6.1.5.5.7.3.9", critical=False)


def test_a_responder_that_the_issuer_certified_may_speak() -> None:
    party = responder(TSA.root, OCSP_SIGNING)
    made = response(TSA.signer, TSA.root, this=WHEN, responder=party, certificates=[party])
    assert check(made) == Outcome()


@pytest.mark.parametrize(
    "party",
    [
        responder(TSA.root),
        responder(TSA.root, forge.purpose(forge.TIME_STAMPING)),
        responder(OTHER.root, OCSP_SIGNING),
        responder(TSA.root, OCSP_SIGNING, not_after=year(2026)),
        responder(TSA.root, OCSP_SIGNING, not_before=year(2040)),
    ],
    ids=["no purpose", "other purpose", "other issuer", "expired", "not yet"],
)
def test_any_other_signer_of_a_response_may_not(party: forge.Party) -> None:
    """A response states when it was produced: here now, after the beginning of 2026."""
    made = response(TSA.signer, TSA.root, this=WHEN, responder=party, certificates=[party])
    assert "neither by the issuer" in problem(made)


def sign_sha224(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return key.sign(message, padding.PKCS1v15(), hashes.SHA224())


@pytest.mark.parametrize("weak", [False, True])
def test_a_responder_certified_with_another_hash_may_not(weak: bool) -> None:
    root = forge.certify("Weak", forge.rsa_key("weak root"), None, (forge.basic(ca=True), SIGNS_LISTS))
    signer = forge.certify("TSA weak", forge.ec_key("tsa weak"), root, forge.TSA)
    sha224 = (forge.algorithm("1.2.840.113549.1.1.14"), sign_sha224) if weak else None
    party = responder(root, OCSP_SIGNING, signature=sha224)
    made = pool(response(signer, root, this=WHEN, responder=party, certificates=[party]))
    assert bool(made.check([loaded(signer), loaded(root)], gen_time=WHEN, now=NOW).unchecked) is weak
    assert bool(made.problems) is weak


def test_a_response_with_a_broken_signature_is_refused() -> None:
    made = bytearray(response(TSA.signer, TSA.root, this=WHEN))
    made[-1] ^= 1
    assert "neither by the issuer" in problem(bytes(made))


def test_a_response_that_knows_nothing_checks_nothing() -> None:
    assert check(response(TSA.signer, TSA.root, this=WHEN, unknown=True)).unchecked == (NAME,)


def test_a_response_with_an_unknown_critical_extension_is_refused() -> None:
    made = response(TSA.signer, TSA.root, this=WHEN, extensions=[(x509.OCSPNonce(b"n" * 16), True)])
    assert "critical extension" in problem(made)
    made = response(TSA.signer, TSA.root, this=WHEN, extensions=[(x509.OCSPNonce(b"n" * 16), False)])
    assert check(made) == Outcome()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"junk",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        TSA.signer.certificate,
        crl(TSA.root, this=WHEN).replace(b"\x02\x01\x01", b"\x02\x01\x03", 1),
    ],
)
def test_anything_else_is_said_to_be_neither(data: bytes) -> None:
    with pytest.raises(MalformedError, match="neither a CRL nor an OCSP response"):
        read_revocation(data)
    made = pool(data)
    assert "neither a CRL nor an OCSP response" in made.problems["piece 0"]


def test_no_more_is_read_than_the_limit() -> None:
    with pytest.raises(MalformedError, match="at most"):
        read_revocation(bytes(REVOCATION_BYTES + 1))


def test_cut_and_altered_data_never_crash() -> None:
    for made in (crl(TSA.root, this=WHEN), response(TSA.signer, TSA.root, this=WHEN)):
        for position in range(0, len(made), 3):
            for data in (
                made[:position],
                made[:position] + bytes([made[position] ^ 0x5A]) + made[position + 1 :],
            ):
                outcome = check(data)
                assert outcome.unchecked == (NAME,), position


def test_files_of_the_trust_file_are_the_verifiers_own(tmp_path: Path) -> None:
    entry = TSA.entry(revocation=(RevocationFile(path=tmp_path / "a.crl", data=crl(OTHER.root, this=WHEN)),))
    made = held_by(Trust(entries=(entry,)))
    made.check(CHAIN, gen_time=WHEN, now=NOW)
    assert made.unused() == []
    bad = TSA.entry(revocation=(RevocationFile(path=tmp_path / "b.crl", data=b"junk"),))
    with pytest.raises(UsageError, match=r"b\.crl: neither a CRL"):
        held_by(Trust(entries=(bad,)))
    assert held_by(None).data == []
