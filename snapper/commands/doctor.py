"""Doctor: check the settings, the store, the disks, Jupyter, conda and environments, and say how to fix problems."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper import kernels, store
from snapper.checks.file_systems import check_file_system, check_locks
from snapper.checks.findings import Finding
from snapper.checks.permissions import check_permissions
from snapper.commands.environment_checks import check_environments
from snapper.environment import conda
from snapper.environment.conda_directories import envs_dirs, usual_roots
from snapper.environment.contents import is_unfinished
from snapper.environment.kept import environments_in, kept_in
from snapper.environment.locations import installed_environments
from snapper.environment.managed import managed_environments
from snapper.environment.staging_lock import find_leftovers
from snapper.errors import (
    InvalidSettings,
    NoTargetDirectory,
    NotAStore,
    ReservedName,
    SnapperError,
    StoreUnreachable,
)
from snapper.format.model import Ref
from snapper.fs.small_files import read_file
from snapper.kernels import RegisteredKernel
from snapper.kernels.restore_record import last_restore
from snapper.kernels.waiting import is_being_restored
from snapper.repository.refs import StoredEnvironment, read_all_refs
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.nested import has_nested
from snapper.restoring.place import is_staged_inside
from snapper.restoring.requests import RestoreRequest, choose_prefix
from snapper.settings.directories import Platform, detect_platform, home_directory, notebook_volume
from snapper.settings.resolution import choose_store, explain_settings, resolve_envs_dir

#: Fewer free inodes than this are reported: an environment can have tens of thousands of files.
_FEW_INODES = 50_000

#: Files larger than this, in bytes, are not taken for scripts.
_MAX_SCRIPT_SIZE = 1024 * 1024

_PLATFORM_NAMES = {
    Platform.NOTEBOOK_INSTANCE: "SageMaker notebook instance",
    Platform.STUDIO: "SageMaker Studio space",
    Platform.GENERIC: "generic",
}


@dataclass(frozen=True)
class DoctorOptions:
    """What to check: a store other than that of the settings, and scripts besides those in the usual locations.

    What the user may do in the store is checked only if `store` is given.
    """

    store: str | None = None
    scripts: tuple[Path, ...] = ()


def run_checks(options: DoctorOptions) -> Iterator[Finding]:
    """Run all checks and yield their findings; a check that fails does not stop the others."""
    refs: list[StoredEnvironment] = []  # filled by the check of the store, for the check of disk space
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Settings": _check_settings,
        "Store": lambda: _check_store(options.store, refs),
        "Cache": lambda: _check_cache(options.store),
        "Disk space": lambda: _check_targets(refs),
        "snapper": _check_installation,
        "conda": _check_conda,
        "Jupyter": _check_jupyter,
        "Environment": check_environments,
        "Leftover": _check_leftovers,
        "Restore": _check_last_restore,
        "Script": lambda: _check_scripts(options.scripts),
    }
    for title, check in checks.items():
        yield from _run_check(title, check)


def _run_check(title: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except InvalidSettings:
        yield Finding("note", title, "not checked, because the settings are invalid")
    except SnapperError as error:
        yield Finding("problem", title, f"could not be checked: {error.message}", error.hint)
    except OSError as error:
        yield Finding("problem", title, f"could not be checked: {error.filename}: {error.strerror}")


# --- settings and store -----------------------------------------------------------------------------------


def _check_settings() -> Iterator[Finding]:
    overview = explain_settings()
    for error in overview.wrong:
        yield Finding("problem", "Settings", error.message, error.hint)
    if not overview.wrong:
        no_file = "no settings file: using defaults and environment variables"
        source = f"from {overview.file}" if overview.file else no_file
        yield Finding("good", "Settings", f"{source}; platform: {_PLATFORM_NAMES[detect_platform()]}")


def _check_store(url: str | None, refs: list[StoredEnvironment]) -> Iterator[Finding]:
    """Check that the store can be read, and, if its URL is given, what this user may do there.

    Add the refs in the store to `refs`; if it is offline, those in the cache.
    """
    try:
        chosen = choose_store(url)
        cache = store.configured_cache(chosen.url)
        opened = store.open_store(chosen.url, cache=cache, is_default=chosen.is_default)
        refs += read_all_refs(opened)
        opened.require_online()
    except NotAStore as error:
        yield Finding("problem", "Store", error.message, error.hint)
        if error.absent and url and url.startswith("s3://"):
            yield from check_permissions(store.locate_store(url))
        return
    except StoreUnreachable as error:
        cached = f"; the cache holds {_count(len(refs), 'environment')}" if refs else ""
        yield Finding("problem", "Store", f"{error.message}{cached}", error.hint)
        return
    yield Finding("good", "Store", f"{opened.url} can be read: {_count(len(refs), 'environment')}")
    if url:
        yield from check_permissions(opened.authoritative())
    if not opened.url.startswith("s3://"):
        yield from check_locks(Path(opened.url))
    for entry in refs:
        if entry.error:
            yield Finding("problem", "Store", entry.error.message, entry.error.hint)


def _check_cache(url: str | None) -> Iterator[Finding]:
    """Check that what is read from S3 is cached for the next start."""
    location = choose_store(url).url
    if not location.startswith("s3://"):
        return
    cache = store.configured_cache(location)
    if cache is None:
        hint = "Keep a cache on a persistent disk: snapper config set cache DIRECTORY."
        yield Finding("note", "Cache", "off: every restore reads everything from S3", hint)
        return
    problem = store.cache_problem(location, cache)
    if problem:
        hint = "Choose another directory: snapper config set cache DIRECTORY."
        yield Finding("warning", "Cache", f"nothing is cached in {cache.directory}: {problem}", hint)
    else:
        yield Finding("good", "Cache", f"{cache.directory}, at most {cache.limit / 1e9:g} GB")


# --- target directories and disks -------------------------------------------------------------------------


def _check_targets(refs: Sequence[StoredEnvironment]) -> Iterator[Finding]:
    """Check that there are directories to restore all environments into, and that these have enough space."""
    needed: defaultdict[Path, Counter[str]] = defaultdict(
        Counter
    )  # bytes to restore into each directory, by name
    for ref in (entry.ref for entry in refs):
        if ref is None:
            continue
        try:
            prefix = _target_prefix(ref)
        except NoTargetDirectory:
            detail = f"there is no writable directory to restore {ref.name!r} into"
            hint = "Choose one: snapper config set envs_dir DIRECTORY."
            yield Finding("problem", "Target directory", detail, hint)
        except ReservedName as error:
            yield Finding("warning", "Target directory", error.message, error.hint)
        else:
            if is_staged_inside(prefix):
                if not conda.is_environment(prefix):
                    needed[prefix][ref.name] = ref.latest.size
            elif not prefix.exists():
                needed[prefix.parent][ref.name] = ref.latest.size
    for directory in dict.fromkeys([*needed, *(path for path in envs_dirs() if path.is_dir())]):
        yield _check_space(directory, needed[directory])
        yield from check_file_system(_existing_directory(directory))


def _target_prefix(ref: Ref) -> Path:
    """Return where the environment would be restored; raise NoTargetDirectory, ReservedName."""
    return choose_prefix(ref, RestoreRequest(SnapshotSpec(ref.name), envs_dir=resolve_envs_dir(None)))


def _check_space(directory: Path, sizes: Counter[str]) -> Finding:
    """Check that the file system has space for environments with these sizes in bytes, and inodes.

    The sizes are what the store states, which can be false: the one that needs most is named.
    """
    status = os.statvfs(_existing_directory(directory))
    free = status.f_bavail * status.f_frsize
    needed = sizes.total()
    detail = f"{directory}: {free / 1e9:.1f} GB free"
    if needed:
        detail += f"; environments to restore there need {needed / 1e9:.1f} GB according to the store"
    if needed > free:
        ((largest, size),) = sizes.most_common(1)
        detail += f", {largest} {size / 1e9:.1f} GB of it"
        hint = (
            "Free some space, restore fewer environments (snapper config set except NAME...) or elsewhere "
            "(snapper config set envs_dir DIRECTORY). Smaller environments are restored in any case."
        )
        return Finding("problem", "Disk space", detail, hint)
    if status.f_files and status.f_favail < _FEW_INODES:
        detail = f"{directory}: {status.f_favail:,} inodes free; every file needs one"
        hint = "Remove directories with many small files, such as conda's package cache."
        return Finding("warning", "Disk space", detail, hint)
    return Finding("good", "Disk space", detail)


def _existing_directory(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that exists."""
    while not directory.exists():
        directory = directory.parent
    return directory


