"""Instances that share environments through one S3 prefix: packed on one, restored on another, copied, cached."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.format.layout import Layout
from snapper.process.identity import format_utc
from tests.conftest import Instance
from tests.support.misfortune import (
    begin,
    between_looking_and_reading,
    check_store,
    layer_files,
    make_data,
    wait_for_reader,
)
from tests.support.s3server import S3Server

#: Where nothing answers, and at once.
AWAY = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}


def download(server: S3Server, url: str, top: Path) -> Path:
    """What is at the prefix as files, as `aws s3 sync` gives it."""
    client, prefix = server.client(), url.removeprefix(f"s3://{server.bucket}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket, Prefix=prefix)
    for found in (each for page in pages for each in page.get("Contents", ())):
        file = top / found["Key"].removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(client.get_object(Bucket=server.bucket, Key=found["Key"])["Body"].read())
    return top


def history(instance: Instance, name: str) -> list[str]:
    shown = instance.done("list")["environments"]
    assert [each["environment"] for each in shown] == [name]
    return [each["snapshot"] for each in instance.done("log", name)["steps"]]


def packed_twice(instance: Instance, notes: str) -> Path:
    """The prefix of an environment that was packed, and once more with these notes in it."""
    prefix = make_data(instance.envs / "work")
    instance.done("pack", "work")
    (prefix / "notes.txt").write_text(notes)
    instance.done("pack", "work")
    return prefix


def test_two_instances_share_one_prefix(
    new_instance: Callable[[str], Instance], s3_server: S3Server, url: str, tmp_path: Path
) -> None:
    one, two = new_instance("one"), new_instance("two")
    make_data(one.envs / "work")
    first = one.done("pack", "work", "-m", "as it was")
    assert first["store"] == url
    assert first["added_layers"] > 0
    assert one.done("pack", "work")["unchanged"]

    (restored,) = two.done("restore", "--all", "--envs-dir", two.envs)["restored"]
    assert (restored["snapshot"], restored["prefix"]) == (first["snapshot"], str(two.envs / "work"))
    (two.envs / "work" / "notes.txt").write_text("by two")
    second = two.done("pack", "work")
    assert second["added_layers"] == 1
    (again,) = one.done("restore", "work", "--envs-dir", one.envs)["restored"]
    assert again["snapshot"] == second["snapshot"]
    assert (one.envs / "work" / "notes.txt").read_text() == "by two"

    (one.envs / "work" / "notes.txt").write_text("by one")
    with between_looking_and_reading(one.envs / "work") as pipe:
        late = begin(one, "pack", "work", "--json")
        held = wait_for_reader(pipe, late)
        (two.envs / "work" / "notes.txt").write_text("by two again")
        third = two.done("pack", "work")
        os.close(held)
        lost = late.end()
    assert lost.code == 11, lost
    error = lost.json["error"]
    moved = two.done("log", "work")["steps"][0]
    assert error["type"] == "ConcurrentUpdate"
    assert f"{moved['user']}@{moved['host']} at {moved['time']}" in error["message"]
    assert "--force" in error["hint"]
    assert "--name" in error["hint"]

    with between_looking_and_reading(one.envs / "work") as pipe:
        late = begin(one, "pack", "work", "--force", "--json")
        held = wait_for_reader(pipe, late)
        (two.envs / "work" / "notes.txt").write_text("by two at last")
        fourth = two.done("pack", "work")
        os.close(held)
        won = late.end()
    assert won.code == 0, won
    snapshots = [each["snapshot"] for each in (won.json, fourth, third, second, first)]
    assert history(one, "work") == snapshots
    copy = download(s3_server, url, tmp_path / "copy")
    assert check_store(copy) == {"work": won.json["snapshot"]}
    for number, words in enumerate(("by one", "by two at last", "by two again", "by two")):
        place = tmp_path / f"back{number}"
        two.done("restore", f"work@~{number}", "--prefix", place, "--store", copy)
        assert (place / "notes.txt").read_text() == words


def test_snapshots_are_copied_between_stores(
    new_instance: Callable[[str], Instance], tmp_path: Path, url: str
) -> None:
    one = new_instance("one")
    directory, other = tmp_path / "volume", tmp_path / "other"
    prefix = make_data(one.envs / "work")
    first = one.done("pack", "work", "--store", directory)
    one.done("pack", "work", "--store", directory, "--name", "else")
    (prefix / "notes.txt").write_text("second")
    second = one.done("pack", "work", "--store", directory)

    (pushed,) = one.done("push", f"work@{first['snapshot'][:8]}", "--store", directory, "--to", url)["copied"]
    assert (pushed["snapshot"], pushed["present"]) == (first["snapshot"], False)
    assert pushed["added_layers"] == first["layers"]
    assert history(one, "work") == [first["snapshot"]]
    (pushed,) = one.done("push", "work", "--store", directory, "--to", url)["copied"]
    assert pushed["added_layers"] == 1
    assert history(one, "work") == [second["snapshot"], first["snapshot"]]
    assert one.done("push", "work", "--store", directory, "--to", url)["copied"][0]["present"]

    one.done("pull", "--all", "--from", url, "--store", other)
    assert check_store(other) == {"work": second["snapshot"]}
    assert len(layer_files(other)) == second["layers"]
    (move,) = one.done("log", "work", "--store", other)["steps"]
    assert move["prefix"] == str(prefix)

    (prefix / "notes.txt").write_text("another way")
    third = one.done("pack", "work", "--store", other)
    (prefix / "notes.txt").write_text("this way")
    one.done("pack", "work", "--store", directory)
    error = one.refused(11, "push", "work", "--store", directory, "--to", other)
    assert third["snapshot"][:12] in error["message"]
    forced = one.done("push", "work", "--force", "--store", directory, "--to", other)["copied"][0]
    assert check_store(other) == {"work": forced["snapshot"]}
    assert len(one.done("log", "work", "--store", other)["steps"]) == 3

    one.refused(10, "pull", "nothing", "--from", url, "--store", other)
    one.refused(2, "pull", "--all", "--from", url)
    one.refused(2, "push", "--to", url)


def test_the_next_start_reads_the_cache(
    new_instance: Callable[[str], Instance], s3_server: S3Server, tmp_path: Path
) -> None:
    cache = tmp_path / "volume" / "cache"
    one, two = new_instance("one"), new_instance("two").having(SNAPPER_CACHE=str(cache))
    prefix = make_data(one.envs / "work")
    packed = one.done("pack", "work")

    def restore(*options: str, **variables: str) -> dict[str, object]:
        shutil.rmtree(two.envs)
        two.envs.mkdir()
        instance = two.having(**variables)
        outcome = instance.snapper("restore", "--all", "--envs-dir", two.envs, *options, "--json")
        return {"code": outcome.code, **outcome.json}

    assert restore()["code"] == 0
    (kept,) = cache.iterdir()
    assert len(layer_files(kept)) == packed["layers"]
    assert kept.stat().st_mode & 0o777 == 0o700

    # What is damaged is fetched again; what is whole is not.
    damaged, whole = layer_files(kept)[:2]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + b"?")
    before = whole.stat().st_ino
    assert restore()["code"] == 0
    assert damaged.read_bytes() == good
    assert whole.stat().st_ino == before

    # An environment that is gone from the store is not in the cache any more, either.
    one.done("pack", "-p", prefix, "--name", "passing")
    assert len(restore()["restored"]) == 2  # type: ignore[arg-type]
    one.done("remove", "passing", "--yes")
    assert len(restore()["restored"]) == 1  # type: ignore[arg-type]

    # Without the server, what was last seen is restored, and it says so.
    gone = restore(**AWAY)
    assert gone["code"] == 3
    assert [each["snapshot"] for each in gone["restored"]] == [packed["snapshot"]]  # type: ignore[attr-defined]
    assert str(gone["store_last_seen"]).endswith("Z")
    assert "Traceback" not in (shown := two.having(**AWAY).snapper("restore", "--all").err)
    assert "cannot be reached" in shown
    assert "ago" in shown

    # What is at its place needs nothing of the store, be the cache new.
    shutil.rmtree(cache)
    assert two.snapper("restore", "--all", "--envs-dir", two.envs).code == 0
    assert not list(cache.rglob("snapshots"))
    there = two.having(**AWAY).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert (there.code, [each["present"] for each in there.json["restored"]]) == (3, [True])
    assert two.having(**AWAY).refused(13, "pack", "-p", two.envs / "work")["type"] == "StoreUnreachable"
    assert two.having(**AWAY, SNAPPER_CACHE="off").refused(13, "list")["type"] == "StoreUnreachable"


def test_what_was_seen_and_not_fetched_does_not_stand_in_the_way(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    """A later snapshot of which the cache has the entry alone: the one before it is restored, and never a step back."""
    one, two = new_instance("one"), new_instance("two").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = make_data(one.envs / "work")
    first = one.done("pack", "work")
    there = two.envs / "work"
    two.done("restore", "work", "--envs-dir", two.envs)  # by name: which there are, is not listed
    (prefix / "notes.txt").write_text("later")
    second = one.done("pack", "work")
    two.done("status")

    def away(*options: str) -> dict[str, object]:
        outcome = two.having(**AWAY).snapper("restore", "--all", "--envs-dir", two.envs, *options, "--json")
        assert outcome.code == 3, outcome
        (found,) = outcome.json["restored"]
        return {key: found[key] for key in ("present", "snapshot", "instead_of")}

    older = {"snapshot": first["snapshot"], "instead_of": second["snapshot"]}
    assert away() == {"present": True, **older}
    shutil.rmtree(there)
    assert away() == {"present": False, **older}
    assert not (there / "notes.txt").exists()
    shown = two.having(**AWAY).snapper("restore", "--all", "--envs-dir", two.envs).err
    assert f"of the current snapshot, {second['snapshot'][:12]}, the cache has not all" in shown
    refused = two.having(**AWAY).refused(13, "restore", "work@~0", "--prefix", tmp_path / "named")
    assert "what is needed is not in the cache" in refused["message"]

    # Nothing on disk goes for what is older, be that all that the cache has.
    two.done("restore", "work", "--envs-dir", two.envs)
    (kept,) = (tmp_path / "cache").iterdir()
    (kept / "snapshots" / f"{second['snapshot']}.json").unlink()
    assert away() == {"present": True, "snapshot": second["snapshot"], "instead_of": None}
    (prefix / "notes.txt").write_text("later still")
    third = one.done("pack", "work")
    two.done("list")
    assert away() == {"present": True, "snapshot": second["snapshot"], "instead_of": third["snapshot"]}
    assert (there / "notes.txt").read_text() == "later"


def test_what_is_pruned_is_kept_here_when_the_store_is_away(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    """That the cache has a snapshot does not say that the store has it: what stands here may be the last copy."""
    one, two = new_instance("one"), new_instance("two").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = make_data(one.envs / "work")
    one.done("pack", "work")
    two.done("restore", "work", "--envs-dir", two.envs)
    (prefix / "notes.txt").write_text("later")
    one.done("pack", "work")
    one.done("prune", "--keep-last", "1", "--grace", "0s", "--yes")
    two.done("restore", "work", "--prefix", tmp_path / "elsewhere")  # so the cache has all of it
    outcome = two.having(**AWAY).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert outcome.code == 13, outcome
    assert not (two.envs / "work" / "notes.txt").exists()


def test_what_could_not_be_done_away_is_not_done_to_the_cache(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one = new_instance("one").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = packed_twice(one, "later")
    one.done("list")
    away = one.having(**AWAY)
    away.refused(13, "remove", "work", "--yes")
    away.refused(13, "rollback", "work", "-p", prefix)
    assert (prefix / "notes.txt").read_text() == "later"
    assert [each["environment"] for each in away.snapper("list", "--json").json["environments"]] == ["work"]


def test_what_was_only_ever_restored_by_name_is_among_all(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one, two = new_instance("one"), new_instance("two").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    make_data(one.envs / "work")
    one.done("pack", "work")
    two.done("restore", "work", "--envs-dir", two.envs)
    shutil.rmtree(two.envs / "work")
    outcome = two.having(**AWAY).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert (outcome.code, [each["environment"] for each in outcome.json["restored"]]) == (3, ["work"])


def test_the_log_of_a_restore_says_why_there_is_none(new_instance: Callable[[str], Instance]) -> None:
    one = new_instance("one").having(**AWAY)
    error = one.refused(13, "restore", "--all", "--budget", "60")
    log = (one.home / ".local" / "state" / "snapper" / "restore.log").read_text()
    assert f"snapper: {error['message']}\n  {error['hint']}\n" in log


def test_what_the_cache_says_is_said_to_be_of_the_cache(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one = new_instance("one").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = packed_twice(one, "second")
    away = one.having(**AWAY)
    commands = (
        ["list"],
        ["show", "work"],
        ["log", "work"],
        ["status"],
        ["diff", "work@~1", "work"],
        ["diff", "work", "-p", prefix],
        ["export", "work", "--force", "-o", tmp_path / "work.tar"],
        ["pull", "work", "--from", one.url, "--store", tmp_path / "copy"],
    )
    for command in commands:
        outcome = away.snapper(*command, "--json")
        assert outcome.code == 3, outcome
        assert outcome.json["store_last_seen"], command
        shown = away.snapper(*command)
        assert shown.code == 3, shown
        assert "cannot be reached: this is as it was at" in shown.err, shown
        assert "store_last_seen" not in one.done(*command)
    found = away.snapper("doctor", "--json").json["findings"]
    (said,) = (each for each in found if each["title"] == "Store")
    assert said["level"] == "problem"
    assert "the cache has 1 environment of it" in said["detail"]
    assert away.having(SNAPPER_CACHE="off").refused(13, "show", "work")["type"] == "StoreUnreachable"


def test_the_cache_has_what_was_packed_here(
    new_instance: Callable[[str], Instance], s3_server: S3Server, tmp_path: Path, url: str
) -> None:
    """It stands for a store that cannot be reached, and not for one that is verified."""
    one = new_instance("one").having(SNAPPER_CACHE=str(tmp_path / "cache"))
    packed_twice(one, "second")
    away = one.having(**AWAY)
    outcome = away.snapper("restore", "work", "--prefix", tmp_path / "back", "--json")
    assert outcome.code == 3, outcome
    assert (tmp_path / "back" / "notes.txt").read_text() == "second"
    (kept,) = (tmp_path / "cache").glob("*/environments/work.json")
    assert outcome.json["store_last_seen"] == format_utc(kept.stat().st_mtime)

    good = download(s3_server, url, tmp_path / "good")
    damaged = layer_files(good)[0]
    key = str(damaged.relative_to(good))
    client, where = s3_server.client(), url.removeprefix(f"s3://{s3_server.bucket}/") + f"/{key}"
    client.put_object(Bucket=s3_server.bucket, Key=where, Body=damaged.read_bytes()[:-1] + b"?")
    found = one.snapper("verify", "--data", "--json")
    assert found.code == 12, found
    assert [each["key"] for each in found.json["problems"]] == [key]
    healed = one.done("verify", "--data", "--repair", "--from", good)["healed"]
    assert [each["key"] for each in healed] == [key]
    back = client.get_object(Bucket=s3_server.bucket, Key=where)["Body"].read()
    assert back == damaged.read_bytes()


def test_a_cache_keeps_within_its_size(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snapper.store import open_store

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SNAPPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SNAPPER_CACHE_SIZE", "1MB")
    store = open_store(s3_server.url(secrets.token_hex(8)), create=True)
    objects = [os.urandom(200_000) for _ in range(9)]
    keys = [
        f"layers/{name[:2]}/{name}.tar.zst" for name in (hashlib.sha256(each).hexdigest() for each in objects)
    ]
    for number, (key, data) in enumerate(zip(keys, objects, strict=True)):
        assert store.put(key, data)
        for back, kept in enumerate(layer_files(tmp_path / "cache")):
            assert back < 5
            os.utime(kept, (kept.stat().st_mtime - 10,) * 2)
        assert store.read(keys[0]) == objects[0]
        assert number < 9
    names = {file.name for file in (tmp_path / "cache").rglob("*.zst")}
    assert 3 <= len(names) <= 4
    assert {Path(keys[0]).name, Path(keys[-1]).name} <= names
    assert [store.read(key) for key in keys] == objects
    page = [f"[{'1' * 150_000}{number}]".encode() for number in range(9)]
    for data in page:
        digest = hashlib.sha256(data).hexdigest()
        store.put(Layout.page(digest), data)
    kept_size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert 500_000 < kept_size <= 1_000_000
    assert store.read(Layout.page(digest)) == page[-1]
    assert (tmp_path / "cache").glob("*/snapper.json")
