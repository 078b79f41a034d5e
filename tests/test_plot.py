"""Pictures of saved fits: readable, the same bytes every time, and never of other rows."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit import FitError
from p2fit.cli import main
from p2fit.pictures.colours import BAND, BEYOND, COLOURS, FAINT, INK, STEPS
from p2fit.pictures.plot import KINDS
from p2fit.pictures.steps import Steps
from p2fit.pictures.style import count, save, svg
from tests import simulate

EXAMPLES = Path(__file__).parents[1] / "examples"


def fitted(name: str, **options: Any) -> p2fit.Fit:
    return p2fit.fit_each(EXAMPLES / name / f"{name}.csv", **options)[0]


@pytest.fixture(scope="module")
def fits() -> dict[str, p2fit.Fit]:
    """One of each kind: many sizes, many rates, too little data, curves, a law of one's own."""
    return {
        "chinchilla": fitted("chinchilla", where="kept == 1"),
        "open": fitted("pruned_llama3_depth"),
        "eight rows": fitted("sparsellm_1b", fix={"alpha": 0.3473, "beta": 0.3672}),
        "three inputs": fitted("frantar_vit"),
        "custom": fitted(
            "pruned_llama3_depth", law="base_loss + C*pruning_rate^gamma/params^delta"
        ),
    }


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def under_way() -> pl.DataFrame:
    """Eight runs of a law with a level, a rate and correlated errors of their own; three have ended
    before the others."""
    rng, rows = np.random.default_rng(3), []
    for n in np.geomspace(1e8, 1.2e10, 8):
        level, rate, error = rng.normal(0, 0.006), rng.normal(0, 0.002), 0.0
        for k in range(int(rng.integers(7, 13))):
            d = 1e9 * 1.5**k
            error = 0.8 * error + rng.normal(0, 6e-4)
            own = np.exp(level + rate * (np.log(d) - 22) + error)
            rows.append((f"size {n:.2g}", n, d, own * (1.8 + 480 / n**0.35 + 2100 / d**0.37)))
    return pl.DataFrame(rows, schema=["run", "params", "tokens", "loss"], orient="row")


def won_back() -> pl.DataFrame:
    """Pruned runs, with the loss right after pruning 1.5 nats above the base model's."""
    table = pl.DataFrame(simulate.p2(seed=0, checkpoints=6))
    first = table.unique("run", keep="first", maintain_order=True)
    first = first.with_columns(tokens=pl.lit(0.0), loss=pl.col("base_loss") + 1.5)
    return pl.concat([first.select(table.columns), table], how="vertical_relaxed")


def drawn(figure: Any) -> Any:
    """The figure, laid out."""
    figure.draw_without_rendering()
    return figure


def boxes(texts: Any) -> list[Any]:
    return [t.get_window_extent() for t in texts if t.get_visible() and t.get_text()]


@pytest.mark.parametrize("kind", ["curves", "observed", "residuals", "contours", "draws"])
def test_nothing_covers_the_data_and_no_two_ticks_meet(
    fits: dict[str, p2fit.Fit], kind: Any
) -> None:
    for name, fit in fits.items():
        figure = drawn(p2fit.plot(fit, kind))
        (legend,) = figure.legends
        words = [t.get_text() for t in legend.get_texts() if t.get_text()]
        assert words, name
        for axis in figure.axes:
            assert not legend.get_window_extent().overlaps(axis.get_window_extent()), name
            for line in (axis.xaxis, axis.yaxis):
                low, high = sorted(line.get_view_interval())
                ticks = [t for t in line.get_major_ticks() if low <= t.get_loc() <= high]
                found = boxes(t.label1 for t in ticks)
                for a, b in itertools.pairwise(found):
                    assert not a.overlaps(b), (name, kind, line.get_label())


def test_curves_go_on_beyond_the_data_which_is_shaded(fits: dict[str, p2fit.Fit]) -> None:
    figure = p2fit.plot(fits["chinchilla"], "curves")
    (axis,) = figure.axes
    most = fits["chinchilla"].data["range"]["tokens"]["max"]
    shade: Any
    (shade,) = [p for p in axis.patches if p.get_facecolor()[:3] == pytest.approx(rgb(BEYOND))]
    assert shade.get_x() == pytest.approx(most)
    assert axis.get_xlim()[1] == pytest.approx(shade.get_x() + shade.get_width())
    assert axis.get_xscale() == "log"
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == ""


def rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_a_panel_for_each_size_and_the_base_model_in_each() -> None:
    curves = simulate.p2(seed=0)
    figure = p2fit.plot(p2fit.fit(curves), "curves", curves=curves)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["parameters 500M", "parameters 1.5B", "parameters 3B"]
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert {"0.15", "0.25", "0.35", "base model", "95 % interval"} <= set(words)


def test_what_is_not_determined_has_a_range_and_no_draws(fits: dict[str, p2fit.Fit]) -> None:
    words = {t.get_text() for t in p2fit.plot(fits["open"]).legends[0].get_texts()}
    assert "equally good fits" in words
    title = p2fit.plot(fits["open"], "draws").legends[0].get_title().get_text()
    assert title == "not determined, and left out: delta, N_C, alpha, D_C, beta, E"


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_and_the_same_bytes_again(tmp_path: Path, kind: str) -> None:
    saved, source = tmp_path / "fit.json", EXAMPLES / "chinchilla" / "chinchilla.csv"
    options: Any = {"where": "kept == 1"}
    if kind in ("runs", "ahead", "recovery"):
        source, options = tmp_path / "curves.csv", {}
        (won_back() if kind == "recovery" else under_way()).write_csv(source)
    p2fit.fit(source, **options).save(saved)
    for end, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        written = []
        for copy in "ab":
            picture = tmp_path / f"{copy}{end}"
            found = run("plot", saved, "--kind", kind, "-o", picture)
            assert (found.exit_code, found.output) == (0, "")
            written.append(picture.read_bytes())
        assert written[0].startswith(magic)
        assert written[0] == written[1]
    assert 5_000 < len(written[0]) < 1_000_000


def test_every_colour_is_in_the_table(fits: dict[str, p2fit.Fit]) -> None:
    """A page puts others in their place, for readers in the dark."""
    known = {c.lower() for c in (INK, FAINT, BAND, BEYOND, *COLOURS, *STEPS, "#ffffff")}
    for fit in fits.values():
        for kind in KINDS[:4]:
            used = set(re.findall(r"#[0-9a-f]{6}\b", svg(p2fit.plot(fit, kind)).lower()))  # type: ignore[arg-type]
            assert used <= known


def test_rows_must_be_those_of_the_fit(tmp_path: Path) -> None:
    table = pl.DataFrame(simulate.chinchilla(20, seed=1))
    path, saved = tmp_path / "curves.csv", tmp_path / "fit.json"
    table.write_csv(path)
    assert run("fit", path, "-o", saved).exit_code == 0
    moved = path.rename(tmp_path / "moved.csv")
    picture = tmp_path / "p.png"
    found = run("plot", saved, "-o", picture)
    assert found.exit_code == 2
    assert "no such file" in found.stderr
    assert run("plot", saved, "-o", picture, "--curves", moved).exit_code == 0
    table.with_columns(pl.col("loss") + 0.1).write_csv(moved)
    found = run("plot", saved, "-o", picture, "--curves", moved)
    assert found.exit_code == 2
    assert found.stderr == f"{moved}: not the rows of this fit: fit again\n"


def test_a_fit_of_a_table_needs_the_table() -> None:
    curves = simulate.chinchilla(20, seed=1)
    fit = p2fit.fit(curves)
    with pytest.raises(FitError, match="the fit was made of <frame>: say where the curves are"):
        p2fit.plot(fit)
    assert p2fit.plot(fit, curves=curves).axes
    with pytest.raises(FitError, match="not the rows of this fit"):
        p2fit.plot(fit, curves=simulate.chinchilla(19, seed=1))


def test_options_of_the_fit_choose_the_same_rows(tmp_path: Path) -> None:
    path = EXAMPLES / "gadre_overtraining" / "gadre_overtraining.csv"
    options: Any = {"by": ["train_set"], "where": "tokens > 1e9", "columns": {"loss": "loss_lo95"}}
    for fit in p2fit.fit_each(path, min_tokens=2e9, **options):
        fit.save(tmp_path / "fit.json")
        dataset = p2fit.load(tmp_path / "fit.json").dataset()  # type: ignore[union-attr]
        assert dataset.frame.height == fit.data["used"]
        assert fit.predict(dataset.frame.to_dict()).shape == (fit.data["used"],)
        assert float(dataset.frame["tokens"].min()) >= 2e9  # type: ignore[arg-type]


