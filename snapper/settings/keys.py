"""The settings that exist, and the validation of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from snapper.errors import UsageError, suggest_name
from snapper.settings.directories import absolute_directory, default_cache_directory, default_store_directory

Value = str | int | float | tuple[str, ...] | None

#: What to do with an environment with which data would be lost: leave it, keep it beside the restored one, or pack it.
OnChange = Literal["refuse", "aside", "pack"]

#: The value that turns a setting off.
OFF = "off"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?\Z", re.IGNORECASE)
_URL = re.compile(r"s3://[^/?]|file://(localhost)?/")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_TEMPLATE_FIELDS = ("env", "language", "kernel")


@dataclass(frozen=True)
class SettingKey:
    """A setting. `parse` converts what a file, variable or command line contains, or raises ValueError."""

    parse: Callable[[object], Value]
    default: Callable[[], Value]
    platform_default: bool = False
    is_list: bool = False
    is_path: bool = False
    is_size: bool = False

    def parse_in_file(self, value: object) -> Value:
        """Return the value of a settings file, in which relative paths are not allowed, or raise ValueError."""
        parsed = self.parse(value)
        if self.is_path and isinstance(value, str):
            relative = "://" not in value and not value.startswith(("/", "~")) and value != OFF
            if relative:
                raise ValueError("it must be an absolute path or start with ~")
        return parsed


def check_key(key: str) -> str:
    """Return the key; raise UsageError if there is no such setting."""
    if key not in SETTINGS:
        raise UsageError(f"unknown setting {key!r}", suggest_setting(key))
    return key


def parse_value(key: str, words: list[str]) -> Value:
    """Return the value that the words of a command line give the setting; raise UsageError if it is invalid."""
    setting = SETTINGS[check_key(key)]
    if not setting.is_list and len(words) > 1:
        raise UsageError(
            f"{key} takes one value, but {len(words)} were given", "Quote a value that contains spaces."
        )
    try:
        return setting.parse(words if setting.is_list else words[0])
    except ValueError as error:
        raise UsageError(f"{key} cannot be {' '.join(words)!r}: {error}") from None


def suggest_setting(key: str) -> str:
    """Return a hint for an unknown setting: a similar one, if there is any, and all that exist."""
    return f"{suggest_name(key, SETTINGS)}Settings: {', '.join(SETTINGS)}."


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
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("it must be a list of names or paths, which may contain * and ?")
    return tuple(part.strip() for item in value for part in item.split(",") if part.strip())


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"it must be one of {', '.join(map(repr, choices))}")
        return str(value)

    return parse


def _integer(lowest: int, highest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if type(number) is not int or not lowest <= number <= highest:
            raise ValueError(f"it must be a whole number from {lowest} to {highest}")
        return number

    return parse


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


def _template(value: object) -> str:
    """Parse text with fields in braces; `{env}` is required."""
    text = _text(value)
    used = re.findall(r"\{([^{}]*)\}", text)
    rest = re.sub(r"\{[^{}]*\}", "", text)
    if "env" not in used or not set(used) <= set(_TEMPLATE_FIELDS) or "{" in rest or "}" in rest:
        allowed = " and ".join(f"{{{field}}}" for field in _TEMPLATE_FIELDS if field != "env")
        raise ValueError(f"it must contain {{env}}, and no other fields except {allowed}")
    return text


SETTINGS: Mapping[str, SettingKey] = {
    "store": SettingKey(_store, default_store_directory, platform_default=True, is_path=True),
    "envs_dir": SettingKey(_directory, lambda: None, is_path=True),
    "cache": SettingKey(_directory_or_off, default_cache_directory, platform_default=True, is_path=True),
    "cache_size": SettingKey(_bytes, lambda: 20 * 10**9, is_size=True),
    "only": SettingKey(_patterns, lambda: (), is_list=True),
    "except": SettingKey(_patterns, lambda: (), is_list=True),
    "first": SettingKey(_patterns, lambda: (), is_list=True),
    "jobs": SettingKey(_integer(1, 64), lambda: None),
    "level": SettingKey(_integer(1, 19), lambda: 1),
    "budget": SettingKey(_seconds, lambda: None),
    "on_change": SettingKey(_choice(*get_args(OnChange)), lambda: "refuse"),
    "caches": SettingKey(_patterns, lambda: (), is_list=True),
    "kernel_name": SettingKey(_template, lambda: "{env}-{kernel}"),
    "kernel_display_name": SettingKey(_template, lambda: "{language} ({env})"),
}

KEYS = tuple(SETTINGS)
