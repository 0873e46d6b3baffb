"""Read what Python projects are called from the files in their source directories."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from snapper.fs.pinned import Top
from snapper.fs.small_files import list_beneath, read_beneath

#: What is in the directory of a Python project: at least one of these.
PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")

#: The directories in that of a project which may contain its code.
SOURCE_DIRECTORIES = ("src", "lib", "python")

#: Where files in TOML and INI say what the project is called, by section: the keys.
_SECTIONS = {
    "project": ("name",),
    "tool.poetry": ("name",),
    "tool.flit.metadata": ("module", "dist-name"),
    "package": ("name",),  # of Cargo.toml, for maturin
    "metadata": ("name",),  # of setup.cfg
}
#: These patterns are rarely used: they are only compiled then.
_SECTION = r"\s*\[\s*([\w.-]+)\s*\]"
_KEY = r"""\s*["']?([\w-]+)["']?\s*=\s*["']?([\w.-]+)"""
_ARGUMENT = r"""\bname\s*=\s*["']([\w.-]+)["']"""
_FIELD = r"(?im)^Name:[ \t]*([\w.-]+)"

#: The largest file that is read, in bytes, and the most names in a directory.
_LARGEST = 1 << 20
_MOST_NAMES = 1 << 16


def is_project(top: Top) -> bool:
    """Return whether the directory is that of a Python project."""
    return not set(PROJECT_FILES).isdisjoint(_listed(top, "."))


def project_names(tops: Iterable[Top]) -> frozenset[str]:
    """Return what the project is called whose directory is one of these, normalized as by PEP 503.

    These are several names if its files do not agree, and none if they do not say it.
    """
    return frozenset(normalized(name) for top in tops for name in _names_in(top))


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names_in(top: Top) -> Iterator[str]:
    for file in ("pyproject.toml", "setup.cfg", "Cargo.toml"):
        yield from _names_in_sections(_read(top, file))
    yield from re.findall(_ARGUMENT, _read(top, "setup.py"))
    yield from _name_in_metadata(top, "PKG-INFO")
    for directory in (".", *SOURCE_DIRECTORIES):
        for name in _listed(top, directory):
            if name.endswith(".egg-info"):
                yield from _name_in_metadata(top, f"{directory}/{name}/PKG-INFO")


def _name_in_metadata(top: Top, path: str) -> list[str]:
    return re.findall(_FIELD, _read(top, path).partition("\n\n")[0])[:1]


def _names_in_sections(text: str) -> Iterator[str]:
    keys: tuple[str, ...] = ()
    for line in text.splitlines():
        section = re.match(_SECTION, line)
        if section:
            keys = _SECTIONS.get(section[1], ())
            continue
        key = re.match(_KEY, line) if keys else None
        if key and key[1] in keys:
            yield key[2]


def _read(top: Top, path: str) -> str:
    try:
        return read_beneath(top, path, _LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _listed(top: Top, path: str) -> list[str]:
    try:
        return list_beneath(top, path, _MOST_NAMES)
    except OSError:
        return []
