"""The demo: one small image model at 8, 4 and 2 bits, digits from the same noise."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import nn

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.cli.progress import progress_reporter
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ModelNotFoundError
from arrow_quant_v2.torch import load_quantized
from arrow_quant_v2.torch.calibrate import sample_model
from arrow_quant_v2.torch.load import build_model
from arrow_quant_v2.torch.statistics_run import Collected

BITS = (8, 4, 2)
COLUMNS = ("model", "MB", "bits/weight", "compression", "cosine", "SQNR dB", "PSNR dB", "seconds")
FIGURES = (
    "bit_width", "model_size_mb", "bits_per_weight", "compression_ratio", "cosine_similarity", "sqnr_db",
    "quantization_time_s",
)  # fmt: skip


def run_demo(model: pathlib.Path, output: pathlib.Path, console: Console, quick: bool = False) -> list[dict[str, Any]]:
    """Quantize ``model`` to each width of BITS into ``output``, draw digits, print and write the table.

    Writes int8/, int4/, int2/, digits.png (first row the float model) and table.md. Raises ModelNotFoundError.

    Returns:
        For each width bit_width, model_size_mb, bits_per_weight, compression_ratio, cosine_similarity, sqnr_db,
        quantization_time_s (as in the result of quantize_diffusion_model) and psnr_db of the pictures.
    """
    if not (model / "config.json").exists():
        raise ModelNotFoundError(
            f"{model}: no model. Run the demo in the project's folder, or give --model.", file=str(model)
        )
    output.mkdir(parents=True, exist_ok=True)
    count, steps = (4, 10) if quick else (16, 50)
    reference = _float_model(model)
    console.print(f"drawing {count} digits in {steps} steps with the float model")
    want = sample(reference, model, count, steps)
    pictures = [want]
    source_bytes = sum(f.stat().st_size for f in model.glob("*.safetensors"))
    figures: list[dict[str, Any]] = []
    activations = _activations(model, samples=8 if quick else 32)
    rows = [["float", f"{source_bytes / 1e6:.2f}", "16.00", "1.00", "1.00000", "-", "-", "-"]]
    for bits in BITS:
        result = _quantize(model, output / f"int{bits}", bits, activations)
        console.print(f"drawing the same digits with INT{bits}")
        got = sample(load_quantized(output / f"int{bits}", dtype=torch.float32), model, count, steps)
        pictures.append(got)
        figures.append({**{key: result[key] for key in FIGURES}, "psnr_db": psnr_db(want, got)})
        rows.append(_row(f"INT{bits}", figures[-1]))
    _save_pictures(pictures, output / "digits.png")
    _save_table(rows, output / "table.md")
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"{output / 'digits.png'}: digits from the same noise, from top to bottom float, "
        + ", ".join(f"INT{b}" for b in BITS)
    )
    return figures


def _activations(model: pathlib.Path, samples: int) -> Collected:
    """What the layers see while the float model draws; the same for every width."""
    with progress_reporter(title="calibrating") as report:
        return sample_model(model, DiffusionQuantConfig(calibration_samples=samples), report)


def _quantize(model: pathlib.Path, output: pathlib.Path, bits: int, activations: Collected) -> dict[str, Any]:
    # Without a threshold: the demo shows what each width does, not what the fallback would make of it.
    config = DiffusionQuantConfig(bit_width=bits, group_size=64, min_accuracy=0.0)
    with progress_reporter(title=f"INT{bits}") as report:
        return ArrowQuantV2().quantize_diffusion_model(
            model, output, config, activations, progress_callback=report, overwrite=True
        )


def _float_model(path: pathlib.Path) -> nn.Module:
    model = build_model(path)
    state = load_file(path / "diffusion_pytorch_model.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


@torch.no_grad()
def sample(model: nn.Module, path: pathlib.Path, count: int, steps: int, seed: int = 100) -> torch.Tensor:
    """Digits [count, 1, 28, 28] in [-1, 1] by DDIM from the noise of ``seed``; labels run through 0-9."""
    make: Any = DDIMScheduler.from_pretrained  # untyped
    scheduler = make(path / "scheduler")
    scheduler.set_timesteps(steps)
    x = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % 10
    for t in scheduler.timesteps:
        noise = model(x, timestep=torch.full((count,), int(t)), class_labels=labels).sample
        x = scheduler.step(noise, t, x, eta=0.0).prev_sample
    return x.clamp(-1, 1)


def psnr_db(want: torch.Tensor, got: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    return -10 * math.log10(max(float(((want - got) ** 2).mean()) / 4, 1e-20))


def _row(name: str, result: dict[str, Any]) -> list[str]:
    return [
        name,
        f"{result['model_size_mb']:.2f}",
        f"{result['bits_per_weight']:.2f}",
        f"{result['compression_ratio']:.2f}",
        f"{result['cosine_similarity']:.5f}",
        f"{result['sqnr_db']:.1f}",
        f"{result['psnr_db']:.1f}",
        f"{result['quantization_time_s']:.2f}",
    ]


def _save_pictures(pictures: list[torch.Tensor], path: pathlib.Path) -> None:
    rows = torch.cat([torch.cat(list(images[:, 0]), 1) for images in pictures], 0)
    image = Image.fromarray(((rows + 1) * 127.5).round().byte().numpy())
    image.resize((rows.shape[1] * 2, rows.shape[0] * 2), Image.Resampling.NEAREST).save(path)


def _save_table(rows: list[list[str]], path: pathlib.Path) -> None:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
