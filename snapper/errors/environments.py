"""Errors about environments on disk and the directories they are restored to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError, suggest_name


@dataclass(eq=False, repr=False)
class NotAnEnvironment(SnapperError):
    """A directory given as an environment is not one."""

    prefix: str
    code = ExitCode.NOT_FOUND
    message_template = "{prefix} is not a conda environment: it has no conda-meta directory"
    hint_template = "Give the environment's own directory: the one that contains bin and conda-meta."


@dataclass(eq=False, repr=False)
class EnvironmentNotFound(SnapperError):
    """This machine has no environment of that name; `known` are the names of those it has."""

    name: str
    searched: tuple[str, ...]
    known: tuple[str, ...] = ()
    code = ExitCode.NOT_FOUND
    message_template = "this machine has no conda environment named {name!r}"

    @property
    def hint(self) -> str:
        suggestion = suggest_name(self.name, self.known)
        where = f"Searched: {', '.join(self.searched)}" if self.searched else "No envs directory was found"
        return f"{suggestion}{where}. If it is elsewhere, give its directory: -p DIRECTORY."


@dataclass(eq=False, repr=False)
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
        return f"Choose one by its directory: -p {shlex.quote(self.candidates[0])}."


@dataclass(eq=False, repr=False)
class EnvironmentOfOther(SnapperError):
    """What has the name of an environment belongs to another user, who decides what is in it."""

    prefix: str
    owner: str
    code = ExitCode.CONFLICT
    message_template = "{prefix} belongs to the user {owner}, not to you"

    @property
    def hint(self) -> str:
        return f"If you trust {self.owner}, give its directory instead of the name: -p {shlex.quote(self.prefix)}."


@dataclass(eq=False, repr=False)
class EnvironmentOfUnknownOrigin(SnapperError):
    """What has the name of an environment is a directory of this user that others may have put there."""

    prefix: str
    reason: str
    code = ExitCode.CONFLICT
    message_template = "others may have put {prefix} there: {reason}"

    @property
    def hint(self) -> str:
        return f"If you know what is in it, give its directory instead of the name: -p {shlex.quote(self.prefix)}."


@dataclass(eq=False, repr=False)
class ChangedWhilePacking(SnapperError):
    """A file of the environment was modified while it was being read."""

    path: str
    code = ExitCode.CONFLICT
    message_template = "{path} changed while it was being packed"
    hint_template = "Wait until the program that writes to the environment has finished, then pack again."


@dataclass(eq=False, repr=False)
class ManifestTooLarge(SnapperError):
    """The manifest of a snapshot would exceed the format's limit; sizes in bytes."""

    size: int
    limit: int
    message_template = "the snapshot manifest would be {size:,} bytes; the limit is {limit:,}"
    hint_template = (
        "It lists packages, symlinks, files that contain the environment's path, and files modified or removed since "
        "installation. Move data that is not software, such as links to data sets, out of the environment."
    )


@dataclass(eq=False, repr=False)
class TooManyPackages(SnapperError):
    """The lists of packages and layers of a snapshot would be on more pages than the format allows."""

    pages: int
    limit: int
    message_template = (
        "the environment has too many packages: {pages:,} pages describe them; the limit is {limit:,}"
    )
    hint_template = "No environment needs that many. Divide it into several environments."


@dataclass(eq=False, repr=False)
class TooManyFiles(SnapperError):
    """What is kept in memory of an environment's files until all of them are written exceeds a limit, in bytes."""

    name: str
    what: str
    limit: int
    message_template = "{name} has too many files: {what} take more than {limit:,} bytes"
    hint_template = (
        "No environment needs that many. Move data that is not software, such as unpacked data sets, out of it before "
        "it is packed; if it is packed already, restore it alone, or an earlier snapshot."
    )


@dataclass(eq=False, repr=False)
class TooManyDirectories(SnapperError):
    """There are more directories than `limit` in which there is hardly a file."""

    name: str
    limit: int
    message_template = "{name} has too many directories: more than {limit:,} for so few files"
    hint_template = (
        "Move caches out of it before it is packed. If it is packed already, restore an earlier snapshot."
    )


@dataclass(eq=False, repr=False)
class EditableInstallsFound(SnapperError):
    """The source code of some packages is outside the environment; each source is `NAME (DIRECTORY)`."""

    sources: tuple[str, ...]
    hint_template = (
        "Pack the source directories too with --editable=include, keep only the links to them with --editable=ignore, "
        "or reinstall the packages without -e."
    )

    @property
    def message(self) -> str:
        return f"the environment has editable installs, whose source code is outside it: {', '.join(self.sources)}"


@dataclass(eq=False, repr=False)
class TargetOccupied(SnapperError):
    """Restoring would overwrite something that must be kept."""

    prefix: str
    reason: str
    advice: str
    code = ExitCode.CONFLICT
    message_template = "cannot overwrite {prefix}: {reason}"
    hint_template = "{advice}"


@dataclass(eq=False, repr=False)
class PlatformMismatch(SnapperError):
    """The environment was built for another platform."""

    environment: str
    built_for: str
    here: str
    message_template = "{environment!r} was packed on {built_for}, but this machine is {here}"
    hint_template = (
        "Restore it on a {built_for} machine, or build it on this one and pack it under another name."
    )


@dataclass(eq=False, repr=False)
class PrefixTooLong(SnapperError):
    """The target's path is longer than the prefix compiled into one of the files; lengths in bytes."""

    prefix: str
    length: int
    limit: int
    path: str
    advice: str = ""
    message_template = (
        "the path {prefix} is {length} bytes long, but {path} can hold a prefix of at most {limit} bytes"
    )

    @property
    def hint(self) -> str:
        return self.advice or "Restore to a shorter path with --envs-dir or --prefix."


@dataclass(eq=False, repr=False)
class NoTargetDirectory(SnapperError):
    """There is no directory to restore an environment into; `tried` are those that were tried, and why not."""

    environment: str
    tried: tuple[str, ...]
    code = ExitCode.NOT_FOUND
    hint_template = "Choose one with --envs-dir, SNAPPER_ENVS_DIR or --prefix."

    @property
    def message(self) -> str:
        return f"there is no directory to restore {self.environment!r} into; tried {', '.join(self.tried)}"


@dataclass(eq=False, repr=False)
class ReservedName(SnapperError):
    """An environment in the store has a name that no directory with an environment can have beside others.

    It is not restored to `packed_at` either, for that reason.
    """

    environment: str
    packed_at: str = ""
    reason: str = ""
    code = ExitCode.CONFLICT
    hint_template = "Restore it alone, with --prefix DIRECTORY, or leave it out with --except."

    @property
    def message(self) -> str:
        where = f", nor to {self.packed_at}: {self.reason}" if self.packed_at else ""
        return (
            f"{self.environment!r} is not restored into an envs directory, where conda means something else by that "
            f"name{where}"
        )


@dataclass(eq=False, repr=False)
class KernelNotRegistered(SnapperError):
    """snapper has registered no kernel of that environment; `known` are the environments with kernels."""

    environment: str
    known: tuple[str, ...]
    code = ExitCode.NOT_FOUND
    message_template = "snapper has not registered a kernel of {environment!r}"

    @property
    def hint(self) -> str:
        if not self.known:
            return "No kernels are registered. Register some with: snapper kernels register ENV."
        suggestion = suggest_name(self.environment, self.known)
        return f"{suggestion}Kernels are registered for: {', '.join(self.known)}."
