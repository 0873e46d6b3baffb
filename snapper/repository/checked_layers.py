"""Check that stored layers are intact and have the content that a snapshot states, and remember which are and have.

A layer can be shared by environments, so a pack refers to layers that others have stored already. They could have put
other bytes there, of the same size. Which content a layer has is stated by their snapshots. Therefore a layer that
another user may have written is only shared once this user has read it and compared its content.

The file `checked-layers` in the state directory has a key of 32 bytes for each object that has been read, as long as
nothing replaces it, and one for each layer that has the content stated for it, the latest last. Without it, layers are
read again. Layers that this user writes or restores are remembered as if they had been read for this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from snapper.errors import SnapperError, StoreUnreachable
from snapper.format.compression import FrameDecompressor, ZstdError
from snapper.format.layout import Layout
from snapper.format.model import Layer, StoredLayer
from snapper.fs.own_directory import own_directory
from snapper.repository.objects import intact_objects, map_concurrently, read_verified
from snapper.settings.directories import state_directory
from snapper.store import ObjectStatus, Store

_FILE = "checked-layers"
_KEY_SIZE = 32

#: How many keys are remembered: those of some 100 large environments.
_MOST = 100_000


class CheckedLayers:
    """The `keys` of all layers that this user has packed or checked, as far as that is known: they are read once."""

    def __init__(self) -> None:
        self.keys = frozenset(_read())

    def remember(self, keys: Iterable[bytes]) -> None:
        """Add keys, and write all unless these were known; nothing is written if the file cannot be."""
        new = dict.fromkeys(keys)
        if self.keys.issuperset(new):
            return
        self.keys |= new.keys()
        latest = [*(key for key in _read() if key not in new), *new][-_MOST:]
        with suppress(OSError), own_directory(state_directory(), make=True) as directory:
            directory.write(_FILE, b"".join(latest))


def content_key(digest: str, diff_id: str) -> bytes:
    """Return the key of a layer whose content has been compared."""
    return hashlib.sha256(f"{digest} {diff_id}".encode()).digest()


def _object_key(store: Store, key: str, identity: str) -> bytes:
    """Return the key of an object that is intact."""
    return hashlib.sha256(f"{identity} {key} in {store.url}".encode()).digest()


def written_keys(store: Store, identities: Mapping[str, str]) -> list[bytes]:
    """Return the keys of layers that this user has written, by digest, none if the store attests those.

    The identities must be what `Store.put` has returned: others may have replaced the layers since.
    """
    if store.attests_own:
        return []
    return [_object_key(store, Layout.layer(digest), identity) for digest, identity in identities.items()]


def unattested_keys(store: Store, digests: Iterable[str]) -> list[bytes]:
    """Return the keys of these layers as they are now, none if the store attests what this user writes.

    This is for layers that this user will read before the keys are remembered.
    """
    keys = [] if store.attests_own else [Layout.layer(digest) for digest in digests]
    statuses = zip(keys, map_concurrently(store.inspect, keys), strict=True)
    return [_object_key(store, key, status.identity) for key, status in statuses if status]


def intact_layers(store: Store, layers: Iterable[Layer], checked: CheckedLayers) -> frozenset[str]:
    """Return the digests of those layers that the store has, intact.

    Layers are read unless the store attests their digests, or they are among those `checked`; these are remembered.
    """

    def is_checked(key: str, status: ObjectStatus) -> bool:
        return _object_key(store, key, status.identity) in checked.keys

    found = intact_objects(store, {Layout.layer(layer.digest): layer.size for layer in layers}, is_checked)
    read = (
        _object_key(store, key, status.identity) for key, status in found.items() if not status.is_attested
    )
    checked.remember(read)
    return frozenset(map(Layout.digest_of, found))


def has_content(
    store: Store, stored: StoredLayer, diff_id: str, size: int, checked: Collection[bytes]
) -> bool:
    """Return whether the stored layer is intact and has the `size` bytes with the SHA-256 digest `diff_id`.

    It is read unless both are among what is `checked`. Raise StoreUnreachable.
    """
    key = Layout.layer(stored.digest)
    status = store.inspect(key)
    if status is None or status.size != stored.size:
        return False
    is_intact = status.is_attested or _object_key(store, key, status.identity) in checked
    if is_intact and content_key(stored.digest, diff_id) in checked:
        return True
    try:
        data = read_verified(store.authoritative(), key, stored.digest, stored.size)
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
