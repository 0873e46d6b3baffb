"""Shell completion of environments and tags.

Completion is quick and works offline: it reads a store that is a directory, or else the local cache of a store on S3.
It never reports errors: whatever fails yields no suggestions. Only valid names are suggested, because shells evaluate
what they insert, and others may have chosen the names of files, tags, and directories.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import typer

if TYPE_CHECKING:
    from snapper.store.object_files import ObjectFiles


@contextmanager
def completing() -> Iterator[None]:
    """Prepare for the completion of a command line: nothing is logged, since that would be printed into it."""
    logging.disable()
    try:
        with _bash_words_rejoined():
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _bash_words_rejoined() -> Iterator[None]:
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
        from snapper.format.constraints import is_valid_name

        return sorted({prefix.name for prefix in installed_environments() if is_valid_name(prefix.name)})
    return []


def _stored(ctx: typer.Context) -> list[str]:
    from snapper.format.canonical import LARGEST_DOCUMENT
    from snapper.format.layout import Layout, ObjectKind

    keys: set[str] = set()
    for files in _stored_objects(ctx):
        with suppress(OSError):
            keys |= {key for key, _ in files.walk(Layout.REFS)}
        with suppress(OSError, ValueError, TypeError, RecursionError):
            keys |= {str(key) for key in json.loads(files.read(Layout.CACHED_LISTING, LARGEST_DOCUMENT))}
    parsed = (Layout.parse(key) for key in keys)
    return sorted(key.name for key in parsed if key and key.kind is ObjectKind.REF)


def _tags(ctx: typer.Context, name: str) -> list[str]:
    from snapper.format.canonical import LARGEST_DOCUMENT
    from snapper.format.constraints import is_valid_name
    from snapper.format.layout import Layout

    for files in _stored_objects(ctx):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            tags = json.loads(files.read(Layout.ref(name), LARGEST_DOCUMENT))["tags"]
            return sorted(filter(is_valid_name, tags))
    return []


def _stored_objects(ctx: typer.Context) -> Iterator[ObjectFiles]:
    """Yield the objects of the store that the command line or the settings name, or of each cache of it."""
    with suppress(Exception):
        from snapper.settings.resolution import load_settings
        from snapper.store.buckets import split_bucket
        from snapper.store.object_files import opened_files

        settings = load_settings()
        url = str(ctx.params.get("store") or settings.store)
        if url.startswith("s3://"):
            path = url.removeprefix("s3://").partition("?")[0]
            yield from _cached_objects(settings.cache, split_bucket(path).label)
            return
        parts = urlsplit(url)
        directory = Path(unquote(parts.path)) if parts.scheme == "file" else Path(url).expanduser()
        with opened_files(directory) as files:
            yield files


def _cached_objects(directory: str | None, bucket: str) -> Iterator[ObjectFiles]:
    from snapper.format.layout import Layout
    from snapper.store.cache_directory import caches_in

    for cache in caches_in(directory) if directory else ():
        if Layout.bucket_of_cache(cache.name) == bucket:
            with suppress(OSError), cache.opened() as files:
                yield files
