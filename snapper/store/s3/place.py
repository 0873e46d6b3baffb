"""Where an S3 store is: `s3://BUCKET/PREFIX`, and behind a `?` what boto3 is to be told, by boto3's own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from snapper.errors import NotAStore

#: What the session and the client are made with.
_SESSION = ("profile_name", "region_name")
_CLIENT = ("endpoint_url",)

#: What goes with requests: those that write objects, and all.
_WRITING = (
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "SSEKMSEncryptionContext",
    "BucketKeyEnabled",
    "StorageClass",
)
_ALWAYS = ("ExpectedBucketOwner", "RequestPayer")
_KNOWN = (*_SESSION, *_CLIENT, *_WRITING, *_ALWAYS)

_SHAPE = "Write it as s3://BUCKET/PREFIX, with ?NAME=VALUE&NAME=VALUE behind it if need be."

#: S3 allows keys of 1,024 bytes, and the longest of ours is that of an environment with a name of 128.
_LONGEST_PREFIX = 1024 - 200


@dataclass(frozen=True)
class Place:
    """A bucket, the prefix of all keys (empty, or ending in `/`), and options."""

    bucket: str
    prefix: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        query = "&".join(f"{name}={quote(value, safe='/:@,')}" for name, value in self.options)
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + (f"?{query}" if query else "")

    @property
    def session_options(self) -> dict[str, str]:
        return self._of(_SESSION)

    @property
    def client_options(self) -> dict[str, str]:
        return self._of(_CLIENT)

    @property
    def request_options(self) -> dict[str, str]:
        return self._of(_ALWAYS)

    @property
    def write_options(self) -> dict[str, Any]:
        found: dict[str, Any] = self._of(_WRITING)
        if "BucketKeyEnabled" in found:
            found["BucketKeyEnabled"] = found["BucketKeyEnabled"].lower() == "true"
        return found

    def _of(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: value for name, value in self.options if name in names}


def parse(url: str) -> Place:
    """The place that an `s3://` URL names, its prefix taken as it is written; raises NotAStore."""
    path, _, query = url.removeprefix("s3://").partition("?")
    bucket, _, prefix = path.partition("/")
    prefix = prefix.rstrip("/")
    if not bucket:
        raise NotAStore(url, "it names no bucket", _SHAPE)
    parts = prefix.split("/") if prefix else []
    if any(part in ("", ".", "..") for part in parts):
        raise NotAStore(url, "its prefix has an empty, '.' or '..' part", _SHAPE)
    if not prefix.isprintable() or len(prefix.encode("utf-8", "surrogateescape")) > _LONGEST_PREFIX:
        reason = f"its prefix has unprintable characters or more than {_LONGEST_PREFIX} bytes"
        raise NotAStore(url, reason, _SHAPE)
    options = tuple(parse_qsl(query, keep_blank_values=True))
    if query and not options:
        raise NotAStore(url, "what stands behind the ? is not NAME=VALUE", _SHAPE)
    for name, value in options:
        if name not in _KNOWN or not value:
            raise NotAStore(
                url, f"behind the ? can stand {', '.join(_KNOWN)}, and not {name}={value}", _SHAPE
            )
        if name == "BucketKeyEnabled" and value.lower() not in ("true", "false"):
            raise NotAStore(url, f"BucketKeyEnabled is true or false, and not {value}", _SHAPE)
    return Place(bucket, f"{prefix}/" if prefix else "", options)
