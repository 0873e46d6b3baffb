"""Compression with zstd (RFC 8878)."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import BinaryIO

import zstandard

DEFAULT_LEVEL = 1
LEVELS = range(1, 20)

#: At level 1, zstd's fast strategy with a window of 4 MiB and a table of 2^16 entries: layers are within 1% of the size
#: at zstd's own level 2, and faster to compress.
_LEVEL_1 = {"window_log": 22, "hash_log": 16, "min_match": 7}

#: What reading a corrupted frame raises.
ZstdError: type[Exception] = zstandard.ZstdError


class FrameCompressor:
    """Compress into frames that contain the size of their contents."""

    def __init__(self, level: int) -> None:
        tuning = _LEVEL_1 if level == 1 else {}
        parameters = zstandard.ZstdCompressionParameters.from_level(level, write_content_size=True, **tuning)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)

    def compress(self, data: memoryview) -> bytes:
        """Return one frame with the data."""
        return self._compressor.compress(data)


class FrameDecompressor:
    """Decompress frames of up to `capacity` bytes into one buffer, which is reused."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffer: mmap.mmap | None = None
        self._decompressor = zstandard.ZstdDecompressor()

    def decompress(self, data: bytes, limit: int) -> memoryview | None:
        """Return the contents of the first frame in `data`, valid until the next call.

        Return None if they are larger than `limit` bytes, which are the most that is decompressed. Raise ZstdError if
        the frame is corrupted.
        """
        if self._buffer is None:
            self._buffer = _allocate(self._capacity)
        view = memoryview(self._buffer)[:limit]
        filled = 0
        with self._decompressor.stream_reader(data, read_across_frames=False) as reader:
            while filled < limit and (count := reader.readinto(view[filled:])):
                filled += count
            return view[:filled] if filled < limit or not reader.read(1) else None


def _allocate(size: int) -> mmap.mmap:
    """Return `size` bytes that use memory only once they are written, in huge pages if possible: fewer page faults."""
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def zstd_writer(out: BinaryIO, level: int, threads: int) -> zstandard.ZstdCompressionWriter:
    """Return a stream that writes one frame to `out`; closing it ends the frame and leaves `out` open."""
    compressor = zstandard.ZstdCompressor(level=level, threads=threads if threads > 1 else 0)
    return compressor.stream_writer(out, closefd=False)


def zstd_reader(file: BinaryIO) -> zstandard.ZstdDecompressionReader:
    """Return a stream of the contents of all frames in `file`.

    Reading it raises ZstdError if a frame is corrupted. If the last frame is truncated, the stream just ends.
    """
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
