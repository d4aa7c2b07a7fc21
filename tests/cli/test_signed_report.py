"""A verifier signs what it reports."""

import json
from pathlib import Path

from polledger.core.dsse import parse_envelope
from polledger.keys import create_key, signer_of
from tests.cli.conftest import Command
from tests.verify.build import Built


def test_the_signature_is_over_the_report_that_lies_beside_it(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    signer = signer_of(create_key(tmp_path / "key.pem"))
    words = ("verify", sealed.run.path, "--no-replay", "--report", tmp_path / "out")
    assert command(*words, "--key", tmp_path / "key.pem").code == 3
    envelope = parse_envelope((tmp_path / "out" / "report.dsse.json").read_bytes())
    assert envelope.payload == (tmp_path / "out" / "report.json").read_bytes()
    assert envelope.payload_type == "application/vnd.polledger.verify+json"
    assert envelope.signature_of(signer.public) is not None
    assert json.loads(envelope.payload)["verdict"] == "UNVERIFIABLE"
    # A report that is not signed does not stand beside an earlier signature.
    assert command(*words).code == 3
    assert not (tmp_path / "out" / "report.dsse.json").exists()


def test_there_has_to_be_a_report_to_sign(command: Command, sealed: Built, tmp_path: Path) -> None:
    create_key(tmp_path / "key.pem")
    said = command("verify", sealed.run.path, "--no-replay", "--key", tmp_path / "key.pem")
    assert (said.code, "--report DIR" in said.last) == (2, True)
    said = command("verify", sealed.run.path, "--report", tmp_path / "out", "--key", tmp_path / "none")
    assert said.code == 2
    assert not (tmp_path / "out").exists()
