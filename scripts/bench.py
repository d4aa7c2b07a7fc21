#!/usr/bin/env python3
"""Measures everything that is promised about speed, beside what one would use instead, and writes it down.

    scripts/bench.py [--only SECTION ...] [--quick] [--peer PYTHON] [--work DIR] [--out DIR]

Each section is a script of its own, in a process of its own, that measures polledger and its peers in turn, round by
round; ratios are only taken within a round. Their figures are kept in DIR (default: docs/evidence) as SECTION.json,
what is promised of them in DIR/bench.json, and drawn in DIR/bench.svg. The machine should have nothing else to do.
--quick only shows that everything runs: its figures mean nothing, and are gone afterwards unless DIR is given.
``--peer`` is a Python with the package model-signing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_checkpoints import spread
from bench_overhead import HASHED, RECORDER
from bench_peers import middle, ratios
from evidence import EVIDENCE, machine, table, write_evidence

SCRIPTS = Path(__file__).resolve().parent

SECTIONS: dict[str, tuple[str, str, str]] = {
    "checkpoints": ("bench_checkpoints.py", "--rounds 5", "--mb 1 --checkpoints 2 --rounds 1"),
    "copying": ("bench_copying.py", "", "--mb 1 --rounds 1"),
    "overhead": ("bench_overhead.py", "--rounds 4", "--mb 0.1 --pairs 1 --rounds 1"),
    "storage": ("bench_storage.py", "--mb 2 --checkpoints 10000", "--mb 0.05 --checkpoints 20 --state-mb 1"),
    "records": ("bench_records.py", "", "--repeats 1"),
    "files": ("bench_files.py", "--rounds 9", "--mb 2 --rounds 1"),
    "ledger": ("bench_ledger.py", "", "--records 2000"),
    "beside": ("bench_beside.py", "", "--only mlp --rounds 1 --seconds 0.1"),
    "replay_cost": (
        "replay_cost.py",
        "--width 256 --steps 200 --every 10 --sample 12",
        "--width 32 --steps 20 --sample 2",
    ),
    "replay_cost_one_thread": (
        "replay_cost.py",
        "--one-thread --width 96 --steps 1600 --every 20 --sample 12",
        "--one-thread --width 32 --steps 20 --sample 2",
    ),
}
"""By name of a section: its script, its arguments, and those with ``--quick``."""

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A figure that is to be ``bound`` at most; ``rounds`` finds it, round by round, in the figures of ``section``."""

    name: str
    bound: float
    section: str
    rounds: Callable[[Figures], Sequence[float]]


def of_size(megabytes: float, ratio: str) -> Callable[[Figures], Sequence[float]]:
    """A ratio of one size of state."""
    return lambda value: next(
        item["ratios"][ratio] for item in value["sizes"] if item["megabytes"] == megabytes
    )


def of_worst(ratio: str) -> Callable[[Figures], Sequence[float]]:
    """A ratio of the size whose median is worst."""
    return lambda value: max((item["ratios"][ratio] for item in value["sizes"]), key=middle)


def overhead(case: str, every: int) -> Callable[[Figures], Sequence[float]]:
    """The overhead of ``polledger.Recorder`` in one case."""
    return lambda value: _case(value, case, every)["overhead"][RECORDER]


def busy(value: Figures) -> Sequence[float]:
    """With all cores busy: the overhead over that of torch.save made durable and hashed."""
    found = _case(value, "all cores busy", 10)["overhead"]
    return ratios(found[RECORDER], found[HASHED])


def _case(value: Figures, case: str, every: int) -> Figures:
    return next(item for item in value["cases"] if (item["case"], item["every"]) == (case, every))


def stored(keep: int) -> Callable[[Figures], Sequence[float]]:
    """Bytes of a run that stores every ``keep``-th state over those of torch.save."""
    return lambda value: [next(row["ratio"] for row in value["rows"] if row["keep"] == keep)]


def grown(value: Figures) -> float:
    """MiB that the recording process has grown by."""
    first, last = value["rows"][0]["resident"], value["rows"][-1]["resident"]
    return float(last - first) / (1 << 20)


DURABLE = "durable / (torch.save, fsync, SHA-256)"
LIMIT = "durable / max(SHA-256, disk)"

