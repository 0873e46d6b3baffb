"""A restored environment equals the packed one: the cases of docs/fidelity.md, on real environments."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from scripts.maker import make
from snapper.commands.pack import pack
from snapper.environment import credentials
from snapper.environment.credential_forms import contains_token, defines_secret
from snapper.environment.credentials import find_in_usual_places
from snapper.process.progress import NullProgress
from snapper.store import open_store
from tests.conftest import Machine, tree_of
from tests.support.programs import compile_program
from tests.support.users import unprivileged


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """An environment that the test may change: a compiled program, data, text and binary placeholders."""
    prefix = tmp_path / "origin" / "tools"
    make("no-python", prefix, copy=True)
    return prefix


def pack_and_move(machine: Machine, prefix: Path, *options: object) -> Path:
    """Pack the environment and restore it to another prefix; return that."""
    machine.run_json("pack", "-p", prefix, "--name", "moved", *options)
    machine.run_json("restore", "moved", "--envs-dir", machine.envs, "--replace")
    return machine.envs / "moved"


def relocated_paths(machine: Machine) -> set[str]:
    layers = machine.run_json("show", "moved")["layers"]
    return {path for layer in layers for group in layer["relocations"] for path in group["paths"]}


def assert_same(original: Path, restored: Path, machine: Machine) -> None:
    """Assert that paths, types, modes and contents are the same, except for contents with the prefix."""
    before, after = tree_of(original), tree_of(restored)
    assert after.keys() == before.keys()
    changed = relocated_paths(machine)
    for path, (kind, mode, data) in before.items():
        assert after[path][:2] == (kind, mode), path
        if path not in changed:
            assert after[path][2] == data, path


def test_overwritten_package_files_are_restored_and_reported(tools: Path, machine: Machine) -> None:
    (tools / "share/textdata/config.ini").write_text(f"[mine]\nhome = {tools}/share\n")
    (tools / "bin/whereami").write_bytes(b"#!/bin/sh\necho mine\n")
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert {path for entry in packed["altered"] for path in entry["paths"]} == {
        "share/textdata/config.ini",
        "bin/whereami",
    }
    restored = pack_and_move(machine, tools)
    again = machine.run_json("pack", "-p", restored, "--name", "moved", "--full")
    assert again["unchanged"]
    assert again["altered"] == packed["altered"]
    machine.run_json("verify", "-p", restored)
    assert (restored / "share/textdata/config.ini").read_text() == f"[mine]\nhome = {restored}/share\n"
    assert subprocess.check_output([restored / "bin/whereami"]) == b"mine\n"
    for record in (restored / "conda-meta").glob("*.json"):
        assert json.loads(record.read_text())["paths_data"]["paths"]


def test_deleted_package_files_stay_deleted_and_are_reported(tools: Path, machine: Machine) -> None:
    (tools / "share/textdata/config.ini").unlink()
    shutil.rmtree(tools / "lib/pkgconfig")
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    gone = {path for entry in packed["missing"] for path in entry["paths"]}
    assert gone == {"share/textdata/config.ini", "lib/pkgconfig/whereami.pc"}
    assert_same(tools, pack_and_move(machine, tools), machine)


def test_records_with_missing_fields_are_accepted(tools: Path, machine: Machine) -> None:
    """Older versions of conda, mamba and pixi wrote no link, extracted_package_dir, or paths_data."""
    first, second = sorted((tools / "conda-meta").glob("*.json"))
    fields = json.loads(first.read_text())
    fields["link"] = None
    fields.pop("extracted_package_dir", None)
    first.write_text(json.dumps(fields))
    fields = json.loads(second.read_text())
    fields.pop("paths_data")
    second.write_text(json.dumps(fields))
    restored = pack_and_move(machine, tools)
    assert_same(tools, restored, machine)
    shown = subprocess.check_output([restored / "bin/whereami"], text=True)
    assert str(restored) in shown
    assert str(tools) not in shown


def test_two_distributions_and_two_records_of_one_name(tools: Path, machine: Machine) -> None:
    """A distribution is installed in a virtual environment too, and a package has two records."""
    for site in ("lib/python3.11/site-packages", "venv/lib/python3.11/site-packages"):
        info = tools / site / "thing-1.0.dist-info"
        info.mkdir(parents=True)
        (tools / site / "thing.py").write_text(f"directory = {site!r}\n")
        (info / "METADATA").write_text("Name: thing\nVersion: 1.0\n")
        (info / "RECORD").write_text(
            "thing.py,,\nthing-1.0.dist-info/METADATA,,\nthing-1.0.dist-info/RECORD,,\n"
        )
    record = next(tools.glob("conda-meta/textdata-*.json"))
    (tools / "share/mine").write_text("mine\n")
    entry = {"_path": "share/mine", "path_type": "hardlink", "sha256": hashlib.sha256(b"mine\n").hexdigest()}
    fields = {**json.loads(record.read_text()), "paths_data": {"paths": [entry]}, "files": ["share/mine"]}
    record.with_suffix(".copy.json").write_text(json.dumps(fields))
    restored = pack_and_move(machine, tools)
    assert_same(tools, restored, machine)
    assert machine.run_json("pack", "-p", restored, "--name", "moved")["unchanged"]
    (restored / "venv/lib/python3.11/site-packages/thing.py").write_text("changed\n")
    changed = machine.run_json("pack", "-p", restored, "--name", "moved")
    assert not changed["unchanged"]
    assert machine.run_json("pack", "-p", restored, "--name", "moved", "--full")["unchanged"]


def test_record_that_lists_a_file_of_another_package_keeps_its_digest(tools: Path, machine: Machine) -> None:
    """Two packages list one path with different digests; the second record is left as it is."""
    first, second = (next(tools.glob(f"conda-meta/{name}-*.json")) for name in ("textdata", "whereami"))
    entries = json.loads(first.read_text())["paths_data"]["paths"]
    entry = next(entry for entry in entries if entry["_path"] == "share/textdata/config.ini")
    fields = json.loads(second.read_text())
    fields["paths_data"]["paths"].append({**entry, "sha256_in_prefix": "0" * 64})
    second.write_text(json.dumps(fields))
    restored = pack_and_move(machine, tools)
    paths = json.loads((restored / "conda-meta" / second.name).read_text())["paths_data"]["paths"]
    assert paths[-1]["sha256_in_prefix"] == "0" * 64
    assert machine.run_json("pack", "-p", restored, "--name", "moved", "--full")["unchanged"]
    machine.run_json("verify", "-p", restored)


def test_symlinks_and_hard_links_are_restored(tools: Path, machine: Machine, tmp_path: Path) -> None:
    directory = tools / "mine"
    directory.mkdir()
    (directory / "one").write_text("linked")
    os.link(directory / "one", directory / "two")
    os.link(directory / "one", tools / "bin" / "three")
    outside = tmp_path / "outside"
    outside.write_text("elsewhere")
    for name, target in {
        "relative": "one",
        "dangling": "nowhere",
        "directory": "../bin",
        "inside": f"{tools}/mine/one",
        "prefix": str(tools),
        "sibling": f"{tools}-other/x",
        "outside": str(outside),
        "above": "../../above",
        "loop": "loop",
    }.items():
        (directory / name).symlink_to(target)
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert packed["outside"] == ["mine/above", "mine/outside", "mine/sibling"]
    restored = pack_and_move(machine, tools)
    assert_same(tools, restored, machine)
    inodes = {(restored / path).stat().st_ino for path in ("mine/one", "mine/two", "bin/three")}
    assert len(inodes) == 1
    assert os.readlink(restored / "mine/inside") == f"{restored}/mine/one"
    assert os.readlink(restored / "mine/prefix") == str(restored)
    assert os.readlink(restored / "mine/sibling") == f"{tools}-other/x"
    assert os.readlink(restored / "mine/outside") == str(outside)


def test_hard_links_of_split_files_are_restored(tools: Path, machine: Machine, tmp_path: Path) -> None:
    directory = tools / "mine"
    directory.mkdir()
    (directory / "one").write_bytes(os.urandom(1024) * 40 * 1024)
    os.link(directory / "one", directory / "two")
    os.link(directory / "one", tools / "zz")
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert packed["size"] < 60 * 1024 * 1024
    restored = pack_and_move(machine, tools)
    assert_same(tools, restored, machine)
    assert len({(restored / path).stat().st_ino for path in ("mine/one", "mine/two", "zz")}) == 1
    assert machine.run_json("pack", "-p", restored, "--name", "moved", "--full")["unchanged"]


def test_package_file_replaced_by_a_hard_link_is_reported_altered(tools: Path, machine: Machine) -> None:
    (tools / "share/textdata/config.ini").unlink()
    os.link(tools / "lib/pkgconfig/whereami.pc", tools / "share/textdata/config.ini")
    (tools / "conda-meta/history").touch()
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert "share/textdata/config.ini" in {path for entry in packed["altered"] for path in entry["paths"]}
    assert_same(tools, pack_and_move(machine, tools), machine)


@pytest.mark.parametrize("placeholder", ["C:/bld/h_env", "$PREFIX", "/", "/\ud800x"])
def test_files_are_relocated_despite_invalid_placeholders(
    placeholder: str, tools: Path, machine: Machine
) -> None:
    """For example, packages that were built on Windows have such placeholders."""
    changed = 0
    for record in (tools / "conda-meta").glob("*.json"):
        fields = json.loads(record.read_text())
        for entry in fields["paths_data"]["paths"]:
            if entry.get("file_mode") == "text" and entry.get("prefix_placeholder"):
                entry["prefix_placeholder"] = placeholder
                changed += 1
        record.write_text(json.dumps(fields))
    assert changed
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert packed["altered"] == []
    restored = pack_and_move(machine, tools)
    assert str(tools) not in (restored / "share/textdata/config.ini").read_text()
    machine.run_json("verify", "-p", restored)


def test_record_with_an_impossible_path_is_refused(tools: Path, machine: Machine) -> None:
    record = min((tools / "conda-meta").glob("*.json"))
    fields = json.loads(record.read_text())
    fields["paths_data"]["paths"][0]["_path"] = "\ud800x"
    record.write_text(json.dumps(fields))
    assert record.name in machine.expect_error(1, "pack", "-p", tools, "--name", "moved")["message"]


def test_paths_that_cannot_be_restored_are_skipped_and_reported(tools: Path, machine: Machine) -> None:
    (tools / ".Snapper").mkdir()
    (tools / ".Snapper" / "file").write_text("mine")
    deep = tools / "deep"
    deep.mkdir()
    descriptor = os.open(deep, os.O_DIRECTORY)
    for _ in range(300):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    outcome = machine.snapper("pack", "-p", tools, "--name", "moved")
    assert outcome.code == 0
    assert ".Snapper" in outcome.err + outcome.out and "256" in outcome.err + outcome.out
    restored = pack_and_move(machine, tools)
    assert not (restored / ".Snapper").exists()
    assert (restored / "deep/d/d/d").is_dir()
    machine.run_json("verify", "--data")


def test_package_files_behind_a_symlinked_directory_are_found(tools: Path, machine: Machine) -> None:
    (tools / "share" / "real").mkdir()
    shutil.move(tools / "share/textdata", tools / "share/real/textdata")
    (tools / "share/textdata").symlink_to("real/textdata")
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert packed["missing"] == packed["altered"] == []
    assert_same(tools, pack_and_move(machine, tools), machine)


def test_unusual_names_modes_and_sizes_are_restored(tools: Path, machine: Machine) -> None:
    directory = tools / "odd"
    directory.mkdir()
    deep = directory / "/".join(["a-directory-with-a-long-name"] * 12)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    for name in (
        b"a space",
        b"a\nnewline",
        "naïve-日本".encode(),
        b"not-utf8-\xff\xfe",
        b"Case",
        b"case",
        b"-dash",
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(directory), name))).write_bytes(name)
    (directory / "empty").touch()
    (directory / "sparse").touch()
    os.truncate(directory / "sparse", 3_000_000)
    (directory / "empty-directory").mkdir()
    (directory / "private").mkdir(mode=0o700)
    (directory / "private" / "secret").write_text("s")
    (directory / "private" / "secret").chmod(0o600)
    (directory / "read-only").mkdir()
    (directory / "read-only" / "file").write_text("r")
    (directory / "read-only" / "file").chmod(0o444)
    (directory / "read-only").chmod(0o555)
    assert_same(tools, pack_and_move(machine, tools), machine)
    assert_same(tools, pack_and_move(machine, tools), machine)


def test_unprivileged_user_packs_and_restores_read_only_files(tools: Path, machine: Machine) -> None:
    """Their owner can also replace them."""
    user = unprivileged(machine)
    directory = tools / "read-only"
    (directory / "inner").mkdir(parents=True)
    (directory / "inner" / "file").write_text(f"at {tools}\n")
    (directory / "inner" / "file").chmod(0o444)
    (directory / "inner").chmod(0o555)
    directory.chmod(0o555)
    restored = pack_and_move(user, tools)
    assert_same(tools, restored, user)
    (restored / "bin" / "whereami").unlink()
    assert_same(tools, pack_and_move(user, tools), user)


def test_another_user_can_use_what_root_restored(tools: Path, machine: Machine, scratch: Path) -> None:
    """Modes are exactly those that were packed, whatever root's umask."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (tools / "mine").write_text("secret")
    (tools / "mine").chmod(0o600)
    machine.run_json("pack", "-p", tools, "--name", "moved")
    scratch.chmod(0o755)
    umask = os.umask(0o077)
    try:
        machine.run_json("restore", "moved", "--prefix", scratch / "env")
    finally:
        os.umask(umask)

    def as_nobody(*command: object) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        return subprocess.run(
            words, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
        )

    assert as_nobody(scratch / "env/bin/whereami").stdout.splitlines()[0] == f"{scratch}/env"
    assert as_nobody("cat", scratch / "env/mine").returncode != 0


