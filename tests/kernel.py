"""A kernel as Jupyter starts it: through `jupyter_client`, from the kernelspec that is registered by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

_CELL = """
import sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name=sys.argv[1], startup_timeout=60)
try:
    def show(message):
        if message["msg_type"] == "stream":
            sys.stdout.write(message["content"]["text"])
        elif message["msg_type"] == "error":
            sys.stderr.write("\\n".join(message["content"]["traceback"]))
    reply = client.execute_interactive(sys.argv[2], timeout=60, output_hook=show)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
sys.exit(reply["content"]["status"] != "ok")
"""


def run_cell(name: str, code: str, variables: Mapping[str, str]) -> str:
    """Starts the kernel of that name, runs one cell in it, and returns what the cell printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CELL, name, code],
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
