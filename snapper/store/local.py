"""A store in a directory: on an EBS volume, EFS, or any other POSIX file system.

Objects appear by renaming files whose data is on the disk. Mutable objects are created by hard link, which fails if
the name exists, and replaced under a lock (`fs/lock_file`). The directory itself may be a link that the user has
chosen; below it, no link is followed, because others may write to the store.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shlex
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from snapper.errors import (
    Corrupted,
    InsufficientSpace,
    LockHeld,
    NotAStore,
    NotInStore,
    ObjectTooLarge,
    SnapperError,
    StoreRefused,
)
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT
from snapper.fs.atomic import make_directory, remove_leftovers, replace_entry, temporary_name, write_entry
from snapper.fs.beneath import LISTING, LOOKUP, open_own_path
from snapper.fs.directories import closing_descriptor, sync_names
from snapper.fs.errors import is_disk_full
from snapper.fs.lock_file import LockTimeout
from snapper.fs.mounts import has_true_owners
from snapper.fs.moves import NO_HARD_LINKS, Entry, move
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.small_files import read_entry
from snapper.store.base import DirectStore, ObjectInfo, ObjectStatus, VersionedObject, VersionMismatch
from snapper.store.entry_lock import locked_entry
from snapper.store.object_files import ObjectFiles, opened_files

logger = logging.getLogger(__name__)

#: The modes of new stores, less the umask: a group may share a store, but nobody else should be able to read private
#: environments in one that nobody has chosen.
_MODE = 0o777
_MODE_OF_DEFAULT = 0o700

#: The mode of objects that never change, less the umask: a group may replace and remove them, but not write to them.
_MODE_OF_IMMUTABLE = 0o644

_REPLACE_LINK = (
    "If you trust what it leads to, put that in its place (or mount it there); otherwise, remove the link and repair "
    "the store (snapper verify --data --repair)."
)


@dataclass(frozen=True)
class LocalStore(DirectStore):
    """A store whose objects are files below `root`, at their keys."""

    root: Path

    #: The device and inode of the directory when the store was opened, None if there was none: nothing is done in
    #: another directory that has taken its place since.
    identity: tuple[int, int] | None = field(default=None, compare=False, repr=False, kw_only=True)

    @property
    def url(self) -> str:
        return str(self.root)

    @classmethod
    def opened(cls, root: Path, *, is_default: bool = False) -> LocalStore:
        """Return the store in the directory that is at `root` now, if there is one.

        Raise StoreRefused if a link of another user leads to it: who can change where it leads could have objects of
        this user's other stores deleted. Raise it as well if nobody has chosen the directory, because it is the
        default, and it belongs to another user.
        """
        try:
            descriptor = open_own_path(str(root), LOOKUP)
        except OSError as error:
            if error.errno == errno.EPERM:
                advice = f"If you trust that user, name the directory itself: {os.path.realpath(root)}."
                raise StoreRefused(str(root), "", str(error.strerror), advice) from None
            return cls(root)
        with closing_descriptor(descriptor):
            status = os.fstat(descriptor)
            if is_default and not is_own(status):
                raise _default_of_other(root, status)
            return cls(root, identity=_identity(status))

    def made(self, *, is_default: bool = False) -> LocalStore:
        """Return the store in its directory, which is created if there is none; raise what `opened` raises."""
        if self.identity is not None:
            return self
        with self._mapped_errors(Layout.MARKER, "write"):
            make_directory(self.root, _MODE_OF_DEFAULT if is_default else _MODE)
        return LocalStore.opened(self.root, is_default=is_default)

    def read(self, key: str, limit: int = LARGEST_OBJECT) -> bytes:
        with self._mapped_errors(key, "read"), self._files() as files:
            return files.read(key, limit)

    def read_versioned(self, key: str, limit: int = LARGEST_OBJECT) -> VersionedObject:
        data = self.read(key, limit)
        return VersionedObject(data, _version(data))

    def inspect(self, key: str) -> ObjectStatus | None:
        """Return what is known of the object.

        A file that only this user or root can have put there is attested: others cannot write to it or its directory,
        and it would have another owner if they had.
        """
        try:
            with self._mapped_errors(key, "inspect"), self._files() as files:
                found = files.inspect(key)
        except NotInStore:
            return None
        if found is None:
            return None
        status, is_private = found
        is_attested = status.st_nlink == 1 and is_private and self._has_true_owners
        return ObjectStatus(status.st_size, is_attested, _object_identity(status))

    @property
    def attests_own(self) -> bool:
        with self._mapped_errors("", "inspect"), self._files() as files:
            return files.is_top_private() and self._has_true_owners

    def sizes(self, prefix: str, keys: Collection[str]) -> dict[str, int]:
        with suppress(NotInStore), self._mapped_errors(prefix, "inspect"), self._files() as files:
            found = ((key, files.status(key)) for key in keys)
            return {key: status.st_size for key, status in found if status}
        return {}

    def put(self, key: str, data: bytes | memoryview) -> str:
        if self.size(key) == len(data) and not self._is_false(key, data):
            return ""
        with self._mapped_errors(key, "write"), self._new_entry(key) as entry:
            return _object_identity(write_entry(entry, data, _replace, mode=_MODE_OF_IMMUTABLE))

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        with self._mapped_errors(key, "write"):
            if version is None:
                with self._new_entry(key) as entry:
                    write_entry(entry, data, self._create)
                return
            try:
                with (
                    self._files() as files,
                    files.entry(key, LISTING) as entry,
                    self._locked(entry),
                ):
                    if _version(read_entry(entry, LARGEST_OBJECT)) != version:
                        raise VersionMismatch
                    write_entry(entry, data)
            except FileNotFoundError:
                raise VersionMismatch from None

    def list_keys(self, prefix: str) -> Iterator[str]:
        keys: list[str] = []
        with suppress(NotInStore), self._mapped_errors(prefix, "list"), self._files() as files:
            keys += (key for key, _ in files.walk(prefix))
        return iter(sorted(keys))

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        found = []
        with suppress(NotInStore), self._mapped_errors(prefix, "list"), self._files() as files:
            for key, entry in files.walk(prefix):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append(ObjectInfo(key, status.st_size, status.st_mtime))
        return iter(sorted(found))

    def modified(self, key: str) -> float | None:
        with suppress(NotInStore), self._mapped_errors(key, "inspect"), self._files() as files:
            return files.modified(key)
        return None

    def delete(self, key: str, version: str | None = None) -> bool:
        with self._mapped_errors(key, "delete"):
            try:
                with self._files() as files, files.entry(key, LISTING) as entry:
                    if version is None:
                        return _remove(entry)
                    with self._locked(entry):
                        if _version(read_entry(entry, LARGEST_OBJECT)) != version:
                            raise VersionMismatch
                        return _remove(entry)
            except FileNotFoundError:
                return False

    def list_root(self) -> list[str] | None:
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise NotAStore(self.url, "it is a file")
        try:
            with self._files() as files, closing_descriptor(os.open(".", LISTING, dir_fd=files.top)) as top:
                return sorted(os.listdir(top))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._map_error(error, "", "list objects") from None

    def remove_leftovers(self) -> int:
        """Remove temporary files; others than those of a store are not looked at, such as the cache on a notebook."""
        count = 0
        with self._mapped_errors("", "remove leftovers"), self._files() as files:
            with files.entry(Layout.MARKER, LISTING) as entry:
                count += remove_leftovers(entry.directory)
            for prefix in Layout.PREFIXES:
                for directory in files.directories(prefix):
                    count += remove_leftovers(directory.descriptor)
        return count

    def check_writable(self, prefix: str) -> None:
        with suppress(NotInStore), self._mapped_errors(prefix, "write"), self._files() as files:
            with files.entry(f"{prefix}object") as entry:
                if os.access(".", os.W_OK | os.X_OK, dir_fd=entry.directory):
                    return
            action = f"write to {prefix.rstrip('/')}"
            raise StoreRefused(self.url, action, "permission denied, or the file system is read-only")

    def _is_false(self, key: str, data: bytes | memoryview) -> bool:
        """Return whether an object that is named by its digest has other bytes than these, which have that digest.

        Whoever has written one that cannot be read must not keep this user from storing it.
        """
        if not Layout.digest_of(key):
            return False
        try:
            return self.read(key) != data
        except (NotInStore, Corrupted):
            return True
        except StoreRefused as error:
            if error.unreadable:
                return True
            raise

    @cached_property
    def _has_true_owners(self) -> bool:
        with self._files() as files:
            return has_true_owners(files.top)

    @contextmanager
    def _files(self) -> Iterator[ObjectFiles]:
        with opened_files(self.root) as files:
            if self.identity is None:
                raise FileNotFoundError(errno.ENOENT, "it did not exist when it was opened", self.url)
            if _identity(os.fstat(files.top)) != self.identity:
                reason = "another directory has taken its place since it was opened"
                raise OSError(errno.ESTALE, reason, self.url)
            yield files

    @contextmanager
    def _new_entry(self, key: str) -> Iterator[Entry]:
        """Yield the entry at which to write the object, in a directory that is created if necessary."""
        with self._files() as files, files.entry(key, LISTING, make=True) as entry:
            yield entry

    def _create(self, temporary: Entry, target: Entry) -> None:
        """Rename the file; raise VersionMismatch if there is an object with the target's key."""
        try:
            _rename_by_link(temporary, target)
        except FileExistsError:
            self._create_under_lock(temporary, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            self._create_under_lock(temporary, target)

    def _create_under_lock(self, temporary: Entry, target: Entry) -> None:
        """Do the same on file systems without hard links, and where something has the key that is no object."""
        with self._locked(target):
            _rename_what_is_no_object(target)
            try:
                move(temporary, target)
            except FileExistsError:
                raise VersionMismatch from None

    @contextmanager
    def _locked(self, entry: Entry) -> Iterator[None]:
        """Keep other processes from changing mutable objects in the directory of this one."""
        try:
            with locked_entry(entry, self._report_holder):
                yield
        except LockTimeout as error:
            raise LockHeld(self.url, str(error)) from None

    def _report_holder(self, holder: str) -> None:
        logger.warning("waiting for %s, which has locked the entries in the store %s", holder, self.url)

    @contextmanager
    def _mapped_errors(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._map_error(error, key, action) from error

    def _map_error(self, error: OSError, key: str, action: str) -> SnapperError:
        result: SnapperError
        if isinstance(error, FileNotFoundError):
            result = NotInStore(key, self.url)
        elif error.errno == errno.ELOOP:
            result = self._link_error(error, key, action)
        elif action == "read" and error.errno in _UNREADABLE:
            result = _UNREADABLE[error.errno](key, self.url)
        elif is_disk_full(error):
            result = InsufficientSpace(self.url)
        else:
            result = StoreRefused(self.url, f"{action} {key}".strip(), error.strerror or str(error))
            if action == "read" and error.errno == errno.EACCES:
                result = replace(result, unreadable=key)
        return result

    def _link_error(self, error: OSError, key: str, action: str) -> SnapperError:
        """Return the error for a link: a corrupted object, or a directory through which nothing is done."""
        if error.filename in (key, key.rpartition("/")[2]):
            return Corrupted(f"{key} in {self.url}", "it is a symbolic link", _REPLACE_LINK)
        reason = (
            f"{error.filename} is a symbolic link, and links below the store's directory are not followed"
        )
        unreadable = key if action == "read" else ""
        return StoreRefused(self.url, f"{action} {key}", reason, _REPLACE_LINK, unreadable)


#: What it means that an object cannot be read, by the code of the operating system's error.
_UNREADABLE: Mapping[int | None, Callable[[str, str], SnapperError]] = {
    errno.EINVAL: NotInStore,
    errno.EFBIG: lambda key, url: ObjectTooLarge(f"{key} in {url}"),
    errno.EIO: lambda key, url: Corrupted(f"{key} in {url}", "the disk cannot read it"),
}


def _replace(temporary: Entry, target: Entry) -> None:
    """Rename the file to the name of the target. A directory of that name gets another one, which no object has."""
    try:
        replace_entry(temporary, target)
    except IsADirectoryError:
        _rename_what_is_no_object(target)
        replace_entry(temporary, target)


def _rename_by_link(temporary: Entry, target: Entry) -> None:
    """Rename the file; may raise OSError, FileExistsError if something has the name of the target."""
    directories = {"src_dir_fd": temporary.directory, "dst_dir_fd": target.directory}
    os.link(temporary.name, target.name, **directories, follow_symlinks=False)
    os.unlink(temporary.name, dir_fd=temporary.directory)


def _rename_what_is_no_object(target: Entry) -> None:
    """Give a directory, or a pipe or the like, another name, which no object has."""
    with suppress(FileNotFoundError):
        mode = os.lstat(target.name, dir_fd=target.directory).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            move(target, Entry(target.directory, temporary_name(target.name)))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _object_identity(status: os.stat_result) -> str:
    """Return the identity of an object, without the number of the device, which can change at each mount."""
    return f"{status.st_ino}:{status.st_ctime_ns}"


def _default_of_other(root: Path, status: os.stat_result) -> StoreRefused:
    reason = f"it is the default, but its directory belongs to the user {owner_name(status)}"
    advice = f"If you trust that user, choose it: snapper config set store {shlex.quote(str(root))}"
    return StoreRefused(str(root), "", reason, f"{advice}. Otherwise, choose another directory.")


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _remove(entry: Entry) -> bool:
    """Remove a file durably."""
    os.unlink(entry.name, dir_fd=entry.directory)
    sync_names(entry.directory)
    return True
