"""Run one cell in a registered Jupyter kernel and show its output: `python -m scripts.cell KERNEL CODE`."""

from __future__ import annotations

import sys
from typing import Any

from jupyter_client.manager import start_new_kernel


def run_cell(kernel: str, code: str) -> bool:
    """Start the kernel, run the code, show its output, and stop the kernel. Return whether the code succeeded."""
    manager, client = start_new_kernel(kernel_name=kernel, startup_timeout=60)
    try:
        reply = client.execute_interactive(code, timeout=60, output_hook=_show)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return bool(reply["content"]["status"] == "ok")


def _show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        sys.stdout.write(content["text"])
    elif message["msg_type"] == "error":
        sys.stderr.write("\n".join(content["traceback"]) + "\n")


if __name__ == "__main__":
    sys.exit(not run_cell(*sys.argv[1:]))
