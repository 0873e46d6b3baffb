"""Failures of networks and servers: each ends in the right result or in one clear message, never in a wrong file."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.exceptions import ClientError

from snapper.errors import SnapperError, StoreRefused, StoreUnreachable
from snapper.process.identity import format_utc
from snapper.store import Store, VersionMismatch, open_store
from snapper.store.s3 import S3Store, client, download, parse_url
from snapper.store.s3 import store as s3_store
from tests.conftest import Instance, Outcome, tree_of
from tests.support.environments import make_data
from tests.support.faulty import Fault, Proxy
from tests.support.jupyter import kernels_dir
from tests.support.kernelspecs import add_kernel
from tests.support.s3server import S3Server

LAYER = "/layers/"

#: Size of a large object, in bytes: it is read in several ranges, and written with one request all the same.
LARGE = 4 * download.RANGE_SIZE + 1


def gets(part: str) -> Callable[[str, str], bool]:
    return lambda method, path: method == "GET" and part in path and "list-type" not in path


def puts(part: str) -> Callable[[str, str], bool]:
    return lambda method, path: method in ("PUT", "POST") and part in path


@pytest.fixture
def one(new_instance: Callable[[str], Instance], proxy: Proxy) -> Instance:
    """An instance that reaches the server through the proxy."""
    return new_instance("one").with_variables(AWS_ENDPOINT_URL_S3=proxy.endpoint)


@pytest.fixture
def store(s3_server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A store in this process, behind the proxy, with a short timeout."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(client, "READ_TIMEOUT", 2)
    return open_store(s3_server.url(secrets.token_hex(8), endpoint=proxy.endpoint), create=True)


def test_restore_succeeds_despite_failing_responses(one: Instance, proxy: Proxy, tmp_path: Path) -> None:
    """The first response for each layer is reset, cut, altered or refused; others are altered or refused."""
    prefix = make_data(one.envs / "work")
    (prefix / "big.bin").write_bytes(secrets.token_bytes(3 * download.RANGE_SIZE))
    packed = one.run_json("pack", "work")

    def quarter(number: int) -> Callable[[str, str], bool]:
        def meets(method: str, path: str) -> bool:
            name = re.search(r"/layers/../([0-9a-f]{2})", path)
            return method == "GET" and name is not None and int(name[1], 16) % 4 == number

        return meets

    proxy.faults = [
        Fault("reset", quarter(0)),
        Fault("cut", quarter(1), times=2),
        Fault("altered", quarter(2), times=2),
        Fault("refused", quarter(3), times=2, code="SlowDown"),
        Fault("altered", gets("/snapshots/")),
        Fault("altered", gets("/pages/"), times=2),
        Fault("altered", gets("/environments/")),
        Fault("refused", gets("snapper.json"), code="InternalError"),
    ]
    target = tmp_path / "restored"
    (restored,) = one.run_json("restore", "work", "--prefix", target)["restored"]
    assert restored["snapshot"] == packed["snapshot"]
    assert proxy.happened > packed["layers"] / 2
    assert {path for path in tree_of(target) if "conda-meta" not in path} == {
        path for path in tree_of(prefix) if "conda-meta" not in path
    }
    assert (target / "big.bin").read_bytes() == (prefix / "big.bin").read_bytes()


def test_pack_is_no_conflict_with_itself_when_responses_are_lost(one: Instance, proxy: Proxy) -> None:
    """Responses are lost after the server has written: that is not mistaken for another instance's write."""
    make_data(one.envs / "work")
    proxy.faults = [
        Fault("lost", puts(LAYER)),
        Fault("lost", puts("/pages/")),
        Fault("lost", puts("/snapshots/")),
        Fault("lost", puts("/environments/")),
        Fault("refused", puts("/locks/"), times=2, code="SlowDown"),
    ]
    packed = one.run_json("pack", "work")
    (step,) = one.run_json("log", "work")["steps"]
    assert step["snapshot"] == packed["snapshot"]
    (one.envs / "work" / "notes.txt").write_text("more")
    proxy.faults = [Fault("lost", puts("/environments/"))]
    one.run_json("pack", "work")
    assert len(one.run_json("log", "work")["steps"]) == 2


