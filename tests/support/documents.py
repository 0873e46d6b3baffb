"""Example documents of the format, with something in every field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snapper.format.model import (
    Continuation,
    Deviation,
    HistoryEntry,
    Kernel,
    Layer,
    Package,
    PipPackage,
    Ref,
    Relocation,
    Snapshot,
)

A, B = "a" * 64, "0123456789abcdef" * 4


def sample_layer(**changes: Any) -> Layer:
    """Return a layer with these changes."""
    relocations = (
        Relocation("text", "/opt/placeholder", ("bin/tool", "lib/\udcff")),
        Relocation("pyc", "/opt/placeholder", ()),
    )
    return replace(Layer(A, 10, B, 1024, "package", "p-1-0", 2, relocations), **changes)


def sample_snapshot(**changes: Any) -> Snapshot:
    """Return a snapshot with these changes."""
    snapshot = Snapshot(
        format=1,
        platform="linux-64",
        mode=0o755,
        packages=(Package("p", "1", "0", "linux-64", "conda-forge", "https://host/p", md5="x"),),
        pip=(PipPackage("naïve", "1.0"),),
        kernels=(Kernel("python3", "Python 3", "python"),),
        altered=(Deviation("p-1-0", ("a", "b")),),
        missing=(),
        layers=(
            sample_layer(),
            sample_layer(digest="c" * 64, kind="files", owner="", begins=Continuation("big", 700, 9000, 3)),
        ),
    )
    return replace(snapshot, **changes)


def sample_ref(**changes: Any) -> Ref:
    """Return a ref with two history entries and two tags, with these changes."""
    history = tuple(
        HistoryEntry(
            digest, "pack", "2026-01-01T00:00:00Z", "ada", "host", "/home/ada/\udcff", "why\n", 1, 2, 3, 4
        )
        for digest in (A, B)
    )
    return replace(Ref(1, "work", B, history, {"v1": A, "ω": B}), **changes)
