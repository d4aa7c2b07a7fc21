#!/usr/bin/env python3
"""What only a GPU shows: runs sealed on it are verified there, without it, and the other way round.

    scripts/gpu.py --work DIR [--device cuda] [--minutes 4] [--jobs 8]    measures, writes docs/evidence/gpu.json
    scripts/gpu.py --table                                                prints what that file says
    scripts/gpu.py --hashing                                              measures how fast states are hashed there

DIR keeps what was found, so that a measurement that was cut off goes on, or is written down with --minutes 0.

Every run is sealed with `polledger seal` and verified with `polledger verify` in processes of their own: as it was
recorded, with another number of CPU threads, on the other kind of device (`replay.device` in the policy), and with the
GPU hidden. One run is killed and resumed. Most nets train without dropout: random numbers of a GPU are others than
those of a CPU, so that the runs with dropout can be replayed only where they were recorded. How long a checkpoint of
a transformer holds training up is measured in one process, part by part, before the rest. With --device cpu all of
it but --hashing is tried without a GPU.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evidence import EVIDENCE, command, machine, short, table, write_evidence, write_key, write_text

NAME = "gpu"
HASHING = "gpu_hashing"
TENSORS = 16
"""Of a state that is hashed."""

METHOD = "polledger seal and polledger verify --json, as scripts/gpu.py says"

THREADS = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0"}
"""Several runs share the CPU."""

SAMPLE = 6

RECORDED, ELSEWHERE, HIDDEN, THREE = "as recorded", "other device", "GPU hidden", "3 threads"

POLICIES = {
    RECORDED: "",
    ELSEWHERE: '[replay]\ndevice = "{other}"\n',
    HIDDEN: "",
    THREE: "[replay]\nthreads = 3\n",
}

KILLED = "killed and resumed"
KILL_AT = 20_000
"""Bytes of the ledger at which the run is killed: some eighty steps of six hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run to seal. ``sets``: --set options; ``on_gpu``: where it is recorded; ``places``: how it is verified."""

    name: str
    example: str
    sets: tuple[str, ...] = ()
    steps: int = 60
    every: int = 10
    on_gpu: bool = True
    places: tuple[str, ...] = (RECORDED, ELSEWHERE)


def run(name: str, example: str, *sets: str, **rest: Any) -> Run:
    return Run(name=name, example=example, sets=sets, **rest)


BF16, FP16, TF32, NO_DROPOUT = "precision=bf16", "precision=fp16", "precision=tf32", "dropout=0.0"
SMALL = ("context=32", "width=64", "batch_size=16")
EVERYWHERE = (RECORDED, ELSEWHERE, THREE, HIDDEN)

RUNS = (
    # First, because a CPU takes its time over fp16.
    run("conv BN, fp16 with scaler", "digits", "width=16", FP16, NO_DROPOUT),
    run("MLP", "mlp", places=EVERYWHERE),
    run("MLP, bf16", "mlp", BF16),
    run("MLP, fp16 with scaler", "mlp", FP16),
    run("conv BN", "digits", NO_DROPOUT, places=(RECORDED, ELSEWHERE, THREE)),
    run("conv BN, bf16", "digits", BF16, NO_DROPOUT),
    run("conv BN, TF32", "digits", TF32, NO_DROPOUT),
    run("conv BN, dropout", "digits"),
    run("ResNet BN", "resnet", "width=8", places=(RECORDED, ELSEWHERE, THREE)),
    run("ResNet BN, k = 25", "resnet", "width=8", steps=85, every=25),
    run("ResNet BN, bf16", "resnet", "width=8", BF16),
    run("ResNet BN, TF32", "resnet", "width=8", TF32),
    run("transformer", "chars", NO_DROPOUT, *SMALL, places=(RECORDED, ELSEWHERE, THREE)),
    run("transformer, bf16", "chars", BF16, NO_DROPOUT, *SMALL),
    run("transformer, fp16 with scaler", "chars", FP16, NO_DROPOUT, *SMALL),
    run("transformer, TF32", "chars", TF32, NO_DROPOUT, *SMALL),
    run("transformer, dropout", "chars", *SMALL),
    run("GAN, random input", "gan"),
    run("MLP, on the CPU", "mlp", on_gpu=False),
    run("conv BN, on the CPU", "digits", NO_DROPOUT, on_gpu=False),
    run("ResNet BN, on the CPU", "resnet", "width=8", on_gpu=False),
    run("transformer, on the CPU", "chars", NO_DROPOUT, *SMALL, on_gpu=False),
    run(KILLED, "digits", steps=600, places=(RECORDED,)),
)


@dataclass(slots=True, kw_only=True)
class Bench:
    """Where runs lie, what was found so far, and until when to begin something new."""

    place: Path
    device: str
    until: float
    rows: list[dict[str, Any]]
    problems: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def device_of(self, item: Run) -> str:
        return self.device if item.on_gpu else "cpu"

    def words(self, item: Run) -> list[str]:
        """What ``seal`` and ``verify`` take both."""
        return ["--input", f"text={self.place / 'text'}"] if item.example == "chars" else []

    def directory(self, item: Run) -> Path:
        return self.place / item.name.replace(" ", "-").replace(",", "")

    def seal_words(self, item: Run) -> list[str]:
        words = ["seal", f"polledger.examples.{item.example}", "--run", str(self.directory(item))]
        words += ["--key", str(self.place / "key.pem"), "--device", self.device_of(item), "--seed", "7"]
        words += ["--steps", str(item.steps), "--every", str(item.every), "--tsa", "embedded"]
        return words + self.words(item) + [word for setting in item.sets for word in ("--set", setting)]

    def command(self, *words: str, hidden: bool = False) -> dict[str, Any]:
        variables = {**THREADS, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {})}
        return command(words, home=self.place / "home", variables=variables)

    def verify(self, item: Run, where: str) -> dict[str, Any]:
        """One verification, its sample drawn under a nonce that follows from the names."""
        text = POLICIES[where].format(other="cpu" if item.on_gpu else self.device)
        policy = self.place / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.toml"
        policy.write_text(text)
        nonce = hashlib.sha256(f"{item.name}/{where}".encode()).hexdigest()[:32]
        words = ["verify", str(self.directory(item)), "--sample", str(SAMPLE), "--nonce", nonce]
        began = time.perf_counter()
        report = self.command(*words, "--policy", str(policy), *self.words(item), hidden=where == HIDDEN)
        seconds = round(time.perf_counter() - began, 1)
        return {"run": item.name, "verified": where, "seconds": seconds, **summary(report)}

    def go(self, item: Run) -> None:
        """Seal and verify ``item``; a problem is kept, never passed over."""
        done = [row["verified"] for row in self.rows if row["run"] == item.name]
        try:
            for where in [place for place in item.places if place not in done]:
                if time.monotonic() > self.until:
                    raise TimeoutError(f"not verified {where}: no time left")
                self.seal(item)
                row = self.verify(item, where)
                with self.lock:
                    self.rows.append(row)
                    with (self.place / "results.jsonl").open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(f"{item.name} · {where}: {row['verdict']}, {row['seconds']} s", flush=True)
        except (RuntimeError, TimeoutError, ValueError) as error:
            with self.lock:
                self.problems.append({"run": item.name, "problem": str(error)})
                print(f"{item.name}: {error}", flush=True)

    def seal(self, item: Run) -> None:
        """Seal ``item`` unless it is sealed."""
        mark = self.directory(item) / "sealed"
        if mark.exists():
            return
        # What a cut-off left behind.
        shutil.rmtree(self.directory(item), ignore_errors=True)
        if item.name == KILLED:
            self.kill_and_resume(item)
        else:
            self.command(*self.seal_words(item))
        mark.touch()

    def kill_and_resume(self, item: Run) -> None:
        """Seal ``item``, with SIGKILL in the middle."""
        words = [sys.executable, "-m", "polledger.cli.app", *self.seal_words(item)]
        variables = {**os.environ, **THREADS, "POLLEDGER_HOME": str(self.place / "home")}
        started = subprocess.Popen(
            words, env=variables, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        ledger = self.directory(item) / "ledger.log"
        while started.poll() is None and not (ledger.exists() and ledger.stat().st_size > KILL_AT):
            time.sleep(0.02)
        if started.poll() is not None:
            raise RuntimeError("the run ended before it was killed")
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        self.command(*self.seal_words(item), "--resume")


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a report."""
    intervals = report["intervals"]
    outcomes = Counter(interval["outcome"] for interval in intervals)
    bad = report["first_bad"]
    return {
        "verdict": report["verdict"],
        "comparison": report["comparison"],
        "intervals": len(intervals),
        "equal": sum(interval["exact"] for interval in intervals),
        **{outcome: outcomes.get(outcome, 0) for outcome in ("pass", "unverifiable", "fail")},
        "e_u": largest(intervals, "u"),
        "e_nu": largest(intervals, "nu"),
        "isolation": report["environment"].get("isolation"),
        "why": f"{bad['step']} {bad['name']}: {bad['detail']}" if bad else "",
    }


