"""The keys of every command's JSON document, recorded in tests/golden/json-keys.txt: programs rely on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.maker import make
from snapper.cli.app import SECTIONS
from tests.conftest import Machine
from tests.support.jupyter import kernels_dir


def key_paths(value: object, path: str = "") -> Iterator[str]:
    """Every key in a document as `key.key`; `[]` stands for the elements of a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = f"{path}.{key}".lstrip(".")
            yield name
            yield from key_paths(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from key_paths(inner, f"{path}[]")


def documents(machine: Machine, prefix: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Documents of all commands, with a title; together they have everything that a document can have."""

    def ran(title: str, *arguments: object) -> tuple[str, dict[str, object]]:
        return title, json.loads(machine.snapper(*arguments, "--json").out)

    other = machine.home / "other"
    yield ran("pack", "pack", "-p", prefix, "-n", "text", "-m", "one")
    (prefix / "new.txt").write_text("new")
    (prefix / "share" / "textdata" / "numbers.bin").unlink()
    (prefix / "out").symlink_to("/nowhere")
    kernel = kernels_dir(machine) / "mine"
    kernel.mkdir(parents=True)
    spec = {"argv": [f"{prefix}/bin/mine"], "display_name": "Mine", "language": "text"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    state = {"version": 1, "env_vars": {"PYTHONPATH": str(machine.home)}}
    (prefix / "conda-meta/state").write_text(json.dumps(state))
    yield ran("tag", "tag", "text", "v1")
    yield ran("diff: with the disk", "diff", "text", "-p", prefix, "--files")
    yield ran("status: changed", "status", "-p", prefix)
    yield ran("pack: changed", "pack", "-p", prefix, "-n", "text")
    yield ran("list", "list")
    yield ran("show", "show", "text")
    yield ran("log", "log", "text")
    yield ran("diff", "diff", "text@v1", "text")
    yield ran("verify", "verify")
    yield ran("verify: an environment", "verify", "-p", prefix)
    yield ran("push", "push", "text", "--to", other)
    yield ran("pull", "pull", "text", "--from", other)
    yield ran("export", "export", "text", "-o", machine.home / "text.tar.gz")
    yield ran("import", "import", machine.home / "text.tar.gz", "-n", "imported")
    yield ran("restore", "restore", "text", "absent", "--envs-dir", machine.envs)
    yield ran("restore: all", "restore", "--all", "--budget", 300)
    yield ran("status", "status")
    yield ran("rollback", "rollback", "text", "--envs-dir", machine.envs)
    yield ran("tag: deleted", "tag", "text", "v1", "--delete")
    yield ran("prune", "prune", "--keep-last", 1, "--grace", "0s")
    yield ran("remove", "remove", "imported", "--yes")
    yield ran("kernels", "kernels")
    yield ran("kernels list", "kernels", "list")
    yield ran("kernels register", "kernels", "register", "text")
    yield ran("kernels remove", "kernels", "remove", "text")
    yield ran("lifecycle", "lifecycle", "on-start")
    yield ran("doctor", "doctor")
    yield ran("config set", "config", "set", "jobs", 2)
    yield ran("config", "config")
    yield ran("config show", "config", "show")
    yield ran("config get", "config", "get", "jobs")
    yield ran("config path", "config", "path")
    yield ran("config unset", "config", "unset", "jobs")
    yield ran("an error", "show", "absent")
    next((machine.store / "layers").rglob("*.zst")).unlink()
    yield ran("verify: corrupted", "verify", "--repair")


def test_documents_have_the_recorded_keys(machine: Machine, golden: Callable[[str, str], None]) -> None:
    prefix = machine.home / "text"
    make("data", prefix)
    kernel = prefix / "share/jupyter/kernels/text/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps({"argv": ["/bin/sh", "{connection_file}"], "display_name": "T", "language": "c"})
    )
    recorded, titles = "", set()
    for title, document in documents(machine, prefix):
        titles.add(title.partition(" ")[0].rstrip(":"))
        keys = sorted(set(key_paths(document)))
        recorded += f"{title}\n" + "".join(f"    {key}\n" for key in keys)
    assert titles >= {name for names in SECTIONS.values() for name in names}
    golden("json-keys.txt", recorded)
