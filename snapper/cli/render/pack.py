"""Output of `snapper pack` and `snapper import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snapper.cli.render import output
from snapper.cli.render.text import plural, size
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.pack import PackResult


def report(done: PackResult, as_json: bool) -> None:
    """Report what was packed."""
    if as_json:
        output.print_json(_fields(done))
        return
    for path, reason in done.skipped:
        output.notice(f"not packed: {path}: {reason}")
    output.print_paths(
        "these files contain the path of the environment and cannot be relocated", done.unrelocated
    )
    output.print_paths(
        "these symlinks point outside the environment and are packed as they are", done.outside
    )
    output.print_deviations("modified since conda installed the package", done.snapshot.altered)
    output.print_deviations("missing since conda installed the package", done.snapshot.missing)
    if done.unchanged:
        output.echo(
            f"{done.environment} is unchanged ({done.snapshot_id[:12]}): nothing to pack ({done.seconds:.1f} s)"
        )
        return
    packages = len(done.snapshot.packages) + len(done.snapshot.pip)
    output.echo(
        f" {done.environment} as {done.snapshot_id[:12]}: {plural(packages, 'package')}, "
        f"{plural(done.snapshot.files, 'file')}, {size(done.snapshot.size)}",
        label="Packed",
        style="green",
    )
    output.echo(
        f"  {plural(done.added_layers, 'new layer')}, {size(done.added_size)} added, {done.seconds:.1f} s"
    )
    output.echo(f"  store: {done.store}{' (this is its first environment)' if done.first else ''}")
    if done.replaced:
        step = done.replaced
        output.notice(
            f"  warning: this replaces {step.snapshot[:12]} (by {step.user}@{step.host} at {step.time}), which this "
            f"environment is not based on. Undo with: snapper rollback {done.environment}"
        )


def _fields(done: PackResult) -> dict[str, Any]:
    return {
        "environment": done.environment,
        "snapshot": done.snapshot_id,
        "unchanged": done.unchanged,
        "prefix": done.prefix,
        "store": done.store,
        "platform": done.snapshot.platform,
        "packages": len(done.snapshot.packages),
        "pip_packages": len(done.snapshot.pip),
        "files": done.snapshot.files,
        "size": done.snapshot.size,
        "stored_size": done.snapshot.stored_size,
        "layers": len(done.snapshot.layers),
        "added_layers": done.added_layers,
        "added_size": done.added_size,
        "altered": to_jsonable(done.snapshot.altered),
        "missing": to_jsonable(done.snapshot.missing),
        "skipped": [{"path": path, "reason": reason} for path, reason in done.skipped],
        "unrelocated": list(done.unrelocated),
        "outside": list(done.outside),
        "first": done.first,
        "replaced": to_jsonable(done.replaced),
        "seconds": round(done.seconds, 3),
    }
