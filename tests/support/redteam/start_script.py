"""An on-start script, which root runs, and a user who can replace everything that it runs."""

from __future__ import annotations

import os
import pty
import pwd
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.redteam.accounts import withstood

#: Seconds that a script may take on a busy machine; far less than its usual time limit.
_PATIENCE = 60

#: PATH as SageMaker sets it: one directory is relative.
SAGEMAKER_PATH = "/sbin:bin:/usr/sbin:/usr/bin"


@dataclass(frozen=True)
class StartScript:
    """The text of a script for a user who exists for it only, their uid and home."""

    text: str
    user: str
    uid: int
    home: Path

    @property
    def base(self) -> Path:
        """snapper's directory in the home."""
        return self.home / ".snapper"

    @property
    def log(self) -> Path:
        return self.base / "log" / "on-start.log"

    def program(self, path: str, text: str) -> Path:
        """Create an executable shell script of the user, at a path below the home."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    def snapper(self, text: str) -> Path:
        """Let a shell script take the place of the installed snapper."""
        self.program(".snapper/venv/bin/python", "exit 0")
        return self.program(".snapper/venv/bin/snapper", text)

    def run(
        self,
        budget: int = 600,
        *,
        cwd: Path = Path("/"),
        inherited: Sequence[int] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """Run the script as root with that time limit, and return its output.

        Raise AttackSucceeded if it is made to wait, or fails.
        """
        file = self._file(budget)
        with open("/dev/zero", "rb") as own_input:
            process = subprocess.Popen(
                ["/bin/bash", file],
                env={"PATH": SAGEMAKER_PATH, **variables},
                cwd=cwd,
                stdin=own_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                umask=0,
                start_new_session=True,
            )
        try:
            output, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
            withstood(False, f"the script did not end within {_PATIENCE} s; its time limit is {budget} s")
        withstood(process.returncode == 0, f"the script exited with code {process.returncode}")
        return output

    def run_in_terminal(self) -> str:
        """Run the script in a shell of root that has a terminal; return the line that was typed there by then."""
        return self.typed_during(["/bin/bash", str(self._file(20))])

    def typed_during(self, command: Sequence[str]) -> str:
        """Run a command in a shell of root that has a terminal; return the line that was typed there by then."""
        shell = '"$@"; IFS= read -r -t 0.2 typed; echo "typed: <$typed>"'
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", "/bin/bash", "-c", shell, "shell", *command],
            cwd="/",
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        shown = b""
        with open(controller, "rb", buffering=0) as screen, suppress(OSError):  # EIO at the end
            while data := screen.read(4096):
                shown += data
        process.wait(_PATIENCE)
        (typed,) = re.findall(r"typed: <(.*)>", shown.decode())
        return str(typed)

    def processes(self) -> list[int]:
        """Return the processes of the user that run."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if directory.stat().st_uid == self.uid and (directory / "cmdline").read_bytes():
                    found.append(int(directory.name))
        return found

    def reset(self) -> None:
        """Empty the home, and end what the user runs."""
        while pids := self.processes():
            for pid in pids:
                _kill_as(self.uid, pid)
        for path in self.home.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def give_home(self) -> None:
        """Let the user own everything in the home."""
        subprocess.run(["chown", "-hR", f"{self.user}:", str(self.home)], check=True)

    def _file(self, budget: int) -> Path:
        self.give_home()
        file = self.home.with_name("on-start.sh")
        file.write_text(re.sub(r"(?m)^budget=\d+", f"budget={budget}", self.text))
        return file


def _kill_as(uid: int, pid: int) -> None:
    """Kill a process with the permissions of that user, so that it cannot be one of anybody else."""
    assert uid != 0
    kill = f"import os; os.setuid({uid}); os.kill({pid}, 9)"
    subprocess.run([sys.executable, "-I", "-c", kill], capture_output=True, check=False)


@contextmanager
def new_start_script(python: str, top: Path) -> Iterator[StartScript]:
    """Create a user with a home below `top`, and the script that the snapper of that interpreter prints for them.

    The path of the home would have effects if a shell read it as code. Skip the test if users cannot be created.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can create users")
    if not shutil.which("useradd") or not shutil.which("runuser"):
        pytest.skip("there is no useradd or no runuser")
    user = f"snapper-{secrets.token_hex(4)}"
    home = top / "a $(touch created) 'home"
    home.mkdir()
    command = ["useradd", "-M", "-d", str(home), "-s", "/bin/bash", user]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot create a user: {made.stderr.strip()}")
    try:
        uid = pwd.getpwnam(user).pw_uid
        os.chown(home, uid, -1)
        options = ["--platform", "ec2-user-data", "--user", user]
        command = [python, "-m", "snapper", "lifecycle", "on-start", *options]
        text = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout
        script = StartScript(text, user, uid, home)
        yield script
        script.reset()
    finally:
        subprocess.run(["userdel", "--force", user], capture_output=True, check=False)
