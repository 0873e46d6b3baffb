"""Objects on S3 that exist and cannot be read: archived ones, and those encrypted with somebody else's key."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapper.errors import SnapperError, StoreLocked, StoreRefused
from snapper.format.layout import Layout
from snapper.repository import locks
from snapper.store import Store, open_store
from tests.conftest import Instance
from tests.support.environments import make_data
from tests.support.faulty import Fault, Proxy
from tests.support.s3server import S3Server

ARCHIVED, ENCRYPTED = "archived", "encrypted"


class Bucket:
    """The objects of a store, with another client than snapper's."""

    def __init__(self, server: S3Server, url: str, proxy: Proxy) -> None:
        self.client = server.client()
        self.bucket = server.bucket
        self.prefix = url.partition("?")[0].removeprefix(f"s3://{server.bucket}/") + "/"
        self.archived: set[str] = set()
        proxy.faults = [Fault("refused", self._is_archived, times=10**6, code="InvalidObjectState")]

    def _is_archived(self, method: str, path: str) -> bool:
        """SeaweedFS returns objects of all storage classes, which AWS does not."""
        key = path.partition("?")[0].removeprefix(f"/{self.bucket}/")
        if method != "GET" or key not in self.archived:
            return False
        return str(self.client.head_object(Bucket=self.bucket, Key=key).get("StorageClass")) == "DEEP_ARCHIVE"

    def keys(self, part: str = "") -> list[str]:
        """Return the keys below the store's prefix that contain the text."""
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix).get("Contents", ())
        return [entry["Key"].removeprefix(self.prefix) for entry in listed if part in entry["Key"]]

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read())

    def write(self, key: str, data: bytes, how: str) -> None:
        """Write an object that cannot be read."""
        options: dict[str, Any] = {"StorageClass": "DEEP_ARCHIVE"}
        if how == ENCRYPTED:
            options = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": secrets.token_bytes(32)}
        else:
            self.archived.add(self.prefix + key)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        key = self.prefix + key
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumSHA256=checksum, **options)

    def make_unreadable(self, part: str, how: str) -> list[str]:
        """Write the objects whose keys contain the text again, so that they cannot be read; return their keys."""
        keys = self.keys(part)
        for key in keys:
            self.write(key, self.read(key), how)
        return keys


@pytest.fixture
def one(new_instance: Callable[[str], Instance], proxy: Proxy) -> Instance:
    """An instance that reaches the server through the proxy."""
    return new_instance("one").with_variables(AWS_ENDPOINT_URL_S3=proxy.endpoint)


@pytest.fixture
def bucket(s3_server: S3Server, url: str, proxy: Proxy) -> Bucket:
    return Bucket(s3_server, url, proxy)


@pytest.fixture
def store(s3_server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    return open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)


@pytest.mark.parametrize("how", [ARCHIVED, ENCRYPTED])
def test_what_must_not_be_replaced_is_named(
    how: str, store: Store, s3_server: S3Server, proxy: Proxy
) -> None:
    """A bucket policy allows new objects only."""
    bucket, data = Bucket(s3_server, store.url, proxy), b"a layer"
    key = Layout.layer(hashlib.sha256(data).hexdigest())
    bucket.write(key, data, how)
    assert store.inspect(key) is None
    assert store.sizes(Layout.LAYERS, [key]) == {}
    is_write = lambda method, path: method == "PUT" and key in path  # noqa: E731
    proxy.faults.append(Fault("refused", is_write, after=1, code="AccessDenied"))
    with pytest.raises(StoreRefused) as caught:
        store.put(key, data)
    assert key in caught.value.message
    assert ("DEEP_ARCHIVE" if how == ARCHIVED else "ncryption") in caught.value.message
    assert "s3:PutObject" in caught.value.message
    assert caught.value.unreadable == key


def test_unreadable_objects_are_reported_repaired_and_packed_again(
    one: Instance, bucket: Bucket, tmp_path: Path
) -> None:
    """A publisher has stored the objects of an environment first, or a lifecycle rule has archived them.

    Listings show storage classes, only reading shows everything. The check goes on after each of them.
    """
    make_data(one.envs / "work")
    one.run_json("pack", "work")
    first, second, *_ = bucket.keys("layers/")
    page, *_ = bucket.keys("pages/")
    bucket.make_unreadable(first, ARCHIVED)
    bucket.make_unreadable(second, ENCRYPTED)
    assert [problem["key"] for problem in one.snapper("verify", "--json").json["problems"]] == [first]
    bucket.make_unreadable(page, ENCRYPTED)
    assert one.run_json("verify", "--data", "--repair")["problems"] == []

    for number, key in enumerate(bucket.keys("layers/") + bucket.keys("pages/") + bucket.keys("snapshots/")):
        bucket.make_unreadable(key, (ARCHIVED, ENCRYPTED)[number % 2])
    assert one.run_json("pack", "work")["added_layers"]
    one.run_json("restore", "work", "--prefix", tmp_path / "copy")
    assert one.run_json("verify", "--data")["problems"] == []


def test_copies_continue_with_the_other_environments(one: Instance, bucket: Bucket, tmp_path: Path) -> None:
    """One environment has a layer that cannot be read, and the entry of another one cannot be read."""
    for name in ("first", "second"):
        (make_data(one.envs / name) / "notes.txt").write_text(name)
        one.run_json("pack", name)
        if name == "first":
            bucket.write("environments/other.json", b"{}", ENCRYPTED)
            bucket.make_unreadable("layers/", ENCRYPTED)  # those that both have are stored again
    outcome = one.snapper("pull", "--all", "--from", one.url, "--store", tmp_path / "other", "--json")
    assert outcome.code == 13, outcome
    assert [copied["environment"] for copied in outcome.json["copied"]] == ["second"]
    assert [failure["environment"] for failure in outcome.json["failed"]] == ["first", "other"]


def test_locks_that_cannot_be_read_expire(
    store: Store, s3_server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(s3_server, store.url, proxy)
    for how in (ARCHIVED, ENCRYPTED):
        bucket.write(Layout.new_intent(), b"{}", how)
    with pytest.raises(StoreLocked, match="unknown"), locks.prune_lock(store):
        pass
    monkeypatch.setattr(locks, "GRACE", -1)
    with locks.prune_lock(store):
        assert bucket.keys("pack-") == []


def test_packs_do_not_list_the_locks_of_others(store: Store, proxy: Proxy) -> None:
    """A publisher may add any number of them."""
    proxy.requests.clear()
    with locks.pack_intent(store) as intent:
        intent.declare()
        listings = [request.path for request in proxy.requests if "list-type" in request.path]
        assert len(listings) == 1
        assert intent.key.partition("/")[2] in listings[0]


def test_stores_whose_objects_cannot_be_read_are_refused() -> None:
    with pytest.raises(SnapperError, match="DEEP_ARCHIVE cannot be read"):
        open_store("s3://bucket/prefix?StorageClass=DEEP_ARCHIVE")
