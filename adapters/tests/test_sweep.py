"""Sweeps: what a file asks for, in which order, and what it will take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from p2fit_adapters import RunError, read_sweep
from p2fit_adapters.naming import slug

from p2fit.cli import main

FILE = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[training]
batch_tokens = 512
batch_size = 16
evals = 3
device = "cpu"

[models.a]
type = "llama"
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 3
num_attention_heads = 4

[models.b]
path = "{model}"

[[pretrain]]
tokens = [4096]
save_model = true

[[pretrain]]
tokens = [2048, 6144]
sparsities = [0.0, 0.5]
seeds = [1]
lr = {{ a = 5e-3 }}

[[post-train]]
methods = ["2:4", "depth"]
rates = [0.2]
tokens = ["0.1x"]
seeds = [1, 2]
calibration_windows = 8
"""


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def text(words: Path, models: dict[str, str]) -> str:
    return FILE.format(words=words, model=models["qwen2"])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def test_the_grid_is_every_model_sparsity_method_tokens_and_seed(tmp_path: Path, text: str) -> None:
    sweep = read_sweep(written(tmp_path, text), tmp_path / "out")
    labels = [job.label for job in sweep.jobs]
    assert labels[:5] == [
        "pretrain/a_dense_4.096K_s0",
        "pretrain/a_dense_2.048K_s1",
        "pretrain/a_dense_6.144K_s1",
        "pretrain/a_geometric0.5_2.048K_s1",
        "pretrain/a_geometric0.5_6.144K_s1",
    ]
    assert len(labels) == len(set(labels)) == 5 + 2 * 2 * 3
    assert "post-train/a_2of4_sparsegpt_5.014K_s2" in labels  # a tenth of 50 144
    assert "post-train/b_none_10.219K_s1" in labels
    base, *rest = sweep.jobs
    for job in rest:
        assert job.needs == ((base.folder,) if job.label.startswith("post-train/a") else ())
    by_label = {job.label: job for job in sweep.jobs}
    sparse = by_label["pretrain/a_geometric0.5_6.144K_s1"]
    assert sparse.settings.training.lr == 5e-3
    assert base.settings.training.lr == 1e-3
    assert sparse.settings.training.decay == 0.2
    assert sparse.params < by_label["pretrain/a_dense_6.144K_s1"].params == 50_144
    pruned = by_label["post-train/a_2of4_sparsegpt_5.014K_s1"]
    assert pruned.params < 50_144
    # All runs have the same text before them, as much as the longest wants.
    longest = max(
        job.settings.training.steps(32) * job.settings.training.step_tokens(32)
        for job in sweep.jobs
    )
    assert {job.settings.text.train_tokens for job in sweep.jobs} == {longest}


