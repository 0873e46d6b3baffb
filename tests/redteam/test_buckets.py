"""The owner of a bucket, or who controls the network, answers requests for S3 as S3 never would."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redteam import prefixes, publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.bucket import Answer, Behavior, Bucket, serving
from tests.support.redteam.publisher import file
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World


@pytest.fixture
def bucket(world: World) -> Iterator[Bucket]:
    """A bucket with the environments `work`; it has not been asked for anything yet."""
    world.publish("work", file("share/data", b"data" * 1000), prefix=world.victim.envs / "work")
    with serving() as served:
        served.take(world.store)
        yield served


def _only(method: str, part: str, answer: Answer) -> Behavior:
    """Return a behavior that gives the answer to requests for keys with that part."""
    return lambda asked, key, _query: answer if asked == method and part in key else None


def _listing(*keys: str, more: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    items = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>"
        for key in keys
    )
    return f"<ListBucketResult>{more}{items}</ListBucketResult>".encode()


def _for_listings(answer: Answer) -> Behavior:
    return lambda _method, key, query: answer if not key and "list-type" in query else None


_BILLION_LAUGHS = (
    b'<!DOCTYPE x [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><ListBucketResult><Prefix>&j;</Prefix></ListBucketResult>"
)
_ESCAPES = "\x1b]0;pwned\x07\x9b31m"

_BEHAVIORS: dict[str, Behavior] = {
    "a response without length": _only("GET", "environments/", Answer(body=b"{}", length=None)),
    "a marker without length": _only("GET", "snapper.json", Answer(body=b'{"format":1}', length=None)),
    "a layer without length": _only("GET", "layers/", Answer(body=b"x" * 1000, length=None)),
    "a HEAD without length": _only("HEAD", "", Answer(length=None)),
    "a length that is no number": _only("GET", "environments/", Answer(body=b"{}", length="many")),
    "a negative length": _only("GET", "environments/", Answer(body=b"{}", length=-1)),
    "a huge length": _only("GET", "environments/", Answer(body=b"{}", length=1 << 50)),
    "an endless entry": _only("GET", "environments/", Answer(body=bytes(1 << 20), length=None, times=-1)),
    "an endless layer": _only("GET", "layers/", Answer(body=bytes(1 << 20), length=None, times=-1)),
    "an endless listing": _for_listings(Answer(body=b"<x>" * (1 << 18), length=None, times=-1)),
    "a listing of objects outside": _for_listings(
        Answer(body=_listing("store/environments/../../x.json", "store/environments//etc/x.json"))
    ),
    "a listing with control characters": _for_listings(
        Answer(body=_listing("store/environments/&#x9b;31m.json", "store/environments/a&#10;b.json"))
    ),
    "a listing of other prefixes": _for_listings(Answer(body=_listing("environments/x.json", "x"))),
    "a listing that continues without end": _for_listings(
        Answer(
            body=_listing(
                "store/environments/work.json",
                more="<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>",
            )
        )
    ),
    "a listing that is no XML": _for_listings(Answer(body=b"{}")),
    "a listing with entities": _for_listings(Answer(body=_BILLION_LAUGHS)),
    "a listing with an external entity": _for_listings(
        Answer(
            body=b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><ListBucketResult>&a;</ListBucketResult>'
        )
    ),
    "an error with escapes": _only(
        "GET",
        "",
        Answer(400, f"<Error><Code>A{_ESCAPES}</Code><Message>{_ESCAPES}</Message></Error>".encode()),
    ),
    "an error with encoded escapes": _only(
        "GET", "", Answer(400, b"<Error><Code>A&#x9b;31m</Code><Message>&#x9b;31m&#x202e;</Message></Error>")
    ),
    "a header with escapes": _only("GET", "environments/", Answer(body=b"{}", headers={"ETag": "\x9b31m"})),
    "a redirect to a file": _only("GET", "", Answer(301, headers={"Location": "file:///etc/passwd"})),
    "a redirect to itself": _only("GET", "", Answer(307, headers={"Location": "/bucket/store/snapper.json"})),
    "a part that was not asked for": _only(
        "GET", "layers/", Answer(206, b"x", {"Content-Range": "bytes 999999999-1000000000/1000000001"})
    ),
    "a part of nonsense": _only("GET", "layers/", Answer(206, b"x", {"Content-Range": "bytes x-y/z"})),
    "compressed without being asked": _only(
        "GET", "environments/", Answer(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    ),
    "an unknown status": _only("GET", "", Answer(299, b"x")),
    "no status text": _only("GET", "", Answer(999, b"x")),
}


_USUAL_BEHAVIORS = (
    "a response without length",
    "a HEAD without length",
    "an endless entry",
    "a listing of objects outside",
    "a listing that continues without end",
    "an error with encoded escapes",
    "a redirect to a file",
    "a part that was not asked for",
)


@variants("behavior", _BEHAVIORS, usually=_USUAL_BEHAVIORS)
def test_hostile_server(behavior: str, bucket: Bucket, world: World) -> None:
    """The server answers with something that S3 does not send."""
    bucket.behave = _BEHAVIORS[behavior]
    with world.unharmed("work"):
        for command in ("restore --all", "list", "verify --data"):
            world.victim.snapper(*command.split(), **bucket.variables())


# --- the cache --------------------------------------------------------------------------------------------


def _offline(bucket: Bucket, **more: str) -> dict[str, str]:
    """Return variables with which the bucket cannot be reached."""
    return bucket.variables(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9", **more)


def _attackers_cache(bucket: Bucket, world: World) -> Path:
    """Return a cache that the attacker has filled with an environment of his, which the bucket does not have."""
    cache = world.attacker.home / "cache"
    evil = publisher.make_store(world.top / "evil")
    publisher.publish(evil, "work", file("bin/evil"), prefix=world.victim.envs / "work")
    with serving() as other:
        other.take(evil)
        world.attacker.snapper("restore", "--all", **{**other.variables(), "SNAPPER_CACHE": str(cache)})
    assert any(cache.rglob("*.json"))
    return cache


@pytest.mark.parametrize("depth", ["whole", "store"])
def test_planted_cache(depth: str, bucket: Bucket, world: World) -> None:
    """The victim's cache is to be in a shared directory, where the attacker has created it, or that of the store."""
    planted = _attackers_cache(bucket, world)
    cache = world.temporary / "cache"
    if depth == "store":
        cache.mkdir()
        cache.chmod(0o1777)
    for source in (planted,) if depth == "whole" else planted.iterdir():
        target = cache if depth == "whole" else cache / source.name
        source.rename(target)
        for path in (target, *target.rglob("*")):
            path.chmod(0o777)
        world.attacker.owns(target)
    with world.unharmed("work", also=(world.temporary,)):
        world.victim.snapper("restore", "--all", **_offline(bucket, SNAPPER_CACHE=str(cache)))
        world.victim.snapper("list", **_offline(bucket, SNAPPER_CACHE=str(cache)))
    withstood(not (world.victim.envs / "work").exists(), "restored from the attacker's cache")


