"""Trying a forgery: forge it, then run the command that an auditor types, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from polledger.errors import Unavailable
from polledger.redteam.spoof import Forgery, Target

VERDICTS = ("VERIFIED", "REFUTED", "UNVERIFIABLE")


def verify_words(forgery: Forgery, target: Target) -> list[str]:
    """The arguments of ``polledger`` with which an auditor tries ``forgery``, data and code at hand.

    What ``forgery.arguments`` say stands; the target's task and inputs are added where they say nothing.
    """
    words = ["verify", str(forgery.run), "--json", *forgery.arguments]
    if "--sample" not in words:
        words += ["--sample", str(forgery.sample)]
    if "--task" not in words and not target.task.startswith("polledger."):
        words += ["--task", target.task]
    if "--input" not in words:
        words += [word for name, path in target.inputs.items() for word in ("--input", f"{name}={path}")]
    return words


def verify_forgery(forgery: Forgery, target: Target) -> Mapping[str, Any]:
    """What ``polledger verify --json`` prints about ``forgery``. Raises Unavailable if it gives no verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *verify_words(forgery, target)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("verdict") not in VERDICTS:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Unavailable(f"polledger verify gave no verdict: {said[0]}")
    return report
