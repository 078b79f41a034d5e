import doctest
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad

from p2fit import schedules
from p2fit.schedules import KINDS, Schedule

CONTINUOUS = [kind for kind in KINDS if kind != "one-shot"]

sparsities = st.one_of(st.sampled_from([0.0, 1e-12, 0.2, 0.8, 0.999]), st.floats(0, 0.9999))
# Down to a millionth of a run: thinner slices of it meet the smallest floats, not the formulas.
run_fractions = st.one_of(st.just(0.0), st.floats(1e-6, 1.5))
event_counts = st.one_of(st.none(), st.integers(1, 40))


@st.composite
def made(draw, kinds=KINDS, events=event_counts):
    """Any schedule, with tokens on the scale of 1 or of 1e11."""
    total = draw(st.sampled_from([1.0, 1e4, 2.004e11]))
    fractions = st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.floats(1e-6, 1))
    start, end = sorted(draw(st.tuples(fractions, fractions)))
    return Schedule(
        draw(st.sampled_from(kinds)),
        draw(sparsities),
        start * total,
        end * total,
        total,
        prunable=draw(st.floats(1e4, 1e12)),
        fixed=draw(st.sampled_from([0.0, 6.55e7])),
        events=draw(events),
    )


def test_module_example_runs():
    result = doctest.testmod(schedules)
    assert result.attempted >= 3
    assert result.failed == 0


# The closed forms ------------------------------------------------------------------------------


