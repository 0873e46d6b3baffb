"""Output of `snapper pack` and `snapper import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snapper.cli.render import output
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.pack_result import PackResult


def report(result: PackResult, as_json: bool) -> ExitCode:
    """Report what was packed, and return the exit code."""
    if as_json:
        output.print_json(_fields(result))
    else:
        _print(result)
    problems = any(kernel.problem for kernel in result.kernel_updates.registered)
    is_partial = result.unrelocated or result.clamped or result.dependencies or problems
    return ExitCode.PARTIAL if is_partial else ExitCode.DONE


def _print(result: PackResult) -> None:
    _print_prefixes(result.found_prefixes)
    if result.owner:
        output.notice(f"{result.prefix} belongs to the user {result.owner}, who decides what is in it")
    for path, reason in result.skipped:
        output.notice(f"not packed: {path}: {reason}")
    for text in result.without_effect:
        output.notice(text)
    output.print_unrelocated(
        result.unrelocated,
        result.own_unrelocated,
        result.harmless_unrelocated,
        "these files contain the path of the environment, or of an included source, in a form that cannot be changed; "
        "elsewhere, they still refer to it",
    )
    output.print_paths(
        "these symlinks point outside the environment and are packed as they are", result.outside
    )
    for dependency in result.dependencies:
        output.print_paths(f"not packed: {dependency.summary}", dependency.names, output.warn)
    for advice in dict.fromkeys(dependency.advice for dependency in result.dependencies):
        output.warn(f"  {advice}")
    output.print_paths(
        "these kernelspecs start the environment, and are packed with it",
        [str(kernel.path) for kernel in result.kernels],
    )
    for kernel in result.kernel_updates.registered:
        if kernel.problem:
            output.print_kernel_problem(kernel)
    output.print_clamped(result.clamped, "a snapshot")
    output.print_paths("these directories outside of the environment are included", result.included)
    output.print_paths(
        "these files contain credentials, which everyone who can read the store can use from now on",
        result.credentials,
    )
    output.print_deviations("modified since conda installed the package", result.snapshot.altered)
    output.print_deviations("missing since conda installed the package", result.snapshot.missing)
    _print_kernels(result)
    if result.unchanged:
        output.echo(
            f"{result.environment} is unchanged ({result.snapshot_id[:12]}): nothing to pack ({result.seconds:.1f} s)"
        )
        if result.newer:
            _print_newer(result)
        return
    packages = len(result.snapshot.packages) + len(result.snapshot.pip)
    output.echo(
        f" {result.environment} as {result.snapshot_id[:12]}: {plural(packages, 'package')}, "
        f"{plural(result.snapshot.files, 'file')}, {size(result.snapshot.size)}",
        label="Packed",
        style="green",
    )
    output.echo(
        f"  {plural(result.added_layers, 'new layer')}, {size(result.added_size)} added, {result.seconds:.1f} s"
    )
    output.echo(f"  store: {result.store}{' (this is its first environment)' if result.first else ''}")
    if result.replaced:
        step = result.replaced
        output.warn(
            f"  warning: this replaces {step.snapshot[:12]} (by {step.user}@{step.host} at {step.time}), which this "
            f"environment is not based on. Undo with: snapper rollback {result.environment} --store-only"
        )


def _print_newer(result: PackResult) -> None:
    name = result.environment
    output.warn(
        f"  warning: the store has {result.newer[:12]}, which is newer. Update with: snapper restore {name}; or make "
        f"this one current: snapper rollback {name}@{result.snapshot_id[:12]} --store-only"
    )


def _print_kernels(result: PackResult) -> None:
    """Print which registered kernels have come and gone."""
    for kernel in result.kernel_updates.registered:
        if kernel.name in result.kernel_updates.added:
            output.notice(f"kernel added to Jupyter: {kernel.display_name}, as {kernel.name}")
    for gone in result.kernel_updates.removed:
        output.notice(f"kernel removed from Jupyter: {gone.display_name}, as {gone.name}")


def _print_prefixes(prefixes: tuple[str, ...]) -> None:
    if len(prefixes) == 1:
        output.notice(f"its files refer to {prefixes[0]}, where it was installed; restores replace that")
    elif prefixes:
        output.print_paths(
            "its files refer to several directories, because it was moved or copied; restores replace them all",
            prefixes,
        )


def _fields(result: PackResult) -> dict[str, Any]:
    return {
        "environment": result.environment,
        "snapshot": result.snapshot_id,
        "unchanged": result.unchanged,
        "prefix": result.prefix,
        "found_prefixes": list(result.found_prefixes),
        "owner": result.owner,
        "store": result.store,
        "platform": result.snapshot.platform,
        "packages": len(result.snapshot.packages),
        "pip_packages": len(result.snapshot.pip),
        "files": result.snapshot.files,
        "size": result.snapshot.size,
        "stored_size": result.snapshot.stored_size,
        "layers": len(result.snapshot.layers),
        "added_layers": result.added_layers,
        "added_size": result.added_size,
        "altered": to_jsonable(result.snapshot.altered),
        "missing": to_jsonable(result.snapshot.missing),
        "skipped": [{"path": path, "reason": reason} for path, reason in result.skipped],
        "unrelocated": list(result.unrelocated),
        "harmless_unrelocated": list(result.harmless_unrelocated),
        "outside": list(result.outside),
        "dependencies": [to_jsonable(dependency) for dependency in result.dependencies],
        "kernels": [{"name": kernel.name, "path": str(kernel.path)} for kernel in result.kernels],
        "registered": to_jsonable(result.kernel_updates.registered),
        "removed_kernels": [kernel.name for kernel in result.kernel_updates.removed],
        "clamped": list(result.clamped),
        "included": list(result.included),
        "credentials": list(result.credentials),
        "first": result.first,
        "replaced": to_jsonable(result.replaced),
        "newer": result.newer,
        "without_effect": list(result.without_effect),
        "seconds": round(result.seconds, 3),
    }