def test_failing_to_list_the_store_is_not_taken_for_an_empty_store(
    one: Instance, proxy: Proxy, tmp_path: Path
) -> None:
    """The store opens, but listing it fails: restore what the cache has, or fail if there is no cache."""
    cache = tmp_path / "cache"
    one = one.with_variables(SNAPPER_CACHE=str(cache), AWS_MAX_ATTEMPTS="1")
    add_kernel(make_data(one.envs / "work"), "text", argv=["true"], display_name="text", language="text")
    one.run_json("pack", "work")
    one.run_json("restore", "--all")
    kernel = kernels_dir(one) / "work-text"

    def without_listing(**variables: str) -> Outcome:
        shutil.rmtree(one.envs / "work", ignore_errors=True)
        proxy.faults = [Fault("refused", lambda _, path: "list-type" in path, times=99, code="SlowDown")]
        outcome = one.snapper("restore", "--all", "--json", **variables)
        proxy.faults = []
        assert kernel.is_dir()
        return outcome

    known = without_listing()
    assert (known.code, [env["environment"] for env in known.json["restored"]]) == (3, ["work"])
    shutil.rmtree(cache)
    for variables in ({}, {"SNAPPER_CACHE": "/proc/nowhere"}):
        unknown = without_listing(**variables)
        assert (unknown.code, unknown.json["error"]["type"]) == (13, "StoreUnreachable")


def test_cache_is_used_when_the_store_goes_offline_during_a_restore(
    one: Instance, proxy: Proxy, tmp_path: Path
) -> None:
    """The store opens and is listed, then every request fails."""
    cache = tmp_path / "cache"
    one = one.with_variables(SNAPPER_CACHE=str(cache), AWS_MAX_ATTEMPTS="1")
    names = ("work", "other")
    for name in names:
        before = set(cache.rglob("*.zst"))
        (make_data(one.envs / name) / "notes.txt").write_text(name)
        one.run_json("pack", name)

    def offline_after(requests: int) -> Outcome:
        for name in names:
            shutil.rmtree(one.envs / name, ignore_errors=True)
        proxy.faults = [Fault("refused", lambda *_: True, times=99, after=requests, code="SlowDown")]
        outcome = one.snapper("restore", "--all", "--json")
        proxy.faults = []
        return outcome

    for requests in (2, 5):  # after marker and listing; after reading the entries too, one of them twice
        outcome = offline_after(requests)
        assert outcome.code == 3, (requests, outcome)
        assert {env["environment"] for env in outcome.json["restored"]} == set(names)
        kept = [file.stat().st_mtime for file in cache.glob("*/environments/*.json")]
        assert outcome.json["store_last_seen"] == format_utc(min(kept))

    for file in set(cache.rglob("*.zst")) - before:
        file.unlink()
    outcome = offline_after(3)
    assert outcome.code == 13, outcome
    assert [env["environment"] for env in outcome.json["restored"]] == ["work"]
    assert [failure["type"] for failure in outcome.json["failed"]] == ["StoreUnreachable"]
    assert outcome.json["store_last_seen"]


def test_replace_recognizes_its_own_write_after_a_lost_response_and_a_conflict(
    store: Store, proxy: Proxy
) -> None:
    """The first attempt succeeds unnoticed, the second conflicts, and the third finds the first one's content."""
    entry = "environments/work.json"
    proxy.faults = [
        Fault("lost", puts(entry)),
        Fault("refused", puts(entry), code="ConditionalRequestConflict"),
    ]
    store.replace(entry, b"one", None)
    assert proxy.happened == 2
    data, version = store.read_versioned(entry)
    assert data == b"one"
    store.replace(entry, b"two", version)
    proxy.faults = [Fault("refused", puts(entry), code="ConditionalRequestConflict")]
    with pytest.raises(VersionMismatch):  # the content is the same, but this call did not write it
        store.replace(entry, b"two", version)


