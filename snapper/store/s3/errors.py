"""Map what boto3 raises to errors that say what is wrong and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from snapper.errors import NotAStore, NotInStore, SnapperError, StoreRefused, StoreUnreachable
from snapper.errors.redaction import redact
from snapper.store.s3.archived import archived_reason
from snapper.store.s3.location import S3Location

#: Failures of a connection that are worth another attempt. While a body is read, botocore lets some of urllib3's pass.
CONNECTION_ERRORS = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ReadTimeoutError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)

_LOGIN_HINT = "Refresh the credentials (for example with aws sso login), then run this again."
_CREDENTIALS_HINT = (
    "Provide credentials through the instance's role, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY."
)
_ENDPOINT_HINT = "Check the store's URL, AWS_ENDPOINT_URL_S3 and the region."
_PROFILE_HINT = "Check AWS_PROFILE, profile_name in the store's URL, and ~/.aws/config."
_CRT_HINT = "Install it where snapper is installed: pip install 'botocore[crt]'."
_CONFIG_HINT = "Check ~/.aws/config."
_BUCKET_HINT = "Create the bucket first, or check its name, the credentials and the endpoint."
_PERMISSION_HINT = (
    "Ask the bucket's administrator for it; docs/s3.md has policies for readers, publishers and "
    "administrators."
)
_ARCHIVED_HINT = (
    "Have the bucket's administrator restore or delete the object. What is deleted is stored again by packing again, "
    "or by snapper verify --data --repair."
)
_CLOCK_HINT = "Set the clock (timedatectl, chronyc makestep), then run this again."

_DENIED = ("AccessDenied", "AccessDeniedException", "Forbidden", "AllAccessDisabled", "403")
_OTHER_REGION = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
)
_BUSY = ("SlowDown", "Throttling", "RequestTimeout")
_MISSING = ("NoSuchKey", "NotFound", "404")

#: Operations that concern one object. Whoever has written it decides on its encryption and its storage class.
_READS = ("GetObject", "HeadObject")

_EXPIRED = ("the credentials have expired", _LOGIN_HINT)
_UNKNOWN = ("the server does not know these credentials", _CREDENTIALS_HINT)

#: Error codes with one cause: the cause, and a hint.
_CAUSES = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidAccessKeyId": _UNKNOWN,
    "InvalidToken": _UNKNOWN,
    "SignatureDoesNotMatch": ("the secret key does not match the access key", _CREDENTIALS_HINT),
    "RequestTimeTooSkewed": ("this machine's clock and the server's differ by too much", _CLOCK_HINT),
}


#: What boto3 raises, too, for responses that it does not expect.
_MALFORMED = (
    ResponseParserError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class NotS3(Exception):
    """The response is not one that S3 would give."""


class _Failure(NamedTuple):
    """How to report that a request could not be sent or got no response; `{detail}` is boto3's message."""

    error: type[StoreRefused] | type[StoreUnreachable]
    reason: str
    hint: str


_TIMEOUT = _Failure(
    StoreUnreachable, "it did not answer in time, even after several attempts", _ENDPOINT_HINT
)
_LOGIN_EXPIRED = _Failure(StoreRefused, "the login has expired ({detail})", _LOGIN_HINT)
_NOT_RETRIEVED = _Failure(StoreRefused, "the credentials could not be retrieved ({detail})", _LOGIN_HINT)
_BROKEN = _Failure(StoreUnreachable, "the connection keeps breaking", _ENDPOINT_HINT)

#: The first entry whose type matches applies.
_FAILURES: tuple[tuple[type[Exception], _Failure], ...] = (
    (boto.NoCredentialsError, _Failure(StoreRefused, "no AWS credentials found", _CREDENTIALS_HINT)),
    (
        boto.PartialCredentialsError,
        _Failure(StoreRefused, "the AWS credentials are incomplete ({detail})", _CREDENTIALS_HINT),
    ),
    (boto.SSOError, _LOGIN_EXPIRED),
    (boto.TokenRetrievalError, _LOGIN_EXPIRED),
    (boto.CredentialRetrievalError, _NOT_RETRIEVED),
    (boto.MetadataRetrievalError, _NOT_RETRIEVED),
    (boto.ProfileNotFound, _Failure(StoreRefused, "{detail}", _PROFILE_HINT)),
    (boto.ConfigParseError, _Failure(StoreRefused, "{detail}", _CONFIG_HINT)),
    (
        boto.SSLError,
        _Failure(StoreUnreachable, "no secure connection can be made ({detail})", _ENDPOINT_HINT),
    ),
    (
        boto.MissingDependencyException,
        _Failure(StoreRefused, "multi-region access points need the package awscrt", _CRT_HINT),
    ),
    (boto.ReadTimeoutError, _TIMEOUT),
    (boto.ConnectTimeoutError, _TIMEOUT),
    (boto.EndpointConnectionError, _Failure(StoreUnreachable, "nothing answers at {detail}", _ENDPOINT_HINT)),
    (
        boto.ProxyConnectionError,
        _Failure(StoreUnreachable, "the proxy cannot be reached ({detail})", _ENDPOINT_HINT),
    ),
    *((kind, _BROKEN) for kind in CONNECTION_ERRORS),
)

#: The permission that an operation needs.
_PERMISSIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}


def code_of(error: ClientError) -> str:
    """Return S3's error code, or the HTTP status if the response had no body."""
    return _one_line(str(error.response.get("Error", {}).get("Code", "")))


