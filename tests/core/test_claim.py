"""The statement of a claim: its schema, and that what is written is read."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

from polledger.core.claim import claim_in, encode_statement
from polledger.core.dsse import parse_envelope
from tests.verify.build import make_run
from tests.verify.claiming import write_claim

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "claim.schema.json"


def test_a_claim_has_the_form_of_its_schema_and_is_read_as_written(tmp_path: Path) -> None:
    files = write_claim(make_run(tmp_path / "run"), tmp_path / "claim")
    payload = parse_envelope(files.path.read_bytes()).payload
    validator = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    validator.validate(json.loads(payload))
    assert not validator.is_valid(json.loads(payload) | {"more": 1})
    assert encode_statement(claim_in(parse_envelope(files.path.read_bytes()))) == payload