def test_pack_reports_a_conflict_at_the_last_moment(
    one: Instance,
    proxy: Proxy,
    s3_server: S3Server,
    url: str,
) -> None:
    make_data(one.envs / "work")
    one.run_json("pack", "work")
    (one.envs / "work" / "notes.txt").write_text("late")
    key = url.removeprefix(f"s3://{s3_server.bucket}/") + "/environments/work.json"
    direct = s3_server.client()
    moved: list[str] = []

    def move_before(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("work.json") and not moved:
            entry = json.loads(direct.get_object(Bucket=s3_server.bucket, Key=key)["Body"].read())
            entry["history"][-1]["user"] = "somebody.else"
            direct.put_object(
                Bucket=s3_server.bucket,
                Key=key,
                Body=json.dumps(entry, sort_keys=True, separators=(",", ":")).encode(),
            )
            moved.append(path)

    proxy.before = move_before
    outcome = one.snapper("pack", "work", "--json")
    assert outcome.code == 11, outcome
    assert "somebody.else@" in outcome.json["error"]["message"]


PERMANENT_FAILURES = {
    "expired": (Fault("refused", gets(LAYER), times=99, after=2, code="ExpiredToken"), 13, "have expired"),
    "skewed": (Fault("refused", gets(""), times=99, code="RequestTimeTooSkewed"), 13, "clock"),
    "altered for good": (Fault("altered", gets(LAYER), times=99, after=1), 12, "is corrupted"),
    "broken for good": (Fault("reset", gets(LAYER), times=99, after=1), 13, "keeps breaking"),
    "busy for good": (Fault("refused", gets(LAYER), times=99, code="SlowDown"), 13, "too busy"),
}


@pytest.mark.parametrize("case", PERMANENT_FAILURES)
def test_permanent_failures_end_in_one_message(case: str, one: Instance, proxy: Proxy) -> None:
    fault, code, words = PERMANENT_FAILURES[case]
    make_data(one.envs / "work")
    one.run_json("pack", "work")
    shutil.rmtree(one.envs / "work")
    proxy.faults = [Fault(fault.kind, fault.meets, fault.times, fault.after, fault.code)]
    outcome = one.with_variables(AWS_MAX_ATTEMPTS="2").snapper(
        "restore", "work", "--envs-dir", one.envs, "--json"
    )
    assert outcome.code == code, outcome
    error = outcome.json["error"]
    assert words in error["message"]
    assert error["hint"]
    assert "\n" not in error["message"]
    assert list(one.envs.iterdir()) == []


def test_stalled_responses_time_out_and_continue(
    store: Store, proxy: Proxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes one of several ranges: what came before is not requested again."""
    data = secrets.token_bytes(2 * download.RANGE_SIZE + 1_000_000)
    name = hashlib.sha256(data).hexdigest()
    layer, entry = f"layers/{name[:2]}/{name}.tar.zst", "environments/work.json"
    for key in (layer, entry):
        where = store._object(key)  # type: ignore[attr-defined]
        s3_server.client().put_object(**where, Body=data)
    ranges: list[str] = []
    proxy.faults = [Fault("stalled", gets(name), times=3), Fault("stalled", gets(entry))]
    proxy.before = lambda method, path: ranges.append(path)
    assert store.read(layer) == data
    assert len(ranges) >= 6  # more if responses time out on a slow machine
    assert store.read_versioned(entry)[0] == data
    assert proxy.happened == 4
    monkeypatch.setattr(download, "_MAX_FAILURES", 2)
    proxy.faults = [Fault("stalled", gets(entry), times=99)]
    with pytest.raises(StoreUnreachable) as caught:
        store.read(entry)
    assert re.search("in time|keeps breaking", caught.value.message)


def test_large_objects_are_written_with_one_request(store: Store, proxy: Proxy, s3_server: S3Server) -> None:
    """The request is repeated unless that is pointless, and leaves nothing behind if it fails."""
    data, key = secrets.token_bytes(LARGE), "layers/aa/large.tar.zst"
    proxy.requests.clear()
    assert store.put(key, data)
    assert [request.method for request in proxy.requests] == ["HEAD", "PUT"]
    assert store.read(key) == data
    store.delete(key)
    proxy.faults = [Fault("lost", puts(key)), Fault("refused", puts(key), code="SlowDown")]
    assert store.put(key, data)
    assert proxy.happened == 2
    assert store.read(key) == data

    never = "layers/aa/never.tar.zst"
    proxy.faults = [Fault("refused", puts(never), times=99, code="ExpiredToken")]
    with pytest.raises(SnapperError, match="expired"):
        store.put(never, data)
    assert store.size(never) is None
    proxy.faults = [Fault("refused", lambda _method, _path: True, times=99, code="ExpiredToken")]
    with pytest.raises(SnapperError, match="expired"):
        store.size(never)
    proxy.faults = []
    assert not [key for key in store.list_keys("layers/") if "never" in key]


def test_slow_connections_do_not_limit_the_size_of_objects(
    store: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit is for sending the next bytes, not for sending all of them."""
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 1)
    patient = S3Store(
        parse_url(f"{store.url}&StorageClass=STANDARD")
    )  # another location has a client of its own
    data = secrets.token_bytes(LARGE)
    proxy.faults = [Fault("slow", puts(LAYER), times=99)]
    assert patient.put("layers/aa/large.tar.zst", data)
    assert proxy.happened >= 1  # more if the machine is so busy that sending stalls
    assert store.read("layers/aa/large.tar.zst") == data


def test_sweep_aborts_old_multipart_uploads(
    store: Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store._object("layers/aa/large.tar.zst")  # type: ignore[attr-defined]
    s3_server.client().create_multipart_upload(**request)

    def uploads() -> list[str]:
        uploads = s3_server.client().list_multipart_uploads(Bucket=s3_server.bucket).get("Uploads", [])
        return [upload["Key"] for upload in uploads if upload["Key"] == request["Key"]]

    assert store.remove_leftovers() == 0
    assert uploads() == [request["Key"]]
    monkeypatch.setattr(s3_store, "_ABANDONED", -60.0)
    assert store.remove_leftovers() == 1
    assert uploads() == []
    assert store.remove_leftovers() == 0


# --- options in the URL -----------------------------------------------------------------------------------


def test_options_of_the_url_become_request_parameters(store: Store, proxy: Proxy) -> None:
    """ExpectedBucketOwner and RequestPayer go with all requests, the others with those that write objects."""
    always = {"ExpectedBucketOwner": "123456789012", "RequestPayer": "requester"}
    written = {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:us-east-1:123456789012:key/one",
        "SSEKMSEncryptionContext": "eyJhIjoiYiJ9",
        "BucketKeyEnabled": "true",
        "StorageClass": "STANDARD_IA",
    }
    headers = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:us-east-1:123456789012:key/one",
        "x-amz-server-side-encryption-context": "eyJhIjoiYiJ9",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
        "x-amz-storage-class": "STANDARD_IA",
    }

    def with_options(options: dict[str, str]) -> Store:
        proxy.requests.clear()
        return S3Store(parse_url(f"{store.url}&{urlencode(options)}"))

    owned = with_options(always)
    large = secrets.token_bytes(LARGE)
    for key, data in (("layers/aa/small", b"small"), ("layers/aa/large", large)):
        assert owned.put(key, data)
        assert owned.read(key) == data
    owned.read_versioned("layers/aa/small")
    assert list(owned.list_keys("layers/"))
    owned.list_root()
    owned.remove_leftovers()
    owned.delete("layers/aa/small")
    assert {request.method for request in proxy.requests} == {"HEAD", "GET", "PUT", "DELETE"}
    for request in proxy.requests:
        assert request.headers["x-amz-expected-bucket-owner"] == "123456789012", request
        assert request.headers["x-amz-request-payer"] == "requester", request

    encrypted = with_options(written)
    proxy.faults = [
        Fault("refused", lambda *_: True, times=9, code="AccessDenied")
    ]  # SeaweedFS has no such KMS key
    for data in (b"small", large):
        with pytest.raises(StoreRefused):
            encrypted.replace("environments/work.json", data, None)
    for request in proxy.requests:
        assert headers.items() <= request.headers.items(), request
    assert [request.method for request in proxy.requests] == ["PUT", "PUT"]


# --- wrong settings and missing permissions ---------------------------------------------------------------


@contextmanager
def web_server(page: bytes = b"") -> Iterator[str]:
    """Run a web server that does not speak S3; it answers all GET requests with the page, if one is given."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            if not page:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_wrong_settings_are_reported_with_a_hint(
    new_instance: Callable[[str], Instance],
    s3_server: S3Server,
    proxy: Proxy,
    url: str,
) -> None:
    one = new_instance("one").with_variables(AWS_MAX_ATTEMPTS="1")
    region = {"Region": "eu-central-1"}
    elsewhere = [Fault("refused", gets(""), 9, code="AuthorizationHeaderMalformed", extra=region)]
    with web_server() as web, web_server(b"<html><body>Sign in</body></html>") as portal:
        cases: list[tuple[str, str, dict[str, str], list[Fault]]] = [
            ("there is no bucket", "s3://no-such-bucket/x", {}, []),
            ("not a valid bucket name", "s3://No_Bucket!/x", {}, []),
            ("there is no store at", f"{url}/nothing", {}, []),
            ("no AWS credentials", url, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, []),
            ("does not know these credentials", url, {"AWS_ACCESS_KEY_ID": "nobody"}, []),
            ("secret key does not match", url, {"AWS_SECRET_ACCESS_KEY": "wrong"}, []),
            ("s3:GetObject", url, s3_server.variables("outsider"), []),
            ("another region, eu-central-1", url, {"AWS_ENDPOINT_URL_S3": proxy.endpoint}, elsewhere),
            ("nothing answers", url, {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, []),
            ("does not speak S3", url, {"AWS_ENDPOINT_URL_S3": web}, []),
            ("does not speak S3", url, {"AWS_ENDPOINT_URL_S3": portal}, []),
            ("endpoint", url, {"AWS_ENDPOINT_URL_S3": "no URL"}, []),
            ("nobody", url, {"AWS_PROFILE": "nobody"}, []),
            ("no bucket", "s3://", {}, []),
            ("'..'", f"{url}/../x", {}, []),
            ("option, profile;", f"{url}?profile=x", {}, []),
            ("BucketKeyEnabled", f"{url}?BucketKeyEnabled=maybe", {}, []),
        ]
        for words, store_url, variables, faults in cases:
            proxy.faults = faults
            outcome = one.snapper("list", "--store", store_url, "--json", **variables)
            error = outcome.json.get("error", {})
            assert outcome.code == 13, (words, outcome)
            assert words in error["message"], (words, error)
            assert error["hint"], (words, error)
            assert not re.search(r"https?://[^/ ]+/", error["message"]), error  # the host says enough
            assert "\n" not in error["message"]


def test_users_can_do_what_their_permissions_allow(
    new_instance: Callable[[str], Instance],
    s3_server: S3Server,
    tmp_path: Path,
    url: str,
) -> None:
    admin = new_instance("admin")
    make_data(admin.envs / "work")
    packed = admin.run_json("pack", "work")
    reader = new_instance("reader").with_variables(**s3_server.variables("reader"))
    assert reader.run_json("list")["environments"][0]["snapshot"] == packed["snapshot"]
    reader.run_json("restore", "work", "--envs-dir", reader.envs)
    (reader.envs / "work" / "notes.txt").write_text("mine")
    outcome = reader.snapper("pack", "work", "--json")
    assert outcome.code == 13, outcome
    assert "lack the permission s3:PutObject on arn:aws:s3:::" in outcome.json["error"]["message"]
    assert "docs/s3.md" in outcome.json["error"]["hint"]
    blind = new_instance("blind").with_variables(**s3_server.variables("blind"))
    assert "s3:ListBucket" in blind.expect_error(13, "list")["message"]
    blind.run_json("restore", "work", "--envs-dir", blind.envs)
    shown = blind.snapper("status", "--json")
    assert shown.code == 3, shown
    assert [env["condition"] for env in shown.json["environments"]] == ["unchanged"]
    assert "s3:ListBucket" in shown.json["store_error"]["message"]


def test_doctor_reports_each_permission(
    new_instance: Callable[[str], Instance], s3_server: S3Server, url: str, tmp_path: Path
) -> None:
    admin = new_instance("admin")
    make_data(admin.envs / "work")
    admin.run_json("pack", "work")
    directory = tmp_path / "volume"
    admin.run_json("pack", "work", "--store", directory)

    def details_for(user: str, store: str) -> list[str]:
        outcome = (
            new_instance(secrets.token_hex(4))
            .with_variables(**s3_server.variables(user))
            .snapper("doctor", "--store", store, "--json")
        )
        assert outcome.code in (0, 3), outcome
        return [finding["detail"] for finding in outcome.json["findings"]]

    assert f"this user has the rights of an administrator on {url}" in details_for("admin", url)
    assert f"this user has the rights of an administrator on {directory}" in details_for(
        "admin", str(directory)
    )
    details = details_for("reader", url)
    assert f"this user has the rights of a reader on {url}" in details
    assert any("s3:PutObject" in detail for detail in details)
    assert any("s3:ListBucket" in detail for detail in details_for("blind", url))
    assert f"this user has the rights of an administrator on {url}/new" in details_for("admin", f"{url}/new")
    assert any("s3:PutObject" in detail for detail in details_for("reader", f"{url}/newer"))
    assert any("every restore reads everything from S3" in detail for detail in details)
    prefix = url.removeprefix(f"s3://{s3_server.bucket}/")
    left = s3_server.client().list_objects_v2(Bucket=s3_server.bucket, Prefix=prefix)["Contents"]
    assert [item["Key"] for item in left if "doctor" in item["Key"]] == []


def test_publisher_does_not_overwrite_layers(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))
    prefix = secrets.token_hex(8)
    open_store(s3_server.url(prefix), create=True)
    publisher = open_store(s3_server.url(prefix, "publisher"))
    key = "layers/ab/object.tar.zst"
    for size in (100, 1_000_000, LARGE):
        assert publisher.put(f"{key}{size}", b"a" * size)
        assert not publisher.put(f"{key}{size}", b"b" * size)
        assert publisher.read(f"{key}{size}") == b"a" * size


def test_object_lock_keeps_overwritten_layers(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server enforces this for all programs, and snapper works in such a bucket."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = replace(s3_server, bucket=f"locked-{secrets.token_hex(4)}")
    admin, publisher = server.client(), server.client("publisher")
    admin.create_bucket(Bucket=server.bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    admin.put_object_lock_configuration(
        Bucket=server.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    store = open_store(server.url("prefix"), create=True)
    where = {"Bucket": server.bucket, "Key": "prefix/layers/ab/object.tar.zst"}
    assert store.put("layers/ab/object.tar.zst", b"first")
    assert not store.put("layers/ab/object.tar.zst", b"later")
    first = admin.head_object(**where)["VersionId"]
    publisher.put_object(**where, Body=b"worse")
    for more in ({}, {"BypassGovernanceRetention": True}):
        with pytest.raises(ClientError, match="AccessDenied"):
            publisher.delete_object(**where, VersionId=first, **more)
    assert store.read("layers/ab/object.tar.zst") == b"worse"
    assert admin.get_object(**where, VersionId=first)["Body"].read() == b"first"
    store.replace("environments/work.json", b"one", None)
    store.replace("environments/work.json", b"two", store.read_versioned("environments/work.json")[1])
    assert store.delete("environments/work.json")
    assert list(store.list_keys("environments/")) == []
