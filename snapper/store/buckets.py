"""Names of buckets and access points in the URLs of S3 stores, as the AWS CLI writes them.

An access point is named by its ARN, which contains slashes, or by its alias, which is like the name of a bucket. See
`find_bucket_key` in awscli/customizations/s3/utils.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OUTPOST = r"arn:aws[^/]*:s3-outposts:[a-z\-0-9]+:[0-9]{12}:outpost[/:][a-zA-Z0-9\-]{1,63}[/:]"

#: ARNs in the place of a bucket, and the rest of the URL.
_ARNS = (
    re.compile(r"(arn:aws[^/]*:s3:[a-z\-0-9]*:[0-9]{12}:accesspoint[:/][^/]+)/?(.*)", re.S),
    re.compile(rf"({_OUTPOST}accesspoint[/:][a-zA-Z0-9\-]{{1,63}})[/:]?(.*)", re.S),
)

#: ARNs of what holds no objects, or cannot be written to, and why they name no store.
_REFUSED = (
    (
        re.compile(r"arn:aws[^/]*:s3-object-lambda:"),
        "objects cannot be written through an S3 Object Lambda access point",
        "Use the access point that it is based on.",
    ),
    (
        re.compile(rf"{_OUTPOST}bucket[/:]"),
        "buckets on S3 Outposts can only be accessed through access points",
        "Use the ARN or the alias of an access point of that bucket.",
    ),
    (
        re.compile(r"arn:aws[^/]*:s3express:"),
        "buckets and access points of S3 Express are not accessed by ARN",
        "Use the name of the bucket, or of the access point, such as NAME--usw2-az1--x-s3.",
    ),
    (
        re.compile(r"arn:aws[^/]*:s3:::"),
        "buckets are not accessed by ARN",
        "Use the bucket's name: s3://BUCKET/PREFIX.",
    ),
    (
        re.compile("arn:"),
        "this is no ARN of an access point",
        "Copy the ARN from the access point's properties.",
    ),
)


class BucketPath(NamedTuple):
    """A bucket's name, or the ARN of an access point, and the rest of the path: the prefix of keys."""

    bucket: str
    prefix: str

    @property
    def region(self) -> str:
        """The region in an ARN; empty for names of buckets, and for access points of several regions."""
        return self.bucket.split(":")[3] if self.bucket.startswith("arn:") else ""

    @property
    def label(self) -> str:
        """The name with only characters that file names can have."""
        return re.sub("[/:]", "-", self.bucket)


class Refusal(NamedTuple):
    """Why no store can be in a bucket, and what to use instead."""

    reason: str
    hint: str


def split_bucket(path: str) -> BucketPath:
    """Return the parts of the path in an `s3://` URL."""
    for arn in _ARNS:
        match = arn.fullmatch(path)
        if match:
            return BucketPath(match[1], match[2])
    bucket, _, prefix = path.partition("/")
    return BucketPath(bucket, prefix)


def bucket_refusal(path: str) -> Refusal | None:
    """Return why the path in an `s3://` URL names no bucket or access point with objects; None if it does."""
    if any(arn.fullmatch(path) for arn in _ARNS):
        return None
    return next((Refusal(reason, hint) for arn, reason, hint in _REFUSED if arn.match(path)), None)
