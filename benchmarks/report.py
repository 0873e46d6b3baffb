"""Render results: tables of medians, and each target with how far it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Runs = Mapping[str, Sequence[Mapping[str, float]]]

_MB = 1e6


@dataclass(frozen=True)
class Target:
    """A value of the results that must be at most `limit`, in `unit`."""

    case: str
    what: str
    limit: float
    value: Callable[[_Values], float]
    unit: str = ""


class _Values:
    """Medians and figures of one file system, by name."""

    def __init__(self, runs: Runs, figures: Mapping[str, int]) -> None:
        self._runs, self._figures = runs, figures

    def seconds(self, name: str) -> float:
        return statistics.median(run["seconds"] for run in self._runs[name])

    def ratio(self, name: str, other: str) -> float:
        return self.seconds(name) / self.seconds(other)

    def sizes(self, name: str, other: str) -> float:
        return self._figures[name] / self._figures[other]

    def figure(self, name: str) -> float:
        return self._figures[name]

    def memory(self, *names: str) -> float:
        return max(run["memory"] for name in names for run in self._runs[name]) / _MB


_ANY = (
    "pack",
    "restore",
    "pack, nothing changed",
    "pack, one small package more",
    "restore, one package more",
)
_TEN = "restore --all, ten already present"
_MORE = "pack, one small package more"
_SECOND = "second environment, 90% in common"


def _ratio(name: str, other: str) -> Callable[[_Values], float]:
    return lambda values: values.ratio(name, other)


def _sizes(name: str, other: str) -> Callable[[_Values], float]:
    return lambda values: values.sizes(name, other)


def _seconds(name: str, limit: float) -> Target:
    return Target(name, "total", limit, lambda values: values.seconds(name), "s")


TARGETS = (
    Target("pack", "of conda-pack -j 2 to .tar.gz", 0.2, _ratio("pack", "conda-pack -j 2, .tar.gz")),
    Target("pack", "of the bytes that it stores", 1, _sizes("snapper store", "conda-pack.tar.gz")),
    _seconds("pack, nothing changed", 1.0),
    Target("pack, nothing changed", "added", 0, lambda values: values.figure("added, nothing changed"), "B"),
    _seconds(_MORE, 2.0),
    Target(
        _MORE, "of the package's own layers", 1.3, _sizes("added, one package more", "that package's layers")
    ),
    Target(
        _SECOND,
        "of its time in an empty store",
        1 / 3,
        _ratio("pack, 90% in common with another", "pack, in an empty store"),
    ),
    Target(
        _SECOND, "of the bytes of the first", 0.15, _sizes("added, 90% in common", "the first environment")
    ),
    Target("restore", "of tar xzf + conda-unpack", 0.27, _ratio("restore", "tar + conda-unpack, .tar.gz")),
    Target("restore", "of tar --zstd -xf", 0.55, _ratio("restore", "tar --zstd, not relocated")),
    Target("restore", "of the lower bound", 1.5, _ratio("restore", "lower bound: two tar -x, uncompressed")),
    _seconds("restore, one package more", 2.0),
    _seconds("restore, one package less", 2.0),
    _seconds(_TEN, 0.6),
    Target("memory, any of these", "peak", 400, lambda values: values.memory(*_ANY), "MB"),
    Target(
        "memory, twice the files",
        "peak",
        400,
        lambda values: values.memory("pack, twice", "restore, twice"),
        "MB",
    ),
    Target("pack, twice the files", "of the time for one copy", 2.2, _ratio("pack, twice", "pack, once")),
    Target(
        "restore, twice the files", "of the time for one copy", 2.2, _ratio("restore, twice", "restore, once")
    ),
    _seconds("snapper --help", 0.25),
    _seconds("snapper list", 0.35),
)


def table(runs: Runs) -> list[str]:
    """Return one Markdown table row per case."""
    lines = [
        "| case | seconds | spread | CPU s | memory MB | read MB | written MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, measurements in runs.items():
        times = [run["seconds"] for run in measurements]

        def median(key: str, runs: Sequence[Mapping[str, float]] = measurements) -> float:
            return statistics.median(run[key] for run in runs)

        lines.append(
            f"| {name} | {median('seconds'):.2f} | {min(times):.2f} - {max(times):.2f} | {median('cpu'):.1f} "
            f"| {max(run['memory'] for run in measurements) / _MB:.0f} | {median('read') / _MB:,.0f} "
            f"| {median('written') / _MB:,.0f} |"
        )
    return lines


def targets(runs: Runs, figures: Mapping[str, int]) -> list[str]:
    """Return one Markdown table row per target; targets whose cases did not run are omitted."""
    lines = ["| case | | measured | target | |", "|---|---|--:|--:|---|"]
    values = _Values(runs, figures)
    for target in TARGETS:
        try:
            value = target.value(values)
        except (KeyError, ValueError):
            continue
        unit = f" {target.unit}" if target.unit else ""
        verdict = "met" if value <= target.limit else f"missed by {value - target.limit:.2f}{unit}"
        lines.append(
            f"| {target.case} | {target.what} | {value:.2f}{unit} | {target.limit:.2f}{unit} | {verdict} |"
        )
    return lines


def document(results: Mapping[str, Any]) -> str:
    """Return all results as a Markdown document."""
    first = next(iter(results["places"].values()))
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [
        f"# {results['recipe']}: {first['files']:,} files, {first['size'] / 1e9:.1f} GB",
        "",
        f"Made by `python -m benchmarks`: medians of {results['rounds']} alternating rounds. {machine}.",
        "Memory is the peak of the whole process tree; read and written count bytes passed through system calls, "
        "from disk or not.",
    ]
    for place, result in results["places"].items():
        lines += [
            "",
            f"## On {place}",
            "",
            *targets(result["runs"], result["figures"]),
            "",
            *table(result["runs"]),
        ]
        if result["figures"]:
            lines += ["", *(f"- {name}: {size:,} bytes" for name, size in result["figures"].items())]
    return "\n".join(lines) + "\n"


def text(lines: Iterable[str]) -> str:
    """Return a Markdown table as aligned columns for terminals."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
