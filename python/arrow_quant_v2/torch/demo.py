"""The demo: one small model at 8, 4 and 2 bits, pictures or sounds from the same noise."""

from __future__ import annotations

import pathlib
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.cli.progress import progress_reporter
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ModelNotFoundError
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.calibrate import load_float_model, sample_model
from arrow_quant_v2.torch.demo_audio import SoundDemo
from arrow_quant_v2.torch.demo_pictures import PictureDemo
from arrow_quant_v2.torch.demo_sampling import sample
from arrow_quant_v2.torch.statistics_run import Collected
from arrow_quant_v2.torch.synthetic import sample_dims

BITS = (8, 4, 2)
# Of a project's folder, whose models may be given by name.
MODELS = pathlib.Path("examples/models")
COLUMNS = ("model", "MB", "bits/weight", "compression", "cosine", "SQNR dB")
FIGURES = (
    "bit_width", "model_size_mb", "bits_per_weight", "compression_ratio", "cosine_similarity", "sqnr_db",
    "quantization_time_s",
)  # fmt: skip


class SampleDemo(Protocol):
    """What a demo of pictures or of sounds adds."""

    figure: str  # its key in the result
    column: str  # its title in the table
    made: str  # what the model makes, in words
    count: tuple[int, int]  # samples of a quick and of a whole run

    def distance(self, want: torch.Tensor, got: torch.Tensor) -> float: ...

    def save(self, samples: dict[str, torch.Tensor], output: pathlib.Path) -> str:
        """Write the samples [count, channels, *dims] of each model, by its name, the float one first; tell where."""
        ...


def run_demo(model: pathlib.Path, output: pathlib.Path, console: Console, quick: bool = False) -> list[dict[str, Any]]:
    """Quantize ``model`` to each width of BITS into ``output``, sample it, print and write the table.

    ``model`` is a folder, or the name of one in MODELS. Writes int8/, int4/, int2/, table.md, and for a model of
    pictures digits.png (first row the float model), for one of sounds float.wav, int8.wav, ... and spectrograms.png.
    Raises ModelNotFoundError; UnsupportedModelError for a model of anything else.

    Returns:
        For each width bit_width, model_size_mb, bits_per_weight, compression_ratio, cosine_similarity, sqnr_db,
        quantization_time_s (as in the result of quantize_diffusion_model) and psnr_db of the pictures, or
        log_spectral_distance_db of the sounds.
    """
    model = find_model(model)
    output.mkdir(parents=True, exist_ok=True)
    reference = load_float_model(model)
    demo = _demo_of(reference)
    count, steps = demo.count[0 if quick else 1], 10 if quick else 50
    console.print(f"making {count} {demo.made} in {steps} steps with the float model")
    samples = {"float": sample(reference, model, count, steps)}
    source_bytes = sum(f.stat().st_size for f in model.glob("*.safetensors"))
    figures: list[dict[str, Any]] = []
    activations = _activations(model, samples=2 * count)
    rows = [["float", f"{source_bytes / 1e6:.2f}", "16.00", "1.00", "1.00000", "-", "-", "-"]]
    for bits in BITS:
        name = f"INT{bits}"
        result = _quantize(model, output / name.lower(), bits, activations)
        console.print(f"making the same {demo.made} with {name}")
        quantized = load_quantized(output / name.lower(), dtype=torch.float32)
        samples[name] = sample(quantized, model, count, steps)
        distance = demo.distance(samples["float"], samples[name])
        figures.append({**{key: result[key] for key in FIGURES}, demo.figure: distance})
        rows.append(_row(name, figures[-1], distance))
    columns = (*COLUMNS, demo.column, "seconds")
    _save_table(columns, rows, output / "table.md")
    _print_table(columns, rows, console)
    console.print(demo.save(samples, output))
    return figures


def find_model(model: pathlib.Path) -> pathlib.Path:
    """The folder of a model by its path, or by its name in MODELS. Raises ModelNotFoundError."""
    for folder in (model, MODELS / model):
        if (folder / "config.json").exists():
            return folder
    raise ModelNotFoundError(
        f"{model}: no model. Run the demo in the project's folder, or give --model.", file=str(model)
    )


def _demo_of(model: Any) -> SampleDemo:
    channels, dims = sample_dims(model.config)
    if len(dims) == 1:
        return SoundDemo(getattr(model.config, "sample_rate", None))
    return PictureDemo(channels)


def _activations(model: pathlib.Path, samples: int) -> Collected:
    """What the layers see while the float model samples; the same for every width."""
    with progress_reporter(title="calibrating") as report:
        return sample_model(model, DiffusionQuantConfig(calibration_samples=samples), report)


def _quantize(model: pathlib.Path, output: pathlib.Path, bits: int, activations: Collected) -> dict[str, Any]:
    # Without a threshold: the demo shows what each width does, not what the fallback would make of it.
    config = DiffusionQuantConfig(bit_width=bits, group_size=64, min_accuracy=0.0)
    with progress_reporter(title=f"INT{bits}") as report:
        return ArrowQuantV2().quantize_diffusion_model(
            model, output, config, activations, progress_callback=report, overwrite=True
        )


def _row(name: str, result: dict[str, Any], distance: float) -> list[str]:
    return [
        name,
        f"{result['model_size_mb']:.2f}",
        f"{result['bits_per_weight']:.2f}",
        f"{result['compression_ratio']:.2f}",
        f"{result['cosine_similarity']:.5f}",
        f"{result['sqnr_db']:.1f}",
        f"{distance:.1f}",
        f"{result['quantization_time_s']:.2f}",
    ]


def _print_table(columns: tuple[str, ...], rows: list[list[str]], console: Console) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _save_table(columns: tuple[str, ...], rows: list[list[str]], path: pathlib.Path) -> None:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
