"""What came of it, for people: tables of medians, and each bar with how far it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Runs = Mapping[str, Sequence[Mapping[str, float]]]

_MB = 1e6


@dataclass(frozen=True)
class Bar:
    """What is demanded: a value of the results that is to be at most `limit`, in `unit`."""

    case: str
    what: str
    limit: float
    value: Callable[[_Values], float]
    unit: str = ""


class _Values:
    """Medians and figures of one place, by name."""

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
_TEN = "restore --all, ten there already"
_MORE = "pack, one small package more"
_SECOND = "second environment, 90% in common"


def _ratio(name: str, other: str) -> Callable[[_Values], float]:
    return lambda found: found.ratio(name, other)


def _sizes(name: str, other: str) -> Callable[[_Values], float]:
    return lambda found: found.sizes(name, other)


def _seconds(name: str, limit: float) -> Bar:
    return Bar(name, "in all", limit, lambda found: found.seconds(name), "s")


BARS = (
    Bar("pack", "of conda-pack -j 2 to .tar.gz", 0.2, _ratio("pack", "conda-pack -j 2, .tar.gz")),
    Bar("pack", "of the bytes that it stores", 1, _sizes("snapper store", "conda-pack.tar.gz")),
    _seconds("pack, nothing changed", 1.0),
    Bar("pack, nothing changed", "added", 0, lambda found: found.figure("added, nothing changed"), "B"),
    _seconds(_MORE, 2.0),
    Bar(
        _MORE, "of the package's own layers", 1.3, _sizes("added, one package more", "that package's layers")
    ),
    Bar(
        _SECOND,
        "of its time alone",
        1 / 3,
        _ratio("pack, 90% in common with another", "pack, in an empty store"),
    ),
    Bar(_SECOND, "of the bytes of the first", 0.15, _sizes("added, 90% in common", "the first environment")),
    Bar("restore", "of tar xzf + conda-unpack", 0.27, _ratio("restore", "tar + conda-unpack, .tar.gz")),
    Bar("restore", "of tar --zstd -xf", 0.55, _ratio("restore", "tar --zstd, not relocated")),
    Bar("restore", "of the floor", 1.5, _ratio("restore", "floor: two tar -x, uncompressed")),
    _seconds("restore, one package more", 2.0),
    _seconds("restore, one package less", 2.0),
    _seconds(_TEN, 0.6),
    Bar("memory, any of these", "at once", 400, lambda found: found.memory(*_ANY), "MB"),
    Bar(
        "memory, twice the files",
        "at once",
        400,
        lambda found: found.memory("pack, twice", "restore, twice"),
        "MB",
    ),
    Bar("pack, twice the files", "of the time for once", 2.2, _ratio("pack, twice", "pack, once")),
    Bar("restore, twice the files", "of the time for once", 2.2, _ratio("restore, twice", "restore, once")),
    _seconds("snapper --help", 0.25),
    _seconds("snapper list", 0.35),
)


def table(runs: Runs) -> list[str]:
    """The cases, a line each, as Markdown."""
    lines = [
        "| case | seconds | spread | CPU s | memory MB | read MB | written MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in runs.items():
        times = [run["seconds"] for run in found]

        def middle(key: str, found: Sequence[Mapping[str, float]] = found) -> float:
            return statistics.median(run[key] for run in found)

        lines.append(
            f"| {name} | {middle('seconds'):.2f} | {min(times):.2f} - {max(times):.2f} | {middle('cpu'):.1f} "
            f"| {max(run['memory'] for run in found) / _MB:.0f} | {middle('read') / _MB:,.0f} "
            f"| {middle('written') / _MB:,.0f} |"
        )
    return lines


def bars(runs: Runs, figures: Mapping[str, int]) -> list[str]:
    """The bars, a line each, as Markdown; those whose cases were not run are left out."""
    lines = ["| case | | found | bar | |", "|---|---|--:|--:|---|"]
    values = _Values(runs, figures)
    for bar in BARS:
        try:
            found = bar.value(values)
        except (KeyError, ValueError):
            continue
        unit = f" {bar.unit}" if bar.unit else ""
        verdict = "met" if found <= bar.limit else f"missed by {found - bar.limit:.2f}{unit}"
        lines.append(f"| {bar.case} | {bar.what} | {found:.2f}{unit} | {bar.limit:.2f}{unit} | {verdict} |")
    return lines


def document(results: Mapping[str, Any]) -> str:
    """All results as a Markdown document."""
    first = next(iter(results["places"].values()))
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [
        f"# {results['recipe']}: {first['files']:,} files, {first['size'] / 1e9:.1f} GB",
        "",
        f"Made by `python -m benchmarks`: medians of {results['rounds']} alternating rounds. {machine}.",
        "Memory is the most that the whole process tree had at once; read and written is what went through system "
        "calls, from disks or not.",
    ]
    for place, found in results["places"].items():
        lines += [
            "",
            f"## On {place}",
            "",
            *bars(found["runs"], found["figures"]),
            "",
            *table(found["runs"]),
            "",
        ]
        lines += [f"- {name}: {size:,} bytes" for name, size in found["figures"].items()]
    return "\n".join(lines) + "\n"


def text(lines: Iterable[str]) -> str:
    """A Markdown table in columns, for terminals."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
