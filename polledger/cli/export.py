"""``polledger export``: the inclusion proof of one record, for other tools. PROTOCOL sections 7 and 14."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polledger.cli.output import output

if TYPE_CHECKING:
    from polledger.store.run import RunDirectory
    from polledger.verify.evidence import Evidence
    from polledger.verify.heads import SealedHead


class Format(StrEnum):
    """What the proof is for."""

    CHAINPOINT = "chainpoint"
    RFC9162 = "rfc9162"


def run(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.", show_default=False)],
    index: Annotated[int, typer.Argument(min=0, help="Index of the record.", show_default=False)],
    form: Annotated[
        Format, typer.Option("--format", help="chainpoint (stock merkletools takes it) or rfc9162.")
    ] = Format.CHAINPOINT,
    as_json: Annotated[bool, typer.Option("--json", help="Add schema and exit code to the object.")] = False,
) -> int:
    """Print the inclusion proof of record INDEX in the newest sealed tree, as JSON."""
    import json

    from polledger.errors import EXIT_OK
    from polledger.store.run import RunDirectory

    proof = export(RunDirectory.open(path), index, form)
    output.text(json.dumps(proof, indent=2))
    output.result({"schema": "polledger.export/1", "exit_code": EXIT_OK, **proof})
    return EXIT_OK


def export(directory: "RunDirectory", index: int, form: Format) -> dict[str, Any]:
    """The proof of record ``index``. The record's bytes are hashed anew; the head's signature is checked.

    Raises MalformedError when the records do not give the newest head (for chainpoint: its chainpoint line),
    Unavailable when there is no genesis record to read, UsageError for a record that is not sealed.
    """
    from itertools import islice

    from polledger.core.digest import sha256
    from polledger.core.merkle import leaf_hash
    from polledger.errors import UsageError
    from polledger.verify.evidence import read_evidence

    evidence = read_evidence(directory)
    newest = _newest_head(directory, evidence)
    size = newest.head.size
    if index >= size:
        raise UsageError(f"record {index} is not sealed: the newest head covers {size} records")
    leaves = [leaf_hash(sha256(record)) for record in islice(evidence.records, size) if record is not None]
    return (
        _chainpoint(newest, leaves, index) if form is Format.CHAINPOINT else _rfc9162(newest, leaves, index)
    )


def _newest_head(directory: "RunDirectory", evidence: "Evidence") -> "SealedHead":
    from polledger.core.records import parse_genesis
    from polledger.errors import MalformedError, Unavailable
    from polledger.verify.heads import Parsed, match_heads

    if not evidence.records or evidence.records[0] is None:
        raise Unavailable(f"{directory.ledger_path}: there is no genesis record to read")
    genesis = parse_genesis(evidence.records[0])
    heads = match_heads(evidence, Parsed(records=(genesis,), problems={}, genesis=genesis))
    newest = heads.newest
    if newest is None or newest.head.size < heads.claimed:
        raise MalformedError("the records do not give the root of the newest head: run polledger verify")
    return newest


def _chainpoint(newest: "SealedHead", leaves: "list[bytes]", index: int) -> dict[str, Any]:
    from polledger.core.merkle import chainpoint_proof
    from polledger.errors import MalformedError

    if not newest.chainpoint_matches:
        raise MalformedError("the chainpoint line of the newest head is not the tree's: nothing is exported")
    return {
        "target_hash": leaves[index].hex(),
        "proof": chainpoint_proof(leaves, index),
        "merkle_root": newest.head.chainpoint.hex(),
    }


def _rfc9162(newest: "SealedHead", leaves: "list[bytes]", index: int) -> dict[str, Any]:
    from polledger.core.merkle import inclusion_proof

    note = newest.seal.seal.note.decode() if newest.seal.seal is not None else ""
    return {
        "leaf_index": index,
        "tree_size": newest.head.size,
        "leaf_hash": leaves[index].hex(),
        "inclusion_path": [item.hex() for item in inclusion_proof(leaves, index)],
        "root_hash": newest.head.root.hex(),
        "note": note,
    }
