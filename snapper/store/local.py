"""A store in a directory: an EBS volume, EFS, any POSIX file system.

Objects appear by rename after their bytes are on the disk; the mutable ones are made by link, which fails where
there is one, and swapped under a lock on themselves, which dies with its holder. NFS shares locks of files
between machines, but not those of directories.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapper.errors import (
    Corrupted,
    InsufficientSpace,
    NotAStore,
    NotInStore,
    ObjectTooLarge,
    SnapperError,
    StoreRefused,
)
from snapper.format.model import LARGEST_OBJECT
from snapper.fs.atomic import atomic_write, remove_leftovers, sync_directory
from snapper.store.base import DirectStore, ObjectInfo, VersionMismatch

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LocalStore(DirectStore):
    """Objects are files below `root`, at their key."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        with self._reporting(key, "read"), open(self._open(key), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise ObjectTooLarge(f"{key} in {self.url}")
            return file.readall()

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        data = self.read(key)
        return data, _version(data)

    def size(self, key: str) -> int | None:
        with self._reporting(key, "inspect"):
            try:
                status = (self.root / key).stat()
            except FileNotFoundError:
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def put(self, key: str, data: bytes | memoryview) -> bool:
        if self.size(key) == len(data):
            return False
        with self._reporting(key, "write"):
            atomic_write(self.root / key, data)
        return True

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        with self._reporting(key, "write"):
            if version is None:
                atomic_write(self.root / key, data, _link)
                return
            with _locked(self.root / key) as found:
                if found is None or _version(found) != version:
                    raise VersionMismatch
                atomic_write(self.root / key, data)

    def list_keys(self, prefix: str) -> Iterator[str]:
        top = self.root / prefix
        with self._reporting(prefix, "list"):
            found = [
                str((Path(directory) / name).relative_to(self.root))
                for directory, _, names in os.walk(top, onerror=_unless_missing)
                for name in names
                if not name.startswith(".")
            ]
        return iter(sorted(found))

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in self.list_keys(prefix):
            with self._reporting(key, "inspect"):
                try:
                    status = (self.root / key).stat()
                except FileNotFoundError:
                    continue
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo(key, status.st_size, status.st_mtime)

    def delete(self, key: str, version: str | None = None) -> bool:
        path = self.root / key
        with self._reporting(key, "delete"):
            if version is None:
                return _unlink(path)
            with _locked(path) as found:
                if found is not None and _version(found) != version:
                    raise VersionMismatch
                return _unlink(path)

    def list_root(self) -> list[str] | None:
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise NotAStore(self.url, "it is a file")
        try:
            return sorted(entry.name for entry in self.root.iterdir())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(self.url, "list the directory", error) from None

    def remove_leftovers(self) -> int:
        with self._reporting("", "remove leftovers"):
            directories = [Path(directory) for directory, _, _ in os.walk(self.root, onerror=_unless_missing)]
            return sum(remove_leftovers(directory) for directory in directories)

    def _open(self, key: str) -> int:
        descriptor = os.open(self.root / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "not a regular file", key)
        return descriptor

    @contextmanager
    def _reporting(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotInStore(key, self.url) from None
        except OSError as error:
            if error.errno == errno.EIO and action == "read":
                raise Corrupted(f"{key} in {self.url}", "the disk can no longer read it") from error
            raise _refusal(self.url, f"{action} {key}", error) from error


def _refusal(store: str, action: str, error: OSError) -> SnapperError:
    if error.errno in _NO_SPACE:
        return InsufficientSpace(store)
    return StoreRefused(store, action, error.strerror or str(error))


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unlink(path: Path) -> bool:
    """Removes a file for good; False where there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def _link(beside: Path, target: Path) -> None:
    """Renames the file to what no file may be named yet; raises VersionMismatch where one is."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise VersionMismatch from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_alone(beside, target)
    else:
        beside.unlink()


def _rename_alone(beside: Path, target: Path) -> None:
    """What `_link` does, on file systems without hard links: safe among the processes of one machine."""
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if os.path.lexists(target):
            raise VersionMismatch
        beside.rename(target)
    finally:
        os.close(directory)


@contextmanager
def _locked(path: Path) -> Iterator[bytes | None]:
    """The bytes of a file that nobody else replaces meanwhile; None where there is no such file."""
    while True:
        try:
            descriptor = _open_to_lock(path)
        except FileNotFoundError:
            yield None
            return
        with open(descriptor, "rb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file.fileno(), path):
                yield file.readall()
                return


def _open_to_lock(path: Path) -> int:
    """For writing, without which NFS gives no lock; where the user may not, local file systems give one still."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
