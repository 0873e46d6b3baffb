"""Make files independent of their location: replace the prefix by placeholders. The opposite direction is `relocate`.

A result is only used if relocating it gives the file on disk again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from snapper.format import object_code, shebang, zipapp
from snapper.format.bytecode import replace_paths
from snapper.format.constraints import is_placeholder, path_bytes
from snapper.format.cstrings import PlaceholderTooShort, original_strings
from snapper.format.encodings import encode_wide, find_wide_encoding
from snapper.format.escapes import contains_escaped, escaped_spellings
from snapper.format.model import Mode
from snapper.format.paths import contains_path, replace_path
from snapper.format.paths import replace_paths as replace_paths_in_text
from snapper.format.placeholders import is_own_placeholder
from snapper.format.relocate import (
    encode_prefix,
    grows_too_large,
    is_complete,
    is_for_loader,
    relocate_file,
    replace_kept,
    replace_placeholder,
)
from snapper.format.text import is_text

#: The placeholder in text files that had none from conda.
TEXT_PLACEHOLDER = "/opt/snapper_prefix_placehold_placehold_placehold"

#: The same, and what replaces it in files that already contain it.
TEXT_PLACEHOLDERS = (TEXT_PLACEHOLDER, TEXT_PLACEHOLDER + "_")

#: The placeholder in binaries of conda packages whose placeholder is not recorded: as long as conda's own.
BINARY_PLACEHOLDER = ("/opt/snapper_prefix" + "_placehold" * 24)[:255]

#: How placeholders begin that replace the prefix in what the dynamic loader reads.
_LOADER_PLACEHOLDER = "/snapper_prefix"
_MIN_LOADER_PLACEHOLDER = 4

#: How a file with a first line may have been relocated: by snapper, or so that the line does not work.
_RELOCATE = (relocate_file, replace_placeholder)


@dataclass(frozen=True)
class CanonicalFile:
    """A file with placeholders, and how to relocate it: `mode` is None if it has no placeholder.

    `kept` is a prefix that the file also contains, but not in a form that is understood. If what the file does can
    depend on that, it is `unrelocated`.
    """

    data: bytes
    mode: Mode | None
    placeholder: str
    kept: str = ""
    unrelocated: bool = False

    def restored(self, prefix: str) -> bytes:
        """Return what a restore at the prefix writes."""
        data = self.data
        if self.mode:
            with suppress(PlaceholderTooShort):
                data = relocate_file(data, self.mode, self.placeholder, prefix)
        return replace_kept(data, self.kept, prefix) if self.kept else data


def canonicalize(
    data: bytes, prefix: str, placeholders: tuple[str, ...] = (), kept: tuple[str, ...] = ()
) -> CanonicalFile | None:
    """Return a file without a package's placeholder in canonical form, or None if it does not contain the prefix.

    The prefix is only replaced where it is a path by itself or the beginning of one, and where nothing can depend on
    its length. `placeholders`, and prefixes `kept`, are those of an earlier snapshot, which are tried first: they can
    have other lengths than the prefix has now.
    """
    mode = _mode_of(data)
    if mode is None:
        zipped = _canonicalize_zipapp(data, prefix, placeholders)
        if zipped is not None:
            return _with_kept(zipped, prefix, kept)
        return _canonicalize_wide(data, prefix) or _canonicalize_binary(data, prefix, placeholders, kept)
    if mode == "pyc" or is_text(data, encode_prefix(prefix, mode)):
        for placeholder in (*placeholders, *TEXT_PLACEHOLDERS):
            if placeholder.encode() not in data:
                by_env = placeholder in placeholders
                canonical = _insert_placeholder(data, mode, placeholder, prefix, by_env=by_env)
                if canonical is not None:
                    file = CanonicalFile(canonical, mode, placeholder)
                    is_escaped = any(contains_escaped(data, path) for path in (prefix, *kept))
                    return _with_kept(file, prefix, kept) if is_escaped else file
        is_contained = contains_path(data, prefix) or contains_escaped(data, prefix)
        if not is_contained and not any(object_code.mentions(data, path) for path in kept):
            return None
    return _with_kept(CanonicalFile(data, None, ""), prefix, kept)


def candidate_originals(data: bytes, mode: Mode, placeholder: str, prefix: str) -> Iterator[bytes]:
    """Yield what a package's file can have been before conda put the prefix into it, the most likely first.

    Only a checksum can tell which one it was: a package's file can contain the prefix by itself.
    """
    old, new = encode_prefix(prefix, mode), placeholder.encode()
    if mode == "binary":
        yield from original_strings(data, placeholder, prefix)
    elif grows_too_large(data, old, new):
        yield data
    elif mode == "pyc":
        yield replace_paths(data, old, new, lambda text: replace_path(text, old, new))
    else:
        yield data.replace(old, new)
        yield replace_path(data, old, new)
        for script in shebang.original_shebangs(data, old):
            yield replace_path(script, old, new)


def is_package_placeholder(placeholder: str) -> bool:
    """Return whether the placeholder of a binary can be one that a package was built with."""
    return not is_own_placeholder(placeholder)


def loader_placeholders(length: int) -> tuple[str, ...]:
    """Return placeholders for a program's loader: as long as the prefix, which is `length` bytes."""
    if length < _MIN_LOADER_PLACEHOLDER:
        return ()
    return ((_LOADER_PLACEHOLDER + "_placehold" * length)[:length],)


