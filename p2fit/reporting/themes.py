"""The pictures' colours as variables of the page, so that they are readable in the dark too."""

from __future__ import annotations

import re

import numpy as np

from p2fit.pictures.colours import BAND, BEYOND, COLOURS, FAINT, INK, STEPS

#: The same steps of plasma, without its darkest part.
_PALE = (
    *("#b42e8d", "#bb3488", "#c23c81", "#c8437b", "#cd4a76", "#d45270", "#da5a6a", "#de6164"),
    *("#e4695e", "#e97158", "#ed7953", "#f1814d", "#f48948", "#f79342", "#fa9c3c", "#fca636"),
    *("#fdb130", "#febb2b", "#fdc527", "#fcd025", "#f9dc24", "#f7e425", "#f3f027", "#f0f921"),
)
_DARK = {
    INK: "#e4e6e9",
    FAINT: "#a3a9b0",
    BAND: "#3b4149",
    BEYOND: "#242930",
    "#ffffff": "#14171b",
    **dict(zip(COLOURS, ("#5db0e6", "#ff8f4a", "#35c79b", "#e5a3c8"))),
    **dict(zip(STEPS, _PALE)),
}

#: Colour of the table -> the page's variable, its light and its dark value.
VARIABLES = {
    colour: (f"--c{i}", colour.lower(), dark) for i, (colour, dark) in enumerate(_DARK.items())
}


def themed(svg: str, anchor: str) -> str:
    """A picture to put into a page: no prologue, ids of its own, colours as variables.

    Args:
        svg: a document as matplotlib writes it.
        anchor: what every id begins with, so that no two pictures share one.
    """
    drawing = svg[svg.index("<svg") :]
    drawing = _with_strokes(drawing)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"<!--.*?-->\n?", "", drawing, flags=re.DOTALL)
    drawing = _smaller(drawing)
    drawing = re.sub(r'\bid="', f'id="{anchor}-', drawing)
    drawing = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{anchor}-", drawing)
    for colour, (name, _, _) in VARIABLES.items():
        drawing = re.sub(re.escape(colour), f"var({name})", drawing, flags=re.IGNORECASE)
    # A hundredth of a point is fine enough for a place, not for a scale.
    drawing = re.sub(r"(scale\([^)]*\))|(\d\.\d{2})\d+", _shortened, drawing)
    head, end, rest = drawing.partition(">")
    wide, high = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)[0]
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {wide} {high}" '
        f'style="--wide: {float(wide):.0f}px" aria-hidden="true" focusable="false"{end}{rest}'
    )


def _smaller(drawing: str) -> str:
    """The same picture in fewer bytes: no ids that nothing uses, no groups of one tick or text, no
    points that a line does without, no blanks."""
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', drawing))
    drawing = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", drawing)
    # A tick has the style of what it uses, a text the letters of the page.
    tick = rf'(<use [^>]*?) style="fill: {INK}; stroke: {INK}; stroke-width: 0\.[68]"/>'
    drawing = re.sub(tick, r"\1/>", drawing)
    drawing = re.sub(r" font-family: [^;\"]*;?", "", drawing)
    drawing = re.sub(r' transform="rotate\(-0 [^"]*"', "", drawing)
    for _ in range(3):
        drawing = re.sub(r"<g>\s*(<use [^>]*/>|<text[^>]*>[^<]*</text>)\s*</g>", r"\1", drawing)
    drawing = re.sub(r"\n\s*(?=<)", "\n", drawing)
    drawing = re.sub(r" ?\n([LMCQz]) ?", r"\1", drawing)
    return _LINE.sub(_straightened, drawing)


_LINE = re.compile(r"M ?[-\d.]+ [-\d.]+(?:L ?[-\d.]+ [-\d.]+){3,}")
#: How far off, in points, a line may be drawn.
_OFF = 0.06


def _straightened(found: re.Match[str]) -> str:
    """A line through few of its points, the others within a hair of it (Douglas & Peucker 1973);
    matplotlib's own way of doing this adds points to short lines."""
    points = np.array(re.findall(r"[-\d.]+", found[0]), float).reshape(-1, 2)
    kept = np.zeros(len(points), bool)
    kept[[0, -1]] = True
    parts = [(0, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        between, along = points[first + 1 : last] - points[first], points[last] - points[first]
        if not len(between):
            continue
        share = np.clip(between @ along / max(along @ along, 1e-12), 0, 1)
        off = np.hypot(*(between - share[:, None] * along).T)
        if off.max() > _OFF:
            middle = first + 1 + int(off.argmax())
            kept[middle] = True
            parts += [(first, middle), (middle, last)]
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points[kept])


_DOT = re.compile(
    r'<path id="(\w+)" d="M 0 ([\d.]+) *\s*C [^"]*"(?: style="([^"]*)")?/>'  # a circle
)
_USES = re.compile(r'(?:<use xlink:href="#(\w+)"[^>]*/>\s*)(?:<use xlink:href="#\1"[^>]*/>\s*)*')
_USE = re.compile(r'x="([\d.-]+)" y="([\d.-]+)"(?: style="([^"]*)")?')


def _with_strokes(drawing: str) -> str:
    """Many dots of one colour as one path: a line of no length with round ends for each."""
    dots = {name: (float(r), own) for name, r, own in _DOT.findall(drawing)}

    def strokes(found: re.Match[str]) -> str:
        radius, own = dots.get(found[1], (0.0, ""))
        uses = _USE.findall(found[0])
        style = uses[0][2] or own
        fill = re.search(r"fill: (#\w+)", style)
        mixed = len({use[2] for use in uses}) > 1
        if not radius or fill is None or "stroke: #" in style or mixed:
            return found[0]
        clear = re.search(r"fill-opacity: ([\d.]+)", style)
        opacity = f"; stroke-opacity: {clear[1]}" if clear else ""
        places = "".join(f"M{float(x):.1f} {float(y):.1f}h0" for x, y, _ in uses)
        return (
            f'<path d="{places}" style="fill: none; stroke: {fill[1]}{opacity}; '
            f'stroke-width: {2 * radius:.2f}; stroke-linecap: round"/>'
        )

    return _USES.sub(strokes, drawing)


def _shortened(found: re.Match[str]) -> str:
    return found[1] or found[2]
