#!/usr/bin/env python3
"""Reproduction error against the checkpointing interval: on the same machine, on another one, and for a spoof.

    scripts/figure1.py [--device cuda] [--quick] [--cifar DIR] [--name figure1] [--out DIR]
    scripts/figure1.py --plot [--name figure1]         draws and prints what docs/evidence/NAME.json holds

Trains a ResNet-20 with batch normalisation, a transformer and an MLP, keeps states early and late in training, and has
the verifier's replay engine go k steps on from each, in fresh processes: as recorded (the same machine), with another
thread count, with another instruction set for ATen, oneDNN and MKL, with both; with --device cuda on the GPU again, and
on the CPU. The error e is the l2 distance of the parameters (Jia et al., 2021); it is shown absolutely, over d_ref (the
distance between two models trained from different seeds, here with a real second training) and over the displacement u
of the recorded interval, which is what polledger judges. The spoof is interpolation: checkpoints on the line from the
first to the last state, ordinary batches.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from bend import between
from evidence import EVIDENCE, ROOT, at_least, machine, short, table, write_evidence, write_text

from polledger.core.config import encode_config
from polledger.core.digest import sha256
from polledger.core.order import Order
from polledger.core.records import Environment, StateObject
from polledger.core.replay import OpenedBatch, ReplayJob
from polledger.core.source import SourceFile, TaskSource
from polledger.training.replay import ReplayContext, ReplayEngine, TaskProgram
from polledger.verify.compare import compare_states
from polledger.verify.distances import reference_distances
from polledger.verify.states import LoadedState, encode_file, hash_state

INTERVALS = (1, 2, 5, 10, 25, 50, 100)
QUICK_INTERVALS = (1, 2, 5, 10, 25)
SEEDS = (101, 202)

PARAMETERS = "model/parameters"
SAME, SPOOF = "same machine", "interpolation (spoof)"

PATIENT = {"env_gomp_spincount": "0"}
"""Threads that wait for each other on a busy machine do not spin; no bit depends on it."""

OTHER_ISA: dict[str, str | int | bool] = {
    "env_onednn_max_cpu_isa": "AVX2",
    "env_mkl_enable_instructions": "AVX2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """One task. ``starts``: steps at which intervals begin, by phase, for the whole and the quick measurement."""

    name: str
    module: str
    class_name: str
    steps: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def starts(self, longest: int) -> dict[str, tuple[int, ...]]:
        """Early: the first states. Late: the last from which the longest interval still ends in training."""
        last = self.steps - longest
        return {"early": (0, 10), "late": (last - 10, last)}


def nets(text: Path, *, quick: bool, cifar: Path | None, width: int) -> list[Net]:
    steps = 60 if quick else 300
    resnet: dict[str, Any] = {"steps": steps, "width": width}
    inputs = {}
    if cifar is not None:
        resnet["dataset"] = "cifar100" if (cifar / "train.bin").exists() else "cifar10"
        inputs["data"] = str(cifar)
    chars = {"steps": steps, "context": 32, "width": 64, "batch_size": 16}
    examples = "polledger.examples"
    return [
        Net(
            name=f"ResNet-20, BN, width {width}",
            module=f"{examples}.resnet",
            class_name="ResNet",
            steps=steps,
            config=resnet,
            inputs=inputs,
        ),
        Net(
            name="transformer",
            module=f"{examples}.chars",
            class_name="Chars",
            steps=steps,
            config=chars,
            inputs={"text": str(text)},
        ),
        Net(name="MLP", module=f"{examples}.mlp", class_name="Mlp", steps=steps, config={"steps": steps}),
    ]


def environments(device: str) -> dict[str, tuple[str, Environment]]:
    """The machines to replay on, by name: torch's device and the environment; the first is the recording one."""
    from polledger.training.determinism import apply_switches, describe_environment

    apply_switches(device)
    cpu = _changed(describe_environment("cpu"), threads=2, flags=PATIENT)
    one_thread = _changed(cpu, threads=1)
    avx2 = _changed(cpu, capability="AVX2", flags=OTHER_ISA)
    if device == "cpu":
        return {
            SAME: ("cpu", cpu),
            "1 thread": ("cpu", one_thread),
            "AVX2": ("cpu", avx2),
        }
    gpu = describe_environment(device)
    small = _changed(gpu, flags={"env_cublas_workspace_config": ":16:8"})
    return {SAME: (device, gpu), "other workspace": (device, small), "CPU": ("cpu", cpu)}


