"""Pages in headless Chromium: what a script of ours sees there. axe needs NORML_AXE, the path of axe.min.js, too."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("NORML_AXE")
WIDTHS = (390, 1280)  # a phone, a desk

_FINDINGS = """
<script>
addEventListener("load", async () => {
  const found = {
    width: innerWidth,
    needs: document.documentElement.scrollWidth,
    unseen: [...document.images].filter(image => !image.naturalWidth).length,
    pictures: document.images.length,
  };
  EXTRA
  if (window.axe) found.axe = (await axe.run()).violations.map(each => [each.impact, each.id, each.nodes[0].html]);
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
_FRAME = """<!doctype html>
<pre id="findings"></pre>
<iframe style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
const pages = {pages}, found = [], frame = document.querySelector("iframe");
const next = () => {{
  if (found.length < pages.length) frame.src = pages[found.length];
  else document.getElementById("findings").textContent = JSON.stringify(found);
}};
addEventListener("message", said => {{ found.push(JSON.parse(said.data)); next(); }});
next();
</script>
"""  # a window of its own is never as narrow as a phone


def findings(pages: Sequence[Path], width: int, extra: str = "") -> list[dict[str, Any]]:
    """What our script finds in a copy beside each page. extra: lines of script that add to `found`."""
    folder = Path(os.path.commonpath([page.parent for page in pages]))
    probed = [_probed(page, extra).relative_to(folder).as_posix() for page in pages]
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(pages=json.dumps(probed), width=width), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=900000", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=280, check=True)
    [found] = re.findall(r'<pre id="findings">(.*?)</pre>', done.stdout, re.DOTALL)
    return list(json.loads(html.unescape(found)))


def _probed(page: Path, extra: str) -> Path:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    axe = Path(AXE).read_text(encoding="utf-8").replace("</script", r"<\/script") if AXE else ""
    copy = page.with_name(f"{page.stem}-probed.html")
    script = f"<script>{axe}</script>{_FINDINGS.replace('EXTRA', extra)}</body>"
    copy.write_text(text.replace("</body>", script), encoding="utf-8")
    return copy
