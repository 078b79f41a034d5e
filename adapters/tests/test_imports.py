"""Modules know those below them, and none knows, through others, itself."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import p2fit_adapters

ROOT = Path(p2fit_adapters.__file__).parent


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules of this package that a module names, also inside functions and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {str(node.module)}
    return found & MODULES.keys()


def test_imports_go_one_way() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    assert len(graph) > 20
    TopologicalSorter(graph).prepare()  # raises on a circle


def test_no_module_is_too_long_to_read() -> None:
    assert {n for n, p in MODULES.items() if len(p.read_text().splitlines()) > 450} == set()
