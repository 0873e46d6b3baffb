"""The value of each setting, and its origin: an environment variable, a line of the settings file, or a default."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from snapper.errors import InvalidSettings, SnapperError
from snapper.errors.redaction import redact_url
from snapper.settings.directories import Platform, absolute_directory, detect_platform
from snapper.settings.file import VARIABLE, SettingsFile, find_settings_file, ignored_settings_file
from snapper.settings.keys import SETTINGS, OnChange, Value, check_key, suggest_setting

#: How the origin of a default begins.
DEFAULT = "default"

_CHOOSE = "Correct that, or choose the store with --store or SNAPPER_STORE."


@dataclass(frozen=True)
class Settings:
    """The values of all settings; command line options override them.

    `cache_size` is in bytes, `budget` in seconds; `only`, `except_` and `first` are patterns of environment names,
    `caches` of paths in environments.
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
    on_change: OnChange
    caches: tuple[str, ...]
    kernel_name: str
    kernel_display_name: str


@dataclass(frozen=True)
class Setting:
    """The value of a setting and its origin: a variable, a file and line, or a default."""

    key: str
    value: Value
    origin: str

    @property
    def shown(self) -> Value:
        """The value without credentials, to show it."""
        return redact_url(self.value) if isinstance(self.value, str) else self.value


@dataclass(frozen=True)
class SettingsOverview:
    """All valid settings, the errors of the file and of the other settings, and the file, if it could be read."""

    file: Path | None
    settings: tuple[Setting, ...]
    wrong: tuple[SnapperError, ...]


def load_settings() -> Settings:
    """Return the settings.

    Raise InvalidSettings if a variable or the file is invalid, FileOperationFailed if the file cannot be read.
    """
    settings, errors = _resolve_all(find_settings_file())
    if errors:
        raise errors[0]
    values: dict[str, Any] = {setting.key: setting.value for setting in settings}
    values["except_"] = values.pop("except")
    return Settings(**values)


def explain_settings() -> SettingsOverview:
    """Return all settings with their origins, and all errors."""
    try:
        file = find_settings_file()
    except SnapperError as error:
        settings, errors = _resolve_all(None)
        return SettingsOverview(None, settings, (error, *errors))
    settings, errors = _resolve_all(file)
    for setting in settings:
        try:
            _check_not_ignored(setting, file)
        except InvalidSettings as error:
            errors = (*errors, error)
    with_lines = tuple(_with_line(setting, file) for setting in settings)
    return SettingsOverview(file.path if file else None, with_lines, errors)


def explain_setting(key: str) -> Setting:
    """Return one setting with its origin, even if others are invalid.

    Raise UsageError if there is no such setting, what `load_settings` raises for this one and the file, and
    InvalidSettings for the store as `choose_store` does.
    """
    file = find_settings_file()
    setting = _resolve(check_key(key), file)
    _check_not_ignored(setting, file)
    return _with_line(setting, file)


class ChosenStore(NamedTuple):
    """The URL of a store, and whether that is a default, which nobody has chosen."""

    url: str
    is_default: bool = False


def choose_store(option: str | None) -> ChosenStore:
    """Return the store to use: the option, or else the setting.

    Raise what `load_settings` raises, and InvalidSettings if a file that is ignored may name another store.
    """
    if option is not None:
        return ChosenStore(option)
    file = find_settings_file()
    setting = _resolve("store", file)
    _check_not_ignored(setting, file)
    return ChosenStore(load_settings().store, setting.origin.startswith(DEFAULT))


def resolve_envs_dir(option: str | Path | None) -> Path | None:
    """Return the directory for restored environments: the option, or else the setting, or None."""
    if option is not None:
        return absolute_directory(option)
    directory = load_settings().envs_dir
    return Path(directory) if directory else None


def variable_name(key: str) -> str:
    """Return the environment variable of a setting."""
    return f"SNAPPER_{key.upper()}"


def _resolve_all(file: SettingsFile | None) -> tuple[tuple[Setting, ...], tuple[SnapperError, ...]]:
    """Return the valid settings, and the errors of the file and of the other settings."""
    settings: list[Setting] = []
    errors: list[SnapperError] = []
    if file and file.missing:
        errors.append(InvalidSettings(str(file.path), f"the file does not exist ({VARIABLE} points to it)"))
    for key in file.fields if file else ():
        if file and key not in SETTINGS:
            where = f"{file.path}:{file.line_of(key)}"
            errors.append(InvalidSettings(where, f"unknown setting {key!r}", suggest_setting(key)))
    for key in SETTINGS:
        try:
            settings.append(_resolve(key, file))
        except InvalidSettings as error:
            errors.append(error)
    return tuple(settings), tuple(errors)


def _resolve(key: str, file: SettingsFile | None) -> Setting:
    setting = SETTINGS[key]
    variable = variable_name(key)
    text = os.environ.get(variable)
    if text:
        try:
            value = setting.parse(text.split(",") if setting.is_list else text)
        except ValueError as error:
            raise InvalidSettings(variable, f"{key} cannot be {text!r}: {error}") from None
        return Setting(key, value, variable)
    if file and key in file.fields:
        try:
            return Setting(key, setting.parse_in_file(file.fields[key]), str(file.path))
        except ValueError as error:
            shown = json.dumps(file.fields[key], default=str)
            where = f"{file.path}:{file.line_of(key)}"
            raise InvalidSettings(where, f"{key} cannot be {shown}: {error}") from None
    platform = detect_platform() if setting.platform_default else Platform.GENERIC
    origin = DEFAULT if platform is Platform.GENERIC else f"{DEFAULT} ({platform.value})"
    return Setting(key, setting.default(), origin)


def _check_not_ignored(setting: Setting, file: SettingsFile | None) -> None:
    """Raise InvalidSettings for the store if the user may have chosen another one in a file that is ignored.

    What is packed would be published elsewhere, or be lost with this machine.
    """
    is_own = setting.origin == variable_name("store") or (
        file and not file.is_site and "store" in file.fields
    )
    if setting.key != "store" or is_own:
        return
    ignored = ignored_settings_file()
    if ignored:
        reason = f"it may name the store to use, but it is ignored, because {ignored.reason}"
        raise InvalidSettings(str(ignored.path), reason, _CHOOSE)


def _with_line(setting: Setting, file: SettingsFile | None) -> Setting:
    """Return the setting with the line of the file in its origin, if it comes from there."""
    if file is None or setting.origin != str(file.path):
        return setting
    return replace(setting, origin=f"{setting.origin}:{file.line_of(setting.key)}")
