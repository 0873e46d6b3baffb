"""Check that a stored layer has the content that a snapshot states, and remember which have.

A layer can be shared by environments, so a pack refers to layers that other environments have stored already. Which
content a stored layer has is stated by their snapshots, and thus by whoever published these. Therefore a layer is only
shared once this user has packed it or has read it and compared its content. The file `checked-layers` in the state
directory has a key of 32 bytes for each such layer, the latest last; without it, layers are read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from contextlib import suppress

from snapper.errors import SnapperError, StoreUnreachable
from snapper.format.compression import FrameDecompressor, ZstdError
from snapper.format.layout import Layout
from snapper.format.model import Layer, StoredLayer
from snapper.fs.own_directory import own_directory
from snapper.repository.objects import read_verified
from snapper.settings.directories import state_directory
from snapper.store import Store

_FILE = "checked-layers"
_KEY_SIZE = 32

#: How many layers are remembered: those of some 200 large environments.
_MOST = 100_000


def layer_key(digest: str, diff_id: str) -> bytes:
    """Return the key of a stored layer and its content."""
    return hashlib.sha256(f"{digest} {diff_id}".encode()).digest()


def read_checked_layers() -> frozenset[bytes]:
    """Return the keys of all layers that this user has packed or checked, as far as that is known."""
    return frozenset(_read())


def remember_checked_layers(layers: Iterable[Layer], known: Collection[bytes]) -> None:
    """Add layers to those that are checked, unless all are in `known` or the file cannot be written."""
    new = dict.fromkeys(layer_key(layer.digest, layer.diff_id) for layer in layers)
    if all(key in known for key in new):
        return
    keys = [*(key for key in _read() if key not in new), *new][-_MOST:]
    with suppress(OSError), own_directory(state_directory(), make=True) as directory:
        directory.write(_FILE, b"".join(keys))


def has_content(store: Store, stored: StoredLayer, diff_id: str, size: int) -> bool:
    """Return whether the stored layer is intact and has the `size` bytes with the SHA-256 digest `diff_id`.

    Raise StoreUnreachable.
    """
    try:
        data = read_verified(store, Layout.layer(stored.digest), stored.digest, stored.size)
        segment = FrameDecompressor(size).decompress(data, size) if data else None
    except StoreUnreachable:
        raise
    except (SnapperError, ZstdError):
        return False
    return segment is not None and hashlib.sha256(segment).hexdigest() == diff_id


def _read() -> list[bytes]:
    try:
        with own_directory(state_directory()) as directory:
            data = directory.read(_FILE)
    except OSError:
        return []
    return [data[start : start + _KEY_SIZE] for start in range(0, len(data), _KEY_SIZE)]
