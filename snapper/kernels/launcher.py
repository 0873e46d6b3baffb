"""The shell script that a registered kernel runs. It needs neither snapper nor conda.

`launch.sh` waits for its environment while that is being restored, activates it as `conda activate` does, and executes
the command of the kernelspec that the environment has then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper.environment.conda_directories import CondaCommands
from snapper.environment.staging_lock import ENTERING, INSIDE, LEAVING
from snapper.environment.variables import MOST_BYTES, MOST_FILES
from snapper.kernels.access import Access
from snapper.kernels.kernelspecs import LARGEST_SPEC
from snapper.kernels.launch_settings import READ_SETTINGS, SEPARATOR
from snapper.kernels.launch_template import LAUNCH_SCRIPT_TEMPLATE
from snapper.process.shell import Code, fill

#: Where programs of the system are, other than on systems such as NixOS.
SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin"

#: A field that Jupyter fills in a kernel's argv, such as `{connection_file}`.
_FIELD = re.compile(r"\{([A-Za-z0-9_]+)\}")

#: The fields that Jupyter always fills, other than the connection file, which comes first.
_USUAL_FIELDS = ("prefix",)

#: The directory of a kernelspec: in the environment's own, that of the environment; for Jupyter, the registered one.
_RESOURCES = "resource_dir"


@dataclass(frozen=True)
class LaunchTarget:
    """The environment that a launch script starts a kernel in, and the directory below it with the kernelspec.

    The kernel does not start if others control the environment than those who have `access`, besides the user who
    starts it. The script reads the file `waiting` while it waits, and touches the file `used` when it starts the
    kernel, if there are such files. `fields` are those in the kernel's argv when it was registered.
    """

    environment: str
    prefix: Path
    kernelspec: str
    access: Access
    conda: CondaCommands
    waiting: Path | None
    used: Path | None
    fields: tuple[str, ...] = ("connection_file",)


def render_launch_script(target: LaunchTarget) -> str:
    """Return the text of `launch.sh`; raise ValueError if a path contains NUL."""
    values = {
        "SYSTEM": SYSTEM_PATH,
        "ENVIRONMENT": target.environment,
        "PREFIX": str(target.prefix),
        "DEFAULT": conda_default_env(target.prefix, target.conda.root),
        "OWNERS": " ".join(map(str, target.access.owners)),
        "WRITERS": " ".join(map(str, target.access.writers)),
        "INODE": str(target.access.inode or "none"),
        "RECORDED": f'"environment":{json.dumps(target.environment)}',
        "CONDA": target.conda.root,
        "CONDABIN": target.conda.condabin,
        "WAITING": str(target.waiting or ""),
        "USED": str(target.used or ""),
        "KERNELSPEC": target.kernelspec,
        "FIELDS": Code(" ".join(target.fields)),
        "INSIDE": INSIDE,
        "LEAVING": LEAVING,
        "ENTERING": ENTERING,
        "LARGEST_SPEC": str(LARGEST_SPEC),
        "MOST_BYTES": str(MOST_BYTES),
        "MOST_FILES": str(MOST_FILES),
        "READ_SETTINGS": READ_SETTINGS,
        "SEPARATOR": SEPARATOR,
    }
    return fill(LAUNCH_SCRIPT_TEMPLATE, values)


def launch_arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments of `launch.sh` for Jupyter to fill: the connection file, and the fields that argv may have.

    `registered` is the directory of the kernelspec that it has read: this one, or a copy that the user has made.
    Jupyter may append further arguments, which are for the kernel.
    """
    fields = dict.fromkeys((*_USUAL_FIELDS, *argv_fields(argv)))
    named = (f"{name}={{{name}}}" for name in fields if name != "connection_file")
    return ["{connection_file}", *named, f"registered={{{_RESOURCES}}}", "--"]


def argv_fields(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the fields that Jupyter fills in a kernel's argv, the connection file first."""
    names = (name for word in argv for name in _FIELD.findall(word) if name != _RESOURCES)
    return tuple(dict.fromkeys(("connection_file", *names)))


def conda_default_env(prefix: Path, root: str = "") -> str:
    """Return CONDA_DEFAULT_ENV as conda sets it: the environment's name in an envs directory, else its prefix."""
    if root and Path(root) == prefix:
        return "base"
    return prefix.name if prefix.parent.name == "envs" else str(prefix)
