"""conda's names for platforms, such as linux-64."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Iterable

from snapper.environment.conda import Record

_MACHINES = {"x86_64": "64", "amd64": "64", "aarch64": "aarch64", "arm64": "arm64", "ppc64le": "ppc64le"}


def this_platform() -> str:
    """Return conda's name for this machine's platform, such as linux-64 or osx-arm64."""
    system = "osx" if sys.platform == "darwin" else "linux"
    machine = platform.machine().lower()
    name = "aarch64" if (system, machine) == ("linux", "arm64") else _MACHINES.get(machine, machine)
    return f"{system}-{name}"


def platform_of_records(records: Iterable[Record]) -> str:
    """Return the platform that the packages were built for; this machine's if all of them are noarch."""
    subdirs = Counter(
        record.package.subdir for record in records if record.package.subdir not in ("", "noarch")
    )
    return subdirs.most_common(1)[0][0] if subdirs else this_platform()
