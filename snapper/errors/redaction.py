"""Remove credentials from URLs, so that no message, record, or log contains them.

A user may put them into the URL of a store or of its endpoint: as `USER:PASSWORD@`, or in the query string, as in
presigned URLs.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

HIDDEN = "***"

#: The options of an S3 store's URL whose values are no secrets.
SHOWN_OPTIONS = frozenset(
    {
        "profile_name",
        "region_name",
        "ExpectedBucketOwner",
        "RequestPayer",
        "ServerSideEncryption",
        "SSEKMSKeyId",
        "SSEKMSEncryptionContext",
        "BucketKeyEnabled",
        "StorageClass",
    }
)
_ENDPOINT = "endpoint_url"

#: A scheme is short. Without a limit, searching long words for one would take time that grows with their square.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")

#: The host of a web server: anything with a port that is no number may be the beginning of credentials.
_HOST = re.compile(r"(?:[^/:]*|\[[^]/]*\])(?::\d*)?(?:/|\Z)")


def redact(text: str) -> str:
    """Return the text with the credentials in all URLs replaced."""
    return _URL.sub(lambda match: redact_url(match[0]), text) if "://" in text else text


def redact_url(url: str) -> str:
    """Return the URL with the credentials in it replaced. What is not a URL is returned as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    is_web = scheme.lower() in ("http", "https")
    rest = _without_user(rest, anywhere=is_web or ":" in rest.partition("/")[0])
    location, mark, query = _split_query(rest, marks="?#" if is_web else "?")
    if is_web and not _HOST.match(location):
        location = HIDDEN
    if mark and scheme.lower() == "s3":
        query = "&".join(map(_redact_option, query.split("&")))
    elif mark and is_web:
        query = HIDDEN
    return f"{scheme}://{location}{mark}{query}"


def _without_user(rest: str, *, anywhere: bool) -> str:
    """Replace what is before the last `@` of the host, or `anywhere`: passwords may contain any character."""
    host, slash, path = rest.partition("/")
    if anywhere:
        host, slash, path = rest, "", ""
    _, at, after = host.rpartition("@")
    return f"{HIDDEN}@{after}{slash}{path}" if at else rest


def _split_query(rest: str, marks: str) -> tuple[str, str, str]:
    match = re.search(f"[{marks}]", rest)
    return (rest[: match.start()], match[0], rest[match.end() :]) if match else (rest, "", "")


def _redact_option(option: str) -> str:
    """Return `NAME=VALUE` without credentials in the value."""
    name, equals, value = option.partition("=")
    if name == _ENDPOINT:
        endpoint = unquote(value)
        shown = redact_url(endpoint)
        return option if shown == endpoint else f"{name}={quote(shown, safe='/:@,*?')}"
    if name in SHOWN_OPTIONS:
        return option
    return f"{name}={HIDDEN}" if equals else HIDDEN
