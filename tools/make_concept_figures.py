"""Draw the pictures of docs/concepts.md from the project's image model.

Usage: make_concept_figures.py. Writes docs/concepts/*.svg; needs the built package, PyTorch and matplotlib, and takes a
minute. Not compared in CI: last digits of sampled activations, and so strokes, differ from machine to machine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel, quantize_layer
from arrow_quant_v2.safetensors_source import SafetensorsSource
from arrow_quant_v2.torch.calibrate import sample_model

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "models" / "dit_mnist"
FOLDER = ROOT / "docs" / "concepts"
RANGES_OF = "transformer_blocks.0.ff.net.0.proj.weight"
ROUNDED = "transformer_blocks.3.ff.net.2.weight"
LEAST_COSINE = 0.985
BLUE, RED, GREY = "#3f51b5", "#c62828", "#9e9e9e"

Array = np.ndarray[Any, Any]


def save(figure: Any, name: str) -> None:
    """Write a picture that is the same for the same numbers."""
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def draw_time_groups(quantized: Path) -> None:
    """What one layer's input spans in each time group, and what one range for all times would have to."""
    stored = next(tensor for tensor in QuantizedModel(quantized) if tensor.name == RANGES_OF)
    counts = [-(-stored.shape[1] // size) for size in stored.time_block_sizes]
    groups = np.repeat(np.arange(len(counts)), counts)
    low = -stored.time_zero_points * stored.time_scales
    high = (255 - stored.time_zero_points) * stored.time_scales
    lows = [low[groups == g].min() for g in range(len(counts))]
    highs = [high[groups == g].max() for g in range(len(counts))]
    bounds = stored.time_boundaries
    figure, axes = plt.subplots(figsize=(7, 3))
    for g in range(len(counts)):
        width = bounds[g + 1] - bounds[g]
        axes.bar(bounds[g], highs[g] - lows[g], width, lows[g], align="edge", color=BLUE, alpha=0.6, edgecolor="white")
    for value in (min(lows), max(highs)):
        axes.axhline(value, color=RED, linestyle="--", linewidth=1)
    axes.text(bounds[-1], max(highs), " one range for\n all times", color=RED, va="top")
    axes.set(xlabel="timestep (noise to the right)", ylabel="input of the layer, scaled", xlim=(bounds[0], bounds[-1]))
    save(figure, "time_groups")


def draw_fallback(result: dict[str, Any]) -> None:
    """Each layer's cosine at 2 bits against the least one, and at what those below it got."""
    steps = {step["layer"]: step for step in result["fallbacks"] if step["from_bits"] == 2}
    layers = {layer["name"]: layer["output_cosine"] for layer in result["layers"]}
    before = {name: steps[name]["cosine_before"] if name in steps else cosine for name, cosine in layers.items()}
    names = sorted(before, key=before.__getitem__)
    figure, axes = plt.subplots(figsize=(7, 3))
    for x, name in enumerate(names):
        fell = name in steps
        axes.plot(x, before[name], "o", color=RED if fell else BLUE, markersize=4)
        if fell:
            above = (x, steps[name]["cosine_after"])
            axes.annotate("", above, (x, before[name]), arrowprops={"arrowstyle": "->", "color": RED})
    axes.text(len(steps) - 0.5, LEAST_COSINE, "again with 4 bits", color=RED, va="bottom")
    axes.axhline(LEAST_COSINE, color=GREY, linestyle="--", linewidth=1)
    axes.text(len(names), LEAST_COSINE, "min_accuracy", color=GREY, va="bottom", ha="right")
    axes.set(xlabel="layers, the worst first", ylabel="output cosine at 2 bits", ylim=(0.975, 1.001))
    save(figure, "fallback")


def draw_levels(weight: Array) -> None:
    """One group of 64 weights, and the four levels of two grids for it."""
    group = weight[0, :64]
    figure, axes = plt.subplots(figsize=(7, 1.8))
    for y, (name, options) in enumerate({"fitted": {"fit": "fitted"}, "min-max": {}}.items()):
        layer = quantize_layer(group[None], None, 2, 64, **options)
        levels = layer.scales[0, 0] * (np.arange(4) - layer.zero_points[0, 0])
        error = np.linalg.norm(layer.dequantize()[0] - group) / np.linalg.norm(group)
        axes.plot(group, np.full(64, y), "|", color=BLUE, markersize=14)
        axes.plot(levels, np.full(4, y), "o", color=RED)
        axes.text(group.max() * 1.15, y, f"{name}: error {100 * error:.0f} %", va="center")
    axes.set(ylim=(-0.6, 1.6), yticks=[], xlabel="weights of one group (strokes) and the levels of its grid (dots)")
    axes.spines[["left", "top", "right"]].set_visible(False)
    save(figure, "levels")


def draw_rounding(weight: Array, second_moment: Array) -> None:
    """How far the outputs of one layer are off at 2 bits, by how it is rounded."""
    ways: dict[str, tuple[Array | None, dict[str, Any]]] = {
        "nearest, min-max grids": (None, {}),
        "nearest, grids fitted to weights": (None, {"fit": "fitted"}),
        "nearest, grids fitted to inputs": (second_moment, {"rounding": "nearest"}),
        "errors fed back (LDLQ)": (second_moment, {"rounds": 0}),
        "and refined": (second_moment, {}),
        "and columns scaled": (second_moment, {"column_scales": True}),
    }
    errors = []
    for moment, options in ways.values():
        difference = weight - quantize_layer(weight, moment, 2, 64, **options).dequantize()
        energy = [np.einsum("ij,jk,ik->", m, second_moment, m, optimize=True) for m in (difference, weight)]
        errors.append(100 * np.sqrt(energy[0] / energy[1]))
    figure, axes = plt.subplots(figsize=(7, 2.4))
    bars = axes.barh(list(ways), errors, color=BLUE, alpha=0.7)
    axes.bar_label(bars, fmt="%.0f %%", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="error of the layer's outputs at 2 bits, relative")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "rounding")


def main() -> int:
    """Sample the model once and draw everything."""
    plt.rcParams.update({"svg.hashsalt": "arrow-quant", "svg.fonttype": "none", "font.size": 9})
    FOLDER.mkdir(exist_ok=True)
    config = DiffusionQuantConfig(bit_width=2, group_size=64, min_accuracy=LEAST_COSINE, calibration_samples=16)
    collected = sample_model(MODEL, config, None)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "q")
        result = ArrowQuantV2().quantize_diffusion_model(MODEL, output, config, collected)
        draw_time_groups(output)
    draw_fallback(result)
    weight = SafetensorsSource(MODEL).read(("", ROUNDED)).to_float32()
    inputs = {name: numbers for (_, name), numbers in collected.statistics.layers()}
    draw_levels(weight)
    draw_rounding(weight, collected.statistics.input(inputs[ROUNDED][0]).second_moment().astype(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
