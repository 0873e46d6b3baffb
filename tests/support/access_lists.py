"""POSIX access control lists, as `setfacl` sets them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

ACCESS_LIST = "system.posix_acl_access"
_DEFAULT_LIST = "system.posix_acl_default"

USER, OWNING_GROUP, GROUP = 0x02, 0x04, 0x08
_OWNER, _MASK, _OTHERS = 0x01, 0x10, 0x20

#: The number in entries that are not for a named user or group.
NO_ID = 0xFFFFFFFF


def set_access_list(path: Path, *entries: tuple[int, int, int]) -> None:
    """Set these entries (kind, number, permissions) and the necessary others; skip the test if that is not possible."""
    others = [(_OWNER, NO_ID, 0o7), (_MASK, NO_ID, 0o7), (_OTHERS, NO_ID, 0o5)]
    data = struct.pack("<I", 2)
    for kind, number, permissions in sorted([*others, *entries]):
        data += struct.pack("<HHI", kind, permissions, number)
    try:
        os.setxattr(path, ACCESS_LIST, data)
    except (AttributeError, OSError) as error:
        pytest.skip(f"access control lists cannot be set here: {error}")


def deny_others_in(directory: Path) -> None:
    """Let others do nothing with what is created in a directory, or skip the test: `setfacl -d -m o::---`."""
    entries = [(_OWNER, 0o7), (OWNING_GROUP, 0o5), (_OTHERS, 0o0)]
    data = b"".join(struct.pack("<HHI", kind, permissions, NO_ID) for kind, permissions in entries)
    try:
        os.setxattr(directory, _DEFAULT_LIST, struct.pack("<I", 2) + data)
    except (AttributeError, OSError) as error:
        pytest.skip(f"access control lists cannot be set here: {error}")
