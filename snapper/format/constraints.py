"""What digests, names, paths, targets of links, and modes can be in the store format (docs/format.md)."""

from __future__ import annotations

import re
import unicodedata

from snapper.process.characters import is_visible

#: snapper's own directory inside an environment, which is never packed or restored.
STATE_DIRECTORY = ".snapper"

#: The directories of a base environment with other environments and with the package cache, which are not part of it.
SHARED_DIRECTORIES = ("envs", "pkgs")

#: What a restore has kept of an environment, in its directory if it cannot be beside it.
_KEPT = re.compile(r"(.+)\.replaced-[0-9]{8}-[0-9]{6}-[0-9a-f]{4}\Z", re.S)

#: What file systems have in their top directory.
_LOST = "lost+found"

#: conda's directory in each environment, which makes it one.
CONDA_META = "conda-meta"

#: Names of snapper's own directories: what is in them decides what later commands do.
_RESERVED = re.compile(r"(?:\A|/)\.(?:[^/]+\.)?snapper(?:/|\Z)")

#: conda's trash, which is removed at any time.
TRASH_DIRECTORY = ".condatmp"
_TRASH = re.compile(rf"{re.escape(TRASH_DIRECTORY)}(?:/|\Z)")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"\w[\w.+-]*\Z")
_LONGEST_NAME = 128
_DEEPEST = 256

#: What is between slashes, but is not the name of a file.
_NO_NAMES = frozenset(("", ".", ".."))

#: The longest name of a file in a directory, in characters, on the file systems of Linux and macOS.
LONGEST_FILE_NAME = 255

#: The longest target of a symbolic link on Linux, in bytes.
LONGEST_TARGET = 4095

_LARGEST_MODE = 0o7777

#: The permissions that are packed and restored.
_MODE_BITS = 0o755

#: Directories with this mode are created as members need them; only others, and empty ones, are members themselves.
USUAL_DIRECTORY_MODE = 0o755

_READ_BY_OWNER, _ENTERED_BY_OWNER, _ALL_BY_OWNER = 0o400, 0o500, 0o700

#: The length of the longest prefix or placeholder, in bytes: that of the longest path on Linux.
LONGEST_PREFIX = 4096


def is_digest(text: str) -> bool:
    """Return whether the text is a sha256 in lower-case hexadecimal."""
    return _DIGEST.match(text) is not None


def is_valid_name(text: str) -> bool:
    """Return whether the text can name an environment or a tag.

    It consists of letters, digits, `_`, and, except as the first character, `.`, `+`, and `-`. It has at most 128 bytes
    in UTF-8, so that files can be named after it, and is in Unicode's composed form (NFC), so that there is one file
    for each name on all file systems. None of its letters is invisible, so that no two names look the same for that.
    """
    return (
        _NAME.match(text) is not None
        and len(path_bytes(text)) <= _LONGEST_NAME
        and unicodedata.is_normalized("NFC", text)
        and is_visible(text)
    )


def check_name(text: str) -> str:
    """Return the text; raise ValueError unless it can name an environment or a tag."""
    if not is_valid_name(text):
        raise ValueError(f"{text!r} is not a valid name")
    return text


def is_placeholder(text: str) -> bool:
    """Return whether the text can be a placeholder for a prefix: an absolute path in UTF-8, of at most 4096 bytes."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return False
    return text.startswith("/") and 1 < length <= LONGEST_PREFIX and "\0" not in text


def path_bytes(path: str) -> bytes:
    """Return a path as bytes, as it is in a layer. Members are sorted by these."""
    return path.encode("utf-8", "surrogateescape")


def check_path(path: str) -> str:
    """Return the path; raise ValueError unless it is relative, normal, and inside the environment."""
    if not path or "\0" in path or path.startswith("/"):
        raise ValueError(f"{path!r} is not a relative path")
    parts = path.split("/")
    if not _NO_NAMES.isdisjoint(parts):
        raise ValueError(f"{path!r} is not a normal path")
    if max(map(len, parts)) > LONGEST_FILE_NAME:
        raise ValueError(f"a name in a path has more than {LONGEST_FILE_NAME} characters")
    if len(parts) > _DEEPEST:
        raise ValueError(f"a path has more than {_DEEPEST} parts")
    if path.startswith(".") or "/." in path:
        _check_hidden(path)
    path_bytes(path)
    return path


def _check_hidden(path: str) -> None:
    """Raise ValueError if a path with a hidden name in it is one of snapper's or conda's own files."""
    folded = path.casefold()
    if _RESERVED.search(folded):
        raise ValueError(f"{path!r} is reserved for snapper")
    if _TRASH.match(folded):
        raise ValueError(f"{path!r} would be in conda's trash")


def check_target(target: str) -> str:
    """Return the target of a symbolic link; raise ValueError if no link can have it."""
    if not target or "\0" in target or len(path_bytes(target)) > LONGEST_TARGET:
        raise ValueError(f"a link has a target of {len(target):,} characters that no link can have")
    return target


def file_mode(mode: int) -> int:
    """Return the mode with which a file is packed and restored.

    Nobody but its owner may write to it. The owner may read it in any case: otherwise, no command could compare it.
    """
    return mode & _MODE_BITS | _READ_BY_OWNER


def directory_mode(path: str, mode: int) -> int:
    """Return the same for a directory, which its owner may also enter in any case.

    The owner may also write to the environment itself, for which the path is empty, and to `envs` in it: other
    environments are created there.
    """
    least = _ALL_BY_OWNER if path in ("", *SHARED_DIRECTORIES) else _ENTERED_BY_OWNER
    return mode & _MODE_BITS | least


def packed_mode(path: str, type_: str, mode: int) -> int:
    """Return the mode with which a member of any type is packed and restored."""
    return directory_mode(path, mode) if type_ == "directory" else file_mode(mode)


def is_foreign(path: str) -> bool:
    """Return whether a path is not part of an environment, as it, or the directory at the top, has such a name.

    The directories `envs` and `pkgs` themselves can be part of it.
    """
    top, _, below = path.partition("/")
    return (bool(below) and top.casefold() in SHARED_DIRECTORIES) or is_foreign_name(top)


def is_foreign_name(name: str) -> bool:
    """Return whether what has the name at the top is never part of an environment."""
    return name.casefold() == _LOST or kept_of(name) is not None


def kept_of(name: str) -> str | None:
    """Return the environment's name if a restore has given this name to what it has kept; None if it has not."""
    match = _KEPT.match(name)
    return match[1] if match else None


def check_digest(digest: str) -> None:
    """Raise ValueError unless the text is a sha256 in lower-case hexadecimal."""
    if not is_digest(digest):
        raise ValueError(f"{digest!r} is not a sha256 in lower-case hexadecimal")


def check_mode(mode: int) -> None:
    """Raise ValueError unless the number is a file's permissions."""
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f"{mode:#o} is not a mode")
