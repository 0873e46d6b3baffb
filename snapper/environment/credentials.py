"""Find credentials in files of an environment that usually hold them: whoever can read its snapshots can use them.

These are what conda and pip write, files with variables and settings, and the files in which programs look for
passwords.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from snapper.environment.conda import META, Record
from snapper.environment.credential_forms import defines_secret
from snapper.fs.beneath import open_beneath
from snapper.fs.directories import closing_descriptor
from snapper.fs.pinned import Top
from snapper.fs.small_files import list_beneath, read_beneath

logger = logging.getLogger(__name__)

#: Files that may contain URLs of channels and package indexes: conda's history of commands, and settings.
_SETTINGS = (f"{META}/history", ".condarc", "condarc", ".mambarc", "pip.conf")

#: Files that have a field for a password.
_LOGINS = (".netrc", ".pypirc", ".aws/credentials", ".git-credentials")

#: Directories, and the endings of files in them that define variables or settings, in JSON or as shell scripts.
_DEFINITIONS = (
    (META, "state"),
    ("etc/conda/env_vars.d", ".json"),
    ("etc/conda/activate.d", ("sh", ".csh", ".fish", ".xsh")),
    ("etc/jupyter", ("_config.json", "_config.py")),
    ("etc/jupyter/jupyter_config.d", ".json"),
    ("etc/jupyter/jupyter_server_config.d", ".json"),
    ("etc/jupyter/jupyter_notebook_config.d", ".json"),
    ("lib/R/etc", (".site", "Renviron")),
    ("", (".env", ".Renviron", ".Rprofile")),
)

#: The directories with kernelspecs, which may set variables.
_KERNELS = ("share/jupyter/kernels", "share/snapper/kernels")

#: The most files of these directories that are read.
_MOST_FILES = 1000

#: How many bytes of the files of one kind are searched: this takes at most some seconds.
_MOST_SEARCHED = 4 << 20

_WORDS = re.compile(rb"""[^\s'"]+""")
_LOGIN = re.compile(rb"\b(password|secret|aws_secret_access_key|aws_session_token)\b|://[^\s/]*@", re.I)


def find_in_usual_places(prefix: Top, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the paths of package records and other files in the environment that contain credentials, sorted.

    Files at other places are not read.
    """
    paths = {record.file for record in records if record.has_credentials}
    for names, data in _read_smallest(prefix, _settings_files(prefix)):
        paths.update(names if any(map(_has_credentials, _WORDS.findall(data))) else ())
    for names, data in _read_smallest(prefix, _LOGINS):
        paths.update(names if _LOGIN.search(data) else ())
    for names, data in _read_smallest(prefix, _definition_files(prefix)):
        paths.update(names if defines_secret(data) else ())
    return tuple(sorted(paths))


def _read_smallest(prefix: Top, paths: Iterable[str]) -> Iterator[tuple[list[str], bytes]]:
    """Yield all paths of each file and its contents, the smallest first, until a limit is reached.

    Files that cannot be read are left out.
    """
    sizes: dict[tuple[int, int], int] = {}
    names: dict[tuple[int, int], list[str]] = defaultdict(list)
    for path in paths:
        with suppress(OSError), closing_descriptor(open_beneath(prefix, path)) as descriptor:
            status = os.fstat(descriptor)
            file = status.st_dev, status.st_ino
            sizes[file] = status.st_size
            names[file].append(path)
    remaining = _MOST_SEARCHED
    for file, size in sorted(sizes.items(), key=lambda item: item[1]):
        path = names[file][0]
        remaining -= size
        if remaining < 0:
            message = "%s is not searched for credentials, and neither are larger files like it"
            logger.warning(message, os.path.join(str(prefix), path))
            return
        with suppress(OSError):
            yield names[file], read_beneath(prefix, path, size)


def _settings_files(prefix: Top) -> Iterator[str]:
    """Yield the paths of files with settings of conda and pip."""
    yield from _SETTINGS
    with suppress(OSError):
        for name in list_beneath(prefix, "condarc.d", _MOST_FILES):
            if name.endswith((".yml", ".yaml")):
                yield f"condarc.d/{name}"


def _definition_files(prefix: Top) -> Iterator[str]:
    """Yield the paths of files that define variables or settings."""
    for directory, endings in _DEFINITIONS:
        with suppress(OSError):
            for name in list_beneath(prefix, directory, _MOST_FILES):
                if name.endswith(endings):
                    yield f"{directory}/{name}".lstrip("/")
    yield from islice(_kernel_files(prefix), _MOST_FILES)


def _kernel_files(prefix: Top) -> Iterator[str]:
    """Yield the paths of kernelspecs, and of scripts beside them."""
    for top in _KERNELS:
        with suppress(OSError):
            for name in list_beneath(prefix, top, _MOST_FILES):
                with suppress(OSError):
                    for file in list_beneath(prefix, f"{top}/{name}", _MOST_FILES):
                        yield f"{top}/{name}/{file}"


def _has_credentials(word: bytes) -> bool:
    """Return whether a word contains a URL with a user or password, or with a token of a conda channel."""
    for url in re.split(rb"https?://", word)[1:]:
        host, _, path = url.partition(b"/")
        token = (b"/" + path).partition(b"/t/")[2]
        if b"@" in host or b"/" in token.lstrip(b"/"):
            return True
    return False