def largest(intervals: Iterable[Mapping[str, Any]], under: str) -> float | None:
    """The largest e/u or e/ν of any group and interval; None where no error was measured."""
    shares = [
        group["e"] / group[under]
        for interval in intervals
        for group in interval["groups"].values()
        if group["e"] and group.get(under) and math.isfinite(group["e"] / group[under])
    ]
    equal = intervals and all(interval["exact"] for interval in intervals)
    return max(shares, default=0.0 if equal else None)


def checkpoints(device: str, text: Path, *, width: int, layers: int) -> dict[str, Any]:
    """Median seconds that a step and the parts of a checkpoint of one transformer take, over six checkpoints.

    ``copied``: tensors brought to the CPU one by one; ``kept``: copied into the recorder's memory from where they are,
    to the end of it; ``hashed``: the state root.
    """
    from polledger.core.state import encode_state
    from polledger.examples.chars import Chars
    from polledger.training.determinism import apply_switches
    from polledger.training.runner import Runner
    from polledger.training.snapshot import Arena
    from polledger.training.task import prepare_task

    apply_switches(device)
    config = {**Chars.config, "width": width, "layers": layers, "heads": 8}
    runner = Runner(prepare_task(Chars, config=config, inputs={"text": str(text)}), seed=1, device=device)
    runner.build()
    arena, found = Arena(), Timings(device)
    for number in range(8):
        found.time("step", partial(runner.step, number, runner.batch(number)))
        if number >= 2:
            found.time("copied", runner.flatten)
            kept = found.time("kept", lambda: arena.copy(runner.live()))
            encoded = found.time("hashed", partial(encode_state, kept.state))
    medians = {name: statistics.median(values[-6:]) for name, values in found.seconds.items()}
    name = described(device)["device"]
    return {"device": name, "width": width, "layers": layers, "bytes": encoded.size, **medians}


