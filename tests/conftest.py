"""Real data, as polars frames, straight from the examples."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings

# A red run must mean a changed program: not an unlucky draw, not a machine that has other work, not
# what an earlier run left. `--hypothesis-profile hunt` draws anew each time.
settings.register_profile("hunt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("hunt"), derandomize=True)
settings.load_profile("steady")

EXAMPLES = Path(__file__).parents[1] / "examples"


def _example(name: str) -> pl.DataFrame:
    return pl.read_csv(EXAMPLES / name / f"{name}.csv", infer_schema_length=None)


@pytest.fixture(scope="session")
def chinchilla() -> pl.DataFrame:
    return _example("chinchilla")


@pytest.fixture(scope="session")
def pruned_llama3() -> pl.DataFrame:
    return _example("pruned_llama3_depth")


@pytest.fixture(scope="session")
def datablations() -> pl.DataFrame:
    return _example("datablations")


def _nonzero(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        sparsity="pruning_rate", params_nonzero=pl.col("params") * (1 - pl.col("pruning_rate"))
    )


@pytest.fixture(scope="session")
def frantar_vit() -> pl.DataFrame:
    return _nonzero(_example("frantar_vit")).with_columns(examples="tokens")


@pytest.fixture(scope="session")
def frantar_t5() -> pl.DataFrame:
    return _nonzero(_example("frantar_t5"))
