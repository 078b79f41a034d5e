"""What axe-core finds on the built pages and on reports, in headless Chromium, light and dark, wide
and narrow.

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

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import p2fit
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


def reports(folder: Path) -> list[Path]:
    """Pages of ``p2fit report``: of one group, of several, of many, and of thousands of columns."""
    study, dense = "examples/p2_study/post_train.csv", "examples/chinchilla/chinchilla.csv"
    table = pl.read_csv(dense).filter(pl.col("kept") == 1)
    wide = table.with_columns(pl.lit(float(i)).alias(f"x{i}") for i in range(5000))
    many = table.with_columns(set=pl.int_range(pl.len()) % 10)
    texts = {
        "one": p2fit.report(dense, where="kept == 1", plan=[{"params": 8e9, "tokens": 1e12}]),
        "several": p2fit.report(study, where="method like '%:%'", burn_in=0.1),
        "many": p2fit.report(many, by=["set"]),
        "wide": p2fit.report(wide),
    }
    for name, text in texts.items():
        # Its policy lets no script run, and axe is one.
        open_ = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        Path(folder, f"{name}.html").write_text(open_, encoding="utf-8")
    return [Path(folder, f"{name}.html") for name in texts]


if __name__ == "__main__":
    folder, axe = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wrong = 0
    # Colours and the theme's own parts are the same on all pages.
    every, some = sorted(folder.rglob("*.html")), sorted(folder.glob("docs/*.html"))
    with tempfile.TemporaryDirectory() as place:
        made = reports(Path(place))
        for files, width, dark in (
            ([*every, *made], 390, False),
            ([*some, *made], 1280, False),
            ([*some, *made], 1280, True),
        ):
            found = violations(files, axe, width=width, dark=dark)
            for page, faults in found.items():
                for name, nodes in faults:
                    wrong += 1
                    shown = page.removeprefix(folder.as_uri()).removeprefix(Path(place).as_uri())
                    print(f"{shown[1:]} ({width}{' dark' * dark}): {name}: {nodes}")
            print(f"{len(found)} pages, {width} px{', dark' * dark}")
    sys.exit(bool(wrong))