PROMISES = (
    Promise(
        name="blocking time of a checkpoint / torch.save, 100 MB",
        bound=0.12,
        section="checkpoints",
        rounds=of_size(100, "blocking / torch.save"),
    ),
    Promise(
        name="blocking time of a checkpoint / torch.save, 1 GB",
        bound=0.08,
        section="checkpoints",
        rounds=of_size(1000, "blocking / torch.save"),
    ),
    Promise(
        name="blocking time of a checkpoint / async_save, worst size",
        bound=0.6,
        section="checkpoints",
        rounds=of_worst("blocking / async_save"),
    ),
    Promise(
        name="hashed and durable / (torch.save + fsync + SHA-256), 1 GB",
        bound=0.45,
        section="checkpoints",
        rounds=of_size(1000, DURABLE),
    ),
    Promise(
        name="hashed and durable / slower of SHA-256 on a core and the disk, 1 GB",
        bound=1.18,
        section="checkpoints",
        rounds=of_size(1000, LIMIT),
    ),
    Promise(
        name="overhead of a training, one core spare, k = 10",
        bound=0.03,
        section="overhead",
        rounds=overhead("one core spare", 10),
    ),
    Promise(
        name="overhead of a training, one core spare, k = 100",
        bound=0.005,
        section="overhead",
        rounds=overhead("one core spare", 100),
    ),
    Promise(
        name="overhead, all cores busy / that of torch.save + fsync + SHA-256",
        bound=0.5,
        section="overhead",
        rounds=busy,
    ),
    Promise(name="bytes stored / torch.save, K = 10", bound=0.09, section="storage", rounds=stored(10)),
    Promise(name="bytes stored / torch.save, K = 100", bound=0.01, section="storage", rounds=stored(100)),
    Promise(
        name="opening intervals in verify / bare steps",
        bound=1.10,
        section="replay_cost",
        rounds=lambda value: [value["over_raw"]],
    ),
    Promise(
        name="verify, start to end / bare steps, one thread",
        bound=1.10,
        section="replay_cost_one_thread",
        rounds=lambda value: [value["verify"] / value["raw"]],
    ),
    Promise(
        name="time of a record, last / first row of the ledger",
        bound=1.1,
        section="ledger",
        rounds=lambda value: [value["rows"][-1]["microseconds"] / value["rows"][0]["microseconds"]],
    ),
    Promise(
        name="growth of the recording process, MiB",
        bound=5,
        section="ledger",
        rounds=lambda value: [grown(value)],
    ),
    Promise(
        name="checking a model file / model-signing",
        bound=1.05,
        section="files",
        rounds=lambda value: value["ratios"]["polledger / model-signing"],
    ),
)


def measure(name: str, *, quick: bool, peer: str, work: Path | None, out: Path) -> bool:
    """Run one section; whether it succeeded."""
    script, full, small = SECTIONS[name]
    words = [sys.executable, str(SCRIPTS / script), *(small if quick else full).split(), "--out", str(out)]
    if name in ("checkpoints", "copying", "overhead", "storage", "files") and work is not None:
        words += ["--work", str(work)]
    words += ["--peer", peer] if name == "files" else []
    print(f"## {name}", file=sys.stderr, flush=True)
    return subprocess.run(words, check=False).returncode == 0


def kept(out: Path) -> Iterator[dict[str, Any]]:
    """Every promise whose section was measured, with what was found."""
    for promise in PROMISES:
        path = out / f"{promise.section}.json"
        if not path.exists():
            continue
        try:
            rounds = list(promise.rounds(json.loads(path.read_text(encoding="utf-8"))))
        except StopIteration:
            # That size or case was not measured.
            continue
        yield {"promise": promise.name, "bound": promise.bound, "section": promise.section, "rounds": rounds}


def render(value: Figures) -> str:
    """What was promised and what was found."""
    rows = [
        (
            item["promise"],
            f"{item['bound']:g}",
            spread(item["rounds"]) if len(item["rounds"]) > 1 else f"{item['rounds'][0]:.3g}",
            "yes" if middle(item["rounds"]) <= item["bound"] else "no",
        )
        for item in value["promises"]
    ]
    return table(("figure", "at most", "found: median (smallest to largest round)", "kept"), rows)


def draw(value: Figures, target: Path) -> None:
    """A panel for each promise: what every round found, over the bound. The same bytes each time."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "polledger", "svg.fonttype": "path", "font.size": 8})
    import matplotlib.pyplot as plt

    found = value["promises"]
    figure, panels = plt.subplots(len(found), 1, figsize=(7.2, 0.62 * len(found) + 0.6), squeeze=False)
    for panel, item in zip(panels[:, 0], found, strict=True):
        _panel(panel, item)
    figure.suptitle(
        f"Found (dots: rounds, bar: median) over what is promised (line): {value['machine']['cpu']}"
    )
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _panel(panel: Any, item: Figures) -> None:
    shares = [one / item["bound"] for one in item["rounds"]]
    colour = "#009e73" if middle(shares) <= 1 else "#cc2222"
    panel.barh([0], [middle(shares)], color=colour, alpha=0.35, height=0.6)
    panel.plot(shares, [0] * len(shares), "o", color=colour, markersize=3)
    panel.axvline(1, color="#444444", linewidth=1)
    panel.set_xlim(min(0.0, *shares), max(1.6, *shares) * 1.05)
    panel.set_yticks([])
    panel.set_xticks([0, 1], ["0", f"{item['bound']:g}"])
    panel.set_title(item["promise"], fontsize=8, loc="left", pad=2)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS), metavar="SECTION"
    )
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument(
        "--peer", default=sys.executable, metavar="PYTHON", help="a Python with model-signing"
    )
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="where the figures are kept; default: docs/evidence")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = wanted.out or (Path(scratch) if wanted.quick else EVIDENCE)
        failed = [
            name
            for name in wanted.only
            if not measure(name, quick=wanted.quick, peer=wanted.peer, work=wanted.work, out=out)
        ]
        value = {"machine": machine(), "promises": list(kept(out))}
        write_evidence("bench", value, directory=out)
        if value["promises"]:
            draw(value, out / "bench.svg")
            print(render(value))
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
