"""Environments at whose former paths other environments are: copies, clones, and what was moved."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import py_compile
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Machine

#: What conda, pip, and the user wrote before the environment was copied or moved, with the path in place of `%s`.
WRITTEN_BEFORE = {
    "share/conda.cfg": "conda=%s/lib\n",
    "bin/tool": "#!%s/bin/python\nimport tool\n",
    "bin/own": "#!%s/bin/python -x\n",
    "own.pc": "prefix=%s\n",
    "own.py": "DATA = '%s/share'\n",
}
#: What the user writes afterwards.
WRITTEN_LATER = {
    "bin/baseline": "#!%s/bin/python\n",
    "compare.json": '{"baseline": "%s/share/model"}\n',
    "wide.txt": "%s/share\n",
    "both.txt": "%%own/a %s/b\n",
    "later.py": "DATA = '%s/share'\n",
}
LINK = "baseline"


def create(prefix: Path) -> Path:
    """Create an environment with a file of conda's and a script of pip's."""
    for name, text in WRITTEN_BEFORE.items():
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(text % prefix)
    (prefix / "bin/python").write_text("#!/bin/sh\n")
    metadata = prefix / "lib/python3.11/site-packages/tool-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: tool\nVersion: 1\n")
    (metadata / "RECORD").write_text("../../../bin/tool,,\ntool-1.dist-info/RECORD,,\n")
    entry = {
        "_path": "share/conda.cfg",
        "path_type": "hardlink",
        "prefix_placeholder": "/placeholder",
        "file_mode": "text",
        "sha256": hashlib.sha256(b"conda=/placeholder/lib\n").hexdigest(),
    }
    record = {
        "name": "own",
        "version": "1",
        "build_string": "0",
        "paths_data": {"paths": [entry]},
    }
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta/own-1-0.json").write_text(json.dumps(record))
    (prefix / "conda-meta/history").touch()
    return prefix


def write(prefix: Path, other: Path) -> None:
    """Write what names another environment."""
    for name, text in WRITTEN_LATER.items():
        encoding = "utf-16" if name == "wide.txt" else "utf-8"
        (prefix / name).write_text((text % other).replace("%own", str(prefix)), encoding=encoding)
    (prefix / LINK).symlink_to(other / "share")
    for module in ("own.py", "later.py"):
        py_compile.compile(str(prefix / module))


def copied(prefix: Path) -> Path:
    return _copied(prefix, "-a")


def copied_without_times(prefix: Path) -> Path:
    return _copied(prefix, "-r")


def copied_with_hard_links(prefix: Path) -> Path:
    return _copied(prefix, "-al")


def _copied(prefix: Path, *options: str) -> Path:
    subprocess.run(["cp", *options, prefix, prefix.parent / "now"], check=True)
    return prefix.parent / "now"


def cloned(prefix: Path) -> Path:
    """`conda create --clone` replaces the path in texts, and copies what is not text, such as an index."""
    new = copied(prefix)
    for name, text in WRITTEN_BEFORE.items():
        (new / name).write_text(text % new)
    return new


def moved(prefix: Path) -> Path:
    """There is a new environment at the old path."""
    new = prefix.rename(prefix.parent / "now")
    create(prefix)
    return new


@pytest.mark.parametrize(
    ("form", "packed_before"),
    [
        (copied_without_times, False),
        (copied_with_hard_links, False),
        (cloned, True),
        (moved, True),
    ],
)
def test_other_environment_at_a_former_prefix(
    machine: Machine, tmp_path: Path, form: Callable[[Path], Path], packed_before: bool
) -> None:
    """What was written before is relocated; what was written later, also beside another path, is kept and named."""
    was = create(tmp_path / "was")
    if packed_before:
        machine.run_json("pack", "-p", was, "--name", "was")
    now = form(was)
    write(now, was)
    packed = machine.snapper("pack", "-p", now, "--name", "now", "--json")
    assert (packed.code, named_in(packed.json)) == (3, {str(was): sorted([*WRITTEN_LATER, LINK])})
    check_restored(machine, was)


def named_in(result: dict[str, Any]) -> dict[str, list[str]]:
    """Return the environments that are dependencies, and the files that name them."""
    assert {each["kind"] for each in result["dependencies"]} <= {"environment"}
    return {each["path"]: each["names"] for each in result["dependencies"]}


def check_restored(machine: Machine, other: Path) -> Path:
    """Restore the environment, and check what its files name."""
    prefix = machine.envs / "restored"
    machine.run_json("restore", "now", "--prefix", prefix)
    for name, text in WRITTEN_BEFORE.items():
        assert (prefix / name).read_text() == text % prefix
    for name, text in WRITTEN_LATER.items():
        encoding = "utf-16" if name == "wide.txt" else "utf-8"
        assert (prefix / name).read_text(encoding) == (text % other).replace("%own", str(prefix))
    assert os.readlink(prefix / LINK) == f"{other}/share"
    for module, path in (("own", prefix), ("later", other)):  # what Python compiled after the copy
        (compiled,) = prefix.glob(f"__pycache__/{module}.*")
        constants = marshal.loads(compiled.read_bytes()[16:]).co_consts
        assert f"{path}/share" in constants
    return prefix


def test_former_prefix_of_a_copy_over_time(machine: Machine, tmp_path: Path) -> None:
    """The copy is verified and restored, modes change, files are written again, and the original is removed."""
    was = create(tmp_path / "was")
    now = copied(was)
    write(now, was)

    def pack(name: str, prefix: Path) -> tuple[str, dict[str, list[str]]]:
        result = machine.snapper("pack", "-p", prefix, "--name", name, "--json").json
        return result["snapshot"], named_in(result)

    snapshot, named = pack("now", now)
    machine.run_json("verify", "-p", now)
    (machine.home / ".conda").mkdir(exist_ok=True)
    (machine.home / ".conda/environments.txt").write_text(f"{now}\n")
    findings = [each["detail"] for each in machine.snapper("doctor", "--json").json["findings"]]
    assert [each for each in findings if " needs " in each] == [
        f"{now} needs the environment {was}, which these files name: {', '.join(named[str(was)])}"
    ]
    assert pack("again", check_restored(machine, was))[0] == snapshot
    subprocess.run(["chmod", "-R", "g+w", now], check=True)
    assert pack("now", now) == (snapshot, named)
    (now / "etc").mkdir()
    (now / "etc/own.cfg").write_text(f"{now}\n")
    assert pack("now", now)[1] == named
    shutil.rmtree(was)
    assert pack("now", now)[1] == named
    for name, text in WRITTEN_BEFORE.items():
        (now / name).write_text(text % now)
    shutil.rmtree(now / "__pycache__")
    assert pack("now", now)[1] == named
    (now / "later.cfg").write_text(f"{was}\n")
    assert pack("now", now)[1] == {str(was): sorted([*named[str(was)], "later.cfg"])}


def test_no_other_environment_at_the_former_prefix(machine: Machine, tmp_path: Path) -> None:
    """The old path is a link to the environment. A spelling that is not normal is kept and reported."""
    was = create(tmp_path / "was")
    now = was.rename(tmp_path / "now")
    was.symlink_to(now)
    (now / "later.cfg").write_text(f"{was}\n")
    (now / "odd.cfg").write_text(f"{was.parent}//{was.name}/lib\n")
    packed = machine.snapper("pack", "-p", now, "--name", "now", "--json")
    assert (packed.code, packed.json["dependencies"], packed.json["unrelocated"]) == (3, [], ["odd.cfg"])
    machine.snapper("restore", "now", "--prefix", tmp_path / "restored")
    assert (tmp_path / "restored/later.cfg").read_text() == f"{tmp_path}/restored\n"
