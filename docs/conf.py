"""How Sphinx builds the documentation (``make docs``).

The source is the whole repository, so that links between docs/, examples/ and the other pages lead
somewhere in the browser as they do in a checkout.
"""

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import p2fit

project = "p2fit"
version = release = p2fit.__version__
author = "The p2fit developers"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**.md",
    "examples/**.md",
    "benchmarks/README.md",
    "adapters/*.md",
    "tests/logs/README.md",
]
exclude_patterns = ["**/.*", "docs/_build", "build", "dist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "p2fit"
html_static_path = ["_static"]
html_css_files = ["p2fit.css"]
html_copy_source = False
html_show_sphinx = False
templates_path = ["_templates"]
html_additional_pages = {"index": "start.html"}


# ------------------------------------------------------------ for readers who do not see a page

#: What the theme's pages lack, found by axe-core (docs/accessibility.py).
MENDED = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer', '<aside aria-label="On this page" class="toc-drawer'),
    ("<pre>", '<pre tabindex="0">'),  # what may scroll must be reached by keys
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<th class="head"><p></p></th>', "<td></td>"),
    ('<div id="search-results"></div>', '<h1>Search</h1><div id="search-results"></div>'),
)


def mend(app: Sphinx, exception: Exception | None) -> None:
    """Put it into the pages that were built."""
    for page in Path(app.outdir).rglob("*.html") if exception is None else ():
        text = page.read_text(encoding="utf-8")
        for old, new in MENDED:
            text = text.replace(old, new)
        text = re.sub(r'<dt class="sig.*?</dt>', in_lines, text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")


def in_lines(signature: re.Match[str]) -> str:
    """A signature whose parameters are lines, and no list of definitions without terms."""
    found = re.sub(r"<d[ld]>", '<span class="sig-line">', signature[0])
    return re.sub(r"</d[ld]>", "</span>", found)


def setup(app: Sphinx) -> None:
    app.connect("build-finished", mend)
    app.add_lexer("console", TextLexer)  # what p2fit prints is no shell script to be coloured
