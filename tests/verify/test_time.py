"""Step 3: consistency of tokens, assurance, anchors."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from polledger.core.encoding import encode
from polledger.core.head import parse_note
from polledger.core.records import Seal, TokenRef
from polledger.core.report import Finding
from polledger.core.timesummary import Waiting
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.authority import VALID_FROM, EmbeddedAuthority, LocalAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.standalone import StandaloneAuthority
from polledger.timestamp.trust import Trust, TrustEntry
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.time import Times, anchor, step_time
from tests.timestamp import forge
from tests.verify.build import NOW, START, Built, authority, make_run, token
from tests.verify.check import copy_of

MINUTE = timedelta(minutes=1)


def times(
    run: RunDirectory,
    *,
    trust: Trust | None = None,
    policy: Policy | None = None,
    now: datetime = NOW,
    **notes: Any,
) -> Times:
    evidence = read_evidence(run)
    heads = match_heads(evidence, parse_records(evidence))
    return step_time(heads, evidence.objects, trust=trust, policy=policy or Policy(), now=now, **notes)


def consistency(found: Times) -> list[Finding]:
    return [finding for finding in found.findings if finding.name == "time.consistency"]


POLICY = "1.3.6.1.4.1.99999.1.1"


def tsa(tmp_path: Path, name: str = "tsa") -> LocalAuthority:
    """An authority of somebody else: the embedded one never counts."""
    return StandaloneAuthority.open(
        tmp_path / name, clock=lambda: VALID_FROM, policy=POLICY, default_name=name
    ).local


def reference(
    run: RunDirectory, number: int, asked: LocalAuthority, when: datetime, **changes: Any
) -> TokenRef:
    """A token of ``asked`` over the head of seal ``number``."""
    digest = changes.pop("digest", None) or parse_note(run.read_seal(number).note).head.digest()
    nonce = changes.pop("nonce", 77)
    request = make_request(digest, nonce=nonce)
    stored = make_request(changes.pop("stored", digest), nonce=changes.pop("stored_nonce", nonce))
    chain = [item.public_bytes(Encoding.DER) for item in (asked.leaf, asked.root)]
    values = {
        "authority": "https://tsa.example/",
        "request": run.objects.put(stored),
        "response": run.objects.put(asked.respond(request, now=when)),
        "chain": [run.objects.put(item) for item in chain],
    }
    return TokenRef(**{**values, **changes})


def with_tokens(honest: Built, path: Path, tokens: dict[int, Any]) -> RunDirectory:
    """A copy of the run with the tokens of some seals replaced; a callable gets the run."""
    run = copy_of(honest, path).run
    for number in run.seals():
        made = tokens.get(number, [])
        made = made(run) if callable(made) else made
        seal = msgspec.structs.replace(run.read_seal(number), tokens=made)
        run.seal_path(number).write_bytes(encode(seal))
    return run


def entry(asked: LocalAuthority, operator: str = "Example Ltd", **changes: Any) -> TrustEntry:
    values: dict[str, Any] = {
        "name": operator.lower(),
        "operator": operator,
        "url": "",
        "roots": (asked.root,),
        "intermediates": (),
        "policies": (),
        "not_before": None,
        "not_after": None,
    }
    return TrustEntry(**{**values, **changes})


def test_embedded_tokens_are_consistent_and_self_asserted(honest: Built) -> None:
    found = times(honest.run)
    assert [finding.outcome for finding in consistency(found)] == ["pass"]
    assert found.summary.assurance == "self-asserted"
    assert found.summary.first == "2026-03-01T12:00:00Z"
    assert found.summary.last == "2026-03-01T12:02:00Z"


def test_a_run_without_tokens_is_consistent_and_unverified(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", stamp=False)
    found = times(built.run)
    assert [finding.outcome for finding in consistency(found)] == ["pass"]
    assert found.summary.assurance == "unverified"
    assert not any(finding.blocks for finding in found.findings)


def test_a_trusted_authority_makes_time_external(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest,
        tmp_path / "run",
        {n: lambda run, n=n: [reference(run, n, asked, START + n * MINUTE)] for n in range(3)},
    )
    found = times(run, trust=Trust(entries=(entry(asked),)))
    assert found.summary.assurance == "external"
    assert (found.summary.first, found.summary.last) == ("2026-03-01T12:00:00Z", "2026-03-01T12:02:00Z")
    assert found.summary.operators == ("Example Ltd",)
    assert times(run).summary.assurance == "self-asserted"


def test_a_token_outside_the_trust_file_only_asserts_itself(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    found = times(run, trust=Trust(entries=(entry(tsa(tmp_path, "other")),)))
    assert found.summary.assurance == "self-asserted"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"not_before": START + MINUTE}, "its genTime lies before 2026-03-01T12:01:00Z"),
        ({"not_after": START - MINUTE}, "its genTime lies after 2026-03-01T11:59:00Z"),
        ({"policies": ("1.2.3.4",)}, "its policy is 1.3.6.1.4.1.99999.1.1"),
        ({"hashes": ("sha384", "sha512")}, "it uses sha256"),
    ],
)
def test_window_policies_and_hashes_of_a_trust_entry_count_and_are_named(
    honest: Built, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest, tmp_path / "run", {n: lambda run, n=n: [reference(run, n, asked, START)] for n in range(3)}
    )
    assert times(run, trust=Trust(entries=(entry(asked),))).summary.assurance == "external"
    found = times(run, trust=Trust(entries=(entry(asked, **changes),)))
    assert found.summary.assurance == "self-asserted"
    (said,) = [finding for finding in found.findings if finding.name == "time.tokens"]
    assert said.detail == (
        f"seal 0 and 2 more, token of 'https://tsa.example/': 'example ltd' does not vouch for it: {why}"
    )
    assert not said.blocks


@pytest.mark.parametrize(
    "changes",
    [
        {"not_before": START, "not_after": START},
        {"policies": ("1.2.3.4", "1.3.6.1.4.1.99999.1.1")},
        {"hashes": ("sha256",)},
    ],
)
def test_what_a_trust_entry_names_is_accepted(honest: Built, tmp_path: Path, changes: dict[str, Any]) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    assert times(run, trust=Trust(entries=(entry(asked, **changes),))).summary.assurance == "external"


def test_the_hash_of_the_signature_counts_as_well_as_that_of_the_imprint(
    honest: Built, tmp_path: Path
) -> None:
    """The imprint is SHA-256; this authority signs with SHA-384."""

    def forged(run: RunDirectory) -> list[TokenRef]:
        digest = parse_note(run.read_seal(2).note).head.digest()
        imprint = forge.seq(forge.algorithm(forge.SHA256), forge.octets(digest))
        made = forge.Token(
            signer=forge.tsa_rsa(),
            hash_name="sha384",
            tst_info={"imprint": imprint, "nonce": forge.integer(77), "gen_time": forge.time(START)},
            signature_algorithm=forge.algorithm(forge.SHA384_WITH_RSA),
            sign=lambda key, data: forge.sign(key, data, hashes.SHA384()),
        )
        ref = reference(run, 2, tsa(tmp_path), START)
        return [msgspec.structs.replace(ref, response=run.objects.put(made.response_bytes()))]

    run = with_tokens(honest, tmp_path / "run", {2: forged})
    root = x509.load_der_x509_certificate(forge.root().certificate)
    known = entry(tsa(tmp_path), roots=(root,))
    assert times(run, trust=Trust(entries=(known,))).summary.assurance == "external"
    only = replace(known, hashes=("sha256",))
    found = times(run, trust=Trust(entries=(only,)))
    assert found.summary.assurance != "external"
    assert any("it uses sha384" in finding.detail for finding in found.findings)


def test_a_token_that_another_entry_vouches_for_is_not_complained_about(
    honest: Built, tmp_path: Path
) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    strict = entry(asked, name="strict", policies=("1.2.3.4",))
    found = times(run, trust=Trust(entries=(strict, entry(asked))))
    assert found.summary.assurance == "external"
    assert not any("does not vouch" in finding.detail for finding in found.findings)


def test_an_entry_without_roots_vouches_for_nothing(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    found = times(run, trust=Trust(entries=(entry(asked, roots=()),)))
    assert found.summary.assurance == "self-asserted"
    (said,) = [finding for finding in found.findings if finding.name == "time.assurance"]
    assert "without one an authority vouches for nothing" in str(said.remedy)


@pytest.mark.parametrize("label", ["embedded", "https://tsa.example/"])
def test_the_embedded_authority_never_counts_as_external_whatever_a_manifest_calls_it(
    honest: Built, tmp_path: Path, label: str
) -> None:
    asked = EmbeddedAuthority.open(tmp_path / "tsa")
    run = with_tokens(
        honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START, authority=label)]}
    )
    found = times(run, trust=Trust(entries=(entry(asked),)))
    assert found.summary.assurance == "self-asserted"
    assert all(stamp.operator is None for stamp in found.stamps)
    assert any("embedded authority" in finding.detail for finding in found.findings)


@pytest.mark.parametrize(
    ("by", "policy"), [(EmbeddedAuthority.open, POLICY), (tsa, EMBEDDED_POLICY)], ids=["key", "policy"]
)
def test_the_embedded_authority_is_known_by_its_certificate_and_by_its_policy(
    honest: Built, tmp_path: Path, by: Callable[[Path], LocalAuthority], policy: str
) -> None:
    """Whoever has its key can state another policy, and whoever has another key can state its policy."""
    asked = replace(by(tmp_path / "own"), policy=policy)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    found = times(run, trust=Trust(entries=(entry(asked),)))
    assert found.summary.assurance == "self-asserted"
    assert all(stamp.operator is None for stamp in found.stamps)
    assert any("embedded authority" in finding.detail for finding in found.findings)


def test_an_embedded_authority_completes_no_quorum(honest: Built, tmp_path: Path) -> None:
    one, own = tsa(tmp_path, "one"), EmbeddedAuthority.open(tmp_path / "own")
    run = with_tokens(
        honest,
        tmp_path / "run",
        {2: lambda run: [reference(run, 2, one, START), reference(run, 2, own, START)]},
    )
    trust = Trust(entries=(entry(one), entry(own, "Other Ltd")))
    assert times(run, trust=trust, policy=parse_policy("[time]\nquorum = 1")).summary.operators == (
        "Example Ltd",
    )
    assert times(run, trust=trust, policy=parse_policy("[time]\nquorum = 2")).summary.assurance != "external"


def test_external_time_needs_the_end_of_the_run_covered(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {0: lambda run: [reference(run, 0, asked, START)]})
    assert times(run, trust=Trust(entries=(entry(asked),))).summary.assurance == "self-asserted"


def test_a_quorum_counts_distinct_operators(honest: Built, tmp_path: Path) -> None:
    one, two = tsa(tmp_path, "one"), tsa(tmp_path, "two")
    run = with_tokens(
        honest,
        tmp_path / "run",
        {2: lambda run: [reference(run, 2, one, START), reference(run, 2, two, START + 5 * MINUTE)]},
    )
    quorum = parse_policy("[time]\nquorum = 2")
    same = Trust(entries=(entry(one, name="a"), entry(two, name="b")))
    assert times(run, trust=same, policy=quorum).summary.assurance == "self-asserted"
    spelled = Trust(entries=(entry(one), entry(two, " EXAMPLE  ltd", name="b")))
    assert times(run, trust=spelled, policy=quorum).summary.assurance == "self-asserted"
    different = Trust(entries=(entry(one), entry(two, "Other Ltd")))
    found = times(run, trust=different, policy=quorum).summary
    assert found.assurance == "external"
    assert found.last == "2026-03-01T12:05:00Z"
    assert times(run, trust=different).summary.last == "2026-03-01T12:00:00Z"


def test_many_tokens_of_one_operator_are_one_voice(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest,
        tmp_path / "run",
        {
            2: lambda run: [
                reference(run, 2, asked, START + n * MINUTE, nonce=n + 1, authority=f"name {n}")
                for n in range(5)
            ]
        },
    )
    trust = Trust(entries=(entry(asked),))
    assert times(run, trust=trust).summary.assurance == "external"
    assert times(run, trust=trust, policy=parse_policy("[time]\nquorum = 2")).summary.assurance != "external"


def test_a_quorum_may_be_reached_over_different_heads(honest: Built, tmp_path: Path) -> None:
    """k of n: the third operator never answers, the second answers over a later head."""
    one, two, three = (tsa(tmp_path, name) for name in ("one", "two", "three"))
    run = with_tokens(
        honest,
        tmp_path / "run",
        {
            1: lambda run: [reference(run, 1, one, START)],
            2: lambda run: [
                reference(run, 2, one, START + MINUTE),
                reference(run, 2, two, START + 9 * MINUTE),
            ],
        },
    )
    trust = Trust(entries=(entry(one), entry(two, "Two Ltd"), entry(three, "Three Ltd")))
    found = times(run, trust=trust, policy=parse_policy("[time]\nquorum = 2")).summary
    assert (found.assurance, found.first, found.last) == (
        "external",
        "2026-03-01T12:09:00Z",
        "2026-03-01T12:09:00Z",
    )
    assert times(run, trust=trust, policy=parse_policy("[time]\nquorum = 3")).summary.assurance != "external"


def test_a_later_head_covers_the_earlier_ones(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    found = times(run, trust=Trust(entries=(entry(asked),))).summary
    assert found.first == found.last == "2026-03-01T12:00:00Z"


def test_a_late_retry_is_consistent_and_does_not_move_the_anchor(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest,
        tmp_path / "run",
        {
            0: lambda run: [reference(run, 0, asked, START + 60 * MINUTE)],
            2: lambda run: [reference(run, 2, asked, START)],
        },
    )
    found = times(run)
    assert [finding.outcome for finding in consistency(found)] == ["pass"]
    assert found.summary.first == "2026-03-01T12:00:00Z"
    assert any("asked late" in finding.detail for finding in found.findings)
    assert not any(finding.blocks for finding in found.findings)


def inconsistent(found: Times) -> str:
    findings = consistency(found)
    assert [finding.outcome for finding in findings] == ["unverifiable"], findings
    return findings[0].detail


def test_a_token_over_another_head_is_inconsistent(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    other = parse_note(honest.run.read_seal(0).note).head.digest()
    run = with_tokens(
        honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START, digest=other)]}
    )
    assert "request is about something else" in inconsistent(times(run))
    head = parse_note(honest.run.read_seal(2).note).head.digest()
    borrowed = with_tokens(
        honest,
        tmp_path / "borrowed",
        {2: lambda run: [reference(run, 2, asked, START, digest=other, stored=head)]},
    )
    assert "token is over something else" in inconsistent(times(borrowed))


def test_a_token_that_answers_another_request_is_inconsistent(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START, stored_nonce=78)]}
    )
    assert "another nonce" in inconsistent(times(run))


def test_a_token_from_the_future_is_inconsistent(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, NOW + 6 * MINUTE)]})
    found = times(run)
    assert "future" in inconsistent(found)
    (finding,) = (item for item in consistency(found) if item.outcome == "unverifiable")
    assert "this machine's clock" in (finding.remedy or "")
    near = with_tokens(
        honest, tmp_path / "near", {2: lambda run: [reference(run, 2, asked, NOW + 4 * MINUTE)]}
    )
    assert [finding.outcome for finding in consistency(times(near))] == ["pass"]


@pytest.mark.parametrize("part", ["request", "response", "chain"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_part_of_a_token_is_named(honest: Built, tmp_path: Path, part: str, damage: str) -> None:
    run = copy_of(honest, tmp_path / "run").run
    ref = run.read_seal(1).tokens[0]
    name = getattr(ref, part)
    name = name[0] if isinstance(name, list) else name
    path = run.objects.path(name)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    details = [finding.detail for finding in consistency(times(run)) if finding.outcome == "unverifiable"]
    assert details
    assert all(name.hex() in detail for detail in details)


@pytest.mark.parametrize("version", [b"\x04", b"\x7f"])
def test_a_stored_certificate_of_an_unknown_version_is_no_crash(
    honest: Built, tmp_path: Path, version: bytes
) -> None:
    def unreadable(run: RunDirectory) -> list[TokenRef]:
        ref = reference(run, 2, tsa(tmp_path), START)
        assert ref.chain
        raw = run.objects.get(ref.chain[0], limit=1 << 16)
        odd = raw.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + version, 1)
        return [msgspec.structs.replace(ref, chain=[run.objects.put(odd)])]

    found = times(with_tokens(honest, tmp_path / "run", {2: unreadable}))
    assert "a stored certificate cannot be read" in inconsistent(found)


def test_revocation_data_are_read_too(honest: Built, tmp_path: Path) -> None:
    run = with_tokens(
        honest,
        tmp_path / "run",
        {2: lambda run: [reference(run, 2, tsa(tmp_path), START, revocation=[b"\x31" * 32])]},
    )
    assert (b"\x31" * 32).hex() in inconsistent(times(run))


def test_a_forged_token_counts_for_nothing_and_is_said(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)

    def forged(run: RunDirectory) -> list[TokenRef]:
        ref = reference(run, 2, asked, START)
        data = bytearray(run.objects.get(ref.response, limit=1 << 16))
        # The last byte belongs to the signature.
        data[-1] ^= 1
        return [msgspec.structs.replace(ref, response=run.objects.put(bytes(data)))]

    found = times(with_tokens(honest, tmp_path / "run", {2: forged}))
    assert found.summary.assurance == "unverified"
    assert found.stamps == ()
    assert [finding.outcome for finding in found.findings if finding.name == "time.tokens"] == [
        "unverifiable"
    ]


def test_a_token_without_certificates_needs_the_trust_file(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START, chain=msgspec.UNSET)]}
    )
    assert times(run).summary.assurance == "unverified"
    assert times(run, trust=Trust(entries=(entry(asked),))).summary.assurance == "external"


def test_one_authority_under_names_one_character_apart_is_damage(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    seal = run.read_seal(1)
    label = msgspec.structs.replace(seal.tokens[0], authority="embeddeb")
    run.seal_path(1).write_bytes(encode(msgspec.structs.replace(seal, tokens=[label])))
    details = [finding.detail for finding in consistency(times(run))]
    assert len(details) >= 1
    assert all("damaged" in detail for detail in details)


def test_one_authority_may_have_two_names(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    seal = run.read_seal(1)
    label = msgspec.structs.replace(seal.tokens[0], authority="https://tsa.example/")
    run.seal_path(1).write_bytes(encode(msgspec.structs.replace(seal, tokens=[label])))
    assert [finding.outcome for finding in consistency(times(run))] == ["pass"]


def test_external_time_can_be_required(honest: Built) -> None:
    found = times(honest.run, policy=parse_policy("[require]\nexternal_time = true"))
    assert [finding.name for finding in found.findings if finding.blocks] == ["time.required"]


def test_seals_that_do_not_match_carry_no_time(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    data = bytearray(run.ledger_path.read_bytes())
    data[len(data) // 2] ^= 1
    run.ledger_path.write_bytes(bytes(data))
    assert {stamp.seal for stamp in times(run).stamps} <= {0, 1}


def test_anchor_is_the_time_when_the_quorum_was_reached(honest: Built) -> None:
    stamps = times(honest.run).stamps
    assert anchor(stamps, 0, quorum=1) == START
    assert anchor(stamps, 2, quorum=1) == START + 2 * MINUTE
    assert anchor(stamps, 3, quorum=1) is None
    assert anchor(stamps, 0, quorum=2) is None


def test_the_fixture_asks_one_authority(honest: Built) -> None:
    assert authority(honest.run.path.parent / "tsa").root is not None
    assert isinstance(honest.run.read_seal(0), Seal)
    assert token is not None


def test_lag_lies_between_a_seal_and_its_token(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(
        honest,
        tmp_path / "run",
        {n: lambda run, n=n: [reference(run, n, asked, START + n * n * MINUTE)] for n in range(3)},
    )
    made = {0: START - timedelta(seconds=2), 1: START, 2: START}
    lag = times(run, made=made).summary.lag
    assert lag is not None
    assert lag.to_json() == {"tokens": 3, "median": 60.0, "longest": 240.0, "seal": 2}
    assert times(run).summary.lag is None
    assert times(run, made={9: START}).summary.lag is None


def test_tokens_of_the_machine_itself_have_no_lag(honest: Built) -> None:
    assert times(honest.run, made=dict.fromkeys(range(3), START)).summary.lag is None


def test_seals_with_and_without_tokens_and_what_waits_are_counted(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    run = with_tokens(honest, tmp_path / "run", {2: lambda run: [reference(run, 2, asked, START)]})
    waits = Waiting(seal=1, authority="tsa", since="2026-03-01T12:00:00Z", attempts=2, reason="down")
    summary = times(run, waiting=[waits]).summary
    assert (summary.seals, summary.stamped, summary.pending) == (3, 1, 1)
    assert summary.to_json()["waiting"] == [waits.to_json()]


def test_notes_of_the_prover_decide_nothing(honest: Built) -> None:
    waits = Waiting(seal=99, authority="x", since=None, attempts=0, reason="")
    plain, noted = (
        times(honest.run),
        times(honest.run, waiting=[waits] * 50, made={0: NOW, 1: START - 9999 * MINUTE}),
    )
    assert [(one.name, one.outcome) for one in plain.findings] == [
        (one.name, one.outcome) for one in noted.findings
    ]
    assert plain.summary.assurance == noted.summary.assurance


def test_many_tokens_out_of_order_are_one_finding(honest: Built, tmp_path: Path) -> None:
    """A queue is drained newest first."""
    asked = tsa(tmp_path)
    run = with_tokens(
        honest,
        tmp_path / "run",
        {n: lambda run, n=n: [reference(run, n, asked, START - 10 * n * MINUTE)] for n in range(3)},
    )
    (said,) = [finding for finding in times(run).findings if "asked late" in finding.detail]
    assert "the same for 1 more" in said.detail
