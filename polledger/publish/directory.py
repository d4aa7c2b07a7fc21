"""Where a report goes: a directory of its own, in which nothing of anybody else's is ever overwritten."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polledger.core.text import json_text
from polledger.errors import Unavailable, UsageError
from polledger.files import open_regular, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDirectory:
    """The files ``page`` (HTML) and ``twin`` (the JSON object that it shows) in ``path``; ``schema`` marks the object.

    :meth:`prepare` before the work, :meth:`write` after it.
    """

    path: Path
    page: str
    twin: str
    schema: str

    def prepare(self) -> None:
        """Make the directory. Raises UsageError if it is somebody else's, Unavailable unless files can be made in it.

        It is ours if it is new, empty, or has a ``twin`` of this schema.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()) and not self._is_ours():
                raise UsageError(
                    f"{self.path} is not empty and holds no report of this kind ({self.twin}): name a new directory"
                )
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise Unavailable(f"cannot write the report to {self.path}: {error.strerror or error}") from None

    def _is_ours(self) -> bool:
        mark = f'{{\n  "schema": {json.dumps(self.schema)},'.encode()
        try:
            with open_regular(self.path / self.twin) as (file, _):
                known = file.read(len(mark)) == mark
        except (FileNotFoundError, Unavailable):
            return False
        page = self.path / self.page
        return known and (page.is_file() or not page.exists()) and not page.is_symlink()

    def twin_bytes(self, value: Mapping[str, object]) -> bytes:
        """``value`` as the bytes that :meth:`write` keeps of it."""
        return f"{json_text(value)}\n".encode()

    def write(self, value: Mapping[str, object], page: str) -> None:
        """Put ``value`` and its ``page`` there, each in one step. Raises Unavailable."""
        write_atomic(self.path / self.twin, [self.twin_bytes(value)])
        write_atomic(self.path / self.page, [page.encode()])
