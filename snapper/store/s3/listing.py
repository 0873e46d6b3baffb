"""Check what S3 says in listings: objects might be taken for missing, or others than those asked for be changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from snapper.format.times import LATEST, NANOSECONDS
from snapper.store.base import ObjectInfo
from snapper.store.s3.archived import why_archived
from snapper.store.s3.errors import NotS3

#: More than any object in S3 can have, in bytes.
_LARGEST_SIZE = 1 << 50


class Upload(NamedTuple):
    """A multipart upload that has not been completed: its key in the bucket, and its start, in seconds since 1970."""

    key: str
    upload_id: str
    initiated: float


def check_page(page: Mapping[str, Any], *continuations: str) -> None:
    """Raise NotS3 unless the page is the last one or says, in all of these fields, where the next one begins."""
    is_truncated = page.get("IsTruncated")
    if is_truncated is None or (is_truncated and not all(map(page.get, continuations))):
        raise NotS3("a listing is incomplete")


def relative_key(key: str, top: str, prefix: str = "") -> str:
    """Return the part after `top` of a listed key; raise NotS3 if it does not begin with `top` and `prefix`."""
    if not key.startswith(top + prefix):
        raise NotS3("a listing contains keys that were not asked for")
    return key[len(top) :]


def object_info(entry: Mapping[str, Any], top: str, prefix: str) -> ObjectInfo:
    """Return a listed object, by its key below `top`; raise NotS3 if it is not possible, or not below the prefix."""
    size = entry["Size"]
    if not 0 <= size <= _LARGEST_SIZE:
        raise NotS3("a listing contains an impossible size")
    key = relative_key(entry["Key"], top, prefix)
    return ObjectInfo(key, size, _seconds(entry["LastModified"]), why_archived(entry))


def unfinished_upload(entry: Mapping[str, Any], top: str) -> Upload:
    """Return a listed upload; raise NotS3 if it is not possible, or not below `top`."""
    relative_key(entry["Key"], top)
    return Upload(entry["Key"], entry["UploadId"], _seconds(entry["Initiated"]))


def _seconds(time: datetime) -> float:
    """Return the time in seconds since 1970; raise NotS3 if no file can have it."""
    seconds = time.timestamp()
    if not 0 <= seconds <= LATEST / NANOSECONDS:
        raise NotS3("a listing contains an impossible time")
    return seconds
