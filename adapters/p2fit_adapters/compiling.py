"""Training by ``torch.compile``."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from p2fit_adapters.errors import RunError


def compiled(model: Any, accelerator: Any) -> Any:
    """The model with its forward and backward passes compiled at the first call of each shape.

    Raises:
        RunError: there are several processes, or no compiler.
    """
    if accelerator.num_processes > 1:
        raise RunError("compile is for one process: launch without it")
    if accelerator.device.type == "cpu" and not any(
        map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))
    ):
        raise RunError("compile needs a C++ compiler on a CPU: install g++, or leave compile out")
    return torch.compile(model)
