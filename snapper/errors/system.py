"""Errors of the command line, the settings, the machine, and snapper's own processes."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError


@dataclass(eq=False, repr=False)
class UnsupportedPlatform(SnapperError):
    """snapper does not run on this operating system."""

    platform: str
    message_template = "snapper does not run on {platform}: it supports only Linux and macOS"
    hint_template = "On Windows, run it inside WSL 2, where conda environments are Linux environments."


@dataclass(eq=False, repr=False)
class UsageError(SnapperError):
    """The command line is invalid."""

    reason: str
    advice: str = ""
    code = ExitCode.USAGE
    message_template = "{reason}"
    hint_template = "{advice}"


def empty_value(name: str, advice: str = "Give a value.") -> UsageError:
    """Return the error about an empty value, which is none: what the user means cannot be told from it."""
    return UsageError(f"{name} is empty", f"A shell variable may be unset. {advice}")


@dataclass(eq=False, repr=False)
class InvalidSettings(SnapperError):
    """A setting is invalid; `where` is the variable, or the file and its line."""

    where: str
    reason: str
    advice: str = ""
    code = ExitCode.USAGE
    message_template = "{where}: {reason}"

    @property
    def hint(self) -> str:
        return self.advice or "Correct it there; snapper config shows all settings and their problems."


@dataclass(eq=False, repr=False)
class PermissionDenied(SnapperError):
    """This user may not read or write a file or directory."""

    path: str
    action: str
    message_template = "permission denied: cannot {action} {path}"
    hint_template = "Run as the user who owns {path}, or give this user access to it."


@dataclass(eq=False, repr=False)
class InsufficientSpace(SnapperError):
    """A file system has too little free space or too few inodes; `what` is the unit."""

    path: str
    needed: int = 0
    available: int = 0
    what: str = "bytes"
    hint_template = (
        "No environment was changed. Free some space there, or choose another location, then run this again."
    )

    @property
    def message(self) -> str:
        if not self.needed:
            return f"no space left on the file system of {self.path}"
        return (
            f"not enough space at {self.path}: "
            f"{self.needed:,} {self.what} are needed and {self.available:,} are free"
        )


@dataclass(eq=False, repr=False)
class FileOperationFailed(SnapperError):
    """The operating system failed to read or write a file."""

    path: str
    reason: str
    advice: str = ""
    message_template = "{path}: {reason}"
    hint_template = "{advice}"


@dataclass(eq=False, repr=False)
class ProgramNotFound(SnapperError):
    """An external program is needed but not installed."""

    program: str
    purpose: str
    advice: str
    message_template = "{purpose} needs {program}, which is not installed"
    hint_template = "{advice}"


@dataclass(eq=False, repr=False)
class TargetLocked(SnapperError):
    """Another snapper process has locked the same target; `who` identifies it if known."""

    what: str
    who: str = ""
    code = ExitCode.CONFLICT
    hint_template = "Wait for it to finish, then run this again."

    @property
    def message(self) -> str:
        return f"{self.what} is locked by another snapper process" + (f": {self.who}" if self.who else "")


@dataclass(eq=False, repr=False)
class WorkerDied(SnapperError):
    """A worker process ended without an answer.

    `status` is its exit status, negative for a signal; `job` says what it was doing, if that is known.
    """

    status: int
    job: str = ""
    hint_template = (
        "Signal 9 usually means that memory ran out: free some memory, or use fewer workers (--jobs 1)."
    )

    @property
    def message(self) -> str:
        how = (
            f"was killed by signal {-self.status}" if self.status < 0 else f"exited with status {self.status}"
        )
        return f"a worker process {how}" + (f" while {self.job}" if self.job else "")


@dataclass(eq=False, repr=False)
class Interrupted(SnapperError):
    """The user pressed Ctrl-C, or the process received a termination signal."""

    code = ExitCode.INTERRUPTED
    message_template = "interrupted"
    hint_template = "Nothing was left half-done; run the command again to finish."


@dataclass(eq=False, repr=False)
class UnexpectedError(SnapperError):
    """An exception that is a bug of snapper; `log` is the file with the traceback, if it could be written."""

    kind: str
    reason: str
    log: str = ""
    message_template = "unexpected error: {kind}: {reason}"

    @property
    def hint(self) -> str:
        if not self.log:
            return "This is a bug in snapper; please report it with the traceback."
        return f"This is a bug in snapper; please report it with the traceback in {self.log}."
