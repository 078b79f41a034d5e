"""The rooms of p2fit and the directions between them, read off the code.

Imports go one way: a room imports from those before it in :data:`ORDER`, never from those after.
Late imports inside functions count, and so do those for types alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"p2fit": ROOT / "p2fit", "p2fit_adapters": ROOT / "adapters" / "p2fit_adapters"}

#: The rooms at the top of p2fit/, from the ground up; docs/architecture.md says what each is for.
ORDER = (
    "arrays",
    "errors",
    "arguments",
    "wording",
    "numerals",
    "extras",
    "results",
    "files",
    "scales",
    "metrics",
    "hull",
    "schedules",
    "diagnostics",
    "laws",
    "curves",
    "glossary",
    "logs",
    "solver",
    "uncertainty",
    "saved",
    "fit",
    "estimation",
    "bayes",
    "fitting",
    "plan",
    "judging",
    "show",
    "pictures",
    "reporting",
    "cli",
    "__main__",
)

#: Only these look a module up by its name, and why is said there.
BY_NAME = {"p2fit", "p2fit.results", "p2fit.show", "p2fit.cli"}

MOST_LINES = 450


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    top = PACKAGES[package]
    found = {}
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports, wherever in it; relative imports are not used."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known:
                    yield whole
                elif node.module in known:
                    yield str(node.module)


def graph(package: str) -> dict[str, set[str]]:
    """Module -> what it imports of its own package.

    The package itself is left out: what it re-exports is for users, and only its version is
    imported by its modules.
    """
    known = modules(package)
    found = {name: set(imports(path, known)) - {name, package} for name, path in known.items()}
    del found[package]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(package: str) -> None:
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_go_up_the_rooms_one_way() -> None:
    found = graph("p2fit")
    assert {room(module) for module in found} == set(ORDER)
    wrong = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if ORDER.index(room(other)) > ORDER.index(room(module))
    ]
    assert not wrong


def test_modules_are_looked_up_by_name_in_few_places() -> None:
    found = set()
    for name, path in modules("p2fit").items():
        if any(
            isinstance(node, ast.Name | ast.Attribute | ast.alias)
            and "import_module" in (getattr(node, f, "") for f in ("id", "attr", "name"))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        ):
            found.add(name)
    assert found == BY_NAME


def test_nothing_in_the_core_imports_torch() -> None:
    for name, path in modules("p2fit").items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            tops = {str(n).split(".")[0] for n in names}
            assert not tops & {"torch", "transformers", "p2fit_adapters"}, name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long_without_a_reason(package: str) -> None:
    for name, path in modules(package).items():
        text = path.read_text(encoding="utf-8")
        said = "long because" in (ast.get_docstring(ast.parse(text)) or "")
        assert said or len(text.splitlines()) <= MOST_LINES, name


def test_every_room_has_its_line_on_the_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in ORDER:
        folder = (ROOT / "p2fit" / name).is_dir()
        if name != "__main__":
            assert f"`{name}/`" in page if folder else f"`{name}.py`" in page, name
