"""Locks that keep packs and prunes of one store apart.

A pack declares an intent before it writes anything else, and then waits for a running prune. A prune takes its lock,
and then looks for intents. At least one of them sees the other, so they never run at the same time: a pack may rely on
the objects that it finds in the store. docs/format.md describes the protocol and why it is safe.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from snapper.errors import Corrupted, LeaseExpired, NotInStore, SnapperError, StoreLocked, StoreRefused
from snapper.format import canonical
from snapper.format.layout import Layout, ObjectKind
from snapper.format.model import FORMAT
from snapper.process.identity import (
    boot_id,
    current_user,
    hostname,
    is_marked,
    is_process_alive,
    marked,
    process_start_time,
    utc_now,
)
from snapper.process.progress import Progress
from snapper.store import Store, VersionMismatch

#: How long an intent is valid unless its process is known to be dead, in seconds. Packs that take longer fail.
GRACE = 24 * 3600

#: How long the lock of a prune is valid after it was last renewed, in seconds. A prune that could not renew it for half
#: of that time deletes nothing more.
LEASE = 3600

#: How long a pack waits for a prune, how often it looks, how often a prune renews its lock, and how often it looks
#: whether it has lost it, in seconds.
_MAX_WAIT = 600
_POLL_INTERVAL = 0.2
_RENEW_INTERVAL = 60
_CONFIRM_INTERVAL = 1

#: What marks a process that holds locks.
_MARK = "snapper lock"

#: The largest lock that is read, in bytes: several times as large as one with the longest names.
_LARGEST_LOCK = 4096

#: How far ahead of the store's clock a lock's time may be, in seconds: machines that share a directory may differ.
_TOLERANCE = 600


def boottime() -> float:
    """Return a monotonic time in seconds that also advances while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@dataclass(frozen=True)
class Lock:
    """The document of an intent or a prune lock: the process that holds it.

    `machine` identifies the boot and process namespace of the holder, and `started` tells processes with the same pid
    apart. Both are empty if the system does not know them.
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
        """Whether the holder is known to be dead. That cannot be known of processes on other machines."""
        return (
            bool(self.machine) and self.machine == boot_id() and not is_process_alive(self.pid, self.started)
        )

    @property
    def is_alive(self) -> bool:
        """Whether the holder is known to be alive. Then the lock does not expire, whatever has become of the clock.

        Anyone who may write to the store can name any process, so only one of this user's that holds locks counts.
        """
        is_here = bool(self.machine) and self.machine == boot_id()
        started = process_start_time(self.pid) if is_here else ""
        is_holder = bool(started) and started == self.started and is_marked(self.pid, _MARK)
        return is_holder and not self.is_dead


@dataclass(eq=False)
class Intent:
    """The announcement that a pack is going to write to the store. Nothing may be written before `declare`.

    Worker processes get a copy, and each declares it before it first writes; all write the same object.
    """

    store: Store
    key: str
    data: bytes
    created: float
    _declared: bool = field(default=False, init=False, repr=False)

    def declare(self) -> None:
        """Write the intent and wait for a running prune to finish. Raise StoreLocked, and what the store raises."""
        if self._declared:
            return
        self.store.put(self.key, self.data)
        _wait_for_prune(self.store, self.store.modified(self.key) or time.time())
        self._declared = True

    def check(self) -> None:
        """Raise LeaseExpired if the intent is missing, or so old that a prune may disregard it soon."""
        if boottime() - self.created > GRACE - LEASE or self.store.size(self.key) is None:
            raise LeaseExpired(self.store.url)


@contextmanager
def pack_intent(store: Store) -> Iterator[Intent]:
    """Yield an intent for one pack, and delete it at the end if it was declared."""
    intent = Intent(store, Layout.new_intent(), canonical.encode(_new_lock("pack")), boottime())
    try:
        with marked(_MARK):
            yield intent
    finally:
        with suppress(SnapperError):
            if store.size(intent.key) is not None:
                store.delete(intent.key)


def report_running_prune(store: Store, progress: Progress) -> None:
    """Tell the user if a prune is running, for which an intent has to wait that is declared now."""
    held = _read_prune_lock(store)
    if held is not None and held.is_valid(time.time()):
        progress.note(f"waiting for a prune of {store.url} to finish: {held.lock.holder}")


@dataclass
class PruneLock:
    """The exclusive lock of a running prune."""

    store: Store
    _version: str
    _acquired: float  # by the store's clock
    _renewed: float = field(default_factory=boottime)
    _confirmed: float = field(default_factory=boottime)
    _started: float = field(default_factory=boottime)

    @property
    def now(self) -> float:
        """The time by the store's clock, in seconds since 1970."""
        return self._acquired + boottime() - self._started

    def check(self) -> None:
        """Confirm and renew the lock if that was long ago; call this before each deletion.

        Raise LeaseExpired if the lock is lost.
        """
        now = boottime()
        if now - self._renewed > LEASE / 2:
            raise LeaseExpired(self.store.url)
        if now - self._renewed >= _RENEW_INTERVAL:
            self._renew()
        elif now - self._confirmed >= _CONFIRM_INTERVAL:
            if not self._is_held():
                raise LeaseExpired(self.store.url)
            self._confirmed = now

    def _renew(self) -> None:
        try:
            self._version = _write_prune_lock(self.store, self._version)
        except VersionMismatch:
            raise LeaseExpired(self.store.url) from None
        self._renewed = boottime()

    def _is_held(self) -> bool:
        try:
            return self.store.read_versioned(Layout.PRUNE_LOCK, _LARGEST_LOCK).version == self._version
        except (NotInStore, Corrupted):
            return False

    def release(self) -> None:
        with suppress(SnapperError, VersionMismatch):
            self.store.delete(Layout.PRUNE_LOCK, self._version)


