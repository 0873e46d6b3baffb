"""A store at an S3 prefix. Importing this imports boto3, so it is done only where such a store is opened."""

from snapper.store.s3.place import Place, parse
from snapper.store.s3.store import S3Store

__all__ = ["Place", "S3Store", "parse"]
