"""The page of a claim in a headless Chromium: what it says of a good claim, and of every kind of tampered one."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polledger.core.digest import sha256
from polledger.core.dsse import encode_envelope, parse_envelope
from polledger.core.encoding import encode
from polledger.core.head import Head, parse_note, sign_head
from polledger.core.published import published_entries, published_file
from polledger.core.records import Parent, Step, parse_record
from polledger.core.state import escape, state_root
from polledger.keys import model_signer
from polledger.publish.page import SCRIPTS, render_page
from polledger.publish.publishing import PAGE, gather, publish
from polledger.publish.store import Folder
from polledger.timestamp.authority import EmbeddedAuthority, LocalAuthority
from polledger.timestamp.client import make_request
from polledger.verify.claimed import tensors_of
from tests.browser import Browser, Page
from tests.publish import claims
from tests.publish.claims import (
    KEY,
    MODEL,
    OTHER_KEY,
    OTHER_RUN,
    RUN,
    START,
    STEPS,
    Maker,
    Parts,
    envelope_of,
    safetensors,
    tensor,
)
from tests.publish.reading import MODEL_FINDINGS, Reader, said
from tests.verify.build import KEY as SEALER
from tests.verify.build import make_run
from tests.verify.claiming import write_claim

PLACE = Path(__file__).resolve().parents[2] / "polledger" / "publish" / "browser"


# A good claim


def test_a_good_claim_holds(read: Reader, good: Parts) -> None:
    found = read(good)
    assert (found.verdict, found.top) == ("holds", [])
    assert {outcome for outcome, _ in found.findings} == {"holds"}
    assert len(found.findings) == 9
    assert found.problems == []


def test_a_claim_without_time_stamps_holds_and_says_so(read: Reader, authority: EmbeddedAuthority) -> None:
    found = read(Maker(authority=authority, stamp=False).make())
    assert (found.verdict, found.top) == ("holds", [])
    assert found.outcome("Time-stamps") == "unchecked"


PARENT = Parent(head=sha256(b"head"), mode="model", claim=sha256(b"claim"))


@pytest.mark.parametrize(
    "genesis",
    [
        {"dataset": msgspec.UNSET, "kind": "custom", "bound": False, "seed": 0},
        {"origin": "external", "external": sha256(b"weights")},
        {"origin": "parent", "parent": PARENT},
    ],
    ids=["custom", "external", "parent"],
)
def test_other_kinds_of_run_hold(read: Reader, authority: EmbeddedAuthority, genesis: dict[str, Any]) -> None:
    found = read(Maker(authority=authority, genesis=genesis).make())
    assert (found.verdict, found.top) == ("holds", [])


def test_the_published_page_of_a_real_run_holds(chromium: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    # As a claim that names model files is made: the key for other tools signs as well.
    files = write_claim(run, tmp_path / "claim", tsa=tmp_path / "tsa", further=(model_signer(SEALER)[0],))
    publish(gather(files), Folder(tmp_path / "site"))
    with chromium.page((tmp_path / "site" / PAGE).as_uri()) as page:
        found = said(page)
    assert (found.verdict, found.top) == ("holds", [])
    assert {outcome for outcome, _ in found.findings} == {"holds"}
    assert len(found.findings) == 9


# The claim: its signature, and each field held against a record that the same key signed


def last_bit_flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def signature(parts: Parts, change: Callable[[bytes], bytes]) -> Parts:
    """With the signature of the envelope changed."""
    envelope = parse_envelope(parts.envelope)
    signatures = tuple(replace(one, sig=change(one.sig)) for one in envelope.signatures)
    return replace(parts, envelope=encode_envelope(replace(envelope, signatures=signatures)))


UNSIGNED = "The claim does not carry a good signature of the key that it names"

SIGNATURES: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "signature": (lambda parts: signature(parts, last_bit_flipped), UNSIGNED),
    "signature-short": (lambda parts: signature(parts, lambda sig: sig[:-1]), UNSIGNED),
    "payload": (lambda parts: parts.payload('"steps":40', '"steps":41'), UNSIGNED),
    "payload-type": (
        lambda parts: replace(
            parts, envelope=parts.envelope.replace(b"vnd.in-toto+json", b"vnd.in-toto+jsom")
        ),
        "The claim cannot be read: the envelope holds something else than an in-toto statement.",
    ),
    "another-key": (
        lambda parts: replace(parts, envelope=envelope_of(parts.claim, OTHER_KEY)),
        UNSIGNED,
    ),
    "no-json": (lambda parts: replace(parts, envelope=parts.envelope[:-9]), "The claim cannot be read"),
    "unsigned-field": (
        lambda parts: replace(parts, envelope=parts.envelope.replace(b"{", b'{"note":"checked",', 1)),
        "The claim cannot be read: the file is no DSSE envelope.",
    ),
    "field-given-twice": (
        lambda parts: replace(
            parts, envelope=parts.envelope.replace(b'"payloadType"', b'"payloadType":"x","payloadType"', 1)
        ),
        "The claim cannot be read: a JSON object gives a name twice.",
    ),
    "unknown-field": (
        lambda parts: parts.payload('"predicateType"', '"more":1,"predicateType"'),
        "The claim cannot be read: the statement has other fields than this version of a claim knows.",
    ),
    "other-subject": (
        lambda parts: parts.payload('"subject":[{"digest":{', '"subject":[{"digest":{"sha512":"","'),
        "The claim cannot be read",
    ),
    "empty": (lambda parts: replace(parts, envelope=b""), "The claim cannot be read: a text is not JSON."),
    "subjects": (
        lambda parts: parts.payload('"name":"digits.safetensors"}', '"name":"other.safetensors"}'),
        "The claim cannot be read: the subjects are not the model that the claim describes.",
    ),
    "origin": (
        lambda parts: parts.payload('"origin":"scratch"', '"origin":"external"'),
        "The claim cannot be read: origin and external do not fit together.",
    ),
    "parents": (
        lambda parts: parts.payload('"origin":"scratch"', '"origin":"parent"'),
        "The claim cannot be read: origin and parents do not fit together.",
    ),
    "data": (
        lambda parts: parts.payload('"disclosure":"withheld"', '"disclosure":"batches"'),
        "The claim cannot be read: the data are described in no known way.",
    ),
    "direction-of-writing": (
        lambda parts: parts.payload('"name":"Ada Example"', '"name":"Ada‮ Example"'),
        "The claim cannot be read: the statement has other fields",
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_claim_that_was_changed_is_not_confirmed(read: Reader, good: Parts, name: str) -> None:
    change, sentence = SIGNATURES[name]
    found = read(change(good))
    assert found.verdict == "broken"
    assert found.top[0].startswith(sentence)
    assert found.title == "Not confirmed: these files do not fit together"


@pytest.mark.parametrize(("keyid", "verdict"), [("", "holds"), ("another", "broken")])
def test_a_keyid_may_be_missing_and_not_name_another_key(
    read: Reader, good: Parts, keyid: str, verdict: str
) -> None:
    envelope = parse_envelope(good.envelope)
    signatures = tuple(replace(one, keyid=keyid) for one in envelope.signatures)
    found = read(replace(good, envelope=encode_envelope(replace(envelope, signatures=signatures))))
    assert found.verdict == verdict


def test_nothing_that_rests_on_a_bad_signature_is_green(read: Reader, good: Parts) -> None:
    found = read(signature(good, last_bit_flipped))
    resting = ("Tensors", "Claim and head", "First record", "Last record", "Time-stamps")
    assert {found.outcome(name) for name in resting} == {"unchecked"}
    assert found.outcome("Tree heads") == "holds"


def test_a_contradiction_needs_a_good_signature(read: Reader, good: Parts) -> None:
    changed = good.payload('"steps":40', '"steps":41')
    found = read(changed)
    assert any("says 41; the run’s signed record says 40" in sentence for sentence in found.top)
    assert "contradicted" not in {outcome for outcome, _ in found.findings}


HEX = sha256(b"something else").hex()


def _training(**changes: Any) -> Callable[[Parts], Parts]:
    return lambda parts: parts.training(**changes)


def _head(**changes: Any) -> Callable[[Parts], Parts]:
    return lambda parts: parts.training(head=msgspec.structs.replace(parts.claim.training.head, **changes))


def _environment(**changes: Any) -> Callable[[Parts], Parts]:
    return lambda parts: parts.signed_anew(
        environment=msgspec.structs.replace(parts.claim.environment, **changes)
    )


def _data(**changes: Any) -> Callable[[Parts], Parts]:
    return lambda parts: parts.signed_anew(data=msgspec.structs.replace(parts.claim.data, **changes))


FIELDS: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "genesis": (_training(genesis=HEX), "the first record"),
    "kind": (_training(kind="custom"), "the kind of task"),
    "steps": (_training(steps=400), "the number of steps"),
    "every": (_training(every=1), "the steps between two checkpoints"),
    "warm": (_training(warm=9), "the checkpoints at the start"),
    "seed": (_training(seed=8), "the seed"),
    "bound": (_training(bound=False), "the seed’s bond to the key"),
    "origin": (_training(origin="external", external=HEX), "the origin of the first state"),
    "external": (_training(origin="external", external=HEX), "the file that training starts from"),
    "head-seal": (_head(seal=2), "the number of the newest tree head"),
    "head-size": (_head(size=32), "the number of records"),
    "head-root": (_head(root=HEX), "the root of the records"),
    "head-digest": (_head(digest=HEX), "the digest of the newest tree head"),
    "model-root": (lambda parts: parts.model(root=HEX), "the model"),
    "model-object": (lambda parts: parts.model(object="ema"), "the model’s place in the run"),
    "task": (lambda parts: parts.signed_anew(task=HEX), "the code"),
    "data-root": (_data(root=HEX), "the data"),
    "data-size": (_data(size=1), "the number of examples"),
    "environment": (_environment(threads=4), "the machine and its software"),
    "environment-flag": (_environment(flags={"deterministic": False}), "the machine and its software"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_signed_claim_that_its_records_deny_is_contradicted(read: Reader, good: Parts, name: str) -> None:
    change, words = FIELDS[name]
    found = read(change(good))
    assert found.verdict == "contradicted"
    assert [line for line in found.top if line.startswith(f"For {words} the claim says ")]
    assert found.outcome("Signature") == "holds"


def test_each_field_of_the_parent_is_compared(read: Reader, authority: EmbeddedAuthority) -> None:
    parts = Maker(authority=authority, genesis={"origin": "parent", "parent": PARENT}).make()
    (parent,) = parts.claim.parents
    for change in ({"head": HEX}, {"mode": "continue"}, {"claim": HEX}, {"claim": msgspec.UNSET}):
        changed = parts.signed_anew(parents=[msgspec.structs.replace(parent, **change)])
        assert read(changed).verdict == "contradicted"


def test_a_claim_under_another_key_than_that_of_the_run_is_not_confirmed(read: Reader, good: Parts) -> None:
    claimant = msgspec.structs.replace(
        good.claim.claimant, key=OTHER_KEY.public_key().public_bytes_raw().hex()
    )
    found = read(good.signed_anew(OTHER_KEY, claimant=claimant))
    assert found.verdict == "broken"
    assert "Tree head 0 does not carry a good signature of the key." in found.top
    assert found.outcome("Signature") == "holds"


# The proof: every record, path, head and token


def _proven(parts: Parts, index: int, **changes: Any) -> Parts:
    records = list(parts.proof.records)
    records[index] = msgspec.structs.replace(records[index], **changes)
    return parts.proven(records=records)


def _changed_record(parts: Parts, index: int) -> bytes:
    """The record with one of its fields changed, in its canonical encoding."""
    record = parse_record(parts.proof.records[index].record)
    changes = {
        "Genesis": {"seed": 1},
        "Checkpoint": {"root": HEX_BYTES},
        "Step": {"batch": HEX_BYTES},
        "Final": {"model_root": HEX_BYTES},
    }
    return encode(msgspec.structs.replace(record, **changes[type(record).__name__]))


HEX_BYTES = bytes.fromhex(HEX)


@pytest.mark.parametrize("index", range(5))
def test_a_changed_record_is_not_under_the_head(read: Reader, good: Parts, index: int) -> None:
    found = read(_proven(good, index, record=_changed_record(good, index)))
    assert found.verdict == "broken"
    number = parse_record(good.proof.records[index].record).index
    assert [line for line in found.top if line.startswith(f"Record {number} (")]
    resting = {
        outcome for outcome, line in found.findings if line.startswith(("First record", "Last record"))
    }
    assert resting <= {"unchecked", "broken"}


@pytest.mark.parametrize("index", range(5))
def test_every_hash_of_every_inclusion_path_counts(read: Reader, good: Parts, index: int) -> None:
    path = good.proof.records[index].path
    assert len(path) >= 2
    for i in range(len(path)):
        changed = [*path[:i], last_bit_flipped(path[i]), *path[i + 1 :]]
        assert read(_proven(good, index, path=changed)).verdict == "broken"
    assert read(_proven(good, index, path=path[:-1])).verdict == "broken"


@pytest.mark.parametrize("index", range(3))
def test_every_hash_of_every_consistency_proof_counts(read: Reader, good: Parts, index: int) -> None:
    paths = good.proof.consistency
    for i in range(len(paths[index])):
        changed = [*paths[index][:i], last_bit_flipped(paths[index][i]), *paths[index][i + 1 :]]
        found = read(good.proven(consistency=[*paths[:index], changed, *paths[index + 1 :]]))
        assert found.verdict == "broken"
        assert found.top == [
            f"The records under tree head {index} are not shown to be among those under tree head {index + 1}."
        ]


def test_a_record_shown_twice_is_refused(read: Reader, good: Parts) -> None:
    found = read(good.proven(records=[*good.proof.records, good.proof.records[0]]))
    assert (found.verdict, found.top) == ("broken", ["A record is shown twice."])


@pytest.mark.parametrize(
    ("place", "sentence"),
    [(0, "The proof does not show the first record"), (4, "The proof does not show the last record")],
)
def test_a_proof_without_first_or_last_record(read: Reader, good: Parts, place: int, sentence: str) -> None:
    records = [one for i, one in enumerate(good.proof.records) if i != place]
    found = read(good.proven(records=records))
    assert found.verdict == "broken"
    assert [line for line in found.top if line.startswith(sentence)]


def _note(index: int, change: Callable[[bytes], bytes]) -> Callable[[Parts], Parts]:
    return lambda parts: parts.sealed(index, note=change(parts.proof.seals[index].note))


def _resealed(index: int, key: Any = KEY, **changes: Any) -> Callable[[Parts], Parts]:
    """One head changed and signed by ``key``."""

    def change(note: bytes) -> bytes:
        return sign_head(replace(parse_note(note).head, **changes), key)

    return _note(index, change)


def _note_signature(note: bytes) -> bytes:
    head, _, line = note.rpartition(b" ")
    blob = base64.b64decode(line.strip())
    return head + b" " + base64.b64encode(last_bit_flipped(blob)) + b"\n"


NOTES: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "signature": (_note(1, _note_signature), "Tree head 1 does not carry a good signature of the key."),
    "another-key": (_resealed(1, OTHER_KEY), "Tree head 1 does not carry a good signature of the key."),
    "size": (
        _note(1, lambda note: note.replace(b"\n17\n", b"\n18\n")),
        "Tree head 1 does not carry a good signature of the key.",
    ),
    "root": (
        _note(3, lambda note: _replaced_line(note, 2, base64.b64encode(HEX_BYTES))),
        "Tree head 3 does not carry a good signature of the key.",
    ),
    "chainpoint": (
        _note(3, lambda note: _replaced_line(note, 3, b"chainpoint " + base64.b64encode(HEX_BYTES))),
        "Tree head 3 does not carry a good signature of the key.",
    ),
    "chainpoint-line-gone": (
        _note(3, lambda note: b"\n".join(note.split(b"\n")[:3] + note.split(b"\n")[4:])),
        "The proof cannot be read: a tree head is not the five lines origin, size, root, chainpoint, previous.",
    ),
    "size-with-zero": (
        _note(1, lambda note: note.replace(b"\n17\n", b"\n017\n")),
        "The proof cannot be read",
    ),
    "two-signatures": (
        lambda parts: parts.sealed(0, note=_signed_twice(parts.proof.seals[0].note)),
        "Tree head 0 does not carry a good signature of the key.",
    ),
    "line-twice": (
        _note(0, lambda note: note + note.split(b"\n\n")[1]),
        "The proof cannot be read: a note repeats a signature line.",
    ),
    "previous": (_resealed(2, previous=HEX_BYTES), "Tree head 2 does not follow the one before it."),
    "signed-root": (
        _resealed(1, root=HEX_BYTES),
        "Tree head 2 does not follow the one before it.",
    ),
    "run": (_resealed(3, run=OTHER_RUN), "Tree head 3 is that of another run."),
    "number": (lambda parts: parts.sealed(2, index=7), "Tree head 2 is out of place: it is numbered 7."),
    "dropped": (
        lambda parts: parts.proven(
            seals=parts.proof.seals[:1] + parts.proof.seals[2:], consistency=parts.proof.consistency[1:]
        ),
        "Tree head 1 is out of place: it is numbered 2.",
    ),
}


def _signed_twice(note: bytes) -> bytes:
    """A second line under the key's name and id, with another signature."""
    line = note.split(b"\n\n")[1]
    head, _, blob = line.rpartition(b" ")
    return note + head + b" " + base64.b64encode(last_bit_flipped(base64.b64decode(blob.strip()))) + b"\n"


