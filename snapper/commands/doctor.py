"""Doctor: looks at the store, the disks, Jupyter, conda and the environments, and says what is wrong."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper import kernels, store
from snapper.checks.findings import Finding
from snapper.checks.permissions import check_permissions
from snapper.environment import conda, editable
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import envs_dirs, installed_environments
from snapper.errors import InvalidSettings, NoTargetDirectory, NotAStore, SnapperError, StoreUnreachable
from snapper.format.model import Ref
from snapper.kernels.restore_record import last_restore
from snapper.kernels.waiting import is_being_restored
from snapper.repository.refs import RefOrError, read_all_refs
from snapper.repository.specs import SnapshotSpec
from snapper.restoring import staging
from snapper.restoring.requests import RestoreRequest, choose_prefix
from snapper.settings.directories import Platform, detect_platform, notebook_volume
from snapper.settings.resolution import explain_settings, load_settings, resolve_envs_dir, store_url

_LITTLE_INODES = 50_000
_LARGEST_SCRIPT = 1024 * 1024


@dataclass(frozen=True)
class DoctorOptions:
    """What to look at: the store of that URL, else that of the settings, and scripts beside those that lie where
    scripts usually do.
    """

    store: str | None = None
    scripts: tuple[Path, ...] = ()


def run_checks(asked: DoctorOptions) -> Iterator[Finding]:
    """Everything that there is to say, whatever fails on the way."""
    entries: list[RefOrError] = []
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Settings": _settings,
        "Store": lambda: _store(asked.store, entries),
        "Cache": lambda: _cache(asked.store),
        "Disk space": lambda: _disks(entries),
        "snapper": _own_place,
        "conda": _conda,
        "Jupyter": _jupyter,
        "Environment": _environments,
        "Leftover": _leftovers,
        "Restore": _last_restore,
        "Script": lambda: _scripts(asked.scripts),
    }
    for title, look in looks.items():
        yield from _guarded(title, look)


def _guarded(title: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except InvalidSettings:
        yield Finding("note", title, "not checked, because the settings are invalid")
    except SnapperError as error:
        yield Finding("problem", title, f"could not be checked: {error.message}", error.hint)
    except OSError as error:
        yield Finding("problem", title, f"could not be checked: {error.filename}: {error.strerror}")


# --- settings, store, disks -------------------------------------------------------------------------------


def _settings() -> Iterator[Finding]:
    found = explain_settings()
    for error in found.wrong:
        yield Finding("problem", "Settings", error.message, error.hint)
    if not found.wrong:
        where = (
            f"from {found.file}"
            if found.file
            else "no settings file: using defaults and environment variables"
        )
        kinds = {
            Platform.NOTEBOOK_INSTANCE: "SageMaker notebook instance",
            Platform.STUDIO: "SageMaker Studio space",
        }
        kind = kinds.get(detect_platform(), "generic")
        yield Finding("good", "Settings", f"{where}; platform: {kind}")


def _store(url: str | None, entries: list[RefOrError]) -> Iterator[Finding]:
    try:
        location = store_url(url)
        opened = store.open_store(location, cache=store.configured_cache(location))
        entries += read_all_refs(opened)
        opened.require_online()
    except NotAStore as error:
        yield Finding("problem", "Store", error.message, error.hint)
        if error.absent and url and url.startswith("s3://"):
            yield from check_permissions(store.locate_store(url))
        return
    except StoreUnreachable as error:
        kept = f"; the cache holds {_count(len(entries), 'environment')} of it" if entries else ""
        yield Finding("problem", "Store", f"{error.message}{kept}", error.hint)
        return
    broken = [entry for entry in entries if entry.error]
    yield Finding("good", "Store", f"{opened.url} can be read: {_count(len(entries), 'environment')}")
    if url:
        yield from check_permissions(opened.authoritative())
    for entry in broken:
        if entry.error:
            yield Finding("problem", "Store", entry.error.message, entry.error.hint)


def _cache(url: str | None) -> Iterator[Finding]:
    """Whether what is read from S3 is kept for the next start."""
    if not store_url(url).startswith("s3://"):
        return
    settings = load_settings()
    directory = settings.cache
    if directory is None:
        hint = "Keep a cache on a persistent disk: snapper config set cache DIRECTORY."
        yield Finding("note", "Cache", "off: every restore reads everything from S3", hint)
    elif os.access(_there(Path(directory)), os.W_OK | os.X_OK):
        yield Finding("good", "Cache", f"{directory}, at most {settings.cache_size / 1e9:g} GB")
    else:
        hint = "Choose a writable directory: snapper config set cache DIRECTORY."
        yield Finding("warning", "Cache", f"{directory} is not writable, so nothing is cached", hint)


def _disks(entries: Sequence[RefOrError]) -> Iterator[Finding]:
    """Room for what would be restored, on each file system, and inodes."""
    needed: dict[Path, int] = {}
    for entry in entries:
        if entry.environment is None:
            continue
        latest = entry.environment.latest
        prefix = _place(entry.environment)
        if prefix is None:
            yield Finding(
                "problem",
                "Target directory",
                f"there is no writable directory to restore {entry.name!r} into",
                "Choose one: snapper config set envs_dir DIRECTORY.",
            )
        elif not prefix.exists():
            needed[prefix.parent] = needed.get(prefix.parent, 0) + latest.size
    for directory in dict.fromkeys([*needed, *(path for path in envs_dirs() if path.is_dir())]):
        yield _room(directory, needed.get(directory, 0))


def _place(found: Ref) -> Path | None:
    try:
        return choose_prefix(found, RestoreRequest(SnapshotSpec(found.name), envs_dir=resolve_envs_dir(None)))
    except NoTargetDirectory:
        return None


def _room(directory: Path, needed: int) -> Finding:
    status = os.statvfs(_there(directory))
    free = status.f_bavail * status.f_frsize
    wants = f", and {needed / 1e9:.1f} GB to be restored there" if needed else ""
    detail = f"{directory}: {free / 1e9:.1f} GB free{wants}"
    if needed > free:
        hint = (
            "Free some space, restore fewer environments (snapper config set only NAME...) or elsewhere "
            "(snapper config set envs_dir DIRECTORY)."
        )
        return Finding("problem", "Disk space", detail, hint)
    if status.f_files and status.f_favail < _LITTLE_INODES:
        detail = f"{directory}: {status.f_favail:,} inodes free; every file needs one"
        return Finding(
            "warning",
            "Disk space",
            detail,
            "Remove directories with many small files, such as conda's package cache.",
        )
    return Finding("good", "Disk space", detail)


def _there(directory: Path) -> Path:
    while not directory.exists():
        directory = directory.parent
    return directory


# --- snapper itself, conda, Jupyter -----------------------------------------------------------------------


def _own_place() -> Iterator[Finding]:
    """Whether snapper itself survives a stop."""
    platform, volume = detect_platform(), notebook_volume()
    if volume and not Path(sys.prefix).is_relative_to(volume):
        detail = f"installed in {sys.prefix}, which is deleted when the instance stops"
    elif platform is Platform.STUDIO and not Path(sys.prefix).is_relative_to(Path.home()):
        detail = f"installed in {sys.prefix}, which is deleted when the space stops"
    else:
        yield Finding("good", "snapper", f"installed in {sys.prefix}")
        return
    hint = "Install it in a persistent location and restore at every start: snapper lifecycle on-start."
    yield Finding("warning", "snapper", detail, hint)


def _conda() -> Iterator[Finding]:
    program = os.environ.get("CONDA_EXE") or shutil.which("conda") or shutil.which("mamba")
    listed = ", ".join(str(path) for path in envs_dirs() if path.is_dir())
    where = f"searches for environments in {listed}" if listed else "no envs directory is known"
    if program:
        yield Finding("good", "conda", f"{program}; {where}")
    else:
        yield Finding("note", "conda", f"not on PATH (optional); {where}")


def _jupyter() -> Iterator[Finding]:
    directories = kernels.kernel_directories()
    count = sum(len([*Path(directory).glob("*/kernel.json")]) for directory in directories)
    program = shutil.which("jupyter")
    seen = f"{_count(count, 'kernel')} in {', '.join(directories)}" if count else "no kernels registered yet"
    if program:
        yield Finding("good", "Jupyter", f"{program}; {seen}")
    else:
        yield Finding("note", "Jupyter", f"not on PATH (optional); {seen}")
    for entry in kernels.registered_kernels():
        if entry.ready or is_being_restored(entry.environment):
            continue
        if conda.is_environment(Path(entry.prefix)):
            why, mend = "no longer has this kernel", f"snapper kernels register -p {entry.prefix}"
        else:
            why, mend = "does not exist", f"snapper restore {entry.environment}"
        detail = f"{entry.display_name!r} is registered but cannot start: {entry.prefix} {why}"
        hint = f"Fix it: {mend}. Or remove it: snapper kernels remove {entry.environment}."
        yield Finding("warning", "Kernel", detail, hint)


# --- environments, scripts, leftovers ---------------------------------------------------------------------


def _environments() -> Iterator[Finding]:
    for prefix in installed_environments():
        if not conda.is_environment(prefix):
            continue
        try:
            sources = editable.find(prefix, InstalledEnvironment(prefix).tree)
        except SnapperError as error:
            yield Finding("warning", "Environment", error.message, error.hint)
            continue
        if sources:
            names = ", ".join(f"{each.name} ({each.source})" for each in sources)
            hint = "Choose how to pack them: --editable=include or --editable=ignore."
            yield Finding("warning", "Environment", f"{prefix} has editable installs: {names}", hint)
        if not kernels.shipped_kernels(prefix):
            detail = f"{prefix} has no Jupyter kernel, so it will not appear in Jupyter when it is restored"
            yield Finding("note", "Environment", detail, f"Add one: {kernels.install_hint(prefix)}")


def _leftovers() -> Iterator[Finding]:
    for directory in dict.fromkeys([*envs_dirs(), *(path.parent for path in installed_environments())]):
        for left in staging.find_leftovers(directory):
            hint = "The next restore of that environment removes it."
            yield Finding("note", "Leftover", f"{left} was left over from an interrupted restore", hint)


def _last_restore() -> Iterator[Finding]:
    last = last_restore()
    if last is None:
        return
    if last.is_running:
        yield Finding("note", "Restore", f"one has been running since {last.began} (PID {last.process})")
    elif not last.ended:
        detail = f"the last `restore --all` ({last.began}) was interrupted"
        yield Finding("warning", "Restore", detail, "Finish it: snapper restore --all.")
    elif last.error:
        detail = f"the last `restore --all` ({last.began}) could not start: {last.error}"
        yield Finding("problem", "Restore", detail, "After fixing that: snapper restore --all.")
    for part in last.environments:
        if part.condition == "failed":
            detail = f"{part.environment} could not be restored at {last.began}: {part.error}"
            yield Finding("problem", "Restore", detail, part.hint)


def _scripts(named: Sequence[Path]) -> Iterator[Finding]:
    """Lifecycle scripts that no shell can run, because they were edited on Windows."""
    usual = [
        *Path.home().glob("*.sh"),
        *(Path.home() / "SageMaker").glob("*.sh"),
        *Path("/var/lib/cloud/scripts/per-boot").glob("*"),
    ]
    for file in dict.fromkeys([*named, *usual]):
        if file not in named and not (file.is_file() and file.stat().st_size < _LARGEST_SCRIPT):
            continue
        try:
            text = file.read_bytes()
        except PermissionError:
            if file in named:
                raise
            continue
        if b"\r\n" in text:
            hint = f"Fix it: sed -i 's/\\r$//' {file}"
            yield Finding(
                "problem", "Script", f"{file} has Windows line endings (CRLF); the shell cannot run it", hint
            )
        elif file in named:
            yield Finding("good", "Script", f"{file} has {len(text):,} characters and Unix line endings")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
