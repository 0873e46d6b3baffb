"""Look up paths that others have written, such as the publisher of an environment in its variables and scripts.

Such a path can be impossible, or lead through thousands of links, and a file can contain millions of them. So the work
of a search is counted. When it exceeds the limit, the search ends, and its results are incomplete.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

from snapper.fs.beneath import is_possible_path
from snapper.fs.pinned import Top
from snapper.fs.small_files import list_beneath, read_beneath

#: How much work a search may do: some seconds.
MOST_WORK = 1 << 20

#: The work of accessing a file, and how many bytes of text, or names in a directory, are read with 1 more.
_ACCESS = 10
_BYTES, _NAMES = 32, 8

#: How many steps on a path that was looked up before, or characters of another, are 1.
_STEPS, _CHARACTERS = 4, 64

#: The most names in one directory that are looked at.
_MOST_NAMES = 100_000

#: What systems accept: the length of a path, in characters, and the links on it.
_LONGEST_PATH = 4096
_MOST_LINKS = 40


def expand_home(path: str) -> str:
    """Return the path with this user's home directory for `~`. Those of others are not looked up."""
    return os.path.expanduser("~") + path[1:] if path == "~" or path.startswith("~/") else path


class Lookup:
    """One search. Once it `is_exhausted`, nothing exists for it."""

    def __init__(self, work: int = MOST_WORK) -> None:
        self._remaining = work
        self._real: dict[str, str] = {}
        self._targets: dict[str, str] = {}  # "" for what is no link
        self._existing: dict[str, bool] = {}

    @property
    def is_exhausted(self) -> bool:
        return self._remaining <= 0

    def spend(self, work: int = 1) -> bool:
        """Count work that is to be done, and return whether the search may go on."""
        self._remaining -= work
        return self._remaining > 0

    def exists(self, path: str) -> bool:
        """Return whether there is something at an absolute path."""
        known = self._existing.get(path)
        if known is None:
            known = bool(self.real(path)) and self.spend(_ACCESS) and os.path.exists(path)
            self._existing[path] = known
        return known

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory at an absolute path."""
        return self.exists(path) and self.spend(_ACCESS) and os.path.isdir(path)

    def real(self, path: str) -> str:
        """Return the real path of an absolute path; "" if no file can have it, or if it has too many links."""
        if path not in self._real:
            *_, self._real[path] = self.spellings(path)
        return self._real[path]

    def spellings(self, path: str) -> Iterator[str]:
        """Yield an absolute path, what it becomes with each link that is followed, and at last what `real` returns."""
        yield path
        if len(path) > _LONGEST_PATH or not path.startswith("/") or not is_possible_path(path):
            yield ""
            return
        done, pending, links = "/", path.split("/")[::-1], 0
        while pending:
            name = pending.pop()
            if len(pending) % _STEPS == 0 and not self.spend():
                break
            if name == "..":
                done = posixpath.dirname(done)
            elif name not in ("", "."):
                child = posixpath.join(done, name)
                target = self._target(child)
                if not target:
                    done = child
                    continue
                links += 1
                if links > _MOST_LINKS:
                    break
                done = "/" if target.startswith("/") else done
                pending += target.split("/")[::-1]
                yield posixpath.join(done, *pending[::-1])
        yield "" if pending or self.is_exhausted else done

    def read(self, top: Top, path: str) -> str:
        """Return the text of a small file below `top`, "" if it cannot be read."""
        try:
            data = read_beneath(top, path) if self.spend(_ACCESS) else b""
        except OSError:
            return ""
        return data.decode("utf-8", "replace") if self.spend(len(data) // _BYTES) else ""

    def names(self, top: Top, path: str = "") -> list[str]:
        """Return the sorted names in a directory below `top`; none if it cannot be read."""
        try:
            names = list_beneath(top, path, _MOST_NAMES) if self.spend(_ACCESS) else []
        except OSError:
            return []
        return names if self.spend(len(names) // _NAMES) else []

    def _target(self, path: str) -> str:
        """Return where a link leads, "" if it is none."""
        if path not in self._targets:
            try:
                self._targets[path] = os.readlink(path) if self.spend(1 + len(path) // _CHARACTERS) else ""
            except OSError:
                self._targets[path] = ""
        return self._targets[path]
