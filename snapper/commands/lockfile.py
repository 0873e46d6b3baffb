"""What others can rebuild an environment from: conda's explicit list and environment.yml, from a snapshot."""

from __future__ import annotations

from urllib.parse import quote

import yaml

from snapper.format.model import Snapshot

#: What stands in a line as it is; a snapshot may come from somebody who would add lines, or steer a terminal.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def explicit(snapshot: Snapshot) -> str:
    """A file for `conda create --file`: the URL of each package with its md5 (docs.conda.io, "@EXPLICIT")."""
    lines = [f"# platform: {snapshot.platform}", "@EXPLICIT"]
    lines += [f"{each.url}#{each.md5}" if each.md5 else each.url for each in snapshot.packages if each.url]
    return "\n".join(quote(line, safe=_PRINTABLE, errors="surrogatepass") for line in lines) + "\n"


def environment_yml(name: str, snapshot: Snapshot) -> str:
    """An `environment.yml` with every package at its version and build, and pip's at their versions."""
    dependencies: list[object] = [f"{each.name}={each.version}={each.build}" for each in snapshot.packages]
    if snapshot.pip:
        if not any(package.name == "pip" for package in snapshot.packages):
            dependencies.append("pip")
        dependencies.append({"pip": [f"{each.name}=={each.version}" for each in snapshot.pip]})
    channels = list(dict.fromkeys(each.channel.rstrip("/") for each in snapshot.packages if each.channel))
    document = {"name": name, "channels": channels, "dependencies": dependencies}
    written = yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True)
    if not written.replace("\n", "").isprintable():
        written = yaml.safe_dump(document, sort_keys=False, default_flow_style=False)
    return written
