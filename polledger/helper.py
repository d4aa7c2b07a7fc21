"""Jobs that run in a process of their own: rehearsal, hashing of data sets, measuring of states.

Unlike the children that replay they are not isolated, and see the environment of their parent: they run polledger's own
code or, for a prover, its own task on its own machine, so that what they load is what training will load. Messages are
JSON lines; whatever a task prints goes to standard error.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from polledger.errors import PolledgerError, Unavailable, UsageError

OWN_ROOT = Path(__file__).resolve().parents[1]
"""Directory that holds the polledger package itself."""

Report = Callable[[dict[str, Any]], None]
"""Sends one message to the parent while a job runs."""

_BOOT = "import sys; sys.path[:] = {path!r}; from polledger.helper import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Which function to run, as ``module:function``, and its JSON argument."""

    function: str
    argument: Mapping[str, Any]


class Worker:
    """One child process that runs one job. Use as a context manager: leaving it ends the process.

    ``descriptors`` of files of this process are open there too, under the same numbers.
    """

    def __init__(self, job: Job, *, descriptors: Sequence[int] = ()) -> None:
        path = [os.path.abspath(entry) for entry in (*sys.path, str(OWN_ROOT))]  # noqa: PTH100 - links stay
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(path=path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
        )
        message = json.dumps({"function": job.function, "argument": dict(job.argument)})
        try:
            stdin = cast(IO[bytes], self._process.stdin)
            stdin.write(message.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            # The reason is reported when its first message is read.
            return

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the job sends, then its result as the last one.

        Raises the job's own UsageError or Unavailable, or Unavailable if the process ends without a result.
        """
        for line in cast(IO[bytes], self._process.stdout):
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise _error(message)
            yield message
            if "result" in message:
                return
        status = self._process.wait()
        raise Unavailable(f"a helper process ended with status {status} before it was done")

    def result(self) -> dict[str, Any]:
        """The job's result, other messages dropped. Raises as :meth:`messages`."""
        last: dict[str, Any] = {}
        for message in self.messages():
            last = message
        value: dict[str, Any] = last["result"]
        return value

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        for stream in (self._process.stdout, self._process.stdin):
            try:
                cast(IO[bytes], stream).close()
            except BrokenPipeError:
                continue
        self._process.wait()


def _error(message: Mapping[str, Any]) -> PolledgerError:
    kind = UsageError if message.get("kind") == "usage" else Unavailable
    return kind(str(message["error"]))


def main() -> None:
    """Run the job read from standard input and answer on what was standard output."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stay_with_parent()
    request = json.loads(sys.stdin.readline())
    # Task code that asks for input must not find the pipe.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    module, _, name = request["function"].partition(":")
    try:
        send({"result": getattr(importlib.import_module(module), name)(request["argument"], send)})
    except BrokenPipeError:
        os._exit(1)
    except PolledgerError as error:
        kind = "usage" if isinstance(error, UsageError) else "unavailable"
        send({"error": str(error), "kind": kind})
    except OSError as error:
        send({"error": f"{error.filename or 'a file'}: {error.strerror or error}", "kind": "unavailable"})


def stay_with_parent() -> None:
    """Make this process end when its parent does, on Linux, and not before: a killed `seal` leaves none behind."""
    # Ctrl-C reaches the whole group of processes; the parent ends this one when it wants to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