def status_of(error: ClientError) -> int:
    """Return the HTTP status of the response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_retried(error: ClientError) -> bool:
    """Return whether this was not the first attempt, so that an earlier one may have had its effect."""
    return _attempts(error) > 1


def etag_of(response: Mapping[str, Any]) -> str:
    """Return the ETag of the object that the response is about. Raise NotS3 if there is none."""
    if "ETag" not in response:
        raise NotS3("the response has no ETag")
    return str(response["ETag"])


def length_of(response: Mapping[str, Any]) -> int:
    """Return the length of the body that the response announces, in bytes. Raise NotS3 if it announces none."""
    length = response.get("ContentLength")
    if length is None or length < 0:
        raise NotS3("the response has no valid Content-Length")
    return int(length)


@contextmanager
def mapped_errors(location: S3Location, key: str, action: str) -> Iterator[None]:
    """Raise SnapperErrors for what boto3 raises; `action` is a verb such as "read" for the key, or empty."""
    try:
        yield
    except ClientError as error:
        raise _from_response(location, key, action, error) from error
    except (BotoCoreError, NotS3, ValueError, *_MALFORMED, *CONNECTION_ERRORS) as error:
        raise _from_failure(location, error) from error
    except RuntimeError as error:
        if "redentials" not in str(error):
            raise
        raise _from_failure(
            location, boto.CredentialRetrievalError(provider="boto3", error_msg=str(error))
        ) from error


def _from_response(location: S3Location, key: str, action: str, error: ClientError) -> SnapperError:
    """Return the error for an error response."""
    code, message = code_of(error), _one_line(str(error.response.get("Error", {}).get("Message", "")))
    url, request, status = location.url, f"{action} {key}".strip(), status_of(error)
    unreadable = key if error.operation_name in _READS else ""
    result: SnapperError
    if code == "NoSuchBucket":
        result = NotAStore(url, f"there is no bucket {location.bucket!r}", _BUCKET_HINT)
    elif code in _MISSING and (error.operation_name == "HeadObject" or not code.isdigit()):
        result = NotInStore(key, url)
    elif code in _CAUSES:
        result = StoreRefused(url, request, *_CAUSES[code])
    elif code in _DENIED:
        reason = _missing_permission(location, key, error.operation_name, message)
        result = StoreRefused(url, request, reason, _PERMISSION_HINT, unreadable)
    elif code == "InvalidObjectState":
        storage_class = error.response["Error"].get("StorageClass") or "unknown storage class"
        reason = archived_reason(_one_line(str(storage_class)))
        result = StoreRefused(url, request, reason, _ARCHIVED_HINT, unreadable)
    elif code in _OTHER_REGION or status == 301:
        result = _other_region(location, request, error)
    elif code in _BUSY or status >= 500:
        attempts = _attempts(error)
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        result = StoreUnreachable(url, f"it is too busy or failing ({code}{tried})")
    elif code.isdigit() or not message:
        result = NotAStore(url, f"the server there does not speak S3 (HTTP status {status})", _ENDPOINT_HINT)
    else:
        result = StoreRefused(url, request, _one_line(f"{message} ({code})"), unreadable=unreadable)
    return result


def _attempts(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) + 1


def _other_region(location: S3Location, request: str, error: ClientError) -> StoreRefused:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region") or "")
    reason = "the bucket is in another region" + (f", {_one_line(region)}" if region else "")
    name = region if re.fullmatch(r"[a-z0-9-]{1,40}", region) else "REGION"
    hint = f"Set AWS_DEFAULT_REGION={name}, or append ?region_name={name} to the store's URL."
    return StoreRefused(location.url, request, reason, hint)


def _missing_permission(location: S3Location, key: str, operation: str, message: str) -> str:
    """Return which permission is missing: the one that S3 names, else the one that the operation needs."""
    match = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)(?: on resource: \"?([^\s\"]+))?", message)
    if match:
        return f"these credentials lack the permission {match[1]}" + (f" on {match[2]}" if match[2] else "")
    permission = _PERMISSIONS.get(operation, f"s3:{operation}")
    is_arn = location.bucket.startswith("arn:")
    bucket = location.bucket if is_arn else f"arn:aws:s3:::{location.bucket}"
    objects = f"{bucket}/object" if is_arn else bucket
    resource = bucket if permission.startswith("s3:List") else f"{objects}/{location.prefix}{key}"
    reason = f"these credentials lack the permission {permission} on {resource}"
    if permission == "s3:GetObject":
        reason += f" (or the object does not exist, and they lack s3:ListBucket on {bucket})"
    return reason


def _from_failure(location: S3Location, error: Exception) -> SnapperError:
    """Return the error for a request that could not be sent or got no valid response."""
    url, detail = location.url, _one_line(str(error))
    if isinstance(error, boto.EndpointConnectionError):
        detail = _one_line(error.kwargs["endpoint_url"])
    for kind, failure in _FAILURES:
        if isinstance(error, kind):
            reason = failure.reason.format(detail=detail)
            if failure.error is StoreUnreachable:
                return StoreUnreachable(url, reason, failure.hint)
            return StoreRefused(url, "", reason, failure.hint)
    if isinstance(error, boto.ParamValidationError) and "bucket" in detail.lower():
        return NotAStore(url, f"{location.bucket!r} is not a valid bucket name", _BUCKET_HINT)
    if isinstance(error, NotS3):
        return NotAStore(url, f"the server there does not speak S3: {detail}", _ENDPOINT_HINT)
    if isinstance(error, _MALFORMED):
        return NotAStore(url, "the server there does not speak S3", _ENDPOINT_HINT)
    return StoreRefused(url, "", detail, _ENDPOINT_HINT)


def _one_line(text: str) -> str:
    """Return the text in one line, at most 300 characters, with URLs reduced to scheme and host."""
    return re.sub(r"(https?://[^/\s\"']+)/[^\s\"']*", r"\1", redact(" ".join(text.split())))[:300]
