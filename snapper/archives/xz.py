"""Read xz files with a limit for memory: their headers say how much of it they need."""

from __future__ import annotations

import io
import lzma
from typing import IO

#: The most memory to decompress with, in bytes: more than any preset of xz needs (`xz -9`: 65 MiB).
_MOST_MEMORY = 256 << 20

_CHUNK = 64 << 10


class XzReader(io.RawIOBase):
    """The contents of all streams of an xz file; reading raises LZMAError, and EOFError at a truncated end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY)
        self._input = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to that many bytes, at least one unless the file ends."""
        while True:
            if self._decompressor.eof and not self._begin_stream():
                return b""
            if self._decompressor.needs_input:
                self._input = self._file.read(_CHUNK)
                if not self._input:
                    raise EOFError("the compressed data ends early")
            data = self._decompressor.decompress(self._input, size)
            self._input = b""
            if data:
                return data

    def _begin_stream(self) -> bool:
        """Begin with the next stream; return False if there is none. Streams may be followed by NULs in fours."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest:
            rest = self._file.read(_CHUNK)
            if not rest:
                return False
            rest = rest.lstrip(b"\0")
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY)
        self._input = rest
        return True
