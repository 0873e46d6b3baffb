"""Instances that share environments through one S3 prefix: packing, restoring, copying, caching."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.format.layout import Layout
from snapper.process.identity import format_utc
from tests.conftest import Instance
from tests.support.commands import start_blocked_pack
from tests.support.environments import make_data
from tests.support.s3server import S3Server
from tests.support.stores import check_store, layer_files

#: Settings with which connections to the store are refused at once.
OFFLINE = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}


def download(server: S3Server, url: str, top: Path) -> Path:
    """Download all objects at the prefix into a directory, as `aws s3 sync` would."""
    client, prefix = server.client(), url.removeprefix(f"s3://{server.bucket}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket, Prefix=prefix)
    for item in (item for page in pages for item in page.get("Contents", ())):
        file = top / item["Key"].removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(client.get_object(Bucket=server.bucket, Key=item["Key"])["Body"].read())
    return top


def history(instance: Instance, name: str) -> list[str]:
    """Return the ids of the environment's snapshots, the latest first; it must be the only environment."""
    shown = instance.run_json("list")["environments"]
    assert [env["environment"] for env in shown] == [name]
    return [step["snapshot"] for step in instance.run_json("log", name)["steps"]]


def pack_twice(instance: Instance, notes: str) -> Path:
    """Pack an environment, and again with these notes in it; return its prefix."""
    prefix = make_data(instance.envs / "work")
    instance.run_json("pack", "work")
    (prefix / "notes.txt").write_text(notes)
    instance.run_json("pack", "work")
    return prefix


def test_two_instances_pack_and_restore_through_one_prefix(
    new_instance: Callable[[str], Instance], s3_server: S3Server, url: str, tmp_path: Path
) -> None:
    one, two = new_instance("one"), new_instance("two")
    make_data(one.envs / "work")
    first = one.run_json("pack", "work", "-m", "as it was")
    assert first["store"] == url
    assert first["added_layers"] > 0
    assert one.run_json("pack", "work")["unchanged"]

    (restored,) = two.run_json("restore", "--all", "--envs-dir", two.envs)["restored"]
    assert (restored["snapshot"], restored["prefix"]) == (first["snapshot"], str(two.envs / "work"))
    (two.envs / "work" / "notes.txt").write_text("by two")
    second = two.run_json("pack", "work")
    assert second["added_layers"] == 1
    (again,) = one.run_json("restore", "work", "--envs-dir", one.envs)["restored"]
    assert again["snapshot"] == second["snapshot"]
    assert (one.envs / "work" / "notes.txt").read_text() == "by two"

    (one.envs / "work" / "notes.txt").write_text("by one")
    late, held = start_blocked_pack(one, one.envs / "work", "work", "--json")
    (two.envs / "work" / "notes.txt").write_text("by two again")
    third = two.run_json("pack", "work")
    os.close(held)
    lost = late.finish()
    assert lost.code == 11, lost
    error = lost.json["error"]
    moved = two.run_json("log", "work")["steps"][0]
    assert error["type"] == "ConcurrentUpdate"
    assert f"{moved['user']}@{moved['host']} at {moved['time']}" in error["message"]
    assert "--force" in error["hint"]
    assert "--name" in error["hint"]

    late, held = start_blocked_pack(one, one.envs / "work", "work", "--force", "--json")
    (two.envs / "work" / "notes.txt").write_text("by two at last")
    fourth = two.run_json("pack", "work")
    os.close(held)
    won = late.finish()
    assert won.code == 0, won
    snapshots = [outcome["snapshot"] for outcome in (won.json, fourth, third, second, first)]
    assert history(one, "work") == snapshots
    copy = download(s3_server, url, tmp_path / "copy")
    assert check_store(copy) == {"work": won.json["snapshot"]}
    for number, notes in enumerate(("by one", "by two at last", "by two again", "by two")):
        target = tmp_path / f"back{number}"
        two.run_json("restore", f"work@~{number}", "--prefix", target, "--store", copy)
        assert (target / "notes.txt").read_text() == notes


