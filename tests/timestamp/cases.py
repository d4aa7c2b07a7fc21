"""The vector files: shared ones (copied) and our own, with the arguments they are verified with."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "timestamp"


@dataclass(frozen=True)
class Case:
    """One line of a ``cases.json``."""

    directory: Path
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.directory.name}/{self.fields['name']}"

    @property
    def valid(self) -> bool:
        return bool(self.fields["expect"] == "valid")

    def path(self, key: str) -> Path:
        return self.directory / str(self.fields[key])

    def response(self) -> bytes:
        return self.path("response").read_bytes()

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``verify_response``."""
        return {
            "digest": bytes.fromhex(self.fields["digest"]),
            "hash_name": self.fields["hash"],
            "nonce": self.fields["nonce"],
            "policies": [self.fields["policy"]],
            "at": datetime.fromisoformat(self.fields["verify_at"]),
            "roots": self._certificates("roots"),
            "intermediates": self._certificates("intermediates"),
        }

    def words(self) -> list[object]:
        """The same as words of ``polledger timestamp verify``."""
        words: list[object] = [
            self.path("response"),
            "--digest",
            self.fields["digest"],
            "--hash",
            self.fields["hash"],
        ]
        words += ["--nonce", self.fields["nonce"], "--policy", self.fields["policy"]]
        words += ["--at", self.fields["verify_at"], "--roots", self.path("roots")]
        if "intermediates" in self.fields:
            words += ["--intermediates", self.path("intermediates")]
        return words

    def _certificates(self, key: str) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.path(key).read_bytes()) if key in self.fields else []


def load(directory: str) -> list[Case]:
    folder = VECTORS / directory
    return [Case(folder, fields) for fields in json.loads((folder / "cases.json").read_text())]


SHARED = load("shared")
OWN = load("own")


def find(name: str) -> Case:
    return next(case for case in (*SHARED, *OWN) if case.name == name)
