"""What others can rebuild an environment from: conda's explicit list and environment.yml, from a snapshot."""

from __future__ import annotations

import yaml

from snapper.model import Snapshot


def explicit(snapshot: Snapshot) -> str:
    """A file for `conda create --file`: the URL of each package with its md5 (docs.conda.io, "@EXPLICIT")."""
    lines = [f"# platform: {snapshot.platform}", "@EXPLICIT"]
    lines += [f"{each.url}#{each.md5}" if each.md5 else each.url for each in snapshot.packages if each.url]
    return "\n".join(lines) + "\n"


def environment_yml(name: str, snapshot: Snapshot) -> str:
    """An `environment.yml` with every package at its version and build, and pip's at their versions."""
    dependencies: list[object] = [f"{each.name}={each.version}={each.build}" for each in snapshot.packages]
    if snapshot.pip:
        if not any(package.name == "pip" for package in snapshot.packages):
            dependencies.append("pip")
        dependencies.append({"pip": [f"{each.name}=={each.version}" for each in snapshot.pip]})
    channels = list(dict.fromkeys(each.channel.rstrip("/") for each in snapshot.packages if each.channel))
    document = {"name": name, "channels": channels, "dependencies": dependencies}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True)