@given(made(events=st.none()), st.floats(1e-3, 1.5))
def test_average_matches_numerical_integration(schedule, fraction):
    until = fraction * schedule.total
    corners = sorted({0.0, until, *(p for p in (schedule.start, schedule.end) if p < until)})
    area = sum(
        quad(schedule.active_params, a, b, epsabs=0, epsrel=1e-11)[0] for a, b in pairwise(corners)
    )
    assert_allclose(schedule.avg_params(until), area / until, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "mean"),
    [
        ("geometric", lambda s: s / np.log(1 / (1 - s))),
        ("cubic", lambda s: 1 - 3 * s / 4),
        ("linear", lambda s: 1 - s / 2),
        ("one-shot", lambda s: 1 - s),
    ],
)
@pytest.mark.parametrize("sparsity", [0.01, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_mean_density_within_the_span(kind, mean, sparsity):
    whole_run = Schedule(kind, sparsity, 0, 1, 1, prunable=1)
    assert_allclose(whole_run.avg_params(), mean(sparsity), rtol=1e-13)


def test_densities_at_half_way():
    half = {k: Schedule(k, 0.8, 100, 300, 400, prunable=1).density(200) for k in KINDS}
    assert_allclose(half["geometric"], 0.2**0.5)
    assert_allclose(half["cubic"], 1 - 0.8 * (1 - 0.5**3))
    assert_allclose(half["linear"], 0.6)
    assert_allclose(half["one-shot"], 0.2)


@given(made(), run_fractions)
def test_compute_is_six_times_average_times_tokens(schedule, fraction):
    tokens = fraction * schedule.total
    assert_allclose(schedule.compute(tokens), 6 * schedule.avg_params(tokens) * tokens, rtol=1e-14)
    assert schedule.compute() == schedule.compute(schedule.total)
    assert schedule.avg_params() == schedule.avg_params(schedule.total)


# Discrete events -------------------------------------------------------------------------------

SPARSITY_AT = {
    "geometric": lambda s, u: 1 - (1 - s) ** u,
    "cubic": lambda s, u: s * (1 - (1 - u) ** 3),
    "linear": lambda s, u: s * u,
    "one-shot": lambda s, u: s,
}


@given(made(events=st.integers(1, 40)), st.floats(1e-3, 1.5))
def test_discrete_average_matches_a_loop_over_events(schedule, fraction):
    until, count = fraction * schedule.total, schedule.events
    kept, since, area = 1.0, 0.0, 0.0
    for k in range(count):
        when = schedule.start + (schedule.end - schedule.start) * k / count
        if when > until:
            break
        area += kept * (when - since)
        kept = 1 - SPARSITY_AT[schedule.kind](schedule.sparsity, (k + 1) / count)
        since = when
    area += kept * (until - since)
    expected = schedule.fixed + schedule.prunable * area / until
    assert_allclose(schedule.avg_params(until), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_discrete_converges_to_continuous_from_below(kind):
    limit = Schedule(kind, 0.8, 20, 70, 100, prunable=1)
    gaps = [
        float(limit.avg_params() - replace(limit, events=count).avg_params())
        for count in (10, 100, 1000)
    ]
    # Event k prunes at the start of its interval, so the mean is low by half of one: the sum is a
    # right-hand Riemann sum of the span, off by S · (span/total) / (2K) to first order in 1/K.
    assert_allclose(np.array(gaps) * [10, 100, 1000], 0.8 * 0.5 / 2, rtol=0.1)
    assert_allclose(gaps[-1], 0.8 * 0.5 / 2 / 1000, rtol=2e-3)


def test_density_changes_at_the_events():
    schedule = Schedule("geometric", 0.75, 100, 300, 400, prunable=1, events=2)
    at = [0, 99.9, 100, 199.9, 200, 300, 400]
    assert_allclose(schedule.density(at), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25])


def test_one_shot_ignores_how_many_events():
    once = Schedule("one-shot", 0.6, 100, 300, 400, prunable=1e9)
    tokens = np.linspace(0, 500, 101)
    assert_allclose(replace(once, events=7).avg_params(tokens), once.avg_params(tokens), rtol=1e-14)


# Bounds and order ------------------------------------------------------------------------------


@given(made())
def test_density_and_average_never_rise_and_stay_between_final_and_dense(schedule):
    tokens = np.linspace(0, 1.2 * schedule.total, 301)
    dense, final = schedule.prunable, schedule.prunable * (1 - schedule.sparsity)
    for params in (schedule.active_params(tokens), schedule.avg_params(tokens)):
        slack = 1e-13 * (dense + schedule.fixed)
        assert np.all(np.diff(params) <= slack)
        assert np.all(params <= dense + schedule.fixed + slack)
        assert np.all(params >= final + schedule.fixed - slack)
    assert np.all(schedule.avg_params(tokens) >= schedule.active_params(tokens) - slack)


@given(made())
def test_vectorised_over_tokens_of_any_shape(schedule):
    tokens = schedule.total * np.array([[0.0, 0.1, 0.3], [0.7, 1.0, 1.3]])
    for method in (schedule.density, schedule.active_params, schedule.avg_params, schedule.compute):
        together = method(tokens)
        assert together.shape == (2, 3)
        # NumPy's exp may differ by a bit between one number and many.
        assert_allclose([method(t) for t in tokens.flat], together.flat, rtol=1e-14)
        assert np.ndim(method(0.5)) == 0
        assert method([]).shape == (0,)


@given(made(), run_fractions)
def test_the_unit_of_tokens_does_not_matter(schedule, fraction):
    other = replace(
        schedule, start=8 * schedule.start, end=8 * schedule.end, total=8 * schedule.total
    )
    tokens = fraction * schedule.total
    assert other.avg_params(8 * tokens) == schedule.avg_params(tokens)


# Edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("events", [None, 5])
def test_zero_sparsity_is_dense(kind, events):
    schedule = Schedule(kind, 0.0, 25, 75, 100, prunable=1e9, fixed=1e8, events=events)
    assert np.all(schedule.active_params([0, 25, 50, 75, 100]) == 1.1e9)
    assert_allclose(schedule.avg_params([0, 25, 50, 75, 100]), 1.1e9, rtol=1e-15)
    span = Schedule.from_compute(kind, 0.0, 1e9, tokens=100, events=events)
    assert_allclose([span.start, span.end], [25, 75], rtol=1e-14)


@pytest.mark.parametrize("sparsity", [5e-324, 1e-300, 1e-17])
def test_hardly_any_sparsity_is_as_good_as_dense(sparsity):
    half = Schedule("geometric", sparsity, 0, 1, 1, prunable=1.0).avg_params([0.25, 0.5, 1.0])
    assert_allclose(half, 1.0, rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("events", [None, 3])
def test_an_empty_span_is_one_shot(kind, events):
    schedule = Schedule(kind, 0.8, 40, 40, 100, prunable=1.0, events=events)
    assert_allclose(schedule.density([39.9, 40, 41]), [1, 0.2, 0.2])
    assert_allclose(schedule.avg_params(), 0.4 + 0.6 * 0.2)


def test_average_at_zero_tokens_is_the_count_at_the_start():
    assert Schedule("geometric", 0.8, 10, 20, 30, prunable=7.0).avg_params(0) == 7.0
    assert_allclose(Schedule("one-shot", 0.8, 0, 0, 30, prunable=10.0).avg_params(0), 2.0)


FIELDS = {"kind": "cubic", "sparsity": 0.5, "start": 25, "end": 75, "total": 100, "prunable": 1e9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "quadratic"}, "kind: 'quadratic' is not one of geometric, cubic"),
        ({"sparsity": 1}, r"sparsity: 1 is not in \[0, 1\); give the share"),
        ({"sparsity": 80}, "0.8, not 80"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": np.nan}, "sparsity"),
        ({"end": 20}, "0 <= start <= end <= total"),
        ({"end": 101}, "0 <= start <= end <= total"),
        ({"start": -1}, "0 <= start <= end <= total"),
        ({"start": np.nan}, "finite tokens"),
        ({"total": np.inf}, "finite tokens"),
        ({"start": 0, "end": 0, "total": 0}, "total: a run needs tokens"),
        ({"prunable": 0}, "prunable: 0"),
        ({"prunable": np.inf}, "prunable: inf"),
        ({"fixed": -1}, "fixed: -1"),
        ({"fixed": np.nan}, "fixed: nan"),
        ({"events": 0}, "events: 0"),
        ({"events": 2.5}, "events: 2.5"),
        ({"events": float("inf")}, "events: inf"),
    ],
)
def test_bad_fields_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**(FIELDS | change))


