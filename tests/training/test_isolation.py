"""What a process that called isolate() can still reach: tried for real, in a process of its own."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polledger.training.isolation import interpreter_paths

ROOT = Path(__file__).resolve().parents[2]

PROBE = """
import ctypes, json, os, socket, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from polledger.training.isolation import isolate
HIDE
taken = isolate(readable=[Path(sys.argv[2])], writable=[Path.cwd()], cuda=sys.argv[7] == "cuda")
def reach(act):
    try:
        act()
    except OSError:
        return False
    return True
def attach():
    # shmget, the older kind of shared memory, goes by number and knows no paths.
    if ctypes.CDLL(None, use_errno=True).shmget(int(sys.argv[5]), 0, 0) < 0:
        raise OSError
parent, address = int(sys.argv[6]), int(sys.argv[9])
class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
def read_parent():
    own = ctypes.create_string_buffer(1)
    ours, theirs = Vector(ctypes.addressof(own), 1), Vector(address, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.process_vm_readv(parent, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) < 0:
        raise OSError
def mount():
    if ctypes.CDLL(None).mount(b"none", str(Path.cwd()).encode(), b"tmpfs", 0, None) != 0:
        raise OSError
def connect():
    with socket.create_connection(("127.0.0.1", int(sys.argv[4])), timeout=5):
        pass
print(json.dumps({
    "files": taken.files, "network": taken.network,
    "own": reach(lambda: Path("note").write_text("x")),
    "own_moved": reach(lambda: Path("inside").mkdir() or Path("note").rename("inside/note")),
    "given": reach(lambda: Path(sys.argv[2]).read_bytes()),
    "given_write": reach(lambda: Path(sys.argv[2]).write_bytes(b"")),
    "secret": reach(lambda: Path(sys.argv[3]).read_bytes()),
    "secret_list": reach(lambda: os.listdir(Path(sys.argv[3]).parent)),
    "parent_memory": reach(lambda: open(f"/proc/{parent}/mem", "rb")),
    "parent_memory_by_number": reach(read_parent),
    "parent_descriptors": reach(lambda: os.listdir(f"/proc/{parent}/fd")),
    "parent_arguments": reach(lambda: Path(f"/proc/{parent}/cmdline").read_bytes()),
    "parent_root": reach(lambda: os.listdir(f"/proc/{parent}/root")),
    "processes": reach(lambda: os.listdir("/proc")),
    "mount": reach(mount),
    "numpy": reach(lambda: __import__("numpy")),
    "connect": reach(connect),
    "shared_memory": reach(attach),
    "ends_first": Path("/proc/self/oom_score_adj").read_text() == "1000\\n",
}))
"""

HIDE = """
if sys.argv[8 if len(sys.argv) > 8 else 3] == "hidden":
    # As containers do: a part of /proc is covered, so that the kernel lets nobody mount it whole.
    libc, ids = ctypes.CDLL(None), (os.getuid(), os.getgid())
    assert libc.unshare(0x10020000) == 0
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in zip(("uid_map", "gid_map"), ids):
        Path("/proc/self", name).write_text(f"0 {number} 1")
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
    assert libc.mount(b"none", b"/proc/sys", b"tmpfs", 0, None) == 0
"""


LIBC = ctypes.CDLL(None, use_errno=True)


def shared_memory() -> int:
    """The key of a new page of System V shared memory that everybody may use."""
    key = 0x504C0000 | os.getpid() & 0xFFFF
    assert LIBC.shmget(key, 4096, 0o1666) >= 0
    return key


def remove_shared_memory(key: int) -> None:
    assert LIBC.shmctl(LIBC.shmget(key, 0, 0), 0, None) == 0


@pytest.fixture(
    scope="module", params=[("cpu", "whole"), ("cpu", "hidden"), ("cuda", "whole"), ("cuda", "hidden")]
)
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """What the isolated probe reached, next to a server that a process with a network would reach."""
    import socket

    base = tmp_path_factory.mktemp("isolation")
    given, secret, work = base / "given", base / "evidence" / "state", base / "work"
    secret.parent.mkdir()
    work.mkdir()
    given.write_bytes(b"data")
    secret.write_bytes(b"the answer")
    memory = shared_memory()
    answer = ctypes.create_string_buffer(b"the answer")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        values = [ROOT, given, secret, port, memory, os.getpid(), *request.param, ctypes.addressof(answer)]
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE.replace("HIDE\n", HIDE), *map(str, values)],
            cwd=work,
            capture_output=True,
            check=True,
        )
    remove_shared_memory(memory)
    found: dict[str, bool] = json.loads(done.stdout)
    # Where CUDA cannot have its own /proc it goes without a process namespace, and says so.
    if not found["files"] or found["network"] == (request.param == ("cuda", "hidden")):
        pytest.skip("this kernel offers neither Landlock nor user namespaces")
    return found


@pytest.mark.parametrize(
    "name",
    [
        "given_write",
        "secret",
        "secret_list",
        "parent_memory",
        "parent_memory_by_number",
        "parent_descriptors",
        "parent_arguments",
        "parent_root",
        "processes",
        "mount",
        "connect",
        "shared_memory",
    ],
)
def test_isolated_process_cannot_reach(probe: dict[str, bool], name: str) -> None:
    assert not probe[name]


@pytest.mark.parametrize("name", ["own", "own_moved", "given", "numpy", "ends_first"])
def test_isolated_process_keeps_what_it_needs(probe: dict[str, bool], name: str) -> None:
    assert probe[name]


THREADS = """
import ctypes, json, os, sys, threading
sys.path.append(sys.argv[1])
from pathlib import Path
from polledger.training.isolation import isolate
HIDE
taken = isolate(readable=[], writable=[Path.cwd()], cuda=sys.argv[2] == "cuda")
def named():
    # Of another thread the C library writes the name into /proc.
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    refused = ctypes.CDLL(None).pthread_setname_np(ctypes.c_ulong(thread.ident), b"named")
    ended.set()
    return refused == 0
print(json.dumps({"files": taken.files, "network": taken.network, "named": named()}))
"""


def run_threads(directory: Path, device: str, proc: str = "whole") -> dict[str, bool]:
    command = [sys.executable, "-I", "-c", THREADS.replace("HIDE\n", HIDE), str(ROOT), device, proc]
    done = subprocess.run(command, cwd=directory, capture_output=True, check=True)
    found: dict[str, bool] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("probe")
def test_cuda_may_name_its_threads(tmp_path: Path) -> None:
    # Otherwise cuInit gives up with error 304: seen on an H100 with driver 580.
    assert run_threads(tmp_path, "cuda") == {"files": True, "network": True, "named": True}


@pytest.mark.usefixtures("probe")
def test_without_cuda_nothing_is_written_to_proc(tmp_path: Path) -> None:
    assert run_threads(tmp_path, "cpu") == {"files": True, "network": True, "named": False}


@pytest.mark.usefixtures("probe")
def test_cuda_goes_without_a_process_namespace_where_it_could_not_name_its_threads(tmp_path: Path) -> None:
    assert run_threads(tmp_path, "cuda", "hidden") == {"files": True, "network": False, "named": True}


def test_interpreter_paths_leave_out_the_checkout() -> None:
    assert ROOT not in interpreter_paths()
    assert Path.cwd() not in interpreter_paths()
