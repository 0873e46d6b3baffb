"""What a publisher writes into a store is shown on a victim's terminal, and used in commands and files."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.redteam import prefixes, publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import encode, file, kernelspec, link
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

#: Sets the title, moves the cursor, clears the screen, turns the text around, and ends lines.
_ESCAPES = "a\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\u2066\r\x08\x7f\x00\u2028b"
_IN_PATHS = _ESCAPES.replace("\x00", "")

_COMMANDS = (
    "list",
    "show work",
    "show work --yaml",
    "show work --explicit",
    "log work",
    "diff work@~1 work",
    "diff work --files",
    "status",
    "verify work",
    "verify --data",
    "prune --keep-last 1",
    "tag work stable",
    "kernels list",
    "doctor",
    "rollback work",
)


def _package(text: str) -> dict[str, str]:
    names = ("name", "version", "build", "subdir", "channel", "url", "md5", "sha256")
    return dict.fromkeys(names, text)


def _publish_everywhere(world: World, text: str) -> None:
    """Publish `work` with the text wherever a snapshot, a history or a file name can have it."""
    path = text.replace("\0", "").replace("/", "")
    kernel = {"name": text, "display_name": text, "language": text}
    members = (
        file(f"lib/{path}.py", "x"),
        link(f"lib/{path}.link", f"/{path}"),
        kernelspec("evil", display_name=text.replace("\0", ""), language=text.replace("\0", "")),
        kernelspec(path, display_name="x"),
        file(f"lib/python3.11/site-packages/{path}.dist-info/METADATA", f"Name: {text}\nVersion: {text}\n"),
    )
    deviation = {"package": text, "paths": [f"lib/{path}.py"]}
    fields = {
        "packages": [_package(text)],
        "pip": [{"name": text, "version": text}],
        "kernels": [kernel],
        "altered": [deviation],
        "missing": [deviation],
    }
    details = {"user": text, "host": text, "message": text, "time": text, "action": "pack"}
    prefix = f"/nowhere/{path}"
    world.publish("work", prefix=world.victim.envs / "work")
    first = json.loads((world.store / "environments/work.json").read_bytes())
    world.publish("work", *members, prefix=prefix, snapshot=fields, **details)
    entry = json.loads((world.store / "environments/work.json").read_bytes())
    entry["history"] = first["history"] + entry["history"]
    (world.store / "environments/work.json").write_bytes(encode(entry))
    world.victim.owns(world.store)


@variants("command", _COMMANDS, usually=("list", "log work", "show work", "verify --data", "kernels list"))
def test_escapes_in_published_strings(command: str, world: World) -> None:
    """Every string of a snapshot and its history controls the terminal."""
    _publish_everywhere(world, _ESCAPES)
    world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs)
    world.victim.snapper(*command.split())
    world.victim.snapper(*command.split(), "-v")


@pytest.mark.parametrize(
    "command", ["restore --all", "pack work", "verify work", "export work -o x.tar", "verify --data"]
)
def test_escapes_in_messages(command: str, world: World) -> None:
    """Names of files that cannot be used, and reasons for it, control the terminal."""
    members = (
        file(f"lib/{_IN_PATHS}", mode=0),
        link(f"{_IN_PATHS}.pth", "/x"),
        file(f"conda-meta/{_IN_PATHS}.json", "{"),
        file(f"{'d/' * 300}{_IN_PATHS}"),
    )
    for number, each in enumerate(members):
        world.publish(f"work{number}" if number else "work", each, prefix=world.victim.envs / "work")
    (world.victim.envs / "work2").write_text("in the way")
    world.victim.owns(world.store)
    world.victim.snapper("restore", "--all")
    world.victim.snapper(*command.split())


@pytest.mark.parametrize("command", ["prune --yes", "pack work"])
def test_escapes_in_locks(command: str, world: World) -> None:
    """The holder of a lock in the store, and of one beside an environment, controls the terminal."""
    world.publish("work", prefix=world.victim.envs / "work")
    lock = {
        "format": 1,
        "user": _ESCAPES,
        "host": _ESCAPES,
        "machine": _ESCAPES,
        "pid": 1,
        "started": _ESCAPES,
    }
    publisher.put(
        world.store, "locks/pack-0123456789abcdef.json", encode({**lock, "action": "pack", "time": _ESCAPES})
    )
    world.victim.owns(world.store)
    world.victim.owns(prefixes.make(world.victim.envs / "work", {}))
    world.victim.snapper(*command.split())


def test_name_that_looks_like_anothers(world: World) -> None:
    """It ends in a letter that looks like nothing: two environments appear to have one name."""
    world.publish("team", prefix=world.victim.envs / "team")
    world.publish("team\u3164", prefix=world.victim.envs / "team\u3164")
    world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs)
    restored = [path.name for path in world.victim.envs.iterdir()]
    withstood(restored == ["team"], f"restored {restored}")
    for command in ("list", "status", "prune --yes"):
        outcome = world.victim.snapper(*command.split())
        withstood("team\u3164" not in outcome.out + outcome.err, f"`{command}` shows it")


def test_escapes_in_names_of_files_in_a_store(world: World) -> None:
    """The store has files, in place of objects, whose names control the terminal."""
    world.publish("work")
    for kind in ("environments", "snapshots", "pages/aa", "layers/aa", "locks", "."):
        publisher.put(world.store, f"{kind}/{_IN_PATHS}.json", b"{}")
        publisher.put(world.store, f"{kind}/{_IN_PATHS}", b"{}")
    world.victim.owns(world.store)
    for command in ("list", "restore --all", "verify --data", "prune --yes", "doctor"):
        world.victim.snapper(*command.split())


def test_escapes_in_the_snapshot_of_another_version(world: World) -> None:
    """A document with an unknown field, or a wrong value, is quoted in the error."""
    publisher.make_store(world.store)
    documents: list[dict[str, Any]] = [
        {_ESCAPES: 1},
        {"platform": _ESCAPES},
        {"platform": [_ESCAPES]},
        {"altered": [{"package": "x", "paths": [f"../{_ESCAPES}"]}]},
    ]
    for number, fields in enumerate(documents):
        digest = publisher.put_snapshot(world.store, [], **fields)
        publisher.put_entry(world.store, f"work{number}", digest, "/nowhere")
    publisher.put(world.store, "environments/bad.json", encode({"format": 1, _ESCAPES: 1, "name": _ESCAPES}))
    world.victim.snapper("restore", "--all")
    world.victim.snapper("verify")


@pytest.mark.parametrize("name", ["x\x1b[2J", "x\x9b31m", "x\u202e"])
def test_escapes_in_the_name_of_an_archive(name: str, world: World) -> None:
    """The victim imports a file, which somebody else has named, with a shell's completion."""
    archive = world.victim.home / f"{name}.tar.gz"
    archive.write_bytes(b"\x1f\x8bnothing")
    world.victim.owns(archive)
    world.victim.snapper("import", archive)


