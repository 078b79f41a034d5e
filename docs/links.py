"""Every link of the built pages leads to a page, a file or a heading that is there.

``python docs/links.py FOLDER``. Addresses of the web are called: one that is gone is a dead link,
one that cannot be reached from here is counted, and no more is said of it.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import Request, urlopen


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


# ---------------------------------------------------------------- the web


_GONE = (404, 410)
_PATIENCE = 10  # seconds
_AT_ONCE = 16


def gone(folder: Path) -> tuple[list[str], int]:
    """The links to pages that the web has no more, each with its page; and how many addresses could
    not be asked for: a network that ends here, a site that keeps programs out."""
    found = [
        (path, link)
        for path in sorted(folder.rglob("*.html"))
        for link in dict.fromkeys(read(path).links)
        if urlsplit(link).scheme in ("http", "https")
    ]
    addresses = list(dict.fromkeys(urldefrag(link).url for _, link in found))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip(addresses, pool.map(answer, addresses)))
    wrong = [
        f"{path.relative_to(folder)}: {link}"
        for path, link in found
        if answers[urldefrag(link).url] in _GONE
    ]
    fine = [code is not None and (code < 400 or code in _GONE) for code in answers.values()]
    return wrong, fine.count(False)


def answer(address: str) -> int | None:
    """The status that a server answers with; None where none does."""
    request = Request(address, headers={"User-Agent": "Mozilla/5.0 (p2fit's link check)"})
    try:
        with urlopen(request, timeout=_PATIENCE) as found:
            return int(found.status)
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException, ValueError):
        return None


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    wrong, unreached = gone(place)
    wrong = dead(place) + wrong
    print("\n".join(wrong), end="\n" if wrong else "")
    if unreached:
        words = "addresses of the web could not be asked for from here"
        print(f"{unreached} {words}", file=sys.stderr)
    sys.exit(bool(wrong))
