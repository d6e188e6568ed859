"""The documentation as a site: `nox -s site`. The source folder is the repository, so links are those of a forge."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from norml_cli import __version__  # noqa: E402 - found by the line above

project, author, release = "norml", "The norml authors", __version__
project_copyright = "2026, The norml authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md", "results/*.md", "results/other-protocols/*.md"]
exclude_patterns = ["**/.*", ".*", "build", "dist", "norml", "norml_cli", "registry", "tests", "shared"]
nitpicky = True
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # examples with ... in place of what is left out
html_theme = "furo"
html_title = f"norml {release}"
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
html_extra_path = ["start"]  # index.html, which leads to the root document


def _with_contents(_app: Any, name: str, source: list[str]) -> None:
    """Make the site's navigation from the headings and links of index.md."""
    if name != root_doc:
        return
    for title, links in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", source[0], re.MULTILINE | re.DOTALL):
        pages = "\n".join(re.findall(r"^- \[.*?\]\((.*?)\.md\)", links, re.MULTILINE))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


# Faults that axe finds in pages of Sphinx and furo: heading levels, unnamed landmarks, no scrolling by keyboard.
MENDED = {
    'class="caption" role="heading"': 'class="caption" role="heading" aria-level="2"',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    '<div class="content-icon-container">': '<div class="content-icon-container" role="region" aria-label="Tools">',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" role="group" aria-label="Table" class="table-wrapper',
}


def _mend(app: Any, failed: Exception | None) -> None:
    for page in () if failed or app.builder.name != "html" else Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found, mended in MENDED.items():
            text = text.replace(found, mended)
        page.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Sphinx calls this first."""
    app.connect("source-read", _with_contents)
    app.connect("build-finished", _mend)