def _replaced_line(note: bytes, number: int, line: bytes) -> bytes:
    lines = note.split(b"\n")
    lines[number] = line
    return b"\n".join(lines)


@pytest.mark.parametrize("name", NOTES)
def test_a_changed_tree_head_is_not_confirmed(read: Reader, good: Parts, name: str) -> None:
    change, sentence = NOTES[name]
    found = read(change(good))
    assert found.verdict == "broken"
    assert [line for line in found.top if line.startswith(sentence)]


def test_signatures_of_others_under_a_head_change_nothing(read: Reader, good: Parts) -> None:
    note = good.proof.seals[1].note
    other = sign_head(parse_note(note).head, OTHER_KEY).split(b"\n\n")[1]
    witness = other.replace(b"polledger/run/", b"witness/")
    found = read(good.sealed(1, note=note + other + witness))
    assert (found.verdict, found.top) == ("holds", [])


def test_nothing_that_rests_on_a_bad_head_is_green(read: Reader, good: Parts) -> None:
    found = read(_note(1, _note_signature)(good))
    resting = ("History", "Records", "Claim and head", "First record", "Last record", "Time-stamps")
    assert {found.outcome(name) for name in resting} == {"unchecked"}


def test_a_fork_signed_by_the_key_is_not_consistent(read: Reader, authority: EmbeddedAuthority) -> None:
    def forked(index: int, head: Head) -> Head:
        return replace(head, root=HEX_BYTES) if index == 1 else head

    found = read(Maker(authority=authority, change_head=forked).make())
    assert found.verdict == "broken"
    assert found.top[0].startswith("The records under tree head 0 are not shown")
    assert found.outcome("Tree heads") == "holds"


