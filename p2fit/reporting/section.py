"""What a section of the report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2fit.fit import Fit
from p2fit.judging.comparison import Comparison
from p2fit.judging.scores import Validation
from p2fit.plan.compute import ComputePlan
from p2fit.plan.continuing import Continuation
from p2fit.plan.prediction import Prediction
from p2fit.plan.tokens import TokensPlan


@dataclass(frozen=True)
class Picture:
    """A drawing on the page."""

    drawing: str
    """SVG, its colours variables of the page."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    """How to read it."""


@dataclass(frozen=True)
class Asked:
    """A model that was asked for."""

    at: Mapping[str, float]
    """Its inputs."""
    tokens: TokensPlan | None
    """Tokens until more hardly help; None for a law without tokens."""
    prediction: Prediction | None
    """Its loss, where all inputs are given."""


@dataclass(frozen=True)
class Section:
    """All there is to say of one fit."""

    fit: Fit
    """The fit."""
    title: str
    """The group in words; empty where there is only one."""
    anchor: str
    """Beginning of the ids in this section."""
    validations: Sequence[Validation]
    """Hold-outs that could be made."""
    skipped: Sequence[tuple[str, str]]
    """Hold-outs that could not, and why."""
    comparison: Comparison | None
    """Laws side by side; None where there is nothing to compare."""
    why_not: str
    """Why there is no comparison."""
    tokens: Sequence[TokensPlan]
    """Tokens until more hardly help, for models as in the data; empty where there are none."""
    asked: Sequence[Asked]
    """Models of the reader's choice."""
    going: Continuation | None
    """Runs in progress; None where the fit knows nothing of its runs."""
    compute: ComputePlan | None
    """The best split of compute; None for laws that have none."""
    no_plan: str
    """Why there is no plan at all."""
    pictures: dict[str, Picture]
    """By kind."""
    full: bool = True
    """Whether it was put to the test, compared and drawn."""
