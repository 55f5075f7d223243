"""The pictures of the report, drawn from its facts."""

from __future__ import annotations

import itertools
from typing import Any

from markupsafe import Markup

from arrow_quant_v2.report.svg import Axis, Canvas, log_axis

Facts = dict[str, Any]

WIDTH, LEFT, RIGHT = 960, 62, 950
_LEAST_ERROR = 1e-5  # what is less is drawn as this
_SMALL, _SMALL_LEFT, _SMALL_RIGHT = 466, 50, 448  # of two pictures in a row
MOST_CHANGING = 6


def relative_error(sqnr_db: float) -> float:
    """Root of the error's energy over the signal's."""
    return max(float(10 ** (-sqnr_db / 20)), _LEAST_ERROR)


def percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def error_by_layer(layers: list[Facts]) -> Markup | None:
    """Errors of outputs and of weights, a column for each layer."""
    points = [
        (at, kind, relative_error(layer[key]), layer)
        for key, kind in (("sqnr_db", "hollow"), ("output_sqnr_db", "dot"))
        for at, layer in enumerate(layers)
        if layer[key] is not None
    ]
    if not points:
        return None
    canvas, y = Canvas(WIDTH, 330), log_axis((p[2] for p in points), 280, 26)
    x = _columns(layers)
    canvas.y_axis(y, LEFT, RIGHT, "relative error", percent)
    canvas.x_axis(x, 280, "layer, in the order of the file")
    for at, kind, error, layer in points:
        canvas.circle(x(at), y(error), 4 if len(layers) <= 120 else 2.5, kind, _tip(layer), f"layer-{at}")
    return canvas.markup("Relative error of each layer")


def error_by_time(layers: list[Facts]) -> Markup | None:
    """A cell for each layer and time group, darker where the error is larger."""
    cells = [
        (at, group["from"], group["to"], relative_error(group["sqnr_db"]), layer)
        for at, layer in enumerate(layers)
        for group in layer["time_groups"]
    ]
    return _heat_map(layers, cells, "Relative error of outputs by layer and time", percent) if cells else None


def ranges_by_time(layers: list[Facts]) -> Markup | None:
    """A cell for each layer and time group, darker where the range is wider, against the layer's widest."""
    cells = []
    for at, layer in enumerate(layers):
        for begin, end, part in _widths(layer):
            cells.append((at, begin, end, part, layer))
    many = any(len(layer["activation_ranges"]["low"]) > 1 for layer in layers if layer["activation_ranges"])
    return _heat_map(layers, cells, "Width of activation ranges by layer and time", percent) if many else None


def size_against_error(layers: list[Facts]) -> Markup | None:
    """A point for each layer: its bytes, and the error of its outputs, or of its weights where that is unknown."""
    known = [(at, layer, error) for at, layer in enumerate(layers) if (error := layer_error(layer)) is not None]
    if not known:
        return None
    canvas = Canvas(WIDTH, 330)
    x = log_axis((_kilobytes(layer) for _, layer, _ in known), LEFT, RIGHT)
    y = log_axis((error for *_, error in known), 280, 26)
    canvas.y_axis(y, LEFT, RIGHT, "relative error", percent)
    canvas.x_axis(x, 280, "size of the layer, kB")
    for at, layer, error in known:
        kind = f"bits{layer['bits']}"
        canvas.circle(x(_kilobytes(layer)), y(error), 4.5, kind, _tip(layer), f"layer-{at}")
    return canvas.markup("Size of each layer against its error")


def weight_grid(grid: Facts) -> Markup:
    """Where weights lie between the levels of the grid (bars), and how many take each level (circles)."""
    canvas = Canvas(_SMALL, 200)
    levels = grid["levels"]
    x = Axis(-1, levels, _SMALL_LEFT, _SMALL_RIGHT)
    bars = _bars(grid)
    shares = [count / max(1, grid["weights"]) for count in grid["code_counts"]]
    y = Axis(0, 1.08 * max([*shares, *(height for *_, height in bars[1:-1])]), 158, 24)
    canvas.y_axis(y, _SMALL_LEFT, _SMALL_RIGHT, "weights per step", percent, 4)
    for begin, end, height in bars:
        canvas.rect(x(begin), y(height), x(end) - x(begin), 158 - y(height), "bar")
    for code, share in enumerate(shares):
        if levels <= 16:
            canvas.line(x(code), 24, x(code), 158, "level")
        canvas.circle(x(code), y(share), 4 if levels <= 16 else 1.5, "dot", f"code {code}: {percent(share)}")
    canvas.x_axis(x, 158, "position on the grid, codes", count=5)
    return canvas.markup(f"Weights of {grid['name']} on their grid")


