"""Replace paths in NUL-terminated strings as conda does when it installs a package, and undo that.

conda replaces the placeholder in UTF-8, UTF-16, and UTF-32, and fills each string with NULs up to the length that it
had (conda/core/portability.py, `replace_prefix` and `binary_replace`). Only the author of a package can know that
nothing in a file depends on the lengths of its strings, so this is only done where a package's record asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from conda_pack.prefixes import binary_replace

from snapper.format.constraints import path_bytes
from snapper.format.encodings import wide_encodings_of

_NULS = re.compile(rb"\0*")


class PlaceholderTooShort(ValueError):
    """The prefix is longer than the placeholder that it should replace in a binary."""


def replace_strings(data: bytes, placeholder: str, prefix: str) -> bytes:
    """Return the file with the prefix for the placeholder in all NUL-terminated strings.

    Raise PlaceholderTooShort if it contains the placeholder, and that is shorter than the prefix.
    """
    old, new = placeholder.encode(), path_bytes(prefix)
    if old in data:
        _check_length(old, new)
        data = _before_last_nul(data, old, lambda strings: bytes(binary_replace(strings, old, new)))
    for encoding in wide_encodings_of(data, placeholder):
        old, new = placeholder.encode(encoding), prefix.encode(encoding, "surrogatepass")
        data = _replace_wide(data, old, new, _width(encoding))
    return data


def original_strings(data: bytes, placeholder: str, prefix: str) -> Iterator[bytes]:
    """Yield what a file can have been before `replace_strings`, the most likely first.

    There are two if it contains the prefix in UTF-16 or UTF-32: not every version of every installer replaces that.
    """
    data = _lengthen_strings(data, path_bytes(prefix), placeholder.encode(), 1)
    yield data
    encodings = wide_encodings_of(data, prefix)
    for encoding in reversed(encodings):
        old, new = prefix.encode(encoding, "surrogatepass"), placeholder.encode(encoding)
        data = _lengthen_strings(data, old, new, _width(encoding))
    if encodings:
        yield data


def _width(encoding: str) -> int:
    return len("/".encode(encoding))


def _check_length(old: bytes, new: bytes) -> None:
    if len(new) > len(old):
        raise PlaceholderTooShort


def _replace_wide(data: bytes, old: bytes, new: bytes, width: int) -> bytes:
    """Replace `old` by `new` in strings that end with a NUL of `width` bytes, wherever conda finds their end."""
    _check_length(old, new)

    def replace(string: bytes, _: int) -> bytes:
        return string.replace(old, new).ljust(len(string), b"\0")

    return _in_strings(data, old, width, replace)


def _lengthen_strings(data: bytes, old: bytes, new: bytes, width: int) -> bytes:
    """Replace `old` by a longer `new` in NUL-terminated strings, at the expense of the NULs that padded them."""
    growth = len(new) - len(old)
    if growth < 0 or old not in data:
        return data

    def lengthen(string: bytes, length: int) -> bytes:
        text = string[:length]
        nuls = len(string) - length - growth * text.count(old)
        return string if nuls < width else text.replace(old, new) + b"\0" * nuls

    return _in_strings(data, old, width, lengthen)


def _in_strings(data: bytes, old: bytes, width: int, replace: Callable[[bytes, int], bytes]) -> bytes:
    """Return the data with its strings replaced, from `old` on to their end.

    The function gets each with the NULs behind it, and its length without them. What no NUL of that width follows is
    no string. A regular expression would need memory for each character of a string.
    """
    pieces: list[bytes | memoryview] = []
    view, done, terminator = memoryview(data), 0, b"\0" * width
    start = data.find(old)
    while start >= 0:
        end = data.find(terminator, start + len(old))
        if end < 0:
            break
        stop = _NULS.match(data, end).end()  # type: ignore[union-attr] # it always matches
        pieces += (view[done:start], replace(data[start:stop], end - start))
        done = stop
        start = data.find(old, stop)
    return b"".join([*pieces, view[done:]]) if pieces else data


def _before_last_nul(data: bytes, old: bytes, replace: Callable[[bytes], bytes]) -> bytes:
    """Return the data with what the function replaces, which looks for a NUL after each `old`.

    Where none follows, the function would search the rest of the data for each `old`, so it does not get that part.
    """
    end = data.rfind(b"\0") + 1
    if data.find(old, end) < 0:
        return replace(data)
    return replace(data[:end]) + data[end:]
