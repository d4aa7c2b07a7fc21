"""A claim against the run and its public proof: every field, every signature, and who may be accused of what."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.digest import ZERO
from polledger.core.dsse import Envelope, encode_envelope, parse_envelope
from polledger.core.encoding import encode
from polledger.core.head import Head, parse_note, sign_head
from polledger.core.publicproof import ProvenRecord, PublicProof, parse_public_proof
from polledger.core.records import Final, Genesis, parse_record
from polledger.core.report import Finding, Report
from polledger.errors import MalformedError, UsageError
from polledger.keys import signer_of
from polledger.publish.claim import finished_run
from polledger.store.claimfiles import ClaimFiles
from polledger.verify.claim import read_claim, step_files
from polledger.verify.claimalone import NOT_SHOWN, read_claim_files
from polledger.verify.claimfields import KnownRun, compare_fields
from polledger.verify.evidence import read_evidence
from polledger.verify.publicproof import check_public_proof
from tests.verify import test_witness as witnessing
from tests.verify.build import KEY, Built
from tests.verify.check import check, copy_of, named, validate
from tests.verify.claiming import alone, change_proof, write_claim
from tests.verify.presenting import challenge_of, check_proof, prove
from tests.verify.test_binding import safetensors, tensors
from tests.verify.test_heads import sealed_with

OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
ZEROS = "0" * 64


@pytest.fixture(scope="module")
def claimed(honest: Built, tmp_path_factory: pytest.TempPathFactory) -> ClaimFiles:
    """An honest claim, stamped. Not to be changed."""
    directory = tmp_path_factory.mktemp("claim")
    return write_claim(honest, directory / "claim", tsa=directory / "tsa")


def copied(files: ClaimFiles, path: Path) -> ClaimFiles:
    shutil.copytree(files.path.parent, path)
    return ClaimFiles(path=path / files.path.name)


def claim_findings(report: Report) -> list[Finding]:
    return named(report, "claim")


def against_run(built: Built, files: ClaimFiles, **values: Any) -> Report:
    return check(built, claim=read_claim_files(files), **values)


def test_an_honest_claim_beside_its_run_is_verified(honest: Built, claimed: ClaimFiles) -> None:
    report = against_run(honest, claimed)
    assert report.verdict == "VERIFIED"
    assert [finding.outcome for finding in claim_findings(report)] == ["pass"]
    assert "each compared with the state that the run ends in" in claim_findings(report)[0].detail
    validate(report.to_json())


def test_a_claim_and_its_proof_alone_agree_and_are_never_verified(claimed: ClaimFiles) -> None:
    report = alone(claimed)
    assert report.verdict == "UNVERIFIABLE"
    passed = {finding.name for finding in report.findings if finding.outcome == "pass"}
    assert passed >= {"parse", "heads", "time.consistency", "claim"}
    assert all(finding.detail == NOT_SHOWN for finding in report.findings if finding.blocks)
    assert report.time.first is not None
    validate(report.to_json())


def test_a_claim_alone_says_what_was_not_checked(claimed: ClaimFiles, tmp_path: Path) -> None:
    lonely = ClaimFiles(path=tmp_path / "claim.dsse.json")
    lonely.path.write_bytes(claimed.path.read_bytes())
    report = alone(lonely)
    assert report.verdict == "UNVERIFIABLE"
    assert "there is no proof.msgpack beside the claim" in claim_findings(report)[0].detail
    assert not [finding for finding in report.findings if finding.outcome == "pass"]


def edit(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        place: Any = plain["predicate"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def rename_model_root(plain: dict[str, Any]) -> None:
    plain["predicate"]["model"]["root"] = ZEROS
    plain["subject"][0]["digest"] = {"polledgerModelRoot1": ZEROS}


LIES = {
    "training.genesis": edit("training", "genesis", value=ZEROS),
    "training.kind": edit("training", "kind", value="custom"),
    "training.steps": edit("training", "steps", value=600),
    "training.intervals": edit("training", "intervals", value=600),
    "training.every": edit("training", "every", value=9),
    "training.warm": edit("training", "warm", value=9),
    "training.seed": edit("training", "seed", value=9),
    "training.bound": edit("training", "bound", value=False),
    "training.head.root": edit("training", "head", "root", value=ZEROS),
    "training.anchors[0].time": edit("training", "anchors", 0, "time", value="2020-01-01T00:00:00Z"),
    "model.root": rename_model_root,
    "model.object": edit("model", "object", value="ema"),
    "data.root": edit("data", "root", value=ZEROS),
    "data.size": edit("data", "size", value=10**6),
    "data.disclosure": lambda plain: plain["predicate"].update(data={"disclosure": "batches"}),
    "task": edit("task", value=ZEROS),
    "environment.cpu": edit("environment", "cpu", value="another"),
    "environment.flags.deterministic": edit("environment", "flags", value={"deterministic": False}),
    "training.origin": lambda plain: plain["predicate"]["training"].update(origin="external", external=ZEROS),
    "parents": lambda plain: (
        plain["predicate"].update(parents=[{"head": ZEROS, "mode": "model"}])
        or plain["predicate"]["training"].update(origin="parent")
    ),
}


@pytest.mark.parametrize("field", LIES)
def test_a_lie_that_the_genesis_key_signed_is_refuted_and_named(
    honest: Built, tmp_path: Path, field: str
) -> None:
    files = write_claim(honest, tmp_path / "claim", change=LIES[field])
    for report in (alone(files), against_run(honest, files)):
        assert report.verdict == "REFUTED"
        wrong = [finding for finding in claim_findings(report) if finding.outcome == "fail"]
        assert any(f"({field}" in finding.detail for finding in wrong)
        assert all(finding.expected != finding.found for finding in wrong)
        assert "the claim is wrong about" in report.to_json()["sentence"]


def test_resumes_beyond_those_shown_are_refuted_only_by_the_whole_run(honest: Built, tmp_path: Path) -> None:
    files = write_claim(honest, tmp_path / "claim", change=edit("training", "resumes", value=3))
    assert alone(files).verdict == "UNVERIFIABLE"
    assert [one.outcome for one in claim_findings(alone(files))] == ["unverifiable"]
    assert against_run(honest, files).verdict == "REFUTED"


@pytest.mark.parametrize("what", ["root", "missing", "dtype", "extra"])
def test_the_listed_tensors_are_those_of_the_model(honest: Built, tmp_path: Path, what: str) -> None:
    def change(plain: dict[str, Any]) -> None:
        tensors = plain["predicate"]["model"]["tensors"]
        if what == "root":
            tensors[0]["root"] = ZEROS
        elif what == "missing":
            del tensors[0]
        elif what == "dtype":
            tensors[0]["dtype"] = "int32"
        else:
            tensors.append({**tensors[0], "name": "more"})

    files = write_claim(honest, tmp_path / "claim", change=change)
    # Without the state the list can only be held against the root: that names no tensor and accuses nobody.
    [finding] = claim_findings(alone(files))
    assert (finding.outcome, "model.tensors" in finding.detail) == ("unverifiable", True)
    assert against_run(honest, files).verdict == "REFUTED"


def test_a_tensor_that_is_listed_twice_is_refuted_by_the_run(honest: Built, tmp_path: Path) -> None:
    def twice(statement: dict[str, Any]) -> None:
        tensors = statement["predicate"]["model"]["tensors"]
        tensors.append(tensors[0])

    report = against_run(honest, write_claim(honest, tmp_path, change=twice))
    assert report.verdict == "REFUTED"
    assert any("lists a tensor twice" in finding.detail for finding in claim_findings(report))


def test_a_time_stamp_over_another_number_of_records_is_not_at_hand(
    honest: Built, claimed: ClaimFiles, tmp_path: Path
) -> None:
    facts = check_public_proof(parse_public_proof(claimed.proof_path.read_bytes()))
    claim = read_claim(claimed.path.read_bytes()).claim
    assert facts.facts is not None
    known = KnownRun(facts=facts.facts, heads=facts.heads.heads, objects=claimed.tokens, entries=None)
    assert list(compare_fields(claim, known, "fail")) == []
    anchor, *others = claim.training.anchors
    moved = msgspec.structs.replace(anchor, size=anchor.size + 1)
    training = msgspec.structs.replace(claim.training, anchors=[moved, *others])
    (finding,) = compare_fields(msgspec.structs.replace(claim, training=training), known, "fail")
    assert finding.outcome == "unverifiable"
    assert "is not at hand" in finding.detail


def test_fewer_resumes_than_are_shown_are_refuted_by_any_proof(claimed: ClaimFiles) -> None:
    facts = check_public_proof(parse_public_proof(claimed.proof_path.read_bytes()))
    assert facts.facts is not None
    claim = read_claim(claimed.path.read_bytes()).claim
    shown = replace(facts.facts, resumes=claim.training.resumes + 1, whole=False)
    known = KnownRun(facts=shown, heads=facts.heads.heads, objects=claimed.tokens, entries=None)
    (finding,) = compare_fields(claim, known, "fail")
    assert finding.outcome == "fail"
    assert "training.resumes" in finding.detail


def test_the_wrong_time_stamps_are_not_taken(honest: Built, claimed: ClaimFiles, tmp_path: Path) -> None:
    unknown = write_claim(
        honest, tmp_path / "token", change=edit("training", "anchors", 0, "token", value=ZEROS)
    )
    label = write_claim(
        honest, tmp_path / "label", change=edit("training", "anchors", 0, "authority", value="DigiCert")
    )
    seal = write_claim(honest, tmp_path / "seal", change=edit("training", "anchors", 0, "seal", value=7))
    for files in (unknown, label, seal):
        report = alone(files)
        assert report.verdict == "UNVERIFIABLE"
        assert [finding.outcome for finding in claim_findings(report)] == ["unverifiable"]
    gone = copied(claimed, tmp_path / "gone")
    shutil.rmtree(gone.tokens.directory)
    assert "could not be checked" in claim_findings(alone(gone))[0].detail


def test_a_claim_that_another_key_signed_is_nobodys(honest: Built, tmp_path: Path) -> None:
    forged = write_claim(honest, tmp_path / "forged", key=OTHER)
    theirs = OTHER.public_key().public_bytes_raw().hex()
    stolen = write_claim(honest, tmp_path / "stolen", key=OTHER, change=edit("claimant", "key", value=theirs))
    for files, words in ((forged, "changed after it was signed"), (stolen, "somebody else claims this run")):
        for report in (alone(files), against_run(honest, files)):
            assert report.verdict == "UNVERIFIABLE"
            assert words in claim_findings(report)[0].detail
            assert not [finding for finding in report.findings if finding.outcome == "fail"]


def test_a_claim_changed_after_it_was_signed_accuses_nobody(
    honest: Built, claimed: ClaimFiles, tmp_path: Path
) -> None:
    files = copied(claimed, tmp_path / "claim")
    envelope = parse_envelope(files.path.read_bytes())
    payload = envelope.payload.replace(b'"steps":12', b'"steps":99')
    assert payload != envelope.payload
    changed = Envelope(payload_type=envelope.payload_type, payload=payload, signatures=envelope.signatures)
    files.path.write_bytes(encode_envelope(changed))
    for report in (alone(files), against_run(honest, files)):
        assert report.verdict == "UNVERIFIABLE"
        details = [finding.detail for finding in claim_findings(report)]
        assert any("does not carry a valid signature" in detail for detail in details)
        assert any("(training.steps)" in detail for detail in details)


def test_a_claim_beside_another_run_accuses_nobody(honest: Built, tmp_path: Path) -> None:
    files = write_claim(honest, tmp_path / "claim", change=edit("training", "run", value="f" * 32))
    for report in (alone(files), against_run(honest, files)):
        assert report.verdict == "UNVERIFIABLE"
        [finding] = claim_findings(report)
        assert "about another run" in finding.detail


def test_a_contradictory_run_of_somebody_else_refutes_no_claim(honest: Built, tmp_path: Path) -> None:
    late = sealed_with(honest, tmp_path / "run", lambda n, head: head, sizes=(5, len(honest.records)))
    run = replace(honest, run=late)
    assert check(run).verdict == "REFUTED"
    other_key = edit("claimant", "key", value=OTHER.public_key().public_bytes_raw().hex())
    for change, key in ((edit("training", "run", value="f" * 32), KEY), (other_key, OTHER)):
        files = write_claim(
            honest, tmp_path / key.public_key().public_bytes_raw().hex(), change=change, key=key
        )
        report = against_run(run, files)
        assert report.verdict == "UNVERIFIABLE"
        assert any("not that of the claim, and it is contradictory" in one.detail for one in report.findings)
    assert against_run(run, write_claim(honest, tmp_path / "own")).verdict == "REFUTED"


def test_a_run_that_lost_its_end_accuses_nobody(honest: Built, claimed: ClaimFiles, tmp_path: Path) -> None:
    lost = copy_of(honest, tmp_path / "run")
    last = lost.run.seals()[-1]
    lost.run.seal_path(last).unlink()
    report = against_run(lost, claimed)
    assert report.verdict == "UNVERIFIABLE"
    assert any("damaged or not finished" in finding.detail for finding in claim_findings(report))


def test_a_claim_about_another_length_of_the_run_accuses_nobody(honest: Built, tmp_path: Path) -> None:
    files = write_claim(honest, tmp_path / "claim", change=edit("training", "head", "size", value=10_000))
    report = alone(files)
    assert report.verdict == "UNVERIFIABLE"
    assert "after 10000 records" in claim_findings(report)[0].detail


def test_a_second_signature_that_is_named_has_to_hold(honest: Built, tmp_path: Path) -> None:
    both = write_claim(honest, tmp_path / "both", further=(signer_of(OTHER),))
    assert claim_findings(alone(both))[0].outcome == "pass"
    envelope = parse_envelope(both.path.read_bytes())
    one = Envelope(
        payload_type=envelope.payload_type, payload=envelope.payload, signatures=envelope.signatures[:1]
    )
    both.path.write_bytes(encode_envelope(one))
    [finding] = claim_findings(alone(both))
    assert (finding.outcome, "signs it as well" in finding.detail) == ("unverifiable", True)


def test_signatures_of_unknown_keys_are_counted_and_not_believed(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    envelope = parse_envelope(files.path.read_bytes())
    more = (
        *envelope.signatures,
        envelope.signatures[0],
    )
    files.path.write_bytes(
        encode_envelope(
            Envelope(payload_type=envelope.payload_type, payload=envelope.payload, signatures=more)
        )
    )
    [finding] = claim_findings(alone(files))
    assert finding.outcome == "pass"
    assert "1 signature of keys that it does not name" in finding.detail


def test_a_further_key_of_the_wrong_length_is_no_crash(honest: Built, tmp_path: Path) -> None:
    key = {"algorithm": "ml-dsa-44", "key": "ab" * 32}
    files = write_claim(honest, tmp_path / "claim", change=edit("claimant", "further", value=[key]))
    assert alone(files).verdict == "UNVERIFIABLE"


def test_a_named_file_is_known_by_its_digest_and_its_size(honest: Built, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(safetensors(tensors(honest)))
    other = tmp_path / "other.safetensors"
    other.write_bytes(safetensors(tensors(honest), format="pt"))
    size = model.stat().st_size

    def findings(claim: str, model: Path, said: int) -> list[Finding]:
        def change(statement: dict[str, Any]) -> None:
            statement["predicate"]["model"]["files"][0]["size"] = said

        files = write_claim(honest, tmp_path / claim, files=[model], change=change)
        return step_files(read_claim(files.path.read_bytes()), tmp_path / "model.safetensors")

    (same,) = findings("same", model, size)
    assert (same.name, same.outcome) == ("claim.files", "pass")
    (lie,) = findings("lie", model, size + 1)
    assert (lie.outcome, lie.blocks) == ("unverifiable", True)
    assert f"it says {size + 1} bytes, the file has {size}" in lie.detail
    (none,) = findings("none", other, other.stat().st_size)
    assert (none.outcome, none.blocks) == ("unverifiable", False)


def test_the_claims_own_time_is_told_and_never_required(
    claimed: ClaimFiles, honest: Built, tmp_path: Path
) -> None:
    [told] = named(alone(claimed), "time.claim")
    assert "the claim was signed by 2026-03-02T12:00:00Z, as its own tokens say" in told.detail
    bare = write_claim(honest, tmp_path / "bare")
    [none] = named(alone(bare), "time.claim")
    assert "no time stamp over the claim itself" in none.detail
    assert against_run(honest, bare).verdict == "VERIFIED"


def test_a_token_over_something_else_dates_no_claim(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    change_proof(files, lambda proof: msgspec.structs.replace(proof, claim=[proof.seals[0].tokens[0]]))
    [told] = named(alone(files), "time.claim")
    assert (told.outcome, "can be used" in told.detail) == ("unverifiable", True)


def test_a_payload_of_another_type_is_no_claim(claimed: ClaimFiles) -> None:
    envelope = replace(parse_envelope(claimed.path.read_bytes()), payload_type="application/json")
    with pytest.raises(MalformedError, match="not an in-toto statement"):
        read_claim(encode_envelope(envelope))


def test_another_field_in_the_statement_is_refused(honest: Built, tmp_path: Path) -> None:
    files = write_claim(honest, tmp_path / "claim", change=edit("more", value=1))
    with pytest.raises(MalformedError, match="unknown field `more`"):
        read_claim_files(files)


@pytest.mark.parametrize(
    "change",
    [
        edit("v", value=2),
        edit("claimant", "name", value="a\nb"),
        edit("claimant", "name", value="a\u202eb"),
        edit("claimant", "contact", value="a\n"),
        edit("task", value="A" * 64),
        edit("training", "run", value="0" * 31),
        edit("training", "external", value=ZEROS),
        edit("training", "anchors", 0, "time", value="yesterday"),
        edit("parents", value=[{"head": ZEROS, "mode": "model"}]),
        edit("data", "disclosure", value="batches"),
        edit("not_claimed", value=[]),
        edit("model", "name", value="another name than the subject's"),
        lambda plain: plain.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda plain: plain.update(predicateType="urn:polledger:claim:2"),
        lambda plain: plain.update(subject=[]),
        lambda plain: plain["subject"][0].update(digest={"sha256": ZEROS}),
    ],
)
def test_statements_that_break_a_bound_are_refused(
    honest: Built, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    files = write_claim(honest, tmp_path / "claim", change=change)
    with pytest.raises(MalformedError):
        read_claim_files(files)


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
def test_a_claim_beside_a_proof_on_the_verifiers_challenge(
    honest: Built, claimed: ClaimFiles, tmp_path: Path, compact: bool
) -> None:
    # Two intervals and those that always are would often be all there are, and nothing hidden.
    challenge = challenge_of(honest, count=1)
    proof = prove(honest, challenge, tmp_path / "p.polproof", compact=compact)
    report = check_proof(honest, proof, challenge, claim=read_claim_files(claimed))
    assert [finding.outcome for finding in claim_findings(report)] == ["pass"]
    lie = write_claim(honest, tmp_path / "lie", change=edit("training", "steps", value=600))
    report = check_proof(honest, proof, challenge, claim=read_claim_files(lie))
    assert report.verdict == "REFUTED"
    hidden = write_claim(honest, tmp_path / "hidden", change=edit("training", "resumes", value=3))
    report = check_proof(honest, proof, challenge, claim=read_claim_files(hidden))
    assert report.verdict == ("UNVERIFIABLE" if compact else "REFUTED")


# The public proof


def proof_findings(files: ClaimFiles, change: Callable[[PublicProof], PublicProof]) -> list[Finding]:
    change_proof(files, change)
    report = alone(files)
    assert report.verdict != "VERIFIED"
    assert claim_findings(report)[0].outcome != "pass"
    return [finding for finding in report.findings if finding.step in (1, 2) and finding.blocks]


def tampered(record: ProvenRecord) -> ProvenRecord:
    final = parse_record(record.record)
    assert isinstance(final, Final)
    from polledger.core.encoding import encode

    return ProvenRecord(record=encode(msgspec.structs.replace(final, steps=99)), path=record.path)


CHANGES: dict[str, tuple[Callable[[PublicProof], dict[str, Any]], str]] = {
    "a record changed": (
        lambda proof: {"records": [*proof.records[:-1], tampered(proof.records[-1])]},
        "is not in the sealed log",
    ),
    "a path changed": (
        lambda proof: {
            "records": [ProvenRecord(record=proof.records[0].record, path=[ZERO]), *proof.records[1:]]
        },
        "is not in the sealed log",
    ),
    "a record twice": (lambda proof: {"records": [*proof.records, proof.records[1]]}, "shown twice"),
    "no genesis": (lambda proof: {"records": proof.records[1:]}, "does not show the first record"),
    "no record": (
        lambda proof: {"records": [*proof.records, ProvenRecord(record=b"x", path=[])]},
        "is none",
    ),
    "another run": (lambda proof: {"run": b"x" * 16}, "of another run"),
    "no first head": (
        lambda proof: {"seals": proof.seals[1:], "consistency": proof.consistency[1:]},
        "does not begin with the first head",
    ),
    "the second head in the place of the first": (
        lambda proof: {
            "seals": [msgspec.structs.replace(proof.seals[1], index=0), *proof.seals[2:]],
            "consistency": proof.consistency[1:],
        },
        "does not begin with the first head",
    ),
    "a first head that is not numbered so": (
        lambda proof: {"seals": [msgspec.structs.replace(proof.seals[0], index=1), *proof.seals[1:]]},
        "does not begin with the first head",
    ),
    "a head of another run of the same key": (
        lambda proof: {"seals": resigned(proof, 1, KEY, run=b"x" * 16).seals},
        "belongs to another run",
    ),
    "a head left out": (
        lambda proof: {"seals": [proof.seals[0], proof.seals[2]], "consistency": proof.consistency[:1]},
        "the head before it is another one",
    ),
    "no consistency": (lambda proof: {"consistency": [[] for _ in proof.consistency]}, "continues the log"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_proof_shows_nothing(claimed: ClaimFiles, tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    files = copied(claimed, tmp_path / "claim")
    found = proof_findings(files, lambda proof: msgspec.structs.replace(proof, **change(proof)))
    assert any(words in finding.detail for finding in found)
    assert {finding.outcome for finding in found} == {"unverifiable"}
    held = [item.detail for item in alone(files).findings if "the proof beside the claim does" in item.detail]
    assert held == [f"the proof beside the claim does not hold: {found[0].detail}"]


def test_sizes_that_no_record_can_hold_are_no_crash(honest: Built, tmp_path: Path) -> None:
    def huge(statement: dict[str, Any]) -> None:
        statement["predicate"]["model"]["tensors"][0]["shape"] = [2**53 - 1] * 3

    report = alone(write_claim(honest, tmp_path, change=huge))
    assert report.verdict == "UNVERIFIABLE"
    assert any("do not give the fingerprint" in finding.detail for finding in report.findings)


def test_one_head_alone_shows_no_growing_log(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")

    def only_last(proof: PublicProof) -> PublicProof:
        proof = resigned(proof, len(proof.seals) - 1, KEY, previous=ZERO)
        last = msgspec.structs.replace(proof.seals[-1], index=0)
        return msgspec.structs.replace(proof, seals=[last], consistency=[])

    found = proof_findings(files, only_last)
    assert {finding.outcome for finding in found} == {"unverifiable"}
    assert any("one head alone" in finding.detail for finding in found)


def test_a_proof_without_its_end_gives_no_claim(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    assert (
        proof_findings(files, lambda proof: msgspec.structs.replace(proof, records=proof.records[:-1])) == []
    )
    assert any("does not show the last record" in item.detail for item in alone(files).findings)


def resigned(proof: PublicProof, number: int, key: Ed25519PrivateKey, **changes: Any) -> PublicProof:
    head: Head = parse_note(proof.seals[number].note).head
    note = sign_head(replace(head, **changes), key)
    seals = list(proof.seals)
    seals[number] = msgspec.structs.replace(seals[number], note=note, tokens=[])
    return msgspec.structs.replace(proof, seals=seals)


def test_a_head_that_another_key_signed_is_none(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    found = proof_findings(files, lambda proof: resigned(proof, 1, OTHER))
    assert {finding.outcome for finding in found} == {"unverifiable"}


def test_two_heads_over_as_many_records_are_refuted(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    proof = parse_public_proof(files.proof_path.read_bytes())
    before = parse_note(proof.seals[0].note).head
    found = proof_findings(files, lambda proof: resigned(proof, 1, KEY, size=before.size))
    assert any("equivocation" in finding.detail and finding.outcome == "fail" for finding in found)
    shrunk = copied(claimed, tmp_path / "shrunk")
    found = proof_findings(shrunk, lambda proof: resigned(proof, 1, KEY, size=before.size - 1))
    assert any("does not grow" in finding.detail and finding.outcome == "fail" for finding in found)


def under(proof: PublicProof, key: Ed25519PrivateKey) -> PublicProof:
    """The proof with ``key`` in its first record and two contradictory heads under it."""
    first = parse_record(proof.records[0].record)
    assert isinstance(first, Genesis)
    genesis = encode(msgspec.structs.replace(first, key=key.public_key().public_bytes_raw()))
    records = [ProvenRecord(record=genesis, path=[]), *proof.records[1:]]
    before = parse_note(proof.seals[0].note).head
    for number in range(len(proof.seals)):
        proof = resigned(proof, number, key)
    proof = resigned(proof, 1, key, size=before.size)
    return msgspec.structs.replace(proof, records=records)


def test_a_contradictory_proof_of_somebody_else_refutes_no_claim(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    change_proof(files, lambda proof: under(proof, OTHER))
    report = alone(files)
    assert report.verdict == "UNVERIFIABLE"
    assert any(
        "is not that of the claim" in one.detail and "equivocation" in one.detail for one in report.findings
    )
    change_proof(files, lambda proof: under(proof, KEY))
    assert alone(files).verdict == "REFUTED"


def test_a_contradictory_proof_refutes_no_claim_that_was_changed(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    change_proof(files, lambda proof: under(proof, KEY))
    envelope = parse_envelope(files.path.read_bytes())
    text = envelope.payload.replace(b"A. Example", b"B. Example")
    files.path.write_bytes(encode_envelope(replace(envelope, payload=text)))
    assert alone(files).verdict == "UNVERIFIABLE"


def test_every_flipped_byte_of_the_proof_is_noticed(claimed: ClaimFiles, tmp_path: Path) -> None:
    files = copied(claimed, tmp_path / "claim")
    data = files.proof_path.read_bytes()
    # What a token's authority is called is a label that nothing signs.
    labels = {at + n for at in _occurrences(data, b"embedded") for n in range(8)}
    honest = alone(claimed).findings
    for position in sorted(set(range(0, len(data), 37)) - labels):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        files.proof_path.write_bytes(bytes(damaged))
        assert alone(files).findings != honest, position


def _occurrences(data: bytes, text: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(text, at)]


def test_the_witnesses_of_the_heads_are_heard(honest: Built, tmp_path: Path) -> None:
    built = copy_of(honest, tmp_path / "run")
    last = built.run.seals()[-1]
    witnessing.store(built.run, last, witnessing.line(built.run, last, "w1"))
    report = alone(write_claim(built, tmp_path / "claim"), trust=witnessing.TRUST)
    [heard] = named(report, "time.witnesses")
    assert "1 of 3 witnesses of the trust file cosigned the last head" in heard.detail


# Who can be claimed


def test_an_unfinished_run_cannot_be_claimed(honest: Built, tmp_path: Path) -> None:
    lost = copy_of(honest, tmp_path / "run")
    lost.run.seal_path(lost.run.seals()[-1]).unlink()
    with pytest.raises(UsageError, match="not finished"):
        finished_run(read_evidence(lost.run))
    shutil.rmtree(lost.run.path / "seals")
    (lost.run.path / "seals").mkdir()
    with pytest.raises(UsageError, match="do not match"):
        finished_run(read_evidence(lost.run))
