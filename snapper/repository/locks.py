"""Who is at work on a store: packs that count on what is there, and a prune that removes what nobody counts on.

A pack puts an intent before it writes anything else, and then looks for a prune; a prune puts its lock, and then
looks for intents. So at least one of them sees the other, and they never work at once. How and why is in
docs/format.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from snapper.errors import LeaseExpired, NotInStore, SnapperError, StoreLocked
from snapper.format import canonical
from snapper.format.layout import Layout, ObjectKind
from snapper.format.model import FORMAT
from snapper.process.identity import current_user, hostname, is_process_alive, process_start_time, utc_now
from snapper.process.progress import Progress
from snapper.store import Store, VersionMismatch

#: How long an intent counts whose process may still be there, in seconds; older packs do not finish.
GRACE = 24 * 3600

#: How long the lock of a prune counts that has not been renewed, in seconds; one that could not renew it for half
#: that time deletes nothing more.
LEASE = 3600

_PATIENCE = 600
_POLL = 0.2
_RENEW = 60


def boottime() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@dataclass(frozen=True)
class Lock:
    """Who holds it. `machine` tells machines, their starts and process namespaces apart, and `started` processes
    that had one number; both are empty where the system does not tell.
    """

    format: int
    action: str
    user: str
    host: str
    machine: str
    pid: int
    started: str
    time: str

    @property
    def holder(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid}, since {self.time})"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to be no more; of another machine, that cannot be known."""
        return (
            bool(self.machine) and self.machine == _machine() and not is_process_alive(self.pid, self.started)
        )


@dataclass(frozen=True)
class Intent:
    """That a pack is about to write to a store. Nothing is written before `declare`.

    Goes to worker processes, each of which declares it before it writes; it is one object for all.
    """

    store: Store
    key: str
    data: bytes
    began: float

    def declare(self) -> None:
        """Puts the intent, and waits for a prune to end; raises StoreLocked, and what the store raises."""
        if self.key in _declared:
            return
        self.store.put(self.key, self.data)
        _wait_for_prune(self.store, _modified(self.store, self.key) or time.time())
        _declared.add(self.key)

    def check(self) -> None:
        """Raises LeaseExpired where the intent may no longer count, or is gone."""
        if boottime() - self.began > GRACE - LEASE or self.store.size(self.key) is None:
            raise LeaseExpired(self.store.url)


_declared: set[str] = set()


@contextmanager
def pack_intent(store: Store) -> Iterator[Intent]:
    """An intent for one pack, which is withdrawn at the end if it was declared."""
    intent = Intent(store, Layout.new_intent(), canonical.encode(_own("pack")), boottime())
    try:
        yield intent
    finally:
        with suppress(SnapperError):
            if store.size(intent.key) is not None:
                store.delete(intent.key)
        _declared.discard(intent.key)


def report_running_prune(store: Store, progress: Progress) -> None:
    """Says who prunes the store, if somebody does: an intent that is declared now waits for that to end."""
    held = _held(store)
    if held is not None and not held.lock.is_dead:
        progress.note(f"waiting for a prune of {store.url} to finish: {held.lock.holder}")


@dataclass
class PruneLock:
    """The exclusive lock of a prune. `now` is the store's own clock, in seconds since 1970."""

    store: Store
    _version: str
    _taken: float
    _renewed: float = field(default_factory=boottime)
    _began: float = field(default_factory=boottime)

    @property
    def now(self) -> float:
        return self._taken + boottime() - self._began

    def check(self) -> None:
        """To be called before each deletion: renews the lock in time. Raises LeaseExpired where it is lost."""
        since = boottime() - self._renewed
        if since < _RENEW:
            return
        if since > LEASE / 2:
            raise LeaseExpired(self.store.url)
        try:
            self._version = _put(self.store, self._version)
        except VersionMismatch:
            raise LeaseExpired(self.store.url) from None
        self._renewed = boottime()

    def release(self) -> None:
        with suppress(SnapperError, VersionMismatch):
            self.store.delete(Layout.PRUNE_LOCK, self._version)


