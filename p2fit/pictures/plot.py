"""Draw a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from p2fit.arrays import one_thread
from p2fit.curves.choosing import Source
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.checks import draw_profiles
from p2fit.pictures.style import WIDTHS, Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal[
    "curves",
    "observed",
    "residuals",
    "contours",
    "saturation",
    "compute",
    "draws",
    "profile",
    "certainty",
    "isoflop",
    "runs",
    "ahead",
    "recovery",
]
_OF_LOSS = ("contours", "saturation", "compute", "isoflop", "recovery")
KINDS: tuple[str, ...] = get_args(Kind)
Width = Literal["column", "page"]
#: Inches that a picture may be wide.
NARROWEST, WIDEST = 2.0, 40.0

#: Nats per token that a doubling of the tokens must gain to be worth it, unless said otherwise.
GAIN = 0.01


@one_thread()
def plot(
    fit: Fit,
    kind: Kind = "curves",
    *,
    curves: Source | None = None,
    gain: float = GAIN,
    ax: Axes | None = None,
    width: Width | float | None = None,
) -> Figure:
    """Draw a fit, also one that was loaded from a file.

    Args:
        kind: ``curves``: loss along the tokens, with the fitted curves and their 95 % intervals,
            what lies beyond the data shaded. ``observed``: observed against predicted loss.
            ``residuals``: what the law misses, against each input. ``contours``: lines of equal
            loss over size and tokens (rate and tokens for laws with a pruning rate), and for
            pre-training laws the compute-optimal path. ``saturation``: the curves until more tokens
            hardly help, and their limits. ``compute``: the best split of compute between size and
            tokens. ``draws``: every pair of parameters, as
            the fit is unsure of them. ``profile``: how the objective rises as each parameter is
            moved. ``certainty``: intervals of the parameters, and how far predictions may be off,
            near and far from the data. ``isoflop``: valleys of loss over size, one a budget of
            compute, and the best size over the budget. ``runs``: how runs differ from the law in
            level and rate, and how alike their neighbouring errors are. ``ahead``: where runs in
            progress go on to. ``recovery``: what training wins back of what pruning cost.
        curves: the rows that the fit was made of; None: they are read again from the file that
            it names, which must not have changed.
        gain: for ``saturation``, nats per token: a curve is saturated where a doubling of the
            tokens gains less.
        ax: axes of yours to draw on, where the picture has one panel.
        width: in inches, or ``column`` (3.3) or ``page`` (6.9), as papers print it, with letters of
            8 points; None: as wide as its panels like to be.

    Returns:
        A matplotlib figure to go on with; ``figure.savefig("curves.pdf")`` writes it. With ``ax``
        the figure that these belong to.

    Raises:
        FitError: matplotlib is not installed, the rows are not there any more or have changed,
            this fit has nothing of that kind to draw, or the picture has panels and ``ax`` is one.
        CurvesError: the file has faults.
    """
    if kind not in KINDS:
        raise FitError(f"{kind!r} is not a picture; there are {', '.join(KINDS)}")
    place = Place(ax, _inches(width))
    if kind in ("draws", "certainty"):  # of the fit alone
        return _of_fit(fit, kind, place)
    if kind in _OF_LOSS:
        fit.of_loss(f"a picture of kind {kind}")
    dataset = fit.dataset(curves)
    if kind == "profile":
        from p2fit.uncertainty.profiles import profile_dataset

        return draw_profiles(list(profile_dataset(dataset, dataset.law.free)), place)
    if kind == "saturation":
        from p2fit.pictures.plans import draw_saturation

        return draw_saturation(fit, dataset.frame, gain, place)
    if kind == "recovery":
        from p2fit.pictures.recovery import draw_recovery

        return draw_recovery(fit, dataset.frame, dataset.curves.frame, place)
    from p2fit.pictures import fits, isoflops, plans, runs, surfaces

    drawn = {
        "curves": fits.draw_curves,
        "observed": fits.draw_observed,
        "residuals": fits.draw_residuals,
        "contours": surfaces.draw_contours,
        "compute": plans.draw_compute,
        "isoflop": isoflops.draw_isoflops,
        "runs": runs.draw_runs,
        "ahead": runs.draw_ahead,
    }
    return drawn[kind](fit, dataset.frame, place)


def _of_fit(fit: Fit, kind: Kind, place: Place) -> Figure:
    if kind == "draws":
        from p2fit.pictures.draws import draw_draws

        return draw_draws(fit, place)
    from p2fit.pictures.certainty import draw_certainty

    return draw_certainty(fit, place)


def _inches(width: Width | float | None) -> float | None:
    if width is None:
        return None
    found = WIDTHS.get(width) if isinstance(width, str) else width
    if found is None or not NARROWEST <= found <= WIDEST:
        raise FitError(
            f"a width is {' or '.join(WIDTHS)}, or {NARROWEST:g} to {WIDEST:g} inches, not {width}"
        )
    return found
