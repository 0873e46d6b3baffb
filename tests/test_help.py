"""Help texts: the same on every terminal and with every supported typer, and recorded in tests/golden."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapper.cli.app import run
from tests.support.command_tree import command_of, commands, takes_value

Golden = Callable[[str, str], None]


@pytest.fixture
def help_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[tuple[str, ...], int], str]:
    def show(words: tuple[str, ...], columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run([*words, "--help"]) == 0
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("words", [*commands()], ids=lambda words: "-".join(words) or "snapper")
def test_help_matches_the_recorded_text(
    words: tuple[str, ...], help_of: Callable[[tuple[str, ...], int], str], golden: Golden
) -> None:
    text = help_of(words, 80)
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("  snapper"))
    golden("-".join(["help", *words]) + ".txt", text)


def test_wide_terminals_do_not_widen_help_beyond_100_columns(
    help_of: Callable[[tuple[str, ...], int], str],
) -> None:
    text = help_of(("restore",), 300)
    assert 80 < max(map(len, text.splitlines())) <= 100
    assert help_of(("restore",), 10) == help_of(("restore",), 40)


def test_every_recorded_text_belongs_to_a_command() -> None:
    recorded = {file.stem for file in (Path(__file__).parent / "golden").glob("help*.txt")}
    assert recorded == {"-".join(["help", *words]) for words in commands()}


@pytest.mark.parametrize("words", [*commands()], ids=lambda words: "-".join(words) or "snapper")
def test_every_command_is_documented_completely(words: tuple[str, ...]) -> None:
    """It has a sentence, examples that call it, and a text and a metavar (not one that typer made up) per parameter."""
    command = command_of(*words)
    summary, _, rest = command.help.partition("\n\n")
    assert summary.endswith(".")
    examples = rest.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.strip().startswith(" ".join(["snapper", *words])) for line in examples)
    options = {name for param in command.params for name in param.opts}
    assert {"--verbose", "-v", "--quiet", "-q"} <= options
    for param in command.params:
        if "completion" in param.name:
            continue
        assert param.help.endswith("."), param.name
        assert bool(param.metavar) == takes_value(param), param.name


def test_examples_name_only_options_that_exist() -> None:
    for words in commands():
        options = {name for param in command_of(*words).params for name in param.opts}
        for line in command_of(*words).help.partition("Examples:\n")[2].splitlines():
            if words:
                assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= options, line


def test_help_has_no_colors_unless_on_a_terminal(machine: Any) -> None:
    assert "\x1b" not in machine.snapper("--help").out + machine.snapper("pack", "--help").out


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["restor"], "restore"),
        (["lst"], "list"),
        (["kernels", "registr"], "register"),
        (["pack", "--naem", "x"], "--name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misspelled_words_are_answered_with_a_suggestion(
    arguments: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert f"Did you mean '{suggestion}'?" in capsys.readouterr().err
