"""The objects of a store at an S3 prefix.

Immutable objects are put if there is none (`If-None-Match: *`), mutable ones replaced if they are as they were seen
(`If-Match`); S3 is asked to check what it gets by its SHA-256. An ETag is a version and nothing else.
"""

from __future__ import annotations

import random
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from snapper.errors import NotInStore
from snapper.format.model import LARGEST_OBJECT
from snapper.store.base import ObjectInfo, VersionMismatch, digest_in
from snapper.store.s3 import transfer
from snapper.store.s3.client import reader_for
from snapper.store.s3.place import Place
from snapper.store.s3.reader import Reader, version_in
from snapper.store.s3.refusals import code_of, reporting, status_of, was_retried

T = TypeVar("T")

#: Objects from this size on, in bytes, are looked for before they are sent: most are not there, and to look takes as
#: long as to send some.
_WORTH_LOOKING = 4 * 1024 * 1024

#: How often a write is tried again that S3 refused only because of another one at the same moment.
_MOST_CONFLICTS = 8

_TYPES = {"json": "application/json", "zst": "application/zstd"}


@dataclass(frozen=True)
class S3Store:
    """Objects are those of a bucket, at the prefix and their key."""

    place: Place

    @property
    def url(self) -> str:
        return self.place.url

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        with reporting(self.place, key, "read"):
            if digest_in(key):
                return transfer.fetch(self._reader, self._named(key), limit)
            return transfer.fetch_checked(self._client, self._named(key), limit)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        with reporting(self.place, key, "read"):
            return transfer.fetch_checked(self._client, self._named(key), LARGEST_OBJECT)

    def size(self, key: str) -> int | None:
        found = self._head(key)
        return found and found[0]

    def put(self, key: str, data: bytes | memoryview) -> bool:
        if len(data) >= _WORTH_LOOKING and self.size(key) == len(data):
            return False
        if self._write(key, data, {"IfNoneMatch": "*"}):
            return True
        found = self._head(key)
        if found and found[0] != len(data):  # it came here in part, some other way than ours
            return self._write(key, data, {"IfMatch": found[1]})
        return False

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        if version is not None and not re.fullmatch(r'"[^"]+"', version):
            raise VersionMismatch
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        if not self._write(key, data, condition):
            raise VersionMismatch

    def keys(self, prefix: str) -> Iterator[str]:
        return (found.key for found in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        top = self.place.prefix
        with reporting(self.place, prefix, "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.place.bucket, Prefix=top + prefix, **self.place.request_options
            )
            found = [
                ObjectInfo(each["Key"][len(top) :], each["Size"], each["LastModified"].timestamp())
                for page in pages
                for each in page.get("Contents", ())
                if not each["Key"].endswith("/")
            ]
        return iter(sorted(found))

    def delete(self, key: str, version: str | None = None) -> bool:
        found = self._head(key)
        if found and version is not None and found[1] != version:
            raise VersionMismatch
        condition = {"IfMatch": version} if found and version is not None else {}
        with reporting(self.place, key, "delete"):
            try:
                self._client.delete_object(**self._named(key), **condition)
            except ClientError as error:
                if status_of(error) == 412:
                    raise VersionMismatch from None
                raise
        return found is not None

    def others(self) -> list[str] | None:
        top = self.place.prefix
        with reporting(self.place, "", "list its prefix"):
            page = self._client.list_objects_v2(
                Bucket=self.place.bucket,
                Prefix=top,
                Delimiter="/",
                MaxKeys=20,
                **self.place.request_options,
            )
        names = [each["Key"] for each in page.get("Contents", ())]
        names += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
        return sorted(name[len(top) :].rstrip("/") for name in names if name != top) or None

    def sweep(self) -> int:
        """Gives up uploads in parts that were begun more than a day ago: nothing else can be left behind."""
        limit = datetime.now(timezone.utc) - timedelta(days=1)
        bucket = {"Bucket": self.place.bucket, **self.place.request_options}
        with reporting(self.place, "", "list what is being uploaded"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                **bucket, Prefix=self.place.prefix
            )
            old = [each for page in pages for each in page.get("Uploads", ()) if each["Initiated"] < limit]
            for each in old:
                self._client.abort_multipart_upload(**bucket, Key=each["Key"], UploadId=each["UploadId"])
        return len(old)

    @property
    def _client(self) -> Any:
        return self._reader.client

    @property
    def _reader(self) -> Reader:
        with reporting(self.place, "", "let snapper in"):
            return reader_for(self.place)

    def _named(self, key: str) -> dict[str, Any]:
        return {
            "Bucket": self.place.bucket,
            "Key": self.place.prefix + key,
            **self.place.request_options,
        }

    def _head(self, key: str) -> tuple[int, str] | None:
        """Size and version of the object, None where there is none."""
        try:
            with reporting(self.place, key, "look at"):
                try:
                    found = self._client.head_object(**self._named(key))
                except ClientError as error:
                    if status_of(error) != 404:  # such an answer has no words: have S3 say what is wrong
                        self._client.get_object(**self._named(key), Range="bytes=0-0")
                    raise
                return found["ContentLength"], version_in(found)
        except NotInStore:
            return None

    def _write(self, key: str, data: bytes | memoryview, condition: dict[str, str]) -> bool:
        """Writes the object on a condition that S3 checks; False where that does not hold.

        A try whose answer was lost may have had its effect, whatever the tries after it are told.
        """
        wanted = {
            **self._named(key),
            "ContentType": _TYPES.get(key.rpartition(".")[2], "application/octet-stream"),
            **self.place.write_options,
        }
        retried = False
        with reporting(self.place, key, "write"):
            for attempt in range(_MOST_CONFLICTS):
                try:
                    transfer.send(self._client, wanted, data, checksum(key, data), condition)
                    return True
                except ClientError as error:
                    retried = retried or was_retried(error)
                    if status_of(error) == 412 or (code_of(error) == "NoSuchKey" and "IfMatch" in condition):
                        return retried and self._holds(key, data)
                    again = status_of(error) == 409 or code_of(error) == "NoSuchUpload"
                    if not again or attempt == _MOST_CONFLICTS - 1:
                        raise
                time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise AssertionError

    def _holds(self, key: str, data: bytes | memoryview) -> bool:
        """Whether the object is what was to be written: the answer to an earlier try may have been lost."""
        try:
            return self.read(key) == data
        except NotInStore:
            return False


def checksum(key: str, data: bytes | memoryview) -> str:
    """The sha256 in base64, of which S3 checks that it is the data's: that which the key has, else the data's own."""
    named = digest_in(key)
    return b64encode(bytes.fromhex(named) if named else sha256(data).digest()).decode()
