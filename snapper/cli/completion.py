"""Shell completion of environments and tags.

Completion is quick and works offline: it reads a store that is a directory, or else the local cache of a store on S3.
It never reports errors: whatever fails yields no suggestions.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import typer


class _Bash:
    """Whether bash has passed `ENV@TAG` as several words, and replaces only what follows ENV."""

    has_split_words: ClassVar[bool] = False


def rejoin_split_words() -> None:
    """Join the words of the command line that bash has split at `@`, before the completion of typer reads them."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    position = os.environ.get("COMP_CWORD", "")
    if "@" not in words or not position.isdecimal():
        return
    joined: list[str] = []
    for index, word in enumerate(words[: int(position) + 1]):
        follows = index > 1 and words[index - 1] == "@" and not word.startswith("-")
        if joined and (word == "@" or follows):
            joined[-1] += word
        else:
            joined.append(word)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    _Bash.has_split_words = True


def complete_environment(ctx: typer.Context, _param: Any, incomplete: str) -> list[str]:
    """Return the names of environments in the store."""
    return [name for name in _stored(ctx) if name.startswith(incomplete)]


def complete_installed(_ctx: typer.Context, _param: Any, incomplete: str) -> list[str]:
    """Return the names of environments on this machine."""
    return [name for name in _installed() if name.startswith(incomplete)]


def complete_any_environment(ctx: typer.Context, _param: Any, incomplete: str) -> list[str]:
    """Return the names of environments in the store and on this machine."""
    return [name for name in sorted({*_stored(ctx), *_installed()}) if name.startswith(incomplete)]


def complete_snapshot(ctx: typer.Context, _param: Any, incomplete: str) -> list[str]:
    """Return the names of environments in the store, or after `ENV@`, the environment's tags."""
    name, separator, _ = incomplete.partition("@")
    if not separator:
        return complete_environment(ctx, _param, incomplete)
    start = "" if _Bash.has_split_words else name
    return [f"{start}@{tag}" for tag in _tags(ctx, name) if f"{name}@{tag}".startswith(incomplete)]


def complete_setting(_ctx: typer.Context, _param: Any, incomplete: str) -> list[str]:
    """Return the names of settings."""
    from snapper.settings.keys import KEYS

    return [key for key in KEYS if key.startswith(incomplete)]


def _installed() -> list[str]:
    with suppress(Exception):
        from snapper.environment.locations import installed_environments

        return sorted({prefix.name for prefix in installed_environments()})
    return []


def _stored(ctx: typer.Context) -> list[str]:
    from snapper.format.layout import Layout

    names: set[str] = set()
    for directory in _directories(ctx):
        with suppress(OSError):
            names |= {file.stem for file in (directory / Layout.REFS).glob("*.json")}
        with suppress(OSError, ValueError, TypeError):
            keys = json.loads((directory / Layout.CACHED_LISTING).read_bytes())
            names |= {Path(str(key)).stem for key in keys}
    return sorted(name for name in names if not name.startswith("."))


def _tags(ctx: typer.Context, name: str) -> list[str]:
    from snapper.format.layout import Layout

    for directory in _directories(ctx):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            return sorted(json.loads((directory / Layout.ref(name)).read_bytes())["tags"])
    return []


def _directories(ctx: typer.Context) -> list[Path]:
    """Return the local directories with entries of the store that the command line or the settings name."""
    with suppress(Exception):
        from snapper.settings.resolution import load_settings

        settings = load_settings()
        url = str(ctx.params.get("store") or settings.store)
        parts = urlsplit(url)
        if parts.scheme == "s3":
            caches = Path(settings.cache).iterdir() if settings.cache else ()
            return [cache for cache in caches if cache.name.rpartition("-")[0] == parts.netloc]
        return [Path(unquote(parts.path)) if parts.scheme == "file" else Path(url).expanduser()]
    return []
