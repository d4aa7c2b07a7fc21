"""Two rivals side by side: facts first, no score, no winner. PROTOCOL section 13; docs/decisions/0040.

Only what external authorities vouch for orders the two in time, and what comes first shows possession, not authorship.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import UnsetType

from polledger import __version__
from polledger.core.compareform import (
    AuthoritiesForm,
    BindingForm,
    Earlier,
    EquivocationForm,
    LineageForm,
    OrderForm,
    PathForm,
    Relation,
    RivalsForm,
    SharedForm,
    StartForm,
)
from polledger.core.merkle import Frontier
from polledger.core.moment import utc_text
from polledger.core.records import Checkpoint
from polledger.core.reportform import Number, number
from polledger.core.start import Tensors
from polledger.publish.apart import SHOWN, ModelsApart, distance, models_apart, norm
from polledger.publish.side import Anchored, Side, anchored, first_head, operators, side_form
from polledger.verify.compare import same_bytes, same_form
from polledger.verify.policy import Policy

SCHEMA = "polledger.compare/1"

HALF = 0.5
"""Share of a run's own way within which something lies near its end. Two trainings from independent seeds end further
apart than either of them went; a copy that was trained on, pruned or quantised does not."""

POINTS = 20
"""Pairs of checkpoints that are compared along the way, each of which is read and hashed."""

POSSESSION = "earlier proves possession, not authorship"

NOT_SHOWN = (
    f"{POSSESSION[0].upper()}{POSSESSION[1:]}: a timestamp says that somebody had these bytes by then.",
    "Who holds a key, or who is behind it: have each side sign a text of yours with it.",
    "Where data come from and whether they were lawful to use; the code of both tasks has to be read.",
    "Two VERIFIED runs contradict each other in nothing: each may have trained what it says.",
    "Runs, claims and heads that neither side shows.",
)
"""What no comparison can say: printed with each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked: the verifier's policy and nonce, whether it has a trust file, and its clock.

    ``replayed`` False: no verdicts were asked for.
    """

    policy: Policy
    nonce: bytes
    trusted: bool
    now: datetime
    replayed: bool = True


def compare_sides(a: Side, b: Side, question: Question) -> RivalsForm:
    """Everything that the two show about each other. Reads models and checkpoints; raises nothing that they cause."""
    binding = _binding(a, b)
    lineage = _lineage(a, b)
    binding["relation"] = _relation(a, b, binding, lineage)
    order = _order(a, b, question)
    path = _path(a, b)
    missing = [
        f"{label}: {text}"
        for label, side in (("A", a), ("B", b))
        for text in _missing(side, question, binding["relation"])
    ]
    found: RivalsForm = {
        "schema": "polledger.compare/1",
        "exit_code": 3 if missing else 0,
        "sentence": "",
        "nonce": question.nonce.hex(),
        "policy": question.policy.digest().hex(),
        "trusted": question.trusted,
        "a": side_form(a, policy=question.policy),
        "b": side_form(b, policy=question.policy),
        "binding": binding,
        "order": order,
        "lineage": lineage,
        "path": path,
        "same_key": None if a.genesis is None or b.genesis is None else a.genesis.key == b.genesis.key,
        "authorities": _authorities(a, b),
        "equivocation": _equivocation(a, b),
        "missing": missing,
        "not_shown": list(NOT_SHOWN),
        "compared_at": utc_text(question.now),
        "version": __version__,
    }
    found["sentence"] = compare_sentence(found)
    return found


def _missing(side: Side, question: Question, relation: Relation) -> list[str]:
    missing = list(dict.fromkeys(side.missing))
    if side.genesis is not None and side.final is None:
        missing.append("the run is not finished: it has no final model")
    if relation == "unknown" and side.final is not None and not side.missing and side.last_model() is None:
        missing.append("its final model is not at hand")
    if question.replayed and side.report is not None and not side.report.intervals:
        missing.append("nothing was replayed: " + _reason(side))
    return missing


def _reason(side: Side) -> str:
    """Why no interval of it was replayed."""
    if side.facts is not None:
        return "a claim shows no training; compare the run, or a proof of it"
    findings = () if side.report is None else side.report.findings
    found = next((item for item in findings if item.name == "code" and item.blocks), None)
    if found is None:
        return "see its verdict"
    return f"{found.detail}; {found.remedy}" if found.remedy else found.detail


def _binding(a: Side, b: Side) -> BindingForm:
    """Distances between the final models; the relation is set once the lineage is known."""
    one, other = a.last_model(), b.last_model()
    apart = ModelsApart() if one is None or other is None else models_apart(one, other)
    return {
        "relation": "unknown",
        "ways": [_number(_way(a)), _number(_way(b))],
        "total": apart.total.form() if apart.comparable else None,
        "tensors": apart.tensors[:SHOWN],
        "left_out": max(0, len(apart.tensors) - SHOWN),
        "unmatched": apart.unmatched[:SHOWN],
        "unmatched_left_out": max(0, len(apart.unmatched) - SHOWN),
        "equal_digests": None if apart.comparable else _equal_digests(a, b),
    }


def _equal_digests(a: Side, b: Side) -> list[int] | None:
    ours, theirs = a.tensor_digests(), b.tensor_digests()
    if ours is None or theirs is None:
        return None
    return [
        sum(theirs.get(name) == digest for name, digest in ours.items()),
        len(ours.keys() | theirs.keys()),
    ]


def _number(value: float | None) -> Number | None:
    return None if value is None else number(value)


def _way(side: Side) -> float | None:
    first, last = side.first_model(), side.last_model()
    return None if first is None or last is None else distance(first, last)


def _relation(a: Side, b: Side, binding: BindingForm, lineage: LineageForm) -> Relation:
    one, other = a.last_model(), b.last_model()
    if (
        a.model_root is not None
        and a.model_root == b.model_root
        and (one is None or other is None or _same(one, other))
    ):
        return "exact"
    starts = (lineage["a_from_b"], lineage["b_from_a"])
    if any(start["exact"] or _within(start["share"], 1.0) for start in starts):
        return "derived"
    if one is None or other is None:
        return "unknown"
    if binding["total"] is None:
        return "other form"
    ways = [way for way in binding["ways"] if isinstance(way, float)]
    return "near" if ways and _within(binding["total"]["l2"], max(ways)) else "apart"


def _within(value: Number | None, way: float) -> bool:
    return isinstance(value, float) and value < HALF * way


def _lineage(a: Side, b: Side) -> LineageForm:
    return {"a_from_b": _start(a, b), "b_from_a": _start(b, a), "shared": _shared(a, b)}


def _start(child: Side, parent: Side) -> StartForm:
    """Where ``child`` begins, seen from the end of ``parent``."""
    first, last = child.first_model(), parent.last_model()
    apart = None if first is None or last is None else distance(first, last)
    way = _way(parent)
    exact = None if first is None or last is None else _same(first, last)
    return {
        "declared": _names(child, parent),
        "exact": exact,
        "distance": _number(apart),
        # Beside a way that is not finite everything would be near.
        "share": number(apart / way) if apart is not None and way and math.isfinite(way) else None,
    }


def _same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        same_form(tensor, other[name]) and same_bytes(tensor.data, other[name].data)
        for name, tensor in one.items()
    )


def _names(child: Side, parent: Side) -> bool:
    """Whether the genesis of ``child`` names a head of ``parent``."""
    named = None if child.genesis is None else child.genesis.parent
    if named is None or isinstance(named, UnsetType):
        return False
    return any(item.matches and item.head.digest() == named.head for item in parent.heads.heads)


def _shared(a: Side, b: Side) -> SharedForm:
    ours, theirs = ({checkpoint.root for checkpoint in side.checkpoints} for side in (a, b))
    one, other = (_named(side) for side in (a, b))
    return {
        "run": one[0] is not None and one[0] == other[0],
        "states": len(ours & theirs),
        "batches": len(a.batches() & b.batches()),
        "dataset": one[1] is not None and one[1] == other[1],
        "task": one[2] is not None and one[2] == other[2],
    }


def _named(side: Side) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Run id, data root and code that its genesis states."""
    genesis = side.genesis
    if genesis is None:
        return None, None, None
    data = None if isinstance(genesis.dataset, UnsetType) else genesis.dataset.root
    return genesis.run, data, genesis.task


