"""The JSON form of a verification: the one object of ``verify --json``, which ``--report`` keeps as report.json.

The types say what is in it; ``schemas/verify-report.schema.json`` is made from them. PROTOCOL section 14 names the
fields that never change; a later version may add others, and takes none away.
"""

import math
from typing import Annotated, Literal, NotRequired, TypeAlias, TypedDict

from msgspec import Meta

from polledger.core.tolerance import Outcome

Verdict: TypeAlias = Literal["VERIFIED", "REFUTED", "UNVERIFIABLE"]
Comparison: TypeAlias = Literal["bitwise", "tolerance", "none"]
Assurance: TypeAlias = Literal["external", "self-asserted", "unverified"]

Number: TypeAlias = float | Literal["inf", "-inf", "nan"]
"""A real number, or its name where JSON has none for it."""

Span: TypeAlias = Annotated[list[int], Meta(min_length=2, max_length=2)]
Moment: TypeAlias = Annotated[str, Meta(description="ISO 8601, UTC.")]
Hex: TypeAlias = Annotated[str, Meta(description="Hexadecimal, lower case.")]


def number(value: float) -> Number:
    """``value``, or its name where JSON has no number for it."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


class HeadForm(TypedDict):
    """The newest head that the records match: number of its seal, tree size, root, digest of the note's text."""

    seal: int
    size: int
    root: Hex
    digest: Hex


class FindingForm(TypedDict):
    """One result of one numbered step."""

    step: int
    name: str
    outcome: Outcome
    detail: str
    record: NotRequired[int]
    interval: NotRequired[int]
    expected: NotRequired[str]
    found: NotRequired[str]
    remedy: NotRequired[str]


class GroupForm(TypedDict):
    """One group of the state: error, displacement and noise floor as l2 norms. No ``nu``: it was not measured."""

    e: Number
    u: Number
    outcome: Outcome
    nu: NotRequired[Number]
    why: NotRequired[str]


class DistancesForm(TypedDict):
    """Further distances of one group between replayed and recorded state: reported, never judged."""

    l1: Number
    l2: Number
    linf: Number
    cosine: Number
    worst: str
    d_ref: NotRequired[Number]
    d_ref_normalised: NotRequired[Number]


class IntervalForm(TypedDict):
    """One opened interval: ``steps`` are its first one and the one after its last."""

    interval: int
    steps: Span
    outcome: Outcome
    exact: bool
    groups: dict[str, GroupForm]
    distances: dict[str, DistancesForm]
    why: str


class FlagForm(TypedDict):
    """What looked odd to screening: ``value`` is beyond ``limit`` in the intervals from the first to the last named."""

    kind: Literal["jump", "alone", "arrival", "pace", "straight", "optimizer"]
    intervals: Span
    group: str
    value: Number
    limit: Number
    opened: Literal["all", "some"]


class ScreeningForm(TypedDict):
    """The one reading of every stored checkpoint."""

    read: int
    stored: int
    bytes: int
    budget: int
    saturated: bool
    covered: float
    compared: float
    opened_path: float
    flags: list[FlagForm]


class GroupTrackForm(TypedDict):
    """One group of parameters, a number for each point of the trajectory.

    ``distance`` (l2) from the first point is estimated from a sketch; ``moved`` is the largest displacement (l2, exact)
    between two consecutive stored checkpoints since the point before.
    """

    name: str
    distance: list[Number]
    moved: list[Number]


class TrajectoryForm(TypedDict):
    """Where the parameters were at the stored checkpoints, as far from the first one.

    ``steps`` and ``intervals``: how many lie before each point. ``merged``: segments that one point stands for, more
    than 1 in long runs. ``error``: relative standard error of an estimated distance. ``groups``: those that move
    furthest; ``left_out`` more there are.
    """

    steps: list[int]
    intervals: list[int]
    merged: int
    error: float
    groups: list[GroupTrackForm]
    left_out: int


class SampleForm(TypedDict):
    """What was opened, and why: ``drawn_intervals`` by the draw, ``top`` and ``flagged`` by step 5."""

    nonce: Hex
    total: int
    drawn: int
    drawn_intervals: list[int]
    intervals: list[int]
    top: list[int]
    flagged: list[int]


class OddsForm(TypedDict):
    """For ``bogus`` intervals: chances that the draw holds one and that it does not, and the draw that has 99 %."""

    share: str
    bogus: int
    detection: float
    passes: float
    sample_for_99: int


class WaitingForm(TypedDict):
    """A request that no authority has answered yet, by the prover's notes."""

    seal: int
    authority: str
    since: Moment | None
    attempts: int
    reason: str


class LagForm(TypedDict):
    """Seconds from seals, by the prover's clock, to the genTime of their tokens; ``seal`` had to wait longest."""

    tokens: int
    median: float
    longest: float
    seal: int


