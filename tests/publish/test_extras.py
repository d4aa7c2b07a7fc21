"""A model signature and an ML-BOM, held against the tools that they are for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from polledger.core.claim import ModelFile, claim_in
from polledger.core.digest import sha256
from polledger.core.dsse import parse_envelope
from polledger.files import hash_regular
from polledger.keys import model_signer, signer_of
from polledger.publish.extras import make_extras, model_signature
from polledger.store.claimfiles import BOM, CLAIM, EXTRAS, MODEL_KEY, MODEL_SIGNATURE
from tests.verify.build import KEY, Built, make_run
from tests.verify.claiming import write_claim
from tests.verify.test_binding import safetensors, tensors

SIGNER, PEM = model_signer(KEY)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_run(tmp_path_factory.mktemp("extras") / "run")


def verified(model: Path, signature: Path, key: Path, *words: str) -> tuple[bool, str]:
    """Whether the real tool accepts the signature, and what it says."""
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(model),
        "--signature",
        str(signature),
    ]
    done = subprocess.run(
        [*command, "--public_key", str(key), *words], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def test_model_signing_accepts_the_signature_unchanged_and_no_other_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "b.safetensors").write_bytes(b"weights")
    (model / "a.pt").write_bytes(b"others")
    files = [
        ModelFile(name=path.name, size=path.stat().st_size, sha256=hash_regular(path))
        for path in model.iterdir()
    ]
    signature, key = tmp_path / "model.sig", tmp_path / "model.pub.pem"
    signature.write_bytes(model_signature("small", files, SIGNER, PEM))
    key.write_bytes(PEM)
    assert verified(model, signature, key) == (True, "Verification succeeded\n")
    # Inside of the directory it is not taken for a part of the model.
    (model / MODEL_SIGNATURE).write_bytes(signature.read_bytes())
    assert verified(model, model / MODEL_SIGNATURE, key)[0]
    (model / "a.pt").write_bytes(b"changed")
    accepted, said = verified(model, signature, key)
    assert (accepted, "mismatch" in said) == (False, True)


def test_model_signing_refuses_another_key(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.pt").write_bytes(b"x")
    files = [ModelFile(name="a.pt", size=1, sha256=sha256(b"x").hex())]
    (tmp_path / "model.sig").write_bytes(model_signature("small", files, SIGNER, PEM))
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other.pem").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert not verified(tmp_path / "model", tmp_path / "model.sig", tmp_path / "other.pem")[0]


def test_the_key_for_tools_belongs_to_the_claimants_and_signs_the_claim(run: Built, tmp_path: Path) -> None:
    assert model_signer(KEY)[0].public == SIGNER.public
    public: Any = load_pem_public_key(PEM)
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert point == SIGNER.public.key
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert SIGNER.public.keyid == sha256(der).hex()
    files = write_claim(run, tmp_path / "claim", further=(SIGNER,))
    envelope = parse_envelope(files.path.read_bytes())
    assert envelope.signature_of(SIGNER.public) is not None
    assert envelope.signature_of(signer_of(KEY).public) is not None
    assert not SIGNER.public.signed(envelope.message() + b"x", envelope.signatures[1].sig)


def test_the_bill_of_materials_is_valid_and_says_what_the_claim_says(run: Built, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(safetensors(tensors(run)))
    files = write_claim(run, tmp_path / "claim", files=(model,), further=(SIGNER,))
    envelope = parse_envelope(files.path.read_bytes())
    extras = make_extras(envelope, SIGNER, PEM)
    assert set(extras) == set(EXTRAS)
    assert extras[MODEL_KEY] == PEM
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(extras[BOM].decode()) is None
    bom = json.loads(extras[BOM])
    component = bom["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    [reference] = component["externalReferences"]
    assert reference["url"] == CLAIM
    assert reference["hashes"][0]["content"] == hash_regular(files.path)
    claim = claim_in(envelope)
    said = {one["name"]: one["value"] for one in component["properties"]}
    assert said["polledger:model_root"] == claim.model.root
    assert bom["components"][0]["hashes"][0]["content"] == hash_regular(model)


def test_the_validator_refuses_what_is_no_bill_of_materials() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str('{"bomFormat": "CycloneDX"}') is not None
