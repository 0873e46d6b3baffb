"""Location of an S3 store: `s3://BUCKET/PREFIX?NAME=VALUE&…`, with options named as boto3 names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from snapper.errors import NotAStore
from snapper.errors.redaction import redact_url
from snapper.format.constraints import path_bytes
from snapper.store.buckets import BucketPath, bucket_refusal, split_bucket
from snapper.store.s3.archived import ARCHIVES

#: Options of the session and of the client.
_SESSION = ("profile_name", "region_name")
_CLIENT = ("endpoint_url",)

#: Parameters sent with every request, so every operation that S3Store calls must accept them.
_REQUEST = ("ExpectedBucketOwner", "RequestPayer")

#: Parameters sent only with requests that write objects. `write_options` converts values that are not strings.
_WRITE = (
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "SSEKMSEncryptionContext",
    "BucketKeyEnabled",
    "StorageClass",
)
_OPTIONS = (*_SESSION, *_CLIENT, *_REQUEST, *_WRITE)

_HINT = "Write it as s3://BUCKET/PREFIX, followed by ?NAME=VALUE&NAME=VALUE if it has options."

_ARCHIVE_HINT = "Choose one whose objects can be read at once, such as GLACIER_IR."

_CREDENTIALS_HINT = "Do not put credentials into the URL: use AWS_PROFILE, or profile_name in the URL."

#: S3 allows keys of 1,024 bytes; the longest key within a store is that of an environment with a 128-character name.
_LONGEST_PREFIX = 1024 - 200


@dataclass(frozen=True)
class S3Location:
    """A bucket or the ARN of an access point, the prefix of all keys (empty, or ending in `/`), and options."""

    bucket: str
    prefix: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def url(self) -> str:
        """The URL without credentials: it is shown and recorded, and names the location."""
        query = "&".join(f"{name}={quote(value, safe='/:@,')}" for name, value in self.options)
        return redact_url(f"s3://{self.bucket}/{self.prefix}".rstrip("/") + (f"?{query}" if query else ""))

    @property
    def path(self) -> BucketPath:
        """The names in the URL."""
        return BucketPath(self.bucket, self.prefix)

    @property
    def session_options(self) -> dict[str, str]:
        return self._select(_SESSION)

    @property
    def client_options(self) -> dict[str, str]:
        return self._select(_CLIENT)

    @property
    def request_options(self) -> dict[str, str]:
        return self._select(_REQUEST)

    @property
    def write_options(self) -> dict[str, Any]:
        options: dict[str, Any] = self._select(_WRITE)
        if "BucketKeyEnabled" in options:
            options["BucketKeyEnabled"] = options["BucketKeyEnabled"].lower() == "true"
        return options

    def _select(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: value for name, value in self.options if name in names}


def parse_url(url: str) -> S3Location:
    """Return the location that an `s3://` URL names; its prefix is not percent-decoded. Raise NotAStore if invalid."""
    path, _, query = url.removeprefix("s3://").partition("?")
    refusal = bucket_refusal(path)
    if refusal:
        raise NotAStore(url, *refusal)
    bucket, prefix = split_bucket(path)
    prefix = prefix.rstrip("/")
    if not bucket:
        raise NotAStore(url, "it names no bucket", _HINT)
    if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
        raise NotAStore(url, "no bucket has such a name", _CREDENTIALS_HINT)
    parts = prefix.split("/") if prefix else []
    if any(part in ("", ".", "..") for part in parts):
        raise NotAStore(url, "its prefix has an empty, '.' or '..' part", _HINT)
    if not prefix.isprintable() or len(path_bytes(prefix)) > _LONGEST_PREFIX:
        reason = f"its prefix has unprintable characters or more than {_LONGEST_PREFIX} bytes"
        raise NotAStore(url, reason, _HINT)
    options = tuple(parse_qsl(query, keep_blank_values=True))
    if query and not options:
        raise NotAStore(url, "its query string is not of the form NAME=VALUE", _HINT)
    for name, value in options:
        if name not in _OPTIONS or not value:
            reason = f"its query string has an invalid option, {name}; options are {', '.join(_OPTIONS)}"
            raise NotAStore(url, reason, _HINT)
        if name == "BucketKeyEnabled" and value.lower() not in ("true", "false"):
            raise NotAStore(url, f"BucketKeyEnabled must be true or false, not {value}", _HINT)
        if name == "StorageClass" and value in ARCHIVES:
            raise NotAStore(url, f"objects of the storage class {value} cannot be read", _ARCHIVE_HINT)
    return S3Location(bucket, f"{prefix}/" if prefix else "", options)
