"""Taking away from a child process whatever it does not need, before task code runs. PROTOCOL section 10.

Linux: Landlock limits files to the interpreter, its packages and the paths given; namespaces of its own take away
the network, shared memory and every other process. Both need no privilege. Where the system offers neither, the
child still has an empty directory, a clean environment and no descriptors, and :class:`Isolation` says what is
missing, so that the report can. When memory runs out, the kernel ends the child and not the verifier. Not covered:
how much memory and CPU time it takes until then, timing channels, and kernels older than the features.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_CLONES = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18

# System call numbers are the same on every architecture since Linux 5.13 unified them.
_SYS_CREATE_RULESET = 444
_CREATE_RULESET_VERSION = 1
_SYS_ADD_RULE = 445
_SYS_RESTRICT_SELF = 446

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Bits 0 to 12 are the rights of Landlock ABI 1: execute, write, read, list, remove and the make_* family.
_ALL = (1 << 13) - 1
# ABI 2: moving a file to another directory. Where it is known and not granted, it is refused with EXDEV.
_REFER = 1 << 13
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE

SYSTEM_PATHS = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/self",
    "/proc/driver/nvidia",
    "/opt/rocm",
)
"""What an interpreter and torch read on an ordinary Linux system. No home, no temporary directory, no other process."""

DEVICE_PATHS = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

THREADS = "/proc/self/task"
"""Where a process names its threads. CUDA does, and gives up (error 304) where it may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What was really taken away, where the kernel enforces it.

    ``network`` stands for all namespaces: no network, no shared memory, no process outside to be seen or signalled.
    """

    files: bool
    network: bool


class _RulesetAttribute(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def isolate(*, readable: Iterable[Path], writable: Iterable[Path], cuda: bool = False) -> Isolation:
    """Restrict the calling process and its descendants for good; they end when their parent does.

    ``readable`` and ``writable`` are paths allowed besides the interpreter, its packages and the system's
    libraries. Goes on in a forked process, the first of its own process namespace: with it ends everything that it
    started. ``cuda`` leaves what CUDA needs to start. Must run before a second thread starts. The answer says what
    took effect; raises OSError only where namespaces are to be had and a process is not.
    """
    if not sys.platform.startswith("linux"):
        return Isolation(files=False, network=False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Where /proc cannot be mounted anew, threads of a process namespace are not found in it.
    processes = not cuda or _can_mount_processes(libc)
    network = _leave_namespaces(libc, _CLONES | _CLONE_NEWPID if processes else _CLONES)
    if network and processes:
        _become_first(libc)
        _mount_processes(libc)
    files = _restrict_files(libc, readable=readable, writable=writable, cuda=cuda)
    return Isolation(files=files, network=network and processes)


def _can_mount_processes(libc: ctypes.CDLL) -> bool:
    """Whether a process namespace can have a /proc of its own, tried in processes that end here."""
    started = os.fork()
    if started:
        return _ended(started) == 0
    if not _leave_namespaces(libc, _CLONES | _CLONE_NEWPID):
        os._exit(1)
    _become_first(libc)
    os._exit(0 if _mount_processes(libc) else 1)


def _mount_processes(libc: ctypes.CDLL) -> bool:
    """Show this process the /proc of its own namespace. Refused where parts of /proc are hidden, as containers do."""
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    mounted: int = libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)
    return mounted == 0


def _leave_namespaces(libc: ctypes.CDLL, clones: int) -> bool:
    uid, gid = os.getuid(), os.getgid()
    # Two children of one verification must not meet in shared memory either.
    if libc.unshare(clones) != 0:
        return False
    # Without a mapping the process would be "nobody", which getpwuid and tempfile users trip over.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _become_first(libc: ctypes.CDLL) -> None:
    """Go on in a child, the first process of the new namespace; this process waits and ends as it does."""
    started = os.fork()
    if started:
        os._exit(_ended(started))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _ended(process: int) -> int:
    """Exit status of a child once it has ended: as a shell gives it, 128 and more for a signal."""
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    except BaseException:
        # Whatever comes between, the copy must not go on as if it were the process that it waits for.
        traceback.print_exc()
        return 1
    return code if code >= 0 else 128 - code


def _restrict_files(
    libc: ctypes.CDLL, *, readable: Iterable[Path], writable: Iterable[Path], cuda: bool
) -> bool:
    everything = _ALL | _REFER if _landlock_version(libc) >= 2 else _ALL
    attribute = _RulesetAttribute(handled_access_fs=everything)
    ruleset = libc.syscall(_SYS_CREATE_RULESET, ctypes.byref(attribute), ctypes.sizeof(attribute), 0)
    if ruleset < 0:
        return False
    try:
        for path in [*map(Path, SYSTEM_PATHS), *interpreter_paths(), *readable]:
            _allow(libc, ruleset, path, _READ)
        for path in [*map(Path, DEVICE_PATHS), *Path("/dev").glob("nvidia*")]:
            _allow(libc, ruleset, path, _READ_FILE | _WRITE_FILE)
        for path in writable:
            _allow(libc, ruleset, path, everything)
        if cuda:
            _allow(libc, ruleset, Path(THREADS), _READ | _WRITE_FILE)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_SYS_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _landlock_version(libc: ctypes.CDLL) -> int:
    """Of the kernel's Landlock; negative where there is none."""
    version: int = libc.syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return version


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # The kernel refuses directory rights on a file.
        rights = access if path.is_dir() else access & _FILE_RIGHTS
        rule = _PathBeneath(allowed_access=rights, parent_fd=descriptor)
        libc.syscall(_SYS_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def interpreter_paths() -> list[Path]:
    """Where this interpreter's standard library and installed packages lie, and the polledger package itself.

    Directories of ``sys.path`` that are not package directories (a checkout, the working directory) are left
    out: evidence may lie there.
    """
    packages = [Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return [
        Path(sys.prefix) / "lib",
        Path(sys.prefix) / "pyvenv.cfg",
        Path(sys.base_prefix) / "lib",
        # What torch.compile writes includes Python.h.
        Path(sys.base_prefix) / "include",
        Path(sys.executable).parent,
        Path(os.path.realpath(sys.executable)),
        Path(__file__).resolve().parents[1],
        *packages,
    ]