def test_one_of_several_fits_is_chosen(tmp_path: Path) -> None:
    saved, picture = tmp_path / "fit.json", tmp_path / "p.png"
    path = EXAMPLES / "gadre_overtraining" / "gadre_overtraining.csv"
    run("fit", path, "--by", "train_set", "-o", saved)
    found = run("plot", saved, "-o", picture)
    assert found.exit_code == 2
    assert "3 fits: choose the one to draw by --group (train_set=c4_original; " in found.stderr
    assert run("plot", saved, "-o", picture, "--group", "train_set=rpj").exit_code == 0
    found = run("plot", saved, "-o", picture, "--group", "train_set=pile")
    assert found.exit_code == 2
    assert "no such group; it has train_set=c4_original" in found.stderr


def test_faults_in_one_line(tmp_path: Path) -> None:
    saved = tmp_path / "fit.json"
    curves = simulate.chinchilla(3, seed=1)
    p2fit.fit(curves, "kaplan-n").save(saved)
    assert "a picture's name ends in" in run("plot", saved, "-o", "p.gif").stderr
    fit = p2fit.fit(curves, "kaplan-n")
    with pytest.raises(FitError, match="two inputs that vary"):
        p2fit.plot(fit, "contours", curves=curves)
    with pytest.raises(FitError, match="is not a picture; there are curves"):
        p2fit.plot(fit, "pie", curves=curves)  # type: ignore[arg-type]
    assert run("plot", tmp_path / "none.json", "-o", "p.png").exit_code == 2


