"""A user replaces the programs of a start script, but must not control root or keep the machine from starting."""

from __future__ import annotations

import grp
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.access_lists import NO_ID, OWNING_GROUP, USER, set_access_list
from tests.support.redteam.accounts import withstood
from tests.support.redteam.start_script import SAGEMAKER_PATH, StartScript, new_start_script

SECRET = "a secret of root"
_OTHER = 64202

#: Commands that the script calls by name.
_COMMANDS = (
    "bash cat cut date dd env getent id mkdir mv readlink runuser setpriv setsid sleep sudo tee timeout tr"
)


@pytest.fixture(scope="module")
def one_script(request: pytest.FixtureRequest) -> Iterator[StartScript]:
    executable = request.config.getoption("--snapper")
    top = Path(tempfile.mkdtemp(prefix="snapper-start-", dir="/tmp"))
    try:
        top.chmod(0o755)
        python = str(Path(executable).parent / "python") if executable else sys.executable
        with new_start_script(python, top) as script:
            yield script
    finally:
        shutil.rmtree(top)


@pytest.fixture
def script(one_script: StartScript) -> StartScript:
    one_script.reset()
    return one_script


def test_type_into_the_terminal_of_root(script: StartScript) -> None:
    """A program of the user tries every way to a terminal. It succeeds if root calls it without the script."""
    if not shutil.which("perl"):
        pytest.skip("there is no perl")
    program = script.snapper(
        """#!/usr/bin/perl
        open(TERMINAL, "+<", "/dev/tty");
        for my $file (*TERMINAL, *STDIN, *STDOUT, *STDERR) {
            ioctl($file, 0x5412, $_) || last for split(//, "id\\n");  # TIOCSTI
        }
        """
    )
    script.give_home()
    if script.typed_during(["runuser", "-u", script.user, "--", str(program)]) != "id":
        pytest.skip("this system does not let programs type")
    typed = script.run_in_terminal()
    withstood(not typed, f"typed a command into root's shell: {typed}")


@pytest.mark.parametrize("kind", ["pipe", "pipe that nobody reads", "directory", "/dev/zero", "/dev/full"])
def test_log_that_is_not_a_file(kind: str, script: StartScript) -> None:
    script.snapper("echo restored")
    script.log.parent.mkdir(parents=True)
    readers = []
    if kind.startswith("pipe"):
        os.mkfifo(script.log)
    elif kind == "directory":
        script.log.mkdir()
    else:
        script.log.symlink_to(kind)
    if kind == "pipe that nobody reads":
        readers.append(os.open(script.log, os.O_RDONLY | os.O_NONBLOCK))
        script.snapper("yes restored | head -c 2000000")  # more than fits into a pipe
    try:
        output = script.run()
        withstood(b"restored" in output, "suppressed the output of the script")
    finally:
        for reader in readers:
            os.close(reader)


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_log_that_is_a_link(size: int, script: StartScript) -> None:
    """It leads to a file of root, or to one of the user that others trust."""
    target = script.home.with_name("target")
    target.write_bytes(b"x" * size)
    script.snapper("echo restored")
    script.log.parent.mkdir(parents=True)
    script.log.symlink_to(target)
    target.chmod(0o666)
    script.run()
    withstood(target.read_bytes() == b"x" * size, "wrote to the target of a link")


_WAIT = "trap '' TERM HUP INT; while :; do sleep 1; done"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".snapper/venv/bin/python", _WAIT),
        (".snapper/venv/bin/snapper", f"(yes &) ; ({_WAIT}) & kill -STOP $PPID $$"),
    ],
    ids=["python", "snapper"],
)
def test_program_that_does_not_end(path: str, text: str, script: StartScript) -> None:
    """It ignores signals, stops itself and its parent, or has a child that writes without end."""
    if "snapper" in path:
        script.snapper("")
    script.program(path, text)
    script.run(budget=2)
    deadline = time.monotonic() + 60
    while script.processes():  # they may not have noticed yet that they were killed
        withstood(
            time.monotonic() < deadline, "left processes behind, which had not left their process group"
        )
        time.sleep(0.01)


