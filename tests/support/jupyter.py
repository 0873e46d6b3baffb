"""Start kernels and servers with Jupyter on a machine of the tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.conftest import Machine
from tests.support.commands import wait_until


def kernels_dir(machine: Machine) -> Path:
    return machine.home / ".local/share/jupyter/kernels"


class Kernel:
    """A kernel that has been started; its output is in `log`."""

    def __init__(self, manager: KernelManager, log: Path) -> None:
        self.manager, self._log = manager, log
        self.client: BlockingKernelClient = manager.client()
        self._connected = False

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self) -> Kernel:
        """Wait until the kernel is ready, and connect to it."""
        self._connected = True
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        return self

    def end(self) -> None:
        if self._connected:
            self.client.stop_channels()
        with suppress(RuntimeError):
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy()

    def run(self, code: str) -> str:
        """Run a cell; return its output and the names of its errors.

        Run it again if the kernel dropped it, as it does with cells that were queued when another was interrupted.
        """
        shown: list[str] = []

        def show(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append(content["text"])
            elif message["msg_type"] == "error":
                shown.append(content["ename"])

        status = "aborted"
        while status == "aborted":
            reply = self.client.execute_interactive(code, timeout=60, output_hook=show)
            status = reply["content"]["status"]
        return "".join(shown)


@contextmanager
def started(machine: Machine, name: str, variables: Mapping[str, str] | None = None) -> Iterator[Kernel]:
    """Start the kernel of that name as Jupyter does, from the user's kernelspecs."""
    specs = KernelSpecManager(kernel_dirs=[str(kernels_dir(machine))], ensure_native_kernel=False)
    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
    log = machine.home / f"{name}.log"
    with log.open("wb") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter_client, about kernelspecs with fields of older versions
        environment = {**machine.variables, "PYTHONWARNINGS": "", **(variables or {})}
        manager.start_kernel(env=environment, stdout=out, stderr=out, cwd=str(machine.home))
    kernel = Kernel(manager, log)
    try:
        yield kernel
    finally:
        kernel.end()


@contextmanager
def jupyterlab(machine: Machine) -> Iterator[str]:
    """Run a JupyterLab server on this machine; yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebooks = machine.home / "notebooks"
    notebooks.mkdir(exist_ok=True)
    news = machine.home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    news.mkdir(parents=True, exist_ok=True)
    (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    command = [
        *(sys.executable, "-W", "ignore", "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(
            "--ip=127.0.0.1",
            f"--port={port}",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={notebooks}",
        ),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--KernelSpecManager.ensure_native_kernel=False",
    ]
    variables = {**machine.variables, "PYTHONWARNINGS": "", "JUPYTER_PLATFORM_DIRS": "0"}
    address = f"http://127.0.0.1:{port}"
    with (machine.home / "jupyterlab.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=variables, cwd=machine.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(address), seconds=90)
        assert process.poll() is None, (machine.home / "jupyterlab.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(30)


def launcher_page(address: str, profile: Path, *options: str) -> str:
    """Open JupyterLab's launcher in a browser; return its HTML, or the output that other options ask for."""
    command = [
        *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--window-size=1100,420", "--virtual-time-budget=15000", f"--user-data-dir={profile}"),
        *(options or ("--dump-dom",)),
        f"{address}/lab?reset",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.loads(answer.read())


def _answers(address: str) -> bool:
    try:
        return bool(get(f"{address}/api"))
    except OSError:
        return False


def nbconvert(machine: Machine, kernel: str, cells: list[str]) -> list[str]:
    """Run a notebook of these cells with `nbconvert --execute`; return the output of each cell."""
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel}},
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell{number}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": cell,
            }
            for number, cell in enumerate(cells)
        ],
    }
    file = machine.home / "notebook.ipynb"
    file.write_text(json.dumps(notebook))
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "nbconvert",
                "--to",
                "notebook",
                "--execute",
                "--inplace",
            ),
            file,
        ],
        env={**machine.variables, "PYTHONWARNINGS": ""},
        cwd=machine.home,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        "".join("".join(output.get("text", "")) for output in cell["outputs"])
        for cell in json.loads(file.read_text())["cells"]
    ]


def environment_of(process: int) -> dict[str, str]:
    """Return the environment variables that a process was started with, or replaced itself with (exec)."""
    entries = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
