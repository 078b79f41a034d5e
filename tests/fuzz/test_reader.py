"""The door of CSV: any bytes are curves, or faults with their lines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl

import p2fit
from tests import simulate
from tests.fuzz.fuzzing import attack, mutants

ROOT = Path(__file__).parents[2]
LAWS = (None, "p2", "E + A/params^alpha")


def seeds() -> list[bytes]:
    p2 = pl.DataFrame(simulate.p2(seed=0)).head(12)
    quoted = p2.with_columns(run=pl.format('"{}, a"', "run"), family=pl.lit("llama 3"))
    real = (ROOT / "examples" / "chinchilla" / "chinchilla.csv").read_bytes()
    return [
        p2.write_csv().encode(),
        quoted.write_csv().encode(),
        b"\r\n".join(real.splitlines()[:9]),
        p2.with_columns(loss_stderr=0.01, seed=1, final=1).write_csv(null_value="").encode(),
    ]


def test_any_bytes_are_curves_or_faults() -> None:
    def enter(data: bytes) -> Any:
        source = io.BytesIO(data)
        found = p2fit.check(source, LAWS[len(data) % len(LAWS)])
        assert found["rows"] == p2fit.read_curves(io.BytesIO(data)).frame.height
        return found

    attack("reader", mutants(seeds()), enter)
