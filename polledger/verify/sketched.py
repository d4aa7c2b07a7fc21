"""Step 5 between two parties: screening by sketches that the prover answered before it knew the sample. PROTOCOL 11.

The rules are those of a run that is at hand; what they go by are claims, and every state that is opened is held against
them. docs/decisions/0031.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import UNSET
from msgspec.structs import replace

from polledger.core.challenge import Challenge
from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.proof import ProofRejected
from polledger.core.records import Genesis
from polledger.core.report import Finding
from polledger.core.sketch import SKETCH_LIMITS, Sketches, parse_sketches
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import PRIVATE_DIRECTORY, PRIVATE_FILE, make_directory, read_bounded, write_atomic
from polledger.store.objects import ObjectStore
from polledger.store.run import RunDirectory
from polledger.verify.asking import has_head, seed_of, total_under
from polledger.verify.evidence import Evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.policy import Policy
from polledger.verify.scan import Scan, stored_checkpoints
from polledger.verify.screening import step_screening
from polledger.verify.sketch import answer_problems, check_opened, make_sketches, track_of
from polledger.verify.states import load_state

NAME = "screening"

_AGAIN = "ask for sketches again: `polledger challenge HEAD --sketch -o FILE`"


def sketches_for(run: RunDirectory, lineage: Lineage, challenge: Challenge) -> bytes:
    """The prover's sketches under the seed of ``challenge``; what was answered once is kept and given again.

    Raises Unavailable if a state is missing, or if other sketches were answered than can be made now.
    """
    if challenge.answer is not UNSET:
        kept = run.answers_path / challenge.answer.hex()
        try:
            return bytes(read_bounded(kept, limit=SKETCH_LIMITS.size))
        except FileNotFoundError:
            pass
    seed = b"" if challenge.seed is UNSET else challenge.seed
    data = encode(make_sketches(lineage, run.objects, head=challenge.head.digest(), seed=seed))
    digest = sha256(data)
    if challenge.answer not in (UNSET, digest):
        raise Unavailable(
            "other sketches were answered before than the run gives now: answer where they were made"
        )
    make_directory(run.answers_path, mode=PRIVATE_DIRECTORY)
    write_atomic(run.answers_path / digest.hex(), [data], mode=PRIVATE_FILE)
    return data


def read_sketches(evidence: Evidence, lineage: Lineage, challenge: Challenge) -> tuple[Sketches | None, str]:
    """The sketches that a proof brings along, or why they are no answer to ``challenge``."""
    name = evidence.presented.sketches if evidence.presented is not None else None
    if name is None:
        return None, "the proof has no sketches"
    if challenge.answer not in (UNSET, name):
        return None, "the sketches in the proof are not those that were answered before the sample"
    seed = b"" if challenge.seed is UNSET else challenge.seed
    try:
        answer = parse_sketches(evidence.objects.get(name, limit=SKETCH_LIMITS.size))
    except (MalformedError, Unavailable) as error:
        return None, f"the sketches cannot be read: {error}"
    problems = answer_problems(answer, lineage, head=challenge.head.digest(), seed=seed)
    return (None, problems[0]) if problems else (answer, "")


def scan_of(answer: Sketches, lineage: Lineage, *, displacement: float = 0.0) -> Scan:
    """What the rules go by. ``displacement``: of the whole run, from its ends."""
    count = len(answer.sketches)
    return Scan(
        track=track_of(answer, lineage),
        displacement=displacement,
        read=count,
        stored=count,
        size=0,
        problems=(),
        sketched=True,
    )


def after_answer(
    evidence: Evidence, before: Challenge, digest: bytes, made: Challenge, *, policy: Policy
) -> Challenge:
    """``made`` with what screening of the sketches has opened besides. ``digest``: that of the file of ``before``.

    Raises ProofRejected if this is no answer to ``before``, or not one under a head that its records give.
    """
    presented = evidence.presented
    heads = match_heads(evidence, parse_records(evidence))
    genesis = heads.records[0] if heads.records else None
    if presented is None or presented.digest != digest or presented.sketches is None:
        raise ProofRejected("the file has no sketches that answer your challenge")
    if not isinstance(genesis, Genesis) or not has_head(evidence, before, key=genesis.key):
        raise ProofRejected("the records in the answer do not give the head in your challenge")
    lineage = build_lineage(genesis, heads.records)
    answer, problem = read_sketches(evidence, lineage, before)
    total = total_under(lineage, before.head)
    if answer is None or not total:
        raise ProofRejected(problem or "there is no interval under the head in your challenge")
    screening = step_screening(scan_of(answer, lineage), total=total, policy=policy, seed=seed_of(made))
    return replace(
        made,
        seed=before.seed,
        answer=presented.sketches,
        top=list(screening.top),
        flagged=list(screening.flagged),
        intervals=total,
    )


def no_answer(why: str, *, interval: int | None = None) -> Finding:
    """What screening says without sketches that answer the challenge and hold where states are opened."""
    return Finding(step=5, name=NAME, outcome="unverifiable", detail=why, interval=interval, remedy=_AGAIN)


def contradictions(
    answer: Sketches, lineage: Lineage, objects: ObjectStore, opened: Sequence[int]
) -> Iterator[Finding]:
    """A finding for every opened stretch between stored checkpoints over which the states say otherwise.

    Sketches lie under no signed head: they refute nobody, and screening by them is worth nothing then.
    """
    chosen = set(opened)
    stored = stored_checkpoints(lineage.intervals)
    for at, ((first, start), (last, end)) in enumerate(pairwise(stored)):
        if not chosen.issuperset(range(first, last)):
            continue
        try:
            states = [load_state(objects, checkpoint.root).flat for checkpoint in (start, end)]
            found = check_opened(answer, at, start=states[0], end=states[1], objects=lineage.genesis.objects)
        except Unavailable:
            # What a proof brings is read whole in step 6, and what it lacks is reported there.
            continue
        except UsageError as error:
            # Genesis does not describe every object of the states.
            yield no_answer(f"the sketches cannot be held against the states: {error}", interval=first)
            return
        for item in found[:1]:
            detail = (
                f"the sketches say that {item.group} moved otherwise between steps {start.step} and {end.step} than "
                "the states show"
            )
            yield no_answer(detail, interval=first)
