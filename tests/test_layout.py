"""Data flows one way: graphs, operators, layers, molecules; no package imports a later one."""

import ast
from pathlib import Path

import pytest

import plstm_graph

ROOT = Path(plstm_graph.__file__).parent
ORDER = ("dag", "ops", "nn", "molecules")


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", ORDER[:-1])
def test_no_package_imports_a_later_one(package):
    later = tuple(f"plstm_graph.{name}" for name in ORDER[ORDER.index(package) + 1 :])
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imported(path)
        if name and name.startswith(later)
    }
    assert not wrong
