"""The page in a real browser: it fits a phone and a desk, its pictures show, its links open what they name, axe agrees.

Needs Chromium; axe needs NORML_AXE, the path of axe.min.js, too (`nox -s page` brings it).
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from norml_cli.commands.results.report import report_html
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.results.gathered import Gathered

RESULTS = Path(__file__).parents[2] / "results"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("NORML_AXE")
WIDTHS = (390, 1280)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

FINDINGS = """
<script>
addEventListener("load", async () => {
  const found = {
    width: innerWidth,
    needs: document.documentElement.scrollWidth,
    unseen: [...document.images].filter(image => !image.naturalWidth).length,
    pictures: document.images.length,
  };
  const link = document.querySelector("td a");
  link.click();
  await new Promise(done => setTimeout(done, 100));
  found.opened = document.getElementById(link.hash.slice(1)).closest("details").open;
  if (window.axe) found.axe = (await axe.run()).violations.map(each => [each.impact, each.id, each.nodes[0].html]);
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
FRAME = """<!doctype html>
<pre id="findings"></pre>
<script>addEventListener("message", said => document.getElementById("findings").textContent = said.data)</script>
<iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe>
"""  # a window of its own is never as narrow as a phone


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the records in this checkout."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    registry = read_registry([builtin_registry()])
    report_html(registry, table_id=None, out=out, results=Gathered([RESULTS]), console=Console(quiet=True))
    return out


def findings(page: Path, width: int, folder: Path) -> dict:
    """What a script of ours, let in beside the page's policy, sees in the browser."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    axe = Path(AXE).read_text(encoding="utf-8").replace("</script", r"<\/script") if AXE else ""
    probed = folder / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{axe}</script>{FINDINGS}</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=60000", f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    [found] = re.findall(r'<pre id="findings">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(found))


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_shows_and_leads(page, width, tmp_path):
    found = findings(page, width, tmp_path)
    assert found["needs"] <= found["width"] == width
    assert found["pictures"] > 0
    assert found["unseen"] == 0
    assert found["opened"]
    if AXE:
        assert found["axe"] == []