# --- snapper itself, conda, Jupyter -----------------------------------------------------------------------


def _check_installation() -> Iterator[Finding]:
    """Check that snapper itself runs with its own Python, and is still installed after a stop of the machine."""
    managed = managed_environments(Path(sys.prefix)) | managed_environments(Path(sys.base_prefix))
    if managed:
        detail = f"runs with the Python of an environment that it has packed or restored: {min(managed)}"
        hint = "Install it with another Python: whoever publishes this environment decides what snapper does."
        yield Finding("warning", "snapper", detail, hint)
    platform, volume = detect_platform(), notebook_volume()
    if volume and not Path(sys.prefix).is_relative_to(volume):
        detail = f"installed in {sys.prefix}, which is deleted when the instance stops"
    elif platform is Platform.STUDIO and not Path(sys.prefix).is_relative_to(home_directory()):
        detail = f"installed in {sys.prefix}, which is deleted when the space stops"
    else:
        yield Finding("good", "snapper", f"installed in {sys.prefix}")
        return
    hint = "Install it in a persistent location and restore at every start: snapper lifecycle on-start."
    yield Finding("warning", "snapper", detail, hint)


def _check_conda() -> Iterator[Finding]:
    program = os.environ.get("CONDA_EXE") or shutil.which("conda") or shutil.which("mamba")
    directories = ", ".join(str(path) for path in envs_dirs() if path.is_dir())
    searched = (
        f"snapper looks for environments in {directories}" if directories else "no envs directory was found"
    )
    if program:
        yield Finding("good", "conda", f"{program}; {searched}")
    else:
        yield Finding("note", "conda", f"not on PATH (optional); {searched}")


