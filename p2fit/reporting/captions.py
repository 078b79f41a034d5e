"""What stands beside the pictures of the report."""

from __future__ import annotations

from collections.abc import Sequence

from p2fit.curves.choosing import Dataset
from p2fit.fit import Fit
from p2fit.reporting.words import _float, input_name, number, plural
from p2fit.wording import join

CAPTIONS = {
    "curves": "Points are rows, lines the fit: solid where that group has rows, dashed where it "
    "has none. Bands are 95 % intervals of the mean. What lies beyond all the data is shaded.",
    "observed": "A point on the line was fitted exactly. Runs far off it are named.",
    "residuals": "What the law misses. Rows should lie about 0 all along: a median that bends "
    "away is a fault of the law, not of the data.",
    "holdouts": "Predictions of rows that the fit did not see.",
    "contours": "Along a line the predicted loss is the same. Beyond the data, shaded, the law is "
    "all there is.",
    "saturation": "A diamond is where a doubling of the tokens gains less than the threshold, its "
    "bar the 95 % interval; dotted lines are where a curve ends with endless tokens.",
    "compute": "Size and tokens that reach the lowest loss with a given compute of 6 FLOPs per "
    "parameter and token. Points are the rows as they were run.",
    "certainty": "Bars are 95 % intervals, coefficients as multiples of their estimates; one that "
    "is open on a side has an arrow there. Last: how far a prediction may be off (95 %), from "
    "the edge of the data on, if the law is true.",
    "isoflop": "Left: loss over size at equal compute; rows near a budget are moved to it as the "
    "law says. Right: the best size, and where a parabola through a valley's rows has its minimum.",
    "runs": "Left and middle: how each run differs from the law in level and in rate. Right: how "
    "alike the errors of two points of a run are.",
    "ahead": "A run goes on from its own points as the law says; the band is the 95 % interval of "
    "a measurement.",
    "recovery": "(loss right after pruning − loss) / (loss right after pruning − base loss), of "
    "rows and of the law.",
    "groups": "Exponents of all groups with their 95 % intervals; an open side runs to the edge.",
    "draws": "Each point is one set of parameters that the fit holds possible. A narrow slanted "
    "cloud means that two parameters trade off: neither is known by itself.",
}


# ---------------------------------------------------------------- pictures


def alt(kind: str, fit: Fit, dataset: Dataset) -> str:
    """What a picture shows."""
    rows = plural(dataset.frame.height, "row")
    inputs = [input_name(i) for i in fit.law.inputs if i != "base_loss"]
    rmse = number(_float(fit.metrics["rmse"]))
    return {
        "curves": f"Measured loss of {rows} and the fitted curves with their 95 % intervals, over "
        f"{join(tuple(inputs)) or 'nothing'}.",
        "observed": f"Observed against predicted loss of {rows}; the root mean square distance "
        f"from the diagonal is {rmse} nats per token.",
        "residuals": f"Observed minus predicted loss of {rows} against "
        f"{join((*inputs, 'the predicted loss'))}.",
        "holdouts": "Predicted and measured loss of rows that were held out, with 95 % intervals; "
        "the table before says the same in numbers.",
        "contours": "Lines of equal predicted loss over two of the inputs, with the rows on top.",
        "certainty": "Intervals of the parameters, and how far predictions may be off near and far "
        "from the data; the tables say the same in numbers.",
        "isoflop": "Loss over size for several budgets of compute with the curves of the law and "
        "their minima, and the best size over compute.",
        "runs": "Level and rate of each run about the law, and the correlation of errors of points "
        "of a run over their distance.",
        "ahead": "Runs in progress with where each goes on to; the table before says the same in "
        "numbers.",
        "recovery": "The share of what pruning cost that is won back, over the tokens, by rate.",
        "saturation": "The fitted curves far beyond the data, their limits, and where a doubling "
        "of the tokens hardly helps; the table before says the same in numbers.",
        "compute": "Best size, tokens, tokens per parameter and loss against compute, with 95 % "
        "intervals; the table before says the same in numbers.",
        "draws": "Histograms and pairwise scatter plots of the parameters, drawn as the fit is "
        "unsure of them; the table of parameters says the same in numbers.",
    }[kind]


def groups(fits: Sequence[Fit]) -> str:
    """What the picture of several fits shows."""
    return (
        f"Exponents of {len(fits)} groups with their 95 % intervals; the sections below say the "
        "same in numbers."
    )