def _changed(
    environment: Environment, *, flags: Mapping[str, str | int | bool] | None = None, **changes: Any
) -> Environment:
    return msgspec.structs.replace(environment, flags={**environment.flags, **(flags or {})}, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The batches of one net and seed, opened once: they are the same on every machine."""

    config: Mapping[str, Any]
    batches: Sequence[OpenedBatch]


def open_data(net: Net, seed: int) -> Data:
    from polledger.training.location import TaskLocation, load_task_class
    from polledger.training.nest import encode_nest
    from polledger.training.task import prepare_task

    location = TaskLocation(path=None, module=net.module, class_name=net.class_name, root=None)
    task = prepare_task(
        load_task_class(location), config=dict(net.config), inputs=dict(net.inputs), seed=seed
    )
    examples = task.dataset()
    order = Order(seed, len(examples))
    batches = []
    for step in range(net.steps):
        indices = tuple(order.step(step, task.config["batch_size"]))
        opened = tuple(b"".join(map(bytes, encode_nest(examples[index]))) for index in indices)
        batches.append(OpenedBatch(step=step, indices=indices, examples=opened, batch=None))
    return Data(config=encode_config(task.config), batches=batches)


def _engine(net: Net, seed: int, config: Mapping[str, Any], where: tuple[str, Environment]) -> ReplayEngine:
    device, environment = where
    return ReplayEngine(
        ReplayContext(
            program=TaskProgram(source=_source(net), files=None),
            config=config,
            seed=seed,
            device=device,
            environment=environment,
            inputs=net.inputs,
            kind="recipe",
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replays:
    """A process of the replay engine for one net, seed and machine."""

    engine: ReplayEngine
    data: Data

    def first(self) -> tuple[LoadedState, Sequence[StateObject]]:
        """The state before step 0, and the description of its objects."""
        built = self.engine.rebuild()
        return hash_state(built.state), built.objects

    def go(self, state: LoadedState, first: int, last: int) -> LoadedState:
        """The state after training from step ``first`` to ``last``."""
        job = ReplayJob(
            start=state.data,
            root=state.root,
            first_step=first,
            last_step=last,
            batches=tuple(self.data.batches[first:last]),
        )
        return hash_state(self.engine.replay(job).state)

    def along(self, state: LoadedState, first: int, ends: Sequence[int]) -> dict[int, LoadedState]:
        """The states ``ends`` steps after ``first``, each going on from the one before."""
        found = {}
        at = 0
        for end in ends:
            state = found[end] = self.go(state, first + at, first + end)
            at = end
        return found


def _source(net: Net) -> TaskSource:
    entry = f"{net.module.replace('.', '/')}.py"
    data = (ROOT / entry).read_bytes()
    file = SourceFile(path=entry, executable=False, size=len(data), digest=sha256(data))
    return TaskSource(
        v=1,
        entry=entry,
        module=net.module,
        class_name=net.class_name,
        lines=data.count(b"\n"),
        files=[file],
        distributions=[],
    )


@contextmanager
def replays(net: Net, seed: int, data: Data, where: tuple[str, Environment]) -> Iterator[Replays]:
    with _engine(net, seed, data.config, where) as engine:
        yield Replays(engine=engine, data=data)


@dataclass(slots=True, kw_only=True)
class Trained:
    """What recording one net left: states by step, descriptions of objects, and the two values of d_ref."""

    data: Data
    states: dict[int, LoadedState]
    objects: Sequence[StateObject]
    d_ref: float
    d_ref_estimate: float


def train(net: Net, recording: tuple[str, Environment], kept: Sequence[int]) -> Trained:
    """Train ``net`` from two seeds; keep the states after the steps in ``kept``, and the last."""
    data, states, objects = _recorded(net, SEEDS[0], recording, kept)
    _, other, _ = _recorded(net, SEEDS[1], recording, ())
    last = states[net.steps]
    apart = compare_states(
        replayed=other[net.steps].flat, recorded=last.flat, start=last.flat, objects=objects
    )
    return Trained(
        data=data,
        states=states,
        objects=objects,
        d_ref=next(item.e for item in apart.measures if item.name == PARAMETERS),
        d_ref_estimate=reference_distances(last.flat, objects)[PARAMETERS],
    )


def _recorded(
    net: Net, seed: int, recording: tuple[str, Environment], kept: Sequence[int]
) -> tuple[Data, dict[int, LoadedState], Sequence[StateObject]]:
    data = open_data(net, seed)
    with replays(net, seed, data, recording) as engine:
        state, objects = engine.first()
        return data, {0: state} | engine.along(state, 0, sorted({*kept, net.steps} - {0})), objects


def measure(
    net: Net, machines: Mapping[str, tuple[str, Environment]], intervals: Sequence[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """d_ref of ``net``, and a row for every machine (and the spoof), phase, start and k."""
    starts = net.starts(max(intervals))
    begins = sorted({start for phase in starts.values() for start in phase})
    kept = {start + k for start in begins for k in (0, *intervals)}
    trained = train(net, machines[SAME], sorted(kept))
    first, last = trained.states[0], trained.states[net.steps]
    rows: list[dict[str, Any]] = []
    for name, where in machines.items():
        with replays(net, SEEDS[0], trained.data, where) as engine:
            for start in begins:
                recorded = {k: trained.states[start + k] for k in (0, *intervals)}
                found = engine.along(recorded[0], start, intervals)
                rows += _rows(net, name, start, trained, recorded, found)
            for start in begins if name == SAME else ():
                made = {k: interpolated(first, last, (start + k) / net.steps) for k in (0, *intervals)}
                found = engine.along(made[0], start, intervals)
                rows += _rows(net, SPOOF, start, trained, made, found)
    phases = {start: phase for phase, items in starts.items() for start in items}
    d_ref = {"net": net.name, "measured": trained.d_ref, "estimate": trained.d_ref_estimate}
    return d_ref, [{**row, "phase": phases[row["start"]]} for row in rows]


def interpolated(first: LoadedState, last: LoadedState, share: float) -> LoadedState:
    return hash_state(encode_file(between(first.flat, last.flat, share))[0])


def _rows(
    net: Net,
    name: str,
    start: int,
    trained: Trained,
    recorded: Mapping[int, LoadedState],
    found: Mapping[int, LoadedState],
) -> Iterator[dict[str, Any]]:
    for k, state in found.items():
        measures = compare_states(
            replayed=state.flat, recorded=recorded[k].flat, start=recorded[0].flat, objects=trained.objects
        ).measures
        groups = {item.name: _over(item.e, item.u) for item in measures}
        own = next(item for item in measures if item.name == PARAMETERS)
        yield {
            "net": net.name,
            "machine": name,
            "start": start,
            "k": k,
            "e": own.e,
            "u": own.u,
            "e_d_ref": own.e / trained.d_ref,
            "e_u": _over(own.e, own.u),
            "worst_e_u": max((item for item in groups.values() if item is not None), default=0.0),
            "bits": "equal" if state.root == recorded[k].root else "differ",
        }


def _over(e: float, u: float) -> float | None:
    value = e / u if u else 0.0 if e == 0 else math.inf
    return value if math.isfinite(value) else None


# What the figures say.


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement of the literature, what was measured, and whether that confirms it."""

    text: str
    measured: str
    holds: str


def largest(rows: Sequence[Mapping[str, Any]], value: str, **where: Any) -> float | None:
    found = [row[value] for row in rows if all(row[name] == item for name, item in where.items())]
    return max((item for item in found if item is not None), default=None)


def names(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def others(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in names(rows, "machine") if name not in (SAME, SPOOF)]


def margin(rows: Sequence[Mapping[str, Any]], net: str, k: int, phase: str) -> float | None:
    """Smallest spoof over largest honest error/displacement of the parameters; None where honest error is 0."""
    spoofs = [row["e_u"] for row in rows if _is(row, net, SPOOF, k, phase)]
    honest = [row["e_u"] for name in others(rows) for row in rows if _is(row, net, name, k, phase)]
    worst = max((item for item in honest if item is not None), default=0.0)
    return min(spoofs) / worst if worst and spoofs else None


def _is(row: Mapping[str, Any], net: str, name: str, k: int, phase: str) -> bool:
    return (row["net"], row["machine"], row["k"], row["phase"]) == (net, name, k, phase)


def statements(rows: Sequence[Mapping[str, Any]]) -> list[Statement]:
    return [_k_10(rows), _same_and_cross(rows), _absolute(rows)]


def _k_10(rows: Sequence[Mapping[str, Any]]) -> Statement:
    found: dict[str, dict[str, float | None]] = {
        net: {phase: margin(rows, net, 10, phase) for phase in ("early", "late")}
        for net in names(rows, "net")
    }
    measured = "; ".join(
        f"{net}: " + ", ".join(f"{at_least(value)} {phase}" for phase, value in by_phase.items())
        for net, by_phase in found.items()
    )
    apart = [net for net, by_phase in found.items() if all(v is None or v >= 5 for v in by_phase.values())]
    close = [net for net in found if net not in apart]
    holds = (
        "confirmed"
        if not close
        else f"confirmed for {', '.join(apart) or 'none'}; not for {', '.join(close)}"
    )
    return Statement(
        text="k = 10 defeats the synthetic-checkpoint spoof (here interpolation): its error is told from honest error",
        measured=f"spoof over largest honest e/u at k = 10: {measured}",
        holds=f"{holds} (a margin of 5 counts as told apart)",
    )


def _same_and_cross(rows: Sequence[Mapping[str, Any]]) -> Statement:
    same = largest(rows, "e", machine=SAME) or 0.0
    spread = []
    for net in names(rows, "net"):
        found = {name: largest(rows, "e_u", net=net, machine=name, k=10) for name in others(rows)}
        spread.append(f"{net}: " + ", ".join(f"{name} {short(value)}" for name, value in found.items()))
    err = [name for name in others(rows) if largest(rows, "e", machine=name)]
    holds = (
        "confirmed, and by more than that: replayed as recorded the error is 0. Errors come with: "
        f"{', '.join(err) or 'nothing that was measured'}"
        if same == 0
        else f"not shown: replayed as recorded the error reaches {short(same)}"
    )
    return Statement(
        text="same-machine errors are an order smaller than cross-machine errors",
        measured=f"largest error as recorded {short(same)}; otherwise, e/u at k = 10: {'; '.join(spread)}",
        holds=holds,
    )


def _absolute(rows: Sequence[Mapping[str, Any]]) -> Statement:
    parts = []
    for net in names(rows, "net"):
        own = [row for row in rows if row["net"] == net]
        spoof = min(row["e"] for row in own if row["machine"] == SPOOF)
        honest = max(row["e"] for row in own if row["machine"] in others(rows))
        parts.append(f"{net}: spoof from {short(spoof)}, honest to {short(honest)}")
    overlap = any(_overlaps(rows, net) for net in names(rows, "net"))
    return Statement(
        text="one absolute or d_ref-normalised tolerance separates honest runs from spoofs at every k and phase",
        measured=f"absolute error over all k: {'; '.join(parts)}",
        holds="not confirmed: the ranges overlap" if overlap else "not contradicted by these runs",
    )


def _overlaps(rows: Sequence[Mapping[str, Any]], net: str) -> bool:
    own = [row for row in rows if row["net"] == net]
    spoof = min(row["e"] for row in own if row["machine"] == SPOOF)
    return any(row["e"] >= spoof for row in own if row["machine"] in others(rows))


def print_tables(value: Mapping[str, Any]) -> None:
    rows = value["rows"]
    columns = others(rows)
    print(f"Largest e/u of the parameters over the starts of a phase, {_place(value)}.\n")
    lines = []
    for net in names(rows, "net"):
        for phase in ("early", "late"):
            for k in names(rows, "k"):
                where = {"net": net, "phase": phase, "k": k}
                cells = [short(largest(rows, "e_u", machine=name, **where)) for name in (SAME, *columns)]
                spoof = min(row["e_u"] for row in rows if _is(row, net, SPOOF, k, phase))
                error = largest([row for row in rows if row["machine"] in columns], "e_d_ref", **where)
                lines.append(
                    (net, phase, k, *cells, short(spoof), at_least(margin(rows, net, k, phase)), short(error))
                )
    print(table(("net", "phase", "k", SAME, *columns, "spoof", "margin", "largest honest e/d_ref"), lines))
    print("\nd_ref: distance between two trainings, and the estimate from one (what `verify` reports).\n")
    pairs = [(item["net"], short(item["measured"]), short(item["estimate"])) for item in value["d_ref"]]
    print(table(("net", "measured", "estimate"), pairs))
    print()
    for item in value["statements"]:
        print(f"- *{item['text']}*: {item['holds']}. {item['measured']}.")


def _place(value: Mapping[str, Any]) -> str:
    where = value["machine"]
    return f"{where['gpu'] or where['cpu']}, torch {where['torch']}"


# The plot.

_NORMS = (
    ("e", "l2 error of the parameters"),
    ("e_d_ref", "error / d_ref"),
    ("e_u", "error / displacement"),
)
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9")


def draw(value: Mapping[str, Any], targets: Sequence[Path]) -> None:
    """Write the figure to ``targets``; an SVG has the same bytes each time."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "polledger", "svg.fonttype": "path", "font.size": 9})
    import matplotlib.pyplot as plt

    rows = value["rows"]
    found = names(rows, "net")
    figure, axes = plt.subplots(
        len(_NORMS), len(found), figsize=(3.6 * len(found), 8.2), sharex=True, sharey="row", squeeze=False
    )
    for (norm, label), line in zip(_NORMS, axes, strict=True):
        for net, panel in zip(found, line, strict=True):
            _panel(panel, [row for row in rows if row["net"] == net], norm)
        line[0].set_ylabel(label)
    for net, panel in zip(found, axes[0], strict=True):
        panel.set_title(net)
    for panel in axes[-1]:
        panel.set_xlabel("checkpointing interval k, steps")
    _legend(figure, rows)
    figure.suptitle(f"Reproduction error against checkpointing interval: {_place(value)}", fontsize=10)
    figure.tight_layout(rect=(0, 0.07, 1, 0.985))
    for target in targets:
        # An SVG carries the date unless told not to; a PNG knows no such key.
        metadata = {"Date": None} if target.suffix == ".svg" else {}
        figure.savefig(target, dpi=130, metadata=metadata)
    plt.close(figure)


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]], norm: str) -> None:
    drawn = dict(zip(others(rows), _COLOURS, strict=False))
    drawn[SPOOF] = "#cc2222"
    for name, colour in drawn.items():
        for phase, style in (("early", "--"), ("late", "-")):
            own = [row for row in rows if (row["machine"], row["phase"]) == (name, phase)]
            _line(panel, own, norm, colour, style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    ticks = names(rows, "k")
    panel.set_xticks(ticks, [str(k) for k in ticks])
    panel.minorticks_off()
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    if norm == "e_u":
        panel.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
        panel.annotate(
            "ρ = 0.5", (ticks[0], 0.5), textcoords="offset points", xytext=(0, -10), color="#666666"
        )
    same = largest(rows, "e", machine=SAME)
    if same == 0:
        text = f"{SAME}: 0 (equal bits)"
        panel.text(0.97, 0.03, text, transform=panel.transAxes, ha="right", color="#444444", fontsize=8)


def _line(panel: Any, rows: Sequence[Mapping[str, Any]], norm: str, colour: str, style: str) -> None:
    """The largest value over starts, of a spoof the smallest, with the range shaded; zeros cannot be drawn here."""
    ticks = names(rows, "k")
    spans = [[row[norm] for row in rows if row["k"] == k and row[norm]] for k in ticks]
    shown = [(k, min(span), max(span)) for k, span in zip(ticks, spans, strict=True) if span]
    if not shown:
        return
    at, low, high = zip(*shown, strict=True)
    decisive = low if rows[0]["machine"] == SPOOF else high
    panel.plot(at, decisive, style, color=colour, linewidth=1.5, marker="o", markersize=3)
    panel.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)


def _legend(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    drawn = [*zip(others(rows), _COLOURS, strict=False), (SPOOF, "#cc2222")]
    handles = [Line2D([], [], color=colour, marker="o", markersize=3, label=name) for name, colour in drawn]
    handles.append(Line2D([], [], color="#444444", linestyle="--", label="early in training"))
    handles.append(Line2D([], [], color="#444444", linestyle="-", label="late in training"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure reproduction error against the checkpointing interval."
    )
    parser.add_argument("--device", default="cpu", help="where training is recorded: cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="fewer steps, smaller intervals")
    parser.add_argument(
        "--width", type=int, default=8, help="channels of the ResNet's first stage; 16 is He's"
    )
    parser.add_argument("--cifar", type=Path, help="directory with CIFAR in binary form, for the ResNet")
    parser.add_argument("--name", default="figure1", help="name of the evidence and of the figure")
    parser.add_argument("--out", type=Path, help="directory to write to instead of docs")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw and print what there is")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further net after that")
    wanted = parser.parse_args()
    if not wanted.plot:
        value = measured(wanted)
        write_evidence(wanted.name, value, directory=wanted.out or EVIDENCE)
    place = wanted.out or EVIDENCE
    value = json.loads((place / f"{wanted.name}.json").read_text())
    value["statements"] = [msgspec.to_builtins(item) for item in statements(value["rows"])]
    print_tables(value)
    pictures = wanted.out or ROOT / "docs"
    try:
        draw(value, [pictures / f"{wanted.name}{suffix}" for suffix in (".svg", ".png")])
    except ModuleNotFoundError as error:
        print(f"not drawn: {error}; --plot draws it elsewhere", file=sys.stderr)


def measured(wanted: argparse.Namespace) -> dict[str, Any]:
    intervals = QUICK_INTERVALS if wanted.quick else INTERVALS
    machines = environments(wanted.device)
    d_refs, rows = [], []
    end = time.monotonic() + 60 * wanted.minutes
    with tempfile.TemporaryDirectory() as directory:
        text = write_text(Path(directory) / "text")
        for net in nets(text, quick=wanted.quick, cifar=wanted.cifar, width=wanted.width):
            if time.monotonic() > end:
                print(f"{net.name}: left out, the time is over", file=sys.stderr)
                continue
            began = time.monotonic()
            d_ref, found = measure(net, machines, intervals)
            d_refs.append(d_ref)
            rows += found
            print(f"{net.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return {
        "machine": machine(),
        "method": "states and replays by polledger's replay engine, as scripts/figure1.py says",
        "device": wanted.device,
        "quick": wanted.quick,
        "seeds": list(SEEDS),
        "d_ref": d_refs,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
