"""Pack the user's own Python packages with an environment, as if they were installed in it.

Python looks in the user site before the environment's own packages. So what is there replaces modules, packages, and
distributions of the environment, as `shadowed` finds them. Scripts and data that distributions have installed beside
the user site get the same places in the environment, unless something is there. They must have the checksums in RECORD:
others can have written that, and know no checksums of private files.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from snapper.environment.pip import LARGEST_RECORD, parse_record
from snapper.environment.shadowed import Packages, find_shadowed
from snapper.environment.tree import (
    File,
    SkippedPath,
    Tree,
    missing_directories,
    obstacle,
    walk,
    why_impossible,
)
from snapper.environment.user_packages import UserSite
from snapper.errors import FileOperationFailed
from snapper.fs.beneath import open_beneath
from snapper.fs.directories import closing_descriptor, pin_directory
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.fs.small_files import read_beneath

_CHUNK = 1 << 20

#: The directories beside the user site in which distributions install scripts and data.
_BESIDE = ("bin", "share", "etc", "include")

_NO_DIRECTORY = "the environment has no directory there, so your own packages cannot be packed below it"
_REPLACED = "your own packages replace it"
_UNUSED = "it has no __init__.py, so Python imports the package in the environment instead"

_ADVICE = "Install these packages into the environment, or pack it without --user-site=include."


@dataclass(frozen=True)
class OpenedSite:
    """A user site that is to be included, open, and what is in it."""

    site: UserSite
    directory: PinnedDirectory
    tree: Tree

    @property
    def included_path(self) -> str:
        """Where in the environment its packages will be."""
        return _included_path(self.site)

    @property
    def spellings(self) -> tuple[str, ...]:
        """The paths by which files may refer to it, the longest first."""
        path = str(self.site.path)
        return tuple(sorted({path, os.path.realpath(path)}, key=lambda spelling: (-len(spelling), spelling)))

    @property
    def base(self) -> str:
        """The directory whose `lib` it is in."""
        return str(self.site.path.parent.parent.parent)


@dataclass(frozen=True)
class MergedSites:
    """A tree with user sites in it, and where their files are, by the path in the environment."""

    tree: Tree
    targets: Mapping[str, str]


def _included_path(site: UserSite) -> str:
    return f"lib/{site.python}/site-packages"


def open_site(site: UserSite) -> OpenedSite:
    """Open a user site, and list what is in it. Raise FileOperationFailed, PermissionDenied."""
    try:
        directory = pin_directory(site.path)
    except OSError as error:
        raise FileOperationFailed(str(site.path), str(error.strerror), _ADVICE) from None
    if not is_own(directory.status):
        reason = f"it belongs to the user {owner_name(directory.status)}"
        raise FileOperationFailed(str(site.path), reason, _ADVICE)
    top = _included_path(site)
    return OpenedSite(site, directory, walk(directory, lambda path: why_impossible(f"{top}/{path}")))


def merge_sites(environment: Top, tree: Tree, sites: Iterable[OpenedSite], prefix: str) -> MergedSites:
    """Return the tree of an environment with what is in the user sites, as if it was there. Its files contain `prefix`.

    Raise FileOperationFailed if a site would be below a link or a file, PermissionDenied.
    """
    merge = _Merge(environment, prefix, {file.path: file for file in tree.files}, list(tree.skipped))
    for opened in sites:
        merge.add_site(opened)
        merge.add_beside(opened)
    merged = replace(tree, files=tuple(merge.files.values()), skipped=tuple(merge.skipped))
    return MergedSites(merged, merge.targets)


@dataclass
class _Merge:
    """The files of an environment, which contain `prefix`, with those of the user sites that were added."""

    environment: Top
    prefix: str
    files: dict[str, File]
    skipped: list[SkippedPath]
    targets: dict[str, str] = field(default_factory=dict)

    def add_site(self, opened: OpenedSite) -> None:
        """Add what is in the user site, and leave out what that replaces."""
        top = opened.included_path
        in_the_way = obstacle(self.files, f"{top}/")
        if in_the_way is not None:
            raise FileOperationFailed(in_the_way.path, _NO_DIRECTORY, _ADVICE)
        packages = Packages(self.environment, top, self.files)
        shadowed = find_shadowed(packages, Packages(opened.directory, "", opened.tree.by_path))
        self.files = {path: file for path, file in self.files.items() if path not in shadowed.paths}
        for file in opened.tree.files:
            if any(f"{file.path}/".startswith(f"{package}/") for package in shadowed.unused):
                continue
            path = f"{top}/{file.path}"
            self._leave_out_other_type(path, file)
            self.files[path] = _retarget(file, opened.base, self.prefix)._replace(path=path)
            self.targets[path] = f"{opened.site.path}/{file.path}"
        self.skipped += (
            SkippedPath(f"{opened.site.path}/{path}", reason) for path, reason in opened.tree.skipped
        )
        self.skipped += (SkippedPath(f"{opened.site.path}/{path}", _UNUSED) for path in shadowed.unused)

    def add_beside(self, opened: OpenedSite) -> None:
        """Add scripts and data of distributions in the user site, unless something is there."""
        for found in _files_beside(opened):
            if isinstance(found, SkippedPath):
                self.skipped.append(found)
                continue
            in_the_way = obstacle(self.files, found.path)
            if in_the_way is not None:
                reason = f"{in_the_way.path} in the environment is not a directory"
                self.skipped.append(SkippedPath(f"{opened.base}/{found.path}", reason))
            elif found.path not in self.files:
                self.files |= missing_directories(self.files, found.path)
                self.files[found.path] = found
                self.targets[found.path] = f"{opened.base}/{found.path}"

    def _leave_out_other_type(self, path: str, file: File) -> None:
        """Name what is at the path if it is no directory and the file is one, or the other way round; leave it out."""
        own = self.files.get(path)
        if own is None or (own.type == "directory") == (file.type == "directory"):
            return
        self.skipped.append(SkippedPath(path, _REPLACED))
        self.files = {
            other: each for other, each in self.files.items() if not f"{other}/".startswith(f"{path}/")
        }


def _retarget(file: File, base: str, prefix: str) -> File:
    """Return the file; if it is an absolute link into the user's directory, one to where that will be."""
    is_own_link = file.type == "symlink" and file.target.startswith(f"{base}/lib/")
    return file._replace(target=prefix + file.target[len(base) :]) if is_own_link else file


