"""The documentation site: `make docs` builds it from the Markdown of the repository and the docstrings of the API.

The source folder is the repository itself, so that a relative link leads to the same page here and on a code host.
Navigation is the index, docs/README.md. Nothing is fetched when the site is built, nor when it is read.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils.nodes import Text

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
INDEX = "docs/README"
JOBS = "aftermix.api.work."
"""Home of `aftermix.search` and the other jobs: two of these names are packages, too."""

project = "aftermix"
author = copyright = "the authors of aftermix"  # noqa: A001 - Sphinx's own name
root_doc = "README"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
include_patterns = ["*.md", "docs/**", "examples/*/README.md", "studies/README.md", "studies/*/README.md"]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "tools", "**/__pycache__"]
default_role = "code"
myst_heading_anchors = 6

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Weights": "dict[str, float]", "Finite": "float", "Interval": "tuple[float, float]"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
# In signatures: types of other packages, whose pages would have to be fetched, and records that have no entry here.
nitpick_ignore_regex = [("py:.*", r"(?!aftermix\.).*"), ("py:class", r"aftermix\.(config|runs)\..*")]

html_theme = "furo"
html_title = "aftermix"
html_copy_source = False
html_show_sphinx = False
html_additional_pages = {"index": "to_readme.html"}
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]


def read_navigation() -> dict[str, list[str]]:
    """Heading of the index -> pages that its section links to, in order."""
    text = (ROOT / INDEX).with_suffix(".md").read_text(encoding="utf-8")
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    return {
        heading: [
            posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), page))
            for page in re.findall(r"\]\(([^)#]+)\.md\)", section)
        ]
        for heading, section in zip(sections[::2], sections[1::2], strict=True)
    }


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the tables of contents below the first page, whose text they are no part of."""
    if page == app.config.root_doc:
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n/{INDEX}\n```\n"
        for caption, pages in read_navigation().items():
            listed = "\n".join(f"/{name}" for name in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def show_public_name(_app: Sphinx, _domain: str, _kind: str, content: Element) -> None:
    """Show a job by the name that users call it by, and not by that of its home."""
    for part in content.parent[0].children:
        if part.tagname == "desc_addname" and part.astext() == JOBS:
            part[0] = Text("aftermix.")


def setup(app: Sphinx) -> None:
    """Connect the above; called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("object-description-transform", show_public_name)