def test_special_bits_sockets_and_pipes_are_dropped(tools: Path, machine: Machine) -> None:
    (tools / "bin/whereami").chmod(0o6755)
    os.mkfifo(tools / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(tools)
        listener.bind("socket")
        os.chdir(before)
    packed = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert {entry["path"] for entry in packed["skipped"]} == {"pipe", "socket"}
    restored = pack_and_move(machine, tools)
    assert (restored / "bin/whereami").stat().st_mode & 0o7777 == 0o755
    assert not os.path.lexists(restored / "pipe")
    assert not os.path.lexists(restored / "socket")


def test_nested_environments_and_caches_are_not_packed(tools: Path, machine: Machine) -> None:
    (tools / "envs/other/conda-meta").mkdir(parents=True)
    (tools / "envs/other/file").touch()
    (tools / "envs/notes.txt").write_text("where conda would put an environment of this name")
    (tools / "pkgs/numpy-1").mkdir(parents=True)
    (tools / "pkgs/urls.txt").touch()
    (tools / "bin/old.c~").write_text("an editor's copy of old.c")
    (tools / ".snapper").mkdir()
    (tools / ".snapper/whatever").touch()
    restored = pack_and_move(machine, tools)
    assert (restored / "bin/old.c~").read_text() == "an editor's copy of old.c"
    for path in ("envs", "pkgs", ".snapper/whatever"):
        assert not (restored / path).exists(), path


def test_directories_of_these_names_are_packed_where_conda_does_not_use_them(
    tools: Path, machine: Machine
) -> None:
    for path in ("lib/pkgs/mine", "lib/envs/mine", "pkgs/mine", "envs/mine"):
        (tools / path).mkdir(parents=True)
        (tools / path / "file").write_text("mine")
    restored = pack_and_move(machine, tools)
    for name in ("envs", "pkgs"):
        assert (restored / f"lib/{name}/mine/file").read_text() == "mine"
        assert not (restored / name).exists()
    result = machine.run_json("pack", "-p", tools, "--name", "moved")
    assert [item["path"] for item in result["skipped"]] == ["envs", "pkgs"]


def test_files_with_credentials_are_named(tools: Path, machine: Machine) -> None:
    assert machine.run_json("pack", "-p", tools, "--name", "moved")["credentials"] == []
    record = next(tools.glob("conda-meta/textdata-*.json"))
    fields = json.loads(record.read_text())
    fields["url"] = f"https://conda.example/t/s3cret-0/channel/noarch/{Path(fields['url']).name}"
    record.write_text(json.dumps(fields))
    with (tools / "conda-meta" / "history").open("a") as history:
        history.write("# cmd: conda install -c https://me:s3cret-1@conda.example/channel textdata\n")
    (tools / "pip.conf").write_text("[global]\nindex-url = https://me:s3cret-2@pypi.example/simple\n")
    (tools / ".condarc").write_text("channels: [https://conda.example/t/s3cret-3/channel]\n")
    (tools / "conda-meta" / "state").write_text('{"env_vars": {"SERVICE_API_KEY": "s3cret-4", "LANG": "C"}}')
    paths = [".condarc", "conda-meta/history", "conda-meta/state", f"conda-meta/{record.name}", "pip.conf"]
    for path, text in {
        ".netrc": "machine conda.example login me password s3cret-5\n",
        ".pypirc": "[pypi]\nusername = __token__\npassword = s3cret-6\n",
        "etc/conda/env_vars.d/aws.json": '{"AWS_SECRET_ACCESS_KEY": "s3cret-7"}',
        "etc/conda/env_vars.d/harmless.json": '{"AWS_SECRET_ACCESS_KEY": "", "SSH_AUTH_SOCK": "/run/ssh"}',
        "etc/conda/env_vars.d/database.json": '{"DATABASE_URL": "postgres://me:s3cret-8@db.example/data"}',
        "etc/conda/activate.d/key.sh": 'if true; then\n    export OPENAI_API_KEY="s3cret-9"\nfi\n',
        "etc/conda/activate.d/key.fish": "set -gx PGPASSWORD s3cret-10\n",
        "etc/conda/activate.d/harmless.sh": 'export API_TOKEN="$OTHER"\nunset SERVICE_API_KEY\nKEYBOARD=us\n',
        "etc/jupyter/jupyter_server_config.json": '{"IdentityProvider": {"token": "s3cret-11"}}',
        "etc/jupyter/jupyter_server_config.py": "c.ServerApp.password = 's3cret-12'\n",
        "etc/jupyter/jupyter_server_config.d/mine.json": '{"ServerApp": {"token": "s3cret-13"}}',
        "lib/R/etc/Renviron.site": "DB_PASSWORD=s3cret-14\n",
        "share/jupyter/kernels/mine/kernel.json": '{"argv": ["run", "--api-token", "s3cret-15"]}',
    }.items():
        file = tools / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if "harmless" not in path:
            paths.append(path)
    found_by_content = []
    site = "lib/python3.12/site-packages"
    for path, text in {
        "src/mine/.git/config": "[remote]\n\turl = https://oauth2:s3cret-16@git.example/x.git\n",
        "src/mine/harmless.md": "Use postgres://user:password@host, https://user@host, or https://${TOKEN}@host:80/\n",
        "src/mine/large.txt": "https://me:s3cret-17@host\n" + "x" * 70_000,
        f"{site}/mine-1.dist-info/METADATA": "Name: mine\nVersion: 1\n",
        f"{site}/mine-1.dist-info/RECORD": "mine-1.dist-info/direct_url.json,,\nharmless.py,,\n",
        f"{site}/mine-1.dist-info/direct_url.json": '{"url": "https://me:s3cret-18@git.example/x.git"}',
        f"{site}/harmless.py": "url = 'https://me:s3cret-19@host'",
    }.items():
        (tools / path).parent.mkdir(parents=True, exist_ok=True)
        (tools / path).write_text(text)
        if path.endswith(("config", "direct_url.json")):
            found_by_content.append(path)
    paths.sort()
    found = machine.run_json("pack", "-p", tools, "--name", "moved")["credentials"]
    assert found == sorted([*paths, *found_by_content])
    (tools / "new").touch()
    assert machine.run_json("pack", "-p", tools, "--name", "moved")["credentials"] == paths
    (tools / "new").write_text("changed")
    outcome = machine.snapper("pack", "-p", tools, "--name", "moved")
    assert "files contain credentials" in outcome.err
    assert all(f"    {path}\n" in outcome.err for path in paths[:5])
    shown = (
        machine.snapper("show", "moved", "--json").out + machine.snapper("show", "moved", "--explicit").out
    )
    assert "s3cret" not in outcome.out + outcome.err + shown


def test_credentials_are_named_before_anything_is_stored(tools: Path, machine: Machine) -> None:
    class Notes(NullProgress):
        noted: ClassVar[list[tuple[str, int]]] = []

        def note(self, text: str) -> None:
            self.noted.append((text, len([*machine.store.rglob("*.zst")])))

    machine.run_json("pack", "-p", tools, "--name", "moved")
    stored = len([*machine.store.rglob("*.zst")])
    (tools / "new").write_text("more to store")
    for path in ("pip.conf", "share/snapper/kernels/mine/start.sh"):
        (tools / path).parent.mkdir(parents=True, exist_ok=True)
    (tools / "pip.conf").write_text("[global]\nindex-url = https://me:s3cret@pypi.example/simple\n")
    (tools / "share/snapper/kernels/mine/start.sh").write_text("export API_TOKEN=s3cret\n")
    pack(open_store(str(machine.store)), tools, "moved", jobs=1, progress=Notes())
    named = "pip.conf, share/snapper/kernels/mine/start.sh"
    everyone = "will be readable for everyone who can read the store"
    assert Notes.noted == [(f"moved: 2 files with credentials {everyone}: {named}", stored)]
    assert len([*machine.store.rglob("*.zst")]) > stored


def test_search_for_credentials_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever published the environment gave one large file many names, or wrote many large files."""
    monkeypatch.setattr(credentials, "_MOST_SEARCHED", 300_000)
    scripts = tmp_path / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    (scripts / "large.sh").write_text("export API_TOKEN=s3cret\n" + "x=y " * 50_000)
    names = [f"etc/conda/activate.d/{number}.sh" for number in range(200)]
    for name in names:
        os.link(scripts / "large.sh", tmp_path / name)
    (tmp_path / ".env").write_text("API_TOKEN=s3cret\n")
    found = sorted([".env", *names, "etc/conda/activate.d/large.sh"])
    started = time.process_time()
    assert list(find_in_usual_places(tmp_path, [])) == found
    assert time.process_time() - started < 5
    assert not caplog.text
    (scripts / "other.sh").write_text("export API_TOKEN=s3cret\n" + "x=y " * 60_000)
    assert list(find_in_usual_places(tmp_path, [])) == found
    assert "other.sh is not searched" in caplog.text


@pytest.mark.parametrize(
    "line", [b"a" * 60_000, b"a" + b" " * 60_000, b"://" * 20_000, b"://a:" * 12_000, b"://" + b"a1" * 30_000]
)
def test_scripts_are_searched_for_credentials_in_linear_time(line: bytes) -> None:
    """Whoever published the environment wrote them. Careful searches take milliseconds, others half a minute."""
    began = time.process_time()
    assert not defines_secret(line)
    assert not contains_token(line)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://ghp_0123456789abcdefghij@host/x",
            "https://0123456789abcdef0123@host",
            "git+ssh://a:b0@host",
        ),
        *("x = 'ghp_0123456789abcdefghij'", "github_pat_0123456789abcdefghij", "glpat-0123456789abcdef"),
        *("AKIA0123456789ABCDEF", "xoxb-0123456789-abc", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    ],
)
def test_tokens_are_recognized(text: str) -> None:
    assert contains_token(f"a\n{text}\n".encode())


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://host:8080/a@b",
            "git@host:x/y",
            "ssh://git@host",
            "https://user:pass@host",
            "a://u:$PASSWORD@h",
        ),
        *(
            "graphp_0123456789abcdefghij",
            "https://user:<password>@host",
            "https://a-long-name-of-a-user@host1/x2",
        ),
        *("-----BEGIN PUBLIC KEY-----", "https://ghp_0123456789abcdefghij@host\0"),
    ],
)
def test_texts_without_tokens_have_none(text: str) -> None:
    assert not contains_token(f"a\n{text}\n".encode())


def test_text_in_other_encodings_is_relocated(tools: Path, machine: Machine) -> None:
    encodings = ("latin-1", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
    starts = ("é path = ", "-I", "")
    for encoding, start in itertools.product(encodings, starts):
        text = f"{start}{tools}/share é\nother = {tools}-other/share\n"
        (tools / f"{encoding}{start}").write_bytes(text.encode(encoding))
    restored = pack_and_move(machine, tools)
    for encoding, start in itertools.product(encodings, starts):
        expected = f"{start}{restored}/share é\nother = {tools}-other/share\n"
        assert (restored / f"{encoding}{start}").read_bytes() == expected.encode(encoding), encoding


def test_three_moves_leave_no_earlier_prefix(tools: Path, machine: Machine, tmp_path: Path) -> None:
    (tools / "notes.txt").write_text(f"see {tools}/share, {tools}.\n")
    prefixes = [tmp_path / "b", tmp_path / "a-much-longer-directory-than-the-first-one-was", tmp_path / "c"]
    earlier, ids = [tools], set()
    ids.add(machine.run_json("pack", "-p", tools, "--name", "moved")["snapshot"])
    for directory in prefixes:
        machine.run_json("restore", "moved", "--prefix", directory)
        for path, (_, _, data) in tree_of(directory).items():
            for old in earlier:
                assert os.fsencode(old) not in data, path
        shown = subprocess.check_output([directory / "bin/whereami"], text=True).splitlines()
        assert f"{directory}/a:{directory}/b" in shown
        ids.add(machine.run_json("pack", "-p", directory, "--name", "moved")["snapshot"])
        earlier.append(directory)
    assert len(ids) == 1


def test_what_the_loader_reads_is_relocated_where_the_prefix_fits(
    tools: Path, machine: Machine, tmp_path: Path
) -> None:
    """This also works after it has been restored to a prefix that did not fit."""
    program = "bin/here"
    compile_program(tools / program, "-g", f"-Wl,-rpath,{tools}/lib")
    assert machine.run_json("pack", "-p", tools, "--name", "moved")["unrelocated"] == []
    longer, shorter = tmp_path / "a-longer-directory" / "than-before", tmp_path / "short"
    outcome = machine.snapper("restore", "moved", "--prefix", longer)
    assert outcome.code == 3
    assert f"    {program}\n" in outcome.err
    subprocess.run([longer / program], check=True)
    (longer / "share" / "mine.txt").write_text("so that what is beside the program is read again")
    machine.run_json("pack", "-p", longer, "--name", "moved")
    machine.run_json("restore", "moved", "--prefix", shorter)
    assert os.fsencode(f"\0{shorter}/lib\0") in (shorter / program).read_bytes()


def test_snapshot_id_does_not_depend_on_user_store_or_prefix(
    tools: Path, new_machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    """Two users with different umasks and stores pack the environment at different prefixes."""

    def pack(machine: Machine, prefix: Path, umask: str, store: Path) -> str:
        command = machine.command("pack", "-p", prefix, "--name", "same", "--store", store, "--json")
        done = subprocess.run(
            ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command],
            env=machine.variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return str(json.loads(done.stdout)["snapshot"])

    one, two = new_machine("one"), new_machine("two")
    first = pack(one, tools, "022", tmp_path / "store-of-one")
    other = tmp_path / "another-directory" / "of-two"
    command = two.command("restore", "same", "--store", tmp_path / "store-of-one", "--prefix", other)
    subprocess.run(["sh", "-c", 'umask 077; exec "$@"', "sh", *command], env=two.variables, check=True)
    assert pack(two, other, "077", tmp_path / "store-of-two") == first
