"""Editable installs: packages of an environment whose code is in a directory outside of it.

`editable_links` recognizes them in all their forms.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count
from pathlib import Path

from snapper.environment import conda
from snapper.environment.editable_links import Link, read_links
from snapper.environment.tree import File, SkippedPath, Tree, walk
from snapper.errors import FileOperationFailed
from snapper.format import bytecode
from snapper.fs.beneath import is_possible_path
from snapper.settings.directories import home_directory

#: The directory in the environment for the sources of included editable installs.
INCLUDED = "share/snapper/editable"

#: The longest name of an included source, in characters: it names a directory.
_LONGEST_NAME = 60

#: What is in the directory of a Python project, or in that above its `src`: at least one of these.
_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")

_SOURCE_DIRECTORIES = ("src", "lib", "python")

#: What is in directories that the tools which made them make again: the sign of all caches, and that of Cargo's.
_CACHE_FILES = ("CACHEDIR.TAG", ".rustc_info.json")

_IGNORE = "Keep the link with --editable=ignore, or remove it from the environment if you do not know it."
_RESTORE_SOURCE = (
    "Restore or mount the directory, or reinstall the package (without -e if the directory is gone)."
)
_REINSTALL = "Reinstall the package without -e, or keep the link with --editable=ignore."


@dataclass(frozen=True)
class Editable:
    """A source directory, and the environment's files that refer to it.

    `spellings` are the paths by which they do that, the longest first: some may lead through links. `builder` compiles
    the package when it is imported; empty if none does.
    """

    name: str
    source: str
    links: tuple[str, ...]
    spellings: tuple[str, ...] = ()
    builder: str = ""

    @property
    def included_path(self) -> str:
        """The source's path inside of the environment when it is included."""
        return f"{INCLUDED}/{self.name}"


def find(prefix: Path, tree: Tree) -> tuple[Editable, ...]:
    """Return the editable installs of an environment whose sources are outside of it, by source.

    A source that does not exist counts if it is known which package it belongs to: a mere line in a `.pth` file may
    be a leftover. Raise PermissionDenied, FileOperationFailed.
    """
    links = read_links(prefix, tree)
    tops = os.path.abspath(prefix), os.path.realpath(prefix)
    named = {link.source for link in links if link.name}
    links = [
        link
        for link in links
        if is_possible_path(link.source)
        and (link.source in named or os.path.exists(link.source))
        and not any(map(partial(_is_within, link.source), tops))
    ]
    return tuple(_with_unique_names([_make_editable(group) for group in _by_source(links)]))


def check_source(install: Editable, prefix: Path) -> None:
    """Raise FileOperationFailed if the source cannot be included.

    It is missing, it is not a Python project, or it is compiled when it is imported.

    Whoever published an environment chose what its links refer to: it may be a directory of credentials, which must not
    become part of the next snapshot.
    """
    reason, advice = _why_not_python(install.source, prefix), _IGNORE
    if not os.path.lexists(install.source):
        reason, advice = "the directory does not exist", _RESTORE_SOURCE
    elif install.builder:
        reason, advice = _why_rebuilt(install), _REINSTALL
    if reason:
        reason = f"{install.links[0]} in the environment refers to it, but {reason}"
        raise FileOperationFailed(install.source, reason, advice)


def _why_not_python(source: str, prefix: Path) -> str:
    """Return why the directory is not taken for a Python project, "" if it is."""
    real = os.path.realpath(source)
    home = os.path.realpath(home_directory())
    if any(_is_within(path, real) for path in (home, os.path.realpath(prefix))):
        return "it contains your home directory or the environment"
    if "/." in real or "/." in source:
        return "hidden directories are not included"
    parent, name = os.path.split(real)
    tops = (real, parent) if name in _SOURCE_DIRECTORIES and parent != home else (real,)
    if any(os.path.lexists(os.path.join(top, file)) for top in tops for file in _PROJECT_FILES):
        return ""
    return f"it is not a Python project: it has none of the files {', '.join(_PROJECT_FILES)}"


