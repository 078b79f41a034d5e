"""Fit a law to loss curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack, cast

from p2fit.arrays import one_thread
from p2fit.curves.choosing import Source, datasets
from p2fit.curves.options import OptionNames, Options, showing
from p2fit.errors import FitError
from p2fit.estimation import fit_dataset
from p2fit.fit import Fit
from p2fit.laws.law import Law
from p2fit.results import Results
from p2fit.solver.solving import solve_dataset

# ---------------------------------------------------------------- fitting


class FitOptions(OptionNames, total=False):
    """What :func:`fit` takes as keyword arguments besides its own."""

    noise: Literal["student-t", "normal"]
    prior: Sequence[str]
    draws: int
    tune: int
    chains: int
    prior_sensitivity: bool
    save_trace: str | Path | None


Backend = Literal["least-squares", "bayes", "laplace"]


@showing(Options)
def fit(
    source: Source,
    law: str | Law | None = None,
    *,
    backend: Backend = "least-squares",
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[FitOptions],
) -> Fit:
    """Fit one law to one set of loss curves. Options are those of :func:`fit_each`.

    Raises:
        FitError: also when the curves form several groups (choose with ``where``, fit each with
            :func:`fit_each`, or pool them with ``pool=True``).
    """
    fits = fit_each(source, law, backend=backend, progress=progress, **options)
    if len(fits) > 1:
        groups = "; ".join(", ".join(f"{k} = {v}" for k, v in f.group.items()) for f in fits)
        raise FitError(
            f"the curves form {len(fits)} groups ({groups}): "
            "use fit_each, choose one with where, or pass pool=True"
        )
    return fits[0]


@showing(Options)
@one_thread()
def fit_each(
    source: Source,
    law: str | Law | None = None,
    *,
    backend: Backend = "least-squares",
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[FitOptions],
) -> list[Fit]:
    """Fit one law to each group of loss curves.

    Args:
        source: a CSV file (``-`` for standard input), a table, or :class:`Curves`.
        law: a name from :data:`LAWS`, a formula, or a :class:`Law`; None: by the columns.
        backend: ``least-squares``; ``bayes`` for the posterior by NUTS, or ``laplace`` for a quick
            approximation of it (both need the extra ``bayes``).
        progress: called with resamples or draws done and in all.
        options: the fields of :class:`Options`; for the Bayesian backends also those of
            :class:`p2fit.BayesOptions`.

    Returns:
        One :class:`Fit` per group, in the order of the groups' values.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    if backend in ("bayes", "laplace"):
        from p2fit.bayes.fitting import fit_bayes

        return Results(fit_bayes(source, law, cast("Any", backend), progress, options))
    if backend != "least-squares":
        raise FitError(f"backend is {backend!r}: use least-squares, bayes or laplace")
    own = FitOptions.__annotations__.keys() - OptionNames.__annotations__.keys()
    if misplaced := sorted(own & options.keys()):
        raise FitError(f"{misplaced[0]} goes with the backend bayes")
    fits = Results[Fit]()
    for dataset in datasets(source, law, **options):
        solved = solve_dataset(dataset)
        found = fit_dataset(dataset, progress, solved)
        if solved.identification.undetermined:
            from p2fit.uncertainty.equally_good import members

            found = replace(found, equally_good=members(solved))
        fits.append(found)
    return fits
