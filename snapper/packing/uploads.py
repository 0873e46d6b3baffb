"""A packing process's uploads, which run while it builds the next layer."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from snapper.store import Store

#: How many objects a process uploads at a time, and how many bytes of them it holds before it waits.
_MAX_UPLOADS = 6
_MAX_BYTES = 16 * 1024 * 1024


class UploadQueue:
    """Puts objects into stores from its own threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_MAX_UPLOADS)
        self._held = 0
        self._changed = threading.Condition()

    def put(self, store: Store, key: str, data: bytes) -> Future[str]:
        """Start an upload, after waiting if too many bytes are held; the result is that of `Store.put`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + len(data) <= _MAX_BYTES)
            self._held += len(data)
        return self._pool.submit(self._put, store, key, data)

    def _put(self, store: Store, key: str, data: bytes) -> str:
        try:
            return store.put(key, data)
        finally:
            with self._changed:
                self._held -= len(data)
                self._changed.notify_all()


@cache
def upload_queue() -> UploadQueue:
    """Return this process's queue."""
    return UploadQueue()


os.register_at_fork(after_in_child=upload_queue.cache_clear)  # threads do not survive a fork
