"""Read objects: large ones in parallel ranges, and interrupted ones on from where the connection broke."""

from __future__ import annotations

import io
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from snapper.errors import ObjectTooLarge
from snapper.store.base import VersionedObject
from snapper.store.s3.errors import CONNECTION_ERRORS, NotS3, etag_of, length_of, status_of

logger = logging.getLogger(__name__)

#: Objects larger than this are read in ranges of this size, in bytes.
RANGE_SIZE = 8 * 1024 * 1024

#: Ranges of one object that are read at the same time, besides the first.
_PARALLEL_RANGES = 4

#: Bytes read from a connection at a time: memory that is needed besides the object itself.
_READ_SIZE = 1024 * 1024

#: Give up when a connection has broken this often in a row without a byte being received.
_MAX_FAILURES = 5


def read(client: Any, request: dict[str, Any], limit: int) -> bytes:
    """Return an immutable object, which the caller must verify.

    `request` holds the parameters that name it. Raise ObjectTooLarge if it has more than `limit` bytes, and what boto3
    raises.
    """
    try:
        first = _get(client, request, Range=_range(0, RANGE_SIZE))
    except ClientError as error:
        if status_of(error) == 416:  # an empty object has no range
            return b""
        raise
    if first.total_size > limit:
        first.body.close()
        raise _too_large(request)
    buffer = _allocate(first.total_size)
    with buffer.getbuffer() as view:
        source = _Source(client, request, first.etag)
        if first.size == first.total_size:
            _fill(source, view, 0, first.body)
        else:
            _fill_in_parallel(source, view, first)
    return buffer.getvalue()  # shares the buffer's memory


def read_verified(client: Any, request: dict[str, Any], limit: int) -> VersionedObject:
    """Return a small mutable object, verified against the checksum that S3 has of it, and its ETag."""
    failures = 0
    while True:
        response = _get(client, request, ChecksumMode="ENABLED")
        if response.size > limit:
            response.body.close()
            raise _too_large(request)
        try:
            with closing(response.body) as body:
                return VersionedObject(_read_to_end(body, response.size), response.etag)
        except CONNECTION_ERRORS:
            failures += 1
            if failures == _MAX_FAILURES:
                raise
        _pause(failures)


def _read_to_end(body: Any, size: int) -> bytes:
    """Return a body of the announced size. Reading its end verifies it. Raise NotS3 if it is larger."""
    data = bytearray()
    while chunk := body.read(max(size - len(data), 1)):
        data += chunk
        if len(data) > size:
            raise NotS3("a response is longer than announced")
    return bytes(data)


class _Response(NamedTuple):
    """A response whose body has not been read: `size` is the body's, `total_size` the whole object's, in bytes."""

    body: Any
    etag: str
    size: int
    content_range: str

    @property
    def total_size(self) -> int:
        total = self.content_range.rpartition("/")[2]
        return int(total) if total.isdigit() else self.size


class _Source(NamedTuple):
    """One version of an object, to read ranges from."""

    client: Any
    request: dict[str, Any]
    etag: str

    def open(self, offset: int, size: int) -> Any:
        """Request a range and return the body of the response."""
        response = _get(self.client, self.request, Range=_range(offset, size), IfMatch=self.etag)
        if not response.content_range.startswith(f"bytes {offset}-"):
            response.body.close()
            raise NotS3("the response does not contain the requested range")
        return response.body


def _get(client: Any, request: dict[str, Any], **parameters: str) -> _Response:
    response = client.get_object(**request, **parameters)
    body = response["Body"]
    try:
        return _Response(body, etag_of(response), length_of(response), response.get("ContentRange", ""))
    except NotS3:
        body.close()
        raise


def _range(offset: int, size: int) -> str:
    return f"bytes={offset}-{offset + size - 1}"


def _too_large(request: dict[str, Any]) -> ObjectTooLarge:
    return ObjectTooLarge(f"s3://{request['Bucket']}/{request['Key']}")


def _allocate(size: int) -> io.BytesIO:
    """Return a buffer of zeros of this size, whose memory `getvalue` returns without copying it."""
    buffer = io.BytesIO()
    if size:
        buffer.seek(size - 1)
        buffer.write(b"\0")
    return buffer


def _fill_in_parallel(source: _Source, view: memoryview, first: _Response) -> None:
    """Fill the buffer with an object of several ranges; the first one has already been requested."""
    with ThreadPoolExecutor(_PARALLEL_RANGES) as pool:
        futures = [
            pool.submit(_fill, source, view[offset : offset + RANGE_SIZE], offset)
            for offset in range(first.size, len(view), RANGE_SIZE)
        ]
        try:
            _fill(source, view[: first.size], 0, first.body)
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fill(source: _Source, view: memoryview, offset: int, body: Any = None) -> None:
    """Fill the buffer with the object's bytes from `offset` on, the first of them from `body` if it is given.

    boto3 retries requests, but not reading the body of a response: when that fails, request the rest.
    """
    failures = 0
    while True:
        received = _receive(body or source.open(offset, len(view)), view)
        if received.error is None:
            return
        view, offset, body = view[received.size :], offset + received.size, None
        logger.debug("requesting the rest from byte %d after: %s", offset, received.error)
        failures = 1 if received.size else failures + 1
        if failures == _MAX_FAILURES:
            raise received.error
        _pause(failures)


class _Received(NamedTuple):
    """How many bytes of a body were read, and why not all."""

    size: int
    error: Exception | None = None


def _receive(body: Any, view: memoryview) -> _Received:
    """Read a body into the buffer until that is full or the connection breaks, and close it."""
    size = 0
    try:
        with closing(body):
            while size < len(view):
                count = body.readinto(view[size : size + _READ_SIZE])
                if not count:
                    raise ConnectionError("the response ended early")
                size += count
    except CONNECTION_ERRORS as error:
        return _Received(size, error)
    return _Received(size)


def _pause(failures: int) -> None:
    time.sleep(random.uniform(0, 0.1 * 2**failures))
