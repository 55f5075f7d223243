"""What it does to weight the time groups of the calibration: errors by timestep and pictures, in one run.

usage: time_weights.py --model DIR --statistics FILE --quality FILE [--bits N] [--images N] [--steps N] [--out FILE]
                       [--plot FILE]

DIR is a diffusers model, FILE statistics of `arrow-quant calibrate DIR` with a second moment per time group. The
quality FILE is a module as in time_aware.py, with SCHEDULER and predict(model, x, t, labels), too. All models have the
same bits and groups of 64; only time_weighting and objective differ. Sensitivities are measured in the same run.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2._native import core
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.sensitivity import measure_sensitivity
from arrow_quant_v2.torch.synthetic import self_sampling
from rounding import load_module
from time_aware import Yardstick

NOISE_STEPS = 20
SENSITIVITY_SAMPLES = 8
LARGEST_RATIO = 8  # as in arrow_quant/calibrate/time_weights.h


def errors_by_time(quality: Any, yardstick: Yardstick, model: torch.nn.Module) -> list[tuple[int, float]]:
    """(timestep, relative squared error of the prediction) along the float model's trajectory, noisiest first."""
    scheduler = quality.DDIMScheduler(**quality.SCHEDULER)
    scheduler.set_timesteps(NOISE_STEPS)
    found, x = [], yardstick.x
    for t in scheduler.timesteps:
        want = quality.predict(yardstick.reference, x, t, yardstick.labels)
        got = quality.predict(model, x, t, yardstick.labels)
        found.append((int(t), float((got - want).square().mean() / want.square().mean())))
        x = scheduler.step(want, t, x, eta=0.0).prev_sample
    return found


def sensitivity_weights(arguments: argparse.Namespace, reference: torch.nn.Module) -> list[float]:
    """Weights as time_weighting "sensitivity" makes them, from a measurement on few samples."""
    boundaries = core.StatisticsFile(str(arguments.statistics)).boundaries
    sampling = self_sampling(reference, arguments.model)
    seen = measure_sensitivity(reference, sampling, boundaries, samples=SENSITIVITY_SAMPLES)
    print("sensitivities, least noisy first:", " ".join(f"{s:.4f}" for s in seen), flush=True)
    raised = [max(s, max(seen) / LARGEST_RATIO) for s in seen]
    return [s * len(raised) / sum(raised) for s in raised]


def measure(
    arguments: argparse.Namespace, settings: dict[str, Any], yardstick: Yardstick
) -> tuple[float, list[tuple[int, float]]]:
    config = DiffusionQuantConfig(bit_width=arguments.bits, group_size=64, min_accuracy=0.0, **settings)
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "q"
        ArrowQuantV2().quantize_diffusion_model(arguments.model, path, config, str(arguments.statistics))
        model = load_quantized(path, torch.float32, expand=True)
    return yardstick.measure(model)[0], errors_by_time(yardstick.quality, yardstick, model)


def plot(results: dict[str, tuple[float, list[tuple[int, float]]]], out: pathlib.Path) -> None:
    """Errors by timestep over those of uniform weights."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    uniform = dict(results["uniform"][1])
    for name, (psnr, errors) in results.items():
        axis.plot([t for t, _ in errors], [e / uniform[t] for t, e in errors], ".-", label=f"{name}, {psnr:.1f} dB")
    axis.set_yscale("log")
    axis.set_yticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
    axis.minorticks_off()
    axis.set_xlabel("timestep (noisier to the right)")
    axis.set_ylabel("error / that of uniform weights")
    axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def row(name: str, psnr: float, errors: Sequence[tuple[int, float]]) -> str:
    values = [e for _, e in errors]
    quarter = len(values) // 4
    parts = (values, values[:quarter], values[-quarter:])
    return f"| {name} | {psnr:.2f} | " + " | ".join(f"{sum(part) / len(part):.5f}" for part in parts) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--statistics", type=pathlib.Path, required=True)
    parser.add_argument("--quality", type=pathlib.Path, required=True)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    yardstick = Yardstick(load_module(arguments.quality), arguments.model, arguments.images, arguments.steps)
    settings: dict[str, dict[str, Any]] = {
        "uniform": {},
        "sensitivity": {"time_weighting": sensitivity_weights(arguments, yardstick.reference)},
        "detail": {"objective": "detail"},
    }
    lines = [
        "# Time weights",
        "",
        f"Model {arguments.model.name} at {arguments.bits} bits, groups of 64; {arguments.images} pictures of "
        f"{arguments.steps} DDIM steps from the same noise as the float model's; relative squared error of the "
        f"prediction at {NOISE_STEPS} timesteps of the float model's trajectories, over all, over the noisiest quarter "
        "and over the least noisy quarter. Made by bench/time_weights.py.",
        "",
        "| time weights | PSNR dB | error | noisiest | least noisy |",
        "|---|---|---|---|---|",
    ]
    results = {}
    for name, given in settings.items():
        results[name] = measure(arguments, given, yardstick)
        lines.append(row(name, *results[name]))
        print(lines[-1], flush=True)
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
