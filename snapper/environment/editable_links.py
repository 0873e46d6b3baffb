"""Find the files that lead from an environment to source directories outside of it: what editable installs consist of.

Every installer that follows PEP 660 writes a `direct_url.json` (PEP 610). What makes Python find the code differs:

- lines in `.pth` files: setuptools (also `setup.py develop` and its strict mode, where the line names a tree of links),
  hatchling, flit, poetry-core, pdm-backend, uv, maturin, and `conda develop`
- modules imported by `.pth` files, which contain paths: setuptools, editables (hatchling, pdm-backend),
  scikit-build-core, meson-python
- symbolic links: `flit install --symlink`
- `.egg-link` files: `setup.py develop`
"""

from __future__ import annotations

import ast
import json
import os
import posixpath
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from snapper.environment import conda
from snapper.environment.lookup import Lookup, expand_home
from snapper.environment.tree import File, Tree
from snapper.errors import FileOperationFailed
from snapper.fs.errors import read_errors
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_beneath

_SITE = re.compile(r"(?:.*/)?site-packages/[^/]+\Z", re.S)
_REDIRECTOR = re.compile(r"_.*editable.*\.py\Z", re.S)
_ENDINGS = ("/direct_url.json", ".pth", ".egg-link")
_CODE_ENDINGS = (".py", ".so")

#: The work of one link, and how many bytes of the files that may contain some are 1 more.
_LINK, _BYTES = 20, 8

_TOO_MANY = "it, and files like it, refer to more directories and modules than editable installs do"
_ADVICE = "Remove the file, if you do not know it, or keep what it refers to outside with --editable=ignore."

#: String literals of Python, and what is between them, so that no part of a text is searched twice.
_LITERALS = re.compile(r"""'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|\\.|[^'"\\]+|.""", re.S)

#: Modules that compile the package when it is imported, by the builder that writes them. They have a call with a build
#: directory, and in scikit-build-core's also that it is to be used.
_REBUILDING = {
    "meson-python": re.compile(r"class MesonpyMetaFinder\b"),
    "scikit-build-core": re.compile(r"^install(?:_inplace)?\(.*['\"], True,", re.M),
}


class Link(NamedTuple):
    """A file at `path` that refers to the absolute path `source`; `name` is that of its package if the file has it.

    `builder` compiles the package when it is imported.
    """

    source: str
    path: str
    name: str = ""
    builder: str = ""


def read_links(prefix: Path | PinnedDirectory, tree: Tree) -> list[Link]:
    """Return the links to directories and files; some are to paths in the environment, or that do not exist.

    Raise PermissionDenied, FileOperationFailed.
    """
    lookup = Lookup()
    with read_errors():
        named = [file for file in tree.files if file.path.endswith(_ENDINGS) or "editable" in file.path]
        links = [link for file in named for link in _read_links(prefix, file, lookup)]
        symlinks = [link for file in tree.symlinks for link in _read_symlink(prefix, file)]
        if symlinks:  # conda's may lead to its package cache
            owned = {entry.path for record in conda.read_records(prefix) for entry in record.entries}
            links += [link for link in symlinks if link.path not in owned]
    return links


def _read_links(prefix: Path | PinnedDirectory, file: File, lookup: Lookup) -> Iterator[Link]:
    """Yield the links in a file. Raise FileOperationFailed if it is too much to look up, and OSError."""
    for link in _links_in(prefix, file, lookup):
        if not lookup.spend(_LINK):
            raise FileOperationFailed(f"{prefix}/{file.path}", _TOO_MANY, _ADVICE)
        yield link
    if lookup.is_exhausted:
        raise FileOperationFailed(f"{prefix}/{file.path}", _TOO_MANY, _ADVICE)


def _links_in(prefix: Path | PinnedDirectory, file: File, lookup: Lookup) -> Iterator[Link]:
    if file.type != "file":
        return
    path = file.path
    directory, name = posixpath.split(path)
    if name == "direct_url.json" and directory.endswith(".dist-info"):
        source = _direct_url_source(read_beneath(prefix, path))
        if source:
            yield Link(source, path, posixpath.basename(directory).partition("-")[0])
    elif _SITE.match(path) and (name.endswith(_ENDINGS) or _REDIRECTOR.match(name)):
        data = read_beneath(prefix, path)
        if not lookup.spend(len(data) // _BYTES):
            return
        text = data.decode("utf-8-sig", "surrogateescape")
        site = f"{os.path.abspath(str(prefix))}/{directory}"
        if name.endswith(".egg-link"):
            package = name.removesuffix(".egg-link")
            yield from (Link(source, path, package) for source in _paths(text.splitlines()[:1], site, lookup))
        elif name.endswith(".pth"):
            yield from (Link(source, path) for source in _paths(text.splitlines(), site, lookup))
        else:
            builder = next((name for name, sign in _REBUILDING.items() if sign.search(text)), "")
            yield from (Link(source, path, "", builder) for source in _quoted_directories(text, lookup))


def _paths(lines: Iterable[str], site: str, lookup: Lookup) -> Iterator[str]:
    """Yield the paths that lines of a `.pth` or `.egg-link` file in the directory `site` refer to."""
    for line in lines:
        if line.startswith(("import ", "import\t")):
            yield from _quoted_directories(line, lookup)
        elif line.strip() and not line.startswith("#"):
            yield posixpath.normpath(posixpath.join(site, line.rstrip()))


def _quoted_directories(code: str, lookup: Lookup) -> Iterator[str]:
    """Yield the directories in string literals with absolute paths, or in a home; for a module, the one around it."""
    for literal in _LITERALS.findall(code):
        if literal[1:2] not in ("/", "~"):
            continue
        path = posixpath.normpath(expand_home(_value_of(literal)))
        if path.endswith(_CODE_ENDINGS):
            path = posixpath.dirname(path)
        if path.startswith("/") and path != "/" and lookup.is_directory(path):
            yield path


def _value_of(literal: str) -> str:
    """Return the value of a string literal; empty if it is invalid."""
    if "\\" not in literal:
        return literal[1:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown escapes
        try:
            return str(ast.literal_eval(literal))
        except (ValueError, SyntaxError):
            return ""


def _read_symlink(prefix: Path | PinnedDirectory, file: File) -> Iterator[Link]:
    """Yield a package or module that is a link; its source is the directory that contains its target."""
    if _SITE.match(file.path):
        place = f"{os.path.abspath(str(prefix))}/{posixpath.dirname(file.path)}"
        target = posixpath.normpath(posixpath.join(place, file.target))
        if os.path.isdir(target) or target.endswith(_CODE_ENDINGS):
            yield Link(posixpath.dirname(target), file.path)


def _direct_url_source(data: bytes) -> str:
    """Return the directory in the PEP 610 direct URL of an editable install; empty for other installs."""
    try:
        fields = json.loads(data)
        if fields["dir_info"]["editable"] is True and fields["url"].startswith("file://"):
            return posixpath.normpath(unquote(urlsplit(fields["url"]).path, errors="surrogateescape"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return ""
