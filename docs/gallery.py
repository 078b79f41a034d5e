"""Draw the gallery: run the commands on its page, and keep the pictures that they write.

``python docs/gallery.py``, from the root of the repository, as ``make docs`` does.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.test_examples import render, workplace

DOCS = Path(__file__).resolve().parent


def draw() -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    kept = DOCS / "_gallery"
    kept.mkdir(exist_ok=True)
    with workplace():
        render(page)
        for picture in Path.cwd().glob("*.png"):
            shutil.copy(picture, kept)


if __name__ == "__main__":
    draw()
