"""Nothing that is not opened can be guessed from what is published, however few values it may have. PROTOCOL 6."""

import json
from pathlib import Path

import pytest

from polledger.core.encoding import encode
from polledger.core.merkle import leaf_hash
from polledger.core.order import Order
from polledger.core.proof import ITEM, Kind
from polledger.core.records import Step
from polledger.core.seeds import example_leaf
from polledger.publish.claim import Wishes, finished_run, make_claim, make_proof
from polledger.verify.evidence import read_evidence
from tests.verify.attacker import Attacker, leaked, public_salts
from tests.verify.build import CLASSES, CONFIG, KEY, RUN, Built, Spec, collate, example_of, features, make_run
from tests.verify.presenting import answer, challenge_of, check_proof, frames_of, prove

EXAMPLES = 24
CONTENTS = ["floats", "row", "token"]
"""Pictures that everybody has, with labels that are to be guessed; rows of yes and no; one token, repeated."""


@pytest.fixture(scope="module", params=CONTENTS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A run over 24 examples in batches of two; its first and last interval are opened below."""
    config = {**CONFIG, "steps": 12, "batch_size": 2}
    spec = Spec(config=config, every=2, warm=1, examples=EXAMPLES, contents=request.param)
    return make_run(tmp_path_factory.mktemp("hiding") / "run", spec)


@pytest.fixture(scope="module", params=[False, True], ids=["full", "compact"])
def handed_out(
    request: pytest.FixtureRequest, run: Built, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Everything that leaves the prover: proof, report, claim, public proof, seals and tokens."""
    directory = tmp_path_factory.mktemp("out")
    question = challenge_of(run, count=1, nonce=b"h" * 32)
    path = prove(run, question, directory / "p", compact=request.param)
    report = check_proof(run, path, question)
    assert report.verdict == "VERIFIED"
    finished = finished_run(read_evidence(run.run))
    claim = make_claim(
        finished,
        Wishes(name="", contact="", model="m"),
        key=KEY.public_key().public_bytes_raw(),
        further=[],
        read=lambda _: b"",
    )
    files = {
        "proof": path.read_bytes(),
        "report": json.dumps(report.to_json()).encode(),
        "claim": claim,
        "public": encode(make_proof(finished, [])),
        "head": run.run.read_seal(run.run.seals()[-1]).note,
    }
    # What a full proof holds packed.
    return files if request.param else files | {"ledger": run.run.ledger_path.read_bytes()}


def attacker(run: Built, files: dict[str, bytes]) -> Attacker:
    order = Order(run.spec.s, EXAMPLES)
    return Attacker(
        published=list(files.values()),
        candidates=lambda index: [example_of(features(run.spec, index), label) for label in range(CLASSES)],
        explained=explained(run, files),
        steps=[order.step(step, 2) for step in range(run.spec.steps)],
        collate=collate,
    )


def explained(run: Built, files: dict[str, bytes]) -> frozenset[bytes]:
    """Digests of what the proof opens: under the salts in it they say nothing about anything else."""
    batches = {record.step: record.batch for record in run.records if isinstance(record, Step)}
    found = set()
    for kind, content in frames_of(files["proof"]):
        number, salt, _ = ITEM.unpack_from(content) if len(content) >= ITEM.size else (0, b"", 0)
        if kind == Kind.EXAMPLE:
            entry = example_leaf(salt, [content[ITEM.size :]])
            found |= {entry, leaf_hash(entry)}
        elif kind == Kind.BATCH:
            found.add(batches[number])
    return frozenset(found)


def opened(files: dict[str, bytes]) -> tuple[set[tuple[str, int]], list[bytes]]:
    """What the proof opens by itself, and the salts in it."""
    items = [
        ("example" if kind == Kind.EXAMPLE else "batch", ITEM.unpack_from(content))
        for kind, content in frames_of(files["proof"])
        if kind in (Kind.EXAMPLE, Kind.BATCH)
    ]
    return {(kind, head[0]) for kind, head in items}, [head[1] for _, head in items]


def test_guesses_are_confirmed_for_nothing_that_was_not_opened(
    run: Built, handed_out: dict[str, bytes]
) -> None:
    shown, salts = opened(handed_out)
    public = [RUN, KEY.public_key().public_bytes_raw(), *salts]
    assert attacker(run, handed_out).confirmed(public_salts(public)) == set()
    assert shown


def test_the_same_guesses_are_confirmed_once_the_secret_leaks(
    run: Built, handed_out: dict[str, bytes]
) -> None:
    """So that the test above could fail."""
    shown, _ = opened(handed_out)
    found = attacker(run, handed_out).confirmed(leaked(run.run.secret())) - shown
    steps = {number for kind, number in found if kind == "batch"}
    if "ledger" in handed_out:
        assert steps == set(range(run.spec.steps)) - {number for kind, number in shown if kind == "batch"}
    assert {kind for kind, _ in found} & {"batch", "example"}


def test_the_secret_and_the_salts_of_what_is_closed_are_nowhere(
    run: Built, handed_out: dict[str, bytes]
) -> None:
    shown, _ = opened(handed_out)
    salts = leaked(run.run.secret())
    closed = [("example", index) for index in range(EXAMPLES)] + [("batch", step) for step in range(12)]
    everything = b"".join(handed_out.values())
    assert run.run.secret() not in everything
    for kind, number in closed:
        (salt,) = salts(kind, number)
        assert (salt in everything) == ((kind, number) in shown)


def test_equal_examples_and_batches_have_nothing_in_common(run: Built) -> None:
    """Repetition would show who consumes the same thing twice: no digest is there twice."""
    evidence = read_evidence(run.run)
    digests = [record.batch for record in run.records if isinstance(record, Step)]
    assert len(set(digests)) == len(digests)
    entries = [evidence.openings.entry(run.records[0].dataset, index) for index in range(EXAMPLES)]  # type: ignore[union-attr, arg-type]
    assert len(set(entries)) == EXAMPLES


def test_a_proof_opens_the_examples_of_its_sample_alone(run: Built, tmp_path: Path) -> None:
    question = challenge_of(run, count=1, nonce=b"h" * 32)
    made = answer(run, question)
    intervals = made.readable.lineage.intervals
    order = Order(run.spec.s, EXAMPLES)
    wanted = {
        index
        for number in made.opened
        for step in intervals[number].steps
        for index in order.step(step.step, 2)
    }
    files = {"proof": prove(run, question, tmp_path / "p").read_bytes()}
    assert {number for kind, number in opened(files)[0] if kind == "example"} == wanted
    assert len(wanted) < EXAMPLES