@contextmanager
def prune_lock(store: Store) -> Iterator[PruneLock]:
    """Lock the store for a prune, and remove the locks of dead processes.

    Raise StoreLocked if a pack or another prune is running.
    """
    with marked(_MARK):
        version = _acquire_prune_lock(store)
        acquired = store.modified(Layout.PRUNE_LOCK) or time.time()
        lock = PruneLock(store, version, acquired)
        try:
            _remove_dead_intents(store, acquired)
            for info in list(store.list_objects(Layout.LOCKS)):
                if _is_kind(info.key, ObjectKind.TRIAL) and not _is_valid(info.modified, acquired, LEASE):
                    store.delete(info.key)
            yield lock
        finally:
            lock.release()


def _acquire_prune_lock(store: Store) -> str:
    """Write the prune lock and return its version; raise StoreLocked if another prune holds it."""
    try:
        return _write_prune_lock(store, None)
    except VersionMismatch:
        held = _read_prune_lock(store)
    if held is not None:
        if held.is_valid(_store_time(store)):
            raise StoreLocked(store.url, held.lock.action, held.lock.holder)
        _remove_prune_lock(store, held)
    try:
        return _write_prune_lock(store, None)
    except VersionMismatch:
        raise StoreLocked(store.url, "prune", "another process, which locked it first") from None


def _remove_dead_intents(store: Store, now: float) -> None:
    """Delete intents of dead processes and expired ones; raise StoreLocked if a pack is running."""
    for info in list(store.list_objects(Layout.LOCKS)):
        if not _is_kind(info.key, ObjectKind.INTENT):
            continue
        with suppress(NotInStore):
            lock = _read_intent(store, info.key)
            if lock.is_alive or (not lock.is_dead and _is_valid(info.modified, now, GRACE)):
                raise StoreLocked(store.url, lock.action, lock.holder)
            store.delete(info.key)


def _read_intent(store: Store, key: str) -> Lock:
    """Read an intent. One that cannot be read counts as an invalid one."""
    try:
        return _decode(store.read(key, _LARGEST_LOCK))
    except (Corrupted, StoreRefused) as error:
        return _unreadable_lock(error)


