"""Two rounds: sketches before the sample is known, and the whole run screened without being shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.challenge import Challenge
from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.proof import ProofRejected
from polledger.core.records import Checkpoint
from polledger.core.sketch import DIRECTIONS, decode_place, encode_place, parse_sketches
from polledger.core.state import parse_state
from polledger.errors import Unavailable
from polledger.store.unpack import read_proof
from polledger.verify.answering import read_run
from polledger.verify.asking import opened_for
from polledger.verify.evidence import Evidence, read_presented
from polledger.verify.movement import ROW, Projection
from polledger.verify.policy import Policy
from polledger.verify.sketched import after_answer, contradictions, sketches_for
from tests.verify.build import Built, make_jumped
from tests.verify.check import copy_of, failures, named
from tests.verify.presenting import asked, challenge_of, check_asked, check_proof, prove

SEED = b"s" * 32


@pytest.fixture(scope="module")
def jumped(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """120 intervals, a jump in number 60. Not to be changed."""
    return make_jumped(tmp_path_factory.mktemp("jumped") / "run", steps=120)


def first_of(built: Built) -> Challenge:
    return challenge_of(built, count=msgspec.UNSET, seed=SEED)


def evidence_of(path: Path, into: Path) -> Evidence:
    into.mkdir()
    return read_presented(read_proof(path, into))


def second(
    built: Built, directory: Path, *, sketches: bytes | None = None, compact: bool = False, **changes: Any
) -> Challenge:
    """The second challenge, from the answer to the first."""
    before = first_of(built)
    path = prove(built, before, directory / "s1", sketches=sketches, compact=compact)
    made = challenge_of(built, **{"nonce": b"2" * 32, **changes})
    evidence = evidence_of(path, directory / "unpacked")
    return after_answer(evidence, before, asked(before).digest, made, policy=Policy())


@pytest.mark.parametrize("compact", [False, True])
def test_two_rounds_screen_the_whole_run(honest: Built, tmp_path: Path, compact: bool) -> None:
    question = second(honest, tmp_path, compact=compact)
    assert question.intervals == 5
    report = check_proof(honest, prove(honest, question, tmp_path / "p", compact=compact), question)
    assert report.verdict == "VERIFIED", [str(finding) for finding in report.findings if finding.blocks]
    assert report.screened
    assert "sketched by the prover" in named(report, "screening")[0].detail
    assert named(report, "stillness")[0].outcome == "pass"
    assert check_asked(honest, question).verdict == "VERIFIED"


def test_an_answer_of_sketches_opens_nothing(honest: Built, tmp_path: Path) -> None:
    before = first_of(honest)
    path = prove(honest, before, tmp_path / "s1")
    proof = read_proof(path, tmp_path)
    assert (proof.examples(), proof.nodes) == ([], b"")
    report = check_proof(honest, path, before)
    assert report.verdict == "UNVERIFIABLE"
    assert "no sample was drawn yet" in named(report, "sampling")[0].detail


def missing(built: Built, **changes: Any) -> bytes:
    """A nonce whose draw misses the jump."""
    for number in range(1000):
        nonce = bytes([number % 256]) * 31 + bytes([number // 256])
        question = challenge_of(built, nonce=nonce, **changes)
        if 60 not in opened_for(asked(question), read_run(built.run).lineage):
            return nonce
    raise AssertionError("every draw has it")


def test_what_the_draw_misses_the_sketches_show(jumped: Built, tmp_path: Path) -> None:
    nonce = missing(jumped, count=2)
    one_round = challenge_of(jumped, nonce=nonce, count=2)
    report = check_proof(jumped, prove(jumped, one_round, tmp_path / "one"), one_round)
    assert report.verdict == "VERIFIED"
    assert not report.screened
    two_rounds = second(jumped, tmp_path, nonce=nonce, count=2)
    assert 60 in two_rounds.added
    report = check_proof(jumped, prove(jumped, two_rounds, tmp_path / "two"), two_rounds)
    assert report.verdict == "REFUTED"
    assert [finding.interval for finding in failures(report)] == [60]
    assert failures(check_asked(jumped, two_rounds))[0].interval == 60


def flattened(built: Built, challenge: Challenge) -> bytes:
    """The prover's lie: sketches in which the jump is no change at all."""
    answer = parse_sketches(sketches_for(built.run, read_run(built.run).lineage, challenge))
    number = answer.groups.index("model/parameters")
    places = [np.array(decode_place(sketch.values[number])) for sketch in answer.sketches]
    jump = places[61] - places[60]
    sketches = []
    for at, (sketch, place) in enumerate(zip(answer.sketches, places, strict=True)):
        values = list(sketch.values)
        values[number] = encode_place((place - jump * (at > 60)).tolist())
        sketches.append(msgspec.structs.replace(sketch, values=values))
    return encode(msgspec.structs.replace(answer, sketches=sketches))


def test_a_lie_in_the_sketches_is_found_where_its_place_is_opened(jumped: Built, tmp_path: Path) -> None:
    lie = flattened(jumped, first_of(jumped))
    question = second(jumped, tmp_path, sketches=lie, nonce=missing(jumped, count=2), count=2)
    # It works: nothing asks for the jump.
    assert 60 not in question.added
    report = check_proof(jumped, prove(jumped, question, tmp_path / "p", sketches=lie), question)
    assert failures(report) == []
    everything = msgspec.structs.replace(question, count=120)
    report = check_proof(jumped, prove(jumped, everything, tmp_path / "all", sketches=lie), everything)
    assert any("moved otherwise" in finding.detail for finding in named(report, "screening"))
    assert {finding.interval for finding in named(report, "screening") if "otherwise" in finding.detail} == {
        60
    }


