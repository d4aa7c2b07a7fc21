"""``polledger tsa serve`` as a real process on loopback, on a port that the kernel chooses."""

import contextlib
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

ROOT = Path(__file__).resolve().parents[2]
SERVE = [sys.executable, "-m", "polledger.cli.app", "tsa", "serve"]

STOP_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running authority: where it is, and the trust entry that it printed."""

    process: "subprocess.Popen[str]"
    url: str
    entry: dict[str, Any]
    errors: Path
    """What it writes to standard error."""

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def root_path(self) -> Path:
        return Path(self.entry["roots"][0])

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.root_path.read_bytes())

    @property
    def directory(self) -> Path:
        return self.root_path.parent

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the exit code. The rest of standard output is lost."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextlib.contextmanager
def serving(directory: Path, *words: object, listen: str = "127.0.0.1:0") -> Iterator[Served]:
    """An authority kept in ``directory``, until the end of the block or until it is stopped."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    errors = directory.parent / f"{directory.name}.err"
    with (
        errors.open("a") as log,
        subprocess.Popen(
            [*SERVE, "--listen", listen, "--dir", directory, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "POLLEDGER_HOME": str(directory.parent / "home")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            entry = _read_entry(process, errors)
            yield Served(process=process, url=entry["url"], entry=entry, errors=errors)
        finally:
            process.kill()


def _read_entry(process: "subprocess.Popen[str]", errors: Path) -> dict[str, Any]:
    """The one [[authority]] on standard output; it is printed in one piece when the port is open."""
    assert process.stdout is not None
    text = ""
    while "policies" not in text:
        line = process.stdout.readline()
        assert line, errors.read_text()
        text += line
    (entry,) = tomllib.loads(text)["authority"]
    return dict(entry)
