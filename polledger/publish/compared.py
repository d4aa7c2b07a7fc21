"""A comparison in words: the facts about each side and between the two, as terminal and page show them."""

from collections.abc import Iterator

from polledger.core.compareform import (
    AnchorForm,
    ApartForm,
    BindingForm,
    LineageForm,
    PathForm,
    RivalsForm,
    SideForm,
    StartForm,
)
from polledger.core.report import counted, origin_text
from polledger.core.reportform import Number


def side_facts(side: SideForm) -> Iterator[tuple[str, str]]:
    """What one side says, and what of it was checked: name and text of each fact, in one order for both."""
    coverage, time = side["coverage"], side["time"]
    yield "name", f"{side['name']}{' (a claim)' if side['what'] == 'claim' else ''}"
    yield "run", side["run"] or "not authentic"
    yield "key", side["key"] or "unknown"
    yield "seed", {True: "bound to the key", False: "NOT bound to the key", None: "unknown"}[side["bound"]]
    yield "model root", side["model_root"] or "none: not finished"
    yield "code", f"{side['kind'] or 'unknown'}, {side['task'] or 'unknown'}"
    yield "data", side["dataset"] or "no data set committed"
    yield "origin", _origin(side)
    yield (
        "covers",
        (
            f"{counted(coverage['steps'], 'step')}, {counted(coverage['intervals'], 'interval')}, "
            f"{counted(coverage['records'], 'record')} under {counted(coverage['seals'], 'seal')}; "
            f"{counted(coverage['stored'], 'stored checkpoint')}"
        ),
    )
    yield "gaps", "; ".join(coverage["gaps"]) or _interruptions(side)
    yield "time", time["assurance"]
    yield "genesis by", _anchor(time["genesis"]) + _order_of_genesis(side)
    yield "end by", _anchor(time["end"])
    yield "vouching", ", ".join(time["operators"]) or "no operator of the trust file"
    yield "pace", _pace(time["steps_per_second"])
    verdict = side["verdict"]
    yield "verdict", "not replayed" if verdict is None else verdict["sentence"]
    yield "missing", "; ".join(side["missing"]) or "nothing"


def _origin(side: SideForm) -> str:
    kind = side["origin"].get("kind")
    if kind is None:
        return "unknown"
    return "from its seed alone" if kind == "scratch" else origin_text(side["origin"])


def _interruptions(side: SideForm) -> str:
    coverage = side["coverage"]
    if side["what"] == "claim":
        return "a claim shows the ends of a run alone"
    if not coverage["complete"]:
        return "it is not complete"
    resumes = counted(coverage["resumes"], "resume")
    return f"none; {resumes}, {counted(coverage['abandoned'], 'record')} abandoned"


def _anchor(anchor: AnchorForm | None) -> str:
    return "no external time" if anchor is None else f"{anchor['time']} ± {anchor['accuracy']} s"


def _order_of_genesis(side: SideForm) -> str:
    first = side["time"]["genesis_first"]
    return (
        "" if first is None else ", sealed before step 0" if first else ", sealed only after training began"
    )


def _pace(value: Number | None) -> str:
    return (
        "unknown without external anchors"
        if value is None
        else f"{short(value)} steps a second between its anchors"
    )


def between(found: RivalsForm) -> Iterator[tuple[str, str]]:
    """What the two show about each other: name and text of each fact."""
    yield "models", _models(found["binding"])
    yield "first", f"{_order(found)}; {found['order']['why']}"
    yield "A from B", _start(found["lineage"]["a_from_b"], "A", "B")
    yield "B from A", _start(found["lineage"]["b_from_a"], "B", "A")
    yield "shared", _shared(found["lineage"])
    path = found["path"]
    if path is not None:
        yield "along", _along(path)
    yield "keys", {True: "one key signed both", False: "two keys", None: "unknown"}[found["same_key"]]
    yield "authorities", _authorities(found)
    equivocation = found["equivocation"]
    if equivocation is not None:
        yield "equivocation", f"{equivocation['detail']}: heads {' and '.join(equivocation['heads'])}"
    yield "nonce", f"{found['nonce']}, one for both samples"
    for text in found["missing"]:
        yield "not compared", text


def _along(path: PathForm) -> str:
    last = len(path["steps"]) - 1
    begin, end = (f"{short(path['distance'][at])} after step {path['steps'][at]}" for at in (0, last))
    return f"{begin}, {end} ({counted(last + 1, 'pair')} of checkpoints compared)"


def _models(binding: BindingForm) -> str:
    relation, total = binding["relation"], binding["total"]
    ways = ", ".join(
        f"{label} went {short(way)}"
        for label, way in zip("AB", binding["ways"], strict=True)
        if way is not None
    )
    if relation == "exact":
        return f"exact: one model root{f'; {ways}' if ways else ''}"
    if total is None:
        digests = binding["equal_digests"]
        return relation if digests is None else f"{relation}: {digests[0]} of {digests[1]} tensors are equal"
    without = len(binding["unmatched"]) + binding["unmatched_left_out"]
    unmatched = f"; {counted(without, 'tensor')} without a counterpart" if without else ""
    return f"{relation}: {_apart(total)}{f'; {ways}' if ways else ''}{unmatched}"


def _apart(total: ApartForm) -> str:
    share = total["equal"] / total["numbers"] if total["numbers"] else 0.0
    zeros = [count / total["numbers"] for count in total["zeros"]] if total["numbers"] else [0.0, 0.0]
    return (
        f"l2 distance {short(total['l2'])} ({short(total['relative'])} of A's norm), "
        f"cosine {short(total['cosine'])}, "
        f"{share:.1%} of the numbers equal, zeros {zeros[0]:.1%} in A and {zeros[1]:.1%} in B"
    )


def _order(found: RivalsForm) -> str:
    genesis, end = found["order"]["genesis"], found["order"]["end"]
    if end is None:
        return "not known"
    said = {"tie": "at the same time", "A": "A", "B": "B"}
    return f"genesis {said[genesis] if genesis else 'not known'}, end {said[end]}"


def _start(start: StartForm, child: str, parent: str) -> str:
    declared = (
        f"{child} says so in its genesis" if start["declared"] else f"{child}'s genesis does not say so"
    )
    if start["exact"] is None:
        return f"{declared}; the models are not at hand"
    if start["exact"]:
        return f"{child} begins at {parent}'s final model, bit for bit; {declared}"
    if start["distance"] is None:
        return f"no tensors in common; {declared}"
    share = f", {short(start['share'])} of {parent}'s way" if start["share"] is not None else ""
    return f"{child} begins {short(start['distance'])} from {parent}'s final model{share}; {declared}"


def _shared(lineage: LineageForm) -> str:
    shared = lineage["shared"]
    parts = [f"{counted(shared['states'], 'state root')}", f"{counted(shared['batches'], 'batch digest')}"]
    parts += ["the run id"] if shared["run"] else []
    parts += ["the salted data root"] if shared["dataset"] else []
    parts += ["the code"] if shared["task"] else []
    return ", ".join(parts)


def _authorities(found: RivalsForm) -> str:
    known = found["authorities"]
    if not any(known.values()):
        return "none that you trust"
    parts = [("both", known["common"]), ("A alone", known["only_a"]), ("B alone", known["only_b"])]
    return "; ".join(f"{who}: {', '.join(names)}" for who, names in parts if names)


def short(value: Number | None) -> str:
    """A number in four digits."""
    return "unknown" if value is None else value if isinstance(value, str) else f"{value:.4g}"