def search_patterns(prefix: str, head: bytes, *, has_nul: bool, prebuilt: bool = False) -> tuple[bytes, ...]:
    """Return byte strings: a file that begins with `head` and contains the prefix contains at least one of them.

    A program that was compiled elsewhere, `prebuilt`, cannot contain it in forms that only a compiler makes.
    """
    if object_code.has_instructions(head) and not prebuilt:
        return object_code.search_needles(prefix)
    if object_code.is_program(head):
        return (encode_prefix(prefix, "text"),)
    return encode_prefix(prefix, "text"), *(encode_wide(prefix) if has_nul else escaped_spellings(prefix))


def replace_directory(data: bytes, old: str, new: str) -> bytes:
    """Return a text with directory `new` for `old` wherever that is a path; other files unchanged."""
    if b"\0" in data:
        return data
    return replace_path(data, os.fsencode(old), os.fsencode(new))


def with_one_prefix(data: bytes, prefix: str, others: tuple[str, ...]) -> bytes:
    """Return a text or compiled module with the prefix wherever it contains another one; other files unchanged."""
    mode = _mode_of(data) if others else None
    if mode is None or not is_placeholder(prefix):
        return data
    if mode == "pyc":
        for other in others:
            if path_bytes(other) in data and not f"{prefix}/".startswith(f"{other}/"):
                data = next(candidate_originals(data, mode, prefix, other))
        return data
    paths = [path_bytes(other) for other in others if contains_path(data, other)]
    if paths and all(is_text(data, path) for path in paths):
        return replace_paths_in_text(data, paths, path_bytes(prefix))
    return data


def _mode_of(data: bytes) -> Mode | None:
    """Return how the file can be relocated; None for data with NULs that is not a compiled module."""
    if data[2:4] == b"\r\n" and b"\0" in data[:16]:
        return "pyc"
    return None if b"\0" in data else "text"


def _insert_placeholder(
    data: bytes, mode: Mode, placeholder: str, prefix: str, *, by_env: bool = False
) -> bytes | None:
    """Return the file with the placeholder for the prefix, or None unless relocating that gives the file again.

    `by_env` says that `env` in a first line may stand for an interpreter below the prefix.
    """
    old, new = encode_prefix(prefix, mode), placeholder.encode()
    if grows_too_large(data, old, new):
        return None
    if mode == "text":
        canonical = _restore_long_shebang(data, placeholder, prefix, by_env=by_env)
        if canonical is not None:
            return canonical
        canonical = replace_path(data, old, new)
    else:
        canonical = next(candidate_originals(data, mode, placeholder, prefix))
    is_proven = canonical != data and replace_placeholder(canonical, mode, placeholder, prefix) == data
    return canonical if is_proven else None


def _restore_long_shebang(data: bytes, placeholder: str, prefix: str, *, by_env: bool) -> bytes | None:
    """Return a script with the placeholder whose first line was too long for the system once it had the prefix.

    Return None if it is not such a script.
    """
    starts = (b"#!/bin/sh\n", b"#! /bin/sh\n", *((b"#!/usr/bin/env ",) if by_env else ()))
    if not data.startswith(starts):
        return None
    old, new = encode_prefix(prefix, "text"), placeholder.encode()
    scripts = (replace_path(original, old, new) for original in shebang.original_shebangs(data, old))
    return next(
        (script for script in scripts if relocate_file(script, "text", placeholder, prefix) == data), None
    )


def _canonicalize_wide(data: bytes, prefix: str) -> CanonicalFile | None:
    """Do the same as `canonicalize` for a text in an encoding with more than one byte per character."""
    encoding = None if object_code.is_program(data) else find_wide_encoding(data, prefix)
    if encoding is None:
        return None
    try:
        text = data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    old = prefix.encode("utf-8", "surrogatepass")
    if not is_text(text, old):
        return None
    replaced = replace_path(text, old, TEXT_PLACEHOLDER.encode())
    canonical = replaced.decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")
    if canonical != data and replace_placeholder(canonical, "text", TEXT_PLACEHOLDER, prefix) == data:
        return CanonicalFile(canonical, "text", TEXT_PLACEHOLDER)
    return None


