"""Sphinx: the pages of this folder as a site. `make docs` builds it, and any warning fails the build.

The pages are plain Markdown, to be read on a code host as well: what only Sphinx needs is here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.logging import getLogger

logger = getLogger(__name__)

project = "Serverless federated aggregator"
root_doc = "README"
extensions = ["myst_parser"]
nitpicky = True
smartquotes = False
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False
html_additional_pages = {"index": "to-readme.html"}
templates_path = ["templates"]

#: The order of the pages, which Markdown has no words for.
NAVIGATION = {
    "Tutorial": ["tutorial", "tutorial-part-two"],
    "How-to guides": [
        "clients",
        "how-to/commands",
        "how-to/admin",
        "how-to/console-on-a-stack",
        "how-to/choose-a-rule",
        "how-to/choose-an-optimizer",
        "how-to/choose-a-privacy-set-up",
        "how-to/simulate",
        "how-to/tensor-policies",
        "how-to/write-a-rule",
        "how-to/audit",
        "how-to/large-models",
        "how-to/mask-keeper",
        "how-to/migrate",
        "deploy",
    ],
    "Reference": [
        "reference/settings",
        "reference/limits",
        "reference/commands",
        "reference/rules",
        "reference/optimizers",
        "reference/requirements",
        "reference/events",
        "events-out",
        "reference/storage",
        "reference/api",
        "reference/glossary",
    ],
    "Explanation": [
        "explanation/architecture",
        "explanation/protocol",
        "explanation/numerics",
        "explanation/differential-privacy",
        "explanation/secure-aggregation",
        "security",
        "cost",
        "decisions/README",
    ],
}

#: A link that leads upwards: its text, the file, and a heading in it.
UPWARDS = re.compile(r"\[([^]]+)\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")

#: What a browser would fetch from elsewhere as it shows a page.
OUTSIDE = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"canonical\"))\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>"
)


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Give the entry pages the trees that Sphinx makes its menus of."""
    if page == root_doc:
        trees = [_tree(pages, f":caption: {kind}") for kind, pages in NAVIGATION.items()]
        source[0] += "\n\n".join(["", *trees])
    if page == "decisions/README":
        source[0] += "\n\n" + _tree(["2*"], ":glob:")


def _tree(pages: list[str], *options: str) -> str:
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *pages, "```"])


def replace_links_upwards(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace links to the repository's other files by their text; notebooks become downloads."""
    folder = (Path(app.srcdir) / page).parent

    def text_of(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(app.srcdir) or target.suffix == ".ipynb":
            return link[0]
        if not target.exists():
            logger.warning("there is no file %s", link[2], location=page)
        return link[1]

    source[0] = UPWARDS.sub(text_of, source[0])


def refuse_requests_outside(app: Sphinx, error: Exception | None) -> None:
    """Fail the build if a page loads anything from another host."""
    for page in [] if error else Path(app.outdir).rglob("*.html"):
        found = OUTSIDE.search(page.read_text())
        if found:
            raise SphinxError(f"{page.name} asks the outside for something: {found[0]}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx's build."""
    # Code hosts draw Mermaid. Here its text is shown: the library that draws it comes from another host.
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", add_navigation)
    app.connect("source-read", replace_links_upwards)
    app.connect("build-finished", refuse_requests_outside)
    return {"parallel_read_safe": True}
