"""Errors about environments on disk, and the places that they are restored to."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError, suggest_name


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
class EnvironmentNotFound(SnapperError):
    """No environment of that name is on this machine; `known` are the names that there are."""

    name: str
    searched: tuple[str, ...]
    known: tuple[str, ...] = ()
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"no conda environment named {self.name!r} was found on this machine"

    @property
    def hint(self) -> str:
        places = ", ".join(self.searched) or "no envs directory"
        guess = suggest_name(self.name, self.known)
        return f"{guess}Looked in {places}. If it is elsewhere, give its directory: -p DIRECTORY."


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
        return f"Say which one is meant by its directory: -p {self.candidates[0]}."


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
class ManifestTooLarge(SnapperError):
    """What a snapshot of an environment would say of it is more than anybody reads; sizes in bytes."""

    size: int
    limit: int

    @property
    def message(self) -> str:
        return (
            f"the environment cannot be packed: what describes it takes {self.size:,} bytes, "
            f"and a snapshot may have {self.limit:,}"
        )

    @property
    def hint(self) -> str:
        return (
            "Packages, symlinks and files that hold the environment's own path count, and files of packages that were "
            "changed or removed. Move what is no software out of the environment: data that is linked into it, say."
        )


@dataclass(eq=False)
class EditableInstallsFound(SnapperError):
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
class TargetOccupied(SnapperError):
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
class PlatformMismatch(SnapperError):
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
class NoTargetDirectory(SnapperError):
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
class KernelNotRegistered(SnapperError):
    """No kernel of that environment is in Jupyter's menu."""

    environment: str
    known: tuple[str, ...]
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"no kernel of {self.environment!r} is registered by snapper"

    @property
    def hint(self) -> str:
        if self.known:
            return (
                f"{suggest_name(self.environment, self.known)}There are kernels of: {', '.join(self.known)}."
            )
        return "There are none at all: snapper kernels register ENV puts them there."
