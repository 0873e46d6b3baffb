"""Where settings come from: options, environment variables, a file, and defaults made for the place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from snapper.errors import InvalidSettings, SnapperError, UsageError, suggest_name
from snapper.settings.file import VARIABLE, SettingsFile, find_settings_file

Platform = Literal["notebook instance", "Studio", "plain"]
Value = str | int | float | tuple[str, ...] | None

#: What stands for "none" where a setting can be switched off.
OFF = "off"

_VOLUME = "SageMaker"
_OWN = ".snapper"
_METADATA = Path("/opt/ml/metadata/resource-metadata.json")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?\Z", re.IGNORECASE)
_URL = re.compile(r"s3://[^/?]|file://(localhost)?/")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Settings:
    """What holds, options aside. `cache_size` in bytes, `budget` in seconds; `only`, `except_` and `first` are
    patterns of environments' names.
    """

    store: str
    envs_dir: str | None
    cache: str | None
    cache_size: int
    only: tuple[str, ...]
    except_: tuple[str, ...]
    first: tuple[str, ...]
    jobs: int | None
    level: int
    budget: float | None
    kernel_name: str
    kernel_display_name: str


@dataclass(frozen=True)
class Setting:
    """One setting and where it comes from: a variable, a line of a file, or a default."""

    key: str
    value: Value
    origin: str


@dataclass(frozen=True)
class SettingsOverview:
    """The settings that hold, what is wrong with the others and with the file, and the file if it could be read."""

    file: Path | None
    settings: tuple[Setting, ...]
    wrong: tuple[SnapperError, ...]


@dataclass(frozen=True)
class _Key:
    """A setting that there is. `check` turns what a file or a variable has into the value, raising ValueError."""

    check: Callable[[object], Value]
    default: Callable[[], Value]
    by_place: bool = False


def load_settings() -> Settings:
    """The settings in force; raises InvalidSettings where a variable or the file is wrong, FileOperationFailed."""
    found, wrong = _looked(find_settings_file())
    if wrong:
        raise wrong[0]
    values: dict[str, Any] = {each.key: each.value for each in found}
    values["except_"] = values.pop("except")
    return Settings(**values)


def explain_settings() -> SettingsOverview:
    """Every setting with its origin, whatever is wrong."""
    try:
        file = find_settings_file()
    except SnapperError as error:
        found, wrong = _looked(None)
        return SettingsOverview(None, found, (error, *wrong))
    found, wrong = _looked(file)
    return SettingsOverview(
        file.path if file else None, tuple(_with_line(each, file) for each in found), wrong
    )


def explain_setting(key: str) -> Setting:
    """That setting with its origin, whatever is wrong with others; raises UsageError where there is none of that
    name, and
    what `load` raises of this one and of the file.
    """
    check_key(key)
    file = find_settings_file()
    return _with_line(_resolve(key, _KEYS[key], file), file)


def check_key(key: str) -> str:
    """The key itself; raises UsageError where there is no such setting."""
    if key not in _KEYS:
        raise UsageError(f"unknown setting {key!r}", _advice(key))
    return key


def parse_value(key: str, words: list[str]) -> Value:
    """The value that the words of a command line give the setting; raises UsageError."""
    if check_key(key) not in _LISTS and len(words) > 1:
        raise UsageError(
            f"{key} takes one value, but {len(words)} were given", "Quote a value that contains spaces."
        )
    given: object = words if key in _LISTS else words[0]
    try:
        return _KEYS[key].check(given)
    except ValueError as error:
        raise UsageError(f"{key} cannot be {' '.join(words)!r}: {error}") from None


def detect_platform() -> Platform:
    """What kind of machine this is."""
    if os.path.isdir(Path.home() / _VOLUME):
        return "notebook instance"
    if os.environ.get("SAGEMAKER_SPACE_NAME") or _is_space():
        return "Studio"
    return "plain"


def store_url(option: str | None) -> str:
    """The store to use: the option, or else the setting."""
    return option or load_settings().store


def resolve_envs_dir(option: Path | None) -> Path | None:
    """Where restored environments go, if anything says so."""
    if option is not None:
        return absolute_directory(option)
    chosen = load_settings().envs_dir
    return Path(chosen) if chosen else None


def state_directory() -> Path:
    """Where snapper keeps what it remembers of this machine's user: on the volume of a notebook instance, whose
    home is gone at each stop, else in the user's state directory.
    """
    volume = Path.home() / _VOLUME
    if os.path.isdir(volume):
        return volume / _OWN / "state"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "snapper"


def log_file() -> Path:
    """Return the log file of background work and unexpected errors."""
    return state_directory() / "snapper.log"


def absolute_directory(path: str | Path) -> Path:
    """The absolute path of what the user wrote, `~` and `..` resolved; raises UsageError where that makes no sense."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UsageError(
            f"{str(path)!r}: no such user", "Write ./~ for a directory whose name starts with ~."
        )
    try:
        return Path(os.path.abspath(expanded))
    except FileNotFoundError:
        raise UsageError(
            "the current directory no longer exists", "Change to another directory first."
        ) from None


def variable_name(key: str) -> str:
    """The environment variable of a setting."""
    return f"SNAPPER_{key.upper()}"


# --- which value holds ------------------------------------------------------------------------------------


def _looked(file: SettingsFile | None) -> tuple[tuple[Setting, ...], tuple[SnapperError, ...]]:
    """The settings that hold, and what is wrong with the file and with the others."""
    found: list[Setting] = []
    wrong: list[SnapperError] = []
    if file and file.missing:
        wrong.append(InvalidSettings(str(file.path), f"the file does not exist ({VARIABLE} points to it)"))
    for key in file.fields if file else ():
        if file and key not in _KEYS:
            where = f"{file.path}:{file.line_of(key)}"
            wrong.append(InvalidSettings(where, f"unknown setting {key!r}", _advice(key)))
    for name, each in _KEYS.items():
        try:
            found.append(_resolve(name, each, file))
        except InvalidSettings as error:
            wrong.append(error)
    return tuple(found), tuple(wrong)


