"""Check that environments can be packed with all that they need, and that they have kernels: a part of `doctor`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from snapper import kernels
from snapper.checks.findings import Finding
from snapper.commands.dependency_report import report_dependencies
from snapper.environment import conda, editable
from snapper.environment.dependency import Dependency
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import installed_environments
from snapper.environment.outside_paths import Surroundings
from snapper.environment.variables import environment_variables
from snapper.errors import SnapperError
from snapper.kernels.carried import outside_kernels
from snapper.kernels.outside import OutsideKernel
from snapper.packing.libraries import find_outside_libraries
from snapper.packing.plan import make_plan

logger = logging.getLogger(__name__)

#: How many things of a kind are named in a finding.
_MOST_NAMED = 50


def check_environments() -> Iterator[Finding]:
    """Check all environments on this machine. What is wrong with one does not stop the others."""
    for prefix in installed_environments():
        if not conda.is_environment(prefix):
            continue
        try:
            yield from _check_environment(prefix)
        except SnapperError as error:
            yield Finding("warning", "Environment", error.message, error.hint)
        except Exception as error:  # others chose what is in the environment
            logger.exception("%s could not be checked", prefix)
            detail = f"{prefix} could not be checked: {type(error).__name__}: {error}"
            yield Finding("warning", "Environment", detail, "Remove the environment, if you do not need it.")


def _check_environment(prefix: Path) -> Iterator[Finding]:
    """Yield the findings about an environment. May raise any error."""
    installed = InstalledEnvironment(prefix)
    editables = editable.find(installed.directory, installed.followed.tree)
    if editables:
        names = ", ".join(f"{install.name} ({install.source})" for install in editables)
        hint = "Choose how to pack them: --editable=include or --editable=ignore."
        yield Finding("warning", "Environment", f"{prefix} has editable installs: {names}", hint)
    outside = outside_kernels(installed.directory)
    for dependency in _dependencies(installed, outside):
        yield _dependency_finding(prefix, dependency)
    paths = ", ".join(str(kernel.path) for kernel in outside if kernel.can_be_carried)
    if paths:
        detail = f"kernelspecs outside of {prefix} start it, and are packed with it: {paths}"
        yield Finding("note", "Environment", detail)
    if not kernels.shipped_kernels(installed.directory):
        detail = f"{prefix} has no Jupyter kernel, so Jupyter will not list it after a restore"
        yield Finding("note", "Environment", detail, f"Add one: {kernels.install_hint(prefix)}")


def _dependencies(
    installed: InstalledEnvironment, kernelspecs: Iterable[OutsideKernel]
) -> tuple[Dependency, ...]:
    """Return what the environment uses outside of it; some of these kernelspecs there cannot be packed with it.

    Raise what `make_plan` raises.
    """
    directory, links = installed.directory, installed.followed
    others = installed.index.header.other_environments if installed.index else ()  # as of the last pack
    prefixes = (*installed.prefixes_in_files, *(other.prefix for other in others))
    variables = environment_variables(directory)
    plan = make_plan(directory, links.tree, installed.records)
    libraries = find_outside_libraries(Surroundings(directory, prefixes), variables, links.tree, plan)
    withheld = (
        *(dependency for kernel in kernelspecs for dependency in kernel.dependencies()),
        *(Dependency("environment", other.prefix, other.files) for other in others),
    )
    return report_dependencies(Surroundings(directory, prefixes), variables, libraries, withheld, links)


def _dependency_finding(prefix: Path, dependency: Dependency) -> Finding:
    """Return the finding about something outside of the environment that it uses."""
    named = ", ".join(dependency.names[:_MOST_NAMED])
    rest = len(dependency.names) - _MOST_NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return Finding(
        "warning", "Environment", f"{prefix} needs {dependency.summary}: {named}{more}", dependency.advice
    )
