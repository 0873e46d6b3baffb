"""A store in a directory: on an EBS volume, EFS, or any other POSIX file system.

Objects appear by renaming files whose data is on the disk. Mutable objects are created by hard link, which fails if
the name exists, and replaced under a lock on the file itself, which disappears with its holder. NFS shares locks of
files between machines, but not locks of directories.
"""

from __future__ import annotations

import errno
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
from snapper.fs.errors import is_disk_full
from snapper.fs.locks import locked_directory, locked_file
from snapper.store.base import DirectStore, ObjectInfo, VersionedObject, VersionMismatch

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LocalStore(DirectStore):
    """A store whose objects are files below `root`, at their keys."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        with self._mapped_errors(key, "read"), open(self._open(key), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise ObjectTooLarge(f"{key} in {self.url}")
            return file.readall()

    def read_versioned(self, key: str) -> VersionedObject:
        data = self.read(key)
        return VersionedObject(data, _version(data))

    def size(self, key: str) -> int | None:
        with self._mapped_errors(key, "inspect"):
            try:
                status = (self.root / key).stat()
            except FileNotFoundError:
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def put(self, key: str, data: bytes | memoryview) -> bool:
        if self.size(key) == len(data):
            return False
        with self._mapped_errors(key, "write"):
            atomic_write(self.root / key, data)
        return True

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        path = self.root / key
        with self._mapped_errors(key, "write"):
            if version is None:
                atomic_write(path, data, _rename_exclusively)
                return
            with locked_file(path) as file:
                if file is None or _version(file.readall()) != version:
                    raise VersionMismatch
                atomic_write(path, data)

    def list_keys(self, prefix: str) -> Iterator[str]:
        top = self.root / prefix
        with self._mapped_errors(prefix, "list"):
            keys = [
                str((Path(directory) / name).relative_to(self.root))
                for directory, _, names in os.walk(top, onerror=_raise_unless_missing)
                for name in names
                if not name.startswith(".")
            ]
        return iter(sorted(keys))

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in self.list_keys(prefix):
            with self._mapped_errors(key, "inspect"):
                try:
                    status = (self.root / key).stat()
                except FileNotFoundError:
                    continue
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo(key, status.st_size, status.st_mtime)

    def delete(self, key: str, version: str | None = None) -> bool:
        path = self.root / key
        with self._mapped_errors(key, "delete"):
            if version is None:
                return _unlink(path)
            with locked_file(path) as file:
                if file is not None and _version(file.readall()) != version:
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
            raise _map_error(self.url, "list objects", error) from None

    def remove_leftovers(self) -> int:
        with self._mapped_errors("", "remove leftovers"):
            walk = os.walk(self.root, onerror=_raise_unless_missing)
            directories = [Path(directory) for directory, _, _ in walk]
            return sum(remove_leftovers(directory) for directory in directories)

    def check_writable(self, prefix: str) -> None:
        directory = self.root / prefix
        if directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
            action = f"write to {prefix.rstrip('/')}"
            raise StoreRefused(self.url, action, "permission denied, or the file system is read-only")

    def _open(self, key: str) -> int:
        descriptor = os.open(self.root / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "not a regular file", key)
        return descriptor

    @contextmanager
    def _mapped_errors(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotInStore(key, self.url) from None
        except OSError as error:
            if error.errno == errno.EIO and action == "read":
                raise Corrupted(f"{key} in {self.url}", "the disk cannot read it") from error
            raise _map_error(self.url, f"{action} {key}".strip(), error) from error


def _map_error(url: str, action: str, error: OSError) -> SnapperError:
    if is_disk_full(error):
        return InsufficientSpace(url)
    return StoreRefused(url, action, error.strerror or str(error))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unlink(path: Path) -> bool:
    """Remove a file durably; return False if it does not exist."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def _rename_exclusively(temporary: Path, target: Path) -> None:
    """Rename the file; raise VersionMismatch if the target exists."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise VersionMismatch from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_under_lock(temporary, target)
    else:
        temporary.unlink()


def _rename_under_lock(temporary: Path, target: Path) -> None:
    """Rename exclusively on file systems without hard links: safe for processes of one machine only."""
    with locked_directory(target.parent):
        if os.path.lexists(target):
            raise VersionMismatch
        temporary.rename(target)
