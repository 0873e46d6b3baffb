"""Which kernel has a name: the file `kernels/NAME` in the state directory.

Notebooks refer to kernels by name. The registered kernels are lost with the disk of a notebook instance; without this,
another environment of the store could get the name first when all are registered again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.format import canonical
from snapper.fs.own_directory import OwnDirectory, own_directory
from snapper.settings.directories import state_directory

FORMAT = 1


@dataclass(frozen=True)
class _Claim:
    """The contents of a file: a kernel of an environment."""

    format: int
    environment: str
    kernel: str


def claim_name(name: str, environment: str, kernel: str, *, may_be_new: bool = True) -> bool:
    """Return whether the name belongs to the kernel: from now on, if it belongs to none and `may_be_new`.

    If files cannot be written, names belong to nobody.
    """
    claim = _Claim(FORMAT, environment, kernel)
    try:
        with own_directory(_directory(), make=True) as directory:
            current = _read(directory, name)
            if current is None and may_be_new:
                directory.write(name, canonical.encode(claim))
                return True
            return current == claim
    except OSError:
        return may_be_new


def release_name(name: str) -> None:
    """Forget whose name this is."""
    with suppress(OSError), own_directory(_directory()) as directory:
        directory.remove(name)


def _read(directory: OwnDirectory, name: str) -> _Claim | None:
    try:
        claim = canonical.decode(_Claim, canonical.parse(directory.read(name)))
    except (OSError, canonical.MalformedDocument):
        return None
    return claim if claim.format == FORMAT else None


def _directory() -> Path:
    return state_directory() / "kernels"
