"""Reading objects from S3: ranges, connections, proxies, TLS, and responses that break off or are refused."""

from __future__ import annotations

import secrets
import ssl
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import trustme

from snapper.errors import NotAStore, NotInStore, ObjectTooLarge, StoreRefused, StoreUnreachable
from snapper.format.layout import Layout
from snapper.format.model import sha256_hex
from snapper.store import Store, open_store
from snapper.store.s3 import download
from tests.support.faulty import Fault, Proxy, Request, garbling_relay, in_front_of
from tests.support.s3server import S3Server

#: Sizes of an object that is read with one request, and of one that takes three.
SMALL, LARGE = 100_000, 2 * download.RANGE_SIZE + 1000


@pytest.fixture(autouse=True)
def settings(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def store(s3_server: S3Server, proxy: Proxy) -> Store:
    """A new store behind the proxy."""
    return new_store(s3_server, proxy.endpoint)


def new_store(server: S3Server, endpoint: str = "") -> Store:
    return open_store(server.url(secrets.token_hex(8), endpoint=endpoint), create=True)


def put_layers(store: Store, *sizes: int) -> dict[str, bytes]:
    """Put layers of these sizes; return their contents by key."""
    layers = {}
    for size in sizes:
        data = secrets.token_bytes(size)
        layers[Layout.layer(sha256_hex(data))] = data
    for key, data in layers.items():
        store.put(key, data)
    return layers


def read_all(store: Store, layers: dict[str, bytes]) -> dict[str, bytes]:
    return {key: store.read(key) for key in layers}


def reads(proxy: Proxy) -> list[Request]:
    """Return the requests for layers' bytes that came since the list of requests was cleared."""
    return [request for request in proxy.requests if request.method == "GET" and "/layers/" in request.path]


# --- requests ---------------------------------------------------------------------------------------------


def test_large_objects_are_read_in_ranges(s3_server: S3Server, proxy: Proxy) -> None:
    prefix, owner = f"{secrets.token_hex(8)}/an odd+prefix, really~(ü)", "123456789012"
    url = s3_server.url(prefix, endpoint=proxy.endpoint) + f"&ExpectedBucketOwner={owner}"
    store = open_store(url, create=True)
    layers = put_layers(store, SMALL, 0, 1, LARGE, SMALL, download.RANGE_SIZE, download.RANGE_SIZE + 1)
    proxy.requests.clear()
    assert read_all(store, layers) == layers
    assert len(reads(proxy)) == len(layers) + 2 + 1
    assert {request.headers["x-amz-expected-bucket-owner"] for request in reads(proxy)} == {owner}
    size = download.RANGE_SIZE
    (large,) = (key for key, data in layers.items() if len(data) == LARGE)
    name = large.rpartition("/")[2]
    ranges = {request.headers["range"]: request for request in reads(proxy) if request.path.endswith(name)}
    expected = {f"bytes=0-{size - 1}", f"bytes={size}-{2 * size - 1}", f"bytes={2 * size}-{LARGE - 1}"}
    assert ranges.keys() == expected
    assert [first for first, request in ranges.items() if "if-match" not in request.headers] == [
        f"bytes=0-{size - 1}"
    ]


def test_objects_above_the_limit_are_not_read(store: Store, proxy: Proxy) -> None:
    layers = put_layers(store, SMALL, LARGE)
    proxy.requests.clear()
    for key, data in layers.items():
        with pytest.raises(ObjectTooLarge):
            store.read(key, len(data) - 1)
    assert len(reads(proxy)) == 2
    assert {key: store.read(key, len(data)) for key, data in layers.items()} == layers


def test_missing_objects_are_reported_as_missing(store: Store) -> None:
    (existing,) = put_layers(store, SMALL)
    for _ in range(2):
        store.read(existing)
        with pytest.raises(NotInStore):
            store.read(Layout.layer("a" * 64))


def test_refusals_that_may_pass_are_retried(store: Store, proxy: Proxy) -> None:
    layers = put_layers(store, SMALL, LARGE)
    for code in ("SlowDown", "InternalError"):
        proxy.requests.clear()
        proxy.faults = [Fault("refused", lambda _, path: "/layers/" in path, times=2, code=code)]
        assert read_all(store, layers) == layers
        assert proxy.happened == 4
        assert len(reads(proxy)) == 4 + 4


def test_denied_requests_are_not_retried(store: Store, proxy: Proxy) -> None:
    (key,) = put_layers(store, SMALL)
    proxy.requests.clear()
    proxy.faults = [Fault("refused", lambda _, path: "/layers/" in path, times=99, code="AccessDenied")]
    with pytest.raises(StoreRefused, match="s3:GetObject"):
        store.read(key)
    assert len(reads(proxy)) == 1


def test_memory_for_a_large_object_is_little_more_than_its_size(s3_server: S3Server) -> None:
    store, data = new_store(s3_server), secrets.token_bytes(64 * 1024 * 1024)
    key = Layout.layer(sha256_hex(data))
    assert store.size(key) is None  # so that boto3's own memory is not counted
    tracemalloc.start()
    try:
        store.put(key, data)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
        tracemalloc.reset_peak()
        copy = store.read(key)
        assert tracemalloc.get_traced_memory()[1] < len(data) + 16 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert copy == data


# --- connections ------------------------------------------------------------------------------------------


def test_connections_are_reused(store: Store, proxy: Proxy) -> None:
    layers = put_layers(store, *[SMALL] * 6)
    before = proxy.connections
    assert read_all(store, layers) == layers
    assert proxy.connections == before


def test_connections_that_the_server_closed_are_made_again(store: Store, proxy: Proxy) -> None:
    layers = put_layers(store, *[SMALL] * 6)
    before = proxy.connections
    proxy.requests.clear()
    proxy.faults = [Fault("closed", lambda _, path: "/layers/" in path)]
    assert read_all(store, layers) == layers
    assert len(reads(proxy)) == len(layers)
    assert proxy.connections >= before + len(layers) - 1


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_interrupted_reading_continues_where_it_stopped(
    kind: Literal["cut", "reset"], store: Store, proxy: Proxy
) -> None:
    layers = put_layers(store, SMALL, LARGE)
    proxy.requests.clear()
    proxy.faults = [Fault(kind, lambda _, path: "/layers/" in path, times=2)]
    assert read_all(store, layers) == layers
    assert proxy.happened == 4
    small = [request.headers for request in reads(proxy)[:3]]
    assert all("if-match" in headers for headers in small[1:])
    if kind == "cut":  # after a reset, bytes that were sent may not arrive
        assert [headers["range"] for headers in small[1:]] == [
            f"bytes={SMALL // 2}-{SMALL - 1}",
            f"bytes={SMALL * 3 // 4}-{SMALL - 1}",
        ]


def test_interrupted_reading_does_not_continue_in_another_object(
    store: Store, proxy: Proxy, s3_server: S3Server
) -> None:
    (key,) = put_layers(store, SMALL)
    paths: list[str] = []

    def replace_before_second_request(method: str, path: str) -> None:
        paths.append(path)
        if len(paths) == 2:
            request = store._object(key)  # type: ignore[attr-defined]
            s3_server.client().put_object(**request, Body=b"?" * SMALL)

    proxy.faults = [Fault("cut", lambda _, path: "/layers/" in path)]
    proxy.before = replace_before_second_request
    with pytest.raises(StoreRefused, match="PreconditionFailed"):
        store.read(key)
    assert len(paths) == 2


def test_servers_that_ignore_ranges_are_read_in_one_piece(store: Store, proxy: Proxy) -> None:
    ((key, data),) = put_layers(store, LARGE).items()
    proxy.requests.clear()
    proxy.faults = [Fault("ignored", lambda _, path: "/layers/" in path, times=99, body=data)]
    assert store.read(key) == data
    assert len(reads(proxy)) == 1
    proxy.faults.insert(0, Fault("cut", lambda _, path: "/layers/" in path))
    with pytest.raises(NotAStore, match="does not speak S3"):
        store.read(key)


# --- proxies and TLS --------------------------------------------------------------------------------------


def test_requests_go_through_the_proxy_of_the_environment(
    s3_server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    store = new_store(s3_server)
    layers = put_layers(store, SMALL, SMALL, LARGE)
    proxy.requests.clear()
    assert read_all(store, layers) == layers
    assert len(reads(proxy)) == 5


def test_hosts_in_mixed_case_are_signed_as_sent(s3_server: S3Server, proxy: Proxy) -> None:
    store = new_store(s3_server, proxy.endpoint.replace("127.0.0.1", "LocalHost"))
    layers = put_layers(store, SMALL, SMALL)
    proxy.requests.clear()
    assert read_all(store, layers) == layers
    assert len(reads(proxy)) == len(layers)


@pytest.fixture
def tls_proxy(s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[Proxy, Path]]:
    """A proxy that speaks TLS, and the certificate of the authority that signed its own."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with in_front_of(s3_server.endpoint, context) as running:
        yield running, tmp_path / "authority.pem"


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_a_configured_authority_are_trusted(
    variable: str, s3_server: S3Server, tls_proxy: tuple[Proxy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, authority = tls_proxy
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(authority))
    store = new_store(s3_server, proxy.endpoint)
    layers = put_layers(store, SMALL, LARGE, SMALL)
    proxy.requests.clear()
    assert read_all(store, layers) == layers
    assert len(reads(proxy)) == 5


def test_untrusted_certificates_are_refused(
    s3_server: S3Server, tls_proxy: tuple[Proxy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = tls_proxy
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnreachable, match="no secure connection"):
        new_store(s3_server, proxy.endpoint)
    assert not proxy.requests


def test_reading_continues_after_an_altered_tls_record(
    s3_server: S3Server, tls_proxy: tuple[Proxy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, authority = tls_proxy
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with garbling_relay(proxy.endpoint, at=500_000) as endpoint:
        store = new_store(s3_server, endpoint)
        layers = put_layers(store, 1_000_000)
        proxy.requests.clear()
        assert read_all(store, layers) == layers
        assert len(reads(proxy)) == 2