def _check_jupyter() -> Iterator[Finding]:
    """Check that Jupyter is installed, and that the kernels that snapper has registered can start."""
    directories = kernels.kernel_directories()
    count = sum(len([*Path(directory).glob("*/kernel.json")]) for directory in directories)
    known = f"{_count(count, 'kernel')} in {', '.join(directories)}" if count else "no kernels registered yet"
    program = shutil.which("jupyter")
    if program:
        yield Finding("good", "Jupyter", f"{program}; {known}")
    else:
        yield Finding("note", "Jupyter", f"not on PATH (optional); {known}")
    for kernel in kernels.registered_kernels():
        if not (kernel.ready or is_being_restored(kernel.environment)):
            yield _broken_kernel(kernel)


def _broken_kernel(kernel: RegisteredKernel) -> Finding:
    """Return the finding about a registered kernel that cannot start."""
    if conda.is_environment(Path(kernel.prefix)):
        reason, fix = "no longer has this kernel", f"snapper kernels register -p {shlex.quote(kernel.prefix)}"
    else:
        reason, fix = "does not exist", f"snapper restore {kernel.environment}"
    detail = f"{kernel.display_name!r} is registered but cannot start: {kernel.prefix} {reason}"
    hint = f"Fix it: {fix}. Or remove it: snapper kernels remove {kernel.environment}."
    return Finding("warning", "Kernel", detail, hint)


# --- leftovers, restores, scripts -------------------------------------------------------------------------