def _why_rebuilt(install: Editable) -> str:
    return (
        f"{install.name} was installed by {install.builder}, which compiles it again when it is imported, in a build "
        "directory that cannot be moved"
    )


def include(tree: Tree, editables: tuple[Editable, ...], prefix: str) -> Tree:
    """Return the tree with the sources in it, as if they were in the environment, whose files contain `prefix`.

    Links to the sources lead to where they will be. Environments inside of a source, caches, modules compiled from it,
    and what is hidden, such as `.git` and `.env`, which may contain credentials, are left out.
    """
    changed = {link for editable in editables for link in editable.links}
    files = [file for file in tree.files if bytecode.source_of(file.path) not in changed]
    files = [_retarget(file, posixpath.join(prefix, file.path), editables, prefix) for file in files]
    skipped = list(tree.skipped)
    paths = {file.path for file in files}
    for editable in editables:
        source = Path(editable.source)
        included = walk(source, partial(_exclude, source))
        for path in accumulate(editable.included_path.split("/"), posixpath.join):
            if path not in paths:
                paths.add(path)
                files.append(File(path, "directory", 0, 0o755, 0, 0, 0, 0, 1))
        for file in included.files:
            moved = _retarget(file, f"{editable.source}/{file.path}", editables, prefix)
            files.append(moved._replace(path=f"{editable.included_path}/{file.path}"))
        skipped += [SkippedPath(f"{editable.source}/{path}", reason) for path, reason in included.skipped]
    return replace(tree, files=tuple(files), skipped=tuple(skipped))


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
        yield editable if counts[name] == 1 else replace(editable, name=f"{name}-{next(numbers[name])}")


def _by_source(links: Iterable[Link]) -> list[list[Link]]:
    """Return the links to each source directory and into it, the one that names the directory first.

    A link that belongs to another package is not among them: otherwise, one to a directory above the source of a
    package would widen that source. Links in the paths do not matter.
    """
    groups: list[list[Link]] = []
    around: list[tuple[str, list[Link]]] = []  # those whose sources contain the next link, the innermost last
    located = [(os.path.realpath(link.source), link) for link in links]
    for real, link in sorted(located, key=lambda pair: (pair[0].rstrip("/") + "/", not pair[1].name)):
        while around and not _is_within(real, around[-1][0]):
            around.pop()
        if not around or (link.name and _normalized(link.name) != _normalized(around[-1][1][0].name)):
            groups.append([])
            around.append((real, groups[-1]))
        around[-1][1].append(link)
    return groups


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _make_editable(links: Sequence[Link]) -> Editable:
    """Return the editable of the source directory that the first link names, with these links to it and into it."""
    source = links[0].source
    name = re.sub(r"[^\w.+-]|^[.+-]", "_", links[0].name or posixpath.basename(source))[:_LONGEST_NAME]
    paths = tuple(sorted({link.path for link in links}))
    builder = next((link.builder for link in links if link.builder), "")
    return Editable(name or "_", source, paths, _spellings(links), builder)


def _spellings(links: Sequence[Link]) -> tuple[str, ...]:
    """Return the paths of the source directory of the first link that the links use or lead to, the longest first."""
    source = links[0].source
    real = os.path.realpath(source)
    spellings = {source, real}
    for link in links:
        inside = os.path.realpath(link.source)[len(real) :]
        if inside and link.source.endswith(inside):
            spellings.add(link.source.removesuffix(inside))
    return tuple(sorted(spellings, key=lambda path: (-len(path), path)))


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _exclude(source: Path, path: str) -> str | None:
    """Return why a path in a source is left out, for `walk`."""
    name = posixpath.basename(path)
    if name == "__pycache__" or name.startswith("."):
        return ""
    if any((source / path / sign).is_file() for sign in _CACHE_FILES):
        return "it is a cache"
    if (source / path / conda.META).is_dir() or (source / path / "pyvenv.cfg").is_file():
        return "it is another environment"
    return None