@pytest.mark.parametrize("tokens", [-1, np.nan, np.inf, [1, -1]])
def test_bad_tokens_are_refused(tokens):
    schedule = Schedule(**FIELDS)  # type: ignore[arg-type]
    for method in (schedule.density, schedule.active_params, schedule.avg_params, schedule.compute):
        with pytest.raises(ValueError, match="tokens: give finite counts"):
            method(tokens)


# The rule in compute ---------------------------------------------------------------------------


@given(
    st.sampled_from(KINDS),
    sparsities,
    st.sampled_from([0.0, 6.55e7]),
    event_counts,
    st.sampled_from(["tokens", "dense_tokens"]),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
)
def test_span_starts_and_ends_at_the_asked_shares_of_compute(
    kind, sparsity, fixed, events, given_as, shares
):
    start, end = shares
    schedule = Schedule.from_compute(
        kind, sparsity, 1e9, fixed, **{given_as: 9e10}, start=start, end=end, events=events
    )
    spent = schedule.compute([schedule.start, schedule.end]) / schedule.compute()
    assert_allclose(spent, [start, end], rtol=1e-9)
    if given_as == "tokens":
        assert schedule.total == 9e10
    else:
        dense = 1e9 + fixed
        assert_allclose(schedule.avg_params() * schedule.total, dense * 9e10, rtol=1e-9)
        assert_allclose(schedule.compute(), 6 * dense * 9e10, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_default_span_is_a_quarter_to_three_quarters_of_compute(kind):
    schedule = Schedule.from_compute(kind, 0.8, 1e9, tokens=1e11)
    spent = schedule.compute([schedule.start, schedule.end]) / schedule.compute()
    assert_allclose(spent, [0.25, 0.75], rtol=1e-14)


@pytest.mark.parametrize("sparsity", [0.2, 0.4, 0.6, 0.8])
def test_geometric_rule_in_closed_form(sparsity):
    schedule = Schedule.from_compute("geometric", sparsity, 1.0, dense_tokens=1.0)
    assert_allclose(schedule.start, 1 / 4)
    span = np.log(1 / (1 - sparsity)) / sparsity / 2
    assert_allclose(schedule.end - schedule.start, span)
    assert_allclose(schedule.total - schedule.end, 1 / (4 * (1 - sparsity)))


@given(st.sampled_from(KINDS), sparsities, st.floats(0, 1), st.floats(1.0, 1e13), event_counts)
def test_a_span_up_to_the_very_end_survives_rounding(kind, sparsity, start, tokens, events):
    schedule = Schedule.from_compute(
        kind, sparsity, 1e9, tokens=tokens, start=start, end=1.0, events=events
    )
    assert_allclose(schedule.end, tokens, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of tokens and dense_tokens"),
        ({"tokens": 1e9, "dense_tokens": 1e9}, "exactly one of tokens and dense_tokens"),
        ({"tokens": 1e9, "start": 0.8}, "fractions of the training compute"),
        ({"tokens": 1e9, "end": 75}, "fractions of the training compute"),
        ({"tokens": -1e9}, "0 <= start <= end <= total"),
        ({"tokens": 0}, "total: a run needs tokens"),
    ],
)
def test_bad_rules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_compute("geometric", 0.8, 1e9, **arguments)


# The authors' own runs -------------------------------------------------------------------------
#
# The four sparse rows of sparsellm_1b.csv (model cards tjingrant/sparsellm-1b-*p, MIT): sparsity,
# step at which pruning starts and ends, steps, average density, and what rounding leaves open in
# it. All have 1.14e9 linear parameters, known to three digits only; a card gives the average
# *density* to four decimals, and the file's avg_params is that times 1.14e9. For 60 % the file has
# 0.69e9, rounded to two digits: a quotient known to (0.005 + 0.605 · 0.005)/1.14 = 0.007.

