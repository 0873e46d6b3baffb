"""Moves the bytes of objects: in parts at once where there are many, and on from where a connection broke."""

from __future__ import annotations

import io
import random
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from snapper.errors import ObjectTooLarge
from snapper.store.s3.reader import Body, Reader, version_in
from snapper.store.s3.refusals import BROKEN, status_of

#: Objects larger than this come in parts of this size, some at once; S3 takes no smaller parts than 5 MiB.
PART = 8 * 1024 * 1024

#: Objects of up to this size are sent as they are: in parts, they would have to be copied and hashed once more.
LARGEST_WHOLE = 4 * PART

#: What the requests that send parts take of what names an object.
_OF_PARTS = ("Bucket", "Key", "ExpectedBucketOwner", "RequestPayer")

#: Parts at once: what comes goes where it belongs, what is sent is copied first.
_AT_ONCE = 4
_SENT_AT_ONCE = 2
_CHUNK = 1024 * 1024

#: How often in a row a body may break off without any progress.
_MOST_BREAKS = 5


def fetch(reader: Reader, name: dict[str, Any], limit: int) -> bytes:
    """The whole object; raises ObjectTooLarge for more than `limit` bytes, and what boto3 raises."""
    try:
        first = reader.get(name, {"Range": _range(0, PART)})
    except ClientError as error:
        if status_of(error) != 416:
            raise
        first = reader.get(name, {})  # empty, so that no part of it can be had
    total = first.total
    if total > limit:
        first.body.close()
        raise ObjectTooLarge(f"s3://{name['Bucket']}/{name['Key']}")
    whole = io.BytesIO()
    if total:
        whole.seek(total - 1)
        whole.write(b"\0")
    with whole.getbuffer() as view:
        wanted = _Wanted(reader, name, first.version)
        if total <= PART:
            _fill(wanted, first.body, 0, view)
        else:
            _fill_parts(wanted, first.body, view)
    return whole.getvalue()


def fetch_checked(client: Any, name: dict[str, Any], limit: int) -> tuple[bytes, str]:
    """A small object, which is checked by the sum that S3 has of it, and its version."""
    for attempt in range(1, _MOST_BREAKS + 1):
        answer = client.get_object(**name, ChecksumMode="ENABLED")
        if answer["ContentLength"] > limit:
            answer["Body"].close()
            raise ObjectTooLarge(f"s3://{name['Bucket']}/{name['Key']}")
        try:
            with closing(answer["Body"]) as body:
                return body.read(), version_in(answer)
        except BROKEN:
            if attempt == _MOST_BREAKS:
                raise
        time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise AssertionError


def send(
    client: Any, name: dict[str, Any], data: bytes | memoryview, checksum: str, condition: dict[str, str]
) -> None:
    """Writes an object on a condition; `checksum` is its sha256 in base64. Raises what boto3 raises."""
    if len(data) <= LARGEST_WHOLE:
        client.put_object(**name, **condition, Body=_body(data), ChecksumSHA256=checksum)
        return
    request = {key: value for key, value in name.items() if key in _OF_PARTS}
    upload = client.create_multipart_upload(**name, ChecksumAlgorithm="SHA256")["UploadId"]
    try:
        parts = _send_parts(client, request, upload, memoryview(data))
        client.complete_multipart_upload(
            **request, **condition, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        _give_up(client, request, upload)
        raise


class _Wanted(NamedTuple):
    """The version of an object that is read on."""

    reader: Reader
    name: dict[str, Any]
    version: str

    def range(self, offset: int, size: int) -> Body:
        return self.reader.get(self.name, {"Range": _range(offset, size), "If-Match": self.version}).body


def _range(offset: int, size: int) -> str:
    return f"bytes={offset}-{offset + size - 1}"


def _fill_parts(wanted: _Wanted, first: Body, view: memoryview) -> None:
    """Fills the buffer with an object of several parts, the first of which is on its way."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        begun = [
            pool.submit(_fill, wanted, None, at, view[at : at + PART]) for at in range(PART, len(view), PART)
        ]
        try:
            _fill(wanted, first, 0, view[:PART])
            for each in begun:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fill(wanted: _Wanted, answer: Body | None, offset: int, view: memoryview) -> None:
    """Fills the buffer with the object's bytes from `offset` on, of which `answer` may be on its way.

    Where the connection breaks, it goes on behind what came; raises what boto3 raises if that happens too often.
    """
    breaks = 0
    while True:
        before = len(view)
        try:
            with closing(answer or wanted.range(offset, len(view))) as body:
                while view and (count := body.readinto(view[:_CHUNK])):
                    view, offset = view[count:], offset + count
            if not view:
                return
            raise ConnectionError("the body ended early")
        except BROKEN as error:
            breaks = 1 if len(view) < before else breaks + 1
            if breaks == _MOST_BREAKS:
                raise error
        answer = None
        time.sleep(random.uniform(0, 0.1 * 2**breaks))


def _body(data: bytes | memoryview) -> bytes | io.BytesIO:
    return data if isinstance(data, bytes) else io.BytesIO(data)


def _send_parts(client: Any, request: dict[str, Any], upload: str, view: memoryview) -> list[dict[str, Any]]:
    def send_part(number: int) -> dict[str, Any]:
        part = bytes(view[(number - 1) * PART : number * PART])
        digest = b64encode(sha256(part).digest()).decode()
        sent = client.upload_part(
            **request, UploadId=upload, PartNumber=number, Body=part, ChecksumSHA256=digest
        )
        return {"PartNumber": number, "ETag": version_in(sent), "ChecksumSHA256": digest}

    with ThreadPoolExecutor(_SENT_AT_ONCE) as pool:
        return list(pool.map(send_part, range(1, -(-len(view) // PART) + 1)))


def _give_up(client: Any, request: dict[str, Any], upload: str) -> None:
    """Has S3 forget the parts; where even that fails, the bucket's lifecycle rule does it."""
    try:
        client.abort_multipart_upload(**request, UploadId=upload)
    except Exception:
        return
