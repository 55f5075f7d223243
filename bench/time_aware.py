"""What time-aware static activations are worth on an image model, in one run.

usage: time_aware.py --model DIR --statistics FILE --quality FILE [--images N] [--steps N] [--widths 4 8]
                     [--activations int8 int6 int4] [--work DIR] [--out FILE] [--plot FILE]

DIR is a diffusers model, FILE statistics of `arrow-quant calibrate DIR`. The quality FILE is a module with starts(seed,
count), sample(model, x, labels, steps), noise_error(reference, model, x, labels) and psnr(a, b): pictures of the float
model and of the quantized one from the same noise. All rows of a width share one set of weights; only the ranges of
activations differ. The time ratio is one call with integer activations over one call with floating-point activations,
the least of several of each, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel
from arrow_quant_v2._native import core
from arrow_quant_v2.report.activation_ranges import ranges_over_time
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.calibrate import load_float_model
from rounding import load_module

WHOLE = 1 << 20  # a block of all channels
SETTINGS: dict[str, dict[str, Any]] = {
    "one range": {"num_time_groups": 1},
    "10 groups": {"num_time_groups": 10, "activation_block_early": WHOLE, "activation_block_late": WHOLE},
    "10 groups, blocks of 256 and 64": {"num_time_groups": 10},
    "10 groups, blocks of 64": {"num_time_groups": 10, "activation_block_early": 64, "activation_block_late": 64},
}
PLOTTED = ("transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.2.ff.net.2.weight",
           "transformer_blocks.5.ff.net.0.proj.weight")  # fmt: skip


class Yardstick:
    """Pictures of the float model, and how far another model's are from them."""

    def __init__(self, quality: Any, model: pathlib.Path, images: int, steps: int) -> None:
        self.quality, self.steps = quality, steps
        self.reference = load_float_model(model)
        self.x, self.labels = quality.starts(100, images)
        self.want = quality.sample(self.reference, self.x, self.labels, steps)

    def measure(self, model: torch.nn.Module) -> tuple[float, float]:
        """PSNR in dB of the pictures, and mean relative error of the predicted noise."""
        got = self.quality.sample(model, self.x, self.labels, self.steps)
        error = self.quality.noise_error(self.reference, model, self.x, self.labels)[0]
        return self.quality.psnr(self.want, got), error


def quantize(arguments: argparse.Namespace, width: int, settings: dict[str, Any], out: pathlib.Path) -> dict[str, Any]:
    config = DiffusionQuantConfig(bit_width=width, group_size=64, min_accuracy=0.0, **settings)
    return ArrowQuantV2().quantize_diffusion_model(
        arguments.model, out, config, str(arguments.statistics), overwrite=True
    )


def table_figures(result: dict[str, Any]) -> tuple[float, float]:
    """Mean output error of layers by 8-bit activations alone, and bits per weight of the tables."""
    made = [(layer["activations"], layer["num_params"]) for layer in result["layers"] if layer["activations"]]
    bits = sum(a["bits_per_weight"] * n for a, n in made) / sum(n for _, n in made)
    return float(np.mean([a["error"] for a, _ in made])), bits


def seconds_of(model: torch.nn.Module, yardstick: Yardstick) -> float:
    start = time.perf_counter()
    yardstick.quality.predict(model, yardstick.x, 500, yardstick.labels)
    return time.perf_counter() - start


def time_ratio(path: pathlib.Path, yardstick: Yardstick, repeats: int = 5) -> float:
    models = (load_quantized(path, torch.float32), load_quantized(path, torch.float32, activations="int8"))
    least = [float("inf"), float("inf")]
    for _ in range(repeats):
        for i, model in enumerate(models):
            least[i] = min(least[i], seconds_of(model, yardstick))
    return least[1] / least[0]


def measure_width(arguments: argparse.Namespace, width: int, yardstick: Yardstick, work: pathlib.Path) -> list[str]:
    rows = []
    for name, settings in SETTINGS.items():
        path = work / f"w{width}"
        result = quantize(arguments, width, settings, path)
        if not rows:
            psnr, error = yardstick.measure(load_quantized(path, torch.float32))
            rows.append(f"| W{width}, float activations | {psnr:.2f} | {error:.5f} | | |")
            print(rows[-1], flush=True)
        layer_error, bits = table_figures(result)
        for activations in arguments.activations:
            psnr, error = yardstick.measure(load_quantized(path, torch.float32, activations=activations))
            label = f"W{width}A{activations[3:]}, {name}"
            rows.append(f"| {label} | {psnr:.2f} | {error:.5f} | {layer_error:.2e} | {bits:.4f} |")
            print(rows[-1], flush=True)
    rows.append(f"\nTime of a call at W{width}, int8 over float activations: {time_ratio(path, yardstick):.2f}\n")
    print(rows[-1], flush=True)
    return rows


def plot_ranges(statistics_path: pathlib.Path, quantized: pathlib.Path, out: pathlib.Path) -> None:
    """Smallest and largest value of three layers' inputs at each timestep, and the ranges that were stored."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    statistics = core.StatisticsFile(str(statistics_path))
    inputs = dict(statistics.layers())
    tables = {tensor.name: tensor for tensor in QuantizedModel(quantized)}
    names = [name for name in PLOTTED if ("", name) in inputs]
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.4))
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        seen = statistics.input(inputs["", name][0]).timesteps()
        axis.fill_between(seen["time"], seen["min"], seen["max"], alpha=0.3, label="seen")
        stored = ranges_over_time(tables[name])
        assert stored is not None
        for group, (low, high) in enumerate(zip(stored["low"], stored["high"], strict=True)):
            span = stored["boundaries"][group : group + 2]
            for edge in (low, high):
                axis.plot(span, [edge, edge], color="C1", label="stored" if group == 0 and edge == low else None)
        axis.set_title(name.removesuffix(".weight").removeprefix("transformer_blocks."), fontsize=9)
        axis.set_xlabel("timestep (noisier to the right)")
    axis.legend()
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--statistics", type=pathlib.Path, required=True)
    parser.add_argument("--quality", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--activations", nargs="+", default=["int8", "int6", "int4"])
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    facts = json.loads(core.StatisticsFile(str(arguments.statistics)).facts)
    yardstick = Yardstick(load_module(arguments.quality), arguments.model, arguments.images, arguments.steps)
    lines = [
        "# Time-aware activations",
        "",
        f"Model {arguments.model.name}, statistics of {facts.get('description', 'given samples')}; "
        f"{arguments.images} pictures of {arguments.steps} DDIM steps from the same noise as the float model's. "
        "Made by bench/time_aware.py. Layer error: mean over layers of the relative output error by 8-bit activations "
        "alone, on held-out rows. Table bits: bits per weight of scales and zero points, before compression.",
        "",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or pathlib.Path(temporary)
        for width in arguments.widths:
            lines += ["| | PSNR dB | noise error | layer error | table bits |", "|---|---|---|---|---|"]
            lines += measure_width(arguments, width, yardstick, work)
        if arguments.plot:
            quantize(arguments, arguments.widths[0], SETTINGS["10 groups, blocks of 256 and 64"], work / "plotted")
            plot_ranges(arguments.statistics, work / "plotted", arguments.plot)
    if arguments.out:
        arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