def test_lines_of_a_log(world: World) -> None:
    """A published name has line breaks that could forge records in the log file and in `status`."""
    text = "x\n2026-01-01T00:00:00Z snapper CRITICAL: forged"
    _publish_everywhere(world, text)
    world.victim.snapper("restore", "--all", "--envs-dir", world.victim.envs, "--budget", 60)
    logs = [path.read_text() for path in world.victim.home.rglob("*.log") if path.is_file()]
    withstood("\n2026-01-01T00:00:00Z snapper CRITICAL" not in "".join(logs), "forged a record of the log")


def test_commands_in_hints_can_be_pasted(world: World) -> None:
    """A hint is a command with a path that a publisher has chosen."""
    evil = "x; touch PWNED #"
    prefixes.make(world.victim.envs / evil, {}, state=(evil, "0" * 64))
    world.victim.owns(world.victim.envs)
    world.publish("work", prefix=world.victim.envs / evil)
    outcome = world.victim.snapper("restore", "work", "--prefix", world.victim.envs / evil)
    for line in outcome.err.splitlines():
        for part in line.split("snapper ")[1:]:
            try:
                words = shlex.split(part.partition(")")[0])
            except ValueError:
                continue
            withstood("touch" not in words, f"the hint {part!r} runs another command")


# --- files that others execute ----------------------------------------------------------------------------


