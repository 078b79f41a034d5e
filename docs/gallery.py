"""Draw the pictures of pages: run the commands on them, and keep what they write.

``python docs/gallery.py``, from the root of the repository, as ``make docs`` does.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.test_examples import render, workplace

DOCS = Path(__file__).resolve().parent


def draw(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    kept = DOCS / "_gallery" / name
    kept.mkdir(exist_ok=True, parents=True)
    with workplace():
        render(page)
        for picture in Path.cwd().glob("*.png"):
            shutil.copy(picture, kept)


if __name__ == "__main__":
    for name in ("gallery", "pictures"):
        draw(name)
