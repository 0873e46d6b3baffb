"""Every error a user can meet: what happened, what to do about it, and the exit code of its kind."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with; documented in docs/cli.md and kept stable."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    NOT_FOUND = 10
    CONFLICT = 11
    INTEGRITY = 12
    STORE = 13
    INTERRUPTED = 130


def _rebuild(kind: type[SnapperError], values: dict[str, object]) -> SnapperError:
    return kind(**values)


class SnapperError(Exception):
    """Base of all errors. A subclass is a dataclass: its fields are the data, `message` one sentence.

    Errors cross process borders (a worker raises, the command reports), so they pickle by field.
    """

    code = ExitCode.FAILED

    @property
    def message(self) -> str:
        raise NotImplementedError

    @property
    def hint(self) -> str:
        """What the user can do; empty where the message says it all."""
        return ""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return _rebuild, (type(self), values)


@dataclass(eq=False)
class Unsupported(SnapperError):
    """This machine is of a kind that snapper does not run on."""

    platform: str

    @property
    def message(self) -> str:
        return f"snapper does not run on {self.platform}: it handles Linux and macOS environments only"

    @property
    def hint(self) -> str:
        return "On Windows, run it inside WSL 2, where conda environments are Linux ones."


@dataclass(eq=False)
class Usage(SnapperError):
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
class NotAnEnvironment(SnapperError):
    """A directory that was named as an environment is none."""

    prefix: str
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.prefix} is not a conda environment: it has no conda-meta directory"

    @property
    def hint(self) -> str:
        return "Give the environment's own directory, the one that holds bin and conda-meta."


@dataclass(eq=False)
class NoSuchEnvironment(SnapperError):
    """No environment of that name is on this machine."""

    name: str
    searched: tuple[str, ...]
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"no conda environment named {self.name!r} was found on this machine"

    @property
    def hint(self) -> str:
        places = ", ".join(self.searched) or "no envs directory"
        return f"Looked in {places}. Name its directory instead: snapper pack -p DIRECTORY."


@dataclass(eq=False)
class AmbiguousName(SnapperError):
    """Several environments on this machine have that name."""

    name: str
    candidates: tuple[str, ...]
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{len(self.candidates)} environments are named {self.name!r}: {', '.join(self.candidates)}"

    @property
    def hint(self) -> str:
        return f"Say which one is meant: snapper pack -p {self.candidates[0]}."


@dataclass(eq=False)
class NotInStore(SnapperError):
    """The store has no environment, snapshot or object of that name."""

    what: str
    store: str
    known: tuple[str, ...] = ()
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.what} is not in the store {self.store}"

    @property
    def hint(self) -> str:
        if self.known:
            return f"The store has: {', '.join(self.known)}."
        return "See what there is with: snapper list."


@dataclass(eq=False)
class NotAStore(SnapperError):
    """What `--store` names is no snapper store."""

    store: str
    reason: str
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"{self.store} is not a snapper store: {self.reason}"

    @property
    def hint(self) -> str:
        return "Name an existing store, or an empty or new directory, with --store or SNAPPER_STORE."


@dataclass(eq=False)
class NewerFormat(SnapperError):
    """Something was written by a later snapper, in a format that this one does not know."""

    what: str
    found: int
    known: int
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"{self.what} has format {self.found}, and this snapper knows formats up to {self.known}"

    @property
    def hint(self) -> str:
        return "Upgrade: pip install --upgrade conda-snapper."


@dataclass(eq=False)
class StoreRefused(SnapperError):
    """The store is there but does not let us do what we must."""

    store: str
    action: str
    reason: str
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"the store {self.store} refused to {self.action}: {self.reason}"

    @property
    def hint(self) -> str:
        return "Check that this user may do that there, or choose another store with --store."


@dataclass(eq=False)
class NoPermission(SnapperError):
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
class NoSpace(SnapperError):
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
        return "Nothing was changed. Free some space there, or choose another place, and run it again."


@dataclass(eq=False)
class FileFailed(SnapperError):
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
class ChangedWhilePacking(SnapperError):
    """A file of the environment was modified while it was being read."""

    path: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{self.path} changed while it was being packed"

    @property
    def hint(self) -> str:
        return "Let the installation or program that writes there finish, then pack again."


@dataclass(eq=False)
class EditableInstalls(SnapperError):
    """Packages of the environment have their code elsewhere; each source is `NAME (DIRECTORY)`."""

    sources: tuple[str, ...]

    @property
    def message(self) -> str:
        return f"the environment has editable installs, whose code is elsewhere: {', '.join(self.sources)}"

    @property
    def hint(self) -> str:
        return (
            "Take their source directories along with --editable=include, leave the links to them as they are "
            "with --editable=ignore, or install them without -e."
        )


@dataclass(eq=False)
class Damaged(SnapperError):
    """Stored bytes are not what their name or their manifest says."""

    what: str
    reason: str
    code = ExitCode.INTEGRITY

    @property
    def message(self) -> str:
        return f"{self.what} is damaged: {self.reason}"

    @property
    def hint(self) -> str:
        return "Nothing was restored from it. Pack the environment again from a healthy copy, or use another snapshot."


@dataclass(eq=False)
class NotAnArchive(SnapperError):
    """A file that was to be imported holds no conda environment."""

    file: str
    reason: str
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.file} is not a conda-pack archive: {self.reason}"

    @property
    def hint(self) -> str:
        return (
            "Name an archive that conda-pack or snapper export made "
            "(.tar.gz, .tar.zst, .tar.bz2, .tar.xz, .tar, .zip, .squashfs)."
        )


@dataclass(eq=False)
class BadArchive(SnapperError):
    """An archive is damaged, or holds what no environment has a use for and an attacker does."""

    file: str
    reason: str
    code = ExitCode.INTEGRITY

    @property
    def message(self) -> str:
        return f"{self.file} is refused: {self.reason}"

    @property
    def hint(self) -> str:
        return (
            "Nothing was imported. Get it anew from where it comes from; or unpack it yourself where it can do no "
            "harm, look at it, run its bin/conda-unpack, and pack that directory: snapper pack -p DIRECTORY."
        )


@dataclass(eq=False)
class MissingProgram(SnapperError):
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
class Moved(SnapperError):
    """Somebody else changed the environment's entry in the store meanwhile."""

    environment: str
    who: str
    when: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{self.environment!r} was moved to another snapshot by {self.who} at {self.when} meanwhile"

    @property
    def hint(self) -> str:
        return "Look at it with snapper show, then pack again, or pack under another name with --name."


