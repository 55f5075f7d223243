"""Make the page from the facts."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from arrow_quant_v2.report import plots

Facts = dict[str, Any]

UNKNOWN = "\N{EN DASH}"


def render(facts: Facts, samples: list[Facts]) -> str:
    """The HTML; ``samples`` as sample_both gives them. All texts of ``facts`` are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("arrow_quant_v2.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=plots.percent, shape=_shape, step=_step, full_name=_full_name)
    layers = facts["layers"]
    return environment.get_template("report.html").render(
        **facts,
        drawn=samples,
        errors=plots.error_by_layer(layers),
        times=plots.error_by_time(layers),
        sizes=plots.size_against_error(layers),
        bit_widths=sorted({layer["bits"] for layer in layers}),
        grids=[(grid, plots.weight_grid(grid)) for grid in facts["weight_grids"]],
        widths=plots.ranges_by_time(layers),
        ranges=[(layer, plots.activation_range(layer)) for layer in plots.most_changing(layers)],
    )


def number(value: float | None, digits: int = 2) -> str:
    """With so many digits behind the point; a dash for None."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def _full_name(row: Facts) -> Markup:
    """The tensor's name behind its component's, which may be broken behind points."""
    name = f"{row['component']}: {row['name']}" if row["component"] else str(row["name"])
    return Markup(".<wbr>").join(name.split("."))  # escapes the parts


def _shape(sides: list[int]) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, sides)) or "scalar"


def _step(step: Facts) -> str:
    """A step of the fallback ladder: what was left for what."""
    if step["from_bits"] == step["to_bits"]:
        return f"{step['from_method']} \N{RIGHTWARDS ARROW} {step['to_method']}"
    target = "kept" if step["to_bits"] == 16 else f"INT{step['to_bits']}"
    return f"INT{step['from_bits']} \N{RIGHTWARDS ARROW} {target}"
