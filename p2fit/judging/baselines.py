"""Simple guesses that a law must beat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.curves.choosing import Dataset
from p2fit.judging.scores import Points
from p2fit.laws.law import Law
from p2fit.solver.solving import solve_dataset

#: A power law per run has three parameters; from this many checkpoints it is more than a line
#: through its points.
_POWER_ROWS = 4


# ---------------------------------------------------------------- baselines


def run_baselines(part: Dataset, points: Points, held: Index) -> dict[str, Array]:
    """What a run's own fitted part says about the rest of it."""
    last, power = np.full(len(held), np.nan), np.full(len(held), np.nan)
    law = Law.parse("a + b/tokens^c", columns=["tokens"], name="power law")
    options = replace(
        part.options,
        fix={},
        tie={},
        weights="rows",
        errors="rows",
        cluster="run",
        by=None,
        bootstrap=0,
    )
    fitted = part.frame.partition_by("run", as_dict=True, maintain_order=True)
    runs = np.asarray(points.run)[held]
    for name in dict.fromkeys(runs.tolist()):
        mine = np.flatnonzero(runs == name)
        own = fitted.get((name,))
        if own is None:
            continue
        last[mine] = own[part.options.target][-1]
        if own.height >= _POWER_ROWS and part.options.target == "loss":
            solved = solve_dataset(replace(part, law=law, frame=own, options=options))
            values = solved.problem.natural(solved.solution.z)
            power[mine] = law.predict(values, {"tokens": points.columns["tokens"][held[mine]]})
    return {"last value": last, "power law": power}


def neighbour_baselines(law: Law, points: Points, kept: Index, held: Index) -> dict[str, Array]:
    """What the fitted curves nearest by say, at the same tokens.

    A curve is all fitted rows that agree in every input but tokens, so runs of one row each (a
    size trained for several token counts) form curves too. Where a curve does not reach the
    tokens in question its end counts, and is as much further away in log tokens.
    """
    above = "base_loss" in law.inputs and points.target == "loss"
    base = points.columns["base_loss"] if above else np.zeros(len(points.loss))
    value = points.loss - base
    # log1p, as a law without tokens may have a row at 0.
    tokens = points.columns.get("tokens")
    time = np.zeros(len(value)) if tokens is None else np.log1p(tokens)
    inputs = [x for x in law.inputs if x not in ("tokens", "base_loss")]
    logs = [np.log(v) if (v := points.columns[x]).min() > 0 else v for x in inputs]
    design = np.stack([*logs, np.zeros(len(value))], axis=1)  # a law may have no other input

    places, member = np.unique(design[kept], axis=0, return_inverse=True)
    curves = [_curve(time[rows], value[rows]) for rows in _groups(kept, member.ravel())]
    start = np.array([t[0] for t, _ in curves])
    end = np.array([t[-1] for t, _ in curves])
    nearest, two = np.full(len(held), np.nan), np.full(len(held), np.nan)
    asked, member = np.unique(design[held], axis=0, return_inverse=True)
    for place, mine in zip(asked, _groups(np.arange(len(held)), member.ravel())):
        t, own = time[held[mine]], base[held[mine]]
        beyond = np.maximum(np.maximum(start[:, None] - t, t - end[:, None]), 0.0)
        far = np.linalg.norm(places - place, axis=1)
        choice = np.hypot(far[:, None], beyond).argmin(axis=0)
        for c in np.unique(choice):
            rows = choice == c
            nearest[mine[rows]] = own[rows] + np.interp(t[rows], *curves[c])
        pair = _neighbours(places, place)
        if pair is not None:
            (i, j), share = pair
            first, second = np.interp(t, *curves[i]), np.interp(t, *curves[j])
            inside = np.maximum(beyond[i], beyond[j]) < 1e-9
            two[mine[inside]] = (own + first + share * (second - first))[inside]
    return {"nearest curve": nearest, "two nearest": two}


def _groups(rows: Index, member: Index) -> list[Index]:
    order = np.argsort(member, kind="stable")
    return np.split(rows[order], np.cumsum(np.bincount(member))[:-1])


def _curve(time: Array, value: Array) -> tuple[Array, Array]:
    """Values by ascending time, the mean where several share one."""
    distinct, member = np.unique(time, return_inverse=True)
    return distinct, np.bincount(member, value) / np.bincount(member)


def _neighbours(places: Array, place: Array) -> tuple[tuple[int, int], float] | None:
    """Two nearest curves that differ in one and the same input only, and how far along the line
    from the first to the second the place lies: one between them comes first, then one near."""
    best: tuple[bool, float, tuple[int, int], float] | None = None
    for x in range(places.shape[1]):
        gap = places[:, x] - place[x]
        others = np.delete(places == place, x, axis=1).all(axis=1)
        alike = np.flatnonzero(others & (gap != 0))
        if len(alike) < 2:
            continue
        i, j = alike[np.argsort(np.abs(gap[alike]), kind="stable")[:2]].tolist()
        found = bool(gap[i] * gap[j] > 0), float(abs(gap[i]) + abs(gap[j]))
        if best is None or found < best[:2]:
            best = (*found, (i, j), float(gap[i] / (gap[i] - gap[j])))
    return None if best is None else best[2:]
