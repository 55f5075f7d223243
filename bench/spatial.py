"""What equalization is worth: the same models with and without it, in one run.

usage: spatial.py [--models DIR ...] [--widths 8 4] [--outliers DIR] [--samples N] [--calibration N]
                  [--statistics FILE] [--work DIR] [--out FILE]

Each model is calibrated once on its own sampling (or FILE has its statistics), then quantized without a transform,
with the default, and with the default for integer activations (activation_bits 8). Figures are against the float model
from the same noise, of samples that calibration has not seen: PSNR in dB of pictures or log-spectral distance in dB of
sounds, the relative error of the prediction along the float model's trajectories with floating-point and with 8-bit
activations, and the mean over layers of the output's signal-to-noise ratio by weights and of the error by 8-bit
activations.

With --outliers DIR one channel of the values in every block of a DiT is multiplied by 50, or divided, and the layer
that reads them is changed the other way round, which changes nothing in float.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2.torch.calibrate import sample_model
from arrow_quant_v2.torch.evaluation.run import evaluate
from safetensors.torch import load_file, save_file

SETTINGS: dict[str, dict[str, Any]] = {
    "no transform": {"strategy_spatial": "never", "equalization": "none"},
    "default": {},
    "for 8-bit activations": {"activation_bits": 8},
}
FACTOR = 50.0
HEADER = (
    "| weights | transforms | PSNR or distance, float activations | 8-bit | output error, float activations | 8-bit "
    "| SQNR of layers dB | error by activations | what layers took |\n|---|---|---|---|---|---|---|---|---|"
)


def config_of(width: int, calibration: int, settings: dict[str, Any]) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(
        bit_width=width, group_size=64, min_accuracy=0.0, calibration_samples=calibration, **settings
    )


def figure(measured: dict[str, Any]) -> float:
    sound = measured["kind"] == "audio"
    return float(measured["log_spectral_distance_db" if sound else "psnr_db"])


def output_error(measured: dict[str, Any]) -> float:
    """Mean over times of the squared error of the prediction, relative to its energy."""
    return float(measured["output_error"]["relative_squared_error"])


def taken(result: dict[str, Any]) -> str:
    kinds: collections.Counter[str] = collections.Counter()
    for layer in result["layers"]:
        spatial = layer["spatial"]
        if spatial is None:
            continue
        kinds[spatial["equalization"]] += 1
        kinds["shift"] += spatial["shift"]
        kinds["rotation"] += spatial["rotation"]
    return ", ".join(f"{name} {count}" for name, count in kinds.items() if count)


def row(model: pathlib.Path, statistics: Any, arguments: argparse.Namespace, width: int, name: str) -> str:
    out = arguments.work / f"{model.name}-{width}"
    config = config_of(width, arguments.calibration, SETTINGS[name])
    result = ArrowQuantV2().quantize_diffusion_model(model, out, config, statistics, overwrite=True)
    plain = evaluate(model, out, arguments.samples)
    integer = evaluate(model, out, arguments.samples, activations="int8")
    layers = [layer for layer in result["layers"] if layer["activations"]]
    sqnr = float(np.mean([layer["output_sqnr_db"] for layer in layers]))
    error = float(np.mean([layer["activations"]["error"] for layer in layers]))
    return (
        f"| W{width} | {name} | {figure(plain):.2f} | {figure(integer):.2f} "
        f"| {output_error(plain):.2e} | {output_error(integer):.2e} "
        f"| {sqnr:.2f} | {error:.2e} | {taken(result)} |"
    )


def table(model: pathlib.Path, arguments: argparse.Namespace) -> list[str]:
    statistics: Any = arguments.statistics and str(arguments.statistics)
    statistics = statistics or sample_model(model, config_of(4, arguments.calibration, {})).statistics
    lines = [f"\n{model.name}\n", HEADER]
    for width in arguments.widths:
        for name in SETTINGS:
            lines.append(row(model, statistics, arguments, width, name))
            print(lines[-1], flush=True)
    return lines


def with_outlier(model: pathlib.Path, out: pathlib.Path, factor: float) -> pathlib.Path:
    """The same function in float32, with one channel between values and output projection of each block times
    ``factor``."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    file = next(out.glob("*.safetensors"))
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    for name in [n for n in tensors if n.endswith("attn1.to_v.weight")]:
        block = name.removesuffix("to_v.weight")
        channel = tensors[name].shape[0] // 2
        for leaf in ("weight", "bias"):
            if f"{block}to_v.{leaf}" in tensors:
                tensors[f"{block}to_v.{leaf}"][channel] *= factor
        tensors[f"{block}to_out.0.weight"][:, channel] /= factor
    save_file(tensors, file)
    return out


def outliers(model: pathlib.Path, arguments: argparse.Namespace) -> list[str]:
    lines = [
        f"\n{model.name}, W4 with 8-bit activations, one channel of every block's attention output scaled\n",
        "| scaled by | transforms | output error | over that without outliers |\n|---|---|---|---|",
    ]
    without: dict[str, float] = {}
    for factor in (1.0, FACTOR, 1 / FACTOR):
        changed = with_outlier(model, arguments.work / "outlier", factor)
        statistics = sample_model(changed, config_of(4, arguments.calibration, {})).statistics
        for name in ("no transform", "for 8-bit activations"):
            out = arguments.work / "outlier-4"
            config = config_of(4, arguments.calibration, SETTINGS[name])
            ArrowQuantV2().quantize_diffusion_model(changed, out, config, statistics, overwrite=True)
            error = evaluate(changed, out, arguments.samples, activations="int8")["output_error"][
                "relative_squared_error"
            ]
            without.setdefault(name, error)
            lines.append(f"| {factor:g} | {name} | {error:.3e} | {error / without[name]:.3f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", type=pathlib.Path, default=[])
    parser.add_argument("--statistics", type=pathlib.Path)
    parser.add_argument("--outliers", type=pathlib.Path)
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = arguments.work or pathlib.Path(temporary)
        lines = [line for model in arguments.models for line in table(model, arguments)]
        if arguments.outliers:
            lines += outliers(arguments.outliers, arguments)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(json.dumps({"samples": arguments.samples, "calibration": arguments.calibration}))


if __name__ == "__main__":
    main()
