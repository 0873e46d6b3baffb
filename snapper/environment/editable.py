"""Editable installs: packages of an environment whose code lives in a directory outside of it.

They are known by `direct_url.json` (PEP 660), by absolute lines of `.pth` files, by the finders that setuptools
writes beside them, and by `.egg-link` files (setuptools develop, conda develop).
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from snapper.environment import conda
from snapper.environment.tree import File, Tree, walk
from snapper.errors import PermissionDenied

#: Where the sources of editable installs go that are taken along.
INCLUDED = "share/snapper/editable"

_SITE = re.compile(r"lib/(?:python|pypy)[\d.]+t?/site-packages/[^/]+\Z")
_FINDER = re.compile(r"__editable__.*\.(?:py|pth)\Z")
_POINTING = ("/direct_url.json", ".pth", ".egg-link")
_QUOTED_PATH = re.compile(r"""['"](/[^'"\n]+)['"]""")


@dataclass(frozen=True)
class Editable:
    """A source directory, and the files of the environment that point to it."""

    name: str
    source: str
    links: tuple[str, ...]

    @property
    def place(self) -> str:
        """The source's path inside the environment when it is taken along."""
        return f"{INCLUDED}/{self.name}"


def find(prefix: Path, tree: Tree) -> tuple[Editable, ...]:
    """The editable installs of an environment whose sources are outside of it, by name. A source that is not there
    counts where a package says that it is its own; a line of a `.pth` file alone may be left over.

    Raises PermissionDenied.
    """
    pointers: dict[str, set[str]] = {}
    names: dict[str, str] = defaultdict(str)
    try:
        for file in tree.files:
            if file.type == "file":
                for source, name in _pointed(prefix, file.path):
                    pointers.setdefault(source, set()).add(file.path)
                    names[source] = names[source] or name
    except PermissionError as error:
        raise PermissionDenied(str(error.filename), "read") from None
    outside = [
        source
        for source in pointers
        if (names[source] or os.path.isdir(source)) and not _within(source, os.path.abspath(prefix))
    ]
    tops = [
        source
        for source in outside
        if not any(_within(source, other) for other in outside if other != source)
    ]
    return tuple(_apart([_editable(top, names, pointers, outside) for top in sorted(tops)]))


def include(tree: Tree, editables: tuple[Editable, ...]) -> Tree:
    """The tree with the sources in it, as if they stood in the environment.

    Environments within a source are passed over, and so is what is compiled in it.
    """
    files, skipped = list(tree.files), list(tree.skipped)
    known = {file.path for file in files}
    for editable in editables:
        source = Path(editable.source)
        found = walk(source, lambda path, source=source: _foreign(source / path))  # type: ignore[misc]
        parts = editable.place.split("/")
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            if path not in known:
                known.add(path)
                files.append(File(path, "directory", 0, 0o755, 0, 0, 0, 0, 1))
        files += [file._replace(path=f"{editable.place}/{file.path}") for file in found.files]
        skipped += [(f"{editable.source}/{path}", reason) for path, reason in found.skipped]
    return replace(tree, files=tuple(files), skipped=tuple(skipped))


def _apart(editables: list[Editable]) -> Iterator[Editable]:
    """The editables, those of one name told apart by a number."""
    names = [each.name for each in editables]
    for number, each in enumerate(editables):
        twins = [other for other, name in enumerate(names) if name == each.name]
        yield each if len(twins) == 1 else replace(each, name=f"{each.name}-{twins.index(number)}")


def _editable(top: str, names: dict[str, str], pointers: dict[str, set[str]], outside: list[str]) -> Editable:
    within = sorted(source for source in outside if _within(source, top))
    given = [names[source] for source in within if names[source]]
    links = {link for source in within for link in pointers[source]}
    name = given[0] if given else posixpath.basename(top)
    return Editable(re.sub(r"[^\w.+-]", "_", name), top, tuple(sorted(links)))


def _pointed(prefix: Path, path: str) -> Iterator[tuple[str, str]]:
    """The directories that a file of the environment points to, each with the package's name if that is said."""
    if not (path.endswith(_POINTING) or "__editable__" in path):
        return
    directory, name = posixpath.split(path)
    if name == "direct_url.json" and directory.endswith(".dist-info"):
        source = _editable_url((prefix / path).read_bytes())
        if source:
            yield source, posixpath.basename(directory).partition("-")[0]
    elif _SITE.match(path) and name.endswith((".pth", ".egg-link")):
        text = (prefix / path).read_text("utf-8", "surrogateescape")
        for line in text.splitlines()[: 1 if name.endswith(".egg-link") else None]:
            if line.startswith("/"):
                yield (
                    posixpath.normpath(line.strip()),
                    name.removesuffix(".egg-link") if ".egg-link" in name else "",
                )
    if _SITE.match(path) and _FINDER.match(name):
        for found in _QUOTED_PATH.findall((prefix / path).read_text("utf-8", "surrogateescape")):
            source = posixpath.normpath(found)
            yield source if os.path.isdir(source) else posixpath.dirname(source), ""


def _editable_url(data: bytes) -> str:
    """The directory of a PEP 610 direct URL of an editable install; empty for all others."""
    try:
        fields = json.loads(data)
        if fields["dir_info"]["editable"] is True and fields["url"].startswith("file://"):
            return posixpath.normpath(unquote(urlsplit(fields["url"]).path, errors="surrogateescape"))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return ""


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _foreign(path: Path) -> str | None:
    if path.name == "__pycache__":
        return ""
    if (path / conda.META).is_dir() or (path / "pyvenv.cfg").is_file():
        return "it is another environment"
    return None
