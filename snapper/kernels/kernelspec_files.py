"""Read the files in the directory of a kernelspec outside of an environment: logos, scripts, and what these use."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from snapper.fs.own_directory import own_directory
from snapper.kernels.kernelspecs import ASSETS, KERNEL_JSON

#: The most bytes in all of the files, the most files, and how deep they are.
_MOST_BYTES = 4 << 20
_MOST_FILES = 100
_DEEPEST = 4


@dataclass(frozen=True)
class KernelspecFiles:
    """The contents of the files by path, without `kernel.json`; `problem` says why one cannot be carried."""

    files: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""


def read_files(directory: Path) -> KernelspecFiles:
    """Return the regular files of this user or root below a directory that are not hidden.

    None are read from a directory that is a link: it may lead to a project with private files.
    """
    if directory.is_symlink():
        return KernelspecFiles(problem="it uses files beside it, and its directory is a link")
    return _collect(_read(directory, "", _DEEPEST))


def read_logos(directory: Path) -> KernelspecFiles:
    """Return the logos and front-end files in a directory, if they are regular files of this user or root."""
    return _collect(_read_logos(directory))


def _collect(found: Iterator[tuple[str, bytes]]) -> KernelspecFiles:
    files: dict[str, bytes] = {}
    size = 0
    try:
        for path, data in found:
            files[path] = data
            size += len(data)
            if len(files) > _MOST_FILES or size > _MOST_BYTES:
                reason = f"it has more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes"
                return KernelspecFiles(files, reason)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else str(error.strerror)
        return KernelspecFiles(files, f"{error.filename}: {reason}")
    return KernelspecFiles(files)


def _read_logos(directory: Path) -> Iterator[tuple[str, bytes]]:
    with own_directory(directory) as opened:
        yield from ((name, opened.read(name)) for name in sorted({*opened.names()} & {*ASSETS}))


def _read(directory: Path, top: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and contents of the files. May raise OSError."""
    with own_directory(directory) as opened:
        for name in sorted(opened.names()):
            path = f"{top}{name}"
            if name.startswith((".", "__pycache__")) or path == KERNEL_JSON:
                continue
            if not opened.is_directory(name):
                yield path, opened.read(name)
            elif depth:
                yield from _read(directory / name, f"{path}/", depth - 1)
