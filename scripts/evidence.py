"""What the scripts that measure share: a text to train on, a key, the machine in words, commands, Markdown tables."""

import hashlib
import json
import math
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from polledger import __version__
from polledger.core.records import Environment
from polledger.training.determinism import cpu_name

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"

NOWHERE = Environment(
    **dict.fromkeys(
        ("device", "cpu", "capability", "torch", "torch_git", "cuda", "cudnn", "driver", "python", "numpy"),
        "",
    ),
    platform="",
    polledger=__version__,
    threads=1,
    interop_threads=1,
    flags={},
)
"""The environment of records that nothing is ever replayed from."""

_WORDS = (
    "the of and to in a that it was for on are with as his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know"
)


def machine() -> dict[str, Any]:
    """The machine and versions that figures come from, in words."""
    import torch

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "polledger": __version__,
    }


def write_text(path: Path, *, size: int = 200_000) -> Path:
    """Sentences of common English words in a fixed pseudo-random order: something to learn, the same everywhere."""
    generator = random.Random(20260101)
    known = _WORDS.split()
    sentences = []
    length = 0
    while length < size:
        words = generator.choices(known, weights=range(len(known), 0, -1), k=generator.randint(4, 12))
        sentences.append(" ".join(words).capitalize() + ". ")
        length += len(sentences[-1])
    path.write_text("".join(sentences), encoding="ascii")
    return path


def write_key(path: Path, label: str) -> Path:
    """A throw-away key that follows from ``label``: a training depends on its key, and shall be made again alike."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def command(words: Sequence[str], *, home: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object that ``polledger WORDS --json`` prints. Raises RuntimeError if it could not do its work."""
    done = subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *words, "--json"],
        capture_output=True,
        env={**os.environ, **variables, "POLLEDGER_HOME": str(home)},
        check=False,
    )
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"polledger {' '.join(words)}: {done.stderr.decode(errors='replace')[-2000:]}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def write_evidence(name: str, value: Mapping[str, Any], *, directory: Path = EVIDENCE) -> Path:
    """Write ``value`` to NAME.json in ``docs/evidence`` or ``directory``, a line an entry: changes can be read."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(_json(value, 0) + "\n", encoding="utf-8")
    return path


def _json(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) and value and depth < 1:
        inside = ",\n".join(f" {json.dumps(key)}: {_json(item, depth + 1)}" for key, item in value.items())
        return "{\n" + inside + "\n}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and depth < 2:
        return "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value) + "\n ]"
    return json.dumps(value, ensure_ascii=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def at_least(value: float | None) -> str:
    """:func:`short`, rounded down: of a margin nothing may be printed that was not reached."""
    if value is None or value == 0:
        return short(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    # A quotient a rounding below a whole number is that number.
    return short(math.floor(value / unit + 1e-9) * unit)


def short(value: float | None) -> str:
    """Two significant digits; a dash for what was not measured."""
    return "–" if value is None else "0" if value == 0 else f"{value:.2g}"
