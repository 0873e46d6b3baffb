"""Lock files: describe the packages of a snapshot so that conda can install them elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import yaml

from snapper.format.model import Snapshot

#: Characters that are not escaped in an explicit file. A malicious snapshot must not add lines or control a terminal.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


#: What a name, a version, or a build consists of. conda and pip would read other text as something else: as an option,
#: a URL, or a path.
_WORD = re.compile(r"\w[\w.+!-]*", re.ASCII)


def render_explicit(snapshot: Snapshot) -> str:
    """Return a file for `conda create --file`, with the URL and MD5 of each package ("@EXPLICIT" in conda's manual)."""
    lines = [f"# platform: {snapshot.platform}", "@EXPLICIT"]
    lines += [
        f"{package.url}#{package.md5}" if package.md5 else package.url
        for package in snapshot.packages
        if package.url
    ]
    return "\n".join(quote(line, safe=_PRINTABLE, errors="surrogatepass") for line in lines) + "\n"


def render_environment_yml(name: str, snapshot: Snapshot) -> str:
    """Return an `environment.yml` with versions and builds of conda packages, and versions of pip packages.

    Comments at its end name packages that it cannot contain.
    """
    conda = [(package.name, package.version, package.build) for package in snapshot.packages]
    pip = [(package.name, package.version) for package in snapshot.pip]
    dependencies: list[object] = ["=".join(words) for words in conda if _are_words(words)]
    if pip:
        if not any(package.name == "pip" for package in snapshot.packages):
            dependencies.append("pip")
        dependencies.append({"pip": ["==".join(words) for words in pip if _are_words(words)]})
    channels = list(
        dict.fromkeys(package.channel.rstrip("/") for package in snapshot.packages if package.channel)
    )
    document = {"name": name, "channels": channels, "dependencies": dependencies}
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # escape what a terminal would interpret
        text = yaml.safe_dump(document, sort_keys=False, default_flow_style=False)
    omitted = (" ".join(words) for words in (*conda, *pip) if not _are_words(words))
    return text + "".join(
        f"# left out, not the name and version of a package: {words!a}\n" for words in omitted
    )


def _are_words(words: Iterable[str]) -> bool:
    return all(_WORD.fullmatch(word) for word in words if word)
