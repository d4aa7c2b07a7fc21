"""``polledger publish``: put a claim where anyone can check it. PROTOCOL sections 13 and 14."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.options import JsonOption
from polledger.cli.output import output

if TYPE_CHECKING:
    from polledger.store.claimfiles import ClaimFiles

EXAMPLES = (
    "Examples: `polledger publish claim/claim.dsse.json site/`; "
    "`polledger publish claim/claim.dsse.json s3://bucket/model` (polledger[publish], s3fs)."
)


def run(
    path: Annotated[Path, typer.Argument(metavar="CLAIM", help="The claim to publish.", show_default=False)],
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="Directory, or URL that fsspec opens.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> int:
    """Publish CLAIM with its proof, its tokens and a page that checks it. Nothing that is there is overwritten."""
    from polledger.core.digest import sha256
    from polledger.errors import EXIT_OK
    from polledger.publish.publishing import gather, publish
    from polledger.publish.store import open_destination
    from polledger.store.claimfiles import CLAIM, ClaimFiles

    files = ClaimFiles(path=path.expanduser())
    publication = gather(files)
    _check(files)
    folder = publish(publication, open_destination(dest))
    digest = sha256(publication.read.envelope.payload).hex()
    names = sorted([f"{folder}{name}" for name in publication.files] + [f"{folder}{CLAIM}"])
    facts = {"claim": digest, "destination": dest, "folder": folder, "files": names}
    output.result({"schema": "polledger.publish/1", "exit_code": EXIT_OK, **facts})
    for name in names:
        output.text(name)
    where = dest.rstrip("/") + (f"/{folder.rstrip('/')}" if folder else "")
    output.sentence(f"published at {where}: {len(names)} files, none of which polledger ever overwrites")
    return EXIT_OK


def _check(files: "ClaimFiles") -> None:
    """Raise UsageError unless the claim agrees with its proof: what is published stays."""
    import secrets
    from datetime import UTC, datetime

    from polledger.errors import UsageError
    from polledger.verify.claimalone import read_claim_files, verify_alone
    from polledger.verify.policy import Policy
    from polledger.verify.request import Request

    request = Request(policy=Policy(), nonce=secrets.token_bytes(32), now=datetime.now(UTC))
    report = verify_alone(files, read_claim_files(files), request)
    if any(finding.name == "claim" and finding.outcome == "pass" for finding in report.findings):
        return
    wrong = next((one for one in report.findings if one.blocks), None)
    raise UsageError(f"{files.path} is not published: {wrong.detail if wrong else 'it was not checked'}")
