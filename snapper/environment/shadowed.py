"""Find what Python does not import from an environment because a user site, which it looks at first, has it too.

A distribution that is also in the user site is replaced wholly: all files that its RECORD lists, except for packages
that Python imports from the environment, because those of the user site have no `__init__.py`. Of what remains, modules
and packages are found as Python finds them: packages without `__init__.py` (PEP 420), and those that extend their own
path (pkgutil, pkg_resources), are looked for in both. So are packages that share nothing but an empty `__init__.py`,
such as `nvidia`: Python imports only the first, but their libraries are found by path.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from snapper.environment.pip import distributions
from snapper.environment.tree import File
from snapper.fs.pinned import Top
from snapper.fs.small_files import read_beneath

#: Where files of a replaced distribution stay: the environment's are used, because they are found first.
_KEPT = ("bin/", "etc/")

_CACHE = "__pycache__"
_INIT = "__init__.py"
_METADATA = re.compile(r"([^-/]+)-[^/]*\.(?:dist-info|egg-info)")
_MODULE = re.compile(r"([^.]+)(?:\.[^.]+)?\.(?:py|pyc|pyi|so)")
_EXTENDS_ITS_PATH = re.compile(rb"extend_path|declare_namespace")


@dataclass(frozen=True)
class Packages:
    """A directory of Python packages: `site` below `top`, whose files are given with their paths below `top`."""

    top: Top
    site: str
    files: Mapping[str, File]

    def children(self) -> Iterator[tuple[str, File]]:
        """Yield the files below the site, with their paths there."""
        start = f"{self.site}/" if self.site else ""
        for path, file in self.files.items():
            if path.startswith(start):
                yield path[len(start) :], file

    def get(self, path: str) -> File | None:
        """Return the file at the path below the site."""
        return self.files.get(posixpath.join(self.site, path))

    def extends_its_path(self, package: str) -> bool:
        """Return whether a package is imported from several directories, as its `__init__.py` says."""
        with suppress(OSError):
            path = posixpath.join(self.site, package, _INIT)
            return bool(_EXTENDS_ITS_PATH.search(read_beneath(self.top, path)))
        return False


@dataclass(frozen=True)
class Shadowed:
    """Paths of an environment that are left out, and packages of the user site that Python imports nothing from."""

    paths: frozenset[str]
    unused: frozenset[str]


def find_shadowed(environment: Packages, user: Packages) -> Shadowed:
    """Compare the packages of an environment with those of a user site. Raise PermissionDenied, FileOperationFailed."""
    return _Comparison(environment, user).shadowed()


class _Comparison:
    """What a user site has, by the names that Python uses, and which distributions list the environment's files."""

    def __init__(self, environment: Packages, user: Packages) -> None:
        self._environment = environment
        self._user = user
        self._names: set[str] = set()
        self._merged: set[str] = set()
        self._unused: set[str] = set()
        self._sort_names()

    def shadowed(self) -> Shadowed:
        """Return what is left out, with the directories that have nothing else in them."""
        paths = {path for path, file in self._environment.files.items() if self._is_shadowed(path, file)}
        above = {directory for path in paths for directory in _directories_above(path)}
        remaining = {f"{self._environment.site}/", *self._environment.files.keys() - paths - above}
        kept = {directory for path in remaining for directory in _directories_above(path)}
        return Shadowed(frozenset(paths | above - kept), frozenset(self._unused))

    def _sort_names(self) -> None:
        """Find out which names the user site has, and which packages are in both."""
        children: dict[str, list[tuple[str, File]]] = {}
        for path, file in self._user.children():
            children.setdefault(posixpath.dirname(path), []).append((path, file))
        pending = [("", True)]  # directories, and whether Python looks in both sites for what is in them
        while pending:
            directory, in_both = pending.pop()
            for path, file in children.get(directory, ()):
                if posixpath.basename(path) in (_CACHE, _INIT) or _is_data(path, file):
                    continue
                hidden = file.type == "directory" and self._is_hidden(path)
                if hidden and in_both:
                    self._unused.add(path)
                elif hidden or file.type != "directory" or not self._is_merged(path):
                    self._names.add(_name_of(path))
                else:
                    self._merged.add(path)
                    pending.append((path, in_both and self._is_in_both(path)))

    def _is_merged(self, package: str) -> bool:
        """Return whether what the environment has of a package of the user's is used, too."""
        init = self._user.get(f"{package}/{_INIT}")
        is_own = init is None or init.size == 0 or self._user.extends_its_path(package)
        return is_own and not _METADATA.fullmatch(package)

    def _is_hidden(self, package: str) -> bool:
        """Return whether Python imports the environment's package if it looks in both: only that has `__init__.py`."""
        init = self._environment.get(f"{package}/{_INIT}")
        in_user_site = self._user.get(f"{package}/{_INIT}")
        return init is not None and in_user_site is None and not self._environment.extends_its_path(package)

    def _is_in_both(self, package: str) -> bool:
        """Return whether Python looks in both for what is in a package that the user site has."""
        in_user_site = self._user.get(f"{package}/{_INIT}")
        return in_user_site is None or self._user.extends_its_path(package)

    def _is_shadowed(self, path: str, file: File) -> bool:
        inner = self._inner(path)
        if inner is not None and not self._unused.isdisjoint((inner, *_directories_above(inner))):
            return False
        owners = self._owners.get(_source_of(path), ())
        if owners and all(owner in self._replaced for owner in owners):
            return not path.startswith(_KEPT)
        if inner is None:
            return False
        return self._shadowing(inner) is not None or (
            file.type != "directory" and self._is_of_shadowed(inner, owners)
        )

    def _inner(self, path: str) -> str | None:
        """Return the path below the environment's site, None if it is elsewhere."""
        site = f"{self._environment.site}/"
        return path[len(site) :] if path.startswith(site) else None

    def _shadowing(self, path: str) -> str | None:
        """Return the name in the user site that shadows a path of the environment's site, None if none does."""
        parent = ""
        for part in path.split("/"):
            if part == _CACHE:
                continue
            name = _name_of(posixpath.join(parent, part))
            if name in self._names:
                return name
            parent = posixpath.join(parent, part)
            if parent not in self._merged:
                return None
        return None

    def _is_of_shadowed(self, path: str, owners: tuple[str, ...]) -> bool:
        """Return whether the user site replaces this part of a package that has an empty `__init__.py`."""
        packages = [directory for directory in _directories_above(path) if directory in self._plain]
        return any(not owners or set(owners) <= self._plain[package] for package in packages)

    @cached_property
    def _plain(self) -> dict[str, set[str]]:
        """The packages with an empty `__init__.py`, each with the distributions whose modules are in the user site."""
        found: dict[str, set[str]] = {}
        for package in self._merged:
            init = self._user.get(f"{package}/{_INIT}")
            if init is not None and init.size == 0:
                found[package] = set()
        for path, owners in self._owners.items() if found else ():
            inner = self._inner(path)
            for package in _directories_above(inner) if inner else ():
                if package in found and self._collides(package, path, inner or ""):
                    found[package].update(owners)
        return found

    def _collides(self, package: str, path: str, inner: str) -> bool:
        is_init = inner == f"{package}/{_INIT}"
        return bool(self._environment.files[path].size) if is_init else self._shadowing(inner) is not None

    @cached_property
    def _owners(self) -> dict[str, tuple[str, ...]]:
        """The normalized names of the environment's distributions that list a file, by its path."""
        owners: dict[str, tuple[str, ...]] = {}
        for distribution in distributions(self._environment.top, self._environment.files):
            name = _normalized(distribution.package.name)
            for path in distribution.files:
                owners[path] = (*owners.get(path, ()), name)
        return owners

    @cached_property
    def _replaced(self) -> frozenset[str]:
        """The normalized names of the distributions in the user site."""
        found = (_METADATA.fullmatch(path) for path, _ in self._user.children())
        return frozenset(_normalized(match[1]) for match in found if match)


def _directories_above(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _source_of(path: str) -> str:
    """Return the path of the source of bytecode in a `__pycache__`; that of anything else as it is."""
    directory, name = posixpath.split(path)
    if posixpath.basename(directory) != _CACHE:
        return path
    return posixpath.join(posixpath.dirname(directory), f"{name.partition('.')[0]}.py")


def _is_data(path: str, file: File) -> bool:
    """Return whether a file is neither a module nor metadata: it only replaces what has the same path."""
    name = posixpath.basename(path)
    return file.type == "file" and not _MODULE.fullmatch(name) and not _METADATA.fullmatch(name)


def _name_of(path: str) -> str:
    """Return the path by which a module is imported, or the normalized name of a distribution and a slash."""
    directory, name = posixpath.split(path)
    metadata = None if directory else _METADATA.fullmatch(name)
    if metadata:
        return f"{_normalized(metadata[1])}/"
    module = _MODULE.fullmatch(name)
    return posixpath.join(directory, module[1] if module else name)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
