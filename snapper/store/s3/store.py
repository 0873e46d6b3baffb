"""Store at an S3 prefix.

Immutable objects are written only if they do not exist (`If-None-Match: *`), mutable ones only if they are unchanged
since they were read (`If-Match`). S3 verifies the SHA-256 of what it receives. ETags serve as versions, never as
checksums.
"""

from __future__ import annotations

import io
import logging
import random
import re
import time
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from snapper.errors import NotInStore, StoreRefused
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT
from snapper.store.base import DirectStore, ObjectInfo, ObjectStatus, VersionedObject, VersionMismatch
from snapper.store.s3 import download
from snapper.store.s3.archived import why_unreadable
from snapper.store.s3.client import client_for
from snapper.store.s3.errors import (
    NotS3,
    code_of,
    etag_of,
    length_of,
    mapped_errors,
    status_of,
    was_retried,
)
from snapper.store.s3.listing import Upload, check_page, object_info, relative_key, unfinished_upload
from snapper.store.s3.location import S3Location

logger = logging.getLogger(__name__)

#: Before sending an object of at least this size, in bytes, ask whether it exists. Smaller ones are sent at once: most
#: are new, and asking takes as long as sending.
_CHECK_FIRST = 4 * 1024 * 1024

#: Attempts to write an object while S3 reports that another write to it is in progress.
_MAX_CONFLICTS = 8

#: Age at which a multipart upload counts as abandoned, in seconds.
_ABANDONED = 24 * 60 * 60

#: The most pages of a listing, of a thousand keys each.
_MOST_PAGES = 2_000

#: As long as a page of a listing has this many of the objects that are looked for, the next page is worth a request.
_MANY = 20

#: How many objects are looked up at the same time.
_CONCURRENCY = 16

_DELETE_HINT = "Ask an administrator of the store to delete that object, then run this again."

_CONTENT_TYPES = {"json": "application/json", "zst": "application/zstd"}


