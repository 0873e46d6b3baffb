"""Lists of files in reports: the user's own come first and are never left out, harmless ones are in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from snapper.cli.render.grouping import lines_by_owner, path_lines
from snapper.format.owners import order_by_owner
from tests.conftest import Machine
from tests.support.environments import make_data


def hold_prefix(prefix: Path, *paths: str) -> None:
    """Write files that contain the prefix in a form that cannot be changed."""
    for path in paths:
        file = prefix / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps({"data": f"{prefix}/data.csv"}))


#: Files in which nobody notices another prefix.
HARMLESS = (
    *(f"lib/lib{number}.a" for number in range(12)),
    "lib/python3.12/site-packages/__pycache__/model.predict-3.py312.1.nbc",
    "notebooks/.ipynb_checkpoints/model-checkpoint.pkl",
    "var/cache/fontconfig/0123.cache-9",
)


def test_own_files_are_reported_before_harmless_ones(machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    hold_prefix(prefix, "model.pkl", *HARMLESS)
    outcome = machine.snapper("pack", "-p", prefix)
    assert outcome.code == 3
    listed = [line for line in outcome.err.splitlines() if line.startswith("    ")]
    assert listed[0] == "    model.pkl"
    assert listed[1].startswith("    and 12 static libraries and 3 files in caches")
    assert len(listed) == 2, outcome
    again = machine.snapper("pack", "-p", prefix, "--json")
    assert set(again.json["unrelocated"]) == {"model.pkl", *HARMLESS}
    assert outcome.err.endswith(machine.snapper("pack", "-p", prefix).err)


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_all_own_files_are_named(quiet: list[str], machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    paths = [f"results/run{number:02}.pkl" for number in range(30)]
    hold_prefix(prefix, *paths)
    outcome = machine.snapper("pack", "-p", prefix, *quiet)
    assert outcome.code == 3
    for path in paths:
        assert f"    {path}\n" in outcome.err
    assert "more" not in outcome.err


def test_only_harmless_files_are_one_line(machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    hold_prefix(prefix, "lib/libone.a")
    outcome = machine.snapper("pack", "-p", prefix)
    assert outcome.code == 3
    assert "    and 1 static library, where it does no harm (--json lists all)" in outcome.err


def test_own_files_precede_those_of_pip_and_packages() -> None:
    kinds = {"a": "package", "b": "link", "c": "pip", "d": "files", "e": "files"}
    ordered = order_by_owner(kinds)  # type: ignore[arg-type]
    assert ordered == (("d", "e", "c", "a", "b"), 3)


def test_many_files_of_packages_do_not_hide_own_files_in_their_directory() -> None:
    packaged = [f"lib/python/x/{name}.so" for name in range(40)] + [f"lib/{name}.so" for name in range(40)]
    assert lines_by_owner(["lib/model.pkl", *packaged], 1) == [
        "lib/model.pkl",
        "lib/python/x/: 40 files",
        "lib/: 40 files",
    ]


def test_very_many_files_are_listed_by_directory() -> None:
    runs = [f"runs/{run}/{step}/state.pkl" for run in range(20) for step in range(30)]
    assert path_lines(["model.pkl", *runs]) == ["model.pkl", *(f"runs/{run}/: 30 files" for run in range(20))]
    assert path_lines([f"{number}/{file}" for number in range(60) for file in "ab"])[-1] == "59/: 2 files"
    assert path_lines([f"{number}" for number in range(60)]) == [f"{number}" for number in range(60)]
    assert path_lines([]) == []
