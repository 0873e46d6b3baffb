"""Servers that answer as S3 never would: each response ends in one clear error, and none exhausts the memory."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from snapper.errors import ExitCode, NotAStore, SnapperError, StoreRefused
from snapper.format.layout import Layout
from snapper.store import VersionMismatch
from snapper.store.s3 import S3Store, client, parse_url
from snapper.store.s3 import store as s3_store
from tests.support.redteam.bucket import BUCKET, Answer, Behavior, Bucket, serving

ENTRY = Layout.ref("work")
LAYER = Layout.layer("ab" * 32)
XML = "<LastModified>2020-01-01T00:00:00Z</LastModified><Size>1</Size>"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(client, "READ_TIMEOUT", 0.5)
    with serving() as served:
        for name, value in served.variables().items():
            monkeypatch.setenv(name, value)
        served.objects |= {f"store/{ENTRY}": b"{}", f"store/{LAYER}": b"layer"}
        yield served


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    return S3Store(parse_url(f"s3://{BUCKET}/store?endpoint_url={bucket.endpoint}"))


def listing(*entries: str, more: str = "") -> bytes:
    contents = "".join(f"<Contents>{entry}</Contents>" for entry in entries)
    more = more or "<IsTruncated>false</IsTruncated>"
    return f"<ListBucketResult><EncodingType>url</EncodingType>{more}{contents}</ListBucketResult>".encode()


def key(name: str) -> str:
    return f"<Key>store/{Layout.REFS}{name}.json</Key>"


def bomb(depth: int) -> bytes:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(depth))
    text = (
        f'<?xml version="1.0" encoding="ENCODING"?><!DOCTYPE x [<!ENTITY e0 "x">{entities}]><x>&e{depth};</x>'
    )
    return text.encode()


FORBIDDEN = b"<Error><Code>AccessDenied</Code></Error>"
ENDLESS = b"<x>" * 50_000

#: Answers to every request.
ANSWERS = {
    "no ETag": Answer(body=b"{}"),
    "no length": Answer(body=b"{}", length=None),
    "negative length": Answer(body=b"{}", length=-1),
    "length that is no number": Answer(body=b"{}", length="many"),
    "huge length": Answer(body=b"{}", length=1 << 60),
    "longer than announced": Answer(
        body=b"10000\r\n" + bytes(1 << 16) + b"\r\n", headers={"Transfer-Encoding": "chunked"}, times=-1
    ),
    "endless": Answer(body=ENDLESS, length=None, times=-1),
    "endless error": Answer(500, body=ENDLESS, length=None, times=-1),
    "endless refusal": Answer(403, body=ENDLESS, length=None, times=-1),
    "deep": Answer(400, b"<Error>" + b"<x>" * 100_000 + b"</x>" * 100_000 + b"</Error>"),
    "many elements": Answer(400, b"<Error>" + b"<x/>" * 500_000 + b"</Error>"),
    "entities": Answer(400, bomb(6).replace(b"ENCODING", b"UTF-8")),
    "entities in UTF-16": Answer(400, bomb(6).replace(b"ENCODING", b"UTF-16").decode().encode("utf-16")),
    "external entity": Answer(
        400, b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Error>&a;</Error>'
    ),
    "no XML": Answer(400, b"{}"),
    "nothing": Answer(200, b""),
    "a web page": Answer(200, b"<html>" * 10),
    "redirect to a file": Answer(301, b"", {"Location": "file:///etc/passwd"}),
    "redirect to another host": Answer(307, b"", {"Location": "http://127.0.0.1:9/x"}),
    "redirect to another region": Answer(301, b"", {"x-amz-bucket-region": "$(touch x).evil"}),
    "many headers": Answer(200, b"{}", {f"x-{number}": "x" for number in range(200)}),
    "huge header": Answer(200, b"{}", {"x-huge": "x" * 100_000}),
    "wrong part": Answer(206, b"x", {"Content-Range": "bytes 7-7/9"}),
    "long error": Answer(400, b"<Error><Code>" + b"x\n" * 10_000 + b"</Code><Message>x</Message></Error>"),
}


def requests_of(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.read(ENTRY),
        lambda: store.read(LAYER),
        lambda: store.size(ENTRY),
        lambda: store.put(LAYER, bytes(5 << 20)),
        lambda: store.replace(ENTRY, b"{}", '"version"'),
        lambda: store.delete(ENTRY, '"version"'),
        lambda: list(store.list_objects(Layout.REFS)),
        store.list_root,
        store.remove_leftovers,
    ]


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_ends_in_one_error_or_a_result(answer: str, bucket: Bucket, store: S3Store) -> None:
    given = ANSWERS[answer]
    headers = {} if answer == "no ETag" else {"ETag": '"version"'}
    bucket.behave = lambda *_: replace(given, headers={**headers, **given.headers})
    errors: list[SnapperError] = []
    for request in requests_of(store):
        try:
            request()
        except SnapperError as error:
            errors.append(error)
        except VersionMismatch:
            continue
    assert len(bucket.asked) < 1000
    assert errors
    for raised in errors:
        assert raised.code in (ExitCode.STORE, ExitCode.INTEGRITY, ExitCode.NOT_FOUND), raised
        assert raised.hint
        assert len(raised.message) < 1000 and "\n" not in raised.message
        assert "touch" not in raised.hint
    assert bucket.sent < len(bucket.asked) * 16 << 20


#: Answers to requests for listings.
LISTINGS: dict[str, Behavior] = {
    "without keys": lambda *_: Answer(body=listing(XML)),
    "without sizes": lambda *_: Answer(
        body=listing(key("a") + "<LastModified>2020-01-01T00:00:00Z</LastModified>")
    ),
    "without times": lambda *_: Answer(body=listing(key("a") + "<Size>1</Size>")),
    "with a size that is no number": lambda *_: Answer(body=listing(key("a") + XML.replace("1</", "x</"))),
    "with a time that is none": lambda *_: Answer(body=listing(key("a") + XML.replace("2020-01", "2020-99"))),
    "with a negative size": lambda *_: Answer(body=listing(key("a") + XML.replace("1</", "-5</"))),
    "with a huge size": lambda *_: Answer(body=listing(key("a") + XML.replace("1</", "9" * 400 + "</"))),
    "from the year 1": lambda *_: Answer(body=listing(key("a") + XML.replace("2020-", "0001-"))),
    "from the year 9999": lambda *_: Answer(body=listing(key("a") + XML.replace("2020-", "9999-"))),
    "of other prefixes": lambda *_: Answer(body=listing(f"<Key>other/environments/a.json</Key>{XML}")),
    "of other keys": lambda *_: Answer(body=listing(f"<Key>store/layers/a</Key>{XML}")),
    "that is empty": lambda *_: Answer(),
    "that does not say where it continues": lambda *_: Answer(
        body=listing(key("a") + XML, more="<IsTruncated>true</IsTruncated>")
    ),
    "that repeats itself": lambda *_: Answer(
        body=listing(
            key("a") + XML,
            more="<IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>",
        )
    ),
    "that does not end": lambda *_: Answer(
        body=listing(
            more="<IsTruncated>true</IsTruncated>"
            f"<NextContinuationToken>{time.monotonic_ns()}</NextContinuationToken>"
        )
    ),
}


@pytest.mark.parametrize("kind", LISTINGS)
def test_malformed_listings_are_refused(
    kind: str, bucket: Bucket, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "_MOST_PAGES", 10)
    bucket.behave = LISTINGS[kind]
    with pytest.raises(SnapperError) as caught:
        list(store.list_objects(Layout.REFS))
    assert caught.value.code == ExitCode.STORE


def test_sizes_are_known_to_those_who_may_not_list(bucket: Bucket, store: S3Store) -> None:
    keys = [f"{Layout.LAYERS}{number}" for number in range(s3_store._MANY)]
    bucket.objects |= {f"store/{key}": b"x" for key in keys[1:]}
    bucket.behave = lambda _method, key, _query: None if key else Answer(403, FORBIDDEN)
    assert store.sizes(Layout.LAYERS, keys) == dict.fromkeys(keys[1:], 1)


def uploads(
    name: str, time: str = "2020-01-01T00:00:00Z", more: str = "<IsTruncated>false</IsTruncated>"
) -> bytes:
    upload = f"<Upload><Key>{name}</Key><UploadId>1</UploadId><Initiated>{time}</Initiated></Upload>"
    return f"<ListMultipartUploadsResult>{more}{upload}</ListMultipartUploadsResult>".encode()


@pytest.mark.parametrize(
    "body",
    [
        uploads("other/secret"),
        uploads("store/a", "0001-01-01T00:00:00Z"),
        uploads("store/a", more=""),
        uploads("store/a", more="<IsTruncated>true</IsTruncated>"),
        b"<html/>",
        b"",
    ],
    ids=["other keys", "time", "no end", "no next page", "HTML", "empty"],
)
def test_malformed_listings_of_uploads_are_refused(body: bytes, bucket: Bucket, store: S3Store) -> None:
    """Nothing outside of the store is aborted."""
    bucket.behave = lambda *_: Answer(body=body)
    with pytest.raises(NotAStore):
        store.remove_leftovers()
    assert not any("secret" in asked for asked in bucket.asked)


def test_keys_of_a_listing_stay_below_its_prefix(bucket: Bucket, store: S3Store) -> None:
    """Keys that cannot be objects are listed, so that they can be reported, but no name is taken from them."""
    names = ["../../x", "..%2F..%2Fy", "%1B%5B2J", "z"]
    bucket.behave = lambda *_: Answer(body=listing(*(key(name) + XML for name in names)))
    keys = list(store.list_keys(Layout.REFS))
    assert all(each.startswith(Layout.REFS) for each in keys)
    assert [each for each in keys if Layout.parse(each)] == [Layout.ref("z")]


def test_credentials_that_are_expired_after_a_refresh(
    bucket: Bucket, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired.")

    store._client.meta.events.register("before-sign.s3", fail)
    with pytest.raises(StoreRefused, match="still expired") as caught:
        store.read(ENTRY)
    assert "aws sso login" in caught.value.hint


@pytest.mark.parametrize("checksum", ["false", "right", "of parts", "unknown"])
def test_an_object_under_a_false_name_counts_as_missing(
    checksum: str, bucket: Bucket, store: S3Store
) -> None:
    """Another publisher has written it before, with other bytes of the same size. S3 may know that, or not."""
    data = b"layer"
    name = Layout.layer(hashlib.sha256(data).hexdigest())
    right = b64encode(hashlib.sha256(data).digest()).decode()
    known = {"false": b64encode(bytes(32)).decode(), "right": right, "of parts": f"{right}-2", "unknown": ""}
    bucket.objects[f"store/{name}"] = b"false"

    def behave(method: str, _key: str, _query: object) -> Answer | None:
        headers = {"ETag": '"planted"', "x-amz-checksum-sha256": known[checksum]}
        if method == "HEAD":
            return Answer(headers={name: value for name, value in headers.items() if value}, length=len(data))
        if method == "PUT":
            written.append(method)
            return Answer(412) if len(written) == 1 else None
        return None

    written: list[str] = []
    bucket.behave = behave
    assert store.size(name) == (None if checksum == "false" else len(data))
    assert bool(store.put(name, data)) == (checksum != "right")
    assert (bucket.objects[f"store/{name}"] == data) == (checksum != "right")
