"""Names of lock files, and of the leases on them that file systems without locks need."""

from __future__ import annotations

import re
import secrets

_LEASE_SUFFIX = re.compile(r"\.[0-9a-f]{16}\.lease")


def new_lease_name(lock: str) -> str:
    """Return an unused name for a lease on a lock file."""
    return f"{lock}.{secrets.token_hex(8)}.lease"


def is_lease_name(name: str, lock: str) -> bool:
    """Return whether this is the name of a lease on the lock file of that name."""
    return name.startswith(lock) and _LEASE_SUFFIX.fullmatch(name, len(lock)) is not None
