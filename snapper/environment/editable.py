"""Editable installs: packages of an environment whose code is in a directory outside of it.

`editable_links` recognizes them in all their forms.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from snapper.environment import conda
from snapper.environment.editable_links import Link, read_links
from snapper.environment.lookup import Lookup
from snapper.environment.projects import (
    PROJECT_FILES,
    SOURCE_DIRECTORIES,
    is_project,
    normalized,
    project_names,
)
from snapper.environment.tree import (
    File,
    SkippedPath,
    Tree,
    missing_directories,
    obstacle,
    walk,
    why_impossible,
)
from snapper.errors import FileOperationFailed, PermissionDenied
from snapper.format import bytecode
from snapper.fs.beneath import LOOKUP, is_possible_path
from snapper.fs.directories import pin_directory
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.settings.directories import home_directory

#: The directory in the environment for the sources of included editable installs.
INCLUDED = "share/snapper/editable"

#: The longest name of an included source, in characters: it names a directory.
_LONGEST_NAME = 60

#: The work of looking up where one link leads, on average.
_WORK = 1000

#: What is in directories that the tools which made them make again: the sign of all caches, and that of Cargo's.
_CACHE_FILES = ("CACHEDIR.TAG", ".rustc_info.json")

#: What tools leave inside of packages; at the top of a project, nearly all that is hidden is theirs.
_OF_TOOLS = (
    *("__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *(".gitignore", ".gitkeep", ".gitattributes", ".git", ".DS_Store"),
)

_IGNORE = "Keep the link with --editable=ignore, or remove it from the environment if you do not know it."
_RESTORE_SOURCE = (
    "Restore or mount the directory, or reinstall the package (without -e if the directory is gone)."
)
_NO_DIRECTORY = (
    "the environment has no directory there, so the sources of editable installs cannot be packed below it"
)
_MAKE_DIRECTORY = "Replace it by a directory, or keep the links to the sources with --editable=ignore."
_REINSTALL = "Reinstall the package without -e, or keep the link with --editable=ignore."


@dataclass(frozen=True)
class Editable:
    """A source directory, and the environment's files that refer to it.

    `spellings` are the paths by which they do that, the longest first: some may lead through links. `builder` compiles
    the package when it is imported; empty if none does. `distribution` is the name of the package as installed, if the
    files have it.
    """

    name: str
    source: str
    links: tuple[str, ...]
    spellings: tuple[str, ...] = ()
    builder: str = ""
    distribution: str = ""

    @property
    def included_path(self) -> str:
        """The source's path inside of the environment when it is included."""
        return f"{INCLUDED}/{self.name}"


@dataclass(frozen=True)
class OpenedSource:
    """The source of an editable install that is to be included, open."""

    editable: Editable
    directory: PinnedDirectory


def find(prefix: Path | PinnedDirectory, tree: Tree) -> tuple[Editable, ...]:
    """Return the editable installs of an environment whose sources are outside of it, by source.

    A source that does not exist counts if it is known which package it belongs to: a mere line in a `.pth` file may
    be a leftover. Raise PermissionDenied, FileOperationFailed.
    """
    links = read_links(prefix, tree)
    tops = os.path.abspath(str(prefix)), os.path.realpath(str(prefix))
    named = {link.source for link in links if link.name}
    links = [
        link
        for link in links
        if is_possible_path(link.source)
        and (link.source in named or os.path.exists(link.source))
        and not any(map(partial(_is_within, link.source), tops))
    ]
    return tuple(_with_unique_names([_make_editable(group) for group in _by_source(links)]))


def open_source(install: Editable, prefix: Path) -> OpenedSource:
    """Open the source directory to include it; what is at its path later does not matter.

    Whoever published an environment chose what its links refer to: it may be a directory of credentials, which must not
    become part of the next snapshot. Nor must another project of the user, so the project must have the package's name.
    Raise FileOperationFailed if it is missing, of another user, not such a project, or compiled when it is imported;
    PermissionDenied.
    """
    try:
        directory = pin_directory(Path(install.source))
    except FileNotFoundError:
        raise _refused(install, "the directory does not exist", _RESTORE_SOURCE) from None
    except OSError as error:
        if error.errno == errno.EACCES:
            raise PermissionDenied(install.source, "read") from None
        raise _refused(install, str(error.strerror), _IGNORE) from None
    if not is_own(directory.status):
        owner = owner_name(directory.status)
        raise _refused(install, f"it belongs to the user {owner}", _REINSTALL)
    if install.builder:
        raise _refused(install, _why_rebuilt(install), _REINSTALL)
    reason = _why_not_project(install, directory, prefix)
    if reason:
        raise _refused(install, reason, _IGNORE)
    return OpenedSource(install, directory)