@dataclass(slots=True)
class Timings:
    """Seconds by name, the device waited for before and after."""

    device: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, act: Callable[[], Any]) -> Any:
        self._wait()
        began = time.perf_counter()
        value = act()
        self._wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return value

    def _wait(self) -> None:
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()


def hashing(
    device: str, *, sizes: Sequence[int] = (1 << 26, 1 << 30), repeats: int = 7
) -> list[dict[str, Any]]:
    """Median seconds of the roots of ``sizes`` bytes on the device, fetched and hashed on one core, and copied there.

    The device's first time, which compiles the kernel, does not count. The roots have to be equal.
    """
    import torch

    from polledger.core.state import tensor_root
    from polledger.training.devicehash import roots_on_device

    def fetched(parts: Sequence[Any]) -> list[bytes]:
        return [tensor_root(memoryview(part.cpu().numpy())) for part in parts]

    rows = []
    for size in sizes:
        whole = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
        parts, other = list(whole.chunk(TENSORS)), torch.empty_like(whole)
        if roots_on_device(parts) != fetched(parts):
            raise RuntimeError("the device computes other roots")
        found = Timings(device)
        for _ in range(repeats):
            found.time("device", partial(roots_on_device, parts))
            found.time("fetched", partial(fetched, parts))
            found.time("copied", partial(other.copy_, whole))
        rows.append(
            {"bytes": size, **{name: statistics.median(taken) for name, taken in found.seconds.items()}}
        )
    return rows


def hashing_text(value: Mapping[str, Any]) -> str:
    """The table of what :func:`hashing` found. A copy within the device reads and writes every byte."""
    rows = [
        (
            f"{row['bytes'] >> 20} MiB",
            *(short(row["bytes"] / row[name] / 1e9) for name in ("device", "fetched")),
            short(2 * row["bytes"] / row["copied"] / 1e9),
            short(row["fetched"] / row["device"]),
        )
        for row in value["rows"]
    ]
    columns = ("state", "on the device, GB/s", "fetched and hashed, GB/s", "memory, GB/s", "times faster")
    where = value["machine"]
    return f"{where['gpu']}; CPU {where['cpu']}, torch {where['torch']}.\n\n{table(columns, rows)}"


def described(device: str) -> dict[str, Any]:
    """The GPU and what drives it, as a run records it."""
    from polledger.training.determinism import describe_environment

    found = describe_environment(device)
    flags = {name: value for name, value in found.flags.items() if name.startswith("gpu_")}
    return {"device": found.device, "cuda": found.cuda, "cudnn": found.cudnn, "driver": found.driver, **flags}


