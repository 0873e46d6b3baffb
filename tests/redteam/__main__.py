"""Attack two versions of snapper, and write a table of what each withstood.

python -m tests.redteam /path/to/other/snapper
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.support.redteam.accounts import AttackSucceeded

_HERE = Path(__file__).parent
_LONGEST = 90

_HEAD = """# Results of the red team

What the attacks of `tests/redteam` achieved against an earlier version and a commit of this one.
`python -m tests.redteam SNAPPER` writes this file. Each row is an attack, and where it says so, one of its variants.
"""


class Attack(NamedTuple):
    """A test, and which of its parameters, empty if it has none."""

    module: str
    function: str
    variant: str


Outcomes = Mapping[Attack, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapper", help="the executable of the other version")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS.md", help="default: %(default)s")
    options = parser.parse_args()
    other = _attack("--snapper", options.snapper)
    now = _attack()
    columns = {_version(options.snapper): other, _commit(): now}
    options.output.write_text("\n".join(_table(columns)))


def _attack(*options: str) -> Outcomes:
    """Run all attacks, and return what each achieved."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", str(_HERE), "--ignore", str(_HERE / "test_workflows.py")]
        command += ["--long", "--junitxml", report.name, "-q", "--tb=line", *options]
        subprocess.run(command, check=False)
        return dict(map(_outcome, ElementTree.parse(report.name).iter("testcase")))


def _outcome(case: ElementTree.Element) -> tuple[Attack, str]:
    function, _, variant = case.attrib["name"].partition("[")
    attack = Attack(case.attrib["classname"].rpartition(".")[2], function, variant.removesuffix("]"))
    skipped = case.find("skipped")
    if skipped is not None:
        return attack, f"not tried: {skipped.attrib['message']}"
    failures = [*case.findall("failure"), *case.findall("error")]
    if not failures:
        return attack, "withstood"
    message = failures[0].attrib["message"]
    kind, _, achieved = message.partition(": ")
    if kind.rpartition(".")[2] != AttackSucceeded.__name__:
        return attack, f"**error**: {_shorten(message)}"
    return attack, f"**{_shorten(achieved)}**"


def _shorten(text: str) -> str:
    """Return the text without temporary paths, in one line of a table."""
    text = re.sub(r"/\S*?snapper-world-\w+/", "", " ".join(text.split())).replace("|", "\\|")
    text = re.sub(r'File "/\S*?/(?=[^/"]+/[^/"]+")', 'File "', text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _version(snapper: str) -> str:
    done = subprocess.run([snapper, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def _commit() -> str:
    """Return the commit that is attacked."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=_HERE, check=True, capture_output=True, text=True).stdout.strip()


def _table(columns: Mapping[str, Outcomes]) -> Iterator[str]:
    """Yield the lines of the file: a section for each module, with a table."""
    yield _HEAD
    attacks = list(dict.fromkeys(attack for outcomes in columns.values() for attack in outcomes))
    for version, outcomes in columns.items():
        withstood = sum(outcome == "withstood" for outcome in outcomes.values())
        tried = sum(not outcome.startswith("not tried") for outcome in outcomes.values())
        yield f"- {version}: withstood {withstood} of {tried}"
    for module in dict.fromkeys(attack.module for attack in attacks):
        yield f"\n## {_title(module)}\n"
        yield f"| attack | variant | {' | '.join(columns)} |"
        yield f"|---|---|{'---|' * len(columns)}"
        for attack in attacks:
            if attack.module == module:
                cells = [outcomes.get(attack, "") for outcomes in columns.values()]
                variant = attack.variant.replace("|", "\\|")
                yield f"| {_description(attack)} | {variant and f'`{variant}`'} | {' | '.join(cells)} |"
    yield ""


def _title(module: str) -> str:
    """Return the first line of the module's docstring."""
    text = importlib.import_module(f"tests.redteam.{module}").__doc__ or module
    return text.splitlines()[0].rstrip(".")


def _description(attack: Attack) -> str:
    """Return the first sentence of the test's docstring, or its name."""
    function = getattr(importlib.import_module(f"tests.redteam.{attack.module}"), attack.function)
    text = " ".join((function.__doc__ or attack.function.removeprefix("test_").replace("_", " ")).split())
    return text.replace("|", "\\|").rstrip(".")


if __name__ == "__main__":
    main()