def test_one_head_alone_shows_no_history(
    read: Reader, authority: EmbeddedAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "sizes_of", lambda records: (len(records),))
    found = read(Maker(authority=authority).make())
    assert found.outcome("History") == "unchecked"
    assert found.verdict == "unchecked"


def test_two_signed_histories_of_one_size_are_a_contradiction(
    read: Reader, authority: EmbeddedAuthority
) -> None:
    def forked(index: int, head: Head) -> Head:
        return replace(head, size=2, root=HEX_BYTES) if index == 1 else head

    found = read(Maker(authority=authority, change_head=forked).make())
    assert found.verdict == "contradicted"
    assert found.top[0] == "The key signed two different histories of 2 records."


def test_the_proof_of_another_run_is_named(read: Reader, good: Parts, authority: EmbeddedAuthority) -> None:
    other = Maker(authority=authority, run=OTHER_RUN).make()
    found = read(replace(good, proof=other.proof, tokens=other.tokens))
    assert found.verdict == "broken"
    assert found.top[0].startswith("The proof beside this claim is that of another run (1011121314151617…)")
    relabelled = replace(good, proof=msgspec.structs.replace(other.proof, run=RUN), tokens=other.tokens)
    found = read(relabelled)
    assert found.verdict == "broken"
    assert "Tree head 0 is that of another run." in found.top
    assert "Record 0 is that of another run." in found.top


