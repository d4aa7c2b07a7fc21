"""What ``polledger verify`` does with a claim: by the run where that is at hand, else by what lies beside the claim."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polledger.core.report import Report
    from polledger.verify.request import Request


def verify_claimed(
    path: Path, run: Path | None, request: "Request", verified: "Callable[[Path, Request], Report]"
) -> "Report":
    """The report over ``path``, whatever it is. ``verified`` verifies a run or a proof; ``run`` is that of a claim.

    Raises UsageError for a ``run`` without a claim.
    """
    from dataclasses import replace

    from polledger.errors import MalformedError, UsageError
    from polledger.store.claimfiles import ClaimFiles
    from polledger.verify.claimalone import damaged_claim, read_claim_files, verify_alone

    if not is_claim(path):
        if run is not None:
            raise UsageError(f"--run names the run of a claim, and {path} is no claim")
        return verified(path, request)
    files = ClaimFiles(path=path)
    try:
        asked = read_claim_files(files)
    except MalformedError as error:
        return damaged_claim(error, request)
    place = run or _run_around(path)
    if place is None:
        return verify_alone(files, asked, request)
    return verified(place, replace(request, claim=asked))


def is_claim(path: Path) -> bool:
    """Whether ``path`` is a file that begins as JSON does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"{"


def _run_around(path: Path) -> Path | None:
    """The run directory that the claim lies in, if it lies in one."""
    directory = path.absolute().parent
    return directory if (directory / "ledger.log").exists() else None