def test_snapshots_are_copied_between_stores(
    new_instance: Callable[[str], Instance], tmp_path: Path, url: str
) -> None:
    one = new_instance("one")
    directory, other = tmp_path / "volume", tmp_path / "other"
    prefix = make_data(one.envs / "work")
    first = one.run_json("pack", "work", "--store", directory)
    one.run_json("pack", "work", "--store", directory, "--name", "else")
    (prefix / "notes.txt").write_text("second")
    second = one.run_json("pack", "work", "--store", directory)

    (pushed,) = one.run_json("push", f"work@{first['snapshot'][:8]}", "--store", directory, "--to", url)[
        "copied"
    ]
    assert (pushed["snapshot"], pushed["present"]) == (first["snapshot"], False)
    assert pushed["added_layers"] == first["layers"]
    assert history(one, "work") == [first["snapshot"]]
    (pushed,) = one.run_json("push", "work", "--store", directory, "--to", url)["copied"]
    assert pushed["added_layers"] == 1
    assert history(one, "work") == [second["snapshot"], first["snapshot"]]
    assert one.run_json("push", "work", "--store", directory, "--to", url)["copied"][0]["present"]

    one.run_json("pull", "--all", "--from", url, "--store", other)
    assert check_store(other) == {"work": second["snapshot"]}
    assert len(layer_files(other)) == second["layers"]
    (move,) = one.run_json("log", "work", "--store", other)["steps"]
    assert move["prefix"] == str(prefix)

    (prefix / "notes.txt").write_text("another way")
    third = one.run_json("pack", "work", "--store", other)
    (prefix / "notes.txt").write_text("this way")
    one.run_json("pack", "work", "--store", directory)
    error = one.expect_error(11, "push", "work", "--store", directory, "--to", other)
    assert third["snapshot"][:12] in error["message"]
    forced = one.run_json("push", "work", "--force", "--store", directory, "--to", other)["copied"][0]
    assert check_store(other) == {"work": forced["snapshot"]}
    assert len(one.run_json("log", "work", "--store", other)["steps"]) == 3

    one.expect_error(10, "pull", "nothing", "--from", url, "--store", other)
    one.expect_error(2, "pull", "--all", "--from", url)
    one.expect_error(2, "push", "--to", url)


def test_restore_reads_from_the_cache(
    new_instance: Callable[[str], Instance], s3_server: S3Server, tmp_path: Path
) -> None:
    cache = tmp_path / "volume" / "cache"
    one, two = new_instance("one"), new_instance("two").with_variables(SNAPPER_CACHE=str(cache))
    prefix = make_data(one.envs / "work")
    packed = one.run_json("pack", "work")

    def restore(*options: str, **variables: str) -> dict[str, object]:
        shutil.rmtree(two.envs)
        two.envs.mkdir()
        instance = two.with_variables(**variables)
        outcome = instance.snapper("restore", "--all", "--envs-dir", two.envs, *options, "--json")
        return {"code": outcome.code, **outcome.json}

    assert restore()["code"] == 0
    (kept,) = cache.iterdir()
    assert len(layer_files(kept)) == packed["layers"]
    assert kept.stat().st_mode & 0o777 == 0o700

    # Corrupted layers are downloaded again; intact ones are not.
    damaged, whole = layer_files(kept)[:2]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + b"?")
    before = whole.stat().st_ino
    assert restore()["code"] == 0
    assert damaged.read_bytes() == good
    assert whole.stat().st_ino == before

    # An environment that was removed from the store is removed from the cache, too.
    one.run_json("pack", "-p", prefix, "--name", "passing")
    assert len(restore()["restored"]) == 2  # type: ignore[arg-type]
    one.run_json("remove", "passing", "--yes")
    assert len(restore()["restored"]) == 1  # type: ignore[arg-type]

    # If the store is offline, restore what was last seen, and say so.
    offline = restore(**OFFLINE)
    assert offline["code"] == 3
    assert [env["snapshot"] for env in offline["restored"]] == [packed["snapshot"]]  # type: ignore[attr-defined]
    assert str(offline["store_last_seen"]).endswith("Z")
    assert "Traceback" not in (shown := two.with_variables(**OFFLINE).snapper("restore", "--all").err)
    assert "cannot be reached" in shown
    assert "ago" in shown

    # Environments already in place need nothing from the store, even if the cache is new.
    shutil.rmtree(cache)
    assert two.snapper("restore", "--all", "--envs-dir", two.envs).code == 0
    assert not list(cache.rglob("snapshots"))
    outcome = two.with_variables(**OFFLINE).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert (outcome.code, [env["present"] for env in outcome.json["restored"]]) == (3, [True])
    assert (
        two.with_variables(**OFFLINE).expect_error(13, "pack", "-p", two.envs / "work")["type"]
        == "StoreUnreachable"
    )
    assert (
        two.with_variables(**OFFLINE, SNAPPER_CACHE="off").expect_error(13, "list")["type"]
        == "StoreUnreachable"
    )