def plain(proof: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.msgpack.decode(proof)
    return fields


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: b"",
        lambda proof: proof[:-1],
        lambda proof: proof + b"\0",
        lambda proof: b"\xc0",
        lambda proof: encode({"v": 1, "type": "public_proof"}),
        lambda proof: encode({**plain(proof), "consistency": []}),
        lambda proof: encode({**plain(proof), "more": 1}),
        lambda proof: encode({**plain(proof), "seals": [], "consistency": []}),
    ],
    ids=["empty", "cut", "longer", "nil", "fields", "no-consistency", "more", "no-heads"],
)
def test_a_proof_that_cannot_be_read(
    chromium: Browser, tmp_path: Path, good: Parts, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(
        render_page(envelope=good.envelope, proof=change(encode(good.proof)), tokens=good.tokens)
    )
    with chromium.page(path.as_uri()) as page:
        found = said(page)
    assert found.verdict == "broken"
    assert found.top[0].startswith("The proof cannot be read: ")


def test_final_that_names_another_record_as_its_end(read: Reader, authority: EmbeddedAuthority) -> None:
    def changed(records: list[Any]) -> list[Any]:
        return [*records[:-1], msgspec.structs.replace(records[-1], checkpoint=1)]

    found = read(Maker(authority=authority, change_records=changed).make())
    assert found.verdict == "contradicted"
    assert found.top == ["The last record names as its end a record that is not the last checkpoint."]


def test_final_that_is_not_the_last_record(read: Reader, authority: EmbeddedAuthority) -> None:
    def longer(records: list[Any]) -> list[Any]:
        return [*records, Step(v=1, run=RUN, index=len(records), step=STEPS, batch=HEX_BYTES)]

    found = read(Maker(authority=authority, change_records=longer).make())
    assert found.verdict == "contradicted"
    assert found.top == ["For the number of records the claim says 50; the run’s signed record says 49."]


# Time-stamp tokens


def _response(parts: Parts, authority: LocalAuthority, imprint: bytes, place: int) -> Parts:
    """With the token over one head replaced by another, as the proof names it."""
    request = make_request(imprint, nonce=99)
    response = authority.respond(request, now=START + timedelta(minutes=1))
    seal = parts.proof.seals[place]
    ref = msgspec.structs.replace(seal.tokens[0], request=sha256(request), response=sha256(response))
    tokens = tuple(token for token in parts.tokens if sha256(token) != seal.tokens[0].response)
    return replace(parts.sealed(place, tokens=[ref]), tokens=(*tokens, response))


def test_a_token_over_something_else_is_named(
    read: Reader, good: Parts, authority: EmbeddedAuthority
) -> None:
    found = read(_response(good, authority, HEX_BYTES, 1))
    assert found.verdict == "broken"
    assert (
        "A time-stamp token of Example TSA is not over tree head 1, for which the proof lists it."
        in found.top
    )


def test_a_token_over_another_claim_is_named(read: Reader, good: Parts, authority: EmbeddedAuthority) -> None:
    claimant = msgspec.structs.replace(good.claim.claimant, name="Somebody else")
    other = good.signed_anew(claimant=claimant)
    found = read(replace(other.proven(claim=good.proof.claim), tokens=good.tokens))
    assert found.verdict == "broken"
    assert found.top == [
        "A time-stamp token of Example TSA is not over this claim, for which the proof lists it."
    ]


def test_a_changed_token_is_not_what_the_proof_names(read: Reader, good: Parts) -> None:
    for place in range(len(good.tokens)):
        tokens = list(good.tokens)
        tokens[place] = last_bit_flipped(tokens[place])
        found = read(replace(good, tokens=tuple(tokens)))
        assert found.verdict == "broken"
        assert found.top[0] == (
            "1 time-stamp token in this page is not what the proof names: changed, or of another run."
        )


def test_a_token_that_the_claim_cites_and_nobody_shows(read: Reader, good: Parts) -> None:
    tokens = good.tokens[1:]
    found = read(replace(good, tokens=tokens))
    assert found.verdict == "broken"
    assert re.fullmatch(
        r"The token of Example TSA for \S+Z that the claim cites is not shown over tree head 0\.",
        found.top[0],
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": "2020-01-01T00:00:00Z"}, "the time of a token"),
        ({"size": 3}, "the records that a token covers"),
        ({"authority": "Another TSA"}, "the authority of a token"),
    ],
    ids=["time", "size", "authority"],
)
def test_an_anchor_that_its_token_denies(
    read: Reader, good: Parts, changes: dict[str, Any], words: str
) -> None:
    anchors = list(good.claim.training.anchors)
    anchors[0] = msgspec.structs.replace(anchors[0], **changes)
    found = read(good.training(anchors=anchors))
    assert found.verdict == "contradicted"
    assert found.top[0].startswith(f"For {words} the claim says")


