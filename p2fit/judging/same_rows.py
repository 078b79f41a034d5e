"""Laws that are to be compared, on the rows that all of them can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from p2fit.curves.choosing import (
    GROUPS,
    Dataset,
    Source,
    datasets,
    laws_served,
    open_curves,
    usable_columns,
    without_drift,
)
from p2fit.curves.columns import with_run_by
from p2fit.curves.control import control_drift
from p2fit.errors import FitError
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS, get_law


def label(law: Law) -> str:
    return law.formula if law.name == "custom" else law.name


# ---------------------------------------------------------------- the same rows for every law


def same_rows(
    source: Source, laws: Sequence[str | Law], options: Mapping[str, Any]
) -> tuple[list[tuple[Dataset, ...]], list[dict[str, int]]]:
    """For each group the datasets of all laws on the same rows, and the count of rows left out."""
    held = {k: options.get(k) or {} for k in ("fix", "tie", "ranges")}
    rest = {k: v for k, v in options.items() if k not in ("columns", "run_by", "start", *held)}
    target = options.get("target", "loss")
    columns = with_run_by(options.get("columns"), options.get("run_by"))
    curves, _, _ = open_curves(
        source, laws[0] if laws else None, columns, target, options.get("where")
    )
    names = curves.frame.columns
    chosen = [get_law(law, names) for law in laws or _varying(curves.frame)]
    if len(chosen) < 2:
        few = ", ".join(map(label, chosen)) or "none"
        raise FitError(f"{curves.source}: a comparison takes two laws and more; here {few}")
    chosen = _restrict(chosen, **held)
    start = options.get("start") or {}
    begun = [
        {n: v for n, v in start.items() if n in law.exponents and not law.monomial}
        for law in chosen
    ]
    for name in start:
        if not any(name in begin for begin in begun):
            raise FitError(f"no law here takes a start for {name}")
    if rest.get("by") is None and any("base_loss" in law.inputs for law in chosen):
        rest["by"] = [] if rest.get("pool") else [c for c in GROUPS if c in names]
    subtract = bool(rest.pop("subtract_control", False))
    whole = curves.frame
    if subtract:  # before the filters, which leave the controls out
        frames = [without_drift(curves, law, target) for law in chosen]
        curves = replace(curves, frame=frames[0])
    # Every law's selection is a filter: one after the other keeps what all of them keep.
    accounts: dict[tuple[str, ...], dict[str, int]] = {}
    emptied: tuple[str, ...] = ()
    for law, begin in zip(chosen, begun):
        kept = datasets(curves, law, start=begin, **rest)
        emptied += kept[0].warnings
        for dataset in kept:
            account = accounts.setdefault(tuple(dataset.group.values()), {})
            for reason, count in dataset.excluded.items():
                account[reason] = account.get(reason, 0) + count
        curves = replace(curves, frame=pl.concat([d.frame for d in kept]), escaped=None)
    # In the order in which they are solved: by cluster.
    unit = options.get("cluster", "run")
    by_law = [
        [
            replace(
                t,
                frame=t.frame.sort(unit, maintain_order=True),
                options=replace(t.options, subtract_control=subtract),
                control={**moved, "subtracted": True}
                if subtract and (moved := control_drift(t.frame, whole))
                else None,
                warnings=emptied,
            )
            for t in datasets(curves, law, start=begin, **rest)
        ]
        for law, begin in zip(chosen, begun)
    ]
    groups = list(zip(*by_law))
    return groups, [accounts[tuple(group[0].group.values())] for group in groups]


def _varying(frame: pl.DataFrame) -> list[Law]:
    """The laws of the table whose columns are there, filled and not constant."""
    filled = [c for c in frame.columns if not frame[c].null_count()]
    varying = {c for c in filled if frame[c].n_unique() > 1}
    fast = [LAWS[name] for name in laws_served(filled) if LAWS[name].monomial]
    return [law for law in fast if set(law.inputs) <= usable_columns(varying)]


def _restrict(
    laws: list[Law],
    fix: Mapping[str, float],
    tie: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
) -> list[Law]:
    """Each law with what it has of the parameters that are fixed, tied or given a range."""
    for names in (*([name] for name in (*fix, *ranges)), *tie.items()):
        if not any(set(names) <= set(law.parameters) for law in laws):
            raise FitError(f"no law here has {' and '.join(names)} among its parameters")
    restricted = []
    for law in laws:
        own = {n: v for n, v in fix.items() if n in law.parameters}
        same = {a: b for a, b in tie.items() if {a, b} <= set(law.parameters)}
        held = law.restrict({**law.fixed, **own}, {**law.tied, **same})
        restricted.append(held.within({n: r for n, r in ranges.items() if n in law.parameters}))
    return restricted