def _path(a: Side, b: Side) -> PathForm | None:
    """The distance between the two along the way, at most POINTS pairs; None where no step is stored in both."""
    found: PathForm = {"steps": [], "distance": [], "norm": []}
    for one, other in _spread(_pairs(a, b)):
        ours, theirs = a.model(one), b.model(other)
        apart = None if ours is None or theirs is None else distance(ours, theirs)
        if ours is not None and apart is not None:
            found["steps"].append(one.step)
            found["distance"].append(number(apart))
            found["norm"].append(number(norm(ours.values())))
    return found if found["steps"] else None


def _pairs(a: Side, b: Side) -> list[tuple[Checkpoint, Checkpoint]]:
    others = {item.step: item for item in b.checkpoints if item.stored}
    return [(item, others[item.step]) for item in a.checkpoints if item.stored and item.step in others]


def _spread(pairs: Sequence[tuple[Checkpoint, Checkpoint]]) -> list[tuple[Checkpoint, Checkpoint]]:
    if len(pairs) <= POINTS:
        return list(pairs)
    return [pairs[at * (len(pairs) - 1) // (POINTS - 1)] for at in range(POINTS)]


def _order(a: Side, b: Side, question: Question) -> OrderForm:
    policy = question.policy
    firsts = [anchored(side, first_head(side), policy=policy) for side in (a, b)]
    ends = [anchored(side, side.heads.newest, policy=policy) for side in (a, b)]
    return {
        "genesis": _earlier(*firsts),
        "end": _earlier(*ends),
        "why": _why(a, b, ends[0], ends[1], trusted=question.trusted),
    }


def _earlier(one: Anchored | None, other: Anchored | None) -> Earlier:
    if one is None or other is None:
        return None
    if abs(one.time - other.time) <= one.slack + other.slack:
        return "tie"
    return "A" if one.time < other.time else "B"


def _why(a: Side, b: Side, one: Anchored | None, other: Anchored | None, *, trusted: bool) -> str:
    if not trusted:
        return "without a trust file (--trust) no time is external, and nothing orders the two"
    lacking = [label for label, end in (("A", one), ("B", other)) if end is None]
    if lacking:
        return f"no quorum of the trust file vouches for {' and '.join(lacking)}: nothing orders the two"
    if one is None or other is None:
        return ""
    apart = abs(one.time - other.time).total_seconds()
    slack = (one.slack + other.slack).total_seconds()
    common = operators(a).keys() & operators(b).keys()
    clock = "by the clock of one operator" if common else "by clocks of different operators"
    beyond = "beyond" if apart > slack else "within"
    return (
        f"the ends are {apart:.3f} s apart, {beyond} the {slack:.3f} s that their accuracies allow, {clock}"
    )


def _authorities(a: Side, b: Side) -> AuthoritiesForm:
    one, other = operators(a), operators(b)
    return {
        "common": sorted(one[key] for key in one.keys() & other.keys()),
        "only_a": sorted(one[key] for key in one.keys() - other.keys()),
        "only_b": sorted(other[key] for key in other.keys() - one.keys()),
    }


def _equivocation(a: Side, b: Side) -> EquivocationForm | None:
    """Two heads of one run under one key that cannot both be of one log."""
    if a.genesis is None or b.genesis is None:
        return None
    if (a.genesis.key, a.genesis.run) != (b.genesis.key, b.genesis.run):
        return None
    return next(_contradictions(a, b), None) or next(_contradictions(b, a), None)


def _contradictions(side: Side, other: Side) -> Iterator[EquivocationForm]:
    """Heads of ``other`` that the records of ``side``, of the same run, do not give, or its heads of that size."""
    newest = side.heads.newest
    heads = [item.head for item in other.heads.heads if item.matches]
    roots = {item.head.size: item.head.root for item in side.heads.heads if item.matches}
    roots |= _roots(side, {head.size for head in heads})
    for head in heads:
        if newest is not None and roots.get(head.size, head.root) != head.root:
            yield {
                "heads": sorted((newest.head.digest().hex(), head.digest().hex())),
                "detail": f"one key signed both, and they differ within the first {head.size} records",
            }


def _roots(side: Side, sizes: set[int]) -> dict[int, bytes]:
    """Root of the first n sealed records, for every n of ``sizes`` that they reach."""
    tree, found = Frontier(), {}
    for index in range(0 if side.evidence is None else side.heads.sealed):
        leaf = None if side.evidence is None else side.evidence.leaf(index)
        if leaf is None:
            break
        tree.append(leaf)
        if index + 1 in sizes:
            found[index + 1] = tree.root()
    return found


_RELATIONS: dict[Relation, str] = {
    "exact": "the final models are the same, bit for bit",
    "derived": "one run begins at the other's final model, or near it",
    "near": "the final models are near each other",
    "apart": "the final models are apart",
    "other form": "the final models have no tensors in common",
    "unknown": "the final models could not be compared",
}


def compare_sentence(found: RivalsForm) -> str:
    """The facts in one sentence: the last line on standard error."""
    verdicts = [
        f"{label} {'not replayed' if side['verdict'] is None else side['verdict']['verdict']}"
        for label, side in (("A", found["a"]), ("B", found["b"]))
    ]
    parts = [_related(found["binding"]), ", ".join(verdicts), _first(found["order"]["end"])]
    if found["equivocation"] is not None:
        parts.append("one key signed two histories")
    if found["missing"]:
        parts.append(f"not compared: {found['missing'][0]}")
    return f"compared: {'; '.join(parts)}; {POSSESSION}"


def _related(binding: BindingForm) -> str:
    relation = binding["relation"]
    # A root is what a record says: where one of the states is not at hand, nobody has seen that model.
    if relation == "exact" and binding["total"] is None:
        return "both name the same final model"
    return _RELATIONS[relation]


def _first(end: Earlier) -> str:
    if end is None:
        return "no external time orders them"
    return "their external times overlap" if end == "tie" else f"{end} was there first by external time"
