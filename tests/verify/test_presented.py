"""A proof between two parties: the verdict of the run directory on the same sample, and what it takes away from it."""

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polledger.core.challenge import Challenge
from polledger.core.encoding import encode, real
from polledger.core.proof import ITEM, Kind, ProofRejected
from polledger.core.records import Checkpoint, Dataset, Final, Genesis, Resume, Step
from polledger.core.report import Report
from polledger.core.sampling import sample_size
from polledger.errors import Unavailable, UsageError
from polledger.verify.answering import check_asked as check_question
from polledger.verify.answering import read_run
from polledger.verify.policy import parse_policy
from tests.verify.build import ENVIRONMENT, NOW, Built, Hooks, Spec, make_run, reseal, write_seals
from tests.verify.check import copy_of, failures, named
from tests.verify.presenting import (
    Frame,
    answer,
    asked,
    challenge_of,
    change,
    check_asked,
    check_proof,
    prove,
)

LONG = {"steps": 40, "batch_size": 4, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "schedule": "linear"}


@pytest.fixture(scope="module")
def question(honest: Built) -> Challenge:
    return challenge_of(honest)


@pytest.fixture(scope="module")
def proof(honest: Built, question: Challenge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The honest run's answer. Not to be changed."""
    return prove(honest, question, tmp_path_factory.mktemp("proof") / "p.polproof")


@pytest.fixture(scope="module", params=[False, True], ids=["full", "compact"])
def compact(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run that stores every fourth checkpoint only. Not to be changed."""
    spec = Spec(config=LONG, every=2, keep=4, warm=2)
    return make_run(tmp_path_factory.mktemp("thinned") / "run", spec)


def blocks(report: Report) -> list[str]:
    return sorted({finding.name for finding in report.findings if finding.blocks})


def drawn(report: Report) -> tuple[int, ...]:
    assert report.sample is not None
    return report.sample.chosen


def outcomes(report: Report) -> dict[int, str]:
    return {result.interval: result.outcome for result in report.intervals}


def test_an_honest_proof_is_verified_with_the_sample_of_the_directory(
    honest: Built, proof: Path, question: Challenge
) -> None:
    shown, whole = check_proof(honest, proof, question), check_asked(honest, question)
    assert (shown.verdict, whole.verdict) == ("VERIFIED", "VERIFIED")
    assert drawn(shown) == drawn(whole)
    assert outcomes(shown).items() <= outcomes(whole).items()
    assert shown.comparison == "bitwise"


def test_the_draw_is_uniform_and_first_and_last_are_opened(thinned: Built) -> None:
    for count in (1, 3):
        sample = answer(thinned, challenge_of(thinned, count=count, nonce=bytes([count]) * 32)).opened
        assert {0, len(read_run(thinned.run).lineage.intervals) - 1} <= set(sample)


def test_between_stored_checkpoints_all_is_opened(thinned: Built, tmp_path: Path, compact: bool) -> None:
    question = challenge_of(thinned, count=4)
    opened = answer(thinned, question).opened
    intervals = read_run(thinned.run).lineage.intervals
    assert len(opened) < len(intervals)
    assert any(not intervals[number].start.stored for number in opened)
    path = prove(thinned, question, tmp_path / "p", compact=compact)
    report = check_proof(thinned, path, question)
    assert report.verdict == "VERIFIED"
    assert report.sample is not None
    assert report.sample.intervals == opened
    assert check_asked(thinned, question).verdict == "VERIFIED"


def test_a_custom_task_is_opened_too(custom: Built, tmp_path: Path, compact: bool) -> None:
    question = challenge_of(custom)
    path = prove(custom, question, tmp_path / "p", compact=compact)
    assert check_proof(custom, path, question).verdict == "VERIFIED"
    assert check_asked(custom, question).verdict == "VERIFIED"


def test_without_inputs_a_custom_batch_is_the_provers_and_the_report_says_so(
    custom: Built, tmp_path: Path
) -> None:
    """Where the task reads inputs that the verifier lacks, its own batches come from the proof."""

    def blind(genesis: Genesis) -> Any:
        return replace(custom.code(inputs_declared=True, fail="open")(genesis), data_here=False)

    question = challenge_of(custom)
    report = check_proof(custom, prove(custom, question, tmp_path / "p"), question, code=blind)
    assert report.verdict == "VERIFIED"
    assert "the prover gave them" in named(report, "data.origin")[0].detail
    assert "as the prover gave them" in named(report, "inclusion")[0].detail
    # With the data at hand the task's own code is asked, as in a run directory.
    seeing = replace(custom.code(inputs_declared=True, fail="open")(custom.records[0]), data_here=True)  # type: ignore[arg-type]
    report = check_proof(custom, tmp_path / "p", question, code=lambda _: seeing)
    assert report.verdict == "UNVERIFIABLE"


def test_the_data_set_is_not_read_by_the_verifier(honest: Built, proof: Path, question: Challenge) -> None:
    report = check_proof(honest, proof, question, code=honest.code(fail="open"))
    assert report.verdict == "VERIFIED"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run that sees a part of its data set only. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("wide") / "run", Spec(examples=200))


@pytest.fixture(scope="module")
def jumped(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run whose interval of steps 8 to 12 is no training: 5 intervals, the last one is bogus. Not to be changed."""

    def jump(step: int, state: Any) -> None:
        if step == 11:
            state.w = (state.w + np.float32(0.5)).astype(np.float32)

    return make_run(tmp_path_factory.mktemp("jumped") / "run", hooks=Hooks(after_step=jump))


def test_a_bogus_interval_is_refuted_from_directory_and_proof(
    jumped: Built, tmp_path: Path, compact: bool
) -> None:
    question = challenge_of(jumped)
    shown = check_proof(jumped, prove(jumped, question, tmp_path / "p", compact=compact), question)
    whole = check_asked(jumped, question)
    for report in (shown, whole):
        assert report.verdict == "REFUTED"
        assert [(finding.step, finding.interval) for finding in failures(report)] == [(9, 4)]
    assert failures(shown)[0].expected == failures(whole)[0].expected


def test_a_presenters_own_challenge_verifies_nothing(honest: Built, proof: Path) -> None:
    report = check_proof(honest, proof, None)
    assert report.verdict == "UNVERIFIABLE"
    assert blocks(report) == ["sampling"]
    assert "chosen by the presenter" in named(report, "sampling")[0].detail
    assert outcomes(report) == {0: "pass", 4: "pass"} | outcomes(report)


def test_a_bogus_interval_is_refuted_whoever_chose_the_sample(jumped: Built, tmp_path: Path) -> None:
    path = prove(jumped, challenge_of(jumped), tmp_path / "p")
    assert check_proof(jumped, path, None).verdict == "REFUTED"


def test_a_proof_for_another_challenge_leaves_this_one_unanswered(honest: Built, proof: Path) -> None:
    other = challenge_of(honest, nonce=b"m" * 32, count=3)
    report = check_proof(honest, proof, other)
    assert report.verdict == "UNVERIFIABLE"
    assert "challenge" in blocks(report)
    assert "is unanswered" in named(report, "challenge")[0].detail
    assert "2026-03-02T12:00:00Z" in named(report, "challenge")[0].detail


def test_the_same_sample_under_another_file_is_another_challenge(
    honest: Built, proof: Path, question: Challenge
) -> None:
    later = msgspec.structs.replace(question, made=question.made + 1)
    assert blocks(check_proof(honest, proof, later)) == ["challenge"]


def test_another_policy_is_another_sample(honest: Built, proof: Path, question: Challenge) -> None:
    policy = parse_policy("[comparison]\nmargin = 4.0\n")
    report = check_proof(honest, proof, question, policy=policy)
    assert blocks(report) == ["challenge.policy"]
    assert blocks(check_asked(honest, question, policy=policy)) == ["challenge.policy"]


@pytest.mark.parametrize(("late", "verdict"), [(0, "VERIFIED"), (1, "UNVERIFIABLE")])
def test_a_proof_after_the_deadline_is_late(honest: Built, tmp_path: Path, late: int, verdict: str) -> None:
    question = challenge_of(honest, deadline=int(NOW.timestamp()))
    path = prove(honest, question, tmp_path / "p")
    report = check_proof(honest, path, question, arrived=NOW + timedelta(seconds=late))
    assert report.verdict == verdict
    assert blocks(report) == (["challenge.deadline"] if late else [])


def test_the_number_of_intervals_is_that_of_the_challenge(honest: Built, tmp_path: Path) -> None:
    for number, expected in ((5, []), (6, ["challenge.intervals"])):
        question = challenge_of(honest, intervals=number)
        report = check_proof(honest, prove(honest, question, tmp_path / f"{number}"), question)
        assert blocks(report) == expected


def test_odds_say_how_many_are_drawn(thinned: Built, tmp_path: Path) -> None:
    question = challenge_of(thinned, count=msgspec.UNSET, odds=real(0.9), bogus=real(0.25))
    report = check_proof(thinned, prove(thinned, question, tmp_path / "p"), question)
    assert report.sample is not None
    total = report.sample.total
    assert report.sample.drawn == sample_size(total=total, bogus=-(-total // 4), odds=0.9)
    assert report.verdict == "VERIFIED"


def without(kind: Kind, choose: Callable[[bytes], bool]) -> Callable[[list[Frame]], list[Frame]]:
    """Leave out the frames of ``kind`` whose content ``choose`` names."""
    return lambda frames: [frame for frame in frames if not (frame[0] == kind and choose(frame[1]))]


def test_a_state_that_was_asked_for_and_is_not_there_is_named(
    honest: Built, proof: Path, question: Challenge
) -> None:
    root = next(item.root for item in honest.records if isinstance(item, Checkpoint) and item.step == 12)
    lacking = change(proof, without(Kind.OBJECT, lambda content: content[8:40] == root))
    report = check_proof(honest, lacking, question)
    assert report.verdict == "UNVERIFIABLE"
    finding = named(report, "challenge.left_out")[0]
    assert "interval 4" in finding.detail
    assert "the state after step 12" in finding.detail


def test_a_salt_that_was_asked_for_and_is_not_there_is_named(
    honest: Built, proof: Path, question: Challenge
) -> None:
    lacking = change(proof, without(Kind.BATCH, lambda content: content[:8] == struct.pack(">Q", 0)))
    report = check_proof(honest, lacking, question)
    assert report.verdict == "UNVERIFIABLE"
    assert "the salt of step 0" in named(report, "challenge.left_out")[0].detail


def test_an_example_that_was_not_opened_is_missing(honest: Built, proof: Path, question: Challenge) -> None:
    """Without one of its leaves the common proof leads nowhere: nothing of the data is shown."""
    index = None

    def first(content: bytes) -> bool:
        nonlocal index
        index = content[:8] if index is None else index
        return content[:8] == index

    report = check_proof(honest, change(proof, without(Kind.EXAMPLE, first)), question)
    assert report.verdict == "UNVERIFIABLE"
    assert any("does not open example" in finding.detail for finding in named(report, "inclusion"))


def edited(kind: Kind, edit: Callable[[bytes], bytes]) -> Callable[[list[Frame]], list[Frame]]:
    """Change the content of the first frame of ``kind``."""

    def apply(frames: list[Frame]) -> list[Frame]:
        at = next(number for number, frame in enumerate(frames) if frame[0] == kind)
        return [*frames[:at], (kind, edit(frames[at][1])), *frames[at + 1 :]]

    return apply


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "at", "said"),
    [
        (Kind.EXAMPLE, -1, "do not lead to the root of the data set"),
        (Kind.EXAMPLE, 9, "do not lead to the root of the data set"),
        (Kind.NODES, 3, "do not lead to the root of the data set"),
        (Kind.BATCH, 9, "or its salt is another one"),
    ],
)
def test_forged_openings_refute_nobody_and_verify_nothing(
    wide: Built, tmp_path: Path, kind: Kind, at: int, said: str
) -> None:
    """Whoever passes a proof on can change what lies under no signature: that is damage, not the prover's lie."""

    def bend(content: bytes) -> bytes:
        return flip(at % len(content))(content)

    question = challenge_of(wide)
    proof = prove(wide, question, tmp_path / "p")
    assert check_proof(wide, proof, question).verdict == "VERIFIED"
    report = check_proof(wide, change(proof, edited(kind, bend)), question)
    assert report.verdict == "UNVERIFIABLE"
    assert failures(report) == []
    assert any(said in finding.detail for finding in report.findings)


def test_a_forged_state_is_damage(honest: Built, proof: Path, question: Challenge) -> None:
    changed = change(proof, lambda frames: [
        (kind, flip(len(content) - 1)(content)) if kind == Kind.OBJECT else (kind, content)
        for kind, content in frames
    ])  # fmt: skip
    report = check_proof(honest, changed, question)
    assert report.verdict == "UNVERIFIABLE"
    assert failures(report) == []


def test_an_end_that_is_damaged_is_found_although_its_root_was_reached(
    thinned: Built, tmp_path: Path, compact: bool
) -> None:
    """Nothing starts from it, and nothing else reads it: only its bytes say that it is another state."""
    question = challenge_of(thinned)
    proof = prove(thinned, question, tmp_path / "p", compact=compact)
    report = check_proof(thinned, proof, question)
    assert report.verdict == "VERIFIED"
    opened = {result.interval for result in report.intervals}
    intervals = list(read_run(thinned.run).lineage.intervals)
    ends = [
        item
        for item in intervals[:-1]
        if item.number in opened and item.number + 1 not in opened and item.end.stored
    ]
    assert ends
    for item in ends:
        root = item.end.root

        def damaged(frames: list[Frame], root: bytes = root) -> list[Frame]:
            return [
                (kind, flip(len(content) - 1)(content) if content[8:40] == root else content)
                for kind, content in frames
            ]

        report = check_proof(thinned, change(proof, damaged), question)
        assert report.verdict == "UNVERIFIABLE"
        assert failures(report) == []
        said = [finding.detail for finding in report.findings if finding.interval == item.number]
        assert any(root.hex() in detail for detail in said)


def test_an_object_that_nothing_asks_for_is_what_its_name_says_or_damage(
    thinned: Built, tmp_path: Path
) -> None:
    question = challenge_of(thinned)
    proof = prove(thinned, question, tmp_path / "p")
    # Whatever is drawn: a state that was not stored is never asked for.
    state = next(item.root for item in thinned.records if isinstance(item, Checkpoint) and not item.stored)
    for name in (state, b"x" * 32):

        def added(frames: list[Frame], name: bytes = name) -> list[Frame]:
            objects = [frame for frame in frames if frame[0] == Kind.OBJECT]
            objects.append((Kind.OBJECT, ITEM.pack(0, name, 4) + b"data"))
            objects.sort(key=lambda frame: frame[1][8:40])
            before = [frame for frame in frames if frame[0] < Kind.OBJECT]
            return [*before, *objects, *(frame for frame in frames if frame[0] > Kind.OBJECT)]

        report = check_proof(thinned, change(proof, added), question)
        assert report.verdict == "UNVERIFIABLE"
        assert blocks(report) == ["parse"]
        assert any(name.hex() in finding.detail for finding in named(report, "parse"))


def test_messages_about_a_proof_name_no_file_to_put_back(
    honest: Built, proof: Path, question: Challenge
) -> None:
    lacking = change(proof, without(Kind.OBJECT, lambda content: True))
    said = " ".join(str(finding) for finding in check_proof(honest, lacking, question).findings)
    assert "ask the prover" in said
    assert "put it back" not in said
    assert "/objects/" not in said


def test_a_run_that_went_on_after_the_challenge_is_asked_again(honest: Built, tmp_path: Path) -> None:
    question = challenge_of(honest, seal=1)
    report = check_proof(honest, prove(honest, question, tmp_path / "p"), question)
    assert report.verdict == "UNVERIFIABLE"
    assert "went on after the challenge" in named(report, "challenge.head")[0].detail
    assert report.sample is not None
    assert report.sample.total < 5
    assert failures(report) == []


def test_a_head_of_another_tree_is_equivocation(honest: Built, tmp_path: Path) -> None:
    """The verifier holds a head that the genesis key signed, and is shown a run that contradicts it."""
    last = honest.records[-2]
    assert isinstance(last, Checkpoint)
    other = [*honest.records[:-2], msgspec.structs.replace(last, root=b"x" * 32), honest.records[-1]]
    liar = reseal(honest, tmp_path / "other", other)
    question = challenge_of(liar)
    for seal in (-1, -2):
        theirs = challenge_of(honest, seal=seal)
        swapped = msgspec.structs.replace(question, note=theirs.note)
        report = check_asked(liar, swapped)
        if seal == -1:
            assert any("equivocation" in finding.detail for finding in failures(report))
        else:
            assert failures(report) == failures(check_asked(liar, question))


def test_a_head_beyond_what_is_shown_is_missing(honest: Built, tmp_path: Path) -> None:
    short = copy_of(honest, tmp_path / "short")
    for number in short.run.seals()[-1:]:
        short.run.seal_path(number).unlink()
    path = prove(short, challenge_of(short), tmp_path / "p")
    report = check_proof(short, path, challenge_of(honest))
    assert report.verdict == "UNVERIFIABLE"
    assert "not all of them are shown" in named(report, "challenge.head")[0].detail


@pytest.mark.parametrize("compact", [False, True])
def test_a_run_is_not_judged_by_an_earlier_head_than_the_verifier_holds(
    honest: Built, tmp_path: Path, compact: bool
) -> None:
    """A record behind the final one refutes: who leaves out the seal over it shows a good run under an older head."""
    last = msgspec.structs.replace(honest.records[-1], index=len(honest.records))
    longer = reseal(honest, tmp_path / "longer", [*honest.records, last])
    for number in longer.run.seals():
        longer.run.seal_path(number).unlink()
    encoded = [encode(record) for record in longer.records]
    write_seals(longer.run, encoded, sizes=[2, len(honest.records), len(longer.records)])
    question = challenge_of(longer)
    path = prove(longer, question, tmp_path / "p", compact=compact)
    newest = frames_with(path, Kind.SEAL)[-1]
    hidden = change(path, without(Kind.SEAL, lambda content: content == newest))
    longer.run.seal_path(2).unlink()
    for report in (check_proof(longer, hidden, question), check_asked(longer, question)):
        assert report.verdict == "UNVERIFIABLE"
        assert blocks(report) == ["challenge.head"]
        assert "the newest that is shown only 20" in named(report, "challenge.head")[0].detail


def test_a_challenge_about_another_run_says_so(honest: Built) -> None:
    report = check_asked(honest, msgspec.structs.replace(challenge_of(honest), run=b"z" * 16))
    assert report.verdict == "UNVERIFIABLE"
    assert blocks(report) == ["challenge"]
    assert "is about run 7a7a" in named(report, "challenge")[0].detail


def test_a_head_of_another_key_says_nothing(honest: Built, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stolen = copy_of(honest, tmp_path / "stolen")
    encoded = [encode(msgspec.structs.replace(record, index=i)) for i, record in enumerate(honest.records)]
    for number in stolen.run.seals():
        stolen.run.seal_path(number).unlink()
    write_seals(stolen.run, encoded, sizes=[len(encoded)], key=Ed25519PrivateKey.generate())
    report = check_asked(honest, challenge_of(stolen))
    assert report.verdict == "UNVERIFIABLE"
    assert "not signed by the key in genesis" in named(report, "challenge.head")[0].detail


def test_policy_with_known_data_needs_the_run(honest: Built, tmp_path: Path) -> None:
    policy = parse_policy(f'[data]\nknown = ["{"0" * 64}"]\n')
    question = challenge_of(honest, policy=policy.digest())
    report = check_proof(honest, prove(honest, question, tmp_path / "p"), question, policy=policy)
    assert report.verdict == "UNVERIFIABLE"
    assert any("holds only the opened examples" in finding.detail for finding in report.findings)


def test_no_replay_verifies_nothing(honest: Built, proof: Path, question: Challenge) -> None:
    assert check_proof(honest, proof, question, replay=False).verdict == "UNVERIFIABLE"
    assert check_proof(honest, proof, question, scan=False).verdict == "UNVERIFIABLE"


def test_a_still_run_does_not_pass_for_training(tmp_path: Path) -> None:
    """Without sketches stillness is judged by the run's ends, and by what is opened."""
    spec = Spec(config={**LONG, "lr": 1e-12, "steps": 12})
    still = make_run(tmp_path / "run", spec)
    question = challenge_of(still)
    report = check_proof(still, prove(still, question, tmp_path / "p"), question)
    assert report.verdict == "UNVERIFIABLE"
    assert "stillness" in blocks(report)


def test_the_prover_answers_only_about_its_own_run(honest: Built, custom: Built, tmp_path: Path) -> None:
    readable = read_run(honest.run)
    check_question(readable, challenge_of(honest))
    with pytest.raises(UsageError, match="other records"):
        check_question(readable, challenge_of(custom))
    away = msgspec.structs.replace(challenge_of(honest), run=b"z" * 16)
    with pytest.raises(UsageError, match="about run"):
        check_question(readable, away)


def test_a_run_without_its_secret_is_not_opened(honest: Built, tmp_path: Path) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    (copy.run.path / "private" / "secret").unlink()
    with pytest.raises(Unavailable, match="secret"):
        read_run(copy.run)


def test_data_that_are_not_those_of_the_run_are_not_opened(honest: Built, tmp_path: Path) -> None:
    engines = honest.engines(data=replace(honest.spec, labels=1))
    with pytest.raises(Unavailable, match="not the one that was committed"):
        prove(honest, challenge_of(honest), tmp_path / "p", engines=engines)


def test_what_is_kept_and_damaged_is_not_opened(honest: Built, custom: Built, tmp_path: Path) -> None:
    """The prover is told, and not the verifier's time wasted."""
    batches = copy_of(custom, tmp_path / "batches")
    first = next(record for record in custom.records if isinstance(record, Step))
    batches.run.objects.put_named(first.batch, [b"another"])
    with pytest.raises(Unavailable, match="not the one that was recorded"):
        prove(batches, challenge_of(batches), tmp_path / "p")
    leaves = copy_of(honest, tmp_path / "leaves")
    genesis = honest.records[0]
    assert isinstance(genesis, Genesis)
    assert isinstance(genesis.dataset, Dataset)
    path = leaves.run.objects.path(genesis.dataset.root)
    path.write_bytes(flip(0)(path.read_bytes()))
    with pytest.raises(Unavailable, match="example leaves"):
        prove(leaves, challenge_of(leaves), tmp_path / "q")


def test_a_step_that_was_asked_for_and_is_not_shown_is_named(honest: Built, tmp_path: Path) -> None:
    question = challenge_of(honest)
    path = prove(honest, question, tmp_path / "p", compact=True)
    first = next(record for record in honest.records if isinstance(record, Step))
    hidden = change(path, without(Kind.RECORD, lambda content: content[:8] == struct.pack(">Q", first.index)))
    report = check_proof(honest, hidden, question)
    assert report.verdict == "UNVERIFIABLE"
    assert f"record {first.index} is not in it" in named(report, "challenge.left_out")[0].detail


def test_nothing_is_opened_that_was_not_asked_for(honest: Built, proof: Path, question: Challenge) -> None:
    from tests.verify.presenting import frames_of

    opened = answer(honest, question).opened
    intervals = read_run(honest.run).lineage.intervals
    roots = {end.root for number in opened for end in (intervals[number].start, intervals[number].end)}
    states = {item.root for item in honest.records if isinstance(item, Checkpoint)}
    frames = frames_of(proof.read_bytes())
    shown = {content[8:40] for kind, content in frames if kind == Kind.OBJECT}
    assert shown & states == roots
    steps = {step.step for number in opened for step in intervals[number].steps}
    assert {ITEM.unpack_from(content)[0] for kind, content in frames if kind == Kind.BATCH} == steps
    assert honest.run.secret() not in proof.read_bytes()
    assert asked(question).digest in proof.read_bytes()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A long run with a schedule that ends before it does, so that most steps state nothing. Not to be changed."""
    config = {**LONG, "schedule": "multistep", "milestones": [6, 9], "steps": 40}
    return make_run(tmp_path_factory.mktemp("resumed") / "run", Spec(config=config, every=4, examples=200))


def test_a_compact_proof_knows_what_was_in_force_before(resumed: Built, tmp_path: Path) -> None:
    """A record states what changed: those that last stated something are shown with the steps that follow."""
    question = challenge_of(resumed, count=1, nonce=b"q" * 32)
    path = prove(resumed, question, tmp_path / "p", compact=True)
    report = check_proof(resumed, path, question)
    assert report.verdict == "VERIFIED"
    assert report.comparison == "bitwise"
    assert len(report.intervals) < 5
    assert "are not shown" in named(report, "structure")[0].detail
    unshown = frames_with(path, Kind.RECORD)
    assert len(unshown) < len(resumed.records) - 10


def frames_with(path: Path, kind: Kind) -> list[bytes]:
    from tests.verify.presenting import frames_of

    return [content for found, content in frames_of(path.read_bytes()) if found == kind]


def test_a_record_left_out_of_a_compact_proof_refutes_nobody(resumed: Built, tmp_path: Path) -> None:
    """Whichever one it is: only what is shown can contradict, and what was asked for has to be shown."""
    question = challenge_of(resumed, count=1, nonce=b"q" * 32)
    path = prove(resumed, question, tmp_path / "p", compact=True)
    for record in frames_with(path, Kind.RECORD):
        report = check_proof(
            resumed, change(path, without(Kind.RECORD, lambda found, r=record: found == r)), question
        )
        assert report.verdict == "UNVERIFIABLE", record
        assert failures(report) == []


def test_a_lie_about_hyperparameters_is_found_by_replay_where_records_are_not_shown(tmp_path: Path) -> None:
    """In compact mode a record that is not shown could explain what does not fit: step 4 accuses nobody there."""

    def values(step: int, found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "lr": 0.3} if step >= 2 else found

    bent = make_run(tmp_path / "run", hooks=Hooks(values=values))
    question = challenge_of(bent)
    assert check_asked(bent, question).verdict == "REFUTED"
    for compact, outcome in ((False, "fail"), (True, "unverifiable")):
        report = check_proof(bent, prove(bent, question, tmp_path / f"p{compact}", compact=compact), question)
        assert {finding.outcome for finding in named(report, "structure")} == {outcome}
        assert 9 in {finding.step for finding in failures(report)}
        assert {finding.outcome for finding in named(report, "hyperparameters")} == {outcome}


def test_a_step_under_the_first_head_is_not_hidden(honest: Built, tmp_path: Path) -> None:
    """Training began before genesis was sealed, and the stretch was abandoned: not shown, it could be anything."""
    begun = honest.records[2]
    assert isinstance(begun, Step)
    resume = Resume(
        v=1, run=begun.run, index=0, environment=ENVIRONMENT, source=1, reason="r", first=2, last=2
    )
    final = honest.records[-1]
    assert isinstance(final, Final)
    records = [*honest.records[:3], resume, *honest.records[2:-1]]
    records.append(msgspec.structs.replace(final, checkpoint=len(records) - 1))
    early = reseal(
        honest, tmp_path / "early", [msgspec.structs.replace(item, index=i) for i, item in enumerate(records)]
    )
    for first, verdict in ((2, "VERIFIED"), (3, "UNVERIFIABLE")):
        for number in early.run.seals():
            early.run.seal_path(number).unlink()
        write_seals(early.run, [encode(item) for item in early.records], sizes=[first, len(records)])
        question = challenge_of(early)
        report = check_proof(early, prove(early, question, tmp_path / f"{first}", compact=True), question)
        assert report.verdict == verdict
        assert blocks(report) == ([] if first == 2 else ["heads"])
        assert check_asked(early, question).verdict == ("VERIFIED" if first == 2 else "REFUTED")


ROOM = 64 << 10
"""Bytes that a proof takes beside payloads and ledger."""


def payload(path: Path) -> int:
    """Bytes of what is opened: objects; examples and batches with what stands before them; nodes."""
    kinds = (Kind.OBJECT, Kind.EXAMPLE, Kind.BATCH, Kind.DATA, Kind.NODES)
    return sum(5 + len(content) for kind in kinds for content in frames_with(path, kind))


@pytest.mark.parametrize("count", [1, 20])
def test_a_proof_is_no_larger_than_what_it_opens(resumed: Built, tmp_path: Path, count: int) -> None:
    import zlib

    question = challenge_of(resumed, count=count)
    full = prove(resumed, question, tmp_path / "full")
    ledger = len(zlib.compress(resumed.run.ledger_path.read_bytes(), 6))
    assert full.stat().st_size <= payload(full) + ledger + ROOM
    small = prove(resumed, question, tmp_path / "small", compact=True)
    records, opened = len(resumed.records), len(frames_with(small, Kind.RECORD))
    assert small.stat().st_size <= payload(small) + 32 * records + 2048 * opened + ROOM
    assert payload(small) == payload(full)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), mode=st.booleans())
def test_no_flipped_bit_verifies_or_refutes_even_under_a_fitting_digest(
    wide: Built, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, mode: bool
) -> None:
    """Whoever passes a proof on may change it and compute its digest again."""
    question = challenge_of(wide)
    path = prove(wide, question, tmp_path_factory.mktemp("flip") / "p", compact=mode)

    kinds: list[Kind] = []

    def flipped(frames: list[Frame]) -> list[Frame]:
        sizes = [len(content) for _, content in frames]
        at = int(place * sum(sizes))
        number = next(i for i in range(len(sizes)) if sum(sizes[: i + 1]) > at)
        kind, content = frames[number]
        kinds.append(Kind(kind))
        where = at - sum(sizes[:number])
        bent = content[:where] + bytes([content[where] ^ 1 << bit]) + content[where + 1 :]
        return [*frames[:number], (kind, bent), *frames[number + 1 :]]

    try:
        report = check_proof(wide, change(path, flipped), question)
    except ProofRejected:
        return
    assert failures(report) == []
    if report.verdict == "VERIFIED":
        # The prover's names for its authorities lie under no signature, and carry no trust.
        assert kinds[-1] is Kind.SEAL