@pytest.mark.parametrize("runs", [1, 2, 300])
def test_odd_curves(runs: int, tmp_path: Path) -> None:
    """Names that other programs would read something into; one run, and many."""
    curves = simulate.chinchilla(runs * 5, seed=2, outliers=0.1)
    names = ["$x_1$", "a<b>&'\"", "ö 模型 🦙", "\\frac", "x" * 200]
    curves["run"] = [f"{names[i % 5]}{i // 5}" for i in range(runs * 5)]
    if runs == 1:
        curves = simulate.chinchilla(5, seed=2, params=1e9) | {"run": ["$x$"] * 5}
    fit = p2fit.fit(curves)
    kinds: list[Any] = ["curves", "observed", "residuals", "contours"]
    for kind in kinds[: 3 if runs == 1 else 4]:  # a run has one size: no lines of equal loss
        save(p2fit.plot(fit, kind, curves=curves), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_curves_of_a_moving_count_run_through_their_own_rows() -> None:
    """The average count falls along a run: no curve at one count goes through its rows."""
    tokens = [1e9, 2e9, 4e9, 8e9, 1.6e10] * 4
    start = [s for s in (2e8, 5e8, 1e9, 2e9) for _ in range(5)]
    mean = [s * (1 - 0.1 * (i % 5)) for i, s in enumerate(start)]
    loss = [1.8 + 480 / n**0.35 + 2100 / d**0.37 for n, d in zip(mean, tokens)]
    run_ = [f"r{i // 5}" for i in range(20)]
    curves = {"run": run_, "params": start, "avg_params": mean, "tokens": tokens, "loss": loss}
    figure = p2fit.plot(p2fit.fit(curves), curves=curves)
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "beyond the data" not in words


def test_counts_and_steps() -> None:
    numbers = (0, 950, 1e3, 999_960, 50e6, 1.2358144e9, 2e12, 3e18)
    assert [count(v) for v in numbers] == [
        *("0", "950", "1K", "1M", "50M", "1.24B", "2T", "3e+18"),
    ]
    many = Steps("params", np.geomspace(1e8, 1e10, 40))
    assert many.steady
    assert (many.words[0], many.words[-1]) == ("100M", "10B")
    assert len(many.words) == len(set(many.colours)) == 6
    assert many.of(np.array([1e8, 1.1e8, 1e10])).tolist() == [0, 0, 5]
    alike = np.array([0.13, 0.141, 0.147, 0.26, 0.282, 0.294, 0.39, 0.423, 0.44])
    rates = Steps("pruning_rate", alike)
    assert rates.words == ["0.13–0.147", "0.26–0.294", "0.39–0.44"]
    assert rates.of(alike).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    few = Steps("pruning_rate", np.array([0.1, 0.5, 0.1]))
    assert few.words == ["0.1", "0.5"]


@given(
    values=st.lists(st.floats(1e6, 1e12), min_size=1, max_size=60).map(np.array),
    name=st.sampled_from(["params", "pruning_rate"]),
)
def test_a_row_has_the_colour_of_its_own_value(values: Any, name: str) -> None:
    """Unless it is within a tenth of the next, and so on, with a value in its own colour."""
    steps = Steps(name, values / 1e12 if name == "pruning_rate" else values)
    own = values / 1e12 if name == "pruning_rate" else values
    assert set(steps.middles) <= set(own.tolist())
    tints = steps.tints(own)
    assert set(tints) <= set(STEPS)
    drawn = dict(zip(steps.middles, steps.tints(np.array(steps.middles))))
    assert list(drawn.values()) == steps.colours
    order = np.argsort(own)
    places = [STEPS.index(tints[i]) for i in order]
    assert places == sorted(places)
    assert len(steps.words) <= 8


def test_each_curve_is_of_rows_that_are_there(fits: dict[str, p2fit.Fit]) -> None:
    """Of many sizes too: a curve is the law at the size that its legend names."""
    fit = fits["chinchilla"]
    figure = p2fit.plot(fit, "curves")
    rows = fit.dataset().frame
    there = {count(float(n)): float(n) for n in rows["params"]}
    legend = figure.legends[0]
    handle: Any
    found = {}
    for text, handle in zip(legend.get_texts(), legend.legend_handles):
        if text.get_text() in there:
            found[handle.get_color()] = there[text.get_text()]
    assert len(found) == 6
    (axis,) = figure.axes
    lines: list[Any] = list(axis.lines)
    for line in lines:
        x, y = (np.asarray(v, float) for v in line.get_data())
        if len(x) == 80:
            at = {"params": np.full(80, found[line.get_color()]), "tokens": x}
            np.testing.assert_allclose(y, fit.predict(at), rtol=1e-6)
    colours = {
        (float(a), round(float(b), 9)): line.get_color()
        for line in lines
        if line.get_marker() == "o"
        for a, b in zip(*line.get_data())
    }
    sizes = {(t, round(v, 9)): n for n, t, v in rows.select("params", "tokens", "loss").iter_rows()}
    ordered = sorted((sizes[k], STEPS.index(str(c))) for k, c in colours.items())
    assert [place for _, place in ordered] == sorted(place for _, place in ordered)
    assert len({place for _, place in ordered}) > 12


@pytest.mark.parametrize("name", ["chinchilla", "three inputs", "custom"])
def test_bins_are_even_on_their_axis(fits: dict[str, p2fit.Fit], name: str) -> None:
    figure = drawn(p2fit.plot(fits[name], "draws"))
    seen = 0
    for axis in figure.axes:
        if axis.patches:
            ends = axis.transData.transform([[p.get_x(), 0] for p in axis.patches])[:, 0]
            assert np.ptp(np.diff(ends)) < 0.01 * np.diff(ends).mean()
            seen += 1
    assert seen > 1


@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("page", 6.9), (5.5, 5.5)])
@pytest.mark.parametrize("kind", ["curves", "observed", "residuals", "contours"])
def test_a_width_for_print(
    fits: dict[str, p2fit.Fit], kind: Any, width: Any, inches: float
) -> None:
    """As wide as asked for, all of it inside, and no two ticks on each other."""
    for name, fit in fits.items():
        figure = drawn(p2fit.plot(fit, kind, width=width))
        assert figure.get_figwidth() == inches
        assert figure.get_figheight() < 11
        whole = figure.get_tightbbox(figure.canvas.get_renderer())
        assert -0.02 <= whole.x0 <= whole.x1 <= inches + 0.02, (name, whole)
        for axis in figure.axes:
            assert axis.get_window_extent().height > 0.6 * figure.dpi, name
            low, high = sorted(axis.get_xlim())
            ticks = [t for t in axis.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
            for a, b in itertools.pairwise(boxes(t.label1 for t in ticks)):
                assert not a.overlaps(b), (name, kind, width)


@pytest.mark.parametrize("width", ["wide", 0.5, 1e9, float("nan"), -3])
def test_widths_that_are_none(fits: dict[str, p2fit.Fit], width: Any) -> None:
    with pytest.raises(FitError, match="a width is column or page, or 2 to 40 inches"):
        p2fit.plot(fits["open"], width=width)


def test_axes_of_ones_own(fits: dict[str, p2fit.Fit], tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert p2fit.plot(fits["chinchilla"], ax=left) is figure
    assert p2fit.plot(fits["open"], "observed", ax=right) is figure
    for axis in (left, right):
        assert axis.lines
        assert axis.get_xlabel()
        assert axis.get_ylabel()
        assert axis.get_legend() is not None
    assert not figure.legends
    figure.savefig(tmp_path / "p.pdf")
    with pytest.raises(FitError, match="9 panels: axes hold one"):
        p2fit.plot(fits["three inputs"], ax=left)


def test_a_figure_can_be_gone_on_with(fits: dict[str, p2fit.Fit], tmp_path: Path) -> None:
    """Written by its reader it has the same fonts and size; publishers refuse those of type 3."""
    import matplotlib

    figure = p2fit.plot(fits["chinchilla"], "draws", width="page")
    figure.axes[0].set_title("mine")
    before = dict(matplotlib.rcParams)
    figure.savefig(tmp_path / "p.pdf")
    assert dict(matplotlib.rcParams) == before
    content = (tmp_path / "p.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content
    [box] = re.findall(rb"/MediaBox \[\s*0 0 ([\d.]+) [\d.]+\s*\]", content)
    assert float(box) == pytest.approx(72 * 6.9)
    shown: Any = figure
    assert shown._repr_png_().startswith(b"\x89PNG")


def test_parameters_have_their_letters(fits: dict[str, p2fit.Fit]) -> None:
    found = p2fit.plot(fits["chinchilla"], "draws")
    titles = [axis.get_title() for axis in found.axes if axis.get_title()]
    assert titles == ["$E$", "$A$", r"$\alpha$", "$B$", r"$\beta$"]
    drawn(found)


def test_what_is_drawn_stands_out_from_paper() -> None:
    """3:1 or more, as WCAG 2 asks of what is needed to understand a picture."""
    for colour in (INK, FAINT, *COLOURS, *STEPS):
        parts = np.array(rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, colour


def test_log_axes_have_minor_ticks(fits: dict[str, p2fit.Fit]) -> None:
    for kind in ("curves", "compute"):
        for axis in p2fit.plot(fits["chinchilla"], kind).axes:
            for line in (axis.xaxis, axis.yaxis):
                if line.get_scale() == "log":
                    assert len(line.get_minorticklocs()) > 5


def test_names_in_other_scripts(tmp_path: Path) -> None:
    """As letters where there is a font that has them, without a word where there is none."""
    from matplotlib import font_manager

    from p2fit.pictures.settings import styled

    with styled():
        from matplotlib import rcParams

        fonts = list(rcParams["font.family"])
    assert fonts[0] == "DejaVu Sans"
    assert set(fonts) <= set(font_manager.fontManager.get_font_names())
    curves = simulate.chinchilla(25, seed=2, outliers=0.1)
    curves["run"] = [f"模型{i}" for i in range(25)]
    fit = p2fit.fit(curves)
    for end in ("png", "pdf", "svg"):
        save(p2fit.plot(fit, "observed", curves=curves), tmp_path / f"p.{end}")
    if len(fonts) > 1:
        assert b"CJK" in (tmp_path / "p.pdf").read_bytes() or len(fonts) == 1


def test_valleys_have_the_minima_of_the_law() -> None:
    """On a design of equal compute: its own budgets, and the sizes that plan compute gives."""
    n, c = np.meshgrid(np.geomspace(1e8, 6.4e9, 7), [1e19, 1e20, 1e21])
    d = c / 6 / n
    curves = {
        "run": [f"r{i}" for i in range(n.size)],
        "params": n.ravel(),
        "tokens": d.ravel(),
        "loss": (1.8 + 480 / n**0.35 + 2100 / d**0.37).ravel(),
    }
    fit = p2fit.fit(curves)
    figure = p2fit.plot(fit, "isoflop", curves=curves)
    left, right = figure.axes
    found: Any = [line.get_data() for line in right.lines if line.get_marker() == "D"]
    best = p2fit.plan_compute(fit, [1e19, 1e20, 1e21]).budgets
    assert [float(x[0]) for x, _ in found] == pytest.approx([1e19, 1e20, 1e21])
    assert [float(y[0]) for _, y in found] == pytest.approx([b.size.value for b in best])
    rows: Any = [line.get_data() for line in left.lines if line.get_marker() == "o"]
    assert sum(len(x) for x, _ in rows) == n.size
    one_size = simulate.chinchilla(20, seed=1, params=[1e9, 2e9] * 10)
    with pytest.raises(FitError):
        p2fit.plot(p2fit.fit(one_size), "isoflop", curves=one_size)


def test_what_is_won_back_is_between_nothing_and_all() -> None:
    curves = won_back()
    figure = p2fit.plot(p2fit.fit(curves), "recovery", curves=curves)
    rows = curves.filter(pl.col("tokens") > 0)
    want = 100 * (1.5 - (rows["loss"] - rows["base_loss"])) / 1.5
    lines: list[Any] = [line for axis in figure.axes for line in axis.lines]
    dots = [float(y) for line in lines if line.get_marker() == "o" for y in line.get_ydata()]
    assert sorted(dots) == pytest.approx(sorted(want.to_list()))
    without = curves.filter(pl.col("tokens") > 0)
    with pytest.raises(FitError, match="no run has a row of tokens = 0"):
        p2fit.plot(p2fit.fit(without), "recovery", curves=without)


def test_runs_have_the_levels_that_they_were_made_with() -> None:
    from p2fit.plan.going_on import own_effects

    curves = under_way()
    fit = p2fit.fit(curves)
    assert fit.runs is not None
    figure = p2fit.plot(fit, "runs", curves=curves)
    levels = sorted(
        100 * float(own_effects(fit, part.sort("tokens")).effects[0])
        for part in fit.dataset(curves).frame.partition_by("run")
    )
    (dots,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert np.asarray(dots.get_ydata(), float) == pytest.approx(levels)
    # Made with a standard deviation of 0.6 %.
    assert 0.2 < float(np.std(levels)) < 1.2
    with pytest.raises(FitError, match="knows nothing of its runs"):
        p2fit.plot(fitted("chinchilla", where="kept == 1"), "runs")


@pytest.mark.parametrize("jitter", [0.0, 1e-9, 0.01])
def test_distances_that_repeat_are_one(jitter: float) -> None:
    """Of checkpoints at 2, 4, 8 and 16 billion tokens, but for rounding, there are three."""
    curves = simulate.chinchilla(96, seed=1, params=[1e9, 4e9, 16e9] * 32, noise=0.01)
    rng = np.random.default_rng(0)
    curves["run"] = [f"r{i % 24}" for i in range(96)]
    curves["tokens"] = [2e9 * 2 ** (i // 24) * (1 + jitter * rng.random()) for i in range(96)]
    figure = p2fit.plot(p2fit.fit(curves), "runs", curves=curves)
    for line in figure.axes[2].lines[1:]:
        near = np.asarray(line.get_xdata(), float) / np.log(2)
        assert near == pytest.approx([1, 2, 3], abs=0.02)


def test_a_run_goes_on_from_its_last_point_to_where_the_longest_is() -> None:
    curves = under_way()
    fit = p2fit.fit(curves)
    figure = p2fit.plot(fit, "ahead", curves=curves)
    last = curves.group_by("run").agg(pl.col("tokens").max(), pl.col("loss").last())
    most = float(last["tokens"].max())  # type: ignore[arg-type]
    going = set(last.filter(pl.col("tokens") < 0.95 * most)["run"])
    assert {axis.get_title() for axis in figure.axes} <= going
    for axis in figure.axes:
        (line,) = [one for one in axis.lines if one.get_linewidth() == 1.6]
        tokens, loss = (np.asarray(v, float) for v in line.get_data())
        own = last.row(by_predicate=pl.col("run") == axis.get_title(), named=True)
        assert tokens[[0, -1]] == pytest.approx([own["tokens"], most])
        ends = p2fit.predict_runs(fit, tokens=[most], runs=[axis.get_title()], curves=curves)
        assert loss[-1] == pytest.approx(float(ends.frame["predicted"][0]))


def test_certainty_shows_open_ends(fits: dict[str, p2fit.Fit]) -> None:
    for name, word in (("chinchilla", "95 % interval"), ("three inputs", "open")):
        figure = drawn(p2fit.plot(fits[name], "certainty"))
        assert word in {t.get_text() for t in figure.legends[0].get_texts()}
