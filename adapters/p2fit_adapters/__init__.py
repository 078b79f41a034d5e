"""p2fit-adapters: make loss curves from real runs, for p2fit to fit.

>>> from p2fit_adapters import Pruning
>>> Pruning("2:4").chosen_criterion
'sparsegpt'
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2fit_adapters.distillation import Distillation, distillations
    from p2fit_adapters.downstream import Answered, evaluate_tasks
    from p2fit_adapters.errors import RunError
    from p2fit_adapters.estimate import Planned, makespan, plan
    from p2fit_adapters.jobs import Job, Sweep
    from p2fit_adapters.memory import Launch, Memory, launches
    from p2fit_adapters.models import Counts, count_parameters, load_model
    from p2fit_adapters.post_training import (
        PostTrained,
        PostTraining,
        post_train,
        post_train_each,
    )
    from p2fit_adapters.pretraining import (
        Pretrained,
        Pretraining,
        Sparsity,
        pretrain,
        pretrain_each,
    )
    from p2fit_adapters.progress import Outcome
    from p2fit_adapters.pruning import Pruned, Pruning, combinations, counts_after, prune
    from p2fit_adapters.sweep import read_sweep
    from p2fit_adapters.text import Text, TextSource, prepare
    from p2fit_adapters.training import Trainer, Training, evaluate
    from p2fit_adapters.workers import run_one, run_sweep

# torch is imported when something is asked for, so that the command's help does not wait for it.
_MODULES = {
    "distillation": ("Distillation", "distillations"),
    "downstream": ("Answered", "evaluate_tasks"),
    "errors": ("RunError",),
    "estimate": ("Planned", "makespan", "plan"),
    "jobs": ("Job", "Sweep"),
    "memory": ("Launch", "Memory", "launches"),
    "models": ("Counts", "count_parameters", "load_model"),
    "post_training": ("PostTrained", "PostTraining", "post_train", "post_train_each"),
    "pretraining": ("Pretrained", "Pretraining", "Sparsity", "pretrain", "pretrain_each"),
    "progress": ("Outcome",),
    "pruning": ("Pruned", "Pruning", "combinations", "counts_after", "prune"),
    "sweep": ("read_sweep",),
    "text": ("Text", "TextSource", "prepare"),
    "training": ("Trainer", "Training", "evaluate"),
    "workers": ("run_one", "run_sweep"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answered",
    "Counts",
    "Distillation",
    "Job",
    "Launch",
    "Memory",
    "Outcome",
    "Planned",
    "PostTrained",
    "PostTraining",
    "Pretrained",
    "Pretraining",
    "Pruned",
    "Pruning",
    "RunError",
    "Sparsity",
    "Sweep",
    "Text",
    "TextSource",
    "Trainer",
    "Training",
    "combinations",
    "count_parameters",
    "counts_after",
    "distillations",
    "evaluate",
    "evaluate_tasks",
    "launches",
    "load_model",
    "makespan",
    "plan",
    "post_train",
    "post_train_each",
    "prepare",
    "pretrain",
    "pretrain_each",
    "prune",
    "read_sweep",
    "run_one",
    "run_sweep",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'p2fit_adapters' has no attribute {name!r}")
    return getattr(import_module(f"p2fit_adapters.{_MODULE_OF[name]}"), name)
