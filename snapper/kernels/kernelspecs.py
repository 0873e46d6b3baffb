"""Find the kernelspecs that an environment ships in `share/jupyter/kernels`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.format.model import Kernel

KERNEL_JSON = "kernel.json"

#: What reading a kernelspec can raise. It may be any file: deeply nested JSON, not UTF-8, or of unexpected types.
KERNELSPEC_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError)

_KERNELS = "share/jupyter/kernels"
_ASSETS = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg", "kernel.js", "kernel.css")


@dataclass(frozen=True)
class Kernelspec:
    """A kernelspec of the environment at `prefix`; `fields` are those of its `kernel.json`."""

    kernel: Kernel
    prefix: Path
    directory: Path
    fields: dict[str, Any]

    def argv(self) -> list[str]:
        """Return the kernel's command with absolute paths of the environment's program and resources."""
        argv = [word.replace("{resource_dir}", str(self.directory)) for word in self.fields["argv"]]
        program = self.prefix / "bin" / argv[0]
        if not os.path.isabs(argv[0]) and program.exists():
            argv[0] = str(program)
        return argv

    def variables(self) -> dict[str, object]:
        """Return the environment variables that the kernelspec sets."""
        variables = self.fields.get("env")
        return variables if isinstance(variables, dict) else {}

    def assets(self) -> list[Path]:
        """Return the logos and front-end files next to `kernel.json`."""
        files = [self.directory / name for name in _ASSETS]
        return [file for file in files if _is_inside(self.prefix, file)]


def find_kernelspecs(prefix: Path) -> Iterator[Kernelspec]:
    """Yield the valid kernelspecs of the environment, sorted by name."""
    for file in sorted((prefix / _KERNELS).glob(f"*/{KERNEL_JSON}")):
        try:
            spec = _read_kernelspec(prefix, file) if _is_inside(prefix, file) else None
        except KERNELSPEC_ERRORS:
            continue
        if spec:
            yield spec


def shipped_kernels(prefix: Path) -> tuple[Kernel, ...]:
    """Return the kernels that the environment ships, sorted by name."""
    return tuple(spec.kernel for spec in find_kernelspecs(prefix))


def install_hint(prefix: Path) -> str:
    """Return the command that installs a kernel into an environment without one."""
    records = (prefix / "conda-meta").glob("*.json")  # NAME-VERSION-BUILD.json
    packages = {file.name.rsplit("-", 2)[0] for file in records}
    package = "r-irkernel" if "r-base" in packages and "python" not in packages else "ipykernel"
    where = f"-n {prefix.name}" if prefix.parent.name == "envs" else f"-p {shlex.quote(str(prefix))}"
    return f"conda install {where} {package}"


def _read_kernelspec(prefix: Path, file: Path) -> Kernelspec | None:
    """Return the kernelspec in the file, or None if it has no command; may raise KERNELSPEC_ERRORS."""
    fields = json.loads(file.read_bytes())
    argv = fields["argv"]
    if not argv or not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        return None
    if not isinstance(fields.get("metadata"), dict):
        fields["metadata"] = {}
    display_name, language = str(fields["display_name"]), str(fields.get("language", ""))
    f"{display_name}{language}".encode()  # raise UnicodeEncodeError for what Jupyter could not display
    return Kernelspec(Kernel(file.parent.name, display_name, language), prefix, file.parent, fields)


def _is_inside(prefix: Path, file: Path) -> bool:
    """Return whether it is a file in the environment, not a link to one elsewhere."""
    return file.is_file() and file.resolve().is_relative_to(prefix.resolve())