def test_child_that_keeps_the_output_open(script: StartScript) -> None:
    """It has a session of its own and outlives the script."""
    script.snapper(f"setsid sh -c {shlex.quote(_WAIT)} & echo restored")
    output = script.run()
    withstood(
        b"restored" in output and "finished" in script.log.read_text(),
        "suppressed what the script says",
    )
    assert script.processes()


def test_endless_output(script: StartScript) -> None:
    """The user writes much, in one line, with everything that a terminal interprets."""
    script.snapper(
        r"printf '\033]0;title\007\233\0\r'; head -c 50000000 /dev/zero | tr '\0' '\233'; echo; yes"
    )
    output = script.run(budget=2)
    lines = output.splitlines()
    withstood(len(lines) < 2010 and max(map(len, lines)) < 1010, f"printed {len(output):,} bytes")
    raw = sorted(set(re.sub(rb"[\t\n -~]", b"", output)))
    withstood(not raw, f"printed {bytes(raw)!r}")
    withstood(script.log.stat().st_size < 5_000_000, "filled the disk with the log")


def test_secrets_of_root(script: StartScript, tmp_path: Path) -> None:
    """The user looks for secrets in variables, functions, descriptors, and what other processes show."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with secret.open() as file:
        descriptor = file.fileno()
        os.set_inheritable(descriptor, True)
        look = f"env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; cat <&{descriptor}"
        script.snapper(f"#!/bin/bash\ncd; {{ {look}; }} >seen 2>/dev/null")
        secrets = {"TOKEN": SECRET, "BASH_FUNC_token%%": f"() {{ echo '{SECRET}'; }}"}
        script.run(inherited=[descriptor], variables=secrets)
    seen = (script.home / "seen").read_bytes()
    withstood(SECRET.encode() not in seen, f"learned {SECRET}")


def test_credentials_among_what_the_user_needs(script: StartScript) -> None:
    """What says where the AWS role and the network are is passed on, but not as arguments, nor with credentials."""
    needed = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/it's $(id) \n2",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/secrets/token",
        "AWS_CA_BUNDLE": "/etc/ca.pem",
        "AWS_ENDPOINT_URL_S3": "https://minio.example",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "no_proxy": "localhost,169.254.170.23",
    }
    credentials = {
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SECRET,
        "AWS_ENDPOINT_URL": f"https://me:{SECRET}@minio.example",
        "http_proxy": f"http://me:{SECRET}@proxy.example:3128",
    }
    script.snapper("cd; env -0 >variables; cat /proc/[0-9]*/cmdline >arguments")
    output = script.run(variables={**needed, **credentials})
    given = (script.home / "variables").read_bytes()
    lacking = [name for name in needed if f"{name}={needed[name]}".encode() not in given.split(b"\0")]
    withstood(not lacking, f"kept {lacking} from the user")
    withstood(SECRET.encode() not in given + output, f"passed on {SECRET}")
    for name in ("AWS_ENDPOINT_URL", "http_proxy"):
        withstood(
            f"{name} is not passed on to".encode() in output, f"did not say that {name} is not passed on"
        )
    withstood(b"/v2/credentials" not in (script.home / "arguments").read_bytes(), "showed a URI to all users")


@pytest.mark.parametrize("switch", ["setpriv", "runuser"])
def test_privileges_of_root(switch: str, script: StartScript) -> None:
    """Programs of the user have what they would have if the user had logged in."""
    script.snapper(
        """cd
        env -0 >variables
        ls -l /proc/self/fd >descriptors
        (umask; id -u; id -G; cat /proc/self/stat) >state
        grep '^Cap' /proc/self/status >capabilities"""
    )
    variables = {
        "IFS": "/",
        "BASH_ENV": "/nowhere",
        "PYTHONPATH": "/root",
        "LD_LIBRARY_PATH": "/root",
        "HOME": "/root",
    }
    if switch == "runuser":
        script = replace(script, text=script.text.replace("command -v setpriv", "false"))
    script.run(variables={**variables, "AWS_REGION": "eu-west-1"})
    given = dict(
        entry.split("=", 1) for entry in (script.home / "variables").read_text().split("\0") if entry
    )
    own = {"HOME": str(script.home), "USER": script.user, "LOGNAME": script.user, "LANG": "C.UTF-8"}
    withstood(own.items() <= given.items(), "changed variables of the user")
    extra = given.keys() - own.keys() - {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "AWS_REGION"}
    withstood(not extra, f"received {sorted(extra)}")
    withstood(all(name.startswith("/") for name in given["PATH"].split(":")), f"has PATH={given['PATH']}")
    descriptors = re.findall(r"(\d+) -> (\S+)", (script.home / "descriptors").read_text())
    opened = [
        target
        for _, target in descriptors
        if not target.startswith(("pipe:", str(script.home)[:4], "/proc/"))
    ]
    withstood(opened == ["/dev/null"], f"has {descriptors}")
    umask, uid, groups, stat = (script.home / "state").read_text().splitlines()
    withstood(umask == "0022", f"has umask {umask}")
    withstood(int(uid) == script.uid, f"runs as {uid}")
    own_groups = {
        script.home.stat().st_gid,
        *(group.gr_gid for group in grp.getgrall() if script.user in group.gr_mem),
    }
    withstood(set(map(int, groups.split())) == own_groups, f"is in the groups {groups}")
    withstood(stat.split()[6] == "0", "has a terminal")
    capabilities = (script.home / "capabilities").read_text()
    withstood(
        not re.search(r"Cap(Prm|Eff|Amb):\s*0*[1-9a-f]", capabilities), f"has capabilities: {capabilities}"
    )


@pytest.mark.parametrize("path", [SAGEMAKER_PATH, "{home}/bin:/usr/bin:/bin"], ids=["relative", "home"])
def test_commands_in_a_path_that_the_user_can_write(path: str, script: StartScript) -> None:
    """A directory in PATH is relative, as on notebook instances, or belongs to the user, as in docker-stacks images."""
    who = script.home / "who"
    for name in _COMMANDS.split():
        script.program(f"bin/{name}", f'/usr/bin/id -u >>{shlex.quote(str(who))}\nexec /usr/bin/{name} "$@"')
    script.snapper("id >>who")
    script.run(cwd=script.home, variables={"PATH": path.format(home=script.home)})
    ran_by = set(who.read_text().split()) if who.exists() else set()
    withstood("0" not in ran_by, "made root run a program of the user")


@pytest.mark.parametrize("control", ["owner", "group", "access list", "nobody"])
def test_installation_that_others_control(control: str, script: StartScript) -> None:
    """On a shared volume, another user has created snapper's directory, or moved one of the user's there."""
    script.program(".snapper/venv/bin/python", "cd; id -u >>ran")
    script.snapper("cd; id -u >>ran")
    volume = script.home.with_name("volume")
    script.base.rename(volume)
    script.base.symlink_to(volume)
    owner = _OTHER if control == "owner" else script.uid
    group = script.home.stat().st_gid if control in ("access list", "nobody") else _OTHER
    for path in (volume, *volume.rglob("*")):
        os.chown(path, owner, group)
        path.chmod(0o775)
    if control == "access list":
        set_access_list(volume / "venv/bin", (USER, _OTHER, 0o7), (OWNING_GROUP, NO_ID, 0o5))
    output = script.run(budget=8)
    shutil.rmtree(volume)
    if control == "nobody":
        assert b"others control" not in output
        return
    volume = volume / "venv/bin" if control == "access list" else volume
    assert f"{script.base} is not used, because others control {volume}".encode() in output
    withstood(not (script.home / "ran").exists(), "ran a program that others can replace")
