"""What axe-core finds on the built pages, in headless Chromium, light and dark, wide and narrow.

``python docs/accessibility.py FOLDER AXE.MIN.JS``, from the root of the repository; axe-core comes
from npm. Each page is opened in a frame, and axe runs in it.
"""

from __future__ import annotations

import html
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import run

_EACH = """
const pages = %s, source = %s;
const found = {};
(async () => {
  for (const page of pages) {
    const frame = document.createElement("iframe");
    frame.style = "width:%dpx;height:900px;border:0";
    frame.src = page;
    await new Promise(done => { frame.onload = done; document.body.replaceChildren(frame); });
    const view = frame.contentWindow;
    view.eval(source);
    const result = await view.axe.run(view.document, {resultTypes: ["violations"]});
    found[page] = result.violations.map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html)]);
  }
  document.body.replaceChildren();
  document.body.dataset.found = JSON.stringify(found);
})();
"""


def violations(files: list[Path], axe: Path, *, width: int, dark: bool) -> dict[str, Any]:
    """What axe has against each page, by its address; empty lists where it has nothing."""
    pages = [page.as_uri() for page in files]
    source = axe.read_text(encoding="utf-8")
    script = _EACH % (json.dumps(pages), json.dumps(source).replace("</", "<\\/"), width)
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place, "outer.html")
        outer.write_text(
            f'<!doctype html><meta charset="utf-8"><body><script>{script}</script>', "utf-8"
        )
        done = run(
            outer,
            *("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=10000000"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        )
    kept = re.search(r'data-found="([^"]*)"', done.stdout)
    assert kept is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(kept[1]))
    assert len(found) == len(pages)
    return found


if __name__ == "__main__":
    folder, axe = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wrong = 0
    # Colours and the theme's own parts are the same on all pages.
    every, some = sorted(folder.rglob("*.html")), sorted(folder.glob("docs/*.html"))
    for files, width, dark in ((every, 390, False), (some, 1280, False), (some, 1280, True)):
        found = violations(files, axe, width=width, dark=dark)
        for page, faults in found.items():
            for name, nodes in faults:
                wrong += 1
                print(f"{page.rpartition('_build/')[2]} ({width}{' dark' * dark}): {name}: {nodes}")
        print(f"{len(found)} pages, {width} px{', dark' * dark}")
    sys.exit(bool(wrong))
