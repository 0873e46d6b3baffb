"""Find all that an environment uses outside of itself, as `pack` and `doctor` report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from snapper.environment.dependencies import find_dependencies, needed_libraries, unproved_links
from snapper.environment.dependency import Dependency, OutsideLibrary
from snapper.environment.outside_links import FollowedLinks
from snapper.environment.outside_paths import Surroundings
from snapper.kernels.kernelspecs import kernel_commands


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
    found = find_dependencies(around, variables, kernel_commands(around.environment))
    return (*found, *needed_libraries(around, libraries), *withheld, *unproved_links(links))
