"""Store at an S3 prefix. Import this package only to open such a store: importing boto3 takes time."""

from snapper.store.s3.location import S3Location, parse_url
from snapper.store.s3.store import S3Store

__all__ = ["S3Location", "S3Store", "parse_url"]
