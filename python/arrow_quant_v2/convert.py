"""Convert Parquet models of older layouts to ours."""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from typing import Any

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import UnsupportedModelError
from arrow_quant_v2.export import refuse_existing, refuse_output_over_input
from arrow_quant_v2.model_file import OUR_LAYOUT, QuantizedModel
from arrow_quant_v2.parquet_input import as_parquet_result, expanded_model, modality_of, name_patterns
from arrow_quant_v2.progress import ProgressCallback


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: DiffusionQuantConfig | None = None,
    *,
    overwrite: bool = False,
    msb_first: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Convert a Parquet model of an older layout to ours.

    The older layouts' groups cannot be expressed in ours, so weights are expanded to float32 and rounded again: with
    ``config`` None each layer to its own width (group size 64), without a quality threshold or activations. Result as
    quantize_diffusion_model; its cosine tells what the second rounding cost.

    Args:
        source: a directory of Parquet files, or one.
        output: a directory that does not exist or is empty, unless ``overwrite``.
        config: None, or what to round to.
        overwrite: replace a model that is there.
        msb_first: see QuantizedModel.
        progress_callback: called as (message, fraction in [0, 1]).

    Raises:
        ModelNotFoundError: there is no Parquet model.
        CorruptFileError: a file that breaks its layout.
        UnsupportedModelError: the model is in our layout already and ``config`` is None.
    """
    model = QuantizedModel(source, msb_first=msb_first)
    refuse_existing(pathlib.Path(output), overwrite)
    refuse_output_over_input(model.path, pathlib.Path(output))
    if config is None:
        config = _own_widths(model)
    if config.modality is None:
        config = config.with_overrides(modality=modality_of(model))
    with expanded_model(model, pathlib.Path(output), "float32") as folder:
        result = ArrowQuantV2("diffusion" if config.modality else "base").quantize_diffusion_model(
            folder, output, config, calibration="none", overwrite=overwrite, progress_callback=progress_callback
        )
    return as_parquet_result(result, model, [])


def _own_widths(model: QuantizedModel) -> DiffusionQuantConfig:
    """Each layer as wide as it is."""
    if all(entry.layout == OUR_LAYOUT for entry in model.entries):
        raise UnsupportedModelError.compose(
            "the model is in this layout already, and rounding it again would only add error",
            file=str(model.path),
            remedy="Use it as it is, or ask for other bits.",
        )
    widths = {entry.name: entry.bits for entry in model.entries if entry.quantized}
    commonest = Counter(widths.values()).most_common(1)
    return DiffusionQuantConfig(
        bit_width=commonest[0][0] if commonest else 8,
        group_size=64,
        min_accuracy=0.0,
        layer_bit_widths=widths,
        quantize_patterns=name_patterns(widths),
    )
