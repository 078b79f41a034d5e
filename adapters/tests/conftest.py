"""One thread, tiny models made once, a small text."""

from __future__ import annotations

import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when transformers is imported

import pytest
import tiny
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Family → folder of a model."""
    root = tmp_path_factory.mktemp("models")
    return {family: str(tiny.save(family, root / family)) for family in tiny.FAMILIES}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 files of words in a grammar simple enough to learn in a few steps."""
    folder = tmp_path_factory.mktemp("words")
    chance = random.Random(0)
    who, does, what = (
        ("the cat", "a dog", "my aunt", "no bird"),
        ("sees", "eats", "hears"),
        ("a mouse", "the rain", "some bread", "itself"),
    )
    for i in range(40):
        said = [
            f"{chance.choice(who)} {chance.choice(does)} {chance.choice(what)}." for _ in range(120)
        ]
        (folder / f"{i:02}.txt").write_text("\n".join(said))
    return folder
