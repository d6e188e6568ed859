"""The page in a real browser: it fits a phone and a desk, its pictures show, its links open what they name, axe agrees.

Needs Chromium; axe needs NORML_AXE, the path of axe.min.js, too (`nox -s page` brings it).
"""

from pathlib import Path

import pytest
from rich.console import Console

from norml_cli.commands.results.report import report_html
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.results.gathered import Gathered
from tests.browser.chromium import AXE, BROWSER, WIDTHS, findings

RESULTS = Path(__file__).parents[2] / "results"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

FOLLOWED = """
  const link = document.querySelector("td a");
  link.click();
  await new Promise(done => setTimeout(done, 100));
  found.opened = document.getElementById(link.hash.slice(1)).closest("details").open;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the records in this checkout."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    registry = read_registry([builtin_registry()])
    report_html(registry, table_id=None, out=out, results=Gathered([RESULTS]), console=Console(quiet=True))
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_shows_and_leads(page, width):
    [found] = findings([page], width, FOLLOWED)
    assert found["needs"] <= found["width"] == width
    assert found["pictures"] > 0
    assert found["unseen"] == 0
    assert found["opened"]
    if AXE:
        assert found["axe"] == []
