"""Find credentials in files of an environment that usually hold them: whoever can read its snapshots can use them.

These are what conda and pip write, files with variables and settings, and the files in which programs look for
passwords.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from snapper.environment.conda import META, Record
from snapper.fs.pinned import Top
from snapper.fs.small_files import list_beneath, read_beneath

#: Files that may contain URLs of channels and package indexes: conda's history of commands, and settings.
_SETTINGS = (f"{META}/history", ".condarc", "condarc", ".mambarc", "pip.conf")

#: Files that have a field for a password.
_LOGINS = (".netrc", ".pypirc", ".aws/credentials", ".git-credentials")

#: Directories, and the endings of files in them that define variables or settings, in JSON or as shell scripts.
_DEFINITIONS = (
    (META, "state"),
    ("etc/conda/env_vars.d", ".json"),
    ("etc/conda/activate.d", ("sh", ".csh", ".fish", ".xsh")),
    ("etc/jupyter", "_config.json"),
    ("etc/jupyter", "_config.py"),
    ("", ".env"),
)

#: The directories with kernelspecs, which may set variables.
_KERNELS = ("share/jupyter/kernels", "share/snapper/kernels")

#: The most files of these directories that are read.
_MOST_FILES = 1000

_WORDS = re.compile(rb"""[^\s'"]+""")
_LOGIN = re.compile(rb"\b(password|secret|aws_secret_access_key|aws_session_token)\b|://[^\s/]*@", re.I)
_SECRET_NAME = re.compile(
    r"token(?!s|i[sz])|secret|passw|passphrase|passwd|credential|pgpass|(^|_)(pass|pwd|pat|sas)\Z"
    r"|(api|access|auth|private|account|storage|encryption)[-_]?key",
    re.I,
)

#: Names of what says where a secret is.
_PLACE = re.compile(r"(file|path|dir|directory|application_credentials)\Z", re.I)

#: Values that are no secrets: switches, and references to other variables.
_NO_SECRET = re.compile(r"(?:true|false|yes|no|on|off|none|null|[01]|\$\w+|\$\{\w+\})?\Z", re.I)

#: A variable or setting that gets a value, other than that of another variable, in a script.
_DEFINITION = re.compile(
    r"""(?:^|[;&])[ \t]*(?:export[ \t]+|setenv[ \t]+|env[ \t]+|set(?:[ \t]+-\w+)*[ \t]+)?"""
    r"""([$\w.]+)(?:[ \t]*=[ \t]*|[ \t]+)["']?([^\s"'$`;&|)]+)""",
    re.M,
)

#: A variable or option that gets a value anywhere in a line.
_ASSIGNMENT = re.compile(
    r"""(?<![^\s;&|'"({,\[])([$\w.-]{1,100})['"\]]{0,2}[ \t]{0,4}[=:][ \t]{0,4}["']?([^\s"'$`;&|)=]+)"""
)

#: A key in a text, or in a header of HTTP.
_KEY = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----|\b(?:bearer|basic)[ \t]+[\w.~+/-]{8,}", re.I)

#: A user and a password in any URL.
_LOGIN_IN_URL = re.compile(r"://[^\s/@:]*:[^\s/@]+@")


def find_credentials(prefix: Top, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the paths of package records and other files in the environment that contain credentials, sorted.

    It is not known what other files contain.
    """
    paths = {record.file for record in records if record.has_credentials}
    paths |= {
        path
        for path in _settings_files(prefix)
        if any(map(_has_credentials, _WORDS.findall(_read(prefix, path))))
    }
    paths |= {path for path in _LOGINS if _LOGIN.search(_read(prefix, path))}
    paths |= {path for path in _definition_files(prefix) if defines_secret(_read(prefix, path))}
    return tuple(sorted(paths))


def defines_secret(data: bytes) -> bool:
    """Return whether JSON or a script defines something that is named like a secret, or a URL with a password."""
    try:
        return any(is_secret(name, value) for name, value in _members(json.loads(data)))
    except (ValueError, RecursionError):
        text = data.decode("utf-8", "replace")
        defined = chain(_DEFINITION.findall(text), _ASSIGNMENT.findall(text))
        return (
            any(_is_named_secret(name, value) for name, value in defined)
            or bool(_LOGIN_IN_URL.search(text))
            or bool(_KEY.search(text))
        )


def is_secret(name: str, value: object) -> bool:
    """Return whether a variable or setting is named like a secret and has a value, or is a URL with a password."""
    return isinstance(value, str) and (_is_named_secret(name, value) or bool(_LOGIN_IN_URL.search(value)))


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


def _read(prefix: Top, path: str) -> bytes:
    """Return the contents of a file, nothing if it cannot be read."""
    try:
        return read_beneath(prefix, path)
    except OSError:
        return b""


def _has_credentials(word: bytes) -> bool:
    """Return whether a word contains a URL with a user or password, or with a token of a conda channel."""
    for url in re.split(rb"https?://", word)[1:]:
        host, _, path = url.partition(b"/")
        token = (b"/" + path).partition(b"/t/")[2]
        if b"@" in host or b"/" in token.lstrip(b"/"):
            return True
    return False


def _members(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the names and values in all objects of a JSON document."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _members(item)


def _is_named_secret(name: str, value: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not (_PLACE.search(name) or _NO_SECRET.match(value))
