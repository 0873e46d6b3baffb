"""The file of settings: where it is looked for, how it is read, and how one setting in it is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.errors import FileOperationFailed, InvalidSettings

VARIABLE = "SNAPPER_CONFIG"
_NAME = "config.toml"
_SITE = Path("/etc/snapper") / _NAME


@dataclass(frozen=True)
class SettingsFile:
    """A file of settings as it was read; `fields` are its keys and values, none where it is `missing`."""

    path: Path
    text: str
    fields: Mapping[str, Any]
    missing: bool = False

    def line_of(self, key: str) -> int:
        """The line on which the key is set, counted from 1."""
        lines = self.text.splitlines(keepends=True)
        before = 0
        for count in range(len(lines)):
            try:
                if key not in _parsed("".join(lines[:count])):
                    before = count
            except ValueError:  # in the middle of a value of several lines
                continue
        return before + 1


def find_settings_file() -> SettingsFile | None:
    """The file that holds: the one that SNAPPER_CONFIG names, else the first that is there.

    Raises InvalidSettings where it is no TOML, FileOperationFailed where it cannot be read.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _read(Path(os.path.abspath(os.path.expanduser(named)))) or SettingsFile(
            Path(os.path.abspath(os.path.expanduser(named))), "", {}, missing=True
        )
    for path in (*_own(), _SITE):
        found = _read(path)
        if found:
            return found
    return None


def writable_settings_file() -> Path:
    """The file that the user's settings are written to, which need not be there."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.path.abspath(os.path.expanduser(named)))
    candidates = _own()
    for path in candidates:
        if path.is_file():
            return path
    volume = candidates[0].parent.parent
    return candidates[0] if volume.is_dir() else candidates[1]


def write_setting(key: str, value: object | None) -> Path:
    """Sets the key, or takes it out where the value is None; comments and order stay. Returns the file.

    A user who had the site's settings so far begins with a copy of them. Raises InvalidSettings, FileOperationFailed.
    """
    import tomlkit  # noqa: PLC0415 - slow, and needed only here

    target = writable_settings_file()
    found = find_settings_file()
    document = tomlkit.parse(found.text if found else "")
    if value is None:
        document.pop(key, None)
    else:
        document[key] = list(value) if isinstance(value, tuple) else value
    text = tomlkit.dumps(document)
    if not found or text != found.text:
        _replace(target, text)
    return target


def _own() -> tuple[Path, Path]:
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path.home() / "SageMaker" / ".snapper" / _NAME, configuration / "snapper" / _NAME


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
        return SettingsFile(path, text, _parsed(text))
    except ValueError:
        raise _not_toml(path, text) from None


def _parsed(text: str) -> Mapping[str, Any]:
    """Parsed by what comes with Python, where it does; raises ValueError."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - needed only where there is a file

        return tomllib.loads(text)
    import tomlkit  # noqa: PLC0415

    return tomlkit.parse(text).unwrap()


def _not_toml(path: Path, text: str) -> InvalidSettings:
    """What is wrong with a file that does not parse, and on which line."""
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
    target = Path(os.path.realpath(file))
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        if target.exists():
            aside.chmod(target.stat().st_mode & 0o777)
        aside.rename(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise FileOperationFailed(str(file), f"the settings cannot be written: {error.strerror}") from None
