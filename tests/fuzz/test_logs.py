"""The doors of other programs' logs, and of the table that says what their runs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import p2fit
from tests.fuzz.fuzzing import attack, mutants

LOGS = Path(__file__).parents[1] / "logs"
GIVEN: dict[str, Any] = {"params": 58608, "tokens_per_step": 491520}
PLAIN = b'{"step": 1, "val_loss": 3.5, "run": "a"}\n{"step": 2, "val_loss": 3, "run": "b"}\n'
CSV = b"step,val_loss,model,lr\n1,3.5,a,0.1\n2,3.25,a,0.1\n1,3.75,b,1e-3\n"
TABLE = b"""[a]
params = 8.03e9
pruning_rate = 0.25
base_loss = 2.31
method = "depth"
family = "llama-3"
seed = 3

[b]
params = 1_000_000
tokens_per_step = 4e6
loss_unit = "bits-per-byte"
bytes_per_token = 4.2
"""


def state(name: str) -> bytes:
    """A Trainer's state with a few of its records."""
    whole = json.loads((LOGS / name / "trainer_state.json").read_bytes())
    return json.dumps({**whole, "log_history": whole["log_history"][:9]}).encode()


def events() -> list[bytes]:
    return [path.read_bytes() for path in sorted((LOGS / "tensorboard").glob("*"))]


def head(name: str, lines: int = 9) -> bytes:
    return b"".join((LOGS / name).read_bytes().splitlines(keepends=True)[:lines])


SEEDS = {
    "trainer_state.json": lambda: [state("resumed"), state("several"), state("train_only")],
    "history.jsonl": lambda: [head("wandb_history.jsonl"), PLAIN],
    "chart.csv": lambda: [head("wandb_chart.csv"), CSV],
    "events.out.tfevents.1": events,
}


@pytest.mark.parametrize("name", SEEDS)
def test_any_bytes_are_a_log_or_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    ways: list[dict[str, Any]] = [
        {},
        {"columns": {"loss": "val_loss"}},
        {"columns": {"run": "model", "method": "lr"}},
        {"loss_unit": "perplexity", "base_loss": 9.0, "pruning_rate": 0.2},
    ]

    def enter(data: bytes) -> Any:
        path.write_bytes(data)
        found = p2fit.import_logs(path, **GIVEN, **ways[len(data) % 4 if len(data) % 3 == 0 else 0])
        found.summary()
        found.csv()
        return found.to_dict()

    seeds = SEEDS[name]()
    attack(f"logs/{name}", mutants(seeds), enter)


def test_any_bytes_are_a_table_of_runs_or_refused(tmp_path: Path) -> None:
    log, path = tmp_path / "log.jsonl", tmp_path / "runs.toml"
    log.write_bytes(PLAIN)

    def enter(data: bytes) -> Any:
        path.write_bytes(data)
        return p2fit.import_logs(log, **GIVEN, runs=path).to_dict()

    attack("runs", mutants([TABLE]), enter)


STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1e300,
    10**400,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
    {},
    b"",
]


def test_any_values_of_a_run_are_taken_or_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(PLAIN)
    names = [*("params", "pruning_rate", "base_loss", "method", "family", "seed", "loss_unit")]
    names += ["tokens_per_step", "bytes_per_token"]

    def enter(data: bytes) -> Any:
        name, value = names[data[0]], STRANGE[data[1]]
        if data[2]:
            return p2fit.import_logs(log, **GIVEN | {name: value}).to_dict()
        return p2fit.import_logs(log, **GIVEN, runs={"a": {name: value}}).to_dict()

    every = (bytes((i, j, k)) for i in range(9) for j in range(len(STRANGE)) for k in (0, 1))
    attack("values", every, enter)
