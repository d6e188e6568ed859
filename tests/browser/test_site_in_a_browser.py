"""The documentation's site in a real browser: each page fits a phone and a desk, its pictures show, axe agrees."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.browser.chromium import BROWSER, WIDTHS, findings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).with_suffix(".html").as_posix()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")]
)

pytestmark = pytest.mark.skipif(
    BROWSER is None or find_spec("furo") is None, reason="needs Chromium and the extra docs"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(out / "trees"), "-c", str(ROOT / "docs")]
    subprocess.run([*build, str(ROOT), str(out)], capture_output=True, check=True)
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_shows(site, width):
    found = dict(zip(PAGES, findings([site / page for page in PAGES], width), strict=True))
    assert {page: each["needs"] for page, each in found.items() if each["needs"] > each["width"]} == {}
    assert {page: each["unseen"] for page, each in found.items() if each["unseen"]} == {}
    assert {each["width"] for each in found.values()} == {width}
    assert {page: each["axe"] for page, each in found.items() if each.get("axe")} == {}
