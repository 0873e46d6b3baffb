"""The settings file: find it, read it, and change one setting in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.errors import FileOperationFailed, InvalidSettings
from snapper.fs.atomic import make_directory, replace_entry, write_entry
from snapper.fs.directories import opened_directory
from snapper.fs.moves import Entry
from snapper.settings.directories import notebook_volume, user_config_directories

VARIABLE = "SNAPPER_CONFIG"
_NAME = "config.toml"
_SITE = Path("/etc/snapper") / _NAME


@dataclass(frozen=True)
class SettingsFile:
    """A settings file as it was read; `fields` are its keys and values, none if the file is `missing`."""

    path: Path
    text: str
    fields: Mapping[str, Any]
    missing: bool = False

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


def find_settings_file() -> SettingsFile | None:
    """Read the settings file: the one that SNAPPER_CONFIG names, or else the first that exists.

    Raise InvalidSettings if it is not TOML, FileOperationFailed if it cannot be read.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _read(Path(os.path.abspath(os.path.expanduser(named)))) or SettingsFile(
            Path(os.path.abspath(os.path.expanduser(named))), "", {}, missing=True
        )
    for directory in user_config_directories():
        if file := _read(directory / _NAME):
            return file
    return _read(_SITE)


def writable_settings_file() -> Path:
    """Return the file that the user's settings are written to, which need not exist."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.path.abspath(os.path.expanduser(named)))
    candidates = [directory / _NAME for directory in user_config_directories()]
    for path in candidates:
        if path.is_file():
            return path
    return candidates[0] if notebook_volume() else candidates[-1]


def write_setting(key: str, value: object | None) -> Path:
    """Set the key, or remove it if the value is None; keep comments and order. Return the file.

    If only the site's settings exist so far, copy them to the user's file first. Raise InvalidSettings or
    FileOperationFailed.
    """
    import tomlkit  # noqa: PLC0415 - slow, and needed only here

    target = writable_settings_file()
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


def _read(path: Path) -> SettingsFile | None:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileOperationFailed(str(path), f"the settings cannot be read: {error.strerror}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidSettings(f"{path}:{line}", "it is not UTF-8") from None
    try:
        return SettingsFile(path, text, _parse(text))
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
    """Replace the file, or what it links to, and keep its mode."""
    target = Path(os.path.realpath(file))
    try:
        make_directory(target.parent)
        with opened_directory(target.parent) as directory:
            write_entry(Entry(directory, target.name), text.encode(), _rename_with_mode, mode=0o600)
    except OSError as error:
        raise FileOperationFailed(str(file), f"the settings cannot be written: {error.strerror}") from None


def _rename_with_mode(temporary: Entry, target: Entry) -> None:
    """Rename the file, and give it the mode of the one that it replaces, if there is one."""
    with suppress(FileNotFoundError):
        mode = os.stat(target.name, dir_fd=target.directory).st_mode
        os.chmod(temporary.name, mode & 0o777, dir_fd=temporary.directory)
    replace_entry(temporary, target)
