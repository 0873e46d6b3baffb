"""Bound what a server can answer to requests other than those for objects, which boto3 reads and parses as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

import urllib3.exceptions
from botocore import exceptions as boto

from snapper.store.s3.errors import NotS3

#: The largest response, in bytes: a listing of a thousand keys of 1,024 bytes, all of them percent-encoded.
_LARGEST = 4 * 1024 * 1024

#: The most elements in a response, and how deep they may be nested. A listing has about ten per key, at a depth of 4.
_MOST_ELEMENTS = 50_000
_GREATEST_DEPTH = 32


def bound_responses(client: Any) -> None:
    """Have the client refuse responses that are too large or no plain XML, by raising NotS3."""
    endpoint = client._endpoint  # boto3 has no other way to limit what it reads
    endpoint.http_session = _BoundedSession(endpoint.http_session)


class _BoundedSession:
    """Sends requests as boto3's session does, but reads the bodies of responses itself."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        is_for_object = request.stream_output
        request.stream_output = True  # so that the session does not read the body
        try:
            response = self._session.send(request)
        finally:
            request.stream_output = is_for_object
        if not is_for_object or response.status_code >= 300:
            response.raw = _Body(_read(response.raw, request))
        return response

    def close(self) -> None:
        self._session.close()


class _Body:
    """The body of a response that has been read, with the one method of the body that boto3 uses."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Iterator[bytes]:
        yield self._data


def _read(raw: Any, request: Any) -> bytes:
    """Return the body. Raise NotS3, and the exceptions for failures that boto3 retries."""
    try:
        data = _read_bounded(raw)
        _check_xml(data)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise boto.ReadTimeoutError(endpoint_url=request.url, error=error) from error
    except urllib3.exceptions.ProtocolError as error:
        raise boto.ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise boto.HTTPClientError(error=error) from error
    return data


def _read_bounded(raw: Any) -> bytes:
    data = bytearray()
    try:
        for chunk in raw.stream():
            data += chunk
            if len(data) > _LARGEST:
                raise NotS3("a response is too large")
    except BaseException:
        raw.close()
        raise
    return bytes(data)


def _check_xml(data: bytes) -> None:
    """Raise NotS3 for XML that takes much more memory than its size. What is no XML is left to boto3."""
    elements, depth = 0, 0

    def begin(_name: str, _attributes: object) -> None:
        nonlocal elements, depth
        elements, depth = elements + 1, depth + 1
        if elements > _MOST_ELEMENTS or depth > _GREATEST_DEPTH:
            raise NotS3("a response has too many elements")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise NotS3("a response has a document type declaration")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        return