def _refused(install: Editable, reason: str, advice: str) -> FileOperationFailed:
    reason = f"{install.links[0]} in the environment refers to it, but {reason}"
    return FileOperationFailed(install.source, reason, advice)


def _why_not_project(install: Editable, directory: PinnedDirectory, prefix: Path) -> str:
    """Return why the directory is not taken for the Python project of the package, "" if it is."""
    source, home = str(directory), home_directory()
    real = os.path.realpath(source)
    if not _is_at(directory, real):
        return "it was replaced while it was opened"
    if any(_is_at(directory, top) for path in (home, prefix) for top in _with_parents(path)):
        return "it contains your home directory or the environment"
    if "/." in real or "/." in source:
        return "hidden directories are not included"
    parent, name = os.path.split(real)
    tops: list[Top] = [directory]
    if name in SOURCE_DIRECTORIES and parent != os.path.realpath(home):
        above = os.open("..", LOOKUP, dir_fd=directory.descriptor)
        tops.append(PinnedDirectory(Path(parent), above))
    if not any(is_project(top) for top in tops):
        return f"it is not a Python project: it has none of the files {', '.join(PROJECT_FILES)}"
    return _why_not_of_package(tops, install.distribution)


def _why_not_of_package(tops: Iterable[Top], distribution: str) -> str:
    """Return why a project is not taken for that of the installed package, "" if it is or if that has no name.

    `tops` are directories that may be that of the project.
    """
    names = project_names(tops)
    if not distribution or normalized(distribution) in names:
        return ""
    called = f"is called {', '.join(sorted(names))}" if names else "does not say what it is called"
    return f"that project {called}, and the installed package is {distribution}"


def _with_parents(path: Path) -> tuple[Path, ...]:
    real = Path(os.path.realpath(path))
    return (real, *real.parents)


def _is_at(directory: PinnedDirectory, path: str | Path) -> bool:
    """Return whether the path leads to the directory."""
    try:
        return os.path.samestat(os.stat(path), directory.status)
    except OSError:
        return False


def _why_rebuilt(install: Editable) -> str:
    return (
        f"{install.name} was installed by {install.builder}, which compiles it again when it is imported, in a build "
        "directory that cannot be moved"
    )


def include(tree: Tree, sources: tuple[OpenedSource, ...], prefix: str) -> Tree:
    """Return the tree with the sources in it, as if they were in the environment, whose files contain `prefix`.

    They replace what is there, and links to them lead to where they will be. Environments inside of a source,
    caches, modules compiled from it, and what is hidden, such as `.git` and `.env`, which may contain credentials,
    are left out. Raise FileOperationFailed if they would be below a link or a file.
    """
    editables = [source.editable for source in sources]
    changed = {link for editable in editables for link in editable.links}
    replaced = tuple(f"{editable.included_path}/" for editable in editables)
    files = {
        file.path: _retarget(file, posixpath.join(prefix, file.path), editables, prefix)
        for file in tree.files
        if bytecode.source_of(file.path) not in changed and not f"{file.path}/".startswith(replaced)
    }
    skipped = list(tree.skipped)
    for source in sources:
        editable, top = source.editable, f"{source.editable.included_path}/"
        in_the_way = obstacle(files, top)
        if in_the_way is not None:
            raise FileOperationFailed(in_the_way.path, _NO_DIRECTORY, _MAKE_DIRECTORY)
        included = walk(source.directory, partial(_exclude, source.directory, top))
        files |= missing_directories(files, top)
        for file in included.files:
            moved = _retarget(file, f"{editable.source}/{file.path}", editables, prefix)
            files[f"{top}{file.path}"] = moved._replace(path=f"{top}{file.path}")
        skipped += [SkippedPath(f"{editable.source}/{path}", reason) for path, reason in included.skipped]
    return replace(tree, files=tuple(files.values()), skipped=tuple(skipped))


