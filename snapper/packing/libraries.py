"""Find the libraries outside of an environment that its programs need."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from snapper.environment.dependency import OutsideLibrary
from snapper.environment.libraries import ProgramFiles
from snapper.environment.outside_paths import Surroundings
from snapper.environment.tree import File, Tree
from snapper.packing.plan import PackPlan


def find_outside_libraries(
    around: Surroundings, variables: Mapping[str, str], tree: Tree, plan: PackPlan
) -> tuple[OutsideLibrary, ...]:
    """Return the libraries and interpreters outside of the environment that programs need which no package has."""
    search_path = variables.get("LD_LIBRARY_PATH", "").split(":")
    return ProgramFiles(around, tree.by_path, search_path).outside(_own_programs(plan))


def _own_programs(plan: PackPlan) -> list[str]:
    """Return the paths of files that may be programs, scripts, or libraries of the user's or compiled by pip."""
    return [
        item.file.path
        for owner_files in plan.others
        for item in owner_files.files
        if not item.prebuilt and item.file.type == "file" and _may_be_program(item.file)
    ]


def _may_be_program(file: File) -> bool:
    return bool(file.mode & 0o111) or file.path.startswith("bin/") or ".so" in posixpath.basename(file.path)
