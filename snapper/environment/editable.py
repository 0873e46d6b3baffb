"""Editable installs: packages of an environment whose code is in a directory outside of it.

They are recognized by `direct_url.json` (PEP 660), absolute paths in `.pth` files, the finders that setuptools
generates, and `.egg-link` files (setuptools develop, conda develop).
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from snapper.environment import conda
from snapper.environment.tree import File, SkippedPath, Tree, walk
from snapper.errors import FileOperationFailed
from snapper.fs.beneath import is_possible_path
from snapper.fs.errors import read_errors
from snapper.fs.small_files import read_beneath
from snapper.settings.directories import home_directory

#: The directory in the environment for the sources of included editable installs.
INCLUDED = "share/snapper/editable"

_SITE = re.compile(r"lib/(?:python|pypy)[\d.]+t?/site-packages/[^/]+\Z")
_FINDER = re.compile(r"__editable__.*\.(?:py|pth)\Z")
_LINK_ENDINGS = ("/direct_url.json", ".pth", ".egg-link")
#: The longest name of an included source, in characters: it names a directory.
_LONGEST_NAME = 60

#: What is in the directory of a Python project, or in that above its `src`: at least one of these.
_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")

_SOURCE_DIRECTORIES = ("src", "lib", "python")

_IGNORE = "Keep the link with --editable=ignore, or remove it from the environment if you do not know it."
_RESTORE_SOURCE = (
    "Restore or mount the directory, or reinstall the package (without -e if the directory is gone)."
)

_QUOTED_PATH = re.compile(r"""['"](/[^'"\n]+)['"]""")


@dataclass(frozen=True)
class Editable:
    """A source directory, and the environment's files that refer to it."""

    name: str
    source: str
    links: tuple[str, ...]

    @property
    def included_path(self) -> str:
        """The source's path inside of the environment when it is included."""
        return f"{INCLUDED}/{self.name}"


class _Link(NamedTuple):
    """A file that refers to a source directory, and the name of the package if the file has it."""

    source: str
    path: str
    name: str


def find(prefix: Path, tree: Tree) -> tuple[Editable, ...]:
    """Return the editable installs of an environment whose sources are outside of it, by source.

    A source that does not exist counts if it is known which package it belongs to: a mere line in a `.pth` file may
    be a leftover. Raise PermissionDenied, FileOperationFailed.
    """
    with read_errors():
        links = [
            link for file in tree.files if file.type == "file" for link in _read_links(prefix, file.path)
        ]
    top = os.path.abspath(prefix)
    named = {link.source for link in links if link.name}
    links = [
        link
        for link in links
        if (link.source in named or os.path.isdir(link.source))
        and not _is_within(link.source, top)
        and is_possible_path(link.source)
    ]
    return tuple(_with_unique_names([_make_editable(group) for group in _by_source(links)]))


def check_source(install: Editable, prefix: Path) -> None:
    """Raise FileOperationFailed if the source cannot be included, because it is missing or is not a Python project.

    Whoever published an environment chose what its links refer to: it may be a directory of credentials, which must not
    become part of the next snapshot.
    """
    reason, advice = _why_not_python(install.source, prefix), _IGNORE
    if not os.path.isdir(install.source):
        reason, advice = "the directory does not exist", _RESTORE_SOURCE
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


def include(tree: Tree, editables: tuple[Editable, ...]) -> Tree:
    """Return the tree with the sources in it, as if they were in the environment.

    Environments inside of a source, modules compiled from it, and what is hidden, such as `.git` and `.env`, which may
    contain credentials, are left out.
    """
    if not editables:
        return tree
    files, skipped = list(tree.files), list(tree.skipped)
    paths = {file.path for file in files}
    for editable in editables:
        source = Path(editable.source)
        included = walk(source, partial(_exclude, source))
        for path in accumulate(editable.included_path.split("/"), posixpath.join):
            if path not in paths:
                paths.add(path)
                files.append(File(path, "directory", 0, 0o755, 0, 0, 0, 0, 1))
        files += [file._replace(path=f"{editable.included_path}/{file.path}") for file in included.files]
        skipped += [SkippedPath(f"{editable.source}/{path}", reason) for path, reason in included.skipped]
    return replace(tree, files=tuple(files), skipped=tuple(skipped))


