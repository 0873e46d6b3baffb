"""Lifecycle scripts, run the way that machines run them when they are created and when they start."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.maker import make
from snapper.cli.app import run
from snapper.cli.home import set_home
from snapper.commands.lifecycle import MAX_BASE64_LENGTH, PLATFORMS, LifecycleOptions, render_script
from tests.conftest import Machine, tree_of
from tests.support.commands import wait_until
from tests.support.disk import Disk
from tests.support.environments import make_data
from tests.support.kernelspecs import add_kernel
from tests.support.processes import forking

REPOSITORY = Path(__file__).parents[1]

#: Commands whose scripts are tested as users would keep them: every platform, both events, and the usual options.
COMMANDS = (
    "snapper lifecycle on-create --platform notebook-instance",
    "snapper lifecycle on-start --platform notebook-instance",
    "snapper lifecycle on-start --platform notebook-instance --store s3://BUCKET/snapper --only 'team-*'",
    "snapper lifecycle on-start --platform notebook-instance --store s3://BUCKET/snapper"
    " --wheelhouse s3://BUCKET/wheels",
    "snapper lifecycle on-start --platform studio",
    "snapper lifecycle on-start --platform ec2-user-data --store s3://BUCKET/snapper",
    "snapper lifecycle on-start --platform jupyterhub --store /shared/snapper",
)

#: The script that is kept in the repository, as an example to read.
EXAMPLE = REPOSITORY / "scripts" / "lifecycle" / "notebook-instance-on-start.sh"


def render(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the script that the command prints."""
    program, *arguments = shlex.split(command)
    assert program == "snapper"
    assert run(arguments) == 0
    return capsys.readouterr().out


