"""The encodings of texts that contain paths: UTF-8, and those with more than one byte per character."""

from __future__ import annotations

WIDE_ENCODINGS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")

#: How many bytes are searched at once where it matters where characters begin: a multiple of their widths.
_WINDOW = 1 << 20

#: What is put before each character then, in UTF-16: one that is beyond those with the numbers of bytes.
_MARK = "\u0100".encode("utf-16-le")


def is_utf8(data: bytes) -> bool:
    """Return whether the data is text in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode_wide(path: str) -> tuple[bytes, ...]:
    """Return the path in each encoding with more than one byte per character."""
    return tuple(path.encode(encoding, "surrogatepass") for encoding in WIDE_ENCODINGS)


def wide_needles(path: str) -> tuple[bytes, ...]:
    """Return byte strings: data that contains the path in a wide encoding contains one of them, whatever byte order."""
    if not path.isascii():
        return encode_wide(path)
    characters = [character.encode() for character in path]
    return b"\0".join(characters), b"\0\0\0".join(characters)


def wide_encodings_of(data: bytes, path: str) -> tuple[str, ...]:
    """Return the wide encodings in which the data contains the path, at any offset."""
    if not any(needle in data for needle in wide_needles(path)):
        return ()
    return tuple(encoding for encoding in WIDE_ENCODINGS if path.encode(encoding, "surrogatepass") in data)


def find_wide_encoding(data: bytes, path: str) -> str | None:
    """Return the wide encoding in which a text contains the path, if any."""
    return next((encoding for encoding in WIDE_ENCODINGS if _contains_wide(data, path, encoding)), None)


def _contains_wide(data: bytes, path: str, encoding: str) -> bool:
    """Return whether the path occurs in this encoding, at an offset where a character can begin.

    This takes linear time, also if a path such as `/a/a/a` occurs at every other offset.
    """
    needle, width = path.encode(encoding, "surrogatepass"), len("/".encode(encoding))
    first = data.find(needle)
    if first < 0 or first % width == 0:
        return first >= 0
    marked = _mark_characters(needle, width)
    return any(
        marked in _mark_characters(data[start : start + _WINDOW + len(needle)], width)
        for start in range(first - first % width, len(data), _WINDOW)
    )


def _mark_characters(data: bytes, width: int) -> str:
    """Return the bytes of all complete characters as text, with a mark that is no byte before each character."""
    count, stride = len(data) // width, 2 * (width + 1)
    text = bytearray(_MARK * (count * (width + 1)))
    for byte in range(width):
        text[2 * byte + 2 :: stride] = data[byte : count * width : width]
        text[2 * byte + 3 :: stride] = bytes(count)
    return text.decode("utf-16-le")
