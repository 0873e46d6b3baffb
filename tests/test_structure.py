"""The structure of the test suite, and rules for the code that linters do not know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SNAPPER = TESTS.parent / "snapper"


@pytest.mark.parametrize("file", sorted(TESTS.glob("test_*.py")), ids=lambda file: file.stem)
def test_test_modules_do_not_import_each_other(file: Path) -> None:
    """What several of them need is in `tests/support`."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    assert not {name for name in imported if name.startswith("tests.test_")}


# --- access to files that others may have written -----------------------------------------------------------

#: Packages that handle paths which a publisher or another user may control.
CHECKED = ("environment", "kernels", "archives", "restoring", "packing", "store", "commands", "checks")

#: Methods of paths and functions that follow links to wherever they lead, or read without a limit.
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text", "open", "rename", "unlink", "rmdir"}
OS_FUNCTIONS = {"open", "rename", "replace", "renames", "remove", "unlink", "rmdir"}

#: Exceptions, by module and function, and why each is safe.
PRIVATE_DIRECTORY = "the directory is a private temporary one, and no links have been made in it yet"
FOUND_BY_WALK = (
    "the directory is a private temporary one, and a walk that follows no links has found the path"
)
NOT_A_FILE = "this opens no file by its path"
NAMED_BY_USER = "the user has named the file, and it is read as a stream"
ALLOWED = {
    "archives/condapack.py:write_archive": PRIVATE_DIRECTORY,
    "archives/importer.py:_restore_environment": PRIVATE_DIRECTORY,
    "archives/portable.py:_make_link_relative": FOUND_BY_WALK,
    "archives/readback.py:_has_contents": FOUND_BY_WALK,
    "archives/reader.py:_tar": NAMED_BY_USER,
    "archives/reader.py:_zip": NOT_A_FILE,
    "archives/reader.py:_zip_entry": NOT_A_FILE,
    "archives/reader.py:_squashfs": FOUND_BY_WALK,
    "archives/squashfs.py:_output": PRIVATE_DIRECTORY,
    "restoring/layer_comparison.py:compare_layer": NOT_A_FILE,
    "checks/contents.py:list_layer": NOT_A_FILE,
    "commands/export.py:_remove_added_files": FOUND_BY_WALK,
    "environment/locations.py:register_with_conda": "it is checked before that only this user controls the file",
    "restoring/layer_writer.py:extract_layer": NOT_A_FILE,
    "store/s3/download.py:_fill": NOT_A_FILE,
}


def unsafe_calls(node: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """Yield the calls below the node that open, replace or remove files by their paths, each after its function."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if isinstance(node, ast.Call) and is_unsafe(node):
        yield function, f"line {node.lineno}: {ast.unparse(node)}"
    for child in ast.iter_child_nodes(node):
        yield from unsafe_calls(child, function)


def is_unsafe(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):  # `open` of a descriptor is safe
        return call.func.id == "open" and ast.unparse(call.args[0]) != "descriptor"
    if not isinstance(call.func, ast.Attribute) or {"dir_fd", "src_dir_fd"} & {
        key.arg for key in call.keywords
    }:
        return False
    owner, name = ast.unparse(call.func.value), call.func.attr
    if owner == "os":
        opens_directory = name == "open" and {"LOOKUP", "LISTING"} & names_in(call)
        return name in OS_FUNCTIONS and not opens_directory
    if owner == "shutil":
        return name.startswith(("copy", "move", "rmtree"))
    is_path_replace = name == "replace" and len(call.args) == 1 and not call.keywords
    return name in METHODS or is_path_replace


def names_in(call: ast.Call) -> set[str]:
    return {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}


def test_files_of_others_are_only_accessed_through_primitives() -> None:
    """Use `fs.small_files`, `fs.beneath`, `fs.directories`, `fs.moves` and `fs.atomic`; see CONTRIBUTING.md."""
    found: dict[str, str] = {}
    for package in CHECKED:
        for file in (SNAPPER / package).rglob("*.py"):
            for function, call in unsafe_calls(ast.parse(file.read_text())):
                found[f"{file.relative_to(SNAPPER)}:{function}"] = call
    unsafe = {where: call for where, call in found.items() if where not in ALLOWED}
    assert not unsafe
    assert ALLOWED.keys() <= found.keys(), "remove exceptions that are not needed"


@pytest.mark.parametrize(
    ("code", "unsafe"),
    [
        ("path.read_bytes()", True),
        ("open(path)", True),
        ("open(descriptor, 'rb')", False),
        ("os.open(path, os.O_RDONLY)", True),
        ("os.open(name, os.O_RDONLY, dir_fd=directory)", False),
        ("os.open(top, LOOKUP & ~os.O_NOFOLLOW)", False),
        ("os.rename(name, other, src_dir_fd=one, dst_dir_fd=two)", False),
        ("os.replace(path, other)", True),
        ("path.replace(other)", True),
        ("text.replace('a', 'b')", False),
        ("shutil.copyfile(path, other)", True),
        ("shutil.which(name)", False),
        ("path.unlink()", True),
    ],
)
def test_unsafe_calls_are_found(code: str, unsafe: bool) -> None:
    assert [function for function, _ in unsafe_calls(ast.parse(f"def f():\n    x = {code}"))] == [
        "f"
    ] * unsafe
