"""Every link of the built pages leads to a page, a file or a heading that is there.

``python docs/links.py FOLDER``; addresses of the web are not called.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The targets in a page, and the places that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


@cache
def read(path: Path) -> Page:
    return Page(path)


def dead(folder: Path) -> list[str]:
    """The links that lead nowhere, each with its page."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        for link in read(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.is_file() and (
                not parts.fragment
                or target.suffix != ".html"
                or unquote(parts.fragment) in read(target).places
            )
            if not there:
                found.append(f"{path.relative_to(folder)}: {link}")
    return found


if __name__ == "__main__":
    wrong = dead(Path(sys.argv[1]).resolve())
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(bool(wrong))
