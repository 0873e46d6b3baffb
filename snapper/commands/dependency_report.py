"""Find all that an environment uses outside of itself, as `pack` and `doctor` report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from snapper import kernels
from snapper.environment.cached_links import FollowedLinks
from snapper.environment.dependencies import find_dependencies, needed_libraries, unproved_links
from snapper.environment.dependency import Dependency, OutsideLibrary
from snapper.environment.libraries import ProgramFiles
from snapper.environment.outside_paths import Surroundings
from snapper.environment.tree import Tree
from snapper.packing.plan import PackPlan, own_programs


def find_outside_libraries(
    around: Surroundings, variables: Mapping[str, str], tree: Tree, plan: PackPlan
) -> tuple[OutsideLibrary, ...]:
    """Return the libraries and interpreters outside of the environment that programs need which no package has."""
    search_path = variables.get("LD_LIBRARY_PATH", "").split(":")
    return ProgramFiles(around, tree.by_path, search_path).outside(own_programs(plan))


def report_dependencies(
    around: Surroundings,
    variables: Mapping[str, str],
    libraries: Iterable[OutsideLibrary],
    withheld: Iterable[Dependency],
    links: FollowedLinks,
) -> tuple[Dependency, ...]:
    """Return what an environment uses of what is `around` it, with these `libraries`, and links in place of files.

    `withheld` is what is not packed of kernelspecs outside of it.
    """
    found = find_dependencies(around, variables, kernels.kernel_commands(around.environment))
    return (*found, *needed_libraries(around, libraries), *withheld, *unproved_links(links))
