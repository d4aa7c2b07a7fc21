"""Trying a spoof: forge it, show it to a verifier of the published kind, then to the command that an auditor types."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from polledger.errors import PolledgerError, Unavailable
from polledger.redteam.reference import ALPHA, SHIPPED, ReferenceVerdict, reference_verdict
from polledger.redteam.spoof import Attempt, Forgery, Outcome, Spoof, Target

VERDICTS = ("VERIFIED", "REFUTED", "UNVERIFIABLE")

Verify = Callable[[Forgery, Target], Mapping[str, Any]]
"""Gives what ``polledger verify --json`` says about a forgery."""


def verify_arguments(forgery: Forgery, target: Target) -> list[str]:
    """What an auditor adds to ``polledger verify RUN`` to try ``forgery`` with data and code at hand.

    What ``forgery.arguments`` say stands; its sample, the target's task and inputs are added where they say nothing.
    """
    words = list(forgery.arguments)
    if "--sample" not in words:
        words += ["--sample", str(forgery.sample)]
    if "--task" not in words and not target.task.startswith("polledger."):
        words += ["--task", target.task]
    if "--input" not in words:
        words += [word for name, path in target.inputs.items() for word in ("--input", f"{name}={path}")]
    return words


def verify_forgery(forgery: Forgery, target: Target) -> Mapping[str, Any]:
    """What ``polledger verify --json`` prints, run in a process of its own with a fresh nonce.

    Raises Unavailable if it gives no verdict.
    """
    words = ["verify", str(forgery.run), "--json", *verify_arguments(forgery, target)]
    done = subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *words],
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


def ask_reference(forgery: Forgery, target: Target) -> ReferenceVerdict | None:
    """What a verifier of the published kind says; None where it cannot read what the forgery is."""
    words = list(forgery.arguments)
    task = words[words.index("--task") + 1] if "--task" in words else target.task
    own = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--input"]
    inputs = dict(item.split("=", 1) for item in own) if own else target.inputs
    try:
        return reference_verdict(forgery.run, task=task, inputs=inputs)
    except PolledgerError:
        return None


def accepts_by_l2(found: ReferenceVerdict) -> bool:
    """Whether it would accept if it looked at the l2 distance alone, as the papers do, not at all four of its code."""
    looks_drawn = found.smallest_p >= ALPHA and found.data_matches is not False
    return bool(found.intervals) and looks_drawn and found.largest_error <= SHIPPED.l2


def try_spoof(spoof: Spoof, target: Target, attempt: Attempt, *, verify: Verify = verify_forgery) -> Outcome:
    """Forge and verify once. Raises UsageError or Unavailable where the target's task does not lend itself to it."""
    attempt.watch("forging")
    forgery = spoof.forge(target, attempt)
    found = None
    if spoof.reference:
        attempt.watch("asking a verifier of the published kind")
        found = ask_reference(forgery, target)
    attempt.watch("verifying")
    return Outcome(
        spoof=spoof.name,
        seed=attempt.seed,
        forgery=forgery,
        report=verify(forgery, target),
        reference=None if found is None else accepts_by_l2(found),
        shipped=None if found is None else found.accepts,
    )