def test_a_token_that_the_proof_names_and_the_page_lacks_is_said(read: Reader, good: Parts) -> None:
    stamped = {ref.response for ref in good.proof.claim}
    found = read(replace(good, tokens=tuple(token for token in good.tokens if sha256(token) not in stamped)))
    assert (found.verdict, found.top) == ("holds", [])
    assert ("unchecked", "Time-stamps. 1 time-stamp token that the proof names is not in this page.") in (
        found.findings
    )


def test_a_token_with_another_hash_is_not_over_the_head(
    read: Reader, good: Parts, authority: EmbeddedAuthority
) -> None:
    """The imprint has the head digest's own bytes, and says that it is of another hash."""
    seal = good.proof.seals[1]
    digest = parse_note(seal.note).head.digest()
    named = {ref.response: ref for ref in seal.tokens}
    (old,) = [token for token in good.tokens if sha256(token) in named]
    # The last arc of the hash's name stands right before the imprint: SHA-384 is 2, SHA-256 is 1.
    place = old.index(digest)
    name = bytes.fromhex("0609608648016503040201")
    start = old.rindex(name, 0, place)
    new = old[: start + len(name) - 1] + b"\x02" + old[start + len(name) :]
    ref = msgspec.structs.replace(seal.tokens[0], response=sha256(new))
    found = read(
        replace(good.sealed(1, tokens=[ref]), tokens=tuple(new if one == old else one for one in good.tokens))
    )
    assert found.verdict == "broken"
    assert (
        found.top[0]
        == "A time-stamp token of Example TSA is not over tree head 1, for which the proof lists it."
    )