def measured(place: Path, device: str, *, minutes: float, jobs: int, only: str) -> dict[str, Any]:
    place.mkdir(parents=True, exist_ok=True)
    log = place / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    bench = Bench(place=place, device=device, until=time.monotonic() + 60 * minutes, rows=rows)
    where = prepared(place, device)
    wanted = [item for item in RUNS if only in item.name]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(bench.go, wanted))
    order = [item.name for item in RUNS]
    return {
        "method": METHOD,
        **where,
        "counts": counted(bench.rows),
        "runs": sorted(bench.rows, key=lambda row: order.index(row["run"])),
        "problems": sorted(bench.problems, key=lambda row: order.index(row["run"])),
    }


def prepared(place: Path, device: str) -> dict[str, Any]:
    """Text, key, and what is found out first: the machine, the GPU, the time of a checkpoint."""
    found = place / "where.json"
    if not found.exists():
        write_text(place / "text")
        write_key(place / "key.pem", "polledger/scripts/gpu.py")
        size = {"width": 1024, "layers": 6} if device != "cpu" else {"width": 64, "layers": 1}
        where = {
            "machine": machine(),
            "gpu": described(device),
            "checkpoints": [checkpoints(device, place / "text", **size)],
        }
        found.write_text(json.dumps(where))
    value: dict[str, Any] = json.loads(found.read_text())
    return value


def counted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How verifications ended, by how they were made."""
    found = Counter((row["verified"], row["comparison"], row["verdict"]) for row in rows)
    return [
        {"verified": where, "comparison": comparison, "verdict": verdict, "verifications": count}
        for (where, comparison, verdict), count in sorted(found.items())
    ]


def report_text(value: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    gpu, found = value["gpu"], value["machine"]
    head = (
        f"{gpu['device']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, torch {found['torch']}, "
        f"Python {found['python']}; CPU {found['cpu']}, polledger {found['polledger']}."
    )
    counts = table(
        ("verified", "comparison", "verdict", "verifications"),
        (
            [row[key] for key in ("verified", "comparison", "verdict", "verifications")]
            for row in value["counts"]
        ),
    )
    columns = (
        "run",
        "verified",
        "verdict",
        "intervals",
        "equal bits",
        "passed",
        "largest e/u",
        "largest e/ν",
    )
    rows = table(
        columns,
        (
            (
                row["run"], row["verified"], row["verdict"], row["intervals"], row["equal"], row["pass"],
                short(row["e_u"]), short(row["e_nu"]),
            )
            for row in value["runs"]
        ),
    )  # fmt: skip
    parts = ("step", "copied", "kept", "hashed")
    times = table(
        ("checkpoint of", "on", *(f"{part}, ms" for part in parts)),
        (
            (f"{item['bytes'] / 1e6:.0f} MB", item["device"], *(f"{1000 * item[part]:.0f}" for part in parts))
            for item in value["checkpoints"]
        ),
    )
    missing = [f"- {item['run']}: {item['problem']}" for item in value["problems"]]
    return "\n\n".join((head, counts, rows, times, *(["\n".join(missing)] if missing else [])))


def main() -> None:
    parser = argparse.ArgumentParser(description="Seal and verify on a GPU, and across to the CPU.")
    parser.add_argument("--work", type=Path, help="directory for the runs")
    parser.add_argument("--device", default="cuda", help="the device to record on")
    parser.add_argument("--minutes", type=float, default=4.0, help="begin no further verification after that")
    parser.add_argument("--jobs", type=int, default=8, help="runs side by side")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--out", type=Path, default=EVIDENCE, help="directory to write to")
    parser.add_argument("--table", action="store_true", help="measure nothing; print what was found")
    parser.add_argument("--hashing", action="store_true", help="measure how fast states are hashed there")
    wanted = parser.parse_args()
    if wanted.hashing:
        value = {"machine": machine(), "rows": hashing(wanted.device)}
        write_evidence(HASHING, value, directory=wanted.out)
        print(hashing_text(value))
        return
    if not wanted.table:
        if wanted.work is None:
            parser.error("--work DIR says where the runs go")
        value = measured(
            wanted.work.resolve(), wanted.device, minutes=wanted.minutes, jobs=wanted.jobs, only=wanted.only
        )
        write_evidence(NAME, value, directory=wanted.out)
    print(report_text(json.loads((wanted.out / f"{NAME}.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
