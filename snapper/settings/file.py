"""The settings file: find it, read it, and change one setting in it.

The settings decide which store is used, and so whose code runs. A file that another user controls is therefore ignored,
with a warning, unless the user has named it: its directory can be on a volume that several users share.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from snapper.errors import FileOperationFailed, InvalidSettings, UsageError
from snapper.fs.atomic import write_entry
from snapper.fs.directories import closing_descriptor, without_umask
from snapper.fs.moves import Entry
from snapper.fs.own_directory import open_or_make, own_directory
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.small_files import read_file, read_own_path
from snapper.settings.directories import (
    control_by_others,
    notebook_volume,
    state_directory,
    user_config_directories,
)

logger = logging.getLogger(__name__)

VARIABLE = "SNAPPER_CONFIG"
_NAME = "config.toml"
_SITE = Path("/etc/snapper") / _NAME

#: The largest settings file, in bytes.
_LARGEST = 64 * 1024

#: The permissions that a settings file may have.
_LARGEST_MODE = 0o644

_MAX_LINKS = 40

#: The file in the state directory that is locked while settings are changed.
_LOCK = "settings.lock"


@dataclass(frozen=True)
class SettingsFile:
    """A settings file as it was read; `fields` are its keys and values, none if the file is `missing`."""

    path: Path
    text: str
    fields: Mapping[str, Any]
    missing: bool = False

    @property
    def is_site(self) -> bool:
        """Whether these are the settings of all users of the machine."""
        return self.path == _SITE

    def line_of(self, key: str) -> int:
        """Return the line, counted from 1, on which the key is set."""
        lines = self.text.splitlines(keepends=True)
        before = 0
        for count in range(len(lines)):
            try:
                if key not in _parse("".join(lines[:count])):
                    before = count
            except ValueError:  # in the middle of a multi-line value
                continue
        return before + 1


class IgnoredFile(NamedTuple):
    """A settings file that would be used, and how another user controls it."""

    path: Path
    reason: str


def ignored_settings_file() -> IgnoredFile | None:
    """Return the file that is ignored in favor of the one that is found, None if there is none. May raise OSError."""
    for directory in () if _named_file() else user_config_directories():
        path = directory / _NAME
        with suppress(FileNotFoundError, NotADirectoryError):
            reason = _control_by_others(path)
            return IgnoredFile(path, reason) if reason else None
    return None


def find_settings_file() -> SettingsFile | None:
    """Read the settings file: the one that SNAPPER_CONFIG names, or else the first that exists.

    Raise InvalidSettings if it is not TOML, FileOperationFailed if it cannot be read.
    """
    named = _named_file()
    if named:
        return _read(named) or SettingsFile(named, "", {}, missing=True)
    for directory in user_config_directories():
        if file := _read_own(directory / _NAME):
            return file
    return _read(_SITE)


def writable_settings_file() -> Path:
    """Return the file that the user's settings are written to, which need not exist; another user's is left alone."""
    named = _named_file()
    if named:
        return named
    candidates = [directory / _NAME for directory in user_config_directories()]
    usable = [path for path in candidates if not _why_ignored(path)]
    for path in usable:
        if path.is_file():
            return path
    return usable[0] if usable and notebook_volume() else candidates[-1]


def write_setting(key: str, value: object | None) -> Path:
    """Set the key, or remove it if the value is None; keep comments and order. Return the file.

    If only the site's settings exist so far, copy them to the user's file first. Of several processes of this user, one
    does so at a time. Raise InvalidSettings or FileOperationFailed.
    """
    with _locked():
        return _write_setting(key, value)


@contextmanager
def _locked() -> Iterator[None]:
    """Wait until no other process of this user changes settings, unless nothing can be locked."""
    with ExitStack() as resources:
        with suppress(OSError, UsageError):
            _check_owner_of_directory(state_directory())
            directory = resources.enter_context(own_directory(state_directory(), make=True))
            resources.enter_context(directory.locked(_LOCK))
        yield


def _write_setting(key: str, value: object | None) -> Path:
    import tomlkit  # noqa: PLC0415 - slow, and needed only here

    target = writable_settings_file()
    _check_will_be_read(target)
    current = find_settings_file()
    document = tomlkit.parse(current.text if current else "")
    if value is None:
        document.pop(key, None)
    else:
        document[key] = list(value) if isinstance(value, tuple) else value
    text = tomlkit.dumps(document)
    if not current or text != current.text:
        _replace(target, text)
    return target


def _check_will_be_read(path: Path) -> None:
    """Raise InvalidSettings for a file that is ignored: replacing it would lose the settings in it."""
    reason = "" if _named_file() else _why_ignored(path)
    if reason:
        raise InvalidSettings(
            str(path), f"settings in it are ignored, because {reason}", "Correct that, then set it again."
        )


def _named_file() -> Path | None:
    """Return the file that the variable names, or None if it is not set."""
    named = os.environ.get(VARIABLE)
    return Path(os.path.abspath(os.path.expanduser(named))) if named else None


def _read_own(path: Path) -> SettingsFile | None:
    """Read the file unless another user controls it, which is reported once."""
    try:
        reason = _control_by_others(path)
        if not reason:
            return _decode(path, read_own_path(path, _LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    _warn_once(path, reason)
    return None


def _control_by_others(path: Path) -> str:
    """Return how another user controls the file, or an empty text if none does. May raise OSError."""
    try:
        status = path.stat()
    except PermissionError:
        directory = path.parent.stat()
        if is_own(directory):
            raise
        return f"its directory belongs to the user {owner_name(directory)}"
    if not is_own(status):
        return f"it belongs to the user {owner_name(status)}"
    found = control_by_others(path)
    if found is None:
        return ""
    is_writable = is_own(os.lstat(found.path))
    advice = f". Check it, then run: chmod go-w {shlex.quote(found.path)}" if is_writable else ""
    return f"{found.path} {found.reason}{advice}"


def _why_ignored(path: Path) -> str:
    """Return how another user controls a file that need not exist; leave other problems to who reads or writes it."""
    try:
        return _control_by_others(path)
    except FileNotFoundError:
        found = control_by_others(path)
        return f"{found.path} {found.reason}" if found else ""
    except OSError:
        return ""


@cache
def _warn_once(path: Path, reason: str) -> None:
    logger.warning("the settings in %s are ignored, because %s", path, reason)


def _read(path: Path) -> SettingsFile | None:
    try:
        return _decode(path, read_file(path, _LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> FileOperationFailed:
    return FileOperationFailed(str(path), f"the settings cannot be read: {error.strerror}")


def _decode(path: Path, data: bytes) -> SettingsFile:
    """Decode the contents of the file; raise InvalidSettings."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidSettings(f"{path}:{line}", "it is not UTF-8") from None
    try:
        return SettingsFile(path, text, _parse(text))
    except RecursionError:
        raise InvalidSettings(str(path), "it is nested too deeply") from None
    except ValueError:
        raise _parse_error(path, text) from None


