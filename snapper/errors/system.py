"""Errors that the command line or the machine gives, whatever snapper was about to do."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError


@dataclass(eq=False)
class UnsupportedPlatform(SnapperError):
    """This machine is of a kind that snapper does not run on."""

    platform: str

    @property
    def message(self) -> str:
        return f"snapper does not run on {self.platform}: it handles Linux and macOS environments only"

    @property
    def hint(self) -> str:
        return "On Windows, run it inside WSL 2, where conda environments are Linux ones."


@dataclass(eq=False)
class UsageError(SnapperError):
    """The command line asks for something that makes no sense."""

    reason: str
    advice: str = ""
    code = ExitCode.USAGE

    @property
    def message(self) -> str:
        return self.reason

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class InvalidSettings(SnapperError):
    """A setting is wrong; `where` is the variable, or the file and its line."""

    where: str
    reason: str
    advice: str = ""
    code = ExitCode.USAGE

    @property
    def message(self) -> str:
        return f"{self.where}: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice or "Correct it there: snapper config shows what holds, and all that is wrong."


@dataclass(eq=False)
class PermissionDenied(SnapperError):
    """A file or directory of the environment cannot be read, or its place cannot be written."""

    path: str
    action: str

    @property
    def message(self) -> str:
        return f"permission denied: cannot {self.action} {self.path}"

    @property
    def hint(self) -> str:
        return f"Run as the user who owns {self.path}, or give this user access to it."


@dataclass(eq=False)
class InsufficientSpace(SnapperError):
    """A file system has too little room; sizes in bytes."""

    path: str
    needed: int = 0
    available: int = 0
    what: str = "bytes"

    @property
    def message(self) -> str:
        if self.needed:
            return (
                f"not enough room at {self.path}: "
                f"{self.needed:,} {self.what} are needed and {self.available:,} are free"
            )
        return f"no space left on the file system of {self.path}"

    @property
    def hint(self) -> str:
        return "No environment was changed. Free some space there, or choose another place, and run it again."


@dataclass(eq=False)
class FileOperationFailed(SnapperError):
    """The operating system failed to read or write a file."""

    path: str
    reason: str
    advice: str = ""

    @property
    def message(self) -> str:
        return f"{self.path}: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class ProgramNotFound(SnapperError):
    """A format needs a program that is not installed."""

    program: str
    purpose: str
    advice: str

    @property
    def message(self) -> str:
        return f"{self.purpose} needs {self.program}, which is not installed"

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class TargetLocked(SnapperError):
    """Another snapper works on the same place right now; `who` as far as it says so."""

    what: str
    who: str = ""
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"another snapper is at work on {self.what}" + (f": {self.who}" if self.who else "")

    @property
    def hint(self) -> str:
        return "Wait for it to end, then run this again."


@dataclass(eq=False)
class WorkerDied(SnapperError):
    """A worker process ended without an answer."""

    status: int

    @property
    def message(self) -> str:
        how = f"by signal {-self.status}" if self.status < 0 else f"with status {self.status}"
        return f"a worker process was ended {how}"

    @property
    def hint(self) -> str:
        return "Signal 9 usually means that memory ran out: free some, or use fewer workers with --jobs 1."


@dataclass(eq=False)
class Interrupted(SnapperError):
    """The user pressed Ctrl-C, or the process was asked to end."""

    code = ExitCode.INTERRUPTED

    @property
    def message(self) -> str:
        return "interrupted"

    @property
    def hint(self) -> str:
        return "Nothing was left half-done; run the command again to finish."
