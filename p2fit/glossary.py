"""The words that p2fit uses, each with what it means: for ``p2fit explain``, reports and the pages.

>>> explain("condition")[0].term
'condition number'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from p2fit.errors import FitError
from p2fit.wording import closest


@dataclass(frozen=True)
class Word:
    """A word and its meaning."""

    term: str
    """As it is written."""
    meaning: str
    """A few sentences."""
    also: tuple[str, ...] = ()
    """Other forms of it."""


_LAWS = 3  # that are shown of those with a parameter

WORDS = (
    Word(
        "ASD",
        "Average slope difference: how far the slope of the predicted curve is from that of the "
        "measured one, on average along a run, in nats per token and 1e9 tokens (or the unit "
        "beside it). A law may hit the level of a curve and still miss where it is going.",
        ("average slope difference",),
    ),
    Word(
        "at its bound",
        "The best value of a parameter lies at the end of the range that was searched. The data "
        "would have it go further: its value says where the range ends. --range sets another.",
        ("at the end of its range", "bound"),
    ),
    Word(
        "base loss",
        "The loss of the unpruned model on the same evaluation set, L₀, in the column base_loss. "
        "Pruning laws are about the loss above it.",
        ("base_loss", "base model", "L₀"),
    ),
    Word(
        "bootstrap",
        "Fits of many data sets made anew from the residuals of whole runs. Their spread shows "
        "how much the parameters would move with other runs.",
        ("wild cluster bootstrap", "resamples"),
    ),
    Word(
        "compute",
        "6 FLOPs per parameter that is left and token (2 forward, 4 backward), no more and no "
        "less: attention and embeddings are not counted apart.",
        ("FLOPs",),
    ),
    Word(
        "condition number",
        "How much better the best determined combination of parameters is known than the worst. "
        "Around 1000 or more, some combination is known hardly at all.",
        ("condition",),
    ),
    Word(
        "contraction",
        "Of a Bayesian fit: by how much the data narrowed a parameter, 1 - (posterior sd / prior "
        "sd)². Near 0 % the posterior is the prior: the number comes from the prior, not from "
        "the data.",
        ("posterior = prior",),
    ),
    Word(
        "control",
        "The unpruned model trained on the same tokens (pruning_rate 0). What it gains or loses "
        "there is not due to pruning; --subtract-control takes it off.",
    ),
    Word(
        "correlation of neighbours",
        "How alike the errors of two successive points of a run are, 0 to 1. Near 1 a hundred "
        "points of one run say little more than a few.",
        ("serial correlation", "neighbours"),
    ),
    Word(
        "decades outside",
        "How far a point is from the data, in powers of ten: 1 is ten times the largest value, "
        "-1 a tenth of the smallest, 0 within. There the law is all there is, and no interval "
        "knows whether it still holds. 'together' is the distance from the nearest combination "
        "of inputs that there are data around.",
        ("decades_outside", "outside", "extrapolation", "together"),
    ),
    Word(
        "determined",
        "A parameter is determined where moving it makes the fit worse whatever the others do. "
        "One that is not has many values that fit equally well: its number means nothing.",
        ("not determined", "undetermined", "identified", "not separately determined"),
    ),
    Word(
        "direction",
        "A combination of parameters that can be moved by itself. With 4 of 7 directions the "
        "data see four such combinations, and cannot tell the rest apart: see local rank.",
        ("directions",),
    ),
    Word(
        "divergences",
        "Steps at which the sampler lost its way, in a corner of the posterior that it cannot "
        "follow. With any of them the draws may miss a part of it.",
    ),
    Word(
        "doubling gains",
        "What the loss falls by when the tokens of a run are doubled from where it is.",
    ),
    Word(
        "effective size",
        "How many independent draws the draws of a sampler are worth; some hundreds are enough "
        "for an interval.",
        ("ESS", "ess_bulk", "ess_tail"),
    ),
    Word(
        "equally good",
        "Where the data leave parameters open, many sets of them fit as well, to within a "
        "millionth of the objective. The range is the least and the most that these predict.",
        ("range of equally good fits", "equally good fits", "fit as well"),
    ),
    Word(
        "excess",
        "The loss above the unpruned model's: loss - base_loss. R² is given of it, since R² of "
        "the loss itself would flatter any law.",
        ("L−L₀", "r2_excess"),
    ),
    Word(
        "hold-out",
        "Rows that are left out of a fit and then predicted: the last checkpoints, the largest "
        "size, the highest pruning rate, or one run after the other.",
        ("held out", "holdout"),
    ),
    Word(
        "Huber loss",
        "What is summed over the residuals: squares of small ones, and beyond delta the size "
        "itself, so that a few rows far off do not draw the law to them.",
        ("huber", "delta", "δ"),
    ),
    Word(
        "interval",
        "With 95 % it holds the true value in 19 of 20 such data sets, if the law is true. "
        "Whether it is, no interval knows: residuals and hold-outs do.",
        ("95 % interval", "intervals"),
    ),
    Word(
        "isoFLOP",
        "Runs of the same compute and different sizes. Their losses form a valley; its bottom "
        "is the best size for that compute.",
    ),
    Word(
        "jackknife",
        "Standard errors by leaving out each run in turn and seeing how far the parameters move "
        "(CR3). It takes runs, not rows, for independent. Where what the rows of a run share is in "
        "the model, its bias is taken out exactly (CR2).",
        ("leave-one-run-out jackknife", "CR2", "CR3", "robust"),
    ),
    Word(
        "known",
        "Of a parameter: an interval with two ends, for an exponent no further from it than half "
        "of it, for a coefficient no more than a factor of 3 apart. 'roughly': no further than "
        "all of it, or a factor of 30. 'not known': further, or an end is open.",
        ("roughly", "not known"),
    ),
    Word(
        "leans",
        "A prediction leans on what the data leave open where parameters that fit equally well "
        "differ in it by more than a thousandth.",
        ("leaning",),
    ),
    Word(
        "level",
        "How far a whole run lies above or below the law, the same all along it: as a share of "
        "the loss, or of the loss above base_loss. The summary gives its standard deviation over "
        "the runs.",
    ),
    Word(
        "local rank",
        "In how many independent ways the parameters move the predictions, right at the best "
        "fit. It counts what is visible there, however faintly: full rank does not mean that "
        "any parameter is known, since an interval may be open all the same.",
        ("rank",),
    ),
    Word("MAPE", "The mean miss as a share of the loss, in percent."),
    Word(
        "nats per token",
        "The unit of the loss: cross-entropy with the natural logarithm. Divide by 0.693 for "
        "bits; exp of it is the perplexity.",
        ("nats", "nat"),
    ),
    Word(
        "new run",
        "The interval of one measured point of a run that was not in the data: what is unsure in "
        "the law, and besides what runs differ by.",
        ("new_run",),
    ),
    Word(
        "open",
        "An interval without an end, or on one side without: the data do not say how large or "
        "how small the parameter may be. It is not an error: more sizes, token counts or pruning "
        "rates close it (p2fit plan next says which). Predictions within the data may be sharp "
        "all the same.",
        ("open end",),
    ),
    Word(
        "Pareto k",
        "How well the Laplace approximation fits the posterior: below 0.7 its draws can be used.",
        ("pareto_k",),
    ),
    Word(
        "prior",
        "What a Bayesian fit holds of a parameter before it sees the data; --prior sets another.",
    ),
    Word(
        "R²",
        "The share of the variance that the law explains, 1 being all. Near 1 even for poor laws "
        "of the loss, which falls a lot from small to large models: look at the misses too.",
        ("R2",),
    ),
    Word(
        "R-hat",
        "Whether chains that began apart ended alike; above 1.01 they did not.",
        ("r_hat",),
    ),
    Word(
        "rate",
        "How much faster or slower than the law a run falls: change of its level for each e-fold "
        "of its tokens. The summary gives its standard deviation over the runs. For the share of "
        "the parameters removed, see pruning rate.",
    ),
    Word(
        "pruning rate",
        "The share of the parameters that was removed, in [0, 1): 0.3 or 30%.",
        ("pruning_rate",),
    ),
    Word(
        "recovery",
        "The share of what pruning cost that training won back: (loss right after pruning - loss) "
        "/ (loss right after pruning - base loss).",
        ("recovery share", "win back", "recover"),
    ),
    Word(
        "residuals",
        "Predicted minus observed, by default of the logs of the losses, so that 1 % counts the "
        "same for all.",
        ("residual", "log residuals"),
    ),
    Word("RMSE", "The root mean square miss, in nats per token."),
    Word(
        "saturation",
        "Where a doubling of the tokens gains less than a threshold (0.01 nats by default).",
        ("saturated",),
    ),
    Word(
        "sensitivity",
        "The exponents when the start of each run is dropped. Where they move, the start is not "
        "on the law: use --burn-in.",
    ),
    Word(
        "skill",
        "1 - RMSE / RMSE of a simple guess, such as the nearest curve or a power law of the run: "
        "1 is perfect, 0 no better than the guess, below 0 worse.",
    ),
    Word(
        "starts agree",
        "The search for the best fit begins at many places; where most end at the same one, that "
        "is likely the best there is. Few that agree are a reason for doubt.",
        ("starts", "all starts agree", "few starts agree"),
    ),
    Word(
        "τ",
        "Standard deviation of what errors of rows have besides their loss_stderr.",
        ("tau",),
    ),
)


def explain(word: str) -> tuple[Word, ...]:
    """What a word means: one that p2fit prints, a column, a law, or a law's parameter.

    Raises:
        FitError: it is none of these.
    """
    from p2fit.curves.checking import schema
    from p2fit.laws.table import LAWS

    plain = _plain(word)
    found = [w for w in WORDS if plain in map(_plain, (w.term, *w.also))]
    found.sort(key=lambda w: _plain(w.term) != plain)
    columns = {field["name"]: field["description"] for field in schema()["fields"]}
    if word in columns:
        found.append(Word(f"column {word}", columns[word]))
    if word in LAWS:
        law = LAWS[word]
        found.append(Word(f"law {word}", f"{law.description} {law.formula}".strip()))
    having = [law for law in LAWS.values() if word in law.parameters]
    if having:
        each = "; ".join(f"{law.name}: {law.formula}" for law in having[:_LAWS])
        more = f"; and of {len(having) - _LAWS} more laws" if len(having) > _LAWS else ""
        found.append(Word(f"parameter {word}", f"Of {each}{more}."))
    if found:
        return tuple(found)
    forms = [form for w in WORDS for form in (w.term, *w.also)]
    close = closest(word, [*forms, *columns, *LAWS])
    hint = f"; did you mean {close}?" if close else "; p2fit explain lists them"
    raise FitError(f"{word} is none of p2fit's words{hint}")


def words_in(text: str) -> Iterator[Word]:
    """Those of the words that a text uses."""
    for word in WORDS:
        forms = "|".join(map(re.escape, (word.term, *word.also)))
        if re.search(rf"(?<![\w-])(?:{forms})(?![\w-])", text):
            yield word


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split()).removesuffix("s")
