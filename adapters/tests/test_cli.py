"""``p2fit run``, through the door that users take.

``python tests/test_cli.py`` rewrites the help texts in README.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from p2fit_adapters.cli import run
from p2fit_adapters.progress import Bar

from p2fit.cli import main

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```console\n\$ p2fit (?P<arguments>[^\n]*--help)\n(?P<help>.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def post_train(model: str, text: Path, out: Path, *more: object) -> Result:
    fixed = ["--model", model, "--text", text, "--out", out, "--device", "cpu", "--tokens", "8K"]
    fixed += ["--evals", 3, "--eval-tokens", 640, "--seq-len", 32, "--batch-tokens", 512]
    return call("run", "post-train", *fixed, "--calibration", 16, "--lr", "0.001", *more)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_sweep_writes_curves_that_p2fit_reads(
    models: dict[str, str], words: Path, tmp_path: Path, family: str
) -> None:
    methods = ("--method", "depth", "--method", "width", "--method", "2:4", "--rate", "20%")
    result = post_train(models[family], words, tmp_path, *methods, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [(one["status"], one["rows"]) for one in found] == [("done", 4)] * 4
    assert "tokens/s" in result.stderr
    assert "left" in result.stderr
    checked = call("check", tmp_path / "curves.csv", "--law", "p2", "--json")
    assert checked.exit_code == 0, checked.stderr
    assert json.loads(checked.stdout)["runs"] == 4
    table = pl.read_csv(tmp_path / "curves.csv")
    assert set(table["method"]) == {"none", "depth", "width", "2:4"}
    assert set(table["family"]) == {family}
    assert set(table["tokens"].unique()) == {0, 1024, 3072, 8192}
    assert table.filter(pl.col("method") == "none")["pruning_rate"].max() == 0
    # Again: nothing is left to do, and nothing changes.
    before = (tmp_path / "curves.csv").read_bytes()
    again = post_train(models[family], words, tmp_path, *methods, "--json")
    assert json.loads(again.stdout) == found
    assert (tmp_path / "curves.csv").read_bytes() == before


@pytest.mark.parametrize("compiled", [False, True])
def test_the_sidecar_says_what_made_the_curves(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    monkeypatch.setattr("p2fit_adapters.training.compiled", lambda model, _: model)
    more = ("--method", "2:4", "--no-control", "--dtype", "fp32", *["--compile"] * compiled)
    result = post_train(models["qwen2"], words, tmp_path, *more)
    assert result.exit_code == 0, result.stderr
    (meta,) = json.loads((tmp_path / "curves.meta.json").read_text())["runs"].values()
    assert meta["model"] == models["qwen2"]
    assert meta["before"] == {"total": 102192, "non_embedding": 83760}
    assert meta["after"] == {"total": 60720, "non_embedding": 42288}
    assert meta["criterion"] == "sparsegpt"
    assert meta["calibration"] == {"windows": 16, "seed": 0, "text": "training part"}
    assert len(meta["text"]["evaluation_fingerprint"]) == 64
    assert meta["text"]["held_out"]
    assert meta["dtype"] == "fp32"
    assert meta["compiled"] is compiled
    assert meta["settings"]["training"]["seed"] == 0
    assert {"p2fit", "torch", "transformers", "python"} <= meta["versions"].keys()
    assert meta["base_loss_stderr"] > 0


def test_a_run_that_diverges_is_told_and_ends_in_exit_code_2(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    result = post_train(models["llama"], words, tmp_path, "--lr", "1e30", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)[0]["status"] == "diverged"
    assert "the loss is nan after" in result.stderr


@pytest.mark.parametrize(
    ("more", "words_"),
    [
        (["--method", "depht"], "use none, depth, width or N:M"),
        (["--method", "depth"], "needs a rate"),
        (["--rate", "10%"], "a rate is for depth and width"),
        (["--method", "2:4", "--criterion", "span"], "no method given knows it"),
        (["--no-control"], "nothing to do"),
        (["--method", "depth", "--rate", "95%"], "cannot reach a rate of 0.95"),
        (["--tokens", "10"], "tokens is 10"),
        (["--seq-len", "512"], "takes 256 tokens at once: lower --seq-len"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--text", "no/such/text"], "no such file or folder"),
        (["--track", "nonesuch"], "nonesuch"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    more: list[str],
    words_: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = post_train(models["llama"], words, tmp_path, *more)
    assert result.exit_code == 2
    assert words_ in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "curves.csv").exists()


def test_the_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from p2fit.cli import main; "
        "main(['run', 'post-train', '--help'], standalone_mode=False); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_on_a_terminal_a_bar_shows_speed_loss_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    trainer = SimpleNamespace(step=0, steps=4, tokens=0, all_tokens=4_000_000)
    bar = Bar()
    with bar.run("a-run", trainer) as step:  # type: ignore[arg-type]
        for done in range(1, 4):
            trainer.step, trainer.tokens = done, done * 1_000_000
            step(2.5)
            bar.row({"run": "a-run", "tokens": trainer.tokens, "loss": 2.25})
    shown = capsys.readouterr().err
    assert "a-run: 3M tokens, loss 2.2500" in shown
    assert "loss 2.500" in shown
    assert re.search(r"[KMBT] tokens/s, \d+ s left", shown)


def commands() -> list[tuple[str, ...]]:
    return [("run",), *(("run", name) for name in sorted(run.commands))]


def help_text(words: tuple[str, ...]) -> str:
    arguments: list[Any] = [*words, "--help"]
    return CliRunner().invoke(main, arguments, prog_name="p2fit", terminal_width=80).stdout


def test_every_command_is_documented_with_its_help() -> None:
    documented = {
        tuple(m["arguments"].split()[:-1]): m["help"] for m in BLOCK.finditer(README.read_text())
    }
    assert documented == {words: help_text(words) for words in commands()}
    assert all("Example" in shown for shown in documented.values())


def rewrite() -> None:
    pages = [f"```console\n$ p2fit {' '.join(w)} --help\n{help_text(w)}```" for w in commands()]
    head = README.read_text().split("```console\n$ p2fit run --help")[0].rstrip()
    README.write_text(head + "\n\n" + "\n\n".join(pages) + "\n")


if __name__ == "__main__":
    rewrite()
