"""The table of contents of `mi_ext.dropin` is true."""

import ast
import importlib
import re
import sys
from pathlib import Path

import mi_ext.dropin

FOLDER = Path(mi_ext.dropin.__file__).parent
ROW = re.compile(r"^    ([a-z_]+) {2,}\S.*? {2,}(\w.*)$")


def contents() -> dict[str, list[str]]:
    """Module → names, from the table, whose last column may go on in further lines."""
    found, table = {}, mi_ext.dropin.__doc__.split("\n\n")[1].splitlines()[1:]
    for line in table:
        row = ROW.match(line)
        if row:
            module, names = row.groups()
            found[module] = names.split(", ")
        else:
            found[module] += line.strip().split(", ")
    return {module: [name.rstrip(",") for name in names] for module, names in found.items()}


def test_every_module_is_listed_and_has_the_names():
    modules = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert contents().keys() == modules
    for module, names in contents().items():
        imported = importlib.import_module(f"mi_ext.dropin.{module}")
        assert [name for name in names if not hasattr(imported, name)] == []


def test_no_peer_is_needed():
    """Files import torch and mi_ext; a peer's types are asked for inside of functions."""
    for path in FOLDER.glob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom) and statement.level == 0:
                names.append(statement.module)
            assert {name.partition(".")[0] for name in names} <= {"torch", *sys.stdlib_module_names}, path.name