class WitnessForm(TypedDict):
    """What one witness of the trust file cosigned."""

    name: str
    operator: str
    heads: int
    size: int
    first: Moment | None
    last: Moment | None
    final: bool


class RenewalForm(TypedDict):
    """One renewal, and when (``by``) a quorum of the trust file's operators had vouched for it."""

    index: int
    by: Moment | None
    operators: list[str]


class FastestForm(TypedDict):
    """The two anchors with the most steps a second between them, in the longest time that their accuracies allow."""

    seals: Span
    steps: int
    seconds: float
    steps_per_second: float


class PaceForm(TypedDict):
    """Steps and seconds between the first and the last anchor, at the fastest, and here."""

    seals: Span
    steps: int
    seconds: float
    steps_per_second: float | None
    fastest: FastestForm
    replayed_steps_per_second: NotRequired[float]


class TokenForm(TypedDict):
    """One usable token. ``operator``: who vouches for it in the trust file. ``embedded``: the prover's own clock.

    ``accuracy`` in seconds, null where the token states none. ``lag``: seconds since the seal by the prover's clock.
    """

    authority: str
    operator: str | None
    embedded: bool
    time: Moment
    accuracy: float | None
    lag: float | None


class SealForm(TypedDict):
    """One seal: records and steps that it covers, when it was made by the prover's clock, and its tokens.

    ``left_out``: tokens that are not listed.
    """

    seal: int
    size: int
    steps: int
    made: Moment | None
    tokens: list[TokenForm]
    left_out: int


class TimelineForm(TypedDict):
    """Seals in order, evenly spaced where there are many: ``left_out`` are not listed. The first and last are."""

    seals: list[SealForm]
    left_out: int


class TimeForm(TypedDict):
    """What the timestamps show: ``first`` covers genesis, ``last`` the newest head."""

    assurance: Assurance
    first: Moment | None
    last: Moment | None
    operators: list[str]
    pending: int
    renewals: list[RenewalForm]
    until: Moment | None
    seals: int
    stamped: int
    waiting: list[WaitingForm]
    lag: LagForm | None
    pace: PaceForm | None
    witnesses: list[WitnessForm]
    timeline: TimelineForm


class SourceForm(TypedDict):
    """One file of the committed source."""

    path: str
    size: int
    sha256: Hex


CodeForm = TypedDict(
    "CodeForm",
    {
        "kind": Literal["recipe", "custom"],
        "digest": Hex,
        "class": str,
        "lines": int,
        "entry": str,
        "files": int,
        "sources": list[SourceForm],
        "vouched": str,
    },
    total=False,
)
"""The task's code: what genesis commits to, how many lines there are to read, and who vouches for them.

``sources`` lists the first of its ``files``.
"""

EnvironmentValue: TypeAlias = str | int | dict[str, str | int | bool]


class EnvironmentForm(TypedDict, total=False):
    """Recorded and replaying environment (fields as in genesis), and in what the class differs."""

    recorded: dict[str, EnvironmentValue]
    replayed: dict[str, EnvironmentValue]
    differences: list[str]
    isolation: dict[str, bool]


class OriginForm(TypedDict, total=False):
    """What the run starts from besides its seed; nothing where no genesis is authentic.

    A ``parent`` is named by ``head``; ``run``, ``verdict``, ``sentence`` and ``origin`` are its own, where it was
    verified. An ``external`` file is named by ``sha256``. ``fresh``: tensors that are not taken.
    """

    kind: Literal["scratch", "parent", "external"]
    head: Hex
    mode: Literal["model", "continue"]
    sha256: Hex
    fresh: list[str]
    run: Hex | None
    verdict: Verdict
    sentence: str
    origin: "OriginForm"


class RulesForm(TypedDict):
    """Bounds of the comparison: the tolerance is ``margin`` times the noise floor, and below ``rho`` displacements."""

    margin: float
    rho: float


class VerificationForm(TypedDict):
    """What ``verify`` found."""

    schema: Literal["polledger.verify/1"]
    exit_code: Literal[0, 1, 3]
    verdict: Verdict
    sentence: str
    run: Hex | None
    head: HeadForm | None
    findings: list[FindingForm]
    intervals: list[IntervalForm]
    screening: ScreeningForm | None
    trajectory: TrajectoryForm | None
    sample: SampleForm | None
    odds: list[OddsForm]
    time: TimeForm
    code: CodeForm
    comparison: Comparison
    rules: RulesForm
    environment: EnvironmentForm
    policy: Hex
    origin: OriginForm
    timing: dict[str, float]
    limits: list[str]
    first_bad: FindingForm | None
    verified_at: Moment | None
    version: str


class FailureForm(TypedDict):
    """Why there is no verdict."""

    schema: Literal["polledger.verify/1"]
    exit_code: Literal[2, 4, 130]
    error: str
