"""Spoof 23, the presenter's sample: challenges are drawn until one misses the bogus interval, and that proof is shown.

Drawing costs nothing. A proof that is verified without a challenge of the verifier's own (PROTOCOL section 11) says
"chosen by the presenter" and is never VERIFIED. Where the run is at hand the nonce is made by whoever types
``polledger verify``, and there the spoof fails at the printed odds. Who takes over the presenter's ``--nonce`` verifies
the presenter's sample (:data:`LIMITS`): the report prints the nonce, and a reader who did not choose it knows nothing
from the sample.
"""

from polledger.core.digest import sha256
from polledger.redteam.grinding import Flawed, flawed_run
from polledger.redteam.seals import head_of
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target


def present(target: Target, attempt: Attempt) -> Forgery:
    """A run with one bogus interval, shown with a verdict over a favourable sample; the verifier draws its own."""
    flawed = flawed_run(target, attempt)
    nonce, tries = favourable(flawed, seed=attempt.seed)
    return _forgery(
        flawed, tries, sample=flawed.total, note=f"the presenter's own verdict had --nonce {nonce.hex()}"
    )


def dictate(target: Target, attempt: Attempt) -> Forgery:
    """The same run, and the verifier takes over nonce and size of the presenter's sample."""
    flawed = flawed_run(target, attempt)
    nonce, tries = favourable(flawed, seed=attempt.seed)
    return _forgery(
        flawed,
        tries,
        sample=flawed.sample,
        arguments=("--nonce", nonce.hex()),
        note="the nonce is the presenter's",
    )


def favourable(flawed: Flawed, *, seed: int) -> tuple[bytes, int]:
    """A nonce whose sample misses the bogus interval, and how many were tried."""
    head = head_of(flawed.run, flawed.run.seals()[-1]).digest()
    tries = 0
    while True:
        tries += 1
        nonce = sha256(b"challenge" + f"{seed}/{tries}".encode())
        if flawed.is_missed(nonce, head):
            return nonce, tries


def _forgery(
    flawed: Flawed, tries: int, *, sample: int, note: str, arguments: tuple[str, ...] = ()
) -> Forgery:
    return Forgery(
        run=flawed.run.path,
        gradients=flawed.gradients,
        sample=sample,
        bogus=1,
        arguments=arguments,
        reached={"challenges drawn": tries},
        note=note,
    )


_NO_CHALLENGE = "it takes the largest updates and draws nothing"

SPOOFS = (
    Spoof(
        number=23,
        variant="",
        title="a verdict over a sample that the presenter chose",
        source="review",
        forge=present,
        reference=False,
        why=_NO_CHALLENGE,
    ),
)

LIMITS = (
    Spoof(
        number=23,
        variant="dictated",
        title="the verifier takes over the presenter's nonce",
        source="review",
        forge=dictate,
        reference=False,
        why=_NO_CHALLENGE,
    ),
)
"""What verifies all the same: a nonce of the presenter's is no sample."""