@dataclass(eq=False)
class InTheWay(SnapperError):
    """Something that restoring would destroy stands where the environment belongs."""

    prefix: str
    reason: str
    advice: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{self.prefix} is in the way: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class Busy(SnapperError):
    """Another snapper works on the same place right now."""

    what: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"another snapper is at work on {self.what}"

    @property
    def hint(self) -> str:
        return "Wait for it to end, then run this again."


@dataclass(eq=False)
class WrongPlatform(SnapperError):
    """The environment was built for another kind of machine."""

    environment: str
    built_for: str
    here: str

    @property
    def message(self) -> str:
        return f"{self.environment!r} was packed on {self.built_for}, and this machine is {self.here}"

    @property
    def hint(self) -> str:
        return (
            f"Restore it on a {self.built_for} machine, or build and pack it on this one under another name."
        )


@dataclass(eq=False)
class PrefixTooLong(SnapperError):
    """The target directory does not fit where a program has its prefix compiled in; lengths in bytes."""

    prefix: str
    length: int
    limit: int
    path: str
    advice: str = ""

    @property
    def message(self) -> str:
        return (
            f"{self.prefix} is {self.length} bytes long, and {self.path} has room for a prefix "
            f"of {self.limit} bytes only"
        )

    @property
    def hint(self) -> str:
        return self.advice or "Restore to a shorter place with --envs-dir or --prefix."


@dataclass(eq=False)
class NoPlace(SnapperError):
    """There is no directory that environments could be restored into."""

    environment: str
    tried: tuple[str, ...]
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"there is no writable directory to restore {self.environment!r} into (tried {', '.join(self.tried)})"

    @property
    def hint(self) -> str:
        return "Name one with --envs-dir, SNAPPER_ENVS_DIR or --prefix."


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
