"""Measure p2fit and write the numbers into benchmarks/README.md.

    python benchmarks/run.py

The first run makes an environment of its own, .cache/bench-venv, from the newest Python that it
finds, with p2fit and the peers that pip can install.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "benchmarks" / "README.md"
VENV = ROOT / ".cache" / "bench-venv"
PARTS = (
    "peers",
    "rows",
    "general",
    "nist",
    "neighbours",
    "recovery",
    "intervals",
    "effects",
    "bootstrap",
    "design",
    "samplers",
    "sbc",
    "calibration",
)
#: simple-scaling-laws needs Python 3.12; without one its rows say so.
PEERS = ("scipy", "lmfit", "chinchilla", "autograd", "jax", "arviz", "nutpie", "numpyro", "pymc")
NEWER_PEERS = ("simple-scaling-laws",)
#: One thread of linear algebra for every tool: on a shared machine more of them wait, not work.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure p2fit; rewrite benchmarks/README.md.")
    parser.add_argument("--only", choices=PARTS, help="measure and rewrite one part")
    only = parser.parse_args().only
    if Path(sys.prefix).resolve() != VENV.resolve():
        python = environment()
        sys.exit(subprocess.call([python, *sys.argv], env={**os.environ, **ONE_THREAD}))
    for part in [only] if only else PARTS:
        print(part, flush=True)
        start = time.perf_counter()
        block = importlib.import_module(part).measure()
        rewrite(part, block)
        print(f"{block}\n{part}: {time.perf_counter() - start:.0f} s\n", flush=True)


def rewrite(part: str, block: str) -> None:
    """Put a part's tables between its markers in the README."""
    text = README.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {part} -->", f"<!-- end {part} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new, count = pattern.subn(lambda _: f"{begin}\n\n{block}\n\n{end}", text)
    if count != 1:
        raise SystemExit(f"{README.name}: {begin} … {end} must be there once")
    README.write_text(new, encoding="utf-8")


# ---------------------------------------------------------------- the environment


def environment() -> Path:
    """The Python of the benchmarks' own environment, made or brought up to date as needed."""
    newest, version = newest_python()
    peers = [*PEERS, *(NEWER_PEERS if version >= (3, 12) else ())]
    if version < (3, 12):
        print(f"without {', '.join(NEWER_PEERS)}: no Python 3.12 or newer was found")
    project = (ROOT / "pyproject.toml").read_bytes()
    wanted = f"{newest} {peers} {hashlib.sha256(project).hexdigest()}"
    python, stamp = VENV / "bin" / "python", VENV / "made-from"
    pip: list[str | Path] = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"making {VENV.relative_to(ROOT)} with Python {version[0]}.{version[1]}", flush=True)
        subprocess.run([newest, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([*pip, "install", ROOT, *peers], check=True)
        stamp.write_text(wanted)
    # The tree as it is now, installed as its users have it.
    subprocess.run([*pip, "install", "--force-reinstall", "--no-deps", ROOT], check=True)
    return python


def newest_python() -> tuple[Path, tuple[int, int]]:
    """The newest released Python from 3.12 on that runs, or else this one."""
    named = [shutil.which(f"python3.{minor}") for minor in (14, 13, 12)]
    pyenv = Path.home() / ".pyenv" / "versions"
    candidates = [*filter(None, named), *map(str, pyenv.glob("3.1[2-9]*/bin/python"))]
    found = [(sys.version_info[:2], Path(sys.executable))]
    ask = "import sys, ensurepip; v = sys.version_info; print(v.major, v.minor, v.releaselevel)"
    for candidate in candidates:
        answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True)
        match answer.stdout.split():
            case [major, minor, "final"]:
                found.append(((int(major), int(minor)), Path(candidate)))
    version, python = max(found)
    return python, version


if __name__ == "__main__":
    main()
