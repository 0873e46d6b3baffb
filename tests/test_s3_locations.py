"""Buckets, access points, and directory buckets, as the AWS CLI writes them, and the hosts that they are sent to."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapper.errors import NotAStore, StoreRefused
from snapper.format.layout import Layout
from snapper.store.buckets import split_bucket
from snapper.store.s3 import S3Store, parse_url
from tests.conftest import Machine
from tests.support.aws import Aws, in_place_of_aws
from tests.support.environments import make_data
from tests.support.s3server import S3Server

ACCOUNT = "123456789012"
OUTPOST = "op-01234567890123456"

#: Locations without a prefix: the host that requests are sent to, and the region and service that they are signed for.
LOCATIONS = {
    "my-bucket": ("my-bucket.s3.amazonaws.com", "us-east-1", "s3"),
    "team-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias": (
        "team-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias.s3.amazonaws.com",
        "us-east-1",
        "s3",
    ),
    f"arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint/team": (
        f"team-{ACCOUNT}.s3-accesspoint.eu-west-1.amazonaws.com",
        "eu-west-1",
        "s3",
    ),
    f"arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint:team": (
        f"team-{ACCOUNT}.s3-accesspoint.eu-west-1.amazonaws.com",
        "eu-west-1",
        "s3",
    ),
    f"arn:aws-cn:s3:cn-north-1:{ACCOUNT}:accesspoint/team": (
        f"team-{ACCOUNT}.s3-accesspoint.cn-north-1.amazonaws.com.cn",
        "cn-north-1",
        "s3",
    ),
    f"arn:aws-us-gov:s3:us-gov-west-1:{ACCOUNT}:accesspoint/team": (
        f"team-{ACCOUNT}.s3-accesspoint.us-gov-west-1.amazonaws.com",
        "us-gov-west-1",
        "s3",
    ),
    f"arn:aws:s3-outposts:us-west-2:{ACCOUNT}:outpost/{OUTPOST}/accesspoint/team": (
        f"team-{ACCOUNT}.{OUTPOST}.s3-outposts.us-west-2.amazonaws.com",
        "us-west-2",
        "s3-outposts",
    ),
    f"arn:aws:s3-outposts:us-west-2:{ACCOUNT}:outpost:{OUTPOST}:accesspoint:team": (
        f"team-{ACCOUNT}.{OUTPOST}.s3-outposts.us-west-2.amazonaws.com",
        "us-west-2",
        "s3-outposts",
    ),
    "team--use1-az4--x-s3": (
        "team--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
        "us-east-1",
        "s3express",
    ),
    "team--use1-az4--xa-s3": (
        "team--use1-az4--xa-s3.s3express-use1-az4.us-east-1.amazonaws.com",
        "us-east-1",
        "s3express",
    ),
}

MULTI_REGION = f"arn:aws:s3::{ACCOUNT}:accesspoint/mfzwi23gnjvgw.mrap"


@pytest.fixture
def aws(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with in_place_of_aws(s3_server, tmp_path) as running:
        for name, value in running.variables.items():
            monkeypatch.setenv(name, value)
        for name in (
            "AWS_ENDPOINT_URL_S3",
            "AWS_ENDPOINT_URL",
            "AWS_DEFAULT_REGION",
            "AWS_REGION",
            "AWS_PROFILE",
        ):
            monkeypatch.delenv(name, raising=False)
        yield running


def use(store: S3Store) -> None:
    """Write, read, list, replace, and delete objects."""
    data = b"data of " + store.url.encode()
    key = Layout.layer(hashlib.sha256(data).hexdigest())
    assert store.put(key, data)
    assert not store.put(key, data)
    assert store.read(key) == data
    assert [*store.list_keys(Layout.LAYERS)] == [key]
    store.replace(Layout.ref("work"), b"{}", None)
    store.replace(Layout.ref("work"), b"{1}", store.read_versioned(Layout.ref("work")).version)
    assert store.list_root() == ["environments", "layers"]
    assert store.delete(key)
    assert store.delete(Layout.ref("work"))


@pytest.mark.parametrize("location", LOCATIONS)
def test_requests_are_sent_as_the_aws_cli_does(location: str, aws: Aws) -> None:
    host, region, service = LOCATIONS[location]
    prefix = f"envs/{[*LOCATIONS].index(location)}"
    store = S3Store(parse_url(f"s3://{location}/{prefix}"))
    assert parse_url(store.url) == store.location
    use(store)
    assert {request.host for request in aws.requests} == {host}
    assert {(request.region, request.service) for request in aws.requests} == {(region, service)}
    keys = [request.path for request in aws.requests if "?" not in request.path]
    assert all(key.startswith(f"/{prefix}/") for key in keys)
    if service == "s3express":
        assert aws.requests[0].path == "/?session"
        assert {request.access_key for request in aws.requests[1:]} == {"session"}


def test_environments_are_stored_through_an_access_point(aws: Aws, machine: Machine, tmp_path: Path) -> None:
    url = f"s3://arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint/team/packed"
    variables = {**aws.variables, "SNAPPER_STORE": url, "SNAPPER_CACHE": str(tmp_path / "cache")}
    prefix = make_data(machine.envs / "work")
    packed = machine.run_json("pack", "-p", prefix, **variables)
    assert packed["store"] == url
    target = tmp_path / "elsewhere"
    machine.run_json("restore", "work", "--prefix", target, **variables)
    assert (target / "conda-meta").is_dir()
    (cache,) = (tmp_path / "cache").glob("*-accesspoint-team-*")
    assert cache.name.startswith(f"arn-aws-s3-eu-west-1-{ACCOUNT}-accesspoint-team-")
    assert (cache / "environments/work.json").is_file()


def test_multi_region_access_points_need_awscrt(aws: Aws) -> None:
    store = S3Store(parse_url(f"s3://{MULTI_REGION}/envs"))
    if importlib.util.find_spec("awscrt") is None:
        with pytest.raises(StoreRefused, match="need the package awscrt") as caught:
            store.read(Layout.MARKER)
        assert "botocore[crt]" in caught.value.hint
    else:
        use(store)
        assert {request.host for request in aws.requests} == {
            "mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com"
        }
        assert {(request.region, request.service) for request in aws.requests} == {("*", "s3")}


@pytest.mark.parametrize(
    ("bucket", "rest", "prefix"),
    [
        (MULTI_REGION, "/a/b", "a/b"),
        (MULTI_REGION.replace("accesspoint/", "accesspoint:"), "", ""),
        (f"arn:aws:s3-outposts:a-1:{ACCOUNT}:outpost:o:accesspoint:t", ":a/b", "a/b"),
        (f"arn:aws:s3:a-1:{ACCOUNT}:accesspoint/team", "/accesspoint/x", "accesspoint/x"),
        (
            "bucket",
            f"/arn:aws:s3:a-1:{ACCOUNT}:accesspoint/team",
            f"arn:aws:s3:a-1:{ACCOUNT}:accesspoint/team",
        ),
        ("bucket", "", ""),
    ],
)
def test_locations_are_divided_as_the_aws_cli_does(bucket: str, rest: str, prefix: str) -> None:
    assert split_bucket(f"{bucket}{rest}") == (bucket, prefix)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (f"arn:aws:s3-object-lambda:eu-west-1:{ACCOUNT}:accesspoint/mine/p", "Object Lambda"),
        (f"arn:aws:s3-outposts:us-west-2:{ACCOUNT}:outpost/{OUTPOST}/bucket/mine/p", "Outposts"),
        (f"arn:aws:s3express:us-east-1:{ACCOUNT}:bucket/team--use1-az4--x-s3", "not accessed by ARN"),
        ("arn:aws:s3:::bucket/p", "not accessed by ARN"),
        (f"arn:aws:s3:eu-west-1:{ACCOUNT}:job/x", "no ARN of an access point"),
        ("arn:aws:iam::123456789012:role/x", "no ARN of an access point"),
    ],
)
def test_other_arns_are_refused_with_a_reason(location: str, reason: str) -> None:
    with pytest.raises(NotAStore, match=reason) as caught:
        parse_url(f"s3://{location}")
    assert caught.value.hint


def test_missing_permissions_name_the_access_point() -> None:
    from snapper.store.s3.errors import _missing_permission

    location = parse_url(f"s3://arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint/team/p")
    reason = _missing_permission(location, "snapper.json", "PutObject", "")
    assert reason.endswith(
        f"s3:PutObject on arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint/team/object/p/snapper.json"
    )
