"""Write the sessions in docs/claims.md: run every command that stands there and put what it said below it.

A block begins with ``$ command``; all else in it is replaced. Digests are cut to 8 digits. The session runs in a
temporary directory with a home of its own, on this machine; nothing in it is timed. ``--check`` writes nothing and
exits 1 if a command says something else now, digests, times and distances aside.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "claims.md"

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)

TRAINED = """
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from polledger.core.published import published_model
from polledger.store.run import RunDirectory
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.lineage import build_lineage
from polledger.verify.states import load_state

evidence = read_evidence(RunDirectory.open(Path("R")))
records = match_heads(evidence, parse_records(evidence)).records
lineage = build_lineage(records[0], records)
state = load_state(evidence.objects, lineage.checkpoints[-1].root)
weights = {
    one.path: torch.from_numpy(np.frombuffer(one.data, dtype=one.dtype).reshape(one.shape).copy())
    for one in published_model(state.flat, lineage.final.object).tensors
}
save_file(weights, "model.safetensors")
floats = {name: value for name, value in weights.items() if value.is_floating_point()}
save_file(weights | {name: value.half() for name, value in floats.items()}, "half.safetensors")
torch.manual_seed(1)
moved = {name: value + 0.02 * value.square().mean().sqrt() * torch.randn(value.shape) for name, value in floats.items()}
save_file(weights | moved, "tuned.safetensors")
"""
"""What the story takes for granted: the model's file as its owner has it, a half-precision copy, and one trained on."""

EDITED = """
import base64, json, pathlib, shutil

there = json.loads(pathlib.Path("claim/claim.dsse.json").read_text())
text = base64.b64decode(there["payload"]).replace(b'"steps":60', b'"steps":60000')
there["payload"] = base64.b64encode(text).decode()
shutil.copytree("claim", "edited")
pathlib.Path("edited/claim.dsse.json").write_text(json.dumps(there))
"""
"""Somebody changes one number in the claim and leaves all else as it is."""


def said(command: str, place: Path) -> str:
    """What ``command`` says on both streams, in ``place``."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "POLLEDGER_HOME": str(place / "home"),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "110",
        "PYTHONPATH": str(ROOT),
    }
    words = (
        [sys.executable, *shlex.split(command)[1:]] if command.startswith("python ") else shlex.split(command)
    )
    done = subprocess.run(
        words,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b", r"\1…", done.stdout).rstrip()


def prepared(command: str, place: Path) -> None:
    """What happens before ``command`` and is not shown."""
    if command.startswith("polledger claim R") and not (place / "model.safetensors").exists():
        subprocess.run(
            [sys.executable, "-c", TRAINED], cwd=place, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    if "edited/" in command and not (place / "edited").exists():
        subprocess.run([sys.executable, "-c", EDITED], cwd=place, check=True)


def rewritten(text: str, place: Path) -> Iterator[str]:
    """The page with every block run again."""
    end = 0
    for match in BLOCK.finditer(text):
        yield text[end : match.start()]
        end = match.end()
        lines = []
        for command in re.findall(r"^\$ (.*)$", match[1], re.MULTILINE):
            prepared(command, place)
            lines += [f"$ {command}", *said(command, place).splitlines()]
        yield "```console\n" + "\n".join(lines) + "\n```"
    yield text[end:]


def masked(text: str) -> str:
    """``text`` without what differs from run to run: keys, times, distances, and how many seals a minute made."""
    text = re.sub(r"\b[0-9a-f]{8}…", "…", text)
    text = re.sub(r"(tokens/…\n)+", "tokens/…\n", text)
    text = re.sub(r"\d+ files", "N files", text)
    text = re.sub(r"\d+ of (\d+) intervals", r"N of \1 intervals", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\b(loss|accuracy|grad_norm|distance) [\d.]+\b", r"\1 N", text)
    return re.sub(r"\d+\.\d+", "N", text)


def main() -> None:
    """Write the page, or with ``--check`` compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare only; exit 1 where a command says something else"
    )
    check = parser.parse_args().check
    text = PAGE.read_text("utf-8")
    with tempfile.TemporaryDirectory() as place:
        new = "".join(rewritten(text, Path(place)))
    if check:
        before, after = masked(text).splitlines(), masked(new).splitlines()
        changed = "\n".join(difflib.unified_diff(before, after, n=0, lineterm=""))
        sys.exit(f"{PAGE} does not say what its commands say:\n{changed}" if changed else 0)
    PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
