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
from snapper.fs.errors import read_errors

#: The directory in the environment for the sources of included editable installs.
INCLUDED = "share/snapper/editable"

_SITE = re.compile(r"lib/(?:python|pypy)[\d.]+t?/site-packages/[^/]+\Z")
_FINDER = re.compile(r"__editable__.*\.(?:py|pth)\Z")
_LINK_ENDINGS = ("/direct_url.json", ".pth", ".egg-link")
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
        if (link.source in named or os.path.isdir(link.source)) and not _is_within(link.source, top)
    ]
    sources = sorted({link.source for link in links})
    outermost = [
        source
        for source in sources
        if not any(_is_within(source, other) for other in sources if other != source)
    ]
    return tuple(_with_unique_names([_make_editable(source, links) for source in outermost]))


def include(tree: Tree, editables: tuple[Editable, ...]) -> Tree:
    """Return the tree with the sources in it, as if they were in the environment.

    Environments inside of a source, and modules compiled from it, are left out.
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


def _make_editable(source: str, links: Sequence[_Link]) -> Editable:
    """Return the editable of a source directory, with all links to it and into it."""
    within = [link for link in links if _is_within(link.source, source)]
    names = [link.name for link in sorted(within, key=lambda link: link.source) if link.name]
    name = names[0] if names else posixpath.basename(source)
    paths = tuple(sorted({link.path for link in within}))
    return Editable(re.sub(r"[^\w.+-]", "_", name), source, paths)


def _read_links(prefix: Path, path: str) -> Iterator[_Link]:
    """Yield the directories that a file of the environment refers to."""
    if not (path.endswith(_LINK_ENDINGS) or "__editable__" in path):
        return  # most files are none of the below
    directory, name = posixpath.split(path)
    if name == "direct_url.json" and directory.endswith(".dist-info"):
        source = _direct_url_source((prefix / path).read_bytes())
        if source:
            yield _Link(source, path, posixpath.basename(directory).partition("-")[0])
    elif _SITE.match(path) and (name.endswith((".pth", ".egg-link")) or _FINDER.match(name)):
        text = (prefix / path).read_text("utf-8", "surrogateescape")
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
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return ""


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _exclude(source: Path, path: str) -> str | None:
    """Return why a path in a source is left out, for `walk`."""
    if posixpath.basename(path) == "__pycache__":
        return ""
    if (source / path / conda.META).is_dir() or (source / path / "pyvenv.cfg").is_file():
        return "it is another environment"
    return None
