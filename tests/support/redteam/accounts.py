"""Users of one machine, each with a uid: they run the `snapper` under test within limits of time and memory."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import Machine, Outcome
from tests.support.forkserver import Conditions, run
from tests.support.processes import forking

ROOT, VICTIM, ATTACKER = 0, 64201, 64202

#: The exit codes that docs/cli.md lists, except that for an interrupt.
_DOCUMENTED_CODES = (0, 1, 2, 3, 10, 11, 12, 13)
_CRASH = re.compile(
    r"Traceback|unexpected error|\b(Memory|Recursion|Overflow|Key|Type|Value|Attribute)Error\b"
)

#: Longer than any command takes on a busy machine.
_SECONDS = 20

#: More than any command needs for small environments: what is read into memory without a limit does not fit.
_MEMORY = 400 << 20


class AttackSucceeded(AssertionError):
    """What an attacker achieved."""


def withstood(condition: object, achieved: str) -> None:
    """Raise AttackSucceeded, with what was achieved, unless the condition holds."""
    if not condition:
        raise AttackSucceeded(achieved)


@dataclass(frozen=True)
class Account(Machine):
    """A user with a home and an envs directory. `python` has the version of snapper that is tested.

    `groups` are those that the user is in, beside one of its own.
    """

    uid: int
    python: str
    groups: tuple[int, ...] = ()

    def command(self, *arguments: object) -> list[str]:
        return [self.python, "-m", "snapper", *map(str, arguments)]

    def snapper(self, *arguments: object, **variables: str) -> Outcome:
        """Run `snapper` to completion; raise AttackSucceeded if it hangs, crashes, or controls the terminal."""
        command = " ".join(["snapper", *map(str, arguments)])
        conditions = Conditions(self.uid, self.groups, _MEMORY, _SECONDS)
        try:
            done = run(self.command(*arguments), {**self.variables, **variables}, self.home, conditions)
        except TimeoutError:
            raise AttackSucceeded(f"`{command}` hung") from None
        output = done.stdout + done.stderr
        crash = None if variables.get("SNAPPER_LOG") == "debug" else _CRASH.search(output)
        withstood(not crash, f"`{command}` crashed: {crash and output[crash.start() :][-300:]!r}")
        withstood(done.returncode in _DOCUMENTED_CODES, f"`{command}` exited with code {done.returncode}")
        raw = sorted(
            {character for character in output if not (character.isprintable() or character == "\n")}
        )
        withstood(not raw, f"`{command}` printed {raw}")
        return Outcome(done.returncode, done.stdout, done.stderr)

    def become(self) -> None:
        """Make this process one of the user's."""
        os.setgroups(self.groups)
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)

    def do(self, action: Callable[[], Any]) -> Any:
        """Return what the action returns or raises in a process of this user."""
        answers = forking.SimpleQueue()

        def act() -> None:
            self.become()
            try:
                answers.put(action())
            except BaseException as error:
                answers.put(error)

        process = forking.Process(target=act)
        process.start()
        process.join(_SECONDS)
        assert process.exitcode == 0
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def owns(self, path: Path) -> Path:
        """Give the path, and all that is below it, to this user; return it. Do nothing if the tests run as a user."""
        if os.geteuid() == ROOT:
            for directory, names, files in os.walk(path):
                for name in names + files:
                    os.chown(os.path.join(directory, name), self.uid, self.uid, follow_symlinks=False)
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
        return path

    def kernel_scripts(self) -> dict[str, str]:
        """Return what starts this user's registered kernels, by paths below Jupyter's directory.

        These are the scripts there, and the kernelspecs of environments that these read.
        """
        top = self.home / ".local/share/jupyter/kernels"
        scripts = {path: path.read_text(errors="replace") for path in top.glob("*/*.sh") if path.is_file()}
        texts = {str(path.relative_to(top)): text for path, text in scripts.items()}
        for path, text in scripts.items():
            found = re.search(r"^snapper_prefix=(.*)\n(?:.*\n)*snapper_kernelspec=(.*)$", text, re.MULTILINE)
            if found:
                prefix, directory = (shlex.split(word)[0] for word in found.groups())
                spec = Path(prefix, directory, "kernel.json")
                texts[f"{path.parent.name}/{spec}"] = (
                    spec.read_text(errors="replace") if spec.is_file() else ""
                )
        return texts

    def registered_kernels(self) -> dict[str, Any]:
        """Return the kernelspecs in this user's Jupyter, by name."""
        top = self.home / ".local/share/jupyter/kernels"
        return {path.parent.name: json.loads(path.read_bytes()) for path in top.glob("*/kernel.json")}
