"""Gets objects from S3 with little between the socket and who wants the bytes.

boto3 takes a millisecond of processor for a request, and copies what comes once more: with some hundred layers, that
is a good part of a restore. So boto3 is left what only it knows: where a request goes, with which headers, and how it
is signed. That is seen in a request of its own (its event `before-sign`) and done alike for those that follow, which
the standard library sends. Whatever comes that is not plainly the object, boto3 is asked for it again: then it is
boto3 that tries once more, finds the bucket's region, or says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from botocore.awsrequest import AWSRequest
from botocore.parsers import ResponseParserError

from snapper.store.s3.connections import Connections, Received, is_proxied

#: Headers that are of one request of boto3's alone: what it asked for, its signature, and its tries.
_OF_ONE = frozenset(
    {"range", "if-match", "x-amz-checksum-mode"}
    | {"authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
    | {"x-amz-region-set", "x-amz-s3session-token"}
    | {"amz-sdk-invocation-id", "amz-sdk-request"}
)

#: How often something else than the object may come before boto3 is left all requests.
_CHANCES = 8


class Body(Protocol):
    """The bytes of an answer, as they come."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fills the buffer from its beginning; how much that was, 0 at the end."""

    def close(self) -> None:
        """Lets go of the connection."""


class Answer(NamedTuple):
    """An object or a range of it on its way: its version, the size of what comes, and that of the whole object."""

    version: str
    size: int
    total: int
    body: Body


class Reader:
    """Gets objects for this process, in the ways of a client of boto3's."""

    def __init__(self, client: Any, ca_bundle: str | None) -> None:
        self.client = client
        self._seen = threading.local()
        self._model: _Model | None = None
        self._connections = Connections(client.meta.config, ca_bundle)
        self._chances = _CHANCES
        client.meta.events.register("before-sign.s3.GetObject", self._see)

    def get(self, name: dict[str, Any], headers: Mapping[str, str]) -> Answer:
        """The object of that name, as boto3's parameters have it, on its way; raises what boto3 raises.

        The `headers` are Range and If-Match.
        """
        if self._model and self._chances > 0:
            answer = self._get_directly(self._model, name, headers)
            if answer:
                return answer
            self._chances -= 1
        return self._ask(name, {header.replace("-", ""): value for header, value in headers.items()})

    def _ask(self, name: dict[str, Any], parameters: Mapping[str, str]) -> Answer:
        answer = self.client.get_object(**name, **parameters)
        if not is_proxied(self.client.meta.endpoint_url):
            self._model = _model(name["Key"], *self._seen.last)
        size = int(answer["ContentLength"])
        total = _total(answer.get("ContentRange", ""), size)
        return Answer(version_in(answer), size, size if total is None else total, answer["Body"])

    def _see(self, request: AWSRequest, request_signer: Any, **_: object) -> None:
        self._seen.last = request, request_signer

    def _get_directly(self, model: _Model, name: dict[str, Any], headers: Mapping[str, str]) -> Answer | None:
        """None where what comes, if anything, is not plainly the object."""
        try:
            request = model.signed(name["Key"], headers)
        except Exception:  # whatever signs has errors of its own: boto3 will tell of them
            return None
        try:
            found = self._connections.send(request)
        except (OSError, HTTPException):
            return None
        version, size = found.header("ETag"), found.size
        total = None if size is None else _total(found.header("Content-Range"), size)
        if not version or size is None or total is None or not _is_range(found, headers.get("Range", "")):
            found.close()
            return None
        return Answer(version, size, total, found)


def _is_range(found: Received, wanted: str) -> bool:
    """Whether the answer says that what comes begins where the wanted range does, or is all where it may be."""
    offset = wanted.removeprefix("bytes=").partition("-")[0] or "0"
    if found.status == 206:
        return found.header("Content-Range").startswith(f"bytes {offset}-")
    return found.status == 200 and offset == "0"


def version_in(answer: Mapping[str, Any]) -> str:
    """The version of the object that an answer of boto3's is about; raises ResponseParserError where it names none, as
    nothing does that speaks S3.
    """
    if "ETag" not in answer:
        raise ResponseParserError("the answer has no ETag")
    return str(answer["ETag"])


def _total(content_range: str, size: int) -> int | None:
    """The size of the whole object of which so many bytes come; None where the range is not said to be of so many."""
    total = content_range.rpartition("/")[2] or str(size)
    return int(total) if total.isdigit() else None


@dataclass(frozen=True)
class _Model:
    """What a request of boto3's had: its URL without the key, its headers before they were signed, the context that
    the signer looks at, and that.
    """

    base: str
    headers: Mapping[str, str]
    context: Mapping[str, Any]
    signer: Any

    def signed(self, key: str, headers: Mapping[str, str]) -> AWSRequest:
        """The same request for another key; raises what boto3 raises where there are no credentials any more."""
        request = AWSRequest("GET", self.base + _quoted(key), {**self.headers, **headers})
        request.context.update(self.context)
        self.signer.sign("GetObject", request)
        return request


def _model(key: str, request: AWSRequest, signer: Any) -> _Model | None:
    """What can be made of a request for that key; None if it is no model for others."""
    quoted = _quoted(key)
    if not request.url.endswith(quoted) or is_proxied(request.url):
        return None
    headers = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in request.headers.items()
        if name.lower() not in _OF_ONE
    }
    return _Model(request.url.removesuffix(quoted), headers, request.context, signer)


def _quoted(key: str) -> str:
    """The key as boto3 has it in URLs."""
    return quote(key, safe="/~")
