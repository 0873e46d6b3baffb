"""Lock files with heartbeats, for file systems that have no locks.

A lease is a file beside the locked one, `NAME.RANDOM.lease`, which says who holds the lock. Its name is never used
again. To lock a file, a process creates its lease, then looks for those of others. If there is one, it removes its own,
and tries again. Of two processes, at least one sees the other, and whoever removes an expired lease cannot remove
another one.

A lease is valid as long as its holder is known to be alive, and no longer once the holder is known to be dead, which
can only be known on the same host since the same boot. Elsewhere, it is valid until its holder has not renewed its
modification time for `EXPIRES_AFTER` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from snapper.fs.lock_names import is_lease_name, new_lease_name
from snapper.fs.moves import Entry
from snapper.fs.small_files import read_entry
from snapper.process.identity import (
    boot_id,
    hostname,
    is_process_alive,
    process_start_time,
    user_at_host,
    utc_now,
)

logger = logging.getLogger(__name__)

#: How old the last renewal of a lease may be if its holder is on another host, in seconds.
EXPIRES_AFTER = 50.0
_RENEWED_EVERY = 5.0

#: How long two processes that see each other wait at most before they try again, in seconds.
_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.0)

_LARGEST = 4096

#: The devices that have been reported.
_reported: set[int] = set()

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease; the defaults are those of one that is unknown."""

    user: str = "an unknown user"
    host: str = ""
    boot: str = ""
    pid: int = 0
    started: str = ""
    time: str = "an unknown time"

    def __str__(self) -> str:
        return f"{self.user} (process {self.pid}, since {self.time})"

    @property
    def is_here(self) -> bool:
        """Whether the process is known to be one of this host, boot, and namespace."""
        return bool(self.boot) and (self.host, self.boot) == (hostname(), boot_id())


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds, and renews until it ends it."""

    file: Entry
    descriptor: int
    ended: threading.Event = field(default_factory=threading.Event)

    def start_renewing(self) -> None:
        threading.Thread(target=self._renew, daemon=True).start()

    def end(self) -> None:
        """Remove the lease."""
        self.ended.set()
        with suppress(OSError):
            os.unlink(self.file.name, dir_fd=self.file.directory)
        os.close(self.descriptor)

    def _renew(self) -> None:
        while not self.ended.wait(_RENEWED_EVERY):
            with suppress(OSError):
                os.utime(self.file.name, dir_fd=self.file.directory, follow_symlinks=False)


def acquire(file: Entry) -> Lease | None:
    """Lock the file, which is in an open directory; return None if another process holds it. May raise OSError."""
    _report_once(file.directory)
    for pause in _PAUSES:
        if find_holder(file) is None:
            lease = _create(file)
            if find_holder(file, besides=lease.file.name) is None:
                lease.start_renewing()
                return lease
            lease.end()
        time.sleep(random.uniform(0, pause))
    return None


def find_holder(file: Entry, besides: str = "") -> Holder | None:
    """Return who holds a lease on the file, None if nobody does; remove those that have expired. May raise OSError."""
    for name in os.listdir(file.directory):
        if name != besides and is_lease_name(name, file.name):
            with suppress(FileNotFoundError):  # it has just ended
                lease = Entry(file.directory, name)
                holder = _read(lease)
                if _is_valid(lease, holder, file):
                    return holder
                with suppress(PermissionError):
                    os.unlink(name, dir_fd=file.directory)
    return None


def _create(file: Entry) -> Lease:
    lease = Entry(file.directory, new_lease_name(file.name))
    descriptor = os.open(lease.name, _FLAGS, 0o644, dir_fd=lease.directory)
    pid = os.getpid()
    holder = Holder(user_at_host(), hostname(), boot_id(), pid, process_start_time(pid), utc_now())
    with suppress(OSError):  # on a full disk, it is one of an unknown process
        os.write(descriptor, json.dumps(asdict(holder)).encode())
    return Lease(lease, descriptor)


def _read(lease: Entry) -> Holder:
    """Return who holds a lease. Whoever may write to the directory may have written it. Raise FileNotFoundError."""
    try:
        fields = json.loads(read_entry(lease, _LARGEST))
        holder = Holder(**{name: type(getattr(Holder, name))(value) for name, value in fields.items()})
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return Holder()
    return holder


def _is_valid(lease: Entry, holder: Holder, file: Entry) -> bool:
    if holder.is_here:
        return is_process_alive(holder.pid, holder.started)
    now = _now(file)
    return abs(now - os.lstat(lease.name, dir_fd=lease.directory).st_mtime) <= EXPIRES_AFTER


def _now(file: Entry) -> float:
    """Return the time by the clock that the file system sets modification times by, which can be a server's."""
    with suppress(OSError):
        os.utime(file.name, dir_fd=file.directory, follow_symlinks=False)
        return os.lstat(file.name, dir_fd=file.directory).st_mtime
    return time.time()


def _report_once(directory: int) -> None:
    """Say, once for each file system, that it has no locks."""
    device = os.fstat(directory).st_dev
    if device in _reported:
        return
    _reported.add(device)
    path = f"device {device}"
    with suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{directory}")
    logger.warning(
        "the file system of %s has no locks (flock), so lock files are used: what a machine that is switched off "
        "has locked there stays locked for %d seconds",
        path,
        EXPIRES_AFTER,
    )
