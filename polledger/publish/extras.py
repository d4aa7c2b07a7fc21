"""What stands beside a claim for the tools of others: an OpenSSF model signature and a CycloneDX ML-BOM.

Both say what the claim says and nothing more; ``verify`` reads neither. docs/decisions/0036.
"""

import hashlib
import json
import uuid
from base64 import b64encode
from typing import Any, Final

from polledger.core.claim import Claim, ModelFile, claim_in
from polledger.core.digest import sha256
from polledger.core.dsse import IN_TOTO, Envelope, Signer, encode_envelope, pae
from polledger.store.claimfiles import BOM, CLAIM, MODEL_KEY, MODEL_SIGNATURE

MODEL_SIGNING: Final = "https://model_signing/signature/v1.0"
"""Predicate type of OpenSSF Model Signing, version 1."""

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

_IGNORED: Final = (".git", ".gitattributes", ".github", ".gitignore", MODEL_SIGNATURE, MODEL_KEY)


def make_extras(envelope: Envelope, signer: Signer, pem: bytes) -> dict[str, bytes]:
    """The files by name, for a claim that names at least one file. ``signer`` is P-256, ``pem`` its public key."""
    claim = claim_in(envelope)
    return {
        MODEL_SIGNATURE: model_signature(claim.model.name, claim.model.files, signer, pem),
        MODEL_KEY: pem,
        BOM: bill_of_materials(claim, envelope),
    }


def model_signature(name: str, files: list[ModelFile], signer: Signer, pem: bytes) -> bytes:
    """A ``model.sig`` over a directory that holds ``files``, as ``model_signing verify key`` reads it."""
    listed = sorted(files, key=lambda file: file.name)
    root = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in listed)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": MODEL_SIGNING,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": [
                {"name": file.name, "algorithm": "sha256", "digest": file.sha256} for file in listed
            ],
        },
    }
    payload = _json(statement)
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": b64encode(payload).decode(),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": b64encode(signer.sign(pae(IN_TOTO, payload))).decode(), "keyid": ""}],
        },
    }
    return _json(bundle)


def bill_of_materials(claim: Claim, envelope: Envelope) -> bytes:
    """The model as a component of a CycloneDX 1.6 ML-BOM that refers to the claim."""
    model, training = claim.model, claim.training
    properties = {
        "polledger:model_root": model.root,
        "polledger:run": training.run,
        "polledger:head": training.head.digest,
        "polledger:steps": str(training.steps),
        "polledger:task": claim.task,
        "polledger:claimant_key": claim.claimant.key,
    }
    files = [_file(file) for file in model.files]
    data = _data(claim)
    component = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model.name,
        "modelCard": {"modelParameters": {"datasets": [{"ref": "data"}]}},
        "externalReferences": [
            {"type": "attestation", "url": CLAIM, "hashes": [_hash(sha256(encode_envelope(envelope)).hex())]}
        ],
        "properties": [{"name": name, "value": value} for name, value in properties.items()],
    }
    return _json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.UUID(bytes=sha256(envelope.payload)[:16], version=4)}",
            "version": 1,
            "metadata": {"component": component},
            "components": [*files, data],
            "dependencies": [{"ref": "model", "dependsOn": [one["bom-ref"] for one in (*files, data)]}],
        }
    )


def _file(file: ModelFile) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file-{file.sha256}",
        "name": file.name,
        "hashes": [_hash(file.sha256)],
    }


def _data(claim: Claim) -> dict[str, Any]:
    """The training data: their salted root where there is one, and that they are not shown."""
    data = claim.data
    properties = [{"name": "polledger:disclosure", "value": data.disclosure}]
    if isinstance(data.root, str):
        properties.append({"name": "polledger:dataset_root", "value": data.root})
    return {
        "type": "data",
        "bom-ref": "data",
        "name": "training data",
        "data": [{"type": "dataset", "name": "training data"}],
        "properties": properties,
    }


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"
