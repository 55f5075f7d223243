"""What rounding and calibration are worth on a masked language model, in one run.

usage: text_quality.py --model DIR --data PATH --quality FILE [--bits 2] [--group-size 64] [--samples 256]
                       [--windows 96] [--out FILE]

DIR is a masked language model, PATH text to calibrate on ("stdlib": Python's own), which the quality FILE does not
judge by: a module with batches(windows), which gives (ratio, tokens, mask, masked tokens). Figures are over masked
positions, and the mean over mask ratios: cross-entropy in nats, its KL divergence from the float model's, and the share
of positions whose most likely token differs. Bits a weight are those of the quantized layers on disk, grids included.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sysconfig
import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel
from arrow_quant_v2._native import core
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.calibrate import calibrate_model, load_float_model
from rounding import bits_on_disk, load_module, textbook_gptq, values_of

# Name -> (calibration, options).
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "nearest, min-max": ("none", {"rounding": "nearest", "fit": "min_max"}),
    "nearest, fitted": ("none", {"rounding": "nearest", "fit": "fitted"}),
    "ours, affine, unmasked": ("unmasked", {"grid": "affine"}),
    "ours, affine, masked": ("masked", {"grid": "affine"}),
    "ours, residual binary, unmasked": ("unmasked", {"grid": "residual_binary"}),
    "ours, residual binary, masked": ("masked", {"grid": "residual_binary"}),
    "ours, default, masked": ("masked", {}),
}


def standard_library(folder: pathlib.Path) -> pathlib.Path:
    """The sources of Python's standard library as JSONL."""
    path = folder / "stdlib.jsonl"
    sources = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    lines = [json.dumps({"text": source.read_text(encoding="utf-8", errors="replace")}) for source in sources]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Yardstick:
    """The float model's predictions at fixed masks."""

    def __init__(self, quality: Any, reference: torch.nn.Module, windows: int) -> None:
        self._sets = [(x, mask, masked) for _, x, mask, masked in quality.batches(windows)]
        self._wanted = [self._logits(reference, mask, masked) for _, mask, masked in self._sets]
        self.cross_entropy = self._mean([F.cross_entropy(w, x[m]) for w, (x, m, _) in self._pairs()])

    def _pairs(self) -> list[tuple[torch.Tensor, Any]]:
        return list(zip(self._wanted, self._sets, strict=True))

    @staticmethod
    def _mean(values: list[torch.Tensor]) -> float:
        return float(torch.stack([v.double() for v in values]).mean())

    @staticmethod
    def _logits(model: torch.nn.Module, mask: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(input_ids=part).logits for part in masked.split(32)])[mask]

    def measure(self, model: torch.nn.Module) -> tuple[float, float, float]:
        """Cross-entropy, KL divergence and flips."""
        entropy, kl, flips = [], [], []
        for want, (x, mask, masked) in self._pairs():
            got = self._logits(model, mask, masked)
            entropy.append(F.cross_entropy(got, x[mask]))
            kl.append(F.kl_div(got.log_softmax(-1), want.log_softmax(-1), log_target=True, reduction="batchmean"))
            flips.append((want.argmax(-1) != got.argmax(-1)).double().mean())
        return self._mean(entropy), self._mean(kl), self._mean(flips)


def gptq_model(model: torch.nn.Module, statistics: Any, bits: int, group: int) -> float:
    """Round every calibrated layer of ``model`` by textbook GPTQ; bits a weight on disk."""
    stored = weights = 0.0
    for (_, name), (number,) in statistics.layers():
        weight = model.get_parameter(name)
        w = np.ascontiguousarray(weight.detach().numpy(), np.float32)
        layer = textbook_gptq(w, statistics.input(number).second_moment(), bits, group)
        stored, weights = stored + bits_on_disk(layer, w, bits) * w.size, weights + w.size
        weight.data = torch.from_numpy(values_of(layer, w, bits).reshape(w.shape))
    return stored / weights


def layer_bits(path: pathlib.Path, names: set[str]) -> float:
    """Bits a weight of the named layers on disk, each in a file of its own, as textbook GPTQ's are counted."""
    stored = weights = 0.0
    for t in QuantizedModel(path):
        if t.name not in names:
            continue
        layer = {"codes": t.data, "scales": t.scales, "zero_points": t.zero_points, "group_size": t.group_size}
        if t.residual_scales.size:
            layer["residual_scales"] = t.residual_scales
        if t.column_scales.size:
            layer["column_scales"] = t.column_scales
        w = np.empty(t.matrix_shape, np.float32)
        stored, weights = stored + bits_on_disk(layer, w, t.bits) * w.size, weights + w.size
    return stored / weights


def table(arguments: argparse.Namespace, work: pathlib.Path) -> list[str]:
    yardstick = Yardstick(load_module(arguments.quality), load_float_model(arguments.model), arguments.windows)
    config = DiffusionQuantConfig(
        bit_width=arguments.bits,
        group_size=arguments.group_size,
        min_accuracy=0.0,
        num_time_groups=1,
        calibration_samples=arguments.samples,
    )
    calibrations = {"none": "none"}
    for kind in ("masked", "unmasked"):
        path = work / f"{kind}.parquet"
        calibrate_model(arguments.model, path, config, data=arguments.data, mask=kind == "masked")
        calibrations[kind] = str(path)
    lines = [
        f"| {arguments.bits} bit, g{arguments.group_size} | cross-entropy | KL | flips | bits a weight |",
        "|---|---|---|---|---|",
        f"| float | {yardstick.cross_entropy:.4f} | 0 | 0 | 32 |",
    ]
    statistics = core.StatisticsFile(calibrations["masked"])
    model = load_float_model(arguments.model)
    bits = gptq_model(model, statistics, arguments.bits, arguments.group_size)
    lines.append(_row("textbook GPTQ, masked", yardstick.measure(model), bits))
    names = {name for _, name in dict(statistics.layers())}
    for name, (kind, options) in OURS.items():
        if "residual" in name and arguments.bits != 2:
            continue
        output = work / "q"
        settings = config.with_overrides(**options)
        ArrowQuantV2().quantize_diffusion_model(arguments.model, output, settings, calibrations[kind], overwrite=True)
        figures = yardstick.measure(load_quantized(output, torch.float32))
        lines.append(_row(name, figures, layer_bits(output, names)))
        print(lines[-1], flush=True)
    return lines


def _row(name: str, figures: tuple[float, float, float], bits: float) -> str:
    entropy, kl, flips = figures
    return f"| {name} | {entropy:.4f} | {kl:.5f} | {flips:.4f} | {bits:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--quality", type=pathlib.Path, required=True)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data == "stdlib":
            arguments.data = str(standard_library(pathlib.Path(folder)))
        lines = table(arguments, pathlib.Path(folder))
    source = pathlib.Path(arguments.data).name
    text = [
        "# A masked language model at low width",
        "",
        f"Model {arguments.model.name}, calibrated on {arguments.samples} windows of {source}; "
        f"{arguments.windows} other windows at fixed masks, mean over mask ratios. Made by bench/text_quality.py.",
        "",
        *lines,
    ]
    print("\n".join(text))
    if arguments.out:
        arguments.out.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
