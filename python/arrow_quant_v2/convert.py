"""Convert Parquet models of older layouts to ours."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from arrow_quant_v2.api import ArrowQuantV2, ProgressCallback
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.export import refuse_existing, refuse_output_over_input
from arrow_quant_v2.model_file import QuantizedModel
from arrow_quant_v2.parquet_input import expanded_model, modality_of, name_patterns


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: DiffusionQuantConfig | None = None,
    *,
    overwrite: bool = False,
    msb_first: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Convert a Parquet model of an older layout (or ours) to ours.

    The older layouts' groups cannot be expressed in ours, so weights are expanded to float32 and rounded again: with
    ``config`` None each layer to its own width (group size 64), without a quality threshold. Result as
    quantize_diffusion_model; its cosine tells what the second rounding cost.
    """
    model = QuantizedModel(source, msb_first=msb_first)
    refuse_existing(pathlib.Path(output), overwrite)
    refuse_output_over_input(model.path, pathlib.Path(output))
    widths = {e.name: e.bits for e in model.entries if e.quantized}
    if config is None:
        config = DiffusionQuantConfig(
            group_size=64, min_accuracy=0.0, layer_bit_widths=widths, quantize_patterns=name_patterns(widths)
        )
    if config.modality is None:
        config = config.with_overrides(modality=modality_of(model))
    with expanded_model(model, pathlib.Path(output), "float32") as folder:
        return ArrowQuantV2("diffusion" if config.modality else "base").quantize_diffusion_model(
            folder, output, config, overwrite=overwrite, progress_callback=progress_callback
        )
