"""The error hierarchy. Each class says whose fault it is and carries the exit code of the command line.

Evidence that fails a check is a finding, not an exception: these are raised for bytes that cannot be read,
calls that make no sense and tooling that does not answer.
"""

from typing import ClassVar, Final

EXIT_OK: Final = 0
EXIT_REFUTED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNVERIFIABLE: Final = 3
EXIT_CANNOT_PROCEED: Final = 4
EXIT_INTERRUPTED: Final = 130


class PolledgerError(Exception):
    """Anything polledger raises on purpose. The message is one line a user can act on."""

    exit_code: ClassVar[int] = EXIT_CANNOT_PROCEED


class MalformedError(PolledgerError):
    """Bytes from outside break a format rule: not canonical, out of bounds, truncated, wrong type."""

    exit_code: ClassVar[int] = EXIT_REFUTED


class UsageError(PolledgerError):
    """The caller asked for something that makes no sense: a bad option, path, task or value."""

    exit_code: ClassVar[int] = EXIT_USAGE


class EnvironmentMismatch(PolledgerError):
    """This machine cannot replay what was recorded: missing device, package or capability."""

    exit_code: ClassVar[int] = EXIT_UNVERIFIABLE


class Unavailable(PolledgerError):
    """Something needed does not answer or cannot be read or written: an authority, a store, a disk, a lock."""

    exit_code: ClassVar[int] = EXIT_CANNOT_PROCEED
