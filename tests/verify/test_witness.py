"""Step 3, witnesses: which cosignatures count, what is only reported, and that nothing of it refutes."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.cosignature import parse_witness_key
from polledger.core.encoding import encode
from polledger.core.head import parse_note, sign_head
from polledger.core.records import parse_seal
from polledger.core.report import Finding
from polledger.errors import MalformedError
from polledger.store.run import RunDirectory
from polledger.timestamp.trust import Trust, WitnessEntry
from polledger.verify.evidence import SealFile, read_evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.witness import Witnessed, step_witnesses
from tests.timestamp.witness import cosign, vkey
from tests.verify.build import KEY, NOW, START, Built
from tests.verify.check import check, copy_of, named

MINUTE = timedelta(minutes=1)


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def entry(name: str, operator: str = "") -> WitnessEntry:
    return WitnessEntry(
        name=name, operator=operator or f"{name} Ltd", key=parse_witness_key(vkey(name, key(name))), url=""
    )


TRUST = Trust(witnesses=(entry("w1"), entry("w2"), entry("w3")))


def line(run: RunDirectory, seal: int, name: str, when: datetime = START) -> bytes:
    text = parse_note(run.read_seal(seal).note).text
    return cosign(name, key(name), text, int(when.timestamp())).encode()


def store(run: RunDirectory, seal: int, *lines: bytes) -> None:
    found = run.read_seal(seal)
    run.seal_path(seal).write_bytes(encode(msgspec.structs.replace(found, cosignatures=list(lines))))


@pytest.fixture
def run(honest: Built, tmp_path: Path) -> RunDirectory:
    """A copy of a run with seals 0, 1 and 2."""
    return copy_of(honest, tmp_path / "run").run


def look(
    run: RunDirectory, *, trust: Trust | None = TRUST, policy: Policy | None = None, now: datetime = NOW
) -> Witnessed:
    evidence = read_evidence(run)
    heads = match_heads(evidence, parse_records(evidence))
    return step_witnesses(heads, trust=trust, policy=policy or Policy(), now=now)


def verdict(found: Witnessed) -> Finding:
    (last,) = [finding for finding in found.findings if finding.name.startswith("time.witnesses")]
    return last


def doubts(found: Witnessed) -> list[str]:
    wrong = [finding for finding in found.findings if finding.name == "time.cosignatures"]
    assert all((finding.outcome, finding.blocks) == ("unverifiable", True) for finding in wrong)
    return [finding.detail for finding in wrong]


def test_witnesses_of_the_last_head_are_named_with_their_times(run: RunDirectory) -> None:
    store(run, 0, line(run, 0, "w3", START))
    store(run, 2, line(run, 2, "w1", START + 3 * MINUTE), line(run, 2, "w2", START + 5 * MINUTE))
    found = look(run)
    size = parse_note(run.read_seal(2).note).head.size
    assert verdict(found).outcome == "pass"
    assert verdict(found).detail == (
        f"2 of 3 witnesses of the trust file cosigned the last head; over {size} records: w1, w2, from "
        "2026-03-01T12:03:00Z to 2026-03-01T12:05:00Z by their clocks"
    )
    assert [summary.to_json() for summary in found.summaries] == [
        {
            "name": "w1", "operator": "w1 Ltd", "heads": 1, "size": size, "final": True,
            "first": "2026-03-01T12:03:00Z", "last": "2026-03-01T12:03:00Z",
        },
        {
            "name": "w2", "operator": "w2 Ltd", "heads": 1, "size": size, "final": True,
            "first": "2026-03-01T12:05:00Z", "last": "2026-03-01T12:05:00Z",
        },
        {
            "name": "w3", "operator": "w3 Ltd", "heads": 1, "size": 2, "final": False,
            "first": "2026-03-01T12:00:00Z", "last": "2026-03-01T12:00:00Z",
        },
    ]  # fmt: skip


def test_one_witness_over_several_heads_is_summed_up(run: RunDirectory) -> None:
    for seal in range(3):
        store(run, seal, line(run, seal, "w1", START + seal * MINUTE))
    (summary, *_) = look(run).summaries
    assert (summary.heads, summary.first, summary.last) == (3, "2026-03-01T12:00:00Z", "2026-03-01T12:02:00Z")
    assert "w1, at 2026-03-01T12:02:00Z by its clock" in verdict(look(run)).detail


def test_an_earlier_head_alone_is_not_the_last_one(run: RunDirectory) -> None:
    store(run, 1, line(run, 1, "w1"))
    found = verdict(look(run))
    assert (found.outcome, found.blocks) == ("unverifiable", False)
    assert found.detail == "0 of 3 witnesses of the trust file cosigned the last head"
    assert found.remedy == "have the prover ask them with timestamp retry"


def test_nothing_is_said_where_nobody_asked(run: RunDirectory) -> None:
    assert look(run, trust=None).findings == ()
    assert look(run, trust=Trust()).findings == ()


def test_a_witness_that_the_trust_file_does_not_name_is_reported_and_ignored(run: RunDirectory) -> None:
    store(run, 2, line(run, 2, "stranger"), line(run, 2, "w1"))
    found = look(run)
    assert verdict(found).outcome == "pass"
    assert verdict(found).detail.endswith("cosignatures of 'stranger', unknown here, are ignored")
    assert doubts(found) == []
    without = verdict(look(run, trust=None))
    assert (without.outcome, without.blocks) == ("unverifiable", False)
    assert without.detail == (
        "no witness is named in a trust file; cosignatures of 'stranger', 'w1', unknown here, are ignored"
    )
    assert "[[witness]]" in str(without.remedy)


def test_a_flood_of_strangers_is_listed_in_short(run: RunDirectory) -> None:
    store(run, 2, *(line(run, 2, f"s{number:02}") for number in range(64)))
    assert "'s00', 's01', 's02', 's03', 's04' and 59 more" in verdict(look(run)).detail


def test_one_witness_twice_counts_once(run: RunDirectory) -> None:
    one = line(run, 2, "w1")
    store(run, 2, one, one, line(run, 2, "w1", START + MINUTE))
    found = look(run, policy=parse_policy("[time]\nwitnesses = 2"))
    assert verdict(found).outcome == "unverifiable"
    assert verdict(found).detail.startswith("1 of 3 witnesses")
    assert found.summaries[0].heads == 1


@pytest.mark.parametrize(
    ("operators", "wanted", "enough"),
    [(("A", "B"), 2, True), (("A", "a "), 2, False), (("A", "B"), 3, False), (("A", "A"), 1, True)],
)
def test_a_policy_counts_operators(
    run: RunDirectory, operators: tuple[str, str], wanted: int, enough: bool
) -> None:
    store(run, 2, line(run, 2, "w1"), line(run, 2, "w2"))
    trust = Trust(witnesses=(entry("w1", operators[0]), entry("w2", operators[1])))
    found = verdict(look(run, trust=trust, policy=parse_policy(f"[time]\nwitnesses = {wanted}")))
    assert (found.outcome == "pass", found.blocks) == (enough, not enough)
    assert found.name == ("time.witnesses" if enough else "time.witnesses.required")


def test_a_policy_that_wants_witnesses_is_not_met_by_silence(run: RunDirectory) -> None:
    found = verdict(look(run, trust=None, policy=parse_policy("[time]\nwitnesses = 1")))
    assert (found.name, found.blocks) == ("time.witnesses.required", True)


def test_a_cosignature_of_another_head_is_unverifiable(run: RunDirectory) -> None:
    store(run, 2, line(run, 1, "w1"))
    found = look(run)
    assert doubts(found) == [
        "seal 2 (seals/000002.msgpack): the cosignature of w1 does not hold for this head"
    ]
    assert verdict(found).outcome == "unverifiable"
    assert not any(summary.final for summary in found.summaries)


def test_a_line_that_only_names_a_witness_is_unverifiable(run: RunDirectory) -> None:
    text = parse_note(run.read_seal(2).note).text
    claim = key("w1").public_key().public_bytes_raw()
    store(run, 2, cosign("w1", key("w2"), text, 1_790_000_000, claim=claim).encode())
    assert len(doubts(look(run))) == 1


def test_a_malformed_line_is_unverifiable_and_hides_no_other(run: RunDirectory) -> None:
    store(run, 2, b"nonsense\n", line(run, 2, "w1"))
    found = look(run)
    assert len(doubts(found)) == 1
    assert verdict(found).outcome == "pass"


def test_a_flood_of_bad_lines_is_counted_in_short(run: RunDirectory) -> None:
    store(run, 2, *[line(run, 1, "w1")] * 30)
    found = doubts(look(run))
    assert len(found) == 21
    assert found[-1] == "10 more cosignatures do not hold or cannot be read"


def test_a_time_beyond_the_skew_is_the_future(run: RunDirectory) -> None:
    store(run, 2, line(run, 2, "w1", NOW + timedelta(seconds=300)))
    assert (doubts(look(run)), verdict(look(run)).outcome) == ([], "pass")
    store(run, 2, line(run, 2, "w1", NOW + timedelta(seconds=301)))
    (detail,) = doubts(look(run))
    assert detail.endswith("the cosignature of w1 is from 2026-03-02T12:05:01Z, the future")
    assert verdict(look(run)).outcome == "unverifiable"


def test_a_head_that_the_records_do_not_match_has_no_witness(run: RunDirectory) -> None:
    head = parse_note(run.read_seal(2).note).head
    other = msgspec.structs.replace(run.read_seal(2), note=sign_head(replace(head, root=bytes(32)), KEY))
    run.seal_path(2).write_bytes(encode(other))
    store(run, 2, line(run, 2, "w1"))
    found = look(run)
    assert verdict(found).outcome == "unverifiable"
    assert found.summaries[0].heads == 0


def test_no_bit_of_a_cosigned_seal_can_be_changed(run: RunDirectory) -> None:
    """No single-bit mutant of note or cosignature leaves a cosignature that counts, and none refutes the run."""
    store(run, 2, line(run, 2, "w1"))
    evidence, data = read_evidence(run), run.seal_path(2).read_bytes()
    parsed, original = parse_records(evidence), parse_seal(data)
    tried = 0
    for bit in range(8 * len(data)):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << bit % 8
        try:
            seal = parse_seal(bytes(mutant))
        except MalformedError:
            continue
        if (seal.note, seal.cosignatures) == (original.note, original.cosignatures):
            continue
        seals = (*evidence.seals[:2], SealFile(number=2, seal=seal))
        heads = match_heads(replace(evidence, seals=seals), parsed)
        found = step_witnesses(heads, trust=TRUST, policy=Policy(), now=NOW)
        assert [summary.heads for summary in found.summaries] == [0, 0, 0]
        assert verdict(found).outcome == "unverifiable"
        tried += 1
    assert tried > 8 * (len(original.note) + len(line(run, 2, "w1"))) * 0.9


def test_a_whole_verification_tells_of_witnesses_and_never_refutes_for_them(
    honest: Built, tmp_path: Path
) -> None:
    built = copy_of(honest, tmp_path / "run")
    store(built.run, 2, line(built.run, 2, "w1"))
    good = check(built, trust=TRUST)
    assert good.verdict == "VERIFIED"
    assert [finding.outcome for finding in named(good, "time.witnesses")] == ["pass"]
    assert good.time.assurance == "self-asserted"
    witnesses = good.to_json()["time"]["witnesses"]
    assert [(item["name"], item["final"]) for item in witnesses] == [
        ("w1", True),
        ("w2", False),
        ("w3", False),
    ]
    store(built.run, 2, line(built.run, 1, "w1"))
    bad = check(built, trust=TRUST)
    assert bad.verdict == "UNVERIFIABLE"
    assert bad.first_bad is not None
    assert (bad.first_bad.step, bad.first_bad.name) == (3, "time.cosignatures")