def _start_kernels(world: World) -> None:
    """Run the scripts of all registered kernels as Jupyter does, with programs that do nothing."""
    for spec in world.victim.registered_kernels().values():
        argv = [word.replace("{connection_file}", "/dev/null") for word in spec["argv"]]
        world.victim.do(partial(_run, argv, world.victim.home, world.victim.variables))


def _run(argv: list[str], cwd: Path, variables: dict[str, str]) -> int:
    done = subprocess.run(argv, env=variables, cwd=cwd, capture_output=True, timeout=60, check=False)
    return done.returncode


_TEMPLATES = [
    "@DEFAULT@$(touch PWNED)",
    "'@CONDABIN@'",
    "@ENVIRONMENT@;touch PWNED;",
    "$(touch PWNED)",
    "`touch PWNED`",
    "'; touch PWNED; '",
    '"; touch PWNED; "',
    "\n touch PWNED\n",
    "@@PREFIX@@",
    "\\1\\g<0>",
    "{connection_file}",
    "-n",
]


@variants("text", _TEMPLATES, usually=("@DEFAULT@$(touch PWNED)", "'; touch PWNED; '", "\n touch PWNED\n"))
def test_shell_code_in_a_prefix(text: str, world: World) -> None:
    """The victim restores to a path with a name that somebody else has chosen, and starts its kernel."""
    prefix = world.victim.envs / f"x{text}" / "work"
    world.publish("work", kernelspec("evil", argv=["/bin/true", f"{text}{{connection_file}}"]), prefix=prefix)
    world.victim.snapper("restore", "work")
    world.victim.snapper("restore", "work", "--prefix", prefix)
    _start_kernels(world)
    withstood(not list(world.top.rglob("PWNED")), "code in a path was executed")


@variants("text", _TEMPLATES, usually=("@DEFAULT@$(touch PWNED)", "'; touch PWNED; '", "\n touch PWNED\n"))
def test_shell_code_in_a_kernelspec(text: str, world: World) -> None:
    """A kernelspec has shell code in every field; only its command may run."""
    kernel = kernelspec(
        "evil",
        argv=["/bin/true", text, "{connection_file}", f"{{{text}}}"],
        env={text: text, "NAME": text, f"NAME;{text}": "x", "PATH": f"/bin:{text}"},
        display_name=text,
        language=text,
        interrupt_mode=text,
        metadata={text: text},
    )
    variables = json.dumps({"env_vars": {text: text, "OTHER": text, f"A=1;{text}": "x"}})
    members = kernel, file("conda-meta/state", variables), file("etc/conda/env_vars.d/x.json", variables)
    fields = {"kernels": [{"name": "evil", "display_name": text, "language": text}]}
    world.publish("work", *members, prefix=world.victim.envs / "work", snapshot=fields)
    with world.unharmed("work"):
        world.victim.snapper("restore", "--all")
        _start_kernels(world)
    withstood(not list(world.top.rglob("PWNED")), "code in a kernelspec was executed by the launcher")


@variants("name", ["work", "@DEFAULT@", "x'y"], usually=("@DEFAULT@",))
def test_shell_code_in_the_settings(name: str, world: World) -> None:
    """The home and the state directory have names with shell code."""
    home = world.victim.home / f"{name}$(touch PWNED)`touch PWNED`'"
    (home / "envs").mkdir(parents=True)
    world.victim.owns(home)
    world.publish("work", prefix=home / "envs/work")
    variables = {"HOME": str(home), "CONDA_ENVS_PATH": str(home / "envs"), "CONDA_EXE": f"{home}/bin/conda"}
    world.victim.snapper("restore", "--all", **variables)
    world.victim.snapper("lifecycle", "on-start", "--store", home / "store", **variables)
    for script in home.rglob("launch.sh"):
        command = ["/bin/sh", str(script), "/dev/null"]
        world.victim.do(partial(_run, command, home, {**world.victim.variables, **variables}))
    withstood(not list(world.top.rglob("PWNED")), "code in a path was executed")