def _parse(text: str) -> Mapping[str, Any]:
    """Parse TOML, with the standard library from Python 3.11; raise ValueError if the text is invalid."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - needed only if there is a file

        return tomllib.loads(text)
    import tomlkit  # noqa: PLC0415

    return tomlkit.parse(text).unwrap()


def _parse_error(path: Path, text: str) -> InvalidSettings:
    """Return an error that says what is wrong with a file that is not TOML, and on which line."""
    import tomlkit  # noqa: PLC0415
    from tomlkit.exceptions import ParseError  # noqa: PLC0415

    try:
        tomlkit.parse(text)
    except ParseError as error:
        reason = str(error).partition(" at line ")[0].rstrip(".")
        return InvalidSettings(f"{path}:{error.line}", f"it is not TOML: {reason[:1].lower()}{reason[1:]}")
    except ValueError as error:
        return InvalidSettings(str(path), f"it is not TOML: {error}")
    return InvalidSettings(str(path), "it is not TOML")


def _replace(file: Path, text: str) -> None:
    """Replace the file, or what it links to, and keep its mode, unless it or its directory is another user's.

    The directory may be a colleague's if the user has named the file.
    """
    try:
        target = _follow_own_links(file)
        if not _named_file():
            _check_owner_of_directory(target.parent)
        with closing_descriptor(open_or_make(str(target.parent))) as directory, without_umask():
            write_entry(Entry(directory, target.name), text.encode(), mode=_mode_of(target.name, directory))
    except OSError as error:
        raise FileOperationFailed(str(file), f"the settings cannot be written: {error.strerror}") from None


def _check_owner_of_directory(directory: Path) -> None:
    """Raise OSError if the directory, or the one that it is to be created in, belongs to another user.

    Root would leave files in the home of a user that the user cannot read.
    """
    while not os.path.lexists(directory):
        directory = directory.parent
    status = directory.stat()
    if not is_own(status):
        raise OSError(errno.EPERM, f"{directory} belongs to the user {owner_name(status)}", str(directory))


def _mode_of(name: str, directory: int) -> int:
    """Return the mode that a file of this user keeps when it is replaced, or that of a new file."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and is_own(status):
            return status.st_mode & _LARGEST_MODE
    return 0o600


def _follow_own_links(path: Path) -> Path:
    """Return the path that links to a file lead to; raise OSError if the file or a link belongs to another user."""
    for _ in range(_MAX_LINKS):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return path
        if not is_own(status):
            raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", str(path))
        if not stat.S_ISLNK(status.st_mode):
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
