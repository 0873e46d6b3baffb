"""Find and replace a path in text: only where it is a path by itself, or the beginning of one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from snapper.format.constraints import path_bytes

#: What must precede a path: not part of another path or a URL, but possibly a flag such as -I, the byte order mark of
#: UTF-8, or the end of a line in a string, as programs and JSON write it. %b is the path.
_BEFORE = (
    rb"(?:(?<![\w.~+\\\x80-\xff-]%b)(?<!:/%b)|(?<=\A-[A-Za-z]%b)|(?<=[^\w./~+\\\x80-\xff-]-[A-Za-z]%b)"
    rb"|(?<=\A\xef\xbb\xbf%b)|(?<=\A\xef\xbb\xbf-[A-Za-z]%b)|(?<=\\[nrt]%b))"
)
#: What must follow a path: not more of the same name.
_AFTER = rb"(?![\w~+\x80-\xff-]|\.\w)"


def replace_path(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return the text with `new` for `old` wherever that is a path, or the beginning of one."""
    return _path_pattern(old).sub(new.replace(b"\\", rb"\\"), data)


def replace_paths(data: bytes, old: Collection[bytes], new: bytes) -> bytes:
    """Do the same for several paths; one may be the beginning of another one, or of the new one."""
    return _paths_pattern(tuple(sorted({*old, new}, key=len, reverse=True))).sub(
        new.replace(b"\\", rb"\\"), data
    )


def contains_path(data: bytes, prefix: str) -> bool:
    """Return whether the prefix occurs as a path, or as the beginning of one."""
    needle = path_bytes(prefix)
    return needle in data and _path_pattern(needle).search(data) is not None


def contained_paths(data: bytes, paths: Iterable[str]) -> Iterator[str]:
    """Yield those that occur as a path, or as the beginning of one that does not begin with a longer one of them."""
    for path in sorted(paths, key=len, reverse=True):
        if contains_path(data, path):
            yield path
            data = replace_path(data, path_bytes(path), b".")


@lru_cache(maxsize=8)
def _paths_pattern(paths: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(_path_pattern(path).pattern for path in paths))


@lru_cache(maxsize=8)
def _path_pattern(path: bytes) -> re.Pattern[bytes]:
    """Return a pattern for the path or the beginning of one, but not the end of a longer path or URL.

    It looks back from the end of the path, because patterns that begin with a literal are found fastest.
    """
    literal = re.escape(path)
    return re.compile(literal + _BEFORE % ((literal,) * 7) + _AFTER)