AUTHORS = [
    (0.2, 2500, 8100, 11200, 1.016766e9 / 1.14e9, 5e-5),
    (0.4, 2500, 8875, 13050, 8.72214e8 / 1.14e9, 5e-5),
    (0.6, 2500, 10100, 16375, 6.9e8 / 1.14e9, 7e-3),
    (0.8, 2500, 12600, 25050, 4.54176e8 / 1.14e9, 5e-5),
]
PRECISE = [row for row in AUTHORS if row[-1] == 5e-5]


@pytest.mark.parametrize(("sparsity", "start", "end", "steps", "density", "within"), AUTHORS)
def test_rule_gives_the_authors_steps(sparsity, start, end, steps, density, within):
    rule = Schedule.from_compute("geometric", sparsity, 1.14e9, dense_tokens=10_000)
    assert_allclose(rule.start, start, rtol=1e-14)
    # The lengths of the runs are the rule's, to the nearest multiple of 25 steps.
    assert 25 * round(rule.total / 25) == steps
    # The ends of the spans are multiples of 25 too, but not always the nearest: they are 21 after,
    # 10 before, 36 before and 41 after the rule's. So: within two of these units.
    assert end % 25 == 0
    assert abs(rule.end - end) < 50


@pytest.mark.parametrize(("sparsity", "start", "end", "steps", "density", "within"), AUTHORS)
def test_authors_spans_are_a_quarter_to_three_quarters_of_compute(
    sparsity, start, end, steps, density, within
):
    theirs = Schedule("geometric", sparsity, start, end, steps, prunable=1.14e9)
    spent = theirs.compute([start, end]) / theirs.compute()
    # An end that is up to 41 steps off, at a density of 1 − S, is 0.2 % of 10 000 dense steps.
    assert_allclose(spent, [0.25, 0.75], atol=2.1e-3)


@pytest.mark.parametrize(("sparsity", "start", "end", "steps", "density", "within"), AUTHORS)
def test_authors_average_density_times_steps_is_one_dense_budget(
    sparsity, start, end, steps, density, within
):
    # N̄ · T = N₀ · T_c with T_c = 10 000: the three precise rows give 9989, 9985 and 9980.
    slack = 0.0025 if within < 1e-3 else within / density
    assert_allclose(density * steps, 10_000, rtol=slack)


@pytest.mark.parametrize(("sparsity", "start", "end", "steps", "density", "within"), AUTHORS)
def test_closed_form_at_the_authors_steps_is_a_little_above_their_average(
    sparsity, start, end, steps, density, within
):
    theirs = Schedule("geometric", sparsity, start, end, steps, prunable=1.0)
    # Above by 0.0009, 0.0010 and 0.0012 where the card is precise: 0.1 % to 0.3 % of the density,
    # more than rounding explains and no reason to refuse the form. 60 % agrees within rounding.
    gap = float(theirs.avg_params()) - density
    assert 0 < gap < max(1.3e-3, within)


@pytest.mark.parametrize(("sparsity", "start", "end", "steps", "density", "within"), PRECISE)
def test_discrete_events_explain_the_gap(sparsity, start, end, steps, density, within):
    # That the authors' mean is below the continuous one is what events at the start of their
    # interval do (at its end they would put it above). 50 events are too coarse and 140 too fine in
    # every row. Their true number is not published: an interval of 100 steps gives the 20 % row to
    # its last digit, but 40 % and 80 % ask for about 60 and 75, so no single interval is assumed.
    theirs = Schedule("geometric", sparsity, start, end, steps, prunable=1.0)
    coarse, fine = (float(replace(theirs, events=k).avg_params()) for k in (50, 140))
    assert coarse < density < fine
    if sparsity == 0.2:
        assert round(float(replace(theirs, events=56).avg_params()), 4) == 0.8919


def test_nothing_linear_is_fixed_in_the_authors_count():
    # At 80 % the card leaves 0.23e9 of 1.14e9 linear parameters non-zero. Both numbers are rounded
    # to 0.005e9, so at most (0.235 − 0.2 · 1.135)/0.8 = 0.010e9 are kept out of pruning. The LM
    # head (about 1.20e9 − 1.14e9 = 0.06e9, as large as the input embedding) is thus pruned too.
    pruned = Schedule("geometric", 0.8, 2500, 12600, 25050, prunable=1.14e9)
    assert round(float(pruned.active_params(25050)) / 1e9, 2) == 0.23
    spared = replace(pruned, prunable=1.08e9, fixed=0.06e9)
    assert round(float(spared.active_params(25050)) / 1e9, 2) == 0.28
    # Nor would sparing it give their average: that moves the mean up, away from 0.454e9.
    assert 4.54176e8 < pruned.avg_params() < 4.57e8 < spared.avg_params()