def _canonicalize_zipapp(data: bytes, prefix: str, placeholders: tuple[str, ...]) -> CanonicalFile | None:
    """Do the same as `canonicalize` for the text before an archive, with a placeholder as long as the prefix."""
    archive = zipapp.start_of_archive(data)
    text = data[:archive]
    if not contains_path(text, prefix):
        return None
    for placeholder in (*placeholders, *loader_placeholders(len(path_bytes(prefix)))):
        if placeholder.encode() in data:
            continue
        for original in (zipapp.without_padding(text), text):
            canonical = _insert_placeholder(original, "text", placeholder, prefix)
            if canonical is not None:
                canonical += data[archive:]
                if any(relocate(canonical, "text", placeholder, prefix) == data for relocate in _RELOCATE):
                    return CanonicalFile(canonical, "text", placeholder)
    return None


# --- binaries -------------------------------------------------------------------------------------------------


def _canonicalize_binary(
    data: bytes, prefix: str, placeholders: tuple[str, ...], kept: tuple[str, ...]
) -> CanonicalFile | None:
    """Do the same as `canonicalize` for a binary.

    If a package's placeholder fits everywhere, the binary is the package's, although it was altered: for example, it
    was stripped.
    """
    if not object_code.is_program(data):
        return _with_kept(CanonicalFile(data, None, ""), prefix, kept)
    for placeholder in filter(is_package_placeholder, placeholders):
        canonical = _insert_package_placeholder(data, placeholder, prefix)
        if canonical is not None:
            return CanonicalFile(canonical, "binary", placeholder)
    return canonicalize_program(data, prefix, placeholders, kept)


def canonicalize_program(
    data: bytes, prefix: str, placeholders: tuple[str, ...], kept: tuple[str, ...]
) -> CanonicalFile | None:
    """Do the same as `canonicalize` for a program or a library that a package does not explain.

    Only what its loader reads gets a placeholder. If it has others, which 0.1.0 made, it is unrelocated.
    """
    found = _insert_loader_placeholder(data, prefix, tuple(filter(is_own_placeholder, placeholders)))
    is_unsafe = bool(found.mode) and not is_for_loader(found.data, found.placeholder)
    return _with_kept(replace(found, unrelocated=is_unsafe), prefix, kept)


def _insert_package_placeholder(data: bytes, placeholder: str, prefix: str) -> bytes | None:
    """Return the file with the placeholder for the prefix in all strings, None if it does not fit into one of them."""
    if placeholder.encode() in data:  # never relocated: the prefix did not fit
        return None if object_code.mentions(data, prefix) else data
    for canonical in candidate_originals(data, "binary", placeholder, prefix):
        is_proven = canonical != data and not object_code.mentions(canonical, prefix)
        if is_proven and replace_placeholder(canonical, "binary", placeholder, prefix) == data:
            return canonical
    return None


def _insert_loader_placeholder(data: bytes, prefix: str, earlier: Sequence[str]) -> CanonicalFile:
    """Return the program with a placeholder in what its loader reads; as it is if there is no prefix.

    Placeholders of an `earlier` snapshot that are left elsewhere stay there.
    """
    old = encode_prefix(prefix, "binary")
    for placeholder in earlier:
        if placeholder.encode() in data and old not in data:  # never relocated: the prefix did not fit
            return CanonicalFile(data, "binary", placeholder)
    for placeholder in (*earlier, *loader_placeholders(len(old))):
        new = placeholder.encode()
        if len(new) >= len(old):
            canonical = object_code.replace_loader_paths(data, old, new)
            if canonical != data and replace_placeholder(canonical, "binary", placeholder, prefix) == data:
                return CanonicalFile(canonical, "binary", placeholder)
    return CanonicalFile(data, None, "")


def _with_kept(file: CanonicalFile, prefix: str, earlier: tuple[str, ...]) -> CanonicalFile | None:
    """Return the file with the prefix that it contains apart from placeholders; None if it contains nothing at all.

    One that was kept before stays the one that is recorded, if it was replaced because the new one was as long.
    """
    data = file.data
    for kept in earlier:
        if kept != prefix and object_code.mentions(data, kept):
            if not object_code.mentions_besides(data, prefix, kept):
                return replace(file, kept=kept, unrelocated=file.unrelocated or not is_complete(data, kept))
        elif kept != prefix and len(path_bytes(kept)) == len(path_bytes(prefix)):
            original = replace_kept(data, prefix, kept)
            is_proven = original != data and replace_kept(original, kept, prefix) == data
            if is_proven and not object_code.mentions(original, prefix):
                is_unrelocated = file.unrelocated or not is_complete(original, kept)
                return replace(file, data=original, kept=kept, unrelocated=is_unrelocated)
    if not object_code.mentions(data, prefix):
        return file if file.mode else None
    kept = prefix if is_placeholder(prefix) else ""
    return replace(file, kept=kept, unrelocated=file.unrelocated or not is_complete(data, prefix))
