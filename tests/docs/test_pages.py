"""The documentation's pages: each can be reached, no link leads nowhere, and the site is built without a warning."""

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from norml_cli import __version__

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "results").rglob("*.md")])
LARGEST_README_BYTES = 8192
LARGEST_CHANGELOG_BYTES = 6144  # of one version


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links and pictures, outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def heading_anchors(page: Path) -> set[str]:
    """What a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def targets(page: Path) -> Iterator[tuple[Path, str]]:
    """Files that a page links to, each with the part after '#'."""
    for link in links(page):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            yield (page.parent / name).resolve() if name else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path):
    for target, anchor in targets(page):
        assert target.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
        assert not anchor or anchor in heading_anchors(target), f"{page.relative_to(ROOT)}: {target.name}#{anchor}"


def test_the_index_links_to_every_page():
    listed = {target for target, _ in targets(INDEX)} | {INDEX}
    assert [page for page in PAGES if page not in listed] == [], "add a line for it to docs/index.md"


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= LARGEST_README_BYTES


def test_the_changelog_of_a_version_is_short():
    _, *versions = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")
    assert versions
    assert all(len(each.encode()) <= LARGEST_CHANGELOG_BYTES for each in versions)


@pytest.mark.skipif(find_spec("furo") is None, reason="needs the extra 'docs'")
def test_the_site_is_built_without_a_warning(tmp_path: Path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    build += ["-c", str(DOCS), str(ROOT), str(tmp_path / "site")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(ROOT).with_suffix(".html") for page in PAGES} <= pages


def test_changelog_and_citation_name_the_version_and_one_day():
    [(version, day)] = re.findall(
        r"^## (\S+) - (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )[:1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (version, version) == (__version__, citation["version"])
    assert day == citation["date-released"].isoformat()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires


def test_the_example_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", None, 0)
    said: list[str] = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert (result.failed, result.attempted) == (0, 6), "".join(said)