@variants("place", ["", "SUB", "SUB/layers", "SUB/environments"], usually=("", "SUB/layers"))
def test_link_in_the_cache(place: str, bucket: Bucket, world: World) -> None:
    """A part of the cache in a shared directory is a link of the attacker to a directory of the victim."""
    name = next(_attackers_cache(bucket, world).iterdir()).name
    cache = world.temporary / "cache"
    link = cache / place.replace("SUB", name)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(world.victim.home / "work")
    for path in world.temporary.rglob("*"):
        os.chown(path, world.attacker.uid, world.attacker.uid, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o777)
    with world.unharmed("work", also=(world.temporary,)):
        world.victim.snapper("restore", "--all", **bucket.variables(SNAPPER_CACHE=str(cache)))


@variants("size", ["1kB", "10kB"], usually=("1kB",))
def test_cache_in_a_directory_in_use(size: str, bucket: Bucket, world: World) -> None:
    """The cache is a directory with the user's own files, all older than what is cached: no attacker is needed."""
    own = world.victim.home / "work"
    names = [
        ".env",
        ".gitignore",
        "a/.hidden",
        "a/b/.c/.d",
        "notes.txt",
        "a/notes.txt",
        "layers/aa/x.tar.zst",
    ]
    names += [f"x/layers/aa/{'a' * 64}.tar.zst", f"a/.{'b' * 16}.{'0' * 16}", f"x/.{'b' * 16}.{'0' * 16}"]
    for name in names:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(bytes(10_000))
        os.utime(own / name, (time.time() - 7200,) * 2)
    world.victim.owns(own)
    world.victim.snapper(
        "restore", "--all", **bucket.variables(SNAPPER_CACHE=str(own), SNAPPER_CACHE_SIZE=size)
    )
    lost = [name for name in names if not (own / name).exists()]
    withstood(not lost, f"deleted {lost}")


def test_cache_is_private(bucket: Bucket, world: World) -> None:
    """Other users want to read what the victim has restored from a private bucket."""
    cache = world.victim.home / "cache"
    world.victim.snapper("restore", "--all", **bucket.variables(SNAPPER_CACHE=str(cache)))
    readable = world.attacker.do(
        lambda: [str(path) for path in cache.rglob("*.*") if os.access(path, os.R_OK)]
    )
    withstood(not readable, f"others can read {readable[:3]}")


# --- credentials ------------------------------------------------------------------------------------------

_PASSWORD = "pa55w0rd-of-the-proxy"


@pytest.mark.parametrize("setting", ["query", "variable"])
@variants("command", ["restore --all", "list", "doctor", "status", "pack mine"], usually=("restore --all",))
def test_credentials_in_an_endpoint(command: str, setting: str, world: World) -> None:
    """The endpoint's URL has a password, which must not get into output or files; the server is down."""
    endpoint = f"http://user:{_PASSWORD}@127.0.0.1:9"
    store = "s3://bucket/store" + (f"?endpoint_url={endpoint}" if setting == "query" else "")
    more = {"AWS_ENDPOINT_URL_S3": endpoint} if setting == "variable" else {}
    variables = {**Bucket("").variables(), "SNAPPER_STORE": store, **more}
    world.victim.owns(prefixes.make(world.victim.envs / "mine", {}))
    for option, level in (([], "debug"), (["--json"], "")):
        outcome = world.victim.snapper(*command.split(), *option, **variables, SNAPPER_LOG=level)
        withstood(_PASSWORD not in outcome.out + outcome.err, "printed the password")
    files = [path for path in world.victim.home.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = [str(path.relative_to(world.top)) for path in files if _PASSWORD.encode() in path.read_bytes()]
    withstood(not holding, f"wrote the password to {holding}")
