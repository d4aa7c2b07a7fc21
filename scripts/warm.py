"""Replaying children that are forked from a process which has loaded torch already, for scripts that need thousands.

A child of `polledger verify` is a fresh interpreter: three seconds of processor time until its first step, most of them
for importing torch. Here one process imports what every task of this repository needs and then forks: each child still
has its own pipes, directory, environment, session and isolation, and knows nothing of the others. What is given up is
that environment variables are in place before torch loads; so this is for runs recorded under those of this process,
and whether bits come out equal is seen at the honest runs that go the same way.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from polledger.training import replay
from polledger.training.childprocess import _clean_environment

_LIMIT = 1 << 16
"""Bytes of one request: a directory and an environment."""


_NEEDED = ("child", "determinism", "runner", "location")


class Forked:
    """What :class:`polledger.training.childprocess.ChildProcess` uses of a ``subprocess.Popen``."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.returncode: int | None = None

    def wait(self) -> int:
        """Until the process is gone; whose child it was has seen to the rest."""
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(0.005)
        self.returncode = 0
        return 0


class Nursery:
    """The process that forks. Close it after use."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            root = str(Path(__file__).resolve().parent.parent)
            paths = [root, f"{root}/scripts"]
            boot = f"import sys; sys.path[:0] = {paths!r}; import warm; warm.serve({theirs.fileno()})"
            self._process = subprocess.Popen([sys.executable, "-c", boot], pass_fds=[theirs.fileno()])

    def spawn(self, directory: Path, variables: Mapping[str, str]) -> Any:
        """In place of :func:`polledger.training.childprocess.spawn`."""
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        request = json.dumps({"cwd": str(directory), "env": {**_clean_environment(directory), **variables}})
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", theirs))]
        self._socket.sendmsg([request.encode()], rights)
        pid = int(self._socket.recv(_LIMIT))
        for descriptor in theirs:
            os.close(descriptor)
        return Forked(
            pid, os.fdopen(pipes[0][1], "wb"), os.fdopen(pipes[1][0], "rb"), os.fdopen(pipes[2][0], "rb")
        )

    def close(self) -> None:
        """End it. Children that are left are their users' to end."""
        self._socket.close()
        self._process.wait()


@contextlib.contextmanager
def warm_children() -> Iterator[None]:
    """Within this, whatever replays in this process gets forked children."""
    nursery = Nursery()
    try:
        with unittest.mock.patch.object(replay, "spawn", nursery.spawn):
            yield
    finally:
        nursery.close()


def serve(descriptor: int) -> None:
    """Runs in the process that forks, until the other end closes. Loads what children need, and no task."""
    for name in ("sklearn.datasets", "torch.utils.data", *(f"polledger.training.{name}" for name in _NEEDED)):
        importlib.import_module(name)
    import torch

    # As with a fresh child, only the package itself stays importable from the checkout.
    del sys.path[:2]
    # What optimizers load when the first of them is made.
    parameter = torch.nn.Parameter(torch.zeros(1))
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        kind([parameter], lr=0.1)
    # Children end on their own; nobody waits for them here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        while True:
            data, rights, _, _ = requests.recvmsg(_LIMIT, socket.CMSG_SPACE(3 * 4))
            if not data:
                return
            pipes = array.array("i", rights[0][2])
            pid = os.fork()
            if pid == 0:
                requests.close()
                _become_child(json.loads(data), list(pipes))
            for pipe in pipes:
                os.close(pipe)
            requests.send(str(pid).encode())


def _become_child(request: Mapping[str, Any], pipes: list[int]) -> None:
    """What starting a fresh interpreter would have done, then its work; never returns."""
    from polledger.training.child import main

    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
        os.closerange(3, 256)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(status)
