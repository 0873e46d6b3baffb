"""Decide which prefixes that scripts and kernelspecs name are those of the environment that they are in.

They can also name programs of other environments, which may be missing on this machine. Replacing such a prefix would
start them with other packages. What pip wrote into scripts of its distributions is evidence, what is in other files is
not, unless there is no evidence at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from snapper.environment import pip
from snapper.environment.conda import Record
from snapper.environment.own_locations import locations_of_others
from snapper.environment.tree import File
from snapper.fs.pinned import PinnedDirectory


class PrefixClaim(NamedTuple):
    """The file at `path` starts `PREFIX/bin/PROGRAM`; `sha256` is its checksum if it is a script."""

    path: str
    prefix: str
    program: str
    sha256: str = ""


@dataclass(frozen=True)
class ClaimedPrefixes:
    """What the files of an environment claim about its prefix; `records` are those of its conda packages."""

    directory: PinnedDirectory
    claims: Sequence[PrefixClaim]
    records: Iterable[Record]
    files: Iterable[File]

    def accepted(
        self, own: Collection[str], proven: Collection[str], recorded: Collection[str] = ()
    ) -> set[str]:
        """Return the prefixes of the environment, also among those that are claimed.

        `own` are its paths now, `proven` those that conda wrote into files, and `recorded` those that were accepted
        earlier: what once was its prefix remains one of its own, whatever is there now.
        """
        known = {*own, *proven, *recorded}
        unknown = {claim.prefix for claim in self.claims} - known
        if unknown:
            unknown -= locations_of_others({*own, *recorded})
        accepted = self._written_by_pip([claim for claim in self.claims if claim.prefix in unknown])
        if not accepted and not proven:
            accepted = unknown & self._most_frequent()
        return known | accepted

    def _written_by_pip(self, claims: Iterable[PrefixClaim]) -> set[str]:
        """Return the prefixes in scripts that pip wrote, and at which the environment is no longer.

        With `--prefix`, another environment's pip installs scripts that start the Python of that environment.
        """
        moved = {claim.path: claim for claim in claims if self._is_moved(claim)}
        if not moved:
            return set()
        of_conda = {entry.path for record in self.records for entry in record.entries}
        of_pip = {file.path for file in self.files if pip.is_record_path(file.path)} - of_conda
        scripts = {path: claim.sha256 for path, claim in moved.items()}
        with suppress(OSError):
            installed = pip.installed_scripts(self.directory, of_pip, scripts)
            return {moved[path].prefix for path in installed}
        return set()

    def _is_moved(self, claim: PrefixClaim) -> bool:
        """Return whether the program is no longer below that prefix, or the prefix leads to this environment."""
        with suppress(OSError):
            return os.path.samestat(os.stat(claim.prefix), self.directory.status)
        return not os.path.lexists(f"{claim.prefix}/bin/{claim.program}")

    def _most_frequent(self) -> set[str]:
        """Return the prefix that more than half of the files claim, if there is one."""
        counts = Counter(claim.prefix for claim in self.claims)
        return {prefix for prefix, count in counts.items() if 2 * count > counts.total()}