def _unreadable_lock(error: Corrupted | StoreRefused) -> Lock:
    """Return an invalid lock in place of one that cannot be read; raise the error if nothing can be."""
    if isinstance(error, StoreRefused) and not error.unreadable:
        raise error
    return _decode(b"")


class _HeldLock(NamedTuple):
    """The prune lock in the store; `modified` is by the store's clock. It has no version if it cannot be read."""

    lock: Lock
    version: str | None
    modified: float

    def is_valid(self, now: float) -> bool:
        """Return whether its holder is alive, or may be and has renewed it in time. `now` is by the store's clock."""
        return self.lock.is_alive or (not self.lock.is_dead and _is_valid(self.modified, now, LEASE))


def _wait_for_prune(store: Store, now: float) -> None:
    """Wait until no prune is running, and remove the lock of a dead one. `now` is the time by the store's clock.

    A prune that locks the store after the intent was written sees that, so it does not matter who removes the lock.
    """
    started = boottime()
    while (held := _read_prune_lock(store)) is not None:
        waited = boottime() - started
        if not held.is_valid(now + waited):
            with suppress(SnapperError):
                _remove_prune_lock(store, held)
            return
        if waited > _MAX_WAIT:
            raise StoreLocked(store.url, held.lock.action, held.lock.holder)
        time.sleep(_POLL_INTERVAL)


def _remove_prune_lock(store: Store, held: _HeldLock) -> None:
    """Remove the lock unless another one has taken its place, as far as that can be told."""
    if held.version is None and store.modified(Layout.PRUNE_LOCK) != held.modified:
        return
    with suppress(VersionMismatch):
        store.delete(Layout.PRUNE_LOCK, held.version)


def _is_valid(modified: float, now: float, duration: float) -> bool:
    """Return whether a lock of this time has not expired; one that is from the future never was valid."""
    return -_TOLERANCE <= now - modified <= duration


def _store_time(store: Store) -> float:
    """Return the time by the store's clock, by writing an object."""
    key = Layout.new_trial()
    store.put(key, canonical.encode(_new_lock("look")))
    try:
        return store.modified(key) or time.time()
    finally:
        store.delete(key)


def _is_kind(key: str, kind: ObjectKind) -> bool:
    parsed = Layout.parse(key)
    return parsed is not None and parsed.kind is kind


def _read_prune_lock(store: Store) -> _HeldLock | None:
    try:
        data, version = store.read_versioned(Layout.PRUNE_LOCK, _LARGEST_LOCK)
    except NotInStore:
        return None
    except (Corrupted, StoreRefused) as error:
        return _HeldLock(_unreadable_lock(error), None, store.modified(Layout.PRUNE_LOCK) or 0.0)
    return _HeldLock(_decode(data), version, store.modified(Layout.PRUNE_LOCK) or 0.0)


def _write_prune_lock(store: Store, version: str | None) -> str:
    """Write the prune lock over this version, None to create it; return its new version. Raise VersionMismatch."""
    store.replace(Layout.PRUNE_LOCK, canonical.encode(_new_lock("prune")), version)
    return store.read_versioned(Layout.PRUNE_LOCK, _LARGEST_LOCK).version


def _new_lock(action: str) -> Lock:
    """Return a lock that this process holds."""
    return Lock(
        format=FORMAT,
        action=action,
        user=current_user(),
        host=hostname(),
        machine=boot_id(),
        pid=os.getpid(),
        started=process_start_time(os.getpid()),
        time=utc_now(),
    )


def _decode(data: bytes) -> Lock:
    """Decode a lock. An invalid one counts as held by an unknown process until it expires."""
    try:
        return canonical.decode(Lock, canonical.parse(data))
    except canonical.MalformedDocument:
        return Lock(FORMAT, "process", "unknown", "unknown", "", 0, "", "an unknown time")
