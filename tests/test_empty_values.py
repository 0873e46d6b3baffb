"""An empty value, which an unset shell variable leaves, is wrong usage: never a default, a pattern, or a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snapper
from snapper.errors import UsageError
from tests.support.command_tree import command_of, commands, takes_value
from tests.support.environments import make_data


@pytest.mark.parametrize("words", [*commands()], ids=lambda words: "-".join(words) or "snapper")
def test_every_option_and_argument_refuses_an_empty_value(words: tuple[str, ...]) -> None:
    command = command_of(*words)
    lines = [*empty_options(command), *empty_arguments(command)]
    for line in lines:
        with pytest.raises(UsageError, match=r"\A[^ ]+ is empty\Z") as raised:
            command.make_context("snapper", list(line))
        assert raised.value.hint.startswith("A shell variable may be unset. Give a value"), line


def empty_options(command: Any) -> Iterator[list[str]]:
    """Yield a command line with an empty value for each option, in each form."""
    for param in command.params:
        if param.param_type_name != "option" or not takes_value(param) or "completion" in param.name:
            continue
        for name in param.opts:
            yield [f"{name}="]
            if not param.metavar.startswith("[="):
                yield [name, ""]
                yield [name, "", *(["x", name, "x"] if param.multiple else [])]


def empty_arguments(command: Any) -> Iterator[list[str]]:
    """Yield a command line with an empty value for each argument, after those before it, and last in a list."""
    before: list[str] = []
    for param in command.params:
        if param.param_type_name == "argument":
            yield [*before, ""]
            yield ["--", *before, ""]
            before.append("x")
            if param.nargs == -1:
                yield [*before, ""]


def test_completion_of_an_empty_word_is_no_mistake() -> None:
    context = command_of("restore").make_context("restore", ["--prefix", ""], resilient_parsing=True)
    assert context.params


@pytest.mark.parametrize(
    "call",
    [
        lambda store, directory: snapper.open_store(""),
        lambda store, directory: snapper.restore(store, "data", prefix=""),
        lambda store, directory: snapper.restore(store, "data", envs_dir=""),
        lambda store, directory: snapper.restore(store, "data@"),
        lambda store, directory: [*snapper.restore_all(store, except_=[""])],
        lambda store, directory: snapper.rollback(store, "data@"),
        lambda store, directory: snapper.RetentionPolicy(1, tags=("",)),
        lambda store, directory: snapper.pack(store, directory, name=""),
        lambda store, directory: snapper.import_archive(store, directory / "data.tar.gz", name=""),
        lambda store, directory: snapper.import_archive(store, ""),
        lambda store, directory: snapper.export(store, "data", ""),
        lambda store, directory: snapper.verify_environment(store, directory, ""),
    ],
)
def test_functions_of_the_api_refuse_empty_values(
    call: Callable[[snapper.Store, Path], object], tmp_path: Path
) -> None:
    directory = make_data(tmp_path / "data")
    store = snapper.open_store(tmp_path / "store", create=True)
    with pytest.raises(UsageError, match=r"is empty|^'' is not a valid environment name"):
        call(store, directory)
