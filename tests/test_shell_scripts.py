"""Values in the shell scripts of kernels arrive unchanged, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from snapper.environment.conda_directories import CondaCommands
from snapper.kernels import launcher
from snapper.kernels.access import Access
from snapper.process.shell import Code, comment, fill, quote
from tests.support.kernelspecs import SHELLS

#: Prints the environment, an empty line, and the arguments, each ending with NUL.
SHOW = "env -0; printf '\\0'; for word; do printf '%s\\0' \"$word\"; done"

_DANGEROUS = (
    "$(touch pwned)", "`touch pwned`", ";touch pwned;", "\ntouch pwned\n", "&& touch pwned #", "'", '"', "\\", "\r",
    "$HOME", "${IFS}", "@DEFAULT@", "@PREFIX@", "@COMMAND@", "@X@", "*", "~", "!", " ", "\t", "-n", "%s", "\\0",
    "\x01", "\x7f", "\x1b[31m", "\x81", "\udc81", "\udc88", "\udcff", "\u0441", "\U0001f40d", "=", ":", "if", "a",
)  # fmt: skip
texts = st.lists(st.sampled_from(_DANGEROUS) | st.text("'\"\\$`@#a\n", max_size=3), max_size=6).map("".join)
names = texts.map(lambda text: f"n{text.replace('/', '')}")


#: Without the fields of Jupyter, such as `{connection_file}`.
words = st.lists(texts.map(lambda text: text.replace("{", "")), min_size=1, max_size=3)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def run(shell: str, script: Path, *arguments: str, directory: Path) -> tuple[list[bytes], list[bytes], bytes]:
    """Run the script on a system without bash; return the variables and arguments that SHOW prints, and stderr."""
    program = [shutil.which(shell) or "", *(["sh"] if shell == "busybox" else [])]
    done = subprocess.run(
        [*program, script, *arguments],
        env={"PATH": str(directory / "bin"), "HOME": str(directory), "LC_ALL": "C.UTF-8"},
        cwd=directory / "cwd",
        capture_output=True,
        check=False,
    )
    assert not os.listdir(directory / "cwd"), "something was executed"
    variables, _, rest = done.stdout.partition(b"\0\0")
    return variables.split(b"\0"), rest.split(b"\0")[:-1], done.stderr


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the only programs on PATH: those that the launcher needs, and one that leaves a trace."""
    directory = tmp_path_factory.mktemp("programs")
    for program in ("awk", "env", "head", "readlink", "touch", "sleep", "printf"):
        (directory / program).symlink_to(shutil.which(program) or "")
    return directory


@pytest.mark.parametrize("shell", SHELLS)
@given(environment=texts, name=names, condabin=texts, own=texts, stored=texts, words=words)
@hypothesis_settings(max_examples=25)
def test_values_in_scripts_of_kernels_arrive_unchanged(
    shell: str,
    programs: Path,
    environment: str,
    name: str,
    condabin: str,
    own: str,
    stored: str,
    words: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as top:
        directory = Path(top)
        (directory / "cwd").mkdir()
        (directory / "bin").symlink_to(programs)
        prefix, kernel = directory / "envs" / name, directory / f"kernel {name}"
        os.makedirs(encode(f"{prefix}/conda-meta"))
        os.makedirs(encode(f"{prefix}/etc/conda/activate.d"))
        (prefix / "etc/conda/activate.d/a.sh").touch()
        os.mkdir(encode(str(kernel)))
        target = launcher.LaunchTarget(
            environment,
            prefix,
            f"share/{name}",
            Access(()),
            CondaCommands("", condabin),
            directory / name / "w",
            directory / name / "u",
        )
        script = launcher.render_launch_script(target).replace(launcher.SYSTEM_PATH, "/nonexistent")
        (kernel / "launch.sh").write_bytes(encode(script))

        missing = run(shell, kernel / "launch.sh", "/c.json", directory=directory)
        assert (
            encode(f"snapper: {environment} no longer has this kernel\nsnapper: to restore it") in missing[2]
        )

        values = {"OWN": own.replace("$", "$$"), "A;touch pwned": "x", "BASH_FUNC_x%%": "() { touch pwned; }"}
        state = {"version": 1, "env_vars": {"STORED": stored, "B\ntouch pwned": "x", "@X@": "x"}}
        (prefix / "conda-meta/state").write_text(json.dumps(state))
        argv = ["/bin/sh", "-c", SHOW, "sh", "{connection_file}", *words, "f={f}"]
        os.makedirs(encode(f"{prefix}/share/{name}"))
        spec = json.dumps({"argv": argv, "display_name": own, "language": stored, "env": values})
        (prefix / f"share/{name}/kernel.json").write_text(spec)
        variables, arguments, errors = run(
            shell, kernel / "launch.sh", "/c.json", "f=$(f)", "--", "$(more)", directory=directory
        )

    assert not errors
    assert arguments == [b"/c.json", *map(encode, words), b"f=$(f)", b"$(more)"]
    shown = dict(variable.split(b"=", 1) for variable in variables)
    assert shown[b"CONDA_PREFIX"] == encode(str(prefix))
    assert shown[b"CONDA_DEFAULT_ENV"] == encode(name)
    assert shown[b"CONDA_PROMPT_MODIFIER"] == encode(f"({name}) ")
    assert shown[b"OWN"] == encode(own)
    assert shown[b"STORED"] == encode(stored)
    assert {each for each in shown if b"A;" in each or b"touch" in each or b"FUNC" in each} == set()


@given(first=texts, second=texts)
def test_templates_are_filled_in_one_pass(first: str, second: str) -> None:
    filled = fill(
        "a=@A@ b=@B_B@ c=@C@\n# @D@", {"A": first, "B_B": second, "C": Code("$x"), "D": comment(second)}
    )
    assert filled.startswith(f"a={quote(first)} b={quote(second)} c=$x\n# ")
    assert filled.count("\n") == 1 + quote(first).count("\n") + quote(second).count("\n")


def test_values_with_nul_are_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        fill("@A@", {"A": "a\0b"})
