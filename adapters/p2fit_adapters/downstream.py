"""What saved models answer: tasks of lm-evaluation-harness, beside the losses of their runs."""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from p2fit.extras import command
from p2fit.files import write_text
from p2fit_adapters import curves
from p2fit_adapters.errors import RunError
from p2fit_adapters.models import load_model
from p2fit_adapters.progress import Report
from p2fit_adapters.training import Training

ANSWERS, TABLE = "answers.json", "answers.csv"


@dataclass(frozen=True)
class Answered:
    """What one model scored."""

    run: str
    scores: Mapping[str, Mapping[str, Any]]
    """Task → value, its standard error (None where the harness has none), and what made it."""


def evaluate_tasks(
    out: str | Path,
    tasks: Sequence[str],
    *,
    metric: str = "acc",
    few_shot: int | None = None,
    tasks_from: str | Path | None = None,
    training: Training | None = None,
    report: Report | None = None,
) -> list[Answered]:
    """Ask the models that the finished runs of a folder have saved.

    ``out/answers.csv`` is ``out/curves.csv`` with two more columns for each task, ``TASK`` and
    ``TASK_stderr``, filled in the last row of each run; what made them is in
    ``out/RUN/answers.json``. What was asked of the same model in the same way is not asked again.

    Args:
        out: folder of the runs, with their ``curves.csv``.
        tasks: names that the harness knows.
        metric: of the harness, such as ``acc`` or ``acc_norm``.
        few_shot: examples in each prompt; by default as many as the task says.
        tasks_from: a folder of further tasks, as YAML files of the harness.
        training: its device, number format and batch size hold.

    Raises:
        RunError: the harness is not installed, no run has kept its model, a task is not known, has
            no such metric or needs data that cannot be had.
    """
    out, training, report = Path(out), training or Training(), report or Report()
    columns = curves.read_columns(out)
    if not columns:
        raise RunError(f"{out}: holds no {curves.CURVES}: give the folder of some runs")
    wished = {*tasks}.union(*(_read(path.parent) for path in out.glob(f"*/{ANSWERS}")))
    names = [column for name in map(_column, wished) for column in (name, f"{name}_stderr")]
    if len({*columns, *names}) < len(columns) + len(names):
        raise RunError(f"{', '.join(tasks)}: two columns would have one name")
    ended = [p.parent for p in sorted(out.glob(f"*/{curves.META}")) if _is_done(p.parent)]
    folders = [folder for folder in ended if (folder / "model").is_dir()]
    if not folders:
        raise RunError(f"{out}: no finished run has kept its model: make them with --save-models")
    if len(folders) < len(ended):
        report.warn(f"{len(ended) - len(folders)} runs have not kept their models")
    harness = _Harness(tasks, tasks_from)
    how = {"metric": metric, "few_shot": few_shot, "dtype": training.chosen_dtype}
    how["harness"] = version("lm_eval")
    found = []
    for i, folder in enumerate(folders, 1):
        wanted = how | {"weights": _weights(folder / "model")}
        known = _read(folder)
        missing = [task for task in tasks if known.get(task, {}).get("how") != wanted]
        if missing:
            report.say(f"{i} of {len(folders)}: {folder.name}: asking {', '.join(missing)}")
            scores = harness.ask(folder / "model", missing, metric, few_shot, training)
            known |= {task: score | {"how": wanted} for task, score in scores.items()}
            write_text(folder / ANSWERS, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
            _collect(out, columns)
        found.append(Answered(folder.name, {task: known[task] for task in tasks}))
    _collect(out, columns)
    return found


def _column(task: str) -> str:
    """A name that a formula can have."""
    return re.sub(r"\W", "_", task)


def _is_done(folder: Path) -> bool:
    meta = curves.read_meta(folder)
    return meta is not None and meta["status"] == "done"


def _weights(folder: Path) -> list[list[Any]]:
    """What tells one saved model from another in its place."""
    files = sorted(folder.glob("*.safetensors"))
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ANSWERS
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _collect(out: Path, columns: Sequence[str]) -> None:
    """Put the answers of all runs beside the rows of all runs."""
    answers = {path.parent.name: _read(path.parent) for path in out.glob(f"*/{ANSWERS}")}
    names = {task: _column(task) for task in sorted(set().union(*answers.values()))}
    with (out / curves.CURVES).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {row["run"]: row for row in rows}  # rows of a run are in the order of its steps
    for run, scores in answers.items():
        for task, score in scores.items():
            last[run][names[task]] = score["value"]
            last[run][f"{names[task]}_stderr"] = score["stderr"]
    more = [column for name in names.values() for column in (name, f"{name}_stderr")]
    table = io.StringIO()
    writer = csv.DictWriter(table, [*columns, *more], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / TABLE, table.getvalue())


class _Harness:
    def __init__(self, tasks: Sequence[str], tasks_from: str | Path | None) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise RunError(
                f"this needs lm-evaluation-harness: {command('eval', 'p2fit-adapters')}"
            ) from None
        if tasks_from and not Path(tasks_from).is_dir():
            raise RunError(f"{tasks_from}: no such folder")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.tasks = TaskManager(include_path=None if tasks_from is None else str(tasks_from))
        for task in tasks:
            if task not in self.tasks.all_tasks:
                near = difflib.get_close_matches(task, self.tasks.all_tasks, 1)
                raise RunError(f"no task {task}" + (f": is it {near[0]}?" if near else ""))

    def ask(
        self, model: Path, tasks: Sequence[str], metric: str, few_shot: int | None, how: Training
    ) -> dict[str, dict[str, Any]]:
        """Task → value, standard error, and questions."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        asked = HFLM(
            pretrained=load_model(str(model)).to("cuda" if how.on_gpu else "cpu"),
            tokenizer=AutoTokenizer.from_pretrained(model),
            batch_size=how.batch_size,
            mixed_precision_dtype="bfloat16" if how.chosen_dtype == "bf16" else None,
        )
        try:
            found = simple_evaluate(
                asked,
                tasks=list(tasks),
                num_fewshot=few_shot,
                task_manager=self.tasks,
                log_samples=False,
            )
        except OSError as error:  # of the data, on a hub or here
            raise RunError(f"{', '.join(tasks)}: {str(error).splitlines()[0]}") from None
        return {task: _score(task, found, metric) for task in tasks}


def _score(task: str, found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """
    Args:
        found: what the harness says; it names a metric with its filter, ``acc,none``.
    """
    scores = found["results"].get(task, {})
    named = [name for name in scores if name.split(",")[0] == metric]
    if not named:
        known = sorted({n.split(",")[0] for n in scores if "," in n and "_stderr," not in n})
        raise RunError(f"{task}: has no {metric}: known are {', '.join(known)}")
    error = scores.get(named[0].replace(",", "_stderr,", 1))
    return {
        "value": float(scores[named[0]]),
        # Where all answers are right, or all wrong, its 0 says nothing.
        "stderr": float(error) if isinstance(error, int | float) and error > 0 else None,
        "questions": found["n-samples"].get(task, {}).get("effective"),
        "few_shot": found["n-shot"].get(task),
    }
