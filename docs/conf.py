"""How Sphinx builds the documentation (``make docs``)."""

import p2fit

project = "p2fit"
version = release = p2fit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Returns", "params_style")]
# Links out of docs/ lead to the repository's own pages.
suppress_warnings = ["myst.xref_missing"]