def _retarget(file: File, place: str, editables: Iterable[Editable], prefix: str) -> File:
    """Return the file at `place`; if it is a link that leads into a source, one to where that will be.

    A relative link that stays within a source remains as it is.
    """
    if file.type != "symlink":
        return file
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), file.target))
    for editable in editables:
        for spelling in editable.spellings:
            if _is_within(target, spelling):
                if _is_within(place, spelling) and not file.target.startswith("/"):
                    return file
                return file._replace(target=f"{prefix}/{editable.included_path}{target[len(spelling) :]}")
    leads_out = not file.target.startswith("/") and any(_is_within(place, each.source) for each in editables)
    return file._replace(target=target) if leads_out else file


def _with_unique_names(editables: list[Editable]) -> Iterator[Editable]:
    """Yield the editables, with a number added to names that occur more than once."""
    counts = Counter(editable.name for editable in editables)
    numbers: dict[str, Iterator[int]] = defaultdict(count)
    for editable in editables:
        name = editable.name
        numbered = (f"{name}-{number}" for number in numbers[name])
        unique = name if counts[name] == 1 else next(other for other in numbered if other not in counts)
        yield replace(editable, name=unique)


def _by_source(links: Sequence[Link]) -> list[list[Link]]:
    """Return the links to each source directory and into it, the one that names the directory first.

    A link that belongs to another package is not among them: otherwise, one to a directory above the source of a
    package would widen that source. Links in the paths do not matter.
    """
    groups: list[list[Link]] = []
    around: list[tuple[str, list[Link]]] = []  # those whose sources contain the next link, the innermost last
    lookup = Lookup(_WORK * (1 + len(links)))
    located = [(lookup.real(link.source) or link.source, link) for link in links]
    for real, link in sorted(located, key=lambda pair: (pair[0].rstrip("/") + "/", not pair[1].name)):
        while around and not _is_within(real, around[-1][0]):
            around.pop()
        if not around or (link.name and normalized(link.name) != normalized(around[-1][1][0].name)):
            groups.append([])
            around.append((real, groups[-1]))
        around[-1][1].append(link)
    return groups


def _make_editable(links: Sequence[Link]) -> Editable:
    """Return the editable of the source directory that the first link names, with these links to it and into it."""
    source = links[0].source
    name = re.sub(r"[^\w.+-]|^[.+-]", "_", links[0].name or posixpath.basename(source))[:_LONGEST_NAME]
    paths = tuple(sorted({link.path for link in links}))
    builder = next((link.builder for link in links if link.builder), "")
    return Editable(name or "_", source, paths, _spellings(links), builder, links[0].name)


def _spellings(links: Sequence[Link]) -> tuple[str, ...]:
    """Return the paths of the source directory of the first link that the links use or lead to, the longest first."""
    source = links[0].source
    lookup = Lookup(_WORK * (1 + len(links)))
    real = lookup.real(source) or source
    spellings = {source, real}
    for link in links:
        inside = (lookup.real(link.source) or link.source)[len(real) :]
        if inside and link.source.endswith(inside):
            spellings.add(link.source.removesuffix(inside))
    return tuple(sorted(spellings, key=lambda path: (-len(path), path)))


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _exclude(source: PinnedDirectory, top: str, path: str) -> str | None:
    """Return why a path in a source, which is included at `top`, is left out, for `walk`."""
    name = posixpath.basename(path)
    if name == "__pycache__" or name.startswith("."):
        may_be_data = "/" in path or name.startswith(".env")
        return "it is hidden" if may_be_data and name not in _OF_TOOLS else ""
    if any(_has(source, stat.S_IFREG, f"{path}/{sign}") for sign in _CACHE_FILES):
        return "it is a cache"
    if _has(source, stat.S_IFDIR, f"{path}/{conda.META}") or _has(source, stat.S_IFREG, f"{path}/pyvenv.cfg"):
        return "it is another environment"
    return why_impossible(f"{top}{path}")


def _has(source: PinnedDirectory, type_: int, path: str) -> bool:
    """Return whether something of this type is at the path, or a link to it."""
    status = source.stat(path)
    return status is not None and stat.S_IFMT(status.st_mode) == type_