def made_by(text: str) -> str:
    """Return the command that a script says it was made by."""
    (line,) = [line for line in text.splitlines() if line.startswith("# Made by: ")]
    return line.removeprefix("# Made by: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_script_names_the_command_that_prints_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = render(command, capsys)
    assert made_by(text) == command
    assert render(made_by(text), capsys) == text


def test_example_in_the_repository_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    text = EXAMPLE.read_text()
    command = made_by(text)
    assert command in COMMANDS
    assert render(command, capsys) == text, f"run: {command} > {EXAMPLE.relative_to(REPOSITORY)}"


def test_every_platform_is_tested() -> None:
    arguments = [shlex.split(command) for command in COMMANDS]
    assert {words[words.index("--platform") + 1] for words in arguments} == {*PLATFORMS}


@pytest.mark.parametrize("command", COMMANDS)
def test_script_passes_shellcheck(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No message of shellcheck is accepted, not even about style."""
    file = tmp_path / "script.sh"
    file.write_text(render(command, capsys))
    done = subprocess.run(["shellcheck", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_any_options_give_a_valid_script(tmp_path: Path) -> None:
    """Values are quoted, and the script has Unix line endings, is short enough, and passes shellcheck."""
    files = []
    for platform in PLATFORMS:
        for event in ("on-create", "on-start"):
            settings = {"store": "s3://b/it's $(touch /x)", "only": "a*,@MAIN@"}
            options = LifecycleOptions(
                event, platform, settings, 100, "me", "snapper @ git+x", "/a b", "made"
            )
            text = render_script(options)
            for value in settings.values():
                assert f"={shlex.quote(value)}\n" in text or f"={shlex.quote(value)})" in text
            assert "\r" not in text
            assert len(text) < MAX_BASE64_LENGTH * 3 // 4
            files.append(tmp_path / f"{platform}-{event}.sh")
            files[-1].write_text(text)
    command = ["shellcheck", "--severity=warning", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--store", "/a\nreboot", "'/a\\nreboot' contains a line break or another unprintable character"),
        ("--wheelhouse", "/a\rb", "'/a\\rb' contains a line break or another unprintable character"),
        ("--only", "\x1b[2J", "'\\x1b[2J' contains a line break or another unprintable character"),
        ("--requirement", "\udcff", "'\\udcff' contains a line break or another unprintable character"),
        ("--store", "s3://b/p?endpoint_url=http://a:b@h", "the setting store contains credentials"),
        ("--store", "s3://b/p?aws_secret_access_key=k", "the setting store contains credentials"),
        ("--user", "-u root", "invalid user name: -u root"),
        ("--user", "root:x", "invalid user name: root:x"),
        ("--budget", "291", "the time limit of 291 s is too long for a SageMaker notebook instance"),
    ],
)
def test_values_that_would_break_the_script_are_refused(
    option: str, value: str, message: str, machine: Machine
) -> None:
    command = ("lifecycle", "on-start", "--platform", "notebook-instance", option, value)
    assert machine.expect_error(2, *command)["message"] == message


@pytest.fixture
def functions(tmp_path: Path) -> Callable[..., str]:
    """Run code with the functions of a script, for a user whose PATH has only what they need; return the output."""
    text = render_script(LifecycleOptions("on-start", "ec2-user-data"))
    definitions = "\n".join(re.findall(r"(?m)^\w+\(\) \{(?: .* \}$|\n(?:.*\n)*?\}$)", text))
    for name in ("date", "readlink", "timeout"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")

    def call(code: str, path: str = "") -> str:
        bash = shutil.which("bash") or ""
        done = subprocess.run(
            [bash, "-c", f"{definitions}\nbudget=60 venv=$HOME/.snapper/venv; {code}"],
            env={"HOME": str(tmp_path), "PATH": f"{path}:{tmp_path}/bin".lstrip(":")},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return call


_NOT_USED = "is not used, because it is in an environment that snapper has packed or restored"


def python_in(prefix: Path) -> Path:
    """Make an environment with a program that says that it was run."""
    for directory in ("bin", "conda-meta"):
        (prefix / directory).mkdir(parents=True)
    program = prefix / "bin/python3"
    program.write_text('#!/bin/sh\n: >"${0%/*}/ran"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    "links", [{}, {"linked": "anaconda3"}, {"linked/bin/python3": "anaconda3/bin/python3"}]
)
def test_python_of_a_restored_environment_is_not_run(
    links: dict[str, str], functions: Callable[..., str], tmp_path: Path
) -> None:
    """It would be run before anybody starts a program of the environment; one that is not from a store is used."""
    program = python_in(tmp_path / "anaconda3")
    for name, target in links.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / target)
    path = str(tmp_path / "linked/bin") if links else ""
    found = tmp_path / "linked/bin/python3" if links else program
    assert functions('find_python; echo "$python"', path) == f"{found}\n"
    assert (found.parent / "ran").exists()
    (program.parent / "ran").unlink(missing_ok=True)
    (tmp_path / "anaconda3/.snapper").mkdir()
    output = functions("own_path=$PATH; use_own_path; find_python || echo none", path)
    assert output.endswith("none\n")
    assert f"{program} {_NOT_USED}" in output
    assert f"{found} {_NOT_USED}" in output or f"{found.parent} {_NOT_USED}" in output
    assert not (program.parent / "ran").exists()
    inner = python_in(tmp_path / "anaconda3/envs/python3")
    (tmp_path / "envs/.snapper").mkdir(parents=True)
    called_envs = python_in(tmp_path / "envs")
    assert f"{called_envs} {_NOT_USED}" in functions("find_python || echo none", str(called_envs.parent))
    assert functions('find_python >/dev/null; echo "$python"') == f"{inner}\n"


def test_snapper_that_was_installed_with_the_python_of_a_restored_environment_is_not_run(
    functions: Callable[..., str], tmp_path: Path
) -> None:
    program = python_in(tmp_path / "anaconda3")
    link = tmp_path / ".snapper/venv/bin/python"
    link.parent.mkdir(parents=True)
    (link.parent / "python3").symlink_to(program)
    link.symlink_to("python3")
    assert functions("is_installed && echo installed") == "installed\n"
    (tmp_path / "anaconda3/.snapper").mkdir()
    for target in ("", "/bin/true", "python3.12"):
        if target:
            program.unlink()
            program.symlink_to(target)
        (line,) = functions("is_installed && echo installed").splitlines()
        assert line.endswith(f"{link} {_NOT_USED}")


def test_missing_and_unknown_events_are_refused(machine: Machine) -> None:
    missing, misspelt = machine.expect_error(2, "lifecycle"), machine.expect_error(2, "lifecycle", "on-strat")
    assert missing["message"] == "missing argument 'EVENT'. Choose from: on-create, on-start"
    assert (
        misspelt["message"] == "invalid value for 'EVENT': 'on-strat' is not one of 'on-create', 'on-start'"
    )


def test_script_that_is_too_long_is_refused(machine: Machine) -> None:
    patterns = [word for number in range(3000) for word in ("--only", f"name{number}")]
    error = machine.expect_error(2, "lifecycle", "on-start", *patterns)
    assert "16,384" in error["message"]


# --- run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """A notebook instance: the home of a user, who is not root where the tests may create users."""

    home: Path
    user: str

    @property
    def envs(self) -> Path:
        return self.home / "anaconda3" / "envs"

    @property
    def log(self) -> str:
        return (self.home / "SageMaker/.snapper/log/on-start.log").read_text()

    def script(self, *options: str) -> Path:
        """Write the on-start script."""
        file = self.home / "on-start.sh"
        command = [sys.executable, "-m", "snapper", "lifecycle", "on-start", "--user", self.user, *options]
        file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return file

    def start(self, *options: str) -> str:
        """Run the on-start script as SageMaker does, and return its output."""
        file = self.script(*options)
        own = [] if os.geteuid() == 0 else [f"HOME={self.home}"]
        done = subprocess.run(
            ["env", "-i", *own, "PATH=/sbin:/bin:/usr/sbin:/usr/bin", "bash", file],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def as_user(self, *command: object) -> str:
        words = [*map(str, command)]
        if os.geteuid() == 0:
            words = [
                "runuser",
                "-u",
                self.user,
                "--",
                "env",
                "-i",
                f"HOME={self.home}",
                "PATH=/usr/bin:/bin",
                *words,
            ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def another_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A user with a home directory: created for the tests if root runs them, else the current user."""
    home = Path(tempfile.mkdtemp(prefix="snapper-home-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    if os.geteuid() != 0:
        yield pwd.getpwuid(os.geteuid()).pw_name, home
        shutil.rmtree(home, ignore_errors=True)
        return
    if not shutil.which("useradd") or not shutil.which("runuser"):
        pytest.skip("root needs useradd and runuser to run commands as another user")
    user = f"snapper-{secrets.token_hex(4)}"
    made = subprocess.run(
        ["useradd", "-M", "-d", str(home), "-s", "/bin/bash", user],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot create a user: {made.stderr.strip()}")
    try:
        home.chmod(0o755)
        yield user, home
    finally:
        subprocess.run(["userdel", user], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def volume(another_user: tuple[str, Path]) -> Path:
    """The user's home, with a volume on which snapper is installed, and a store with two environments."""
    user, home = another_user
    own = home / "SageMaker" / ".snapper"
    machine = Machine(home, home / "anaconda3" / "envs", own)
    machine.envs.mkdir(parents=True)
    python = machine.envs / "python3"
    make("tiny", python, copy=True, bytecode=False)
    venv = own / "venv"
    subprocess.run([python / "bin/python3", "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    (packages / "snapper.pth").write_text("\n".join([str(REPOSITORY), *site.getsitepackages()]) + "\n")
    program = venv / "bin" / "snapper"
    program.write_text(f"#!{venv}/bin/python\nfrom snapper.cli.main import main\nmain()\n")
    program.chmod(0o755)

    machine.run_json("pack", "-p", python, "--name", "work")
    data = make_data(machine.envs / "data")
    add_kernel(
        data, "text", argv=["/bin/echo", "started", "{connection_file}"], display_name="T", language="t"
    )
    machine.run_json("pack", "data")
    shutil.rmtree(data)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", user, str(home)], check=True)
        command = ["runuser", "-u", user, "--", str(venv / "bin/python"), "-c", "import snapper.cli.app"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            pytest.skip(f"another user cannot read snapper's installation: {done.stderr.splitlines()[-1]}")
    return home


@pytest.fixture
def instance(volume: Path, another_user: tuple[str, Path]) -> Iterator[Instance]:
    """An instance that has just been stopped: what is not on the volume is lost or reset."""
    instance = Instance(volume, another_user[0])

    def stop() -> None:
        state = instance.envs / "python3" / ".snapper"
        for path in (
            state,
            instance.envs / "work",
            instance.envs / "data",
            volume / ".local",
            volume / ".conda",
        ):
            shutil.rmtree(path, ignore_errors=True)
        (volume / "SageMaker/.snapper/config.toml").unlink(missing_ok=True)

    stop()
    yield instance
    stop()


def launch(instance: Instance, name: str, *arguments: str) -> str:
    return instance.as_user(
        "/bin/sh", instance.home / ".local/share/jupyter/kernels" / name / "launch.sh", *arguments
    )


def test_on_start_restores_environments_with_kernels(instance: Instance) -> None:
    """A second start changes nothing, and reads no layers, which is what takes time."""
    output = instance.start()
    assert "2 restored, 0 already in place, 0 failed; 2 kernels" in output
    assert "2 restored, 0 already in place, 0 failed; 2 kernels" in instance.log
    owners = {
        path.owner() for top in (instance.envs / "work", instance.envs / "data") for path in top.rglob("*")
    }
    assert owners == {instance.user}
    assert launch(instance, "data-text", "/connection.json") == "started /connection.json\n"
    assert "IPKernelApp" in launch(instance, "work-python3", "/connection.json", "--", "--help")
    assert instance.as_user(instance.envs / "work/bin/python", "-c", "import ipykernel; print(1)") == "1\n"
    assert (instance.home / ".conda/environments.txt").read_text().splitlines() == sorted(
        [f"{instance.envs}/data", f"{instance.envs}/work"]
    )

    before = [tree_of(top) for top in (instance.envs / "data", instance.home / ".local")]
    layers = instance.home / "SageMaker/.snapper/layers"
    layers.rename(layers.with_name("away"))
    try:
        output = instance.start()
    finally:
        layers.with_name("away").rename(layers)
    assert "0 restored, 2 already in place, 0 failed" in output
    assert [tree_of(top) for top in (instance.envs / "data", instance.home / ".local")] == before


def test_programs_of_a_restored_environment_in_the_path_of_the_user_are_not_run(instance: Instance) -> None:
    """A base environment is first in PATH after `conda init`."""
    team = instance.home / "team"
    for directory in ("bin", "conda-meta", ".snapper"):
        (team / directory).mkdir(parents=True)
    for name in (
        "bash",
        "cat",
        "date",
        "dd",
        "env",
        "mkdir",
        "readlink",
        "setsid",
        "sleep",
        "tee",
        "timeout",
        "wc",
    ):
        program = team / "bin" / name
        program.write_text(f'#!/bin/sh\n: >"$0.ran"\nexec /usr/bin/{name} "$@"\n')
        program.chmod(0o755)
    (team / "bin").chmod(0o777)  # each user may leave a sign here
    try:
        output = instance.as_user("/usr/bin/env", f"PATH={team}/bin", "/bin/bash", instance.script())
        assert "2 restored, 0 already in place, 0 failed" in output
        assert f"{team}/bin {_NOT_USED}" in output
        assert not list((team / "bin").glob("*.ran"))
    finally:
        shutil.rmtree(team)


def test_link_to_snapper_is_in_the_path_of_the_user_only(instance: Instance) -> None:
    """Otherwise root would run a program that the user can write."""
    instance.start()
    link = instance.home / ".local/bin/snapper"
    assert link.readlink() == instance.home / "SageMaker/.snapper/venv/bin/snapper"
    assert pwd.getpwuid(link.lstat().st_uid).pw_name == instance.user
    assert not Path(os.path.realpath("/usr/local/bin/snapper")).is_relative_to(instance.home)


def test_on_start_reports_a_missing_store(instance: Instance) -> None:
    output = instance.start("--store", f"{instance.home}/nowhere")
    for text in (output, instance.log):
        assert f"there is no store at {instance.home}/nowhere" in text
        assert "on-start finished with exit code 13" in text


def test_on_start_reports_full_disks(instance: Instance, tmp_path: Path) -> None:
    """The disks of the environments and of the log are full; the errors are still printed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    small, logs = Disk(instance.home / "small"), Disk(instance.home / "SageMaker/.snapper/log")
    shutil.rmtree(logs.path, ignore_errors=True)
    try:
        small.mount(1024 * 1024)
        logs.mount(4096)
        small.path.chmod(0o777)
        logs.path.chmod(0o777)
        logs.fill()
        output = instance.start("--envs-dir", str(small.path), "--first", "work")
        assert f"not enough space at {small.path}" in output
        assert "on-start finished with exit code 1" in output
    finally:
        for disk in (small, logs):
            subprocess.run(["umount", "-l", str(disk.path)], capture_output=True, check=False)
            shutil.rmtree(disk.path, ignore_errors=True)


def test_settings_of_the_script_apply_in_terminals(instance: Instance, tmp_path: Path) -> None:
    """They also apply if snapper is already installed. Otherwise, packs would go to the wrong store."""
    store = instance.home / "team store"
    output = instance.start("--store", str(store), "--only", "team-*")
    assert "Traceback" not in output
    program = instance.home / "SageMaker/.snapper/venv/bin/snapper"
    assert instance.as_user(program, "config", "get", "store").strip() == str(store)
    assert "team-*" in instance.as_user(program, "config", "get", "only")


@pytest.mark.parametrize("options", ["set +e", "set -eu -o pipefail"])
def test_shell_that_sources_the_script_continues(options: str, tmp_path: Path) -> None:
    """Docker-stacks sources its hooks from the script that then starts Jupyter."""
    text = render_script(
        LifecycleOptions("on-start", "jupyterhub", {"store": "/nowhere"}, 10, requirement="nothing")
    )
    (tmp_path / "hook.sh").write_text(text)
    fake = tmp_path / "bin"
    fake.mkdir()
    own = f"{fake}:/usr/bin:/bin"
    command = f'{options}; PATH={own}; source {tmp_path}/hook.sh; test "$PATH" = {own} && echo continued'
    done = subprocess.run(
        ["env", "-i", f"HOME={tmp_path}", "bash", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("continued\n"), done


#: Takes the place of Python and AWS's client: writes down its arguments, and "installs" itself.
_STUB = """#!/bin/sh
{ basename "$0"; printf '<%s>' "$@"; echo; } >>"$HOME/calls"
case "$*" in
*import\\ snapper) exec test -e "$HOME/.snapper/venv/bin/snapper" ;;
*-m\\ venv*) mkdir -p "$HOME/.snapper/venv/bin" && cp "$0" "$HOME/.snapper/venv/bin/python" ;;
*-m\\ pip*) cp "$0" "$HOME/.snapper/venv/bin/snapper" ;;
restore*) echo "restored with $TOKEN" ;;
esac
"""


def test_user_who_is_not_root_runs_the_script(another_user: tuple[str, Path]) -> None:
    """In Studio, and in most containers, they do. The script keeps their variables, and installs snapper once."""
    user, top = another_user
    home = top / "a home"
    for name in ("python3", "aws"):
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin" / name).write_text(_STUB)
        (home / "bin" / name).chmod(0o755)
    options = LifecycleOptions(
        "on-start", "studio", requirement="conda-snapper == 1", wheelhouse="s3://b/it's $HOME"
    )
    (home / "on-start.sh").write_text(render_script(options))
    variables = [f"HOME={home}", f"PATH={home}/bin:/usr/bin:/bin", "TOKEN=a token of the user"]
    command = ["env", "-i", *variables, "/bin/bash", str(home / "on-start.sh")]
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", user, str(home)], check=True)
        command = ["runuser", "-u", user, "--", *command]
    outputs = [
        subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=True).stdout
        for _ in range(2)
    ]
    own, log = home / ".snapper", (home / ".snapper/log/on-start.log").read_text()
    assert log == "".join(outputs)
    assert log.count("installing conda-snapper == 1 with") == log.count("snapper is installed") == 1
    assert log.count("restored with a token of the user") == log.count("finished with exit code 0") == 2
    calls = (home / "calls").read_text()
    assert f"aws\n<s3><sync><--only-show-errors><s3://b/it's $HOME><{own}/wheelhouse>\n" in calls
    assert f"<--find-links={own}/wheelhouse><--no-index><--><conda-snapper == 1>\n" in calls
    assert calls.count("<-m><venv><--clear>") == 1
    assert "snapper\n<restore><--all><--budget>" in calls


def test_home_of_root_is_not_used_for_the_user(another_user: tuple[str, Path], home_of_other: Path) -> None:
    """It is in HOME if root runs the script as the user with runuser, for example."""
    user, home = another_user
    Hub(user, home).make_home(pwd.getpwnam(user).pw_uid)
    script = home / "on-start.sh"
    script.write_text(render_script(LifecycleOptions("on-start", "ec2-user-data", budget=20)))
    for directory in ("/root", str(home_of_other)):
        command = ["runuser", "-u", user, "--", "env", "-i", f"HOME={directory}", "/bin/bash", str(script)]
        subprocess.run(command, cwd="/", check=True, capture_output=True, timeout=30)
        assert (home / "ran").read_text().endswith(f" {home}\n")
        (home / "ran").unlink()
    shutil.rmtree(home / ".snapper")


# --- users of containers ----------------------------------------------------------------------------------

#: Takes the place of snapper: writes down who runs it, and where home is.
_WHO = '#!/bin/sh\ncase $1 in restore) echo "$(id -u):$(id -g) $HOME" >"$HOME/ran" ;; esac\n'


@dataclass
class Hub:
    """A container that starts a hook as root; its user `name` has `home` and is created when `make_user` is called."""

    name: str
    home: Path

    def make_home(self, uid: int) -> None:
        programs = self.home / ".snapper/venv/bin"
        programs.mkdir(parents=True)
        for program in ("python", "snapper"):
            (programs / program).write_text(_WHO)
            (programs / program).chmod(0o755)
        subprocess.run(["chown", "-R", f"{uid}:100", self.home], check=True)

    def make_user(self, uid: int) -> None:
        command = ["useradd", "-M", "-d", str(self.home), "-u", str(uid), "-g", "100", self.name]
        subprocess.run(command, check=True, capture_output=True)

    def run_hook(self, **variables: str) -> str:
        """Run the hook as docker-stacks does, and return what it prints."""
        text = render_script(LifecycleOptions("on-start", "jupyterhub", budget=60))
        environment = [f"{name}={value}" for name, value in variables.items()]
        done = subprocess.run(
            ["env", "-i", "HOME=/home/jovyan", "PATH=/usr/bin:/bin", *environment, "bash", "-c", text],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def ran(self) -> str:
        """Return who has run snapper, and where home was, once it has been run."""
        file = self.home / "ran"
        wait_until(lambda: file.exists() and bool(file.read_text()), seconds=30)
        return file.read_text()


@pytest.fixture
def hub() -> Iterator[Hub]:
    if os.geteuid() != 0 or not shutil.which("useradd") or not shutil.which("setpriv"):
        pytest.skip("only root can run hooks as another user, with useradd and setpriv")
    name = f"snapper-{secrets.token_hex(4)}"
    hub = Hub(name, Path("/home") / name)
    yield hub
    # Processes of the script may take a moment to end.
    subprocess.run(["userdel", "--force", name], check=False, capture_output=True)
    shutil.rmtree(hub.home, ignore_errors=True)


def test_hook_restores_the_environments_of_the_user_that_the_container_names(hub: Hub) -> None:
    hub.make_home(54330)
    hub.make_user(54330)
    output = hub.run_hook(NB_USER=hub.name, NB_UID="54330", NB_GID="100")
    assert "on-start finished with exit code 0" in output
    assert hub.ran() == f"54330:100 {hub.home}\n"


def test_hook_waits_in_the_background_for_a_user_who_is_created_after_it(hub: Hub) -> None:
    output = hub.run_hook(NB_USER=hub.name)
    assert (
        f"user {hub.name}, or the home directory, does not exist yet: this continues in the background"
        in output
    )
    hub.make_user(54331)
    hub.make_home(54331)
    assert hub.ran() == f"54331:100 {hub.home}\n"


def test_hook_waits_in_the_background_until_the_user_has_the_id(hub: Hub) -> None:
    """docker-stacks gives `jovyan` the id that is wanted, and perhaps the home directory."""
    hub.make_home(54332)
    hub.make_user(54332)
    assert "continues in the background" in hub.run_hook(NB_USER=hub.name, NB_UID="54333", NB_GID="100")
    subprocess.run(["usermod", "-u", "54333", hub.name], check=True, capture_output=True)
    assert hub.ran() == f"54333:100 {hub.home}\n"


def test_hook_restores_the_environments_of_a_user_without_a_name(hub: Hub) -> None:
    hub.make_home(54334)
    assert "exit code 0" in hub.run_hook(NB_USER=hub.name, NB_UID="54334")
    assert hub.ran() == f"54334:100 {hub.home}\n"


# --- home directories -------------------------------------------------------------------------------------


@pytest.fixture
def home_of_other() -> Iterator[Path]:
    """The home directory of a user other than those of the tests, which everyone can enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can be other users")
    with tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as home:
        os.chown(home, 54322, -1)
        os.chmod(home, 0o755)
        yield Path(home)


@pytest.mark.parametrize(
    ("home", "used", "warning"),
    [
        ("{own}", "{own}", ""),
        ("{own}/new", "{own}/new", ""),
        ("/tmp", "/tmp", ""),
        ("{other}", "{own}", "belongs to another user"),
        ("/", "{own}", "belongs to another user"),
        ("/proc/1/cwd/x", "{own}", "cannot be used as a directory"),
        ("/dev/null", "{own}", "cannot be used as a directory"),
        ("/nonexistent/x", "{own}", "does not exist"),
        ("relative", "{own}", ""),
        ("", "{own}", ""),
        (None, "{own}", ""),
    ],
)
def test_home_of_the_account_is_used_if_that_in_the_environment_cannot_be(
    another_user: tuple[str, Path],
    home_of_other: Path,
    capfd: pytest.CaptureFixture[str],
    home: str | None,
    used: str,
    warning: str,
) -> None:
    """After sudo without -H, for example."""
    user, own = another_user
    uid = pwd.getpwnam(user).pw_uid
    os.chown(own, uid, -1)
    homes = {"own": str(own), "other": str(home_of_other)}
    assert home_as(uid, home and home.format(**homes)) == used.format(**homes)
    told = capfd.readouterr().err
    assert warning in told if warning else not told


@pytest.mark.parametrize(
    ("home", "used"), [("{other}", "{other}"), ("/dev/null", "/"), ("x", "/"), (None, "/")]
)
def test_users_without_a_name_use_the_home_of_another(
    home_of_other: Path, home: str | None, used: str
) -> None:
    """Containers can have any user id: the image's own user owns HOME then."""
    homes = {"other": str(home_of_other)}
    assert home_as(54321, home and home.format(**homes)) == used.format(**homes)


def home_as(uid: int, home: str | None) -> str:
    """Return which home directory a user's command uses if HOME is this."""
    answers = forking.SimpleQueue()

    def act() -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        os.environ.pop("HOME", None)
        if home is not None:
            os.environ["HOME"] = home
        set_home()
        answers.put(os.environ["HOME"])

    process = forking.Process(target=act)
    process.start()
    process.join(20)
    return str(answers.get())
