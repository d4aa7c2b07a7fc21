"""A child process that runs task code, as its parent sees it: two pipes, a time limit, an end. PROTOCOL section 10.

Everything it says is hostile: bounded here, parsed by :mod:`polledger.training.wire`.
"""

import collections
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from polledger.core.replay import ReplayFailed
from polledger.errors import MalformedError
from polledger.training import wire

R = TypeVar("R", bound=wire.Reply)

LOOKS = 20
"""How often, in the time that a message may take, it is looked whether it takes longer: by a twentieth at most."""

PIPE = 1 << 20
"""Bytes in a pipe at a time: what Linux allows everybody."""

ERROR_TAIL = 4000
"""Characters of a child's standard error that are kept for the message of a failure."""

_BOOT = "import sys; sys.path.insert(0, {root!r}); from polledger.training.child import main; sys.path.pop(0); main()"
# In front, so that the child is of this polledger and not of another installed one. The checkout's root leaves sys.path
# again: only the package itself stays importable.


class ChildProcess:
    """A child process, the two pipes to it and the end of its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], patience: float) -> None:
        self._process = process
        self._patience = patience
        self._gave_up = False
        self._errors: collections.deque[str] = collections.deque(maxlen=40)
        self._drain = threading.Thread(target=self._keep_errors, daemon=True)
        self._drain.start()
        # One thread that looks now and then: a timer for each message took longer than the messages.
        self._deadline = math.inf
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_at_the_clock, daemon=True)
        self._watch.start()

    def send(self, request: wire.Request, *frames: bytes | memoryview) -> None:
        """Write one request and the frames that belong to it."""
        stream = cast(BinaryIO, self._process.stdin)
        with self._limited():
            wire.write_message(stream, request)
            for frame in frames:
                wire.write_frame(stream, frame)
            stream.flush()

    def expect(self, kind: type[R]) -> R:
        """The next reply, which has to be a ``kind``. Raises ReplayFailed with the child's own reason if it failed."""
        reply = self._reply()
        if isinstance(reply, kind):
            return reply
        raise MalformedError(f"{type(reply).__name__} instead of {kind.__name__}")

    def _reply(self) -> wire.Reply:
        with self._limited():
            reply = wire.read_reply(cast(BufferedReader, self._process.stdout))
        if isinstance(reply, wire.Failed):
            raise ReplayFailed(reply.message)
        return reply

    def frame(self, *, limit: int) -> bytearray:
        """The next raw frame."""
        with self._limited():
            return wire.read_frame(cast(BufferedReader, self._process.stdout), limit=limit)

    def last_words(self) -> str:
        """Why the process ended, in one line: its own reason if it gave one, else its last output."""
        try:
            # No more than it says before its reason; it might go on for ever.
            for _ in (wire.Isolated, wire.Ready, wire.Failed):
                self._reply()
        except ReplayFailed as error:
            return str(error)
        except (EOFError, MalformedError):
            pass
        # It may have closed one pipe only, and go on.
        self._kill()
        if self._gave_up:
            return f"no answer within {self._patience:g} s"
        self._process.wait()
        self._drain.join(timeout=10)
        lines = [line for line in self._errors if line.strip()]
        return lines[-1].strip()[:500] if lines else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """Kill the process with all it started and close what leads to it. Idempotent."""
        self._ended.set()
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, stream).close()
        self._process.wait()
        self._drain.join(timeout=10)
        # Where nothing ends what the process started, that may still hold the pipe: closing it would wait.
        if not self._drain.is_alive():
            cast(BinaryIO, self._process.stderr).close()

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Kill the process if the block takes longer than the caller's patience: the block then ends in EOFError."""
        self._deadline = time.monotonic() + self._patience
        try:
            yield
        finally:
            self._deadline = math.inf

    def _look_at_the_clock(self) -> None:
        while not self._ended.wait(self._patience / LOOKS):
            if time.monotonic() > self._deadline:
                self._gave_up = True
                self._kill()
                return

    def _kill(self) -> None:
        if self._process.returncode is not None:
            # Waited for: its number may be another process's by now.
            return
        # The process leads a session of its own: what it forked, and did not move away, ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _keep_errors(self) -> None:
        stream = cast(BinaryIO, self._process.stderr)
        while line := stream.readline(ERROR_TAIL):
            self._errors.append(line.decode("utf-8", "replace"))


def spawn(directory: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a child in ``directory`` with a clean environment and ``variables``, no descriptor but its pipes."""
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOT.format(root=root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        env={**_clean_environment(directory), **variables},
        close_fds=True,
        start_new_session=True,
    )
    for pipe in (process.stdin, process.stdout):
        _widen(cast(BinaryIO, pipe))
    return process


def _widen(pipe: BinaryIO) -> None:
    """Let a pipe hold PIPE bytes where the system allows it: states pass through it with fewer switches."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


_KEPT = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY")
"""What children take over: where libraries and devices are, and how threads wait, which changes no number."""


def _clean_environment(directory: Path) -> dict[str, str]:
    """Only what an interpreter and torch need; nothing that could name the evidence."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    here = str(directory)
    return {
        **kept,
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": here,
        "TMPDIR": here,
        "USER": "polledger",
    }
