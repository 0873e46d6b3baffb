"""Decide what of a kernelspec outside of an environment is not published with it: credentials, and private files.

Whoever packs an environment expects its own files to be in the store, but not necessarily what is in the home.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from snapper.environment.dependency import Dependency
from snapper.fs.directories import current_umask
from snapper.kernels.kernelspecs import KERNEL_JSON, Kernelspec

_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def secret_variables(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the variables whose values look like credentials."""
    from snapper.environment.credential_forms import is_secret  # noqa: PLC0415 - slow to import, and rarely needed

    return tuple(name for name, value in variables.items() if is_secret(name, value))


def files_with_secrets(spec: Kernelspec, kernel_json: bytes, files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the names of those of a kernelspec's files that contain credentials; it has the `files` beside it."""
    from snapper.environment.credential_forms import defines_secret  # noqa: PLC0415 - as above

    words = [word.lstrip("-") for word in spec.command]
    pairs = (f"{option}={value}" for option, value in pairwise(words) if re.fullmatch(r"[\w-]+", option))
    text = "\n".join([*words, *pairs]).encode("utf-8", "surrogatepass")
    if defines_secret(kernel_json) or defines_secret(text):
        yield KERNEL_JSON
    yield from (name for name, data in files.items() if defines_secret(data))


def private_files(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the names of files in a directory that nobody but this user may access, if that is not due to the umask.

    May raise OSError.
    """
    if _BY_OTHERS & ~current_umask():
        is_private = not directory.stat().st_mode & _BY_OTHERS
        for name in names:
            if is_private or not (directory / name).stat().st_mode & _BY_OTHERS:
                yield name


def dependencies(path: Path, private: tuple[str, ...], variables: tuple[str, ...]) -> Iterator[Dependency]:
    """Yield what is not packed of the kernelspec at a path: all of it, or variables that look like credentials."""
    if private:
        yield Dependency("private", str(path), private)
    elif variables:
        yield Dependency("secret", str(path), variables)
