"""What a packing process has under way to the store, while it goes on with the next layer."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from snapper.store import Store

#: How many objects a process sends at once, and how many bytes of them it holds before it waits.
_AT_ONCE = 6
_MOST_BYTES = 16 * 1024 * 1024


class UploadQueue:
    """Puts objects into stores from threads of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._held = 0
        self._changed = threading.Condition()

    def put(self, store: Store, key: str, data: bytes) -> Future[bool]:
        """Has the object put, what `Store.put` returns or raises being the future's; waits while much is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + len(data) <= _MOST_BYTES)
            self._held += len(data)
        return self._pool.submit(self._put, store, key, data)

    def _put(self, store: Store, key: str, data: bytes) -> bool:
        try:
            return store.put(key, data)
        finally:
            with self._changed:
                self._held -= len(data)
                self._changed.notify_all()


@cache
def upload_queue() -> UploadQueue:
    """This process's own."""
    return UploadQueue()


os.register_at_fork(after_in_child=upload_queue.cache_clear)  # its threads do not go through a fork
