"""Spoof 17, grinding: the prover makes many final heads until one draws a sample that misses the bogus interval.

Nothing the prover commits can be told apart by where its seals lie, and every choice of places gives the last head
another digest, through the heads before it. Were the nonce derived from that head, as in a proof that nobody asks
for, thousands of heads an hour could be tried and one of them would be favourable; with a nonce that the verifier
makes after the head exists, the favourable head is as good as any other. PROTOCOL section 10, step 6.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.digest import ZERO, sha256
from polledger.core.head import Head
from polledger.core.merkle import Frontier, chainpoint_node, leaf_hash
from polledger.core.records import Checkpoint, parse_genesis
from polledger.core.sampling import draw, sample_seed
from polledger.errors import Unavailable
from polledger.redteam import batches
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.rewrite import read_records, reseal
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.store.run import RunDirectory
from polledger.training.nest import encode_nest
from polledger.training.sealer import encode_record
from polledger.verify.policy import Policy

TRIES = 100_000
FRESH = 2_000
"""Nonces by which the chance to be found is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flawed:
    """A run that is training except in interval ``bogus`` of ``total``, and what it cost."""

    run: RunDirectory
    bogus: int
    total: int
    gradients: float

    @property
    def sample(self) -> int:
        """The size of sample that the thief reckons with: a quarter of the run."""
        return max(1, self.total // 4)

    def is_missed(self, nonce: bytes, head: bytes) -> bool:
        """Whether the sample drawn with ``nonce`` under ``head`` does not hold the bogus interval."""
        seed = sample_seed(nonce=nonce, head=head, policy=Policy().digest())
        return self.bogus not in draw(seed, total=self.total, count=self.sample)


def flawed_run(target: Target, attempt: Attempt) -> Flawed:
    """Train honestly but for one late interval, whose steps consume other batches than the records say.

    It moves as far as its neighbours: nothing but its own replay shows it.
    """
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        ends = interval_ends(forge.cadence)
        bogus = 3 * len(ends) // 4
        forge.begin()
        for n in range(forge.steps):
            committed = forge.recorder.batch(n, encode_nest(forge.batch(n)))
            bent = ends[bogus - 1] <= n < ends[bogus]
            forge.train(n, batches.order(forge, n) if bent else None, committed=committed)
            forge.checkpoint(n + 1)
        forge.finish()
        return Flawed(run=forge.run, bogus=bogus, total=len(ends), gradients=forge.cost(target))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Places of seals (``sizes``, records) whose last head, as source of the nonce, draws a favourable sample."""

    sizes: frozenset[int]
    head: bytes
    tries: int


def grind(flawed: Flawed, *, seed: int) -> Ground:
    """Try places for the seals until the sample derived from the last head misses. Raises Unavailable if none does."""
    trees = _Trees(flawed.run)
    for tries, sizes in enumerate(_places(trees.checkpoints, seed), start=1):
        head = trees.last_head(sizes)
        if flawed.is_missed(derived_nonce(head), head):
            return Ground(sizes=sizes | {trees.first}, head=head, tries=tries)
        if tries == TRIES:
            break
    raise Unavailable(f"none of {TRIES} heads draws a sample that misses the bogus interval")


def derived_nonce(head: bytes) -> bytes:
    """The nonce that a proof without a verifier would have to take: a digest of what it commits."""
    return sha256(b"derived" + head)


def _places(checkpoints: Sequence[int], seed: int) -> Iterator[frozenset[int]]:
    choices = random.Random(seed)
    while True:
        yield frozenset(size for size in checkpoints if choices.random() < 0.5)


class _Trees:
    """Roots of a run's ledger behind every checkpoint, so that the heads over any choice of them cost nothing."""

    def __init__(self, run: RunDirectory) -> None:
        records = read_records(run)
        tree, chainpoint = Frontier(), Frontier(chainpoint_node)
        self._run = parse_genesis(encode_record(records[0])).run
        self._roots: dict[int, tuple[bytes, bytes]] = {}
        for size, record in enumerate(records, start=1):
            leaf = leaf_hash(sha256(encode_record(record)))
            tree.append(leaf)
            chainpoint.append(leaf)
            if isinstance(record, Checkpoint) or size == len(records):
                self._roots[size] = tree.root(), chainpoint.root()
        self.first, *self.checkpoints, self._last = sorted(self._roots)

    def last_head(self, sizes: frozenset[int]) -> bytes:
        """Digest of the head over everything, after heads over the first checkpoint and each of ``sizes``."""
        digest = ZERO
        for size in sorted({self.first, *sizes, self._last}):
            root, chainpoint = self._roots[size]
            digest = Head(
                run=self._run, size=size, root=root, chainpoint=chainpoint, previous=digest
            ).digest()
        return digest


def ground(target: Target, attempt: Attempt) -> Forgery:
    """A run with one bogus interval, sealed so that its last head would draw a sample without it."""
    flawed = flawed_run(target, attempt)
    chosen = grind(flawed, seed=attempt.seed)
    records = [encode_record(record) for record in read_records(flawed.run)]
    reseal(flawed.run, records, sizes=set(chosen.sizes), key=thief_key(attempt.seed))
    fresh = (sha256(b"fresh" + number.to_bytes(8, "big")) for number in range(FRESH))
    missed = sum(flawed.is_missed(nonce, chosen.head) for nonce in fresh) / FRESH
    return Forgery(
        run=flawed.run.path,
        gradients=flawed.gradients,
        sample=flawed.total,
        bogus=1,
        reached={
            "heads tried": chosen.tries,
            f"missed by n = {flawed.sample}, nonce derived from the head": 1.0,
            f"missed by n = {flawed.sample}, fresh nonces": missed,
            f"missed by n = {flawed.sample}, any head": 1 - flawed.sample / flawed.total,
        },
        note="a favourable head gains nothing against a nonce that is made after it",
    )


SPOOFS = (
    Spoof(
        number=17,
        variant="",
        title="a head that draws a favourable sample",
        source="sampling",
        forge=ground,
        reference=False,
        why="it takes the largest updates and draws nothing",
    ),
)
