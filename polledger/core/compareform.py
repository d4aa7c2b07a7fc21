"""The JSON form of a comparison: the one object of ``compare --json``, which ``--report`` keeps as compare.json.

Facts about two rivals, side by side, and no score. ``schemas/compare-report.schema.json`` is made from these types.
"""

from typing import Literal, TypeAlias, TypedDict

from polledger.core.reportform import (
    Assurance,
    Comparison,
    HeadForm,
    Hex,
    Moment,
    Number,
    OriginForm,
    Verdict,
)

Relation: TypeAlias = Literal["exact", "derived", "near", "apart", "other form", "unknown"]
"""How two final models relate. ``exact``: one model root. ``derived``: one run begins where the other ends, or within
half of the other's way from there. ``near``: they lie closer than half of the longer way. ``apart``: they do not.
``other form``: no tensor of one has a counterpart of its name and shape. ``unknown``: a model is not at hand."""

Earlier: TypeAlias = Literal["A", "B", "tie"] | None
"""Who was first by external time; ``tie`` where accuracies overlap, None where nothing orders the two."""


class AnchorForm(TypedDict):
    """By when something existed, as external authorities say, and how many seconds they may be off."""

    time: Moment
    accuracy: Number


class SideTimeForm(TypedDict):
    """Time of one side. ``genesis`` dates intent, ``end`` the model; None without a quorum of the trust file.

    ``genesis_first``: the first head covers no step. ``steps_per_second``: over the time between the anchors.
    """

    assurance: Assurance
    genesis: AnchorForm | None
    end: AnchorForm | None
    operators: list[str]
    genesis_first: bool | None
    steps_per_second: Number | None


class CoverageForm(TypedDict):
    """How much of a training is there. ``gaps``: what is missing or damaged."""

    records: int
    seals: int
    steps: int
    intervals: int
    stored: int
    resumes: int
    abandoned: int
    complete: bool
    gaps: list[str]


class SideVerdictForm(TypedDict):
    """What ``verify`` says under the common nonce."""

    verdict: Verdict
    sentence: str
    replayed: int
    intervals: int
    comparison: Comparison


class SideForm(TypedDict):
    """One rival: a run or a proof of one, or a claim with its public proof. ``missing``: what could not be looked at.

    Fields are None where nothing authentic says.
    """

    name: str
    what: Literal["run", "claim"]
    run: Hex | None
    key: Hex | None
    bound: bool | None
    kind: Literal["recipe", "custom"] | None
    head: HeadForm | None
    model_root: Hex | None
    task: Hex | None
    dataset: Hex | None
    origin: OriginForm
    coverage: CoverageForm
    time: SideTimeForm
    verdict: SideVerdictForm | None
    missing: list[str]


class ApartForm(TypedDict):
    """Two tensors, or two models as one vector. ``relative``: l2 distance over the norm of A's.

    ``equal`` of ``numbers`` are the same on both sides; ``zeros`` counts what is 0 in A and in B.
    """

    l2: Number
    relative: Number
    cosine: Number
    numbers: int
    equal: int
    zeros: list[int]


class TensorApartForm(ApartForm):
    """One tensor of the final models."""

    name: str
    shape: list[int]
    dtypes: list[str]


class BindingForm(TypedDict):
    """The final models. ``ways``: how far each run went from its first model; None where that is not at hand.

    ``tensors``: those that differ most, furthest first; ``left_out`` more are compared. ``unmatched``: names without a
    counterpart of their shape, and ``unmatched_left_out`` more. ``equal_digests``: how many tensors of how many have
    one digest on both sides, where a claim shows nothing else.
    """

    relation: Relation
    ways: list[Number | None]
    total: ApartForm | None
    tensors: list[TensorApartForm]
    left_out: int
    unmatched: list[str]
    unmatched_left_out: int
    equal_digests: list[int] | None


class StartForm(TypedDict):
    """Where one run begins, seen from the other's end. ``declared``: its genesis names a head of the other.

    ``exact``: its first model has the other's model root. ``distance`` to the other's final model, and as ``share`` of
    the other's way. None where it is not at hand.
    """

    declared: bool
    exact: bool | None
    distance: Number | None
    share: Number | None


class SharedForm(TypedDict):
    """What stands in both ledgers: run id, state roots, batch digests (salted with a secret), data root, code."""

    run: bool
    states: int
    batches: int
    dataset: bool
    task: bool


class LineageForm(TypedDict):
    """Whether one run comes from the other."""

    a_from_b: StartForm
    b_from_a: StartForm
    shared: SharedForm


class PathForm(TypedDict):
    """l2 distance between the rivals' models after equally many steps, where both stored a checkpoint."""

    steps: list[int]
    distance: list[Number]
    norm: list[Number]


class OrderForm(TypedDict):
    """Who was first, by external time alone: ``genesis`` and ``end``; ``why`` in words."""

    genesis: Earlier
    end: Earlier
    why: str


class AuthoritiesForm(TypedDict):
    """Operators that vouch for both sides, or for one alone."""

    common: list[str]
    only_a: list[str]
    only_b: list[str]


class EquivocationForm(TypedDict):
    """Two signed heads of one key that contradict each other: digests, and in what."""

    heads: list[Hex]
    detail: str


class RivalsForm(TypedDict):
    """What ``compare`` found. ``missing``: what could not be compared; empty with exit code 0."""

    schema: Literal["polledger.compare/1"]
    exit_code: Literal[0, 3]
    sentence: str
    nonce: Hex
    policy: Hex
    trusted: bool
    a: SideForm
    b: SideForm
    binding: BindingForm
    order: OrderForm
    lineage: LineageForm
    path: PathForm | None
    same_key: bool | None
    authorities: AuthoritiesForm
    equivocation: EquivocationForm | None
    missing: list[str]
    not_shown: list[str]
    compared_at: Moment
    version: str


class RivalsFailureForm(TypedDict):
    """``compare`` could not do what it was asked."""

    schema: Literal["polledger.compare/1"]
    exit_code: Literal[1, 2, 3, 4, 130]
    error: str