def _files_beside(opened: OpenedSite) -> Iterator[File | SkippedPath]:
    """Yield the scripts and data that distributions list, with their paths in the environment.

    Those that are not what was installed are skipped.
    """
    for path, checksum in _listed_beside(opened):
        reason = why_impossible(path)
        if reason is not None:
            yield SkippedPath(f"{opened.base}/{path}", reason)
            continue
        with suppress(OSError), closing_descriptor(open_beneath(opened.base, path)) as file:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or not is_own(status):
                continue
            if _checksum_of(file) == checksum:
                yield _file(path, status)
            else:
                yield SkippedPath(f"{opened.base}/{path}", "it is not what its distribution has installed")


def _listed_beside(opened: OpenedSite) -> Iterator[tuple[str, str]]:
    """Yield the paths in the environment of scripts and data that distributions list, and their checksums."""
    for file in opened.tree.files:
        if re.fullmatch(r"[^/]+\.dist-info/RECORD", file.path):
            with suppress(OSError):
                data = read_beneath(opened.directory, file.path, LARGEST_RECORD)
                for path, checksum, _ in parse_record(data, opened.included_path):
                    if checksum and path.split("/")[0] in _BESIDE:
                        yield path, checksum


def _checksum_of(file: int) -> str:
    """Return the checksum of an open file as RECORD has it."""
    digest = hashlib.sha256()
    while chunk := os.read(file, _CHUNK):
        digest.update(chunk)
    return f"sha256={base64.urlsafe_b64encode(digest.digest()).decode().rstrip('=')}"


def _file(path: str, status: os.stat_result) -> File:
    mode, links = stat.S_IMODE(status.st_mode), status.st_nlink
    times = status.st_mtime_ns, status.st_ctime_ns
    return File(path, "file", status.st_size, mode, *times, status.st_ino, status.st_dev, links)
