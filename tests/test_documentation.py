"""Run the code blocks of the documentation.

`sh` blocks of a document run in order, on a machine with an environment named `myenv`; `python` blocks of a document
run in order in one process. Blocks of other kinds (`bash`, `text`, …) need AWS, root or a terminal, or are no code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.kernelspecs import add_kernel

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def _blocks(document: Path, kind: str) -> str:
    """Return all code blocks of a kind in a document, joined."""
    return "\n".join(code for found, code in _BLOCK.findall(document.read_text()) if found == kind)


def _documents(kind: str) -> list[str]:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [str(document.relative_to(ROOT)) for document in documents if _blocks(document, kind)]


@pytest.fixture
def variables(machine: Machine) -> dict[str, str]:
    """The variables of a shell on a machine with `myenv`, whose current directory is the home directory."""
    prefix = make_data(machine.envs / "myenv")
    add_kernel(prefix, "python3", argv=["python"], display_name="Python 3", language="python")
    programs = machine.home / "bin"
    programs.mkdir()
    program = programs / "snapper"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m snapper "$@"\n')
    program.chmod(0o755)
    return {
        **machine.variables,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def _run(command: list[str], code: str, variables: dict[str, str], directory: Path) -> str:
    done = subprocess.run(
        command,
        input=code,
        env=variables,
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("document", _documents("sh"))
def test_shell_blocks_run(document: str, variables: dict[str, str], machine: Machine) -> None:
    output = _run(["sh", "-eu", "-s"], _blocks(ROOT / document, "sh"), variables, machine.home)
    assert "myenv" in output


@pytest.mark.parametrize("document", _documents("python"))
def test_python_blocks_run(document: str, variables: dict[str, str], machine: Machine) -> None:
    output = _run([sys.executable, "-"], _blocks(ROOT / document, "python"), variables, machine.home)
    assert "myenv" in output


def test_documents_with_code_are_found() -> None:
    assert {"README.md", "docs/cli.md"} <= set(_documents("sh"))
    assert "docs/api.md" in _documents("python")


@pytest.mark.parametrize(
    "document", [str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]]
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", path.read_text())
    broken = []
    for target in targets:
        file, _, anchor = target.partition("#")
        other = (path.parent / file) if file else path
        if not other.exists() or (anchor and other.suffix == ".md" and anchor not in _anchors(other)):
            broken.append(target)
    assert not broken


def _anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
