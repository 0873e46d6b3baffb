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

    @property
    def logos(self) -> dict[str, bytes]:
        """The logos and front-end files among them."""
        return {path: data for path, data in self.files.items() if path in ASSETS}


def read_files(directory: Path) -> KernelspecFiles:
    """Return the regular files of this user or root below a directory that are not hidden."""
    files: dict[str, bytes] = {}
    size = 0
    try:
        for path, data in _read(directory, "", _DEEPEST):
            files[path] = data
            size += len(data)
            if len(files) > _MOST_FILES or size > _MOST_BYTES:
                reason = f"it has more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes"
                return KernelspecFiles(files, reason)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else str(error.strerror)
        return KernelspecFiles(files, f"{error.filename}: {reason}")
    return KernelspecFiles(files)


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
