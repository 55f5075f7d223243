"""Quantize the denoiser of a diffusers pipeline, put it back and draw with both.

Usage: diffusers_pipeline.py [PIPELINE [OUT]]. PIPELINE is the folder of an unconditional pipeline, as save_pretrained
writes it; without it a tiny one with random weights is made.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2.torch import calibrate_pipeline, load_quantized
from diffusers import DiffusionPipeline
from tiny_models import tiny_pipeline


def draw(pipeline):
    noise = torch.Generator().manual_seed(0)
    return pipeline(batch_size=4, num_inference_steps=10, generator=noise, output_type="np").images


def main(source: pathlib.Path, output: pathlib.Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(source)
    pipeline.set_progress_bar_config(disable=True)
    config = DiffusionQuantConfig(bit_width=8, group_size=32, modality="image")

    # What the layers see while the pipeline draws; a pipeline with prompts takes a list of them instead of {}.
    calibration = calibrate_pipeline(pipeline, [{}] * 2, model_path=source, config=config, num_inference_steps=10)

    # The denoiser is quantized, the rest of the pipeline copied.
    result = ArrowQuantV2().quantize_diffusion_model(source, output, config, calibration)
    print(f"{result['compression_ratio']:.2f}x smaller, weight cosine {result['cosine_similarity']:.5f}")
    for fallback in result["fallbacks"]:
        print(f"{fallback['layer']}: {fallback['from_bits']} -> {fallback['to_bits']} bits, {fallback['cause']}")

    before = draw(pipeline)
    pipeline.unet = load_quantized(output / "unet")
    error = np.mean((before - draw(pipeline)) ** 2)
    print(f"PSNR of pictures from the same noise: {-10 * np.log10(error):.1f} dB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        given = [pathlib.Path(argument) for argument in sys.argv[1:]]
        source = given[0] if given else tiny_pipeline(pathlib.Path(folder, "pipeline"))
        main(source, given[1] if len(given) > 1 else pathlib.Path(folder, "quantized"))