def test_offline_restore_uses_the_latest_snapshot_that_is_fully_cached(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    """The cache may have only the entry of a later snapshot. Environments on disk are never replaced by older ones."""
    one, two = new_instance("one"), new_instance("two").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = make_data(one.envs / "work")
    first = one.run_json("pack", "work")
    target = two.envs / "work"
    two.run_json("restore", "work", "--envs-dir", two.envs)  # by name, so that environments are not listed
    (prefix / "notes.txt").write_text("later")
    second = one.run_json("pack", "work")
    two.run_json("status")

    def restore_offline(*options: str) -> dict[str, object]:
        outcome = two.with_variables(**OFFLINE).snapper(
            "restore", "--all", "--envs-dir", two.envs, *options, "--json"
        )
        assert outcome.code == 3, outcome
        (env,) = outcome.json["restored"]
        return {key: env[key] for key in ("present", "snapshot", "instead_of")}

    older = {"snapshot": first["snapshot"], "instead_of": second["snapshot"]}
    assert restore_offline() == {"present": True, **older}
    shutil.rmtree(target)
    assert restore_offline() == {"present": False, **older}
    assert not (target / "notes.txt").exists()
    shown = two.with_variables(**OFFLINE).snapper("restore", "--all", "--envs-dir", two.envs).err
    assert f"the current one, {second['snapshot'][:12]}, is not completely cached" in shown
    refused = two.with_variables(**OFFLINE).expect_error(
        13, "restore", "work@~0", "--prefix", tmp_path / "named"
    )
    assert "does not contain everything needed" in refused["message"]

    # Nothing on disk is replaced by an older snapshot, even if the cache has no other.
    two.run_json("restore", "work", "--envs-dir", two.envs)
    (kept,) = (tmp_path / "cache").iterdir()
    (kept / "snapshots" / f"{second['snapshot']}.json").unlink()
    assert restore_offline() == {"present": True, "snapshot": second["snapshot"], "instead_of": None}
    (prefix / "notes.txt").write_text("later still")
    third = one.run_json("pack", "work")
    two.run_json("list")
    assert restore_offline() == {
        "present": True,
        "snapshot": second["snapshot"],
        "instead_of": third["snapshot"],
    }
    assert (target / "notes.txt").read_text() == "later"


def test_offline_restore_keeps_environments_whose_snapshot_was_pruned(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    """The store may no longer have a snapshot that the cache has: the environment on disk may be the last copy."""
    one, two = new_instance("one"), new_instance("two").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = make_data(one.envs / "work")
    one.run_json("pack", "work")
    two.run_json("restore", "work", "--envs-dir", two.envs)
    (prefix / "notes.txt").write_text("later")
    one.run_json("pack", "work")
    one.run_json("prune", "--keep-last", "1", "--grace", "0s", "--yes")
    two.run_json("restore", "work", "--prefix", tmp_path / "elsewhere")  # so that all of it is cached
    outcome = two.with_variables(**OFFLINE).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert outcome.code == 13, outcome
    assert not (two.envs / "work" / "notes.txt").exists()


def test_commands_that_fail_offline_do_not_change_the_cache(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one = new_instance("one").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = pack_twice(one, "later")
    one.run_json("list")
    offline = one.with_variables(**OFFLINE)
    offline.expect_error(13, "remove", "work", "--yes")
    offline.expect_error(13, "rollback", "work", "-p", prefix)
    assert (prefix / "notes.txt").read_text() == "later"
    assert [env["environment"] for env in offline.snapper("list", "--json").json["environments"]] == ["work"]


def test_offline_restore_all_includes_environments_restored_by_name(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one, two = new_instance("one"), new_instance("two").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    make_data(one.envs / "work")
    one.run_json("pack", "work")
    two.run_json("restore", "work", "--envs-dir", two.envs)
    shutil.rmtree(two.envs / "work")
    outcome = two.with_variables(**OFFLINE).snapper("restore", "--all", "--envs-dir", two.envs, "--json")
    assert (outcome.code, [env["environment"] for env in outcome.json["restored"]]) == (3, ["work"])


def test_restore_log_says_why_nothing_was_restored(new_instance: Callable[[str], Instance]) -> None:
    one = new_instance("one").with_variables(**OFFLINE)
    error = one.expect_error(13, "restore", "--all", "--budget", "60")
    log = (one.home / ".local" / "state" / "snapper" / "snapper.log").read_text()
    lines = re.sub(r"(?m)^\S+Z \d+ ", "", log)
    assert f"snapper: {error['message']}\n  {error['hint']}\n" in lines


def test_offline_commands_say_that_they_show_the_cache(
    new_instance: Callable[[str], Instance], tmp_path: Path
) -> None:
    one = new_instance("one").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    prefix = pack_twice(one, "second")
    offline = one.with_variables(**OFFLINE)
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
        outcome = offline.snapper(*command, "--json")
        assert outcome.code == 3, outcome
        assert outcome.json["store_last_seen"], command
        shown = offline.snapper(*command)
        assert shown.code == 3, shown
        assert "cannot be reached; using its cache of" in shown.err, shown
        assert "store_last_seen" not in one.run_json(*command)
    findings = offline.snapper("doctor", "--json").json["findings"]
    (finding,) = (finding for finding in findings if finding["title"] == "Store")
    assert finding["level"] == "problem"
    assert "the cache holds 1 environment" in finding["detail"]
    assert (
        offline.with_variables(SNAPPER_CACHE="off").expect_error(13, "show", "work")["type"]
        == "StoreUnreachable"
    )


def test_packed_environments_are_cached(
    new_instance: Callable[[str], Instance], s3_server: S3Server, tmp_path: Path, url: str
) -> None:
    """The cache is used when the store is offline, but not when the store is verified."""
    one = new_instance("one").with_variables(SNAPPER_CACHE=str(tmp_path / "cache"))
    pack_twice(one, "second")
    offline = one.with_variables(**OFFLINE)
    outcome = offline.snapper("restore", "work", "--prefix", tmp_path / "back", "--json")
    assert outcome.code == 3, outcome
    assert (tmp_path / "back" / "notes.txt").read_text() == "second"
    (kept,) = (tmp_path / "cache").glob("*/environments/work.json")
    assert outcome.json["store_last_seen"] == format_utc(kept.stat().st_mtime)

    good = download(s3_server, url, tmp_path / "good")
    damaged = layer_files(good)[0]
    key = str(damaged.relative_to(good))
    client, where = s3_server.client(), url.removeprefix(f"s3://{s3_server.bucket}/") + f"/{key}"
    client.put_object(Bucket=s3_server.bucket, Key=where, Body=damaged.read_bytes()[:-1] + b"?")
    outcome = one.snapper("verify", "--data", "--json")
    assert outcome.code == 12, outcome
    assert [problem["key"] for problem in outcome.json["problems"]] == [key]
    repaired = one.run_json("verify", "--data", "--repair", "--from", good)["healed"]
    assert [item["key"] for item in repaired] == [key]
    back = client.get_object(Bucket=s3_server.bucket, Key=where)["Body"].read()
    assert back == damaged.read_bytes()


def test_cache_stays_within_its_size_limit(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snapper.store import configured_cache, open_store

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(s3_server.credentials))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SNAPPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SNAPPER_CACHE_SIZE", "1MB")
    url = s3_server.url(secrets.token_hex(8))
    store = open_store(url, create=True, cache=configured_cache(url))
    objects = [os.urandom(200_000) for _ in range(9)]
    keys = [
        f"layers/{name[:2]}/{name}.tar.zst" for name in (hashlib.sha256(data).hexdigest() for data in objects)
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
