"""Objects are got from S3 without boto3 where that can be, and by boto3 where not: the bytes are the same."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from snapper.errors import NotInStore, StoreUnreachable
from snapper.format.layout import Layout
from snapper.format.model import sha256_hex
from snapper.store import Store, open_store
from snapper.store.s3 import transfer
from tests.support.faulty import Fault, Proxy, Request, in_front_of
from tests.support.s3server import S3Server

#: A header that all of boto3's own requests have.
OF_BOTO = "amz-sdk-invocation-id"

#: An object of one part, and what has more than one.
SMALL, LARGE = 100_000, 2 * transfer.PART + 1000


@pytest.fixture(autouse=True)
def settings(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))


def filled(store: Store, *sizes: int) -> dict[str, bytes]:
    """Layers of these sizes, by their keys."""
    layers = {}
    for size in sizes:
        data = secrets.token_bytes(size)
        layers[Layout.layer(sha256_hex(data))] = data
    for key, data in layers.items():
        store.put(key, data)
    return layers


def reads(proxy: Proxy, keys: dict[str, bytes]) -> list[Request]:
    """The requests that came for these objects' bytes."""
    return [
        each
        for each in proxy.requests
        if each.method == "GET" and any(each.path.endswith(key) for key in keys)
    ]


def test_one_request_of_boto3_is_the_model_of_all(s3_server: S3Server, proxy: Proxy) -> None:
    prefix, owner = f"{secrets.token_hex(8)}/an odd+prefix, really~(ü)", "123456789012"
    url = s3_server.url(prefix, endpoint=proxy.endpoint) + f"&ExpectedBucketOwner={owner}"
    store = open_store(url, create=True)
    layers = filled(store, SMALL, 0, 1, LARGE, SMALL)
    proxy.requests.clear()
    assert {key: store.read(key) for key in layers} == layers
    found = [each for each in proxy.requests if each.method == "GET"]
    by_boto = [each for each in found if OF_BOTO in each.headers]
    assert len(by_boto) == 2  # the first, and that which says that no bytes have no range
    assert len(found) == len(layers) + 4  # two more for the large one, and for that of no bytes
    assert {each.headers["x-amz-expected-bucket-owner"] for each in found} == {owner}
    assert {"boto" in each.headers["user-agent"].lower() for each in found} == {True}


def test_connections_are_kept_and_may_be_closed_meanwhile(s3_server: S3Server, proxy: Proxy) -> None:
    store = open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)
    layers = filled(store, *[SMALL] * 6)
    proxy.requests.clear()
    proxy.faults = [Fault("closed", lambda _, path: "/layers/" in path)]
    assert {key: store.read(key) for key in layers} == layers
    found = reads(proxy, layers)
    assert [OF_BOTO in each.headers for each in found] == [True, False, False, False, False, False]


def test_where_only_boto3_is_answered_it_is_left_to_it(s3_server: S3Server, proxy: Proxy) -> None:
    store = open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)
    layers = filled(store, *[1000 + number for number in range(20)])
    first, *others = layers
    store.read(first)
    proxy.requests.clear()
    proxy.faults = [Fault("refused", lambda _, path: "/layers/" in path, code="AccessDenied")]
    assert all(store.read(key) == layers[key] for key in others[:8])
    assert len(reads(proxy, layers)) == 16
    proxy.faults = []
    proxy.requests.clear()
    assert all(store.read(key) == layers[key] for key in others[8:])
    assert all(OF_BOTO in each.headers for each in reads(proxy, layers))


def test_what_is_missing_is_said_to_be(s3_server: S3Server) -> None:
    store = open_store(s3_server.url(secrets.token_hex(8)), create=True)
    (there,) = filled(store, SMALL)
    for _ in range(2):
        store.read(there)
        with pytest.raises(NotInStore):
            store.read(Layout.layer("a" * 64))


def test_a_proxy_is_gone_through(s3_server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    store = open_store(s3_server.url(secrets.token_hex(8)), create=True)
    layers = filled(store, SMALL, SMALL, LARGE)
    proxy.requests.clear()
    assert {key: store.read(key) for key in layers} == layers
    assert len(reads(proxy, layers)) == 5


@pytest.fixture
def secured(s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[Proxy, Path]]:
    """A proxy that is spoken to by TLS, and the certificate of the authority that vouches for it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with in_front_of(s3_server.endpoint, context) as running:
        yield running, tmp_path / "authority.pem"


def test_hosts_are_written_as_they_are_signed(s3_server: S3Server, proxy: Proxy) -> None:
    endpoint = proxy.endpoint.replace("127.0.0.1", "LocalHost")
    store = open_store(s3_server.url(secrets.token_hex(8), endpoint=endpoint), create=True)
    layers = filled(store, SMALL, SMALL)
    proxy.requests.clear()
    assert {key: store.read(key) for key in layers} == layers
    assert sum(OF_BOTO in each.headers for each in reads(proxy, layers)) == 1
    assert len(reads(proxy, layers)) == len(layers)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_tls_is_spoken_where_the_server_can_be_trusted(
    variable: str, s3_server: S3Server, secured: tuple[Proxy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, authority = secured
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(authority))
    store = open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)
    layers = filled(store, SMALL, LARGE, SMALL)
    proxy.requests.clear()
    assert {key: store.read(key) for key in layers} == layers
    assert sum(OF_BOTO in each.headers for each in reads(proxy, layers)) == 1


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    s3_server: S3Server, secured: tuple[Proxy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = secured
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnreachable, match="no secure connection"):
        open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)
    assert not proxy.requests