def _check_leftovers() -> Iterator[Finding]:
    """Find staging directories of restores that were killed, and what restores have kept of environments."""
    prefixes = [*installed_environments(), *usual_roots()]
    directories = dict.fromkeys([*envs_dirs(), *(path.parent for path in prefixes)])
    inside = [path for directory in directories for path in _subdirectories(directory)]
    for directory in dict.fromkeys([*directories, *prefixes, *inside]):
        for leftover in find_leftovers(directory):
            if is_unfinished(leftover):
                detail = f"{directory} is only partly replaced: an interrupted restore cannot be completed"
                hint = "Make sure that there is space, and that you may write to it, then restore it again."
                yield Finding("problem", "Leftover", detail, hint)
                continue
            if has_nested(leftover):
                detail = (
                    f"{leftover} has environments or packages that an interrupted restore has not put back"
                )
                hint = "Do not remove it: snapper restore puts them back, whichever environment it restores."
                yield Finding("problem", "Leftover", detail, hint)
                continue
            detail = f"{leftover} was left over from an interrupted restore"
            yield Finding("note", "Leftover", detail, "The next restore of that environment removes it.")
        for kept in kept_in(directory):
            detail = f"{kept} has what would have been lost when an environment was replaced"
            yield Finding("warning", "Leftover", detail, _hint_for_kept(kept))


def _subdirectories(directory: Path) -> list[Path]:
    """Return the directories in an envs directory, also those that are no environments yet."""
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _hint_for_kept(kept: Path) -> str:
    """Return what to do with a directory that a restore has kept."""
    environments = environments_in(kept)
    if not environments:
        return f"Compare it with the environment, then remove it: rm -r {shlex.quote(str(kept))}."
    return (
        f"It contains the environment {environments[0]}, which may be the only one with your latest work. Compare it "
        "with the one in use, and copy what you need, before you remove it."
    )


def _check_last_restore() -> Iterator[Finding]:
    """Report what went wrong in the last restore of all environments."""
    last = last_restore()
    if last is None:
        return
    if last.is_running:
        detail = f"`restore --all` has been running since {last.began} (PID {last.process})"
        yield Finding("note", "Restore", detail)
    elif not last.ended:
        detail = f"the last `restore --all` ({last.began}) was interrupted"
        yield Finding("warning", "Restore", detail, "Finish it: snapper restore --all.")
    elif last.error:
        detail = f"the last `restore --all` ({last.began}) could not start: {last.error}"
        yield Finding("problem", "Restore", detail, "After fixing that, run: snapper restore --all.")
    for progress in last.environments:
        if progress.condition == "failed":
            detail = f"{progress.environment} could not be restored ({last.began}): {progress.error}"
            yield Finding("problem", "Restore", detail, progress.hint)


def _check_scripts(requested: Sequence[Path]) -> Iterator[Finding]:
    """Check the line endings of lifecycle scripts: those edited on Windows may not run."""
    for file in dict.fromkeys(requested):
        yield from _check_line_endings(file, read_file(file), report_good=True)
    for file in dict.fromkeys(_usual_scripts()):
        if file in requested:
            continue
        try:
            data = read_file(file, _MAX_SCRIPT_SIZE)
        except OSError:
            continue
        yield from _check_line_endings(file, data)


def _usual_scripts() -> Iterable[Path]:
    """Return the files that may be lifecycle scripts."""
    home = home_directory()
    per_boot = Path("/var/lib/cloud/scripts/per-boot")  # cloud-init, as for EC2 user data
    return [*home.glob("*.sh"), *(home / "SageMaker").glob("*.sh"), *per_boot.glob("*")]


def _check_line_endings(file: Path, data: bytes, *, report_good: bool = False) -> Iterator[Finding]:
    if b"\r\n" in data:
        detail = f"{file} has Windows line endings (CRLF); the shell cannot run it"
        yield Finding("problem", "Script", detail, f"Fix it: sed -i 's/\\r$//' {shlex.quote(str(file))}")
    elif report_good:
        yield Finding("good", "Script", f"{file} has {len(data):,} bytes and Unix line endings")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
