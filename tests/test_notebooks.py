"""The notebooks of examples/ run, and show what p2fit says now.

``python -m tests.test_notebooks`` runs them and keeps what they show, pictures included.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.test_examples import EXAMPLES, differences, workplace

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


class Kernel(AsyncKernelManager):
    """This Python, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> Any:
        words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=words, display_name="Python 3", language="python")


def executed(notebook: Any) -> Any:
    """A notebook after all its cells, run in the examples' folder."""
    os.environ["IPYTHONDIR"] = str(Path.cwd() / "ipython")  # no settings of the reader's own
    client = NotebookClient(
        notebook,
        kernel_manager_class=Kernel,
        timeout=300,
        resources={"metadata": {"path": "examples"}},
        record_timing=False,
    )
    client.execute()
    return notebook


def shown(notebook: Any) -> Iterator[str]:
    """What each cell shows, as lines whose cells two spaces separate."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                page = re.sub(r"<style.*?</style>|\n", "", data["text/html"], flags=re.DOTALL)
                page = re.sub(r"</t[dh]>", "  ", re.sub(r"</(tr|p|li)>", "\n", page))
                yield unescape(re.sub(r"<[^>]*>", "", page))
            elif "image/png" in data:
                yield "a picture"
            else:
                yield data.get("text/plain", output.get("text", ""))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_what_p2fit_says(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    with workplace():
        anew = executed(nbformat.read(path, as_version=4))
    old, new = list(shown(kept)), list(shown(anew))
    assert len(old) == len(new)
    wrong = [pair for a, b in zip(old, new) for pair in differences(a, b)]
    assert not wrong, f"{path.name} is out of date (python -m tests.test_notebooks): {wrong[:5]}"


def test_there_are_notebooks_with_pictures() -> None:
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        assert "a picture" in list(shown(nbformat.read(path, as_version=4)))


def rewrite() -> None:
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        with workplace():
            executed(notebook)
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(notebook, path)


if __name__ == "__main__":
    rewrite()
