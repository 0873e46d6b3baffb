"""Shell completion of environments and tags.

Completion is quick and works offline: it reads a store that is a directory, or else the local cache of a store on S3.
It never reports errors: whatever fails yields no suggestions.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer


@contextmanager
def bash_words_rejoined() -> Iterator[None]:
    """Join the words that bash has split at the `@` of `ENV@TAG` while typer completes them.

    Of a split word, bash replaces only what begins with the last `@`, so only that is printed.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    position = os.environ.get("COMP_CWORD", "")
    if "@" not in words or not position.isdecimal():
        yield
        return
    joined: list[str] = []
    for index, word in enumerate(words[: int(position) + 1]):
        follows = index > 1 and words[index - 1] == "@" and not word.startswith("-")
        if joined and (word == "@" or follows):
            joined[-1] += word
        else:
            joined.append(word)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    completions = io.StringIO()
    try:
        with redirect_stdout(completions):
            yield
    finally:
        unreplaced = joined[-1].rpartition("@")[0]
        sys.stdout.writelines(
            f"{line.removeprefix(unreplaced)}\n" for line in completions.getvalue().splitlines()
        )


def complete_environment(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of environments in the store."""
    return [name for name in _stored(ctx) if name.startswith(incomplete)]


def complete_installed(incomplete: str) -> list[str]:
    """Return the names of environments on this machine."""
    return [name for name in _installed() if name.startswith(incomplete)]


def complete_any_environment(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of environments in the store and on this machine."""
    return [name for name in sorted({*_stored(ctx), *_installed()}) if name.startswith(incomplete)]


def complete_snapshot(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of environments in the store, or after `ENV@`, the environment's tags."""
    name, separator, _ = incomplete.partition("@")
    if not separator:
        return complete_environment(ctx, incomplete)
    return [f"{name}@{tag}" for tag in _tags(ctx, name) if f"{name}@{tag}".startswith(incomplete)]


def complete_setting(incomplete: str) -> list[str]:
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
        from snapper.format.layout import Layout
        from snapper.settings.resolution import load_settings

        settings = load_settings()
        url = str(ctx.params.get("store") or settings.store)
        parts = urlsplit(url)
        if parts.scheme == "s3":
            caches = Path(settings.cache).iterdir() if settings.cache else ()
            return [cache for cache in caches if Layout.bucket_of_cache(cache.name) == parts.netloc]
        return [Path(unquote(parts.path)) if parts.scheme == "file" else Path(url).expanduser()]
    return []