def test_an_interval_that_there_is_not_is_not_opened(honest: Built, tmp_path: Path) -> None:
    question = msgspec.structs.replace(second(honest, tmp_path), top=[5])
    report = check_proof(honest, prove(honest, question, tmp_path / "p"), question)
    assert report.verdict == "UNVERIFIABLE"
    assert "asks for interval 5, and there are 5" in named(report, "challenge.intervals")[0].detail


def test_states_that_sketches_cannot_be_held_against_are_not_passed_over(honest: Built) -> None:
    """A state with an object that genesis does not name is in no sketch: whatever they say of it stands unchecked."""
    lineage = read_run(honest.run).lineage
    answer = parse_sketches(sketches_for(honest.run, lineage, first_of(honest)))
    everything = range(len(lineage.intervals))
    assert list(contradictions(answer, lineage, honest.run.objects, everything)) == []
    objects = [item for item in lineage.genesis.objects if item.name != "optimizer"]
    bare = replace(lineage, genesis=msgspec.structs.replace(lineage.genesis, objects=objects))
    found = list(contradictions(answer, bare, honest.run.objects, everything))
    assert [(finding.outcome, finding.name) for finding in found] == [("unverifiable", "screening")]
    assert "cannot be held against" in found[0].detail


def test_a_group_of_few_numbers_can_be_solved_for(honest: Built) -> None:
    """What docs/two-parties.md says that sketches leak: they are linear, and their seed is the verifier's."""
    answer = parse_sketches(sketches_for(honest.run, read_run(honest.run).lineage, first_of(honest)))
    group = "model/buffers"
    found = decode_place(answer.sketches[-1].values[answer.groups.index(group)])
    first, last = (np.frombuffer(mean_of(honest, step), dtype="<f4") for step in (0, 12))
    projection = Projection(SEED, group)
    columns = []
    for at in range(len(first)):
        row = np.zeros((1, ROW), dtype=np.float32)
        row[0, at] = 1
        projection.start()
        columns.append(projection.project(row))
    solved = np.linalg.lstsq(np.array(columns).T, np.array(found), rcond=None)[0]
    assert 0 < len(first) <= DIRECTIONS
    assert np.abs(last - first).max() > 0
    np.testing.assert_allclose(solved, last - first, rtol=1e-4, atol=1e-7)


def mean_of(built: Built, step: int) -> bytes:
    root = next(item.root for item in built.records if isinstance(item, Checkpoint) and item.step == step)
    flat = parse_state(built.states[step], root=root)
    return bytes(next(tensor.data for tensor in flat.tensors if tensor.path == "model/mean"))


def test_sketches_are_those_that_were_answered(honest: Built, tmp_path: Path) -> None:
    question = second(honest, tmp_path)
    other = parse_sketches(sketches_for(honest.run, read_run(honest.run).lineage, question))
    changed = encode(msgspec.structs.replace(other, seed=b"t" * 32))
    for sketches, said in ((changed, "not those that were answered"), (b"", "has no sketches")):
        path = prove(honest, question, tmp_path / sha256(sketches).hex(), sketches=sketches)
        report = check_proof(honest, path, question)
        assert report.verdict == "UNVERIFIABLE"
        assert said in named(report, "screening")[0].detail


def test_the_verifier_screens_only_answers_to_its_own_question(
    honest: Built, jumped: Built, tmp_path: Path
) -> None:
    before = first_of(honest)
    made = challenge_of(honest)
    answered = evidence_of(prove(honest, before, tmp_path / "s1"), tmp_path / "a")
    with pytest.raises(ProofRejected, match="answer your challenge"):
        after_answer(answered, before, b"x" * 32, made, policy=Policy())
    bare = evidence_of(prove(honest, before, tmp_path / "s2", sketches=b""), tmp_path / "b")
    with pytest.raises(ProofRejected, match="answer your challenge"):
        after_answer(bare, before, asked(before).digest, made, policy=Policy())
    elsewhere = msgspec.structs.replace(before, note=first_of(jumped).note)
    with pytest.raises(ProofRejected, match="do not give the head"):
        after_answer(answered, elsewhere, asked(before).digest, made, policy=Policy())
    seeded = encode(
        msgspec.structs.replace(
            parse_sketches(sketches_for(honest.run, read_run(honest.run).lineage, before)), seed=b"t" * 32
        )
    )
    other = evidence_of(prove(honest, before, tmp_path / "s3", sketches=seeded), tmp_path / "c")
    with pytest.raises(ProofRejected, match="another seed"):
        after_answer(other, before, asked(before).digest, made, policy=Policy())


def test_an_answer_is_kept_and_given_again(honest: Built, tmp_path: Path) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    lineage = read_run(copy.run).lineage
    before = first_of(copy)
    data = sketches_for(copy.run, lineage, before)
    kept = copy.run.answers_path / sha256(data).hex()
    assert kept.read_bytes() == data
    after = challenge_of(copy, seed=SEED, answer=sha256(data))
    kept.write_bytes(b"as it was answered")
    assert sketches_for(copy.run, lineage, after) == b"as it was answered"
    kept.unlink()
    assert sketches_for(copy.run, lineage, after) == data
    with pytest.raises(Unavailable, match="other sketches"):
        sketches_for(copy.run, lineage, challenge_of(copy, seed=SEED, answer=b"o" * 32))
