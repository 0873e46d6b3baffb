"""Keys of the objects in a store."""

from __future__ import annotations

import pytest

from snapper.format.layout import Layout, ObjectKey, ObjectKind

DIGEST = "0123456789abcdef" * 4

KEYS = {
    Layout.MARKER: ObjectKey(ObjectKind.MARKER, "snapper.json"),
    Layout.ref("my.env"): ObjectKey(ObjectKind.REF, "my.env"),
    Layout.ref("umgebung-ü"): ObjectKey(ObjectKind.REF, "umgebung-ü"),
    Layout.snapshot(DIGEST): ObjectKey(ObjectKind.SNAPSHOT, DIGEST),
    Layout.page(DIGEST): ObjectKey(ObjectKind.PAGE, DIGEST),
    Layout.layer(DIGEST): ObjectKey(ObjectKind.LAYER, DIGEST),
    Layout.PRUNE_LOCK: ObjectKey(ObjectKind.PRUNE_LOCK, "prune"),
}


@pytest.mark.parametrize("key", KEYS)
def test_parse_returns_what_the_key_was_made_of(key: str) -> None:
    parsed = KEYS[key]
    assert Layout.parse(key) == parsed
    assert Layout.digest_of(key) == (DIGEST if parsed.name == DIGEST else "")


def test_parse_recognizes_new_locks() -> None:
    for key, kind in ((Layout.new_intent(), ObjectKind.INTENT), (Layout.new_trial(), ObjectKind.TRIAL)):
        parsed = Layout.parse(key)
        assert parsed is not None and parsed.kind is kind
        assert Layout.digest_of(key) == ""


def test_every_listed_prefix_is_the_beginning_of_keys() -> None:
    keys = [*KEYS, Layout.new_intent()]
    assert {key.partition("/")[0] + "/" for key in keys if "/" in key} == set(Layout.PREFIXES)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "snapper.json.old",
        "environments/.json",
        "environments/-x.json",
        "environments/a b.json",
        "environments/deep/x.json",
        f"environments/{'x' * 129}.json",
        f"snapshots/{DIGEST.upper()}.json",
        f"snapshots/{DIGEST}.json\n",
        f"snapshots/{DIGEST[:-1]}.json",
        f"pages/ff/{DIGEST}.json",
        f"pages/{DIGEST}.json",
        f"layers/01/{DIGEST}.json",
        f"layers/ff/{DIGEST}.tar.zst",
        f"layers/../{DIGEST}.tar.zst",
        "locks/other.json",
        f"locks/pack-{DIGEST}.json",
    ],
)
def test_other_keys_do_not_belong_in_a_store(key: str) -> None:
    assert Layout.parse(key) is None
    assert Layout.digest_of(key) == ""