def _advice(key: str) -> str:
    return f"{suggest_name(key, _KEYS)}Settings: {', '.join(_KEYS)}."


def _resolve(name: str, key: _Key, file: SettingsFile | None) -> Setting:
    variable = variable_name(name)
    given = os.environ.get(variable)
    if given:
        try:
            value = key.check(given.split(",") if name in _LISTS else given)
        except ValueError as error:
            raise InvalidSettings(variable, f"it cannot be {given!r}: {error}") from None
        return Setting(name, value, variable)
    if file and name in file.fields:
        try:
            return Setting(name, _from_file(key, file.fields[name]), str(file.path))
        except ValueError as error:
            shown = json.dumps(file.fields[name], default=str)
            where = f"{file.path}:{file.line_of(name)}"
            raise InvalidSettings(where, f"{name} cannot be {shown}: {error}") from None
    at = detect_platform() if key.by_place else "plain"
    return Setting(name, key.default(), "default" if at == "plain" else f"default ({at})")


def _from_file(key: _Key, value: object) -> Value:
    """The value checked; a file's own place says nothing of where relative paths would begin."""
    checked = key.check(value)
    if key.check in (_directory, _directory_or_off, _store) and isinstance(value, str):
        relative = "://" not in value and not value.startswith(("/", "~")) and value != OFF
        if relative:
            raise ValueError("it must be an absolute path or start with ~")
    return checked


def _with_line(found: Setting, file: SettingsFile | None) -> Setting:
    if file is None or found.origin != str(file.path):
        return found
    return replace(found, origin=f"{found.origin}:{file.line_of(found.key)}")


# --- what there is, and what it can be --------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it must be non-empty text")
    return value


def _store(value: object) -> str:
    text = _text(value)
    if "://" not in text:
        return _directory(text)
    if not _URL.match(text):
        raise ValueError("it must be a directory, file:///DIRECTORY or s3://BUCKET/PREFIX")
    return text


def _directory(value: object) -> str:
    text = _text(value)
    if "://" in text:
        raise ValueError("it must be a directory on this machine")
    try:
        return str(absolute_directory(text))
    except UsageError as error:
        raise ValueError(error.message) from None


def _directory_or_off(value: object) -> str | None:
    return None if value == OFF else _directory(value)


def _patterns(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("it must be a list of names, which may contain * and ?")
    return tuple(part.strip() for each in value for part in each.split(",") if part.strip())


def _whole(lowest: int, highest: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if type(number) is not int or not lowest <= number <= highest:
            raise ValueError(f"it must be a whole number from {lowest} to {highest}")
        return number

    return check


def _seconds(value: object) -> float | None:
    if value == OFF:
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) and value is not True else 0.0
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 7 * 24 * 3600:
        raise ValueError(f"it must be a number of seconds, at least 1, or {OFF!r}")
    return seconds


def _bytes(value: object) -> int:
    if type(value) is int and value > 0:
        return value
    match = _SIZE.match(value.strip()) if isinstance(value, str) else None
    if not match or not float(match[1]):
        raise ValueError("it must be a size such as 20GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _template(*fields: str) -> Callable[[object], str]:
    """A text in which the fields may stand in braces, `{env}` at least."""

    def check(value: object) -> str:
        text = _text(value)
        used = re.findall(r"\{([^{}]*)\}", text)
        left = re.sub(r"\{[^{}]*\}", "", text)
        if "env" not in used or not set(used) <= set(fields) or "{" in left or "}" in left:
            allowed = " and ".join(f"{{{field}}}" for field in fields if field != "env")
            raise ValueError(f"it must contain {{env}}, and no other fields except {allowed}")
        return text

    return check


def _default_store() -> str:
    volume = Path.home() / _VOLUME
    if os.path.isdir(volume):
        return str(volume / _OWN)
    from platformdirs import user_data_path  # noqa: PLC0415 - a slow import for what is seldom needed

    return str(user_data_path("snapper", appauthor=False))


def _default_cache() -> str | None:
    at = detect_platform()
    if at == "notebook instance":
        return str(Path.home() / _VOLUME / _OWN / "cache")
    if at == "Studio":
        return str(state_directory() / "cache")
    return None


def _is_space() -> bool:
    """Whether this is a Studio space, of which SageMaker's own file says so."""
    try:
        return "SpaceName" in json.loads(_METADATA.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


_LISTS = ("only", "except", "first")
_FIELDS = ("env", "language", "kernel")

_KEYS: dict[str, _Key] = {
    "store": _Key(_store, _default_store, by_place=True),
    "envs_dir": _Key(_directory, lambda: None),
    "cache": _Key(_directory_or_off, _default_cache, by_place=True),
    "cache_size": _Key(_bytes, lambda: 20 * 10**9),
    "only": _Key(_patterns, lambda: ()),
    "except": _Key(_patterns, lambda: ()),
    "first": _Key(_patterns, lambda: ()),
    "jobs": _Key(_whole(1, 64), lambda: None),
    "level": _Key(_whole(1, 19), lambda: 1),
    "budget": _Key(_seconds, lambda: None),
    "kernel_name": _Key(_template(*_FIELDS), lambda: "{env}-{kernel}"),
    "kernel_display_name": _Key(_template(*_FIELDS), lambda: "{language} ({env})"),
}

KEYS = tuple(_KEYS)