@contextmanager
def prune_lock(store: Store) -> Iterator[PruneLock]:
    """The store for a prune alone. Locks of the dead are removed; raises StoreLocked where somebody is at work."""
    try:
        version = _put(store, None)
    except VersionMismatch:
        held = _held(store)
        if held is not None and not _break(store, held, _now(store)):
            raise StoreLocked(store.url, held.lock.action, held.lock.holder) from None
        try:
            version = _put(store, None)
        except VersionMismatch:
            raise StoreLocked(store.url, "prune", "another process, which was faster") from None
    taken = _modified(store, Layout.PRUNE_LOCK) or time.time()
    held_lock = PruneLock(store, version, taken)
    try:
        for key, lock, modified in _intents(store):
            if not lock.is_dead and taken - modified <= GRACE:
                raise StoreLocked(store.url, lock.action, lock.holder)
            store.delete(key)
        for each in list(store.list_objects(Layout.LOCKS)):
            if _is_kind(each.key, ObjectKind.TRIAL) and taken - each.modified > LEASE:
                store.delete(each.key)
        yield held_lock
    finally:
        held_lock.release()


@dataclass(frozen=True)
class _Held:
    """The lock of a prune as it stands in the store."""

    lock: Lock
    version: str
    modified: float


def _wait_for_prune(store: Store, now: float) -> None:
    """Waits until no prune is at work; removes the lock of a dead one. `now` is the store's clock."""
    began = boottime()
    while (held := _held(store)) is not None:
        waited = boottime() - began
        if _break(store, held, now + waited):
            continue
        if waited > _PATIENCE:
            raise StoreLocked(store.url, held.lock.action, held.lock.holder)
        time.sleep(_POLL)


def _break(store: Store, held: _Held, now: float) -> bool:
    """Removes the lock of a prune that is dead, or has not renewed it in time; whether it was so."""
    if not held.lock.is_dead and now - held.modified <= LEASE:
        return False
    with suppress(VersionMismatch):
        store.delete(Layout.PRUNE_LOCK, held.version)
    return True


def _now(store: Store) -> float:
    """The store's clock, by an object that is written to see it."""
    key = Layout.new_trial()
    store.put(key, canonical.encode(_own("look")))
    try:
        return _modified(store, key) or time.time()
    finally:
        store.delete(key)


def _is_kind(key: str, kind: ObjectKind) -> bool:
    parsed = Layout.parse(key)
    return parsed is not None and parsed.kind is kind


def _modified(store: Store, key: str) -> float:
    """When the lock was written; 0 where it is not there."""
    return next((each.modified for each in store.list_objects(Layout.LOCKS) if each.key == key), 0.0)


def _held(store: Store) -> _Held | None:
    try:
        data, version = store.read_versioned(Layout.PRUNE_LOCK)
    except NotInStore:
        return None
    return _Held(_read(data), version, _modified(store, Layout.PRUNE_LOCK))


def _intents(store: Store) -> Iterator[tuple[str, Lock, float]]:
    """The intents of packs: key, who, and when, by the store's clock."""
    for each in list(store.list_objects(Layout.LOCKS)):
        if _is_kind(each.key, ObjectKind.INTENT):
            with suppress(NotInStore):
                yield each.key, _read(store.read(each.key)), each.modified


def _put(store: Store, version: str | None) -> str:
    """Writes the lock of a prune over the version, or where there is none; its new version."""
    store.replace(Layout.PRUNE_LOCK, canonical.encode(_own("prune")), version)
    return store.read_versioned(Layout.PRUNE_LOCK)[1]


def _own(action: str) -> Lock:
    return Lock(
        format=FORMAT,
        action=action,
        user=current_user(),
        host=hostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=process_start_time(os.getpid()),
        time=utc_now(),
    )


def _read(data: bytes) -> Lock:
    """The lock; one that cannot be read is of somebody unknown, and counts until it is old."""
    try:
        return canonical.decode(Lock, canonical.parse(data))
    except canonical.MalformedDocument:
        return Lock(FORMAT, "work", "somebody", "unknown", "", 0, "", "an unknown time")


@cache
def _machine() -> str:
    """This machine since it was started, and its namespace of process numbers; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
