"""Logos and front-end files in the directories of registered kernels.

`kernel.json` has the digests of those that snapper has written. All others are the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping

from snapper.format.model import sha256_hex
from snapper.fs.own_directory import OwnDirectory
from snapper.kernels.kernelspecs import ASSETS

#: The digests of the files that snapper has written, by name; None if they are unknown, because it was version 0.1.0.
Digests = Mapping[str, str] | None


def replace_assets(directory: OwnDirectory, known: Digests, shipped: Mapping[str, bytes]) -> dict[str, str]:
    """Replace the files that snapper has written by those that the environment ships, and return their digests.

    Files of the user are kept. May raise OSError.
    """
    written = written_assets(directory, known)
    for name in written - shipped.keys():
        directory.remove(name)
    names = directory.names()
    digests = {}
    for name, data in shipped.items():
        digest = sha256_hex(data)
        if name not in names or name in written or _digest(directory, name) == digest:
            directory.write(name, data)
            digests[name] = digest
    return digests


def written_assets(directory: OwnDirectory, known: Digests) -> set[str]:
    """Return the names of the files that snapper has written and nobody has changed since. May raise OSError."""
    names = {*ASSETS} & {*directory.names()}
    if known is None:
        return names
    return {name for name in names if name in known and _digest(directory, name) == known[name]}


def _digest(directory: OwnDirectory, name: str) -> str:
    """Return the digest of a file, an empty text for what snapper does not write, such as a link."""
    try:
        return sha256_hex(directory.read(name))
    except OSError:
        return ""
