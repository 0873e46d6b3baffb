"""Objects in storage classes from which they have to be restored before they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


def why_archived(entry: Mapping[str, Any]) -> str:
    """Return why a listed object cannot be read, unless it has been restored; empty if it can be.

    Listings do not show the access tiers of INTELLIGENT_TIERING.
    """
    storage_class = str(entry.get("StorageClass", ""))
    return archived_reason(storage_class) if storage_class in ARCHIVES else ""


def why_unreadable(head: Mapping[str, Any]) -> str:
    """Return why the object with this HEAD response cannot be read at the moment; empty if it can be."""
    tier = str(head.get("ArchiveStatus", ""))  # of INTELLIGENT_TIERING, until the object has been restored
    if tier:
        return archived_reason(tier)
    is_restored = 'ongoing-request="false"' in str(head.get("Restore", ""))
    return "" if is_restored else why_archived(head)


def archived_reason(storage_class: str) -> str:
    """Return why an object in this storage class, or access tier, cannot be read."""
    return f"it is archived ({storage_class}) and has to be restored before it can be read"
