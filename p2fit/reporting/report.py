"""Make the page.

The page is made of the same functions as everything else (fit, validate, compare, plan, plot); it
holds no date, loads nothing, and the same input gives the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack, cast

import polars as pl

from p2fit import __version__, extras
from p2fit.arrays import one_thread
from p2fit.curves.choosing import Dataset, Source, Stdin
from p2fit.curves.frames import is_table
from p2fit.curves.options import OptionNames, Options, showing
from p2fit.errors import FitError, LawError
from p2fit.fit import Fit
from p2fit.fitting import fit_each
from p2fit.judging.comparison import compare
from p2fit.judging.scores import Validation
from p2fit.judging.validation import validate
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS
from p2fit.pictures.colours import spread
from p2fit.pictures.plot import GAIN
from p2fit.pictures.style import Place, svg
from p2fit.plan.compute import ComputePlan, plan_compute
from p2fit.plan.continuing import Continuation, continuation, in_progress
from p2fit.plan.prediction import predict
from p2fit.plan.tokens import TokensPlan, plan_tokens
from p2fit.reporting import captions, planning, summary, words
from p2fit.reporting import rows as rows_
from p2fit.reporting.command import command as reproduce
from p2fit.reporting.mathml import formula, symbol
from p2fit.reporting.section import Asked, Picture, Section
from p2fit.reporting.summary import Gloss
from p2fit.reporting.themes import VARIABLES, themed
from p2fit.wording import join

#: Groups that are put to the test, compared and drawn; of more, each has its numbers only.
FULLY = 8
FOLDS = 10
#: Pictures of each of several groups; of one there are all.
OF_EACH = ("curves", "certainty", "residuals", "holdouts", "saturation")
#: Models at most in the table of tokens.
MODELS = 12
#: Columns that a page reads, whatever the law.
COLUMNS = ("run", "family", "method", "seed", "final", "loss", "loss_stderr")
#: Runs in progress at most in their table.
GOING = 40
#: Inches across a picture: as wide as a phone shows it without making its letters small.
WIDTH = 4.7
#: Of more rows no laws are compared.
MOST_ROWS = 20_000


@showing(Options)
@one_thread()
def report(
    source: Source | Fit | Sequence[Fit],
    law: str | Law | None = None,
    *,
    curves: Source | None = None,
    plan: Sequence[Mapping[str, float]] = (),
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[OptionNames],
) -> str:
    """Fit loss curves, put the fit to the test, and say it all on one HTML page.

    Args:
        source: loss curves, as in :func:`p2fit.fit_each`, or what it returned.
        law: as in :func:`p2fit.fit_each`; of fits it is theirs.
        curves: for fits: their curves, where these are not where the fits found them.
        plan: models of your choice, each the law's inputs by name, with or without tokens: how many
            tokens it is worth buying for it, and with tokens its loss there.
        progress: called with steps done and in all.
        options: the fields of :class:`p2fit.Options`; of fits they are theirs.

    Returns:
        The page: a whole document that loads nothing from anywhere.

    Raises:
        FitError: also where matplotlib or Jinja is not installed.
        CurvesError, LawError: what is wrong with the file or the law.
    """
    page = _template()
    if isinstance(source, Fit):
        source = [source]
    if isinstance(source, Sequence) and not isinstance(source, str) and not is_table(source):
        if law is not None or options:
            raise FitError("a report on fits takes law and options from them")
        fits = list(cast("Sequence[Fit]", source))
        if not all(isinstance(fit, Fit) for fit in fits):
            raise FitError("a report takes loss curves, or fits")
    else:
        if isinstance(source, str) and source == "-":
            source = Stdin()
        rows = cast("Source", source)
        curves = rows if curves is None else curves
        fits = fit_each(rows, law, **options)
    for fit in fits:
        fit.of_loss("a report")
    steps = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(steps), 3 * len(fits))

    sections = []
    for i, fit in enumerate(fits):
        sections.append(_section(fit, curves, i, len(fits), plan, tick))
    text: str = page.render(
        sections=sections,
        overview=_overview(fits),
        group_rows=[(s.title, *c) for s, c in zip(sections, summary.groups(fits))],
        gloss=Gloss(),
        contents=rows_.contents,
        parameter_rows=rows_.parameters,
        sensitivity_heads=rows_.sensitivity_heads,
        sensitivity_rows=rows_.sensitivity,
        budget_rows=rows_.budgets,
        first=fits[0],
        variables=VARIABLES,
        command=reproduce(fits[0], plan),
        version=__version__,
        formula=formula,
        symbol=symbol,
        words=words,
        planning=planning,
        summary=summary,
    )
    return text


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise FitError(f"a report needs Jinja: {extras.command('report')}") from None
    place = jinja2.Environment(
        loader=jinja2.PackageLoader("p2fit.reporting", "."),
        autoescape=True,  # names of runs, columns and files may hold anything
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return place.get_template("page.html")


def _section(
    fit: Fit,
    curves: Source | None,
    index: int,
    of: int,
    plan: Sequence[Mapping[str, float]],
    tick: Callable[[], None],
) -> Section:
    asked = [_asked(fit, at) for at in plan]
    anchor, title = f"g{index + 1}", words.group(fit) if of > 1 else ""
    if of > FULLY:
        for _ in range(3):
            tick()
        return Section(
            fit=fit,
            title=title,
            anchor=anchor,
            validations=[],
            skipped=[],
            comparison=None,
            why_not="",
            tokens=[],
            asked=asked,
            going=None,
            compute=None,
            no_plan="",
            pictures={},
            full=False,
        )
    dataset = _lean(fit, fit.dataset(curves))
    own = replace(dataset.curves, frame=dataset.frame)
    request = fit.request()
    for done in ("columns", "where", "min_tokens", "burn_in", "subtract_control"):
        request.pop(done, None)  # in these rows already
    request |= {"by": list(fit.group) or None, "pool": not fit.group, "bootstrap": 0}
    validations, skipped = [], []
    for holdout in _holdouts(fit):
        try:
            validations += validate(own, fit.law, holdout=[holdout], **request)
        except FitError as error:
            skipped.append((holdout, str(error).rpartition(f"{holdout}: ")[2]))
    tick()
    comparison, why_not = None, ""
    try:
        if fit.law.name == "custom":
            raise FitError("the law is the user's own: p2fit compare takes it beside others")
        if dataset.frame.height > MOST_ROWS:
            raise FitError(f"more than {MOST_ROWS} rows take long; p2fit compare does it")
        request |= {"fix": dict(fit.law.fixed), "tie": dict(fit.law.tied)}
        (comparison,) = compare(own, **request)
        if fit.law.name not in [s.law.name for s in comparison.scores]:
            comparison, why_not = None, "the other laws do not read the inputs that vary here"
    except (FitError, LawError) as error:
        why_not = str(error).rpartition(f"{own.source}: ")[2]
    tick()
    tokens, split, no_plan = _plans(fit, dataset)
    pictures = _pictures(fit, dataset, validations, anchor, OF_EACH if of > 1 else None)
    tick()
    return Section(
        fit=fit,
        title=title,
        anchor=anchor,
        validations=validations,
        skipped=skipped,
        comparison=comparison,
        why_not=why_not,
        tokens=tokens,
        asked=asked,
        going=_going(fit, dataset),
        compute=split,
        no_plan=no_plan,
        pictures=pictures,
    )


def _lean(fit: Fit, dataset: Dataset) -> Dataset:
    """The rows without the columns that nothing here reads: a file may have thousands."""
    where, frame = fit.options["where"] or "", dataset.curves.frame
    read = {*COLUMNS, *fit.law.inputs, fit.target, f"{fit.target}_stderr", *fit.group}
    read |= {fit.options["cluster"], *(x for law in LAWS.values() for x in law.inputs)}
    kept = [c for c in frame.columns if c in read or c in where]
    own = [c for c in dataset.frame.columns if c in read or c in where]
    curves = replace(dataset.curves, frame=frame.select(kept))
    return replace(dataset, frame=dataset.frame.select(own), curves=curves)


def _going(fit: Fit, dataset: Dataset) -> Continuation | None:
    """Where the runs that are not as far as the longest end, if they go on that far."""
    if fit.runs is None or "tokens" not in fit.law.inputs:
        return None
    planned, names = in_progress(dataset.frame)
    rows = {
        name: dataset.frame.filter(pl.col("run") == name).sort("tokens")
        for name in spread(names, GOING)
    }
    try:
        return continuation(fit, list(rows.items()), planned)
    except FitError:  # a run without tokens to go on from
        return None


def _asked(fit: Fit, at: Mapping[str, float]) -> Asked:
    """What the fit says of a model of the reader's choice.

    Raises:
        FitError: an input is missing or unknown, or its value is.
    """
    law = fit.law
    for name in at:
        if name not in law.inputs:
            raise FitError(f"{law.name} does not read {name}: a model is its {join(law.inputs)}")
    found = predict(fit, at) if set(law.inputs) <= set(at) else None
    if "tokens" not in law.inputs:
        if found is None:
            raise FitError(f"a model is its {join(law.inputs)}: some are missing")
        return Asked(at, None, found)
    others = {x: v for x, v in at.items() if x != "tokens"}
    return Asked(at, plan_tokens(fit, others, gain=[GAIN]), found)


def _overview(fits: Sequence[Fit]) -> Picture | None:
    """The exponents of several fits side by side."""
    if len(fits) < 2 or any(f.law.formula != fits[0].law.formula for f in fits):
        return None
    from p2fit.pictures.groups import draw_groups

    try:
        drawing = svg(draw_groups(fits, Place(width=WIDTH)))
    except FitError:
        return None
    return Picture(themed(drawing, "all"), captions.groups(fits), captions.CAPTIONS["groups"])


def _holdouts(fit: Fit) -> list[str]:
    """As p2fit validate does, with random parts of the runs where one by one would take long."""
    last = f"k-fold:{min(FOLDS, max(fit.data['runs'], 2))}"
    if "pruning_rate" in fit.law.inputs:
        last = "pruning_rate:largest"
    return ["checkpoints:0.2", "params:largest", last]


def _plans(fit: Fit, dataset: Dataset) -> tuple[list[TokensPlan], ComputePlan | None, str]:
    """Tokens for models as in the data, the best split of compute, and why neither."""
    from p2fit.pictures.fits import split_panels
    from p2fit.pictures.plans import compute_path, typical_inputs
    from p2fit.pictures.steps import Steps

    frame, no_plan = dataset.frame, ""
    tokens: list[TokensPlan] = []
    if "tokens" not in fit.law.inputs:
        return tokens, None, f"{fit.law.name} does not read tokens: there are none to plan"
    rest, _, parts = split_panels(fit, frame, "tokens")
    steps = Steps(rest[-1], frame[rest[-1]].to_numpy()) if rest else None
    split: ComputePlan | None = None
    try:
        points = [at for part in parts for _, at in typical_inputs(fit, part, steps)]
        for at in spread(points, MODELS):
            try:  # the curves have a row right after pruning
                found = plan_tokens(fit, at, gain=[GAIN], recover=[0.9], curves=dataset.curves)
            except FitError:
                found = plan_tokens(fit, at, gain=[GAIN])
            tokens.append(found)
        _, spent = compute_path(fit, frame)
        first, last = (math.floor(math.log10(c)) for c in (spent.min(), spent.max()))
        split = plan_compute(fit, [10.0**power for power in range(first + 1, last + 4)])
    except (FitError, LawError) as error:
        no_plan = str(error)
    return tokens, split, no_plan


def _pictures(
    fit: Fit,
    dataset: Dataset,
    validations: Sequence[Validation],
    anchor: str,
    kinds: Sequence[str] | None,
) -> dict[str, Picture]:
    """Those of some kinds; None: of all."""
    from p2fit.pictures import certainty, fits, isoflops, plans, recovery, runs, surfaces
    from p2fit.pictures.checks import draw_validation
    from p2fit.pictures.draws import draw_draws

    place, frame = Place(width=WIDTH), dataset.frame
    makers: dict[str, Callable[[], Any]] = {
        "curves": lambda: fits.draw_curves(fit, frame, place),
        "certainty": lambda: certainty.draw_certainty(fit, place),
        "observed": lambda: fits.draw_observed(fit, frame, place),
        "residuals": lambda: fits.draw_residuals(fit, frame, place),
        "holdouts": lambda: draw_validation(validations, place),
        "contours": lambda: surfaces.draw_contours(fit, frame, place),
        "draws": lambda: draw_draws(fit, place),
        "saturation": lambda: plans.draw_saturation(fit, frame, GAIN, place),
        "compute": lambda: plans.draw_compute(fit, frame, place),
        "isoflop": lambda: isoflops.draw_isoflops(fit, frame, place),
        "recovery": lambda: recovery.draw_recovery(fit, frame, dataset.curves.frame, place),
        "runs": lambda: runs.draw_runs(fit, frame, place),
        "ahead": lambda: runs.draw_ahead(fit, frame, place),
    }
    found = {}
    for kind, make in makers.items():
        if kinds is not None and kind not in kinds:
            continue
        try:
            drawing = svg(make())
        except (FitError, LawError):  # there is nothing of this kind to draw
            continue
        found[kind] = Picture(
            themed(drawing, f"{anchor}-{kind}"),
            captions.alt(kind, fit, dataset),
            captions.CAPTIONS[kind],
        )
    return found
