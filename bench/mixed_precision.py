"""Size against error for one width in all layers, bits by greedy steps, and bits by the knapsack, in one run.

usage: mixed_precision.py --model DIR [--model DIR ...] [--calibration FILE ...] [--samples 8] [--work DIR]
                          [--out FILE] [--plot FILE]

Each model is planned with mixed precision, which measures every layer at every width (group size 64), and quantized
with 2, 3, 4 and 8 bits. Layers are rounded one by one, so a model of mixed widths is put together from these four.
--calibration: statistics of `arrow-quant calibrate`, in the order of the models; "none" where a model cannot be run,
"auto" to sample it. Sizes are those that mixed precision expects on disk, of uniform models by the same figures. The
error is that of the model's output on its own sampling, relative and squared, the mean over TIMES times, with seeds
that calibration has not seen (of masked language models: of the roots of the probabilities at masked places). For a
model that cannot be run it is what is minimized: the sum over layers of the relative error of the weights. At the size
of 3 bits the command itself is run, too: its size on disk.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import pathlib
import tempfile
from typing import Any

import torch
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2._native import core
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.calibrate import calibrate_model, load_float_model
from arrow_quant_v2.torch.call_time import call_times
from arrow_quant_v2.torch.evaluation.outputs import OutputErrors, root_probabilities
from arrow_quant_v2.torch.evaluation.pair import held_out_seed
from arrow_quant_v2.torch.synthetic import output_tensor, run_sampler, self_sampling, unchanged

WIDTHS = (2, 3, 4, 8)
TIMES = 10
METHODS = ("greedy", "ours, all layers alike", "ours")


class Yardstick:
    """Some calls of the float model's own sampling, and how far other models' answers are from its."""

    def __init__(self, path: pathlib.Path, samples: int) -> None:
        self.reference = load_float_model(path)
        self.sampling = self_sampling(self.reference, path)
        self.calls: list[dict[str, Any]] = []
        wanted = {int((i + 0.5) * self.sampling.steps / TIMES) for i in range(TIMES)}
        count = 0

        def keep(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
            nonlocal count
            if count in wanted:
                self.calls.append({k: v.clone() for k, v in kwargs.items() if isinstance(v, torch.Tensor)})
            count += 1

        hook = self.reference.register_forward_pre_hook(keep, with_kwargs=True)
        run_sampler(self.sampling.sample(self.reference, list(range(samples)), held_out_seed(0), unchanged))
        hook.remove()
        self.want = [self.answer(self.reference, call) for call in self.calls]

    def answer(self, model: torch.nn.Module, call: dict[str, Any]) -> torch.Tensor:
        output = output_tensor(model(**call)).float()
        mask = self.sampling.mask_token_id
        return output if mask is None else root_probabilities(output, call["input_ids"], mask)

    def error(self, model: torch.nn.Module) -> float:
        errors = OutputErrors()
        for call, want in zip(self.calls, self.want, strict=True):
            times = call_times(self.reference, (), call, self.sampling.mask_token_id)
            errors.add(times, want, self.answer(model, call))
        return float(errors.figures()["relative_squared_error"])


class Mixed:
    """Models of any widths, from the uniform ones."""

    def __init__(self, path: pathlib.Path, calibration: str, work: pathlib.Path) -> None:
        self.models: dict[int, torch.nn.Module] = {16: load_float_model(path)}
        for bits in WIDTHS:
            out = work / f"w{bits}"
            config = config_of(calibration, bit_width=bits)
            ArrowQuantV2().quantize_diffusion_model(path, out, config, overwrite=True)
            self.models[bits] = load_quantized(out, torch.float32).eval()

    def of(self, bits: dict[str, int]) -> torch.nn.Module:
        mixed = copy.deepcopy(self.models[WIDTHS[0]])
        for name, width in bits.items():
            parent, _, leaf = name.removesuffix(".weight").rpartition(".")
            setattr(mixed.get_submodule(parent), leaf, self.models[width].get_submodule(name.removesuffix(".weight")))
        return mixed


def config_of(calibration: str, **options: Any) -> DiffusionQuantConfig:
    kind = {} if calibration != "none" else {"modality": "image"}
    return DiffusionQuantConfig(group_size=64, min_accuracy=0.0, calibration=calibration, **kind, **options)


def choices(chosen: dict[str, Any], weighted: bool) -> list[list[tuple[int, int, float]]]:
    return [
        [(w["bits"], w["bytes"], (layer["sensitivity"] if weighted else 1.0) * w["error"]) for w in layer["widths"]]
        for layer in chosen["layers"]
    ]


def sizes(chosen: dict[str, Any]) -> list[int]:
    """Those of uniform widths, and between them."""
    uniform = [u["bytes"] for u in chosen["uniform"]]
    between = [(a + b) // 2 for a, b in itertools.pairwise(uniform)]
    return sorted(uniform + between + [uniform[2] + (uniform[3] - uniform[2]) // 4])


def allocate(chosen: dict[str, Any], method: str, size: int) -> tuple[dict[str, int], int, float]:
    kind = "greedy" if method == "greedy" else "cheapest"
    layers = choices(chosen, weighted=method != "ours, all layers alike")
    bits, used, cost = core.allocate_bits(layers, size - chosen["kept_bytes"], kind)
    return (
        dict(zip([layer["name"] for layer in chosen["layers"]], bits, strict=True)),
        used + chosen["kept_bytes"],
        cost,
    )


def uniform_bits(chosen: dict[str, Any], bits: int) -> dict[str, int]:
    return {layer["name"]: bits for layer in chosen["layers"]}


def curve(path: pathlib.Path, calibration: str, samples: int, work: pathlib.Path) -> dict[str, Any]:
    """Points (size, expected error, error) of each way to choose."""
    runnable = calibration != "none"
    if calibration == "auto":
        calibration = str(
            calibrate_model(
                path, work / "statistics.parquet", DiffusionQuantConfig(group_size=64, calibration_samples=64)
            )
        )
    chosen = ArrowQuantV2().plan(
        path, config_of(calibration, enable_mixed_precision=True, target_size_mb=1e6)
    )["mixed_precision"]  # fmt: skip
    yardstick = Yardstick(path, samples) if runnable else None
    models = Mixed(path, calibration, work) if runnable else None

    def error(bits: dict[str, int], cost: float) -> float:
        if yardstick is None or models is None:
            return cost
        return yardstick.error(models.of(bits))

    points: dict[str, list[tuple[int, float, float]]] = {"uniform": []}
    for u in chosen["uniform"]:
        points["uniform"].append((u["bytes"], u["error"], error(uniform_bits(chosen, u["bits"]), u["error"])))
    for method in METHODS:
        points[method] = []
        for size in sizes(chosen):
            bits, used, cost = allocate(chosen, method, size)
            points[method].append((used, cost, error(bits, cost)))
            print(path.name, method, size, used, cost, points[method][-1][2], flush=True)
    return {"points": points, "run": run_at_three_bits(path, calibration, chosen, work)}


def run_at_three_bits(
    path: pathlib.Path, calibration: str, chosen: dict[str, Any], work: pathlib.Path
) -> dict[str, Any]:
    size = chosen["uniform"][1]["bytes"]
    config = config_of(calibration, enable_mixed_precision=True, target_size_mb=size / 1e6)
    result = ArrowQuantV2().quantize_diffusion_model(path, work / "mixed", config, overwrite=True)
    found = result["mixed_precision"]
    return {
        "budget": size, "expected": found["expected_bytes"], "on disk": int(result["model_size_mb"] * 1e6),
        "seconds": result["quantization_time_s"],
    }  # fmt: skip


def table(name: str, found: dict[str, Any]) -> str:
    points = found["points"]
    lines = [f"## {name}", "", "| MB | uniform | greedy | ours, all layers alike | ours |", "|---|---|---|---|---|"]
    uniform = {size: error for size, _, error in points["uniform"]}
    for index, (used, _, best) in enumerate(points["ours"]):
        size = min(uniform, key=lambda u: abs(u - used))
        alone = f"{uniform[size]:.3g}" if abs(size - used) < 0.005 * used else ""
        others = [points[method][index][2] for method in METHODS[:-1]]
        lines.append(f"| {used / 1e6:.3f} | {alone} | " + " | ".join(f"{e:.3g}" for e in others) + f" | {best:.3g} |")
    run = found["run"]
    lines += ["", f"The command with {run['budget'] / 1e6:.3f} MB: {run['expected'] / 1e6:.3f} MB expected, "
              f"{run['on disk'] / 1e6:.3f} MB on disk.", ""]  # fmt: skip
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]], file: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.8), squeeze=False)
    # No line where there is no width between.
    styles = {"uniform": "s", "greedy": "^--", "ours, all layers alike": "x:", "ours": "o-"}
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        for method, style in styles.items():
            rows = one["points"][method]
            axis.plot([r[0] / 1e6 for r in rows], [max(r[2], 1e-12) for r in rows], style, label=method, markersize=4)
        axis.set(title=name, xlabel="MB on disk", yscale="log")
    axes[0][0].set_ylabel("relative squared error")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, action="append", required=True)
    parser.add_argument("--calibration", action="append", default=[])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    arguments = parser.parse_args()
    calibrations = [*arguments.calibration, *["auto"] * len(arguments.model)]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for path, calibration in zip(arguments.model, calibrations, strict=False):
            work = (arguments.work or pathlib.Path(folder)) / path.name
            work.mkdir(parents=True, exist_ok=True)
            stored = work / "curve.json"
            if not stored.exists():
                stored.write_text(json.dumps(curve(path, calibration, arguments.samples, work)))
            found[path.name] = json.loads(stored.read_text())
    assert all(math.isfinite(p[2]) for one in found.values() for rows in one["points"].values() for p in rows)
    text = f"# Mixed precision\n\n{(__doc__ or '').split('usage:')[0].strip()} {arguments.samples} samples.\n\n"
    text += "\n".join(table(name, one) for name, one in found.items())
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
