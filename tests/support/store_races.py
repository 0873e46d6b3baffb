"""Check that simultaneous changes of one store are not lost."""

from __future__ import annotations

from snapper.store import Store, VersionMismatch
from tests.support.processes import run_simultaneously

_MUTABLE = "environments/work.json"


def check_increments(store: Store) -> None:
    """Have processes increment a number in the store, and assert that no increment is lost."""
    store.replace(_MUTABLE, b"0", None)
    run_simultaneously(6, _increment, store, 15)
    assert store.read(_MUTABLE) == b"90"
    assert list(store.list_keys("environments/")) == [_MUTABLE]


def check_creations(store: Store) -> None:
    """Have processes create the same objects, and assert that each is created once."""
    keys = [f"environments/{number}.json" for number in range(10)]
    created = run_simultaneously(5, _create, store, keys)
    for by_process in zip(*created, strict=True):
        assert sum(by_process) == 1
    assert list(store.list_keys("environments/")) == keys
    assert {int(store.read(key)) for key in keys} <= set(range(5))


def _increment(_number: int, store: Store, times: int) -> int:
    """Add 1 repeatedly; return how often that had to be tried again."""
    retries = 0
    for _ in range(times):
        while True:
            data, version = store.read_versioned(_MUTABLE)
            try:
                store.replace(_MUTABLE, b"%d" % (int(data) + 1), version)
                break
            except VersionMismatch:
                retries += 1
    return retries


def _create(number: int, store: Store, keys: list[str]) -> list[bool]:
    """Return for each of the objects whether this process created it."""
    created = []
    for key in keys:
        try:
            store.replace(key, b"%d" % number, None)
            created.append(True)
        except VersionMismatch:
            created.append(False)
    return created
