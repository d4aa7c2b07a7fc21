"""The vectors under schemas/vectors/ and the gates that they go through."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polledger.core.challenge import parse_challenge, parse_refusal
from polledger.core.encoding import Limits, parse
from polledger.core.proof import parse_header
from polledger.core.publicproof import parse_public_proof
from polledger.core.records import parse_record, parse_seal
from polledger.core.renewal import parse_renewal, parse_statement
from polledger.core.source import parse_source

VECTORS = Path(__file__).resolve().parents[2] / "schemas" / "vectors"
GATES = {
    "record": parse_record,
    "seal": parse_seal,
    "renewal": parse_renewal,
    "statement": parse_statement,
    "source": parse_source,
    "challenge": parse_challenge,
    "refusal": parse_refusal,
    "proof": parse_header,
    "public_proof": parse_public_proof,
}


@dataclass(frozen=True)
class Vector:
    name: str
    kind: str
    data: bytes
    content: dict[str, Any]

    def parse(self, data: bytes | None = None) -> Any:
        data = self.data if data is None else data
        if self.kind == "value":
            return parse(data, Any, limits=Limits(**self.content["limits"]))
        return GATES[self.kind](data)


def load(folder: str) -> list[Vector]:
    return [_read(path) for path in sorted((VECTORS / folder).glob("*.json"))]


def _read(path: Path) -> Vector:
    content = json.loads(path.read_text("utf-8"))
    data = b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part[0]) * part[1]
        for part in content["bytes"]
    )
    return Vector(path.stem, content["kind"], data, content)
