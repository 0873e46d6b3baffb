"""What boto3 raises, as errors that say what is missing and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from snapper.errors import NotAStore, NotInStore, SnapperError, StoreRefused, StoreUnreachable
from snapper.store.s3.place import Place

#: What breaks on the way, and is worth another try.
BROKEN = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ReadTimeoutError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    ConnectionError,
    TimeoutError,
)

_LOGIN = "Get new credentials (aws sso login, or whatever gave you the old ones) and run it again."
_SETTINGS = "Give boto3 credentials: the instance's role, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
_ENDPOINT = "Check the store's URL, AWS_ENDPOINT_URL_S3 and the region."
_PROFILE = "Check AWS_PROFILE, profile_name behind the store's URL, and ~/.aws/config."
_BUCKET = "Make the bucket first, or check its name, and whose credentials and which endpoint these are."
_ROLE = (
    "Ask who runs the bucket for it; docs/s3.md has the policies for readers, publishers and administrators."
)
_CLOCK = "Set the clock (timedatectl, chronyc makestep) and run it again."

_DENIED = ("AccessDenied", "AccessDeniedException", "Forbidden", "AllAccessDisabled", "403")
_ELSEWHERE = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
)
_BUSY = ("SlowDown", "Throttling", "RequestTimeout")
_MISSING = ("NoSuchKey", "NotFound", "404")

_EXPIRED = ("the credentials have expired", _LOGIN)
_UNKNOWN = ("it does not know these credentials", _SETTINGS)

#: Answers with one cause: what it is, and what to do.
_CAUSES = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidAccessKeyId": _UNKNOWN,
    "InvalidToken": _UNKNOWN,
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", _SETTINGS),
    "RequestTimeTooSkewed": ("this machine's clock differs from the server's by too much", _CLOCK),
}

#: What keeps requests from being sent or answered, in the order in which it is looked for: `said` is boto3's word.
_OBSTACLES: tuple[tuple[type[Exception], type[StoreRefused] | type[StoreUnreachable], str, str], ...] = (
    (boto.NoCredentialsError, StoreRefused, "there are no credentials for it", _SETTINGS),
    (boto.PartialCredentialsError, StoreRefused, "its credentials are not complete ({said})", _SETTINGS),
    (boto.SSOError, StoreRefused, "the login has expired ({said})", _LOGIN),
    (boto.TokenRetrievalError, StoreRefused, "the login has expired ({said})", _LOGIN),
    (boto.CredentialRetrievalError, StoreRefused, "the credentials could not be fetched ({said})", _LOGIN),
    (boto.MetadataRetrievalError, StoreRefused, "the credentials could not be fetched ({said})", _LOGIN),
    (boto.ProfileNotFound, StoreRefused, "{said}", _PROFILE),
    (boto.ConfigParseError, StoreRefused, "{said}", "Check ~/.aws/config."),
    (boto.SSLError, StoreUnreachable, "no secure connection can be made ({said})", _ENDPOINT),
    (
        boto.ReadTimeoutError,
        StoreUnreachable,
        "it does not answer in time, however often it is asked",
        _ENDPOINT,
    ),
    (
        boto.ConnectTimeoutError,
        StoreUnreachable,
        "it does not answer in time, however often it is asked",
        _ENDPOINT,
    ),
    (boto.EndpointConnectionError, StoreUnreachable, "nothing answers there ({said})", _ENDPOINT),
    (boto.ProxyConnectionError, StoreUnreachable, "the proxy cannot be reached ({said})", _ENDPOINT),
    *(
        (kind, StoreUnreachable, "the connection breaks off, however often it is made", _ENDPOINT)
        for kind in BROKEN
    ),
)

#: The permission that an operation needs.
PERMISSIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}


def code_of(error: ClientError) -> str:
    """S3's word for what went wrong, or the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_retried(error: ClientError) -> bool:
    """Whether an earlier try of the same request may have had its effect."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


@contextmanager
def reporting(place: Place, key: str, action: str) -> Iterator[None]:
    """Raises what S3 and the way to it may raise as a SnapperError."""
    try:
        yield
    except ClientError as error:
        raise _answered(place, key, action, error) from error
    except (BotoCoreError, ResponseParserError, ValueError, ConnectionError, TimeoutError) as error:
        raise _unanswered(place, error) from error


def _answered(place: Place, key: str, action: str, error: ClientError) -> SnapperError:
    """For an answer that is an error."""
    code, said = code_of(error), str(error.response.get("Error", {}).get("Message", "")).strip()
    url, doing, status = place.url, f"{action} {key}".strip(), status_of(error)
    found: SnapperError
    if code == "NoSuchBucket":
        found = NotAStore(url, f"there is no bucket {place.bucket!r}", _BUCKET)
    elif code in _MISSING and (error.operation_name == "HeadObject" or not code.isdigit()):
        found = NotInStore(key, url)
    elif code in _CAUSES:
        found = StoreRefused(url, doing, *_CAUSES[code])
    elif code in _DENIED:
        found = StoreRefused(url, doing, _lacking(place, key, error.operation_name, said), _ROLE)
    elif code in _ELSEWHERE or status == 301:
        found = _in_another_region(place, doing, error)
    elif code in _BUSY or status >= 500:
        tries = int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) + 1
        found = StoreUnreachable(url, f"it answered {tries} times that it is too busy or broken ({code})")
    elif code.isdigit() or not said:
        found = NotAStore(url, f"what answers there does not speak S3 (HTTP status {status})", _ENDPOINT)
    else:
        found = StoreRefused(url, doing, _one_line(f"{said} ({code})"))
    return found


def _in_another_region(place: Place, doing: str, error: ClientError) -> StoreRefused:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    reason = "the bucket is in another region" + (f", {region}" if region else "")
    named = region or "REGION"
    advice = f"Set AWS_DEFAULT_REGION={named}, or put ?region_name={named} behind the URL."
    return StoreRefused(place.url, doing, reason, advice)


def _lacking(place: Place, key: str, operation: str, said: str) -> str:
    """Which permission is missing: what S3 says, else what the operation needs."""
    named = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)(?: on resource: \"?([^\s\"]+))?", said)
    if named:
        return f"these credentials lack the permission {named[1]}" + (f" on {named[2]}" if named[2] else "")
    permission = PERMISSIONS.get(operation, f"s3:{operation}")
    resource = f"arn:aws:s3:::{place.bucket}" + (
        "" if operation == "ListObjectsV2" else f"/{place.prefix}{key}"
    )
    reason = f"these credentials lack the permission {permission} on {resource}"
    if permission == "s3:GetObject":
        reason += f" (or it is not there, and they lack s3:ListBucket on arn:aws:s3:::{place.bucket})"
    return reason


def _unanswered(place: Place, error: Exception) -> SnapperError:
    """For a request that could not be sent, or to which no answer came that is one."""
    url, said = place.url, _one_line(str(error))
    if isinstance(error, boto.EndpointConnectionError):
        said = _one_line(error.kwargs["endpoint_url"])
    for kind, as_what, reason, advice in _OBSTACLES:
        if isinstance(error, kind):
            if as_what is StoreUnreachable:
                return StoreUnreachable(url, reason.format(said=said), advice)
            return StoreRefused(url, "let snapper in", reason.format(said=said), advice)
    if isinstance(error, boto.ParamValidationError) and "bucket" in said.lower():
        return NotAStore(url, f"{place.bucket!r} cannot name a bucket", _BUCKET)
    if isinstance(error, ResponseParserError):
        return NotAStore(url, "what answers there does not speak S3", _ENDPOINT)
    return StoreRefused(url, "let snapper in", said, _ENDPOINT)


def _one_line(text: str) -> str:
    """The text in one line, of URLs only where they go."""
    return re.sub(r"(https?://[^/\s\"']+)/[^\s\"']*", r"\1", " ".join(text.split()))[:300]
