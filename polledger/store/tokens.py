"""The tokens beside a claim: one flat folder of files, each named by its SHA-256. docs/decisions/0034."""

from collections.abc import Iterable
from pathlib import Path

from polledger.core.records import TokenRef
from polledger.store.objects import ObjectStore


class TokenFolder(ObjectStore):
    """Requests, responses, certificates and revocation data, as a run keeps them under objects/."""

    def path(self, name: bytes) -> Path:
        """Where the file ``name`` lies, whether or not it is there. Raises UsageError unless it has 32 bytes."""
        return self.directory / "".join(super().path(name).parts[-2:])


def files_of(tokens: Iterable[TokenRef]) -> list[bytes]:
    """The names of all that is kept of ``tokens``, each once."""
    names: dict[bytes, None] = {}
    for token in tokens:
        chain = token.chain if isinstance(token.chain, list) else []
        revocation = token.revocation if isinstance(token.revocation, list) else []
        names.update(dict.fromkeys([token.request, token.response, *chain, *revocation]))
    return list(names)