def activation_range(layer: Facts) -> Markup:
    """The range of a layer's input in each time group."""
    ranges = layer["activation_ranges"]
    canvas = Canvas(_SMALL, 190)
    low, high = min(ranges["low"]), max(ranges["high"])
    x = Axis(ranges["boundaries"][0], ranges["boundaries"][-1], _SMALL_LEFT, _SMALL_RIGHT)
    y = Axis(1.05 * min(low, 0), 1.05 * max(high, 0), 148, 24)
    canvas.y_axis(y, _SMALL_LEFT, _SMALL_RIGHT, "value", count=4)
    steps = list(itertools.pairwise(ranges["boundaries"]))
    for (begin, end), bottom, top in zip(steps, ranges["low"], ranges["high"], strict=True):
        tip = f"{begin:g} to {end:g}: {bottom:.4g} to {top:.4g}"
        canvas.rect(x(begin), y(top), x(end) - x(begin) - 1, y(bottom) - y(top), "band", tip=tip)
    canvas.line(_SMALL_LEFT, y(0), _SMALL_RIGHT, y(0), "axis")
    canvas.x_axis(x, 148, "time", count=6)
    return canvas.markup(f"Activation range of {layer['name']} over time")


def most_changing(layers: list[Facts]) -> list[Facts]:
    """The layers whose range changes most over time: by the narrowest group against the widest."""
    known = [(min(part for *_, part in _widths(layer)), layer) for layer in layers if _changes(layer)]
    return [layer for _, layer in sorted(known, key=lambda pair: pair[0])[:MOST_CHANGING]]


def layer_error(layer: Facts) -> float | None:
    """Relative error of the outputs where it is known, else of the weights."""
    for key in ("output_sqnr_db", "sqnr_db"):
        if layer[key] is not None:
            return relative_error(layer[key])
    return None


def _kilobytes(layer: Facts) -> float:
    return max(1.0, float(layer["stored_bytes"])) / 1e3


def _changes(layer: Facts) -> bool:
    ranges = layer["activation_ranges"]
    return ranges is not None and len(ranges["low"]) > 1


def _widths(layer: Facts) -> list[tuple[float, float, float]]:
    """Begin and end of each time group, and the width of its range over the widest one's."""
    ranges = layer["activation_ranges"]
    if ranges is None:
        return []
    widths = [high - low for low, high in zip(ranges["low"], ranges["high"], strict=True)]
    widest = max(*widths, 1e-30)
    times = itertools.pairwise(ranges["boundaries"])
    return [(begin, end, width / widest) for (begin, end), width in zip(times, widths, strict=True)]


def _columns(layers: list[Facts]) -> Axis:
    return Axis(-0.5, len(layers) - 0.5, LEFT, RIGHT)


def _heat_map(
    layers: list[Facts], cells: list[tuple[int, float, float, float, Facts]], title: str, form: Any
) -> Markup:
    """Cells (layer, from, to, value, layer's facts), shaded by the logarithm of the value."""
    canvas, x = Canvas(WIDTH, 300), _columns(layers)
    y = Axis(min(c[1] for c in cells), max(c[2] for c in cells), 250, 26)
    values = [c[3] for c in cells]
    low, high = min(values), max(values)
    shade = Axis(low, max(high, low * 1.0001), 0.06, 1, log=True)
    canvas.y_axis(y, LEFT, RIGHT, "time, least noisy below")
    half = 0.5 - 0.04 * (len(layers) < 200)
    for at, begin, end, value, layer in cells:
        left, right, top, bottom = x(at - half), x(at + half), y(end), y(begin)
        tip = f"{layer['name']}\n{begin:g} to {end:g}: {form(value)}"
        canvas.rect(left, top + 0.5, right - left, bottom - top - 1, "cell", shade(value), tip)
    canvas.x_axis(x, 250, "layer, in the order of the file")
    _legend(canvas, shade, form)
    return canvas.markup(title)


def _legend(canvas: Canvas, shade: Axis, form: Any) -> None:
    """The shades and what they mean, in the upper right."""
    canvas.text(RIGHT - 132, 14, form(shade.low), "end")
    for step in range(10):
        canvas.rect(RIGHT - 126 + 7 * step, 5, 7, 10, "cell", 0.06 + 0.94 * step / 9)
    canvas.text(RIGHT - 50, 14, form(shade.high))


def _bars(grid: Facts) -> list[tuple[float, float, float]]:
    """Begin, end and height: the share of the weights that one whole step of that density would hold."""
    if grid["edges"] is None:
        return []
    total = max(1, grid["weights"])
    edges = itertools.pairwise(grid["edges"])
    return [
        (begin, end, count / total / (end - begin)) for (begin, end), count in zip(edges, grid["counts"], strict=True)
    ]


def _tip(layer: Facts) -> str:
    figures = [f"{layer['name']}, {layer['bits']} bits"]
    for key, label in (("output_sqnr_db", "outputs"), ("sqnr_db", "weights")):
        if layer[key] is not None:
            figures.append(f"{label}: error {percent(relative_error(layer[key]))}, SQNR {layer[key]:.1f} dB")
    return "\n".join(figures)