def test_a_key_that_is_no_point_of_the_curve_signs_nothing(read: Reader, good: Parts) -> None:
    claimant = msgspec.structs.replace(good.claim.claimant, key="ff" * 32)
    found = read(good.signed_anew(claimant=claimant))
    assert found.verdict == "broken"
    assert found.outcome("Signature") == "broken"


# The model file


def file_findings(page: Page, path: Path, data: bytes) -> list[tuple[str, str]]:
    """What ``page`` says of a file with ``data`` that it is given."""
    path.write_bytes(data)
    page.evaluate("document.getElementById('file-result').replaceChildren()")
    page.give_files("#file", [path])
    return [tuple(one) for one in page.evaluate(MODEL_FINDINGS)]


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path, good: Parts) -> Any:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        yield page


def test_the_claimed_model_file_is_recognised(opened: Page, tmp_path: Path) -> None:
    data = safetensors(MODEL)
    model, file = file_findings(opened, tmp_path / "model.safetensors", data)
    assert model == (
        "holds",
        "Model. This file holds the claimed model: 4 tensors, equal in name, type, shape and every byte.",
    )
    assert file[0] == "holds"
    assert "“digits.safetensors”" in file[1]
    assert sha256(data).hex() in file[1]


def test_a_file_may_be_dropped_anywhere_on_the_page(opened: Page) -> None:
    data = base64.b64encode(safetensors(MODEL)).decode()
    opened.evaluate(f"""(() => {{
      const carried = new DataTransfer();
      carried.items.add(new File([fromBase64('{data}')], 'dropped.safetensors'));
      const drop = new DragEvent('drop', {{ dataTransfer: carried, bubbles: true, cancelable: true }});
      document.querySelector('h1').dispatchEvent(drop);
    }})()""")
    assert {outcome for outcome, _ in opened.evaluate(MODEL_FINDINGS)} == {"holds"}


def test_the_same_model_in_another_file_is_recognised(opened: Page, tmp_path: Path) -> None:
    compiled = [replace(one, path="module._orig_mod." + one.path) for one in reversed(MODEL)]
    for name, tensors in (("plain", MODEL), ("compiled", compiled)):
        data = safetensors(tensors, metadata=False)
        model, file = file_findings(opened, tmp_path / f"{name}.safetensors", data)
        assert (model[0], file[0]) == ("holds", "unchecked")


def _with(index: int, **changes: Any) -> Sequence[Any]:
    return [replace(one, **changes) if i == index else one for i, one in enumerate(MODEL)]


def _flipped(index: int, place: int) -> Sequence[Any]:
    data = bytearray(MODEL[index].data)
    data[place] ^= 1
    return _with(index, data=memoryview(bytes(data)))


