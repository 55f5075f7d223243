"""Activations of calibration: poor ones, missing ones, loud ones."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, quantize_layer
from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import CALIBRATION_FILE, model_fingerprint

from robustness.observe import command, expect, layers, make_model, normal, stored

CHANNELS = 64
Rows = np.ndarray[Any, Any]


def _name(i: int) -> str:
    return f"blocks.{i}.attn.to_q.weight"


def _model(folder: pathlib.Path, count: int) -> pathlib.Path:
    weights = np.random.default_rng(0).standard_normal((count, CHANNELS, CHANNELS)).astype(np.float32)
    return make_model(folder, {_name(i): weight for i, weight in enumerate(weights)})


def _statistics(rows_of: list[Rows]) -> Any:
    """Of one layer for each array [rows, channels], whose first rows are held out as well."""
    statistics = core.ActivationStatistics([0.0, 1.0])
    for i, rows in enumerate(rows_of):
        number = statistics.add_input(CHANNELS)
        statistics.map_layer("", _name(i), [number])
        for held_out in (False, True):
            part = rows[: 64 if held_out else None]
            statistics.update(number, np.ascontiguousarray(part, np.float32), 0.5, held_out)
    return statistics


def singular(folder: pathlib.Path) -> str:
    rows = normal(512, CHANNELS)
    kinds = {
        "a channel of zeros": rows * (np.arange(CHANNELS) != 5),
        "rank 1": rows[:, :1] * rows[:1],
        "5 rows": rows[:5],
        "equal columns": np.repeat(rows[:, ::2], 2, axis=1),
    }
    config = DiffusionQuantConfig(group_size=CHANNELS, min_accuracy=0.0, dampening=1e-9)
    source = _model(folder / "m", len(kinds))
    statistics = _statistics(list(kinds.values()))
    result = ArrowQuantV2("base").quantize_diffusion_model(source, folder / "q", config, calibration=statistics)
    texts = []
    for kind, layer in zip(kinds, layers(result).values(), strict=True):
        expect(layer["method"] == "ldlq" and layer["output_cosine"] > 0.99, f"{kind}: {layer}")
        texts.append(f"{kind} {layer['dampening']:.0e}")
    for tensor in stored(folder / "q").values():
        expect(np.isfinite(tensor.dequantize()).all(), f"{tensor.name} is not finite")
    raised = sum(layer["dampening"] > 1.1e-9 for layer in result["layers"])
    expect(raised == 3, f"dampening raised for {raised} of the three singular ones: {', '.join(texts)}")
    return f"dampening from 1e-09: {', '.join(texts)}; all finite; {_indefinite()}"


def _indefinite() -> str:
    """No activations have such a second moment, so it is given to one layer directly."""
    moment = np.full((CHANNELS, CHANNELS), -0.9, np.float32) + np.float32(1.9) * np.eye(CHANNELS, dtype=np.float32)
    report = quantize_layer(normal(16, CHANNELS), moment).report
    expect(report["diagonal"] and report["dampening"] == 1, f"an indefinite matrix: {report}")
    return "a matrix that fails up to 1 is cut to its diagonal, and the layer's report says so"


def unusable(folder: pathlib.Path) -> str:
    source = _model(folder / "m", 3)
    statistics = _statistics([normal(512, CHANNELS), np.zeros((512, CHANNELS))])
    facts = {"kind": "activations", "model_fingerprint": model_fingerprint(source)}
    statistics.save(str(source / CALIBRATION_FILE), json.dumps(facts))
    line = ["quantize", source, folder / "q", "--mode", "base", "--min-accuracy", 0]
    plain = command(*line)
    said = plain.stdout.splitlines()
    steps = [text for text in said if text.startswith("fell back") and "ldlq ->" in text]
    named = len(steps) == 2 and all(_name(i) in text for i, text in zip((1, 2), steps, strict=True))
    expect(plain.returncode == 0 and named, plain.stdout + plain.stderr)
    expect("2 of 3 layers fell back" in said, plain.stdout)
    strict = command(*line, "--overwrite", "--strict")
    expect(strict.returncode == 1, f"--strict exits with {strict.returncode}")
    return f"{'; '.join(steps)}; a line '2 of 3 layers fell back'; --strict exits with 1"


def outlier(folder: pathlib.Path) -> str:
    """Two static ranges for it: the plain one, which it ruins, and the one that calibration chooses by itself."""
    digits = Digits(folder)
    plain = {"num_time_groups": 1, "activation_range": "min_max"}
    cosine, clean_db = digits.figures("clean", **plain)
    digits.add_outlier()
    loud_cosine, loud_db = digits.figures("loud", **plain)
    _, chosen_db = digits.figures("chosen", num_time_groups=1)
    text = (
        f"a plain min-max range: output cosine of the layer {cosine:.4f} without the outlier, {loud_cosine:.4f} with "
        f"it, pictures drawn with INT8 activations {clean_db:.0f} dB and {loud_db:.0f} dB; with the range that "
        f"calibration chooses by default {chosen_db:.0f} dB"
    )
    expect(loud_cosine > 0.998 and loud_db < clean_db - 10, f"the pictures do not show it: {text}")
    expect(chosen_db > loud_db + 10, f"the default range is ruined: {text}")
    return text


class Digits:
    """The demo model, drawn by the float model and by quantized ones from the same noise."""

    SOURCE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "models" / "dit_mnist"
    LAYER = "transformer_blocks.2.ff.net.2.weight"

    def __init__(self, folder: pathlib.Path) -> None:
        import torch
        from arrow_quant_v2.torch.calibrate import load_float_model, sample_model
        from arrow_quant_v2.torch.demo_sampling import sample

        torch.set_num_threads(1)  # threads of a small model wait for each other where other programs run
        self._folder = folder
        self._want = sample(load_float_model(self.SOURCE), self.SOURCE, count=4, steps=10)
        self._activations = sample_model(self.SOURCE, DiffusionQuantConfig(calibration_samples=8))

    def add_outlier(self) -> None:
        statistics = self._activations.statistics
        (number,) = dict((name, inputs) for (_, name), inputs in statistics.layers())[self.LAYER]
        row = np.array(statistics.input(number).held_out(0)[:1])
        row[0, 7] = 6e4
        statistics.update(number, row, 500.0)

    def figures(self, name: str, **options: Any) -> tuple[float, float]:
        """Output cosine of LAYER and PSNR of the pictures, both of weights at 4 bits, these with INT8 activations."""
        import torch
        from arrow_quant_v2.torch import load_quantized
        from arrow_quant_v2.torch.demo_pictures import psnr_db
        from arrow_quant_v2.torch.demo_sampling import sample

        # Columns that are scaled would take the range of each row at run time.
        settings = {"bit_width": 4, "group_size": 64, "min_accuracy": 0.0, "equalization": "none", **options}
        result = ArrowQuantV2().quantize_diffusion_model(
            self.SOURCE, self._folder / name, DiffusionQuantConfig(**settings), calibration=self._activations
        )
        model = load_quantized(self._folder / name, dtype=torch.float32, activations="int8")
        psnr = psnr_db(self._want, sample(model, self.SOURCE, count=4, steps=10))
        return layers(result)[self.LAYER]["output_cosine"], psnr
