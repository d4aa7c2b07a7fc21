"""What a spoof is: a program that makes a run directory out of what a thief has, and says what that cost.

PROTOCOL section 15 lists the threats; ``docs/soundness.md`` says for each spoof what became of it. A spoof writes a
complete, well-formed run, sealed and timestamped under the thief's own key. It never sees the honest run's secrets:
:class:`Target` holds the final weights, the task and the data, and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polledger.core.state import FlatState


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a thief knows: the task with its public settings and data, and the published weights WT.

    ``weights`` are the entries of the honest run's model object alone (parameters and buffers); ``task``,
    ``settings`` and ``inputs`` are what ``polledger seal`` takes; ``every`` and ``warm`` the run's cadence.
    """

    task: str
    settings: tuple[str, ...]
    inputs: Mapping[str, str]
    weights: FlatState
    steps: int
    every: int
    warm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """One forged run. ``gradients``: gradient computations spent, in those of the honest training of the stolen model.

    ``sample`` is the n at which the spoof claims to be tried, ``bogus`` how many of the run's intervals are not
    training (0: the defect is not in an interval), ``arguments`` what the verifier adds to ``polledger verify RUN``
    (such as a trust file). ``reached`` are the smallest distances the spoof got to, by name; ``note`` one sentence for
    the table.
    """

    run: Path
    gradients: float
    sample: int
    bogus: int
    arguments: tuple[str, ...] = ()
    reached: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a spoof is given: where to write, a seed for its choices, and how much it may spend.

    ``directory`` is empty and the spoof's own; ``budget`` bounds ``Forgery.gradients`` for spoofs that optimise.
    """

    directory: Path
    seed: int
    budget: float = 1.0
    watch: Callable[[str], None] = lambda text: None


Forge = Callable[[Target, Attempt], Forgery]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoof:
    """An entry of the catalogue. ``number`` and ``variant`` name it; ``source`` is the paper, or who found it.

    ``reference`` is False where a verifier of the published kind has nothing that the spoof would have to pass, and
    ``why`` then says so. ``slow``: it writes hundreds of states, which is left out unless asked for.
    ``limit``: that it verifies is known and stated among the limits of what polledger shows.
    """

    number: int
    variant: str
    title: str
    source: str
    forge: Forge
    reference: bool = True
    why: str = ""
    slow: bool = False
    limit: bool = False

    @property
    def name(self) -> str:
        """``9`` or ``2+interpolation``: how reports call it."""
        return f"{self.number}+{self.variant}" if self.variant else str(self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one forgery. ``report`` is the object that ``polledger verify --json`` printed.

    ``reference``: whether a verifier of the published kind accepts it by the l2 distance, ``shipped`` by all four that
    its code has; None where that says nothing.
    """

    spoof: str
    seed: int
    forgery: Forgery
    report: Mapping[str, Any]
    reference: bool | None
    shipped: bool | None