MODELS: dict[str, tuple[Sequence[Any], str]] = {
    "first-bit": (_flipped(0, 0), "1 tensor of 4 claimed ones is of other values: body.weight."),
    "bit-at-the-edge-of-a-chunk": (
        _flipped(0, 65535),
        "1 tensor of 4 claimed ones is of other values: body.weight.",
    ),
    "bit-in-the-last-chunk": (
        _flipped(0, 153599),
        "1 tensor of 4 claimed ones is of other values: body.weight.",
    ),
    "last-bit": (_flipped(3, 7), "1 tensor of 4 claimed ones is of other values: head.steps."),
    "dtype": (
        _with(1, dtype="float16", shape=(600,)),
        "1 tensor of 4 claimed ones is of another type: body.bias.",
    ),
    "shape": (_with(0, shape=(128, 300)), "1 tensor of 4 claimed ones is of another shape: body.weight."),
    "name": (_with(1, path="body.biaz"), "1 tensor of 4 claimed ones is missing from the file: body.bias."),
    "extra": (
        [*MODEL, tensor("more", "float32", (1,))],
        "1 tensor of 4 claimed ones is in the file and not in the claim: more.",
    ),
    "missing": (MODEL[:-1], "1 tensor of 4 claimed ones is missing from the file: head.steps."),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_told_from_the_claimed_one(opened: Page, tmp_path: Path, name: str) -> None:
    tensors, sentence = MODELS[name]
    found = file_findings(opened, tmp_path / "model.safetensors", safetensors(tensors))
    assert found[0] == ("broken", "Model. This file does not hold the claimed model.")
    assert ("broken", f"Model. {sentence}") in found
    assert "holds" not in {outcome for outcome, _ in found}


def test_names_with_characters_of_paths_are_those_that_the_claim_lists(
    opened: Page, tmp_path: Path, good: Parts
) -> None:
    odd = [tensor("deep/er~#", "float32", (3,)), tensor("plain", "int64", ())]
    flat = published_file([replace(one, path=escape(one.path)) for one in odd])
    listed = tensors_of(published_entries(flat))
    assert [one.name for one in listed] == ["deep~1er~0~2", "plain"]
    root = state_root(published_entries(flat)).hex()
    model = msgspec.structs.replace(good.claim.model, tensors=listed, root=root)
    claim = msgspec.json.encode({"model": model}).decode()
    assert opened.evaluate(f"""(() => {{
      const report = new Report();
      report.trust(BY_CLAIM);
      checkTensors(report, {claim});
      return report.settled().map(({{ outcome }}) => outcome);
    }})()""") == ["holds"]
    file = base64.b64encode(safetensors([odd[0]])).decode()
    assert opened.evaluate(f"""(async () => {{
      const read = await readModelFile(new File([fromBase64('{file}')], 'x'), () => null);
      return modelDifferences({claim}.model.tensors, read.tensors);
    }})()""") == ["1 tensor of 2 claimed ones is missing from the file: plain."]


def test_a_list_that_the_file_fits_and_the_model_does_not_is_not_green(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.model(tensors=good.claim.model.tensors[:3]).page())
    with chromium.page(path.as_uri()) as page:
        assert said(page).outcome("Tensors") == "unchecked"
        found = file_findings(page, tmp_path / "model.safetensors", safetensors(MODEL[:3]))
    sentence = "Model. Its tensors are those that the claim lists, but they give another model."
    assert ("broken", sentence) in found
    assert "holds" not in {outcome for outcome, _ in found}


def test_a_claimed_file_of_another_size_is_not_the_one(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    path = tmp_path / "index.html"
    (file,) = good.claim.model.files
    path.write_bytes(good.model(files=[msgspec.structs.replace(file, size=file.size + 1)]).page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        model, found = file_findings(page, tmp_path / "model.safetensors", safetensors(MODEL))
    assert (model[0], found[0]) == ("holds", "broken")
    assert "and its size is not" in found[1]


def _header(text: str, body: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + bytes(body)


UNREADABLE: dict[str, bytes] = {
    "torch": b"PK\x03\x04" + bytes(100),
    "empty": b"",
    "short": b"\x01\0\0\0\0\0\0",
    "no-json": _header("{]"),
    "no-object": _header("[]"),
    "name-twice": _header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', 1),
    "unknown-type": _header('{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}', 1),
    "type-is-a-map": _header('{"a":{"dtype":{},"shape":[1],"data_offsets":[0,1]}}', 1),
    "size-of-other-shape": _header('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}', 1),
    "gap": _header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2),
    "bytes-after": _header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 2),
    "beyond": _header('{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}', 2),
    "negative": _header('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,-1]}}'),
    "half-a-character": _header('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "inherited-type": _header('{"a":{"dtype":"constructor","shape":[1],"data_offsets":[0,1]}}', 1),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_safetensors_is_hashed_and_not_judged(
    opened: Page, tmp_path: Path, name: str
) -> None:
    data = UNREADABLE[name]
    model, file = file_findings(opened, tmp_path / "model.safetensors", data)
    assert model[0] == file[0] == "unchecked"
    assert model[1].startswith("Model. The tensors of this file were not compared: it")
    assert file[1].endswith(f"Its SHA-256 is {sha256(data).hex()}.")


def test_a_file_that_fits_a_bad_claim_is_not_green(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.training(steps=400).page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        found = file_findings(page, tmp_path / "model.safetensors", safetensors(MODEL))
        text = page.evaluate("document.getElementById('file-result').innerText")
    assert {outcome for outcome, _ in found} == {"fits"}
    assert "The claim itself is not established: see the top of this page." in text


# The page itself


WITHOUT_ED25519 = """
const importKey = SubtleCrypto.prototype.importKey;
SubtleCrypto.prototype.importKey = function (format, key, algorithm, ...rest) {
  if (algorithm.name === 'Ed25519') {
    return Promise.reject(new DOMException('Algorithm: Unrecognized name', 'NotSupportedError'));
  }
  return importKey.call(this, format, key, algorithm, ...rest);
};
"""


def test_a_browser_without_ed25519_says_that_it_cannot_check(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri(), before=WITHOUT_ED25519) as page:
        found = said(page)
    assert found.verdict == "unchecked"
    assert {outcome for outcome, _ in found.findings} == {"unchecked"}
    assert "This browser cannot check the signature (Ed25519)." in found.findings[0][1]


def test_a_browser_that_refuses_a_key_finds_no_good_signature(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    """Some check at once whether 32 bytes are a point of the curve; Chromium does when it verifies."""
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(
        path.as_uri(), before=WITHOUT_ED25519.replace("NotSupportedError", "DataError")
    ) as page:
        found = said(page)
    assert found.verdict == "broken"
    assert found.outcome("Signature") == "broken"


def test_a_page_without_scripts_says_that_nothing_was_checked(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page("about:blank") as page:
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.open(path.as_uri())
        tree = page.call("DOMSnapshot.captureSnapshot", computedStyles=[])
    assert any(
        "Nothing has been checked: this page does so with JavaScript" in text for text in tree["strings"]
    )


def test_the_page_asks_for_nothing_and_breaks_no_rule_of_its_own(
    chromium: Browser, tmp_path: Path, good: Parts
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(good.page())
    with chromium.page(path.as_uri()) as page:
        said(page)
        file_findings(page, tmp_path / "model.safetensors", safetensors(MODEL))
        assert page.requests() == [path.as_uri()]
        assert page.problems() == []


@pytest.mark.parametrize(
    "attempt",
    [
        "fetch('http://127.0.0.1:9/')",
        "new Promise((good, bad) => { const image = new Image(); image.onload = good; image.onerror = bad; "
        "image.src = 'data:image/gif;base64,R0lGODlhAQABAAAAACw='; })",
        "Promise.resolve().then(() => { document.body.innerHTML = '<b>x</b>'; })",
    ],
    ids=["request", "image", "markup"],
)
def test_the_policy_refuses(opened: Page, attempt: str) -> None:
    assert opened.evaluate(f"({attempt}).then(() => 'done', () => 'refused')") == "refused"


def test_a_script_that_was_changed_does_not_run(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(
        good.page().replace(b"What this page can check holds", b"All is well, trust this page..")
    )
    with chromium.page(path.as_uri()) as page:
        assert page.evaluate("document.documentElement.dataset.verdict ?? null") is None
        assert "Checking" in page.evaluate("document.getElementById('verdict').innerText")
        assert any("violates the following Content Security Policy" in one for one in page.problems())


def test_what_is_only_claimed_is_worded_as_the_claim(opened: Page) -> None:
    lede = opened.evaluate("document.getElementById('lede').innerText")
    assert lede == (
        "Somebody by the name of Ada Example claims to have trained this model in 40 steps and to have sealed them as "
        "they happened."
    )
    facts = opened.evaluate("document.getElementById('facts').innerText")
    assert "1,797 examples, committed to in the run’s first record; not shown" in facts
    assert "Said to be steps of polledger’s own" in facts


def test_a_claim_of_many_tensors_is_read(opened: Page) -> None:
    # Some thirty thousand tensors: the envelope is one string of that length.
    text = "'{\"payload\":\"' + 'A'.repeat(2 ** 24) + '\"}'"
    assert opened.evaluate(f"parseStrictJson({text}).payload.length") == 2**24


def test_what_others_wrote_enters_as_text(chromium: Browser, tmp_path: Path, good: Parts) -> None:
    markup = "</script><img src=x onerror=alert(1)><b>Eve</b>"
    claimant = msgspec.structs.replace(good.claim.claimant, name=markup, contact="<i>")
    path = tmp_path / "index.html"
    path.write_bytes(good.signed_anew(claimant=claimant).page())
    with chromium.page(path.as_uri()) as page:
        assert said(page).verdict == "holds"
        assert markup in page.evaluate("document.body.innerText")
        assert page.evaluate("document.querySelectorAll('b, i, img').length") == 0


def test_authorities_cannot_turn_the_direction_of_writing(read: Reader, good: Parts) -> None:
    ref = good.proof.seals[1].tokens[0]
    seal = good.sealed(1, tokens=[msgspec.structs.replace(ref, authority="a\u202etsa\nb")])
    (line,) = [line for line in read(seal).top if line.startswith("For the authority of a token")]
    assert "a\ufffdtsa\ufffdb" in line


def test_the_same_parts_give_the_same_bytes(good: Parts) -> None:
    assert good.page() == good.page()


def test_the_policy_names_every_script_and_nothing_else(good: Parts) -> None:
    text = good.page().decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(scripts) == len(SCRIPTS)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [_source(script) for script in scripts]
    assert rules["style-src"] == _source(style)
    assert set(rules) == {
        "default-src",
        "script-src",
        "style-src",
        "base-uri",
        "form-action",
        "require-trusted-types-for",
        "trusted-types",
    }


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_no_two_scripts_declare_one_name() -> None:
    declared = [
        name
        for script in SCRIPTS
        for name in re.findall(
            r"^(?:async )?(?:function|class|const|let) (\w+)", (PLACE / script).read_text(), re.MULTILINE
        )
    ]
    assert len(declared) > 100
    assert sorted(declared) == sorted(set(declared))


def test_every_script_is_strict_and_can_stand_in_a_page() -> None:
    assert sorted(path.name for path in PLACE.glob("*.js")) == sorted(SCRIPTS)
    for script in SCRIPTS:
        text = (PLACE / script).read_text()
        assert text.startswith("'use strict';\n")
        assert "</script" not in text
        assert "<!--" not in text
        assert max(map(len, text.splitlines())) <= 120
