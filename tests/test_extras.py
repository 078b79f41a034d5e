"""What a missing package says, and what a new home folder or another day changes: nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2fit import extras
from p2fit.cli import main
from tests.test_import import LOGS

ROOT = Path(__file__).parents[1]
CURVES = ROOT / "examples" / "chinchilla" / "chinchilla.csv"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIP = [sys.executable, "-m", "pip", "install"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


# ---------------------------------------------------------------- what to type


def installed(folder: Path, origin: str, name: str = "p2fit") -> None:
    """Metadata as pip leaves them, of an installation from some origin."""
    made = folder / f"{name.replace('-', '_')}-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\nRequires-Dist: numpy\n"
        "Provides-Extra: ray\nRequires-Dist: ray>=2.50; extra == 'ray'\n"
        "Requires-Dist: psutil; extra == 'ray'\nRequires-Dist: x-ray; extra == 'x-ray'\n",
        encoding="utf-8",
    )
    (made / "direct_url.json").write_text(origin, encoding="utf-8")


@pytest.mark.parametrize("name", ["p2fit", "p2fit-adapters"])
def test_an_extra_comes_from_where_its_package_came_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder"
    url, requirements = folder.as_uri(), [*PIP, "ray>=2.50", "psutil"]
    monkeypatch.syspath_prepend(str(tmp_path))
    for origin, expected in (
        (f'{{"url": "{url}", "dir_info": {{}}}}', [*PIP, f"{folder}[ray]"]),
        (
            f'{{"url": "{url}", "dir_info": {{"editable": true}}}}',
            [*PIP, "--editable", f"{folder}[ray]"],
        ),
        (f'{{"url": "{url}/p2fit-1-py3-none-any.whl", "archive_info": {{}}}}', requirements),
        (f'{{"url": "{url}-moved", "dir_info": {{}}}}', requirements),
    ):
        folder.mkdir()
        (folder / "pyproject.toml").touch()
        installed(tmp_path, origin, name)
        assert shlex.split(extras.command("ray", name)) == expected
        for made in (folder, *tmp_path.glob("*.dist-info")):
            shutil.rmtree(made)


def test_without_an_installation_it_says_where_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    before = "in a checkout of p2fit, "
    assert extras.command("bayes") == before + shlex.join([*PIP, ".[bayes]"])
    found = extras.command("ray", "p2fit-adapters")
    assert found == before + shlex.join([*PIP, "./adapters[ray]"])
    assert extras.adapters() == before + shlex.join([*PIP, "./adapters"])


def test_the_adapters_lie_in_the_folder_of_p2fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "pyproject.toml").touch()
    installed(tmp_path, f'{{"url": "{tmp_path.as_uri()}", "dir_info": {{}}}}')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shlex.split(extras.adapters()) == [*PIP, str(tmp_path / "adapters")]
    (tmp_path / "pyproject.toml").unlink()
    assert extras.adapters() == "in a checkout of p2fit, " + shlex.join([*PIP, "./adapters"])


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("arviz", "bayes", ("fit", CURVES, "--backend", "laplace")),
        ("jax", "bayes", ("fit", CURVES, "--backend", "bayes")),
        ("nutpie", "bayes", ("fit", CURVES, "--backend", "bayes")),
        ("jinja2", "report", ("report", CURVES, "-o", "report.html")),
        ("matplotlib", "plot", ("profile", CURVES, "--plot", "profile.png")),
        (
            "tensorboard.compat.proto.event_pb2",
            "tensorboard",
            ("import", LOGS / "tensorboard", "--params", "1M", "--tokens-per-step", 512),
        ),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    package: str,
    extra: str,
    words: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    found = run(*words)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.rstrip().endswith(extras.command(extra))
    assert not list(tmp_path.iterdir())
    assert extra in PROJECT["optional-dependencies"]


def test_without_the_adapters_run_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    found = run("run", "post-train")
    assert found.exit_code == 2
    assert found.stderr.rstrip().endswith(extras.adapters())


def test_nothing_says_to_install_p2fit_from_an_index() -> None:
    places = [ROOT / "p2fit", ROOT / "adapters", ROOT / "docs", ROOT / "examples"]
    pages = [p for place in places for end in ("py", "md") for p in place.rglob(f"*.{end}")]
    for page in [*ROOT.glob("*.md"), *pages]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"pip install\W+(?:-\S+\W+)*p2fit\b(?!/)", text), page


# ---------------------------------------------------------------- a new home folder


@pytest.mark.parametrize(
    "words",
    [
        ("fit", CURVES, "--backend", "laplace"),
        ("fit", CURVES, "--backend", "bayes", "--draws", "200", "--allow-unconverged"),
        ("profile", CURVES, "--plot", "profile.svg"),
    ],
    ids=["ArviZ", "JAX", "matplotlib"],
)
def test_a_new_home_and_one_that_cannot_be_change_nothing(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    new = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "XDG_CONFIG_HOME": home / "config"}
    no_home = dict.fromkeys(new, tmp_path / "a file")
    (tmp_path / "a file").touch()
    said = []
    for environment in (new, no_home):
        done = subprocess.run(
            [sys.executable, "-m", "p2fit", *map(str, words)],
            env=os.environ | {name: str(folder) for name, folder in environment.items()},
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        said.append((done.stdout, done.stderr))
    assert said[0] == said[1]
    assert said[0][1] == b""
