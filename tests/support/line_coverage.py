"""A pytest plugin that measures which lines of snapper the tests run, in their own processes and in forks of them.

The measuring is coverage.py's. What is special is how processes report: coverage.py writes a database for each, which
takes longer than many of the commands that tests run. Here each process appends one line to a file, a JSON object of
`{source file: lines that were run, as a bit mask in hexadecimal}`, and the pytest process that started first adds them
up. Processes that tests start by other means than a fork are not measured.

    python -m pytest -p tests.support.line_coverage
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, cast

import pytest
from coverage import Coverage

SOURCE = Path(__file__).parents[2] / "snapper"

#: The file that processes report to; only set while measuring.
VARIABLE = "SNAPPER_TEST_COVERAGE"


class Measurement:
    """The lines of snapper that are run in this process, and in its forks if they `report_at_exit`."""

    def __init__(self, report: str) -> None:
        self._report = report
        self._reported_by = 0
        self._coverage = _new_coverage()
        self._coverage.start()
        os.register_at_fork(after_in_child=self._forget)

    @property
    def _lines(self) -> dict[str, set[int]]:
        """The lines run so far, by file; coverage.py's public functions copy them to a database first."""
        assert self._coverage._collector
        return cast(dict[str, set[int]], self._coverage._collector.data)

    def _forget(self) -> None:
        """Forget the lines run before the fork: the other process reports them."""
        for lines in self._lines.values():
            lines.clear()

    def report(self) -> None:
        """Append the lines run so far in this process; only the first call in a process has an effect."""
        if self._reported_by == os.getpid():
            return
        self._reported_by = os.getpid()
        masks = {file: hex(_mask(lines)) for file, lines in self._lines.copy().items() if lines}
        with open(self._report, "ab", buffering=0) as file:
            file.write(json.dumps(masks).encode() + b"\n")

    def stop(self) -> None:
        self._coverage.stop()

    def report_at_exit(self) -> None:
        """Have this process and its forks report when they end, by `os._exit` too."""
        atexit.register(self._try_to_report)
        end = os._exit

        def report_and_exit(status: int) -> NoReturn:
            self._try_to_report()
            end(status)

        os._exit = report_and_exit

    def _try_to_report(self) -> None:
        with suppress(
            Exception
        ):  # a test may have left the process without disk space, descriptors or rights
            self.report()


def _new_coverage() -> Coverage:
    measured = Coverage(data_file=None, config_file=False, include=[f"{SOURCE}/*"])
    measured.set_option("run:disable_warnings", ["no-data-collected"])
    if sys.version_info >= (3, 12):
        measured.set_option("run:core", "sysmon")
    return measured


def _mask(lines: Iterable[int]) -> int:
    mask = 0
    for line in lines:
        mask |= 1 << line
    return mask


def _lines(mask: int) -> list[int]:
    return [line for line in range(mask.bit_length()) if mask >> line & 1]


def table(report: Path) -> Iterator[str]:
    """Yield the lines of a table of how much of each package of snapper was run."""
    masks: defaultdict[str, int] = defaultdict(int)
    with report.open("rb") as file:
        for process in file:
            for source, mask in json.loads(process).items():
                masks[source] |= int(mask, 16)
    measured = _new_coverage()
    measured.exclude(r"if TYPE_CHECKING:")
    measured.get_data().add_lines({source: _lines(mask) for source, mask in masks.items()})
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for source in sorted(SOURCE.rglob("*.py")):
        _, statements, _, missing, _ = measured.analysis2(str(source))
        top, *below = source.relative_to(SOURCE).parts
        for name in (f"snapper.{top}" if below else "snapper", "total"):
            counts[name][0] += len(statements)
            counts[name][1] += len(missing)
    total = counts.pop("total")
    yield f"{'package':24} {'lines':>6} {'missed':>6} {'covered':>7}"
    for name, (lines, missed) in [*sorted(counts.items()), ("total", total)]:
        yield f"{name:24} {lines:6} {missed:6} {1 - missed / max(lines, 1):7.1%}"


# --- the plugin -------------------------------------------------------------------------------------------


class _Measuring:
    """In each pytest process."""

    def __init__(self, report: str) -> None:
        self._measurement = Measurement(report)
        self._measurement.report_at_exit()

    def pytest_sessionfinish(self) -> None:
        self._measurement.stop()
        self._measurement.report()


class _Summary:
    """In the pytest process that started first."""

    def __init__(self, report: str) -> None:
        self._report = Path(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("coverage")
        for line in table(self._report):
            terminalreporter.write_line(line)
        self._report.unlink()


def pytest_configure(config: pytest.Config) -> None:
    if VARIABLE not in os.environ:
        descriptor, os.environ[VARIABLE] = tempfile.mkstemp(prefix="snapper-coverage-")
        os.fchmod(descriptor, 0o666)  # some tests run processes as another user
        os.close(descriptor)
        config.pluginmanager.register(_Summary(os.environ[VARIABLE]))
    config.pluginmanager.register(_Measuring(os.environ[VARIABLE]))