def _with_unique_names(editables: list[Editable]) -> Iterator[Editable]:
    """Yield the editables, with a number added to names that occur more than once."""
    counts = Counter(editable.name for editable in editables)
    numbers: dict[str, Iterator[int]] = defaultdict(count)
    for editable in editables:
        name = editable.name
        yield editable if counts[name] == 1 else replace(editable, name=f"{name}-{next(numbers[name])}")


def _by_source(links: Iterable[_Link]) -> list[list[_Link]]:
    """Return the links to each source directory and into it, the one that names the directory first.

    A link that belongs to another package is not among them: otherwise, one to a directory above the source of a
    package would widen that source.
    """
    groups: list[list[_Link]] = []
    around: list[list[_Link]] = []  # those whose sources contain the next link, the innermost last
    for link in sorted(links, key=lambda link: (link.source.rstrip("/") + "/", not link.name)):
        while around and not _is_within(link.source, around[-1][0].source):
            around.pop()
        if not around or (link.name and _normalized(link.name) != _normalized(around[-1][0].name)):
            around.append([])
            groups.append(around[-1])
        around[-1].append(link)
    return groups


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _make_editable(links: Sequence[_Link]) -> Editable:
    """Return the editable of the source directory that the first link names, with these links to it and into it."""
    source = links[0].source
    name = links[0].name or posixpath.basename(source)
    paths = tuple(sorted({link.path for link in links}))
    name = re.sub(r"[^\w.+-]|^[.+-]", "_", name)[:_LONGEST_NAME]
    return Editable(name or "_", source, paths)


def _read_links(prefix: Path, path: str) -> Iterator[_Link]:
    """Yield the directories that a file of the environment refers to."""
    if not (path.endswith(_LINK_ENDINGS) or "__editable__" in path):
        return  # most files are none of the below
    directory, name = posixpath.split(path)
    if name == "direct_url.json" and directory.endswith(".dist-info"):
        source = _direct_url_source(read_beneath(prefix, path))
        if source:
            yield _Link(source, path, posixpath.basename(directory).partition("-")[0])
    elif _SITE.match(path) and (name.endswith((".pth", ".egg-link")) or _FINDER.match(name)):
        text = read_beneath(prefix, path).decode("utf-8", "surrogateescape")
        if name.endswith(".egg-link"):
            package = name.removesuffix(".egg-link")
            yield from (_Link(source, path, package) for source in _absolute_paths(text.splitlines()[:1]))
        if name.endswith(".pth"):
            yield from (_Link(source, path, "") for source in _absolute_paths(text.splitlines()))
        if _FINDER.match(name):
            yield from (_Link(source, path, "") for source in _quoted_directories(text))


def _absolute_paths(lines: Iterable[str]) -> Iterator[str]:
    return (posixpath.normpath(line.strip()) for line in lines if line.startswith("/"))


def _quoted_directories(code: str) -> Iterator[str]:
    """Yield the absolute paths in string literals; if one is not a directory, the directory that contains it."""
    for path in map(posixpath.normpath, _QUOTED_PATH.findall(code)):
        yield path if os.path.isdir(path) else posixpath.dirname(path)


def _direct_url_source(data: bytes) -> str:
    """Return the directory in the PEP 610 direct URL of an editable install; empty for other installs."""
    try:
        fields = json.loads(data)
        if fields["dir_info"]["editable"] is True and fields["url"].startswith("file://"):
            return posixpath.normpath(unquote(urlsplit(fields["url"]).path, errors="surrogateescape"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return ""


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _exclude(source: Path, path: str) -> str | None:
    """Return why a path in a source is left out, for `walk`."""
    name = posixpath.basename(path)
    if name == "__pycache__" or name.startswith("."):
        return ""
    if (source / path / conda.META).is_dir() or (source / path / "pyvenv.cfg").is_file():
        return "it is another environment"
    return None
