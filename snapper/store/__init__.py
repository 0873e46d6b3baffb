"""Stores: objects by key in a directory or on S3."""

from snapper.store.base import ObjectInfo, ObjectStatus, Store, VersionMismatch
from snapper.store.opening import CacheConfig, cache_problem, configured_cache, locate_store, open_store

__all__ = [
    "CacheConfig",
    "ObjectInfo",
    "ObjectStatus",
    "Store",
    "VersionMismatch",
    "cache_problem",
    "configured_cache",
    "locate_store",
    "open_store",
]
