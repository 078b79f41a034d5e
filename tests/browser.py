"""A page as headless Chromium shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_MEASURE = """
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const view = frame.contentWindow, root = page.documentElement;
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = rgb => [0.2126, 0.7152, 0.0722].reduce((s, w, i) => s + w * channel(rgb[i]), 0);
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(view.getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  let least = 99, where = "";
  for (const e of page.body.querySelectorAll("*")) {
    const says = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!says || e.closest("style")) continue;
    const own = view.getComputedStyle(e);
    const block = e.closest("div,p,td,th,li,h1,h2,h3,body");
    const ratio = contrast(parse(e.closest("svg") ? own.fill : own.color), behind(block));
    if (ratio < least) [least, where] = [ratio, e.outerHTML.slice(0, 120)];
  }
  document.title = "measured";
  document.body.dataset.found = JSON.stringify({
    width: root.scrollWidth, inner: root.clientWidth, height: root.scrollHeight,
    contrast: least, where, ground: parse(view.getComputedStyle(page.body).backgroundColor),
    loaded: view.performance.getEntriesByType("resource").map(r => r.name),
    drawings: [...page.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().width),
    scripts: page.scripts.length,
  });
});
"""


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("Chromium is not installed, so nothing shows what a page looks like")


def run(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu"),
        *("--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"),
        *("--enable-logging=stderr", "--log-level=0", f"--user-data-dir={page.parent}/profile"),
        *("--virtual-time-budget=20000", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=120)


def measure(text: str, folder: Path, *, width: int = 1000, dark: bool = False) -> dict[str, Any]:
    """What a page looks like in a frame of some width: how wide it is, the least contrast of its
    letters, what it loaded, and what it complained of."""
    outer = folder / "outer.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><script>{_MEASURE}</script>'
        f'<body><iframe style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{html.escape(text)}"></iframe>',
        encoding="utf-8",
    )
    done = run(outer, "--dump-dom", f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    measured["complaints"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return measured
