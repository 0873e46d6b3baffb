"""Editable installs: packages of an environment whose code is in a directory outside of it.

They are recognized by `direct_url.json` (PEP 660), absolute paths in `.pth` files, the finders that setuptools
generates, and `.egg-link` files (setuptools develop, conda develop).
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from snapper.environment import conda
from snapper.environment.tree import File, SkippedPath, Tree, walk
from snapper.errors import PermissionDenied

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
    be a leftover. Raise PermissionDenied.
    """
    try:
        links = [
            link for file in tree.files if file.type == "file" for link in _read_links(prefix, file.path)
        ]
    except PermissionError as error:
        raise PermissionDenied(str(error.filename), "read") from None
    named = {link.source for link in links if link.name}
    top = os.path.abspath(prefix)
    outside = {
        link.source
        for link in links
        if (link.source in named or os.path.isdir(link.source)) and not _is_within(link.source, top)
    }
    outermost = [
        source
        for source in sorted(outside)
        if not any(_is_within(source, other) for other in outside if other != source)
    ]
    links = [link for link in links if link.source in outside]
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
        included = walk(source, lambda path, source=source: _exclude(source / path))  # type: ignore[misc]
        names = editable.included_path.split("/")
        for count in range(1, len(names) + 1):
            path = "/".join(names[:count])
            if path not in paths:
                paths.add(path)
                files.append(File(path, "directory", 0, 0o755, 0, 0, 0, 0, 1))
        files += [file._replace(path=f"{editable.included_path}/{file.path}") for file in included.files]
        skipped += [SkippedPath(f"{editable.source}/{path}", reason) for path, reason in included.skipped]
    return replace(tree, files=tuple(files), skipped=tuple(skipped))


def _with_unique_names(editables: list[Editable]) -> Iterator[Editable]:
    """Yield the editables, with a number added to names that occur more than once."""
    names = [editable.name for editable in editables]
    for number, editable in enumerate(editables):
        twins = [other for other, name in enumerate(names) if name == editable.name]
        yield (
            editable if len(twins) == 1 else replace(editable, name=f"{editable.name}-{twins.index(number)}")
        )


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
        return
    directory, name = posixpath.split(path)
    if name == "direct_url.json" and directory.endswith(".dist-info"):
        source = _editable_source((prefix / path).read_bytes())
        if source:
            yield _Link(source, path, posixpath.basename(directory).partition("-")[0])
    elif _SITE.match(path) and name.endswith((".pth", ".egg-link")):
        is_egg_link = name.endswith(".egg-link")
        text = (prefix / path).read_text("utf-8", "surrogateescape")
        for line in text.splitlines()[: 1 if is_egg_link else None]:
            if line.startswith("/"):
                package = name.removesuffix(".egg-link") if is_egg_link else ""
                yield _Link(posixpath.normpath(line.strip()), path, package)
    if _SITE.match(path) and _FINDER.match(name):
        for quoted in _QUOTED_PATH.findall((prefix / path).read_text("utf-8", "surrogateescape")):
            source = posixpath.normpath(quoted)
            yield _Link(source if os.path.isdir(source) else posixpath.dirname(source), path, "")


def _editable_source(data: bytes) -> str:
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


def _exclude(path: Path) -> str | None:
    """Return why a path in a source is left out, for `walk`."""
    if path.name == "__pycache__":
        return ""
    if (path / conda.META).is_dir() or (path / "pyvenv.cfg").is_file():
        return "it is another environment"
    return None