class _Head(NamedTuple):
    """What S3 says of an object.

    `attested` is whether the SHA-256 that it has computed is the one in the key, None if it has computed none.
    `unreadable` is why the object cannot be read at the moment, empty if it can be; then nothing else may be known.
    """

    size: int = 0
    etag: str = ""
    attested: bool | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class S3Store(DirectStore):
    """A store whose objects are those of a bucket, at the location's prefix followed by their key."""

    location: S3Location

    @property
    def url(self) -> str:
        return self.location.url

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        with mapped_errors(self.location, key, "read"):
            if Layout.digest_of(key):
                return download.read(self._client, self._object(key), limit)
            return download.read_verified(self._client, self._object(key), limit).data

    def read_versioned(self, key: str, limit: int = LARGEST_OBJECT) -> VersionedObject:
        with mapped_errors(self.location, key, "read"):
            return download.read_verified(self._client, self._object(key), limit)

    def inspect(self, key: str) -> ObjectStatus | None:
        head = self._head(key)
        if head is None or head.unreadable or head.attested is False:
            return None
        return ObjectStatus(head.size, bool(head.attested), head.etag)

    def sizes(self, prefix: str, keys: Collection[str]) -> dict[str, int]:
        """Return the sizes of those objects that exist and can be read.

        They are looked for in a listing, as long as its pages have many of them; the others are looked up one by one.
        """
        sizes, unknown = dict[str, int](), set(keys)
        if len(unknown) >= _MANY:
            with suppress(StoreRefused):  # who may read objects need not be allowed to list them
                sizes, unknown = self._listed_sizes(prefix, unknown)
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            found = zip(unknown, pool.map(self.size, unknown), strict=True)
            return sizes | {key: size for key, size in found if size is not None}

    def _listed_sizes(self, prefix: str, keys: set[str]) -> tuple[dict[str, int], set[str]]:
        """Return the sizes that a listing has, as long as its pages have many of these keys, and which keys have to be
        looked up one by one.
        """
        sizes, archived = dict[str, int](), set[str]()
        for page in self._listing(prefix):
            listed = [info for info in page if info.key in keys]
            sizes |= {info.key: info.size for info in listed if not info.archived}
            archived |= {info.key for info in listed if info.archived}
            if len(listed) < _MANY:
                return sizes, keys - sizes.keys()
        return sizes, archived

    def put(self, key: str, data: bytes | memoryview) -> str:
        head = self._head(key) if len(data) >= _CHECK_FIRST else None
        written = "" if head else self._write(key, data, {"IfNoneMatch": "*"})
        if written:
            return written
        head = head or self._head(key)
        if head is None or self._is_complete(key, data, head):
            return ""
        return self._replace_immutable(key, data, head)

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        if version is not None and not re.fullmatch(r'"[^"]+"', version):
            raise VersionMismatch
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        if not self._write(key, data, condition):
            raise VersionMismatch

    def list_keys(self, prefix: str) -> Iterator[str]:
        return (entry.key for entry in self.list_objects(prefix))

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        found = (info for page in self._listing(prefix) for info in page)
        return iter(sorted(info for info in found if info.key.rpartition("/")[2][:1] not in ("", ".")))

    def modified(self, key: str) -> float | None:
        # The key is the first of those that begin with it. HEAD needs the key that an object is encrypted with.
        with mapped_errors(self.location, key, "list"):
            prefix, top = self.location.prefix + key, self.location.prefix
            page = self._client.list_objects_v2(**self._bucket, Prefix=prefix, MaxKeys=1)
            found = [object_info(entry, top, key) for entry in page.get("Contents", ())]
        return next((info.modified for info in found if info.key == key), None)

    def delete(self, key: str, version: str | None = None) -> bool:
        head = self._head(key)
        if head and version is not None and head.etag != version:
            raise VersionMismatch
        condition = {"IfMatch": version} if head and version is not None else {}
        with mapped_errors(self.location, key, "delete"):
            try:
                self._client.delete_object(**self._object(key), **condition)
            except ClientError as error:
                if status_of(error) == 412:
                    raise VersionMismatch from None
                raise
        return head is not None

    def list_root(self) -> list[str] | None:
        top = self.location.prefix
        with mapped_errors(self.location, "", "list objects"):
            page = self._client.list_objects_v2(**self._bucket, Prefix=top, Delimiter="/", MaxKeys=20)
            check_page(page, "NextContinuationToken")
            names = [entry["Key"] for entry in page.get("Contents", ())]
            names += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
            relative = [relative_key(name, top).rstrip("/") for name in names]
        return sorted(filter(None, relative)) or None

    def remove_leftovers(self) -> int:
        """Abort multipart uploads that snapper 0.1 left if it was killed; later versions make none."""
        top, limit = self.location.prefix, time.time() - _ABANDONED
        uploads: list[Upload] = []
        with mapped_errors(self.location, "", "list unfinished uploads"):
            for page in self._pages("list_multipart_uploads", top):
                check_page(page, "NextKeyMarker")
                uploads += [unfinished_upload(entry, top) for entry in page.get("Uploads", ())]
            old = [upload for upload in uploads if upload.initiated < limit]
            for upload in old:
                self._client.abort_multipart_upload(**self._bucket, Key=upload.key, UploadId=upload.upload_id)
        return len(old)

    def _listing(self, prefix: str) -> Iterator[list[ObjectInfo]]:
        """Yield the objects below the prefix, those of each page of a listing."""
        top = self.location.prefix
        with mapped_errors(self.location, prefix, "list"):
            for page in self._pages("list_objects_v2", top + prefix):
                check_page(page, "NextContinuationToken")
                yield [object_info(entry, top, prefix) for entry in page.get("Contents", ())]

    def _pages(self, operation: str, prefix: str) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a listing; raise NotS3 if it does not end."""
        pages = self._client.get_paginator(operation).paginate(**self._bucket, Prefix=prefix)
        for number, page in enumerate(pages):
            if number == _MOST_PAGES:
                raise NotS3("a listing does not end")
            yield page

    @property
    def _client(self) -> Any:
        with mapped_errors(self.location, "", ""):
            return client_for(self.location)

    @property
    def _bucket(self) -> dict[str, Any]:
        """The parameters that all requests have."""
        return {"Bucket": self.location.bucket, **self.location.request_options}

    def _object(self, key: str) -> dict[str, Any]:
        """The parameters that all requests for an object have."""
        return {**self._bucket, "Key": self.location.prefix + key}

    def _head(self, key: str) -> _Head | None:
        """Return what S3 says of the object, or None if it does not exist."""
        try:
            with mapped_errors(self.location, key, "look up"):
                try:
                    response = self._client.head_object(**self._object(key), ChecksumMode="ENABLED")
                except ClientError as error:
                    if status_of(error) != 404:  # the response has no body: let GET tell what is wrong
                        self._client.get_object(**self._object(key), Range="bytes=0-0")
                    raise
                attested, unreadable = _is_attested(key, response), why_unreadable(response)
                return _Head(length_of(response), etag_of(response), attested, unreadable)
        except NotInStore:
            return None
        except StoreRefused as error:
            if not error.unreadable:
                raise
            return _Head(unreadable=error.reason)

    def _is_complete(self, key: str, data: bytes | memoryview, head: _Head) -> bool:
        """Return whether an object that exists has this content, or only this size if its key is no digest.

        It is read if S3 cannot tell. One that cannot be read does not have it.
        """
        if head.unreadable:
            return not Layout.digest_of(key)  # nothing proves what it should be, so it is not replaced
        if head.size != len(data) or head.attested is False:
            return False
        return bool(head.attested) or not Layout.digest_of(key) or bool(self._etag_if_same(key, data))

    def _replace_immutable(self, key: str, data: bytes | memoryview, head: _Head) -> str:
        """Write an object in the place of one that was not written by snapper, or that cannot be read.

        Its ETag may be unknown. Then it is replaced whatever it is, which has the same result if another user has
        replaced it meanwhile: S3 verifies that the bytes have the digest in the key.
        """
        if not head.unreadable:
            return self._write(key, data, {"IfMatch": head.etag})
        try:
            return self._write(key, data, {"IfMatch": head.etag} if head.etag else {})
        except StoreRefused as error:
            reason = f"{head.unreadable}, and it cannot be replaced: {error.reason}"
            raise replace(error, reason=reason, advice=_DELETE_HINT, unreadable=key) from None

    def _write(self, key: str, data: bytes | memoryview, condition: dict[str, str]) -> str:
        """Write the object if the condition holds, which S3 checks; return its ETag, "" if it was not written.

        An attempt may have succeeded even if its response was lost and the next one reports that the condition fails.
        """
        request = {
            **self._object(key),
            **self.location.write_options,
            **condition,
            "ContentType": _CONTENT_TYPES.get(key.rpartition(".")[2], "application/octet-stream"),
            "ChecksumSHA256": _checksum(key, data),
        }
        retried = False
        with mapped_errors(self.location, key, "write"):
            for attempt in range(_MAX_CONFLICTS):
                try:
                    response = self._client.put_object(
                        **request, Body=io.BytesIO(data)
                    )  # does not copy bytes
                    return str(response.get("ETag", "unknown"))
                except ClientError as error:
                    retried = retried or was_retried(error)
                    if status_of(error) == 412 or (code_of(error) == "NoSuchKey" and "IfMatch" in condition):
                        return self._etag_if_same(key, data) if retried else ""
                    if status_of(error) != 409 or attempt == _MAX_CONFLICTS - 1:
                        raise
                logger.debug("retrying after a conflict: %s", key)
                time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise AssertionError

    def _etag_if_same(self, key: str, data: bytes | memoryview) -> str:
        """Return the ETag of the object if it has this content, "" if it does not exist or has another."""
        try:
            found = self.read_versioned(key)
        except NotInStore:
            return ""
        except StoreRefused as error:
            if not error.unreadable:
                raise
            return ""
        return found.version if found.data == data else ""


def _is_attested(key: str, response: Mapping[str, Any]) -> bool | None:
    """Return whether the object is named by the SHA-256 of its bytes, None if S3 does not know that.

    It does not know that of objects that were uploaded with another checksum, or in several parts, whose checksum
    contains a hyphen.
    """
    digest, checksum = Layout.digest_of(key), response.get("ChecksumSHA256", "")
    return checksum == _base64(digest) if digest and checksum and "-" not in checksum else None


def _checksum(key: str, data: bytes | memoryview) -> str:
    """Return the SHA-256 in base64 for S3 to verify: the one in the key, if there is one, else the data's."""
    digest = Layout.digest_of(key)
    return _base64(digest or sha256(data).hexdigest())


def _base64(digest: str) -> str:
    return b64encode(bytes.fromhex(digest)).decode()