def test_a_sweep_is_made_planned_and_skipped_when_done(tmp_path: Path, text: str) -> None:
    path, out = written(tmp_path, text), tmp_path / "out"
    planned = call("run", "sweep", path, "--out", out, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    before = json.loads(planned.stdout)
    assert not out.exists()  # and nothing made
    assert before["runs"] == before["left"] == 17
    assert before["flops"] == sum(run["flops"] for run in before["sweep"])
    assert before["seconds"] == pytest.approx(sum(run["seconds"] for run in before["sweep"]))
    assert all(run["seconds"] > 0 for run in before["sweep"])

    made = call("run", "sweep", path, "--out", out, "--json")
    assert made.exit_code == 0, made.stderr
    assert {outcome["status"] for outcome in json.loads(made.stdout)} == {"done"}
    assert "17 of 17" in made.stderr
    for kind, law, runs in (("pretrain", "average-params", 5), ("post-train", "p2", 12)):
        checked = call("check", out / kind / "curves.csv", "--law", law, "--json")
        assert checked.exit_code == 0, checked.stderr
        assert json.loads(checked.stdout)["runs"] == runs
    table = pl.read_csv(out / "post-train" / "curves.csv")
    trained = pl.read_csv(out / "pretrain" / "curves.csv")
    first = table.filter((pl.col("run") == "a_none_5.014K_s1") & (pl.col("tokens") == 0))
    base = trained.filter((pl.col("run") == "a_dense_4.096K_s0") & (pl.col("final") == 1))
    assert first["loss"].item() == base["loss"].item()  # the same evaluation set

    files = {p: p.read_bytes() for p in out.glob("*/curves.*")}
    again = call("run", "sweep", path, "--out", out)
    assert again.exit_code == 0
    assert {p: p.read_bytes() for p in out.glob("*/curves.*")} == files
    after = call("run", "sweep", path, "--out", out, "--dry-run")
    assert "17 runs, 0 to make" in after.stdout
    assert "post-train/b_none" in after.stdout
    for form, between in (("markdown", " | "), ("latex", " & "), ("csv", ",")):
        shown = call("run", "sweep", path, "--out", out, "--dry-run", "--format", form)
        assert shown.exit_code == 0, shown.stderr
        rows = [line for line in shown.stdout.splitlines() if "done" in line and between in line]
        assert len(rows) == 17
    alone = call("run", "sweep", path, "--out", out, "--format", "csv")
    assert alone.exit_code == 2
    assert "--format goes with --dry-run" in alone.stderr


def test_runs_of_an_array_are_made_one_by_one(tmp_path: Path, text: str) -> None:
    path, out = written(tmp_path, text), tmp_path / "out"
    early = call("run", "sweep", path, "--out", out, "--index", 5)
    assert early.exit_code == 2
    assert early.stderr.strip().endswith(
        "post-train/a_none_5.014K_s1 needs pretrain/a_dense_4.096K_s0: do index 0 first"
    )
    for index in (0, 5):
        made = call("run", "sweep", path, "--out", out, "--index", index)
        assert made.exit_code == 0, made.stderr
    assert pl.read_csv(out / "post-train" / "curves.csv")["run"].unique().to_list() == [
        "a_none_5.014K_s1"
    ]
    beyond = call("run", "sweep", path, "--out", out, "--index", 17)
    assert beyond.exit_code == 2
    assert "the sweep has runs 0 to 16" in beyond.stderr


def test_a_trunk_serves_several_budgets_and_its_states_go_when_they_are_done(
    tmp_path: Path, text: str
) -> None:
    head = text.split("[[pretrain]]")[0]
    block = '[[pretrain]]\nmodels = ["a"]\ntokens = [2048, 4096, 8192]\nshared_trunk = true\n'
    path, out = written(tmp_path, head + block + "warmup = 0.0\n"), tmp_path / "out"
    sweep = read_sweep(path, out)
    trunk, *branches = sweep.jobs
    assert trunk.label == "pretrain/a_dense_6.656K_constant_s0"
    assert [job.needs for job in branches] == [(trunk.folder,)] * 3
    made = call("run", "sweep", path, "--out", out)
    assert made.exit_code == 0, made.stderr
    assert not (trunk.folder / "states").exists()
    table = pl.read_csv(out / "pretrain" / "curves.csv").filter(pl.col("final") == 1)
    assert table["tokens"].to_list() == [2048, 4096, 8192]
    alone = call("run", "sweep", path, "--out", out, "--dry-run", "--json")
    flops = {run["label"]: run["flops"] for run in json.loads(alone.stdout)["sweep"]}
    assert flops["pretrain/a_dense_8.192K_s0"] < flops[trunk.label]


def test_pruned_models_decay_at_several_budgets_from_one_run_each(
    tmp_path: Path, text: str
) -> None:
    """Each as a run of its own would; the fits of both kinds and their controls are apart."""
    head = text.split("[[pretrain]]")[0]
    block = """
    [[post-train]]
    models = ["b"]
    methods = ["2:4", "depth"]
    rates = [0.3, 0.5]
    lr = [1e-3, 3e-3]
    tokens = [2048, 4096, 8192]
    decay = 0.25
    warmup = 0.0
    calibration_windows = 8
    evals = 4
    """
    path, out = written(tmp_path, head + block + "shared_trunk = true\n"), tmp_path / "out"
    sweep = read_sweep(path, out)
    trunks = [job for job in sweep.jobs if not job.needs]
    assert len(trunks) == 2 * 4  # learning rates; the control, 2:4 and two depths
    assert [len([job for job in sweep.jobs if job.needs == (t.folder,)]) for t in trunks] == [3] * 8
    planned = call("run", "sweep", path, "--out", out, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    made = call("run", "sweep", path, "--out", out)
    assert made.exit_code == 0, made.stderr
    assert not list(out.glob("post-train/*/states"))
    table = pl.read_csv(out / "post-train" / "curves.csv")
    decayed = table.filter(pl.col("training") == "decay")
    assert set(decayed["method"]) == {"none+decay", "2:4+decay", "depth+decay"}
    assert set(table.filter(pl.col("training") == "plain")["method"]) == {"none", "2:4", "depth"}
    ends = decayed.filter(pl.col("tokens") > 0)
    assert ends["run"].is_unique().all()
    assert sorted(ends["tokens"].unique()) == [2048, 4096, 8192]
    assert ends.height == 3 * len(trunks)

    # The same runs without trunks, on the same windows.
    path, alone = written(tmp_path, head + block), tmp_path / "alone"
    more = call("run", "sweep", path, "--out", alone, "--dry-run", "--json")
    assert json.loads(planned.stdout)["flops"] < json.loads(more.stdout)["flops"]
    assert call("run", "sweep", path, "--out", alone).exit_code == 0
    assert pl.read_csv(alone / "post-train" / "curves.csv").equals(decayed)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "tokens = [4096]",
            "shared_trunk = true\nwarmup = 0.5\ntokens = [2048, 1e6]",
            "pretrain 1: shared_trunk: the learning rate rises for",
        ),
        ("seeds = [1, 2]", "shared_trunk = true", "post-train 1: shared_trunk: for dense runs"),
        ("[text]", "[text", "sweep.toml: "),
        ("[text]\n", "[txt]\n", "top: txt: unknown; did you mean text?"),
        ("spec = ", "sec = ", "text: sec: unknown; did you mean spec?"),
        ('type = "llama"', "", "models.a: give either type"),
        ('type = "llama"', 'type = "lama"', "models.a: lama"),
        ("hidden_size = 32", "hidden_sise = 32", "models.a: llama: its configuration has no"),
        ("tokens = [4096]", "", "pretrain 1: no tokens"),
        ("tokens = [4096]", "tokens = 4096", "pretrain 1: tokens: 4096: give a list"),
        ("tokens = [4096]", 'tokens = ["many"]', "pretrain 1: tokens: 'many': give a count"),
        ("tokens = [4096]", "tokens = [12]", "pretrain 1: tokens is 12: use at least 1000"),
        ("lr = { a =", "lr = { c =", "pretrain 2: lr: says nothing of a"),
        ("sparsities = [0.0, 0.5]", "sparsities = [50]", "pretrain 2: final is 50"),
        ("save_model = true", "", "post-train 1: a: 0 dense runs of pre-training save"),
        ("seeds = [1]\n", "seeds = [1]\nsave_model = true\n", "a: 3 dense runs"),
        ("rates = [0.2]", "rates = [0.95]", "post-train 1: a: "),
        ("rates = [0.2]", "ratio = [0.2]", "post-train 1: ratio: unknown"),
        ('methods = ["2:4"', 'models = ["c"]\nmethods = ["2:4"', "models: 'c' is none of a, b"),
        ("[training]", "threads = 2\n[training]", "text: threads: unknown"),
        ("seeds = [1]\n", "", "pretrain/a_dense_2.048K_s0"),
    ],
)
def test_what_a_file_gets_wrong_is_one_line_with_its_place(
    tmp_path: Path,
    text: str,
    old: str,
    new: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert old in text
    changed = text.replace(old, new, 1)
    if old == "seeds = [1]\n" and not new:  # twice the same name, with other settings
        changed = changed.replace("tokens = [4096]", "tokens = [2048]")
        said = "asked for twice, with different settings"
    result = call("run", "sweep", written(tmp_path, changed), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "sweep.toml: " in result.stderr
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.toml: No such file"):
        read_sweep(tmp_path / "none.toml", tmp_path)


def test_ways_to_run_do_not_go_together(tmp_path: Path, text: str) -> None:
    arguments: list[Any] = ["run", "sweep", written(tmp_path, text), "--index", 1, "--jobs", 2]
    result = call(*arguments)
    assert result.exit_code == 2
    assert "give one of --dry-run, --index, --jobs and --ray" in result.stderr


STUDY = Path(__file__).resolve().parents[2] / "examples" / "p2_study"


@pytest.mark.parametrize("name", ["sweep.toml", "sweep.gpu.toml"])
def test_the_study_has_what_the_laws_need(name: str, tmp_path: Path) -> None:
    """Decayed bases of 20 tokens per parameter and more, each with its control and three rates of
    three methods; and sparse pre-training of three sizes, four sparsities and three budgets."""
    sweep = read_sweep(STUDY / name, tmp_path)
    pretrained = [job for job in sweep.jobs if job.kind == "pretrain"]
    bases = [job for job in pretrained if job.settings.save_model]
    seeds = set()
    studied = 0
    for base in bases:
        assert base.settings.training.tokens >= 19.9 * base.params
        assert base.settings.training.decay > 0
        pruned = [job.settings for job in sweep.jobs if job.needs == (base.folder,)]
        if not pruned:
            continue
        studied += 1
        seeds |= {s.training.seed for s in pruned}
        assert {s.pruning.method for s in pruned} >= {"none", "depth", "width", "1:4", "2:4", "3:4"}
        for method in ("depth", "width"):
            assert len({s.pruning.rate for s in pruned if s.pruning.method == method}) >= 3
        assert all(s.training.evals >= 15 for s in pruned)
    assert studied >= 4
    assert len(seeds) >= 2
    grid = [job for job in pretrained if not job.settings.save_model]
    assert len({job.model for job in grid}) >= 3
    for model in {job.model for job in grid}:
        cells = {
            (job.settings.sparsity.final, job.settings.training.tokens)
            for job in grid
            if job.model == model
        }
        assert len(cells) >= 12
        assert {final for final, _ in cells} >= {0.0}


@given(name=st.text(max_size=120))
@example("../../evil")
@example("org/small")
@example("..")
@example("a\\b")
@example("C:\\x")
@example("=HYPERLINK(1)")
def test_a_name_stays_inside_its_folder(name: str) -> None:
    try:
        found = slug(name)
    except RunError:
        return
    assert Path("out", found).resolve().parent == Path("out").resolve()
    assert not found.startswith((".", "=", "-"))
    assert slug(found) == found


def test_models_are_named_as_files_can_be(tmp_path: Path, text: str) -> None:
    evil = text.replace("[models.a]", '[models."../../evil"]').replace(
        "a = 5e-3", '"../../evil" = 5e-3'
    )
    sweep = read_sweep(written(tmp_path, evil), tmp_path / "out")
    assert all(job.folder.parent.parent == tmp_path / "out" for job in sweep.jobs)
    assert {job.settings.label for job in sweep.jobs} == {"../../evil", "b"}
    twice = text.replace("[models.b]", '[models."./A"]')
    with pytest.raises(RunError, match="has the same name in files"):
        read_sweep(written(tmp_path, twice), tmp_path / "out")
